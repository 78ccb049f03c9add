//! Hugging Face weights: one `model.safetensors`, or shards with an index.
//!
//! The `safetensors` crate reads the header and checks that the tensors cover the file without
//! gaps or overlaps; shards, duplicates and element formats are checked here.

use super::gguf::dequant::Format;
use super::json::read_object;
use super::map::Mapped;
use super::store::{BlobSource, Stored};
use crate::Error;
use safetensors::SafeTensors;
use safetensors::tensor::{SafeTensorError, TensorInfo};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model directory.
pub fn open(dir: &Path) -> Result<BlobSource, Error> {
    let single = dir.join("model.safetensors");
    let index = dir.join(INDEX);
    let mut store = BlobSource::default();
    if single.exists() {
        add(&mut store, &single)?;
    } else if index.exists() {
        let shards = shards(&index)?;
        for file in shards.keys() {
            let path = dir.join(file);
            if !path.is_file() {
                return Err(Error::new("IG0105", "a shard is missing")
                    .file(&path)
                    .note(format!("{INDEX} names {} files, this one is not there", shards.len())));
            }
            add(&mut store, &path)?;
        }
        check_promises(&store, &shards, dir)?;
    } else {
        return Err(no_weights(dir));
    }
    Ok(store)
}

fn no_weights(dir: &Path) -> Error {
    let error = Error::new("IG0102", "the directory has no model.safetensors").file(dir);
    if dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists() {
        return error.note("found pytorch_model.bin, which can run code when it is read").help(
            "save the model again with `model.save_pretrained(dir)`, which writes safetensors",
        );
    }
    error
        .note(format!("found neither model.safetensors nor {INDEX}"))
        .help("a model directory holds config.json and model.safetensors")
}

/// The index: tensors by shard. Names of shards are file names, never paths.
fn shards(index: &Path) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let wrong = |what: &str| Error::new("IG0105", what).file(index);
    let object = read_object(index)?;
    let Some(map) = object.get("weight_map").and_then(|map| map.as_object()) else {
        return Err(wrong("the index has no weight_map"));
    };
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let Some(file) = file.as_str() else {
            return Err(wrong("a shard is not a string").at(tensor));
        };
        if file.is_empty() || file.starts_with('.') || file.contains(['/', '\\', '\0']) {
            let error = wrong("a shard must be a plain file name").at(tensor);
            return Err(error.note(format!("found {file:?}")));
        }
        shards.entry(file.to_string()).or_default().push(tensor.clone());
    }
    Ok(shards)
}

fn check_promises(
    store: &BlobSource,
    shards: &BTreeMap<String, Vec<String>>,
    dir: &Path,
) -> Result<(), Error> {
    for (at, (file, tensors)) in shards.iter().enumerate() {
        let absent = |name: &&String| store.get(name).is_none_or(|stored| stored.file != at);
        if let Some(name) = tensors.iter().find(absent) {
            return Err(Error::new("IG0105", "a shard lacks a tensor of the index")
                .file(&dir.join(file))
                .at(name)
                .note(format!("{INDEX} says it is in {file}")));
        }
    }
    Ok(())
}

/// Adds the tensors of one file.
pub fn add(store: &mut BlobSource, path: &Path) -> Result<(), Error> {
    let file = Mapped::open(path)?;
    let (header, metadata) =
        SafeTensors::read_metadata(file.bytes()).map_err(|e| damaged(path, file.bytes(), &e))?;
    for (name, info) in metadata.tensors() {
        let stored = stored(info, 8 + header, file.bytes().len(), store.files.len());
        let stored = stored.ok_or_else(|| {
            Error::new("IG0104", "a tensor lies outside the file").file(path).at(&name)
        })?;
        if store.tensors.insert(name.clone(), stored).is_some() {
            let error = Error::new("IG0105", "two files hold the same tensor");
            return Err(error.file(path).at(&name));
        }
    }
    store.files.push(file);
    Ok(())
}

fn stored(info: &TensorInfo, data: usize, len: usize, file: usize) -> Option<Stored> {
    let (from, to) = info.data_offsets;
    let (start, end) = (data.checked_add(from)?, data.checked_add(to)?);
    let elements = info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let dtype = info.dtype.to_string();
    let format = Format::named(&dtype).filter(|format| format.elements == 1);
    let fits = format.is_none_or(|f| elements.checked_mul(f.bytes) == Some(to.wrapping_sub(from)));
    (from <= to && end <= len && fits).then(|| Stored {
        dtype,
        format: format.filter(|f| f.decode.is_some()),
        dims: info.shape.iter().map(|&d| d as u64).collect(),
        bytes: to - from,
        file,
        start,
    })
}

/// Why the crate refused the header, in words that say what to do.
fn damaged(path: &Path, bytes: &[u8], error: &SafeTensorError) -> Error {
    let found = format!("the file has {} bytes", bytes.len());
    let header = bytes.first_chunk().map(|n: &[u8; 8]| u64::from_le_bytes(*n));
    let note = match (error, header) {
        (SafeTensorError::HeaderTooSmall, _) | (_, None) => {
            "shorter than the 8 bytes every header begins with".to_string()
        }
        (SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength, Some(n)) => {
            format!("it announces a header of {n} bytes")
        }
        (SafeTensorError::MetadataIncompleteBuffer, _) => {
            "its tensors need another size: it is cut short, or bytes follow the last tensor"
                .to_string()
        }
        (SafeTensorError::InvalidOffset(name), _) => {
            format!("tensor {name} overlaps another one or leaves a gap")
        }
        (SafeTensorError::TensorInvalidInfo, _) => {
            "a tensor's offsets do not fit its shape and element type".to_string()
        }
        (other, _) => other.to_string(),
    };
    let place = match error {
        SafeTensorError::TensorInvalidInfo => misfit(bytes),
        _ => None,
    };
    let what = Error::new("IG0104", "damaged safetensors header");
    place
        .map_or(what.clone(), |tensor| what.at(tensor))
        .file(path)
        .note(note)
        .note(found)
        .help("download or export the file again")
}

/// The first tensor whose offsets do not fit its shape and element type; the crate does not name it.
fn misfit(bytes: &[u8]) -> Option<String> {
    let (length, rest) = bytes.split_first_chunk()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let tensors: BTreeMap<String, Value> = serde_json::from_slice(header).ok()?;
    tensors.into_iter().find_map(|(name, info)| {
        let info: TensorInfo = serde_json::from_value(info).ok()?;
        let dims = info.shape.iter().copied();
        let bits = dims.chain([info.dtype.bitsize()]).try_fold(1, usize::checked_mul)?;
        let (from, to) = info.data_offsets;
        (bits.div_ceil(8) != to.wrapping_sub(from)).then_some(name)
    })
}
