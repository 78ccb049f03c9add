//! GGUF files, versions 2 and 3, little-endian, in one piece: metadata and where the tensors lie.
//!
//! Every count and offset is checked against the size of the file before it is used, so a hostile
//! file costs no more memory than it has bytes. Does not know what the keys mean.

pub mod dequant;
mod reader;

use super::json::Keys;
use super::map::Mapped;
use super::store::{BlobSource, Stored};
use crate::Error;
use dequant::Format;
use reader::Reader;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// An array of the metadata. Arrays of arrays do not occur.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Integers of any width.
    Ints(Vec<i64>),
    /// Floats of any width.
    Floats(Vec<f64>),
    /// Truth values.
    Bools(Vec<bool>),
    /// Strings.
    Strings(Vec<String>),
}

/// Metadata of a GGUF file: scalars as JSON values, arrays apart because they are large.
#[derive(Debug, Default)]
pub struct Metadata {
    path: PathBuf,
    scalars: Map<String, Value>,
    arrays: HashMap<String, Array>,
}

/// Arrays up to this length, one element a layer, are also JSON values.
const SHORT: usize = 1 << 10;

impl Metadata {
    /// The scalar keys.
    pub fn keys(&self) -> Keys<'_> {
        Keys::new(&self.path, &self.scalars)
    }

    /// The array under a key.
    pub fn array(&self, key: &str) -> Option<&Array> {
        self.arrays.get(key)
    }

    /// The strings under a key.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.arrays.get(key) {
            Some(Array::Strings(strings)) => Some(strings),
            _ => None,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn insert(&mut self, key: String, value: reader::Value) -> Result<(), Error> {
        let again = match value {
            reader::Value::Scalar(value) => self.scalars.insert(key.clone(), value).is_some(),
            reader::Value::Array(array) => {
                let short = short(&array).map(|list| self.scalars.insert(key.clone(), list));
                let again = short.flatten().is_some();
                self.arrays.insert(key.clone(), array).is_some() || again
            }
        };
        match again {
            true => Err(damaged("a key occurs twice").at(key)),
            false => Ok(()),
        }
    }
}

fn short(array: &Array) -> Option<Value> {
    match array {
        Array::Ints(x) if x.len() <= SHORT => Some(x.clone().into()),
        Array::Floats(x) if x.len() <= SHORT => Some(x.clone().into()),
        Array::Bools(x) if x.len() <= SHORT => Some(x.clone().into()),
        _ => None,
    }
}

/// An error about a file that breaks the format.
fn damaged(note: impl Into<String>) -> Error {
    Error::new("IG0106", "damaged GGUF file").note(note).help("download the file again")
}

/// Reads the header of a mapped file.
pub fn open(file: Mapped) -> Result<(Metadata, BlobSource), Error> {
    let path = file.path().to_path_buf();
    let (metadata, tensors) = header(&file).map_err(|e| e.file(&path))?;
    Ok((metadata, BlobSource { files: vec![file], tensors, ..BlobSource::default() }))
}

fn header(file: &Mapped) -> Result<(Metadata, BTreeMap<String, Stored>), Error> {
    let mut r = Reader::new(file.bytes());
    r.take(4)?;
    let version = r.u32()?;
    check_version(version)?;
    let tensors = r.count(32)?;
    let pairs = r.count(13)?;
    let mut metadata = Metadata { path: file.path().to_path_buf(), ..Metadata::default() };
    for _ in 0..pairs {
        let key = r.string()?;
        let value = r.value().map_err(|e| e.at(&key))?;
        metadata.insert(key, value)?;
    }
    refuse_split(&metadata.keys())?;
    let mut infos = Vec::with_capacity(tensors);
    for _ in 0..tensors {
        infos.push(info(&mut r)?);
    }
    let alignment = alignment(&metadata.keys())?;
    let data = r.position().next_multiple_of(alignment);
    let tensors = place(infos, data, alignment, file.bytes().len())?;
    Ok((metadata, tensors))
}

fn check_version(version: u32) -> Result<(), Error> {
    let what = match version {
        2 | 3 => return Ok(()),
        _ if version.swap_bytes() <= 3 => "big-endian GGUF is not supported".to_string(),
        _ => format!("GGUF version {version} is not supported"),
    };
    let error = Error::new("IG0107", what).note("supported: versions 2 and 3, little-endian");
    Err(error.help("convert the original model again with a current llama.cpp"))
}

fn refuse_split(keys: &Keys) -> Result<(), Error> {
    match keys.int("split.count")? {
        Some(parts) if parts > 1 => {
            let what = format!("the model is split into {parts} files");
            Err(Error::new("IG0107", what).help("merge them with `llama-gguf-split --merge`"))
        }
        _ => Ok(()),
    }
}

fn alignment(keys: &Keys) -> Result<usize, Error> {
    match keys.int("general.alignment")?.unwrap_or(32) {
        n if n.is_power_of_two() && n <= 1 << 20 => Ok(n as usize),
        n => Err(damaged(format!("alignment {n} is no power of two up to 1 MiB"))),
    }
}

/// A tensor as the header lists it.
struct Info {
    name: String,
    dims: Vec<u64>,
    format: &'static Format,
    offset: u64,
}

fn info(r: &mut Reader) -> Result<Info, Error> {
    let name = r.string()?;
    let rank = r.u32()?;
    if rank > 4 {
        return Err(damaged(format!("found {rank} dimensions, at most 4 are allowed")).at(name));
    }
    // Dimensions are stored innermost first.
    let mut dims = Vec::with_capacity(4);
    for _ in 0..rank {
        dims.insert(0, r.u64()?);
    }
    if dims.contains(&0) {
        return Err(damaged("found a dimension of 0").at(name));
    }
    let id = r.u32()?;
    let Some(format) = Format::of_id(id) else {
        return Err(Error::new("IG0108", format!("tensor format {id} is not supported"))
            .at(name)
            .note(format!("supported: {}", Format::readable())));
    };
    let offset = r.u64()?;
    Ok(Info { name, dims, format, offset })
}

/// Sizes and positions of the tensors, checked against the file and each other.
fn place(
    infos: Vec<Info>,
    data: usize,
    alignment: usize,
    len: usize,
) -> Result<BTreeMap<String, Stored>, Error> {
    let mut tensors = BTreeMap::new();
    for info in infos {
        let stored = stored(&info, data, alignment, len).map_err(|e| e.at(&info.name))?;
        if tensors.contains_key(&info.name) {
            return Err(damaged("a tensor is listed twice").at(info.name));
        }
        tensors.insert(info.name, stored);
    }
    let mut ranges: Vec<(usize, usize, &str)> =
        tensors.iter().map(|(name, s): (_, &Stored)| (s.start, s.bytes, name.as_str())).collect();
    ranges.sort_unstable();
    match ranges.windows(2).find(|w| w[0].0 + w[0].1 > w[1].0) {
        Some(w) => Err(damaged(format!("its data overlaps {}", w[1].2)).at(w[0].2)),
        None => Ok(tensors),
    }
}

fn stored(info: &Info, data: usize, alignment: usize, len: usize) -> Result<Stored, Error> {
    let format = info.format;
    let row = info.dims.last().copied().unwrap_or(1);
    if row % format.elements as u64 != 0 {
        let (name, elements) = (format.name, format.elements);
        return Err(damaged(format!("rows of {row} are no whole {name} blocks of {elements}")));
    }
    if !info.offset.is_multiple_of(alignment as u64) {
        return Err(damaged(format!("offset {} is not aligned to {alignment}", info.offset)));
    }
    let bytes = info
        .dims
        .iter()
        .try_fold(1u64, |n, &dim| n.checked_mul(dim))
        .and_then(|n| (n / format.elements as u64).checked_mul(format.bytes as u64));
    let start = info.offset.checked_add(data as u64);
    let end = bytes.zip(start).and_then(|(bytes, start)| start.checked_add(bytes));
    match (bytes, start, end) {
        (Some(bytes), Some(start), Some(end)) if end <= len as u64 => Ok(Stored {
            dtype: format.name.to_string(),
            format: format.decode.is_some().then_some(format),
            dims: info.dims.clone(),
            bytes: bytes as usize,
            file: 0,
            start: start as usize,
        }),
        _ => Err(damaged(format!("its data ends after the file, which has {len} bytes"))),
    }
}
