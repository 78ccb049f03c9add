//! Rows of chosen values while a model runs in this process.

use crate::session::{Session, StartError, Status};
use crate::spread::spread;
use ir::{Blobs, Module, WeightId};
use passes::stats::Site;
use runtime::Options;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};
use targets::Target;
use targets::compile::Observer;

/// Rows that one run takes: products of many rows are faster, buffers stay small.
const CHUNK: u64 = 128;

/// A session whose values can be seen.
pub struct Watched {
    session: Session,
    seen: Box<Mutex<Seeing>>,
    /// Whether a site is in `@head`, which otherwise sees the last token only.
    whole_head: bool,
}

/// Rows of each site, `[rows][width]`.
pub type Seen = BTreeMap<Site, Vec<f32>>;

/// The same model several times, each on a thread of its own: conversations do not wait for each
/// other, and nothing spins on a machine that is busy.
pub struct Watchers {
    all: Vec<Watched>,
}

impl Watchers {
    /// As `Watched::new`, `threads` times.
    pub fn new(
        module: &Module,
        blobs: &dyn Blobs,
        target: &Target,
        sites: &[Site],
        threads: u32,
    ) -> Result<Watchers, StartError> {
        let one = |_| Watched::new(module, blobs, target, sites, 1);
        Ok(Watchers { all: (0..threads.max(1)).map(one).collect::<Result<_, _>>()? })
    }

    /// Runs each conversation and hands what was seen to `then`, which may be called from several
    /// threads at a time; results are in the order of the conversations.
    pub fn run<R: Send>(
        &mut self,
        conversations: &[Vec<i32>],
        then: impl Fn(usize, Seen) -> R + Sync,
    ) -> Result<Vec<R>, Status> {
        spread(&mut self.all, conversations.len(), |watched, at| {
            watched.reset()?;
            Ok(then(at, watched.run(&conversations[at])?))
        })
    }

    /// Packs other numbers into the same places.
    pub fn repack(&mut self, module: &Module, blobs: &dyn Blobs) -> Result<(), StartError> {
        self.all.iter_mut().try_for_each(|watched| watched.session.repack(module, blobs))
    }

    /// Packs other numbers of one weight into its place.
    pub fn repack_one(
        &mut self,
        module: &Module,
        id: WeightId,
        blobs: &dyn Blobs,
    ) -> Result<(), StartError> {
        self.all.iter_mut().try_for_each(|watched| watched.session.repack_one(module, id, blobs))
    }
}

/// Rows since they were last taken.
struct Seeing {
    sites: Vec<Site>,
    /// Index into `values` of each site.
    values: Vec<usize>,
    /// Whether the graph of each value is called, so that its calls are told apart.
    called: Vec<bool>,
    calls: u64,
    rows: Seen,
    widths: Vec<usize>,
}

impl Watched {
    /// Compiles a verified module of f32 rows so that `sites` can be seen.
    pub fn new(
        module: &Module,
        blobs: &dyn Blobs,
        target: &Target,
        sites: &[Site],
        threads: u32,
    ) -> Result<Watched, StartError> {
        let mut values = vec![];
        for site in sites {
            if !values.contains(&(site.graph, site.value)) {
                values.push((site.graph, site.value));
            }
        }
        let root = |name| module.graph_named(name);
        let roots = [root("model"), root("head")];
        let seen = Box::new(Mutex::new(Seeing {
            sites: sites.to_vec(),
            values: sites
                .iter()
                .map(|s| values.iter().position(|&v| v == (s.graph, s.value)).unwrap_or(0))
                .collect(),
            called: values.iter().map(|(graph, _)| !roots.contains(&Some(*graph))).collect(),
            calls: 1,
            rows: BTreeMap::new(),
            widths: values
                .iter()
                .map(|(g, v)| module.graph(*g).value(*v).ty.row_width().unwrap_or(0) as usize)
                .collect(),
        }));
        let whole_head = values.iter().any(|(graph, _)| Some(*graph) == roots[1]);
        let user = std::ptr::from_ref::<Mutex<Seeing>>(&seen) as usize;
        let options = Options {
            chunk: CHUNK.min(module.meta.context),
            max_workers: threads.into(),
            observer: Some(Observer { watch, user, values }),
            ..Options::default()
        };
        let session = Session::new(module, blobs, target, &options, threads, &|_| {})?;
        lock(&seen).calls = u64::from(session.library.calls).max(1);
        Ok(Watched { session, seen, whole_head })
    }

    /// Appends tokens to the conversation; the rows of each site, `[tokens][width]`.
    pub fn run(&mut self, tokens: &[i32]) -> Result<Seen, Status> {
        lock(&self.seen).rows.clear();
        match self.whole_head {
            true => self.session.score(tokens).map(|_| ())?,
            false => self.session.prefill(tokens)?,
        }
        Ok(std::mem::take(&mut lock(&self.seen).rows))
    }

    /// A new conversation.
    pub fn reset(&mut self) -> Result<(), Status> {
        self.session.reset()
    }
}

fn lock(seen: &Mutex<Seeing>) -> MutexGuard<'_, Seeing> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What emitted code calls back.
///
/// # Safety
/// `user` is the `Seeing` of a live `Watched`; `at` points to `rows` rows, `stride` bytes apart.
unsafe extern "C" fn watch(
    user: *mut c_void,
    index: u64,
    done: u64,
    at: *const f32,
    rows: u64,
    stride: u64,
) {
    // SAFETY: by contract the watched session lives.
    let seen = &mut *lock(unsafe { &*user.cast::<Mutex<Seeing>>() });
    let index = index as usize;
    let call = if seen.called[index] { (done % seen.calls) as u32 } else { 0 };
    let wanted = |(site, value): &(&Site, &usize)| **value == index && site.call == call;
    let Some((&site, _)) = seen.sites.iter().zip(&seen.values).find(wanted) else { return };
    let width = seen.widths[index];
    let buffer = seen.rows.entry(site).or_default();
    for row in 0..rows as usize {
        // SAFETY: each row has `width` floats.
        let row = unsafe { std::slice::from_raw_parts(at.byte_add(row * stride as usize), width) };
        buffer.extend_from_slice(row);
    }
}
