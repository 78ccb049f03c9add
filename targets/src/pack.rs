//! Weights in the order that code reads them: one blob, one base address.
//!
//! Matrices are panels of 32 rows, k-major (see `kernels/panel.rs`), the last panel filled with
//! zero rows; vectors are f32, filled with zeros to whole panels. Every weight starts on a cache
//! line, in order of first use.

use crate::kernels::int_panel::{self, Shape};
use crate::kernels::panel::PANEL_ROWS;
use crate::target::Arch;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use ir::weights::{self, Numbers};
use ir::{Arg, BlobError, Blobs, DType, Graph, Module, Tensor, Weight, WeightId};
use rayon::prelude::*;
use std::io::{self, Write};

/// Alignment of the blob and of every weight in it, bytes.
pub const ALIGN: u64 = 64;
/// Bytes before the first weight: magic, identity, length.
const HEADER_BYTES: u64 = 64;
/// First bytes of every blob.
pub const MAGIC: [u8; 8] = *b"INGOTWTS";

/// Where the header has the hash of everything but its own line of 16 bytes.
pub const HASH_AT: u64 = 48;

/// A hash over words of 8 bytes, as the emitted code computes it: two FNV-1a hashes side by side, of
/// even and of odd words, so that one multiplication need not wait for the other.
#[derive(Clone, Debug)]
pub struct Hash {
    even: u64,
    odd: u64,
}

impl Default for Hash {
    fn default() -> Hash {
        let basis = 0xcbf2_9ce4_8422_2325;
        Hash { even: basis, odd: basis + 1 }
    }
}

impl Hash {
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    /// Continues over `bytes`, a multiple of 16.
    pub fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(16) {
            let word = |at| u64::from_le_bytes(pair[at..at + 8].try_into().expect("eight bytes"));
            self.even = (self.even ^ word(0)).wrapping_mul(Self::PRIME);
            self.odd = (self.odd ^ word(8)).wrapping_mul(Self::PRIME);
        }
    }

    /// The two as one.
    pub fn finish(&self) -> u64 {
        let folded = self.even ^ self.odd.wrapping_mul(Self::PRIME);
        folded ^ (folded >> 32)
    }
}

/// The hash of whole packed weights.
pub fn hash(blob: &[u8]) -> u64 {
    let mut hash = Hash::default();
    hash.add(&blob[..HASH_AT as usize]);
    hash.add(&blob[HEADER_BYTES as usize..]);
    hash.finish()
}

/// Where each weight is.
#[derive(Clone, Debug)]
pub struct WeightLayout {
    /// Integers are stored as this instruction set multiplies them.
    pub arch: Arch,
    /// Identifies shapes, formats and order: a library refuses a blob with another one.
    pub identity: u64,
    /// Offset of each weight of the module; `None` for those that no graph reads.
    pub offsets: Vec<Option<u64>>,
    /// Weights in order.
    pub order: Vec<WeightId>,
    /// Size of the blob.
    pub bytes: u64,
}

/// A blob that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A tensor could not be read or represented.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The sink failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Rows rounded up to whole panels.
pub fn padded_rows(rows: u64) -> u64 {
    rows.next_multiple_of(PANEL_ROWS)
}

fn stored_bytes(weight: &Weight) -> u64 {
    match (&weight.dims[..], weight.dtype) {
        (&[rows, columns], DType::Int(format)) => {
            let shape = Shape::packed(format);
            padded_rows(rows) / PANEL_ROWS * shape.panel_bytes(columns / shape.group)
        }
        (&[rows, columns], dtype) => padded_rows(rows) * columns * dtype.bytes(),
        _ => padded_rows(weight.elements()) * 4,
    }
}

impl WeightLayout {
    /// The layout of a module's weights.
    pub fn new(module: &Module, arch: Arch) -> WeightLayout {
        let mut layout = WeightLayout {
            arch,
            identity: identity(module, arch),
            offsets: vec![None; module.weights.len()],
            order: vec![],
            bytes: HEADER_BYTES,
        };
        for graph in &module.graphs {
            layout.visit(module, graph);
        }
        layout
    }

    fn visit(&mut self, module: &Module, graph: &Graph) {
        let uses = graph.insts.iter().flat_map(|inst| &inst.args);
        for arg in uses {
            if let Arg::Weight(id) = arg {
                self.place(module, *id);
            }
        }
    }

    fn place(&mut self, module: &Module, id: WeightId) {
        let slot = &mut self.offsets[id.0 as usize];
        if slot.is_none() {
            *slot = Some(self.bytes);
            self.order.push(id);
            self.bytes += stored_bytes(module.weight(id)).next_multiple_of(ALIGN);
        }
    }

    /// Offset of a weight that some graph reads.
    pub fn offset(&self, id: WeightId) -> u64 {
        self.offsets[id.0 as usize].expect("every weight that code reads is placed")
    }

    /// The bytes before the first weight.
    pub fn header(&self) -> [u8; HEADER_BYTES as usize] {
        let mut header = [0; HEADER_BYTES as usize];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&self.identity.to_le_bytes());
        header[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        header
    }

    /// Writes the bytes of one weight, which begin at its offset.
    pub fn write_one(
        &self,
        module: &Module,
        id: WeightId,
        blobs: &dyn Blobs,
        sink: &mut dyn Write,
    ) -> Result<(), PackError> {
        write_weight(module, id, blobs, self.arch, sink).map(|_| ())
    }

    /// Writes the blob, one tensor in memory at a time; `progress` hears the bytes written so far.
    pub fn write(
        &self,
        module: &Module,
        blobs: &dyn Blobs,
        sink: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<(), PackError> {
        sink.write_all(&self.header())?;
        let mut written = HEADER_BYTES;
        for &id in &self.order {
            written += write_weight(module, id, blobs, self.arch, sink)?;
            let end = written.next_multiple_of(ALIGN);
            sink.write_all(&[0; ALIGN as usize][..(end - written) as usize])?;
            written = end;
            progress(written);
        }
        Ok(())
    }
}

/// FNV-1a over what decides the meaning of the blob's bytes and of the state.
fn identity(module: &Module, arch: Arch) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for word in [module.meta.vocab, module.meta.context] {
        hash.add(&word.to_le_bytes());
    }
    if module.weights.iter().any(|w| matches!(w.dtype, DType::Int(_))) {
        hash.add(format!("{arch:?}").as_bytes());
    }
    for (i, weight) in module.weights.iter().enumerate() {
        let history = module.history(WeightId(i as u32));
        hash.add(format!("{}:{}:{history};", weight.name, weight.ty()).as_bytes());
    }
    for cache in &module.caches {
        hash.add(format!("{}:{};", cache.name, cache.ty).as_bytes());
    }
    for graph in &module.graphs {
        for inst in &graph.insts {
            hash.add(format!("{:?};", (&inst.op, inst.args.len())).as_bytes());
        }
    }
    hash.0
}

struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Panels that are packed at once: enough for all cores, few enough to stay small.
const BATCH: usize = 64;

fn write_weight(
    module: &Module,
    id: WeightId,
    blobs: &dyn Blobs,
    arch: Arch,
    sink: &mut dyn Write,
) -> Result<u64, PackError> {
    let weight = module.weight(id);
    let numbers = weights::stored(module, id, blobs)?;
    let panels = padded_rows(weight.dims[0]) / PANEL_ROWS;
    match &numbers {
        Numbers::Floats(tensor) => {
            finite(weight, tensor)?;
            if let [_, columns] = weight.dims[..] {
                let pack = |p| panel(&tensor.data, columns as usize, p, weight.dtype);
                write_panels(panels, pack, sink)?;
            } else {
                let mut values = tensor.data.clone();
                values.resize(padded_rows(weight.elements()) as usize, 0.0);
                sink.write_all(&stored(&values, DType::F32))?;
            }
        }
        Numbers::Ints(matrix) => {
            let shape = Shape::packed(matrix.format);
            write_panels(panels, |p| int_panel::pack(matrix, shape, p, arch), sink)?;
        }
    }
    Ok(stored_bytes(weight))
}

/// Packs panels on all cores, a batch at a time, and writes them in order.
fn write_panels(
    count: u64,
    pack: impl Fn(usize) -> Vec<u8> + Sync,
    sink: &mut dyn Write,
) -> io::Result<()> {
    let panels: Vec<usize> = (0..count as usize).collect();
    for batch in panels.chunks(BATCH) {
        let packed: Vec<Vec<u8>> = batch.par_iter().map(|&p| pack(p)).collect();
        packed.iter().try_for_each(|bytes| sink.write_all(bytes))?;
    }
    Ok(())
}

/// An error that names the first element that is not a number.
fn finite(weight: &Weight, tensor: &Tensor) -> Result<(), BlobError> {
    let Some(i) = tensor.data.iter().position(|x| !x.is_finite()) else { return Ok(()) };
    let why = format!(
        "element {i} is {} as {}; choose a wider format (bf16 or f32), or mend the checkpoint",
        tensor.data[i], weight.dtype
    );
    Err(BlobError { blob: weights::label(weight), why })
}

/// Panel `p` of a row-major matrix, k-major; rows beyond the last are zero.
fn panel(data: &[f32], columns: usize, p: usize, dtype: DType) -> Vec<u8> {
    let width = PANEL_ROWS as usize;
    let rows = &data[(p * width * columns).min(data.len())..];
    let mut values = vec![0f32; columns * width];
    for (r, row) in rows.chunks_exact(columns).take(width).enumerate() {
        for (k, &x) in row.iter().enumerate() {
            values[k * width + r] = x;
        }
    }
    stored(&values, dtype)
}

/// Values as they are stored, little-endian.
fn stored(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut halves = vec![0u16; values.len()];
    match dtype {
        DType::F32 => return values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values),
        DType::BF16 => halves.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(values),
        DType::I32 | DType::Int(_) => unreachable!("these are floats"),
    }
    halves.iter().flat_map(|x| x.to_le_bytes()).collect()
}
