//! Tensors of a checkpoint: where each one lies, and reading one as f32.
//!
//! Safetensors and GGUF differ in their headers only; both end here. Knows nothing of models.

use super::gguf::dequant::Format;
use super::map::Mapped;
use crate::Error;
use ir::quant::Quantised;
use ir::{BlobError, Blobs, Tensor};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// A tensor of a checkpoint. Its bytes lie inside its file, as many as its shape needs.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Element format, as the file names it.
    pub dtype: String,
    /// How to read the format; `None` if ingot does not.
    pub format: Option<&'static Format>,
    /// Dimensions, outermost first.
    pub dims: Vec<u64>,
    /// Size in the file.
    pub bytes: usize,
    /// Index into the files of the store.
    pub(super) file: usize,
    /// Offset in that file.
    pub(super) start: usize,
}

/// The tensors of a checkpoint, by name.
#[derive(Debug, Default)]
pub struct BlobSource {
    pub(super) files: Vec<Mapped>,
    pub(super) tensors: BTreeMap<String, Stored>,
    /// Integers of weights whose history needs statistics, by the weight's name.
    pub rounded: HashMap<String, Quantised>,
}

/// Source bytes read before their pages are given back.
const CHUNK: usize = 16 << 20;
/// Elements that one task checks.
const SCAN: usize = 64 << 10;
/// Source bytes of one task.
const TASK: usize = 64 << 10;

impl Stored {
    /// Format and shape, as in `F16[576, 192]`.
    pub fn describe(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(u64::to_string).collect();
        format!("{}[{}]", self.dtype, dims.join(", "))
    }
}

impl BlobSource {
    /// Every tensor with its name, in the order of names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Stored)> {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), stored))
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// The files, in the order they were opened.
    pub fn files(&self) -> impl Iterator<Item = &std::path::Path> {
        self.files.iter().map(Mapped::path)
    }

    /// `error`, placed at a tensor and the file it lies in.
    pub(super) fn locate(&self, error: Error, name: &str) -> Error {
        let file = self.tensors.get(name).map_or(0, |stored| stored.file);
        match self.files.get(file) {
            Some(file) => error.file(file.path()).at(name),
            None => error.at(name),
        }
    }

    /// Whether two tensors hold the same bytes in the same format and shape.
    pub(super) fn identical(&self, a: &str, b: &str) -> bool {
        let (Some(x), Some(y)) = (self.get(a), self.get(b)) else { return false };
        if x.dtype != y.dtype || x.dims != y.dims {
            return false;
        }
        let same = self.bytes(x) == self.bytes(y);
        for stored in [x, y] {
            self.files[stored.file].release(stored.start, stored.bytes);
        }
        same
    }

    fn bytes(&self, stored: &Stored) -> &[u8] {
        &self.files[stored.file].bytes()[stored.start..][..stored.bytes]
    }

    fn read(&self, stored: &Stored, format: &Format) -> Result<Vec<f32>, String> {
        let decode =
            format.decode.ok_or_else(|| format!("format {} is not supported", format.name))?;
        let blocks = stored.bytes / format.bytes;
        let mut data = vec![0f32; blocks * format.elements];
        let chunk = (CHUNK / format.bytes).max(1);
        let task = (TASK / format.bytes).max(1);
        let mut start = stored.start;
        let chunks = self.bytes(stored).chunks(chunk * format.bytes);
        for (src, out) in chunks.zip(data.chunks_mut(chunk * format.elements)) {
            src.par_chunks(task * format.bytes)
                .zip(out.par_chunks_mut(task * format.elements))
                .for_each(|(src, out)| decode(src, out));
            self.files[stored.file].release(start, src.len());
            start += src.len();
        }
        Ok(data)
    }
}

impl Blobs for BlobSource {
    fn rounded(&self, weight: &str) -> Option<Quantised> {
        self.rounded.get(weight).cloned()
    }

    fn load(&self, blob: &str) -> Result<Tensor, BlobError> {
        let fail = |why: String| BlobError { blob: blob.to_string(), why };
        let Some(stored) = self.get(blob) else {
            return Err(fail("the checkpoint has no tensor of this name".to_string()));
        };
        let Some(format) = stored.format else {
            return Err(fail(format!("format {} is not supported", stored.dtype)));
        };
        let data = self.read(stored, format).map_err(fail)?;
        if let Some(at) = first_not_finite(&data) {
            let index = position(at as u64, &stored.dims);
            return Err(fail(format!("element {index} is {}, weights must be finite", data[at])));
        }
        Ok(Tensor { dims: stored.dims.clone(), data })
    }

    /// Of the bytes as they are in the file.
    fn digest(&self, blob: &str) -> Result<u128, BlobError> {
        let Some(stored) = self.get(blob) else { return self.load(blob).map(|_| 0) };
        let words = self.bytes(stored).chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let format = stored.dtype.bytes().map(u64::from);
        let digest = ir::random::digest(format.chain(words));
        self.files[stored.file].release(stored.start, stored.bytes);
        Ok(digest)
    }
}

/// Where the first NaN or infinity is.
fn first_not_finite(data: &[f32]) -> Option<usize> {
    // Without an early exit a block is one pass of vector instructions.
    let finite = |block: &[f32]| block.iter().fold(true, |all, x| all & x.is_finite());
    let block = data.par_chunks(SCAN).position_first(|block| !finite(block))? * SCAN;
    data[block..].iter().position(|x| !x.is_finite()).map(|at| block + at)
}

/// A flat index as `[row, column]`.
fn position(mut at: u64, dims: &[u64]) -> String {
    let mut index = vec![0; dims.len()];
    for (i, &dim) in index.iter_mut().zip(dims).rev() {
        *i = at % dim.max(1);
        at /= dim.max(1);
    }
    format!("{index:?}")
}
