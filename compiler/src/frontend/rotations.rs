//! Rotations from a safetensors file, as SpinQuant publishes them: `R1`, and one `R2` a layer.

use super::safetensors;
use super::store::BlobSource;
use crate::Error;
use ir::Blobs;
use passes::rotate::Matrices;
use std::path::Path;

/// How far from the identity `R · Rᵀ` of a rotation may be.
const ORTHOGONAL: f64 = 1e-3;

/// Adds the tensors of a file to those of a checkpoint; which of them are R1 and the R2s, in the
/// order of layers.
pub fn add_rotations(blobs: &mut BlobSource, path: &Path) -> Result<Matrices, Error> {
    let known: Vec<String> = blobs.tensors().map(|(name, _)| name.to_string()).collect();
    safetensors::add(blobs, path)?;
    let names = blobs.tensors().map(|(name, _)| name.to_string());
    let added: Vec<String> = names.filter(|name| known.binary_search(name).is_err()).collect();
    let mut residual = None;
    let mut values = vec![];
    for name in added {
        let order = order(blobs, &name, path)?;
        match layer(&name) {
            None if name == "R1" => residual = Some((name, order)),
            None => {}
            Some(layer) => values.push((layer, (name, order))),
        }
    }
    values.sort();
    if residual.is_none() && values.is_empty() {
        return Err(Error::new("IG0212", "the file holds no rotation")
            .file(path)
            .note("expected a tensor R1, or R2 of a layer, as in model.layers.0.self_attn.R2"));
    }
    Ok(Matrices::Blobs {
        residual,
        values: values.into_iter().map(|(_, rotation)| rotation).collect(),
    })
}

/// The layer of an R2: the first number in its name.
fn layer(name: &str) -> Option<u64> {
    let parts: Vec<&str> = name.split('.').collect();
    parts.contains(&"R2").then_some(())?;
    parts.iter().find_map(|part| part.parse().ok())
}

/// The order of a matrix that must be square and orthogonal.
fn order(blobs: &BlobSource, name: &str, path: &Path) -> Result<u64, Error> {
    let wrong = |note: String| {
        Error::new("IG0212", "a tensor is no rotation").file(path).at(name).note(note)
    };
    let tensor = blobs.load(name)?;
    let [n, k] = tensor.dims[..] else {
        return Err(wrong(format!("found shape {:?}, expected a square", tensor.dims)));
    };
    if n != k || n == 0 {
        return Err(wrong(format!("found shape {:?}, expected a square", tensor.dims)));
    }
    let rows: Vec<&[f32]> = tensor.data.chunks(n as usize).collect();
    let mut off = 0f64;
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate().skip(i) {
            let dot: f64 = a.iter().zip(*b).map(|(a, b)| f64::from(a * b)).sum();
            off = off.max((dot - f64::from(i == j)).abs());
        }
    }
    if off > ORTHOGONAL {
        return Err(wrong(format!(
            "its product with its transpose is {off:.1e} from the identity, at most \
             {ORTHOGONAL:.0e} is rounding"
        ))
        .help("orthogonalise it again, as by the QR decomposition"));
    }
    Ok(n)
}
