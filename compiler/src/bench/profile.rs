//! `--profile`: where the time of prefill and decode goes, step by step.
//!
//! The code measures its own steps on the first worker (see `targets::profile`); ticks become
//! seconds by the whole run's length.

use crate::Error;
use crate::host::{self, Host, refused};
use crate::output;
use crate::session::{Session, Status};
use crate::work;
use ir::{Arg, Module, Op, WeightId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;
use targets::profile::Site;

/// Times of the sites of one kind of run.
pub struct Profile {
    /// `prefill 128` or `decode 128`.
    what: String,
    /// Tokens of the run.
    tokens: u32,
    lines: Vec<Line>,
}

/// One site of one call.
struct Line {
    /// Call of the model, or its number of calls for what lies outside.
    layer: usize,
    graph: String,
    op: &'static str,
    value: String,
    seconds: f64,
    /// Bytes of weights read each time the site runs.
    bytes: u64,
    /// Times the site ran.
    runs: u64,
}

/// Compiles the model once more, measuring itself, and runs prefill and decode.
pub fn profile(flags: &super::BenchFlags, tokens: &[i32]) -> Result<Vec<Profile>, Error> {
    let mut host = host::start_with(&flags.host, true, |_| Ok(None))?;
    let chunk = flags.host.model.prefill_chunk.min(host.model.module.meta.context);
    let depth = flags.depth.last().map_or(0, |&depth| depth as usize);
    let mut profiles = vec![];
    // The first round warms caches and pages.
    for warm in [true, false] {
        let mut session = Run { host: &mut host, tokens, depth };
        let prefill = session.prefill(flags.prefill as usize).map_err(refused)?;
        let decode = session.decode(flags.decode as usize).map_err(refused)?;
        if warm {
            continue;
        }
        let runs = u64::from(flags.prefill).div_ceil(chunk.max(1));
        if flags.prefill > 0 {
            profiles.push(lines(&host, "prefill", flags.prefill, runs, prefill));
        }
        if flags.decode > 0 {
            profiles.push(lines(&host, "decode", flags.decode, flags.decode.into(), decode));
        }
    }
    Ok(profiles)
}

/// Seconds of a run and the ticks of its sites.
type Measured = (f64, Vec<Vec<u64>>);

struct Run<'a> {
    host: &'a mut Host,
    tokens: &'a [i32],
    depth: usize,
}

impl Run<'_> {
    fn prefill(&mut self, count: usize) -> Result<Measured, Status> {
        let (depth, tokens) = (self.depth, self.tokens);
        self.host.session.reset()?;
        if depth > 0 {
            self.host.session.prefill(&tokens[..depth])?;
        }
        self.measured(|session| match count {
            0 => Ok(()),
            _ => session.prefill(&tokens[depth..][..count]),
        })
    }

    fn decode(&mut self, count: usize) -> Result<Measured, Status> {
        let (depth, tokens) = (self.depth, self.tokens);
        self.host.session.truncate(depth as u32)?;
        self.measured(|session| {
            tokens[depth..][..count].iter().try_for_each(|&t| session.decode(t))
        })
    }

    fn measured(
        &mut self,
        run: impl FnOnce(&mut Session) -> Result<(), Status>,
    ) -> Result<Measured, Status> {
        let session = &mut self.host.session;
        session.take_profile();
        let began = Instant::now();
        run(session)?;
        Ok((began.elapsed().as_secs_f64(), session.take_profile()))
    }
}

fn lines(host: &Host, what: &str, tokens: u32, runs: u64, (seconds, ticks): Measured) -> Profile {
    let library = &host.session.library;
    let sites = library.profile.as_ref().map_or(&[][..], |p| &p.sites);
    let sizes = work::sizes(&host.model.module, &library.weights);
    let all: u64 = ticks.iter().flatten().sum();
    let mut lines = vec![];
    for (layer, row) in ticks.iter().enumerate() {
        let bound = bound(&host.model.module, layer);
        for (site, &ticks) in sites.iter().zip(row).filter(|(_, ticks)| **ticks > 0) {
            lines.push(Line {
                layer,
                graph: site.graph.clone(),
                op: site.op,
                value: site.value.clone(),
                seconds: seconds * ticks as f64 / all as f64,
                bytes: bytes(site, &bound, &sizes),
                runs: if site.graph == "head" { runs.min(tokens.into()) } else { runs },
            });
        }
    }
    Profile { what: format!("{what} {tokens}"), tokens, lines }
}

/// Weights that call `layer` of `@model` hands over.
fn bound(module: &Module, layer: usize) -> Vec<WeightId> {
    let model = module.graph_named("model").expect("verified");
    let mut calls = module.graph(model).insts.iter().filter_map(|inst| match inst.op {
        Op::Call(id) => Some(work::bind(module.graph(id), &inst.args, &[])),
        _ => None,
    });
    calls.nth(layer).unwrap_or_default()
}

/// Bytes that a site reads of the blob. An embedding reads one row a token: as good as nothing.
fn bytes(site: &Site, bound: &[WeightId], sizes: &[u64]) -> u64 {
    let size = |arg: &Arg| work::weight(*arg, bound).map_or(0, |id| sizes[id.0 as usize]);
    if site.op == "embed" { 0 } else { site.weights.iter().map(size).sum() }
}

impl Profile {
    /// Sites of all layers together, the slowest first.
    pub fn text(&self) -> String {
        let mut sums: BTreeMap<(&str, &str, &str), (f64, u64)> = BTreeMap::new();
        for line in &self.lines {
            let sum = sums.entry((&line.graph, line.op, &line.value)).or_default();
            sum.0 += line.seconds;
            sum.1 += line.bytes * line.runs;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        let all: f64 = self.lines.iter().map(|l| l.seconds).sum();
        let header = [&self.what, "", "us/token", "share", "GB/s"].map(|s| s.to_string());
        let mut rows = vec![header.to_vec()];
        for ((graph, op, value), (seconds, bytes)) in sums {
            let gb = bytes as f64 / seconds / 1e9;
            rows.push(vec![
                format!("@{graph} {op}"),
                value.to_string(),
                format!("{:.2}", seconds * 1e6 / f64::from(self.tokens)),
                format!("{:.1} %", seconds / all * 100.0),
                if bytes > 0 { format!("{gb:.1}") } else { String::new() },
            ]);
        }
        output::table(&rows)
    }

    /// Every site of every layer.
    pub fn json(&self) -> Value {
        let line = |l: &Line| {
            json!({
                "layer": l.layer,
                "graph": l.graph,
                "op": l.op,
                "value": l.value,
                "seconds": l.seconds,
                "weight_bytes": l.bytes * l.runs,
            })
        };
        let lines: Vec<Value> = self.lines.iter().map(line).collect();
        json!({ "run": self.what, "tokens": self.tokens, "sites": lines })
    }
}
