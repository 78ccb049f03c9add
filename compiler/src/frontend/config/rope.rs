//! Rotary scaling: three spellings of the same facts.

use crate::Error;
use crate::frontend::json::Keys;
use ir::{Rope, RopeScaling};
use serde_json::Value;

/// Whose parameters are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spelling {
    /// Every layer's.
    Plain,
    /// Those of layers that see all positions, where others see a window.
    Global {
        /// The base where none is given.
        theta: f64,
    },
    /// Those of the others.
    Local {
        /// The base where none is given.
        theta: f64,
    },
}

/// From config.json: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`; of layers
/// with a window `rope_local_base_freq`.
pub fn hf(keys: &Keys, head: u64, spelling: Spelling) -> Result<Rope, Error> {
    let of_layer = |key| -> Result<Option<Keys>, Error> {
        let Some(all) = keys.object("rope_parameters")? else { return Ok(None) };
        all.object(key)?.ok_or_else(|| all.missing(key)).map(Some)
    };
    let (new, old, base, default) = match spelling {
        Spelling::Plain => {
            (keys.object("rope_parameters")?, keys.object("rope_scaling")?, "rope_theta", 10_000.0)
        }
        Spelling::Global { theta } => {
            (of_layer("full_attention")?, keys.object("rope_scaling")?, "rope_theta", theta)
        }
        Spelling::Local { theta } => {
            (of_layer("sliding_attention")?, None, "rope_local_base_freq", theta)
        }
    };
    let scaling = new.as_ref().or(old.as_ref());
    for keys in [Some(keys), scaling].into_iter().flatten() {
        whole_head(keys)?;
    }
    let inner = match &new {
        Some(keys) => theta(keys, "rope_theta")?,
        None => None,
    };
    let theta = match inner {
        Some(theta) => theta,
        None => theta(keys, base)?.unwrap_or(default),
    };
    let scaling = match scaling {
        Some(keys) => hf_scaling(keys)?,
        None => RopeScaling::None,
    };
    Ok(Rope { head, theta, scaling })
}

fn whole_head(keys: &Keys) -> Result<(), Error> {
    match keys.float("partial_rotary_factor")? {
        Some(factor) if factor != 1.0 => Err(keys
            .unsupported(
                "partial_rotary_factor",
                "rotation of a part of each head is not supported",
            )
            .note(format!("found {factor}, expected 1"))),
        _ => Ok(()),
    }
}

/// A base, if the key is there.
pub fn theta(keys: &Keys, key: &str) -> Result<Option<f64>, Error> {
    match keys.float(key)? {
        Some(theta) if !(1.0..=1e12).contains(&theta) => {
            Err(keys.wrong(key, &Value::from(theta), "1 to 1e12"))
        }
        theta => Ok(theta),
    }
}

fn hf_scaling(keys: &Keys) -> Result<RopeScaling, Error> {
    if keys.get("full_attention").is_some() || keys.get("sliding_attention").is_some() {
        let what = "rotary parameters per kind of layer are not supported";
        return Err(keys.unsupported("full_attention", what));
    }
    let key = if keys.get("rope_type").is_some() { "rope_type" } else { "type" };
    match keys.text(key)?.unwrap_or("default") {
        "default" | "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor(keys, "factor")? }),
        "llama3" => llama3(keys),
        other => Err(unknown(keys, key, other)),
    }
}

fn unknown(keys: &Keys, key: &str, found: &str) -> Error {
    keys.unsupported(key, format!("rotary scaling {found:?} is not supported"))
        .note("supported: none, linear, llama3")
        .help(
            "where the scaling only extends a context that the model was trained without, remove \
             it and keep the original context",
        )
}

fn factor(keys: &Keys, key: &str) -> Result<f64, Error> {
    let factor = keys.float(key)?.ok_or_else(|| keys.missing(key))?;
    match (1.0..=1e6).contains(&factor) {
        true => Ok(factor),
        false => Err(keys.wrong(key, &Value::from(factor), "1 to 1e6")),
    }
}

fn llama3(keys: &Keys) -> Result<RopeScaling, Error> {
    let ramp = |key: &str| factor(keys, key);
    let (low, high) = (ramp("low_freq_factor")?, ramp("high_freq_factor")?);
    if high <= low {
        let expected = format!("more than low_freq_factor = {low}");
        return Err(keys.wrong("high_freq_factor", &Value::from(high), &expected));
    }
    let key = "original_max_position_embeddings";
    let original = super::count(keys, key, super::limit::CONTEXT)?;
    Ok(RopeScaling::Llama3 { factor: factor(keys, "factor")?, low, high, original })
}

/// From GGUF metadata, without `rope_freqs.weight`.
pub fn gguf(keys: &Keys, head: u64) -> Result<Rope, Error> {
    let rotated = keys.int("rope.dimension_count")?.unwrap_or(head);
    if rotated != head {
        let what = "rotation of a part of each head is not supported";
        return Err(keys
            .unsupported("rope.dimension_count", what)
            .note(format!("found {rotated}, expected {head}")));
    }
    let theta = theta(keys, "rope.freq_base")?.unwrap_or(10_000.0);
    let key = match keys.get("rope.scaling.factor") {
        Some(_) => "rope.scaling.factor",
        None => "rope.scale_linear",
    };
    let scaling = match keys.text("rope.scaling.type")?.unwrap_or("linear") {
        "none" => RopeScaling::None,
        // Converters write 0 or 1 for no scaling, or the type without a factor.
        "linear" => match keys.float(key)?.unwrap_or(0.0) {
            0.0 | 1.0 => RopeScaling::None,
            _ => RopeScaling::Linear { factor: factor(keys, key)? },
        },
        other => return Err(unknown(keys, "rope.scaling.type", other)),
    };
    Ok(Rope { head, theta, scaling })
}

/// The published parameters of Llama 3.1, 3.2 and 3.3; models differ in the factor only.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
const ORIGINAL: u64 = 8192;

/// The scaling that has these divisors of the plain frequencies, as GGUF stores them.
pub fn recognise(rope: &Rope, divisors: &[f32]) -> Option<RopeScaling> {
    let most = divisors.iter().copied().fold(0.0, f32::max);
    let factor = f64::from(most);
    let candidates = [
        RopeScaling::None,
        RopeScaling::Linear { factor },
        RopeScaling::Llama3 { factor, low: LOW, high: HIGH, original: ORIGINAL },
    ];
    let plain = Rope { scaling: RopeScaling::None, ..rope.clone() }.frequencies();
    candidates.into_iter().find(|candidate| {
        let scaled = Rope { scaling: candidate.clone(), ..rope.clone() }.frequencies();
        let divided = plain.iter().zip(divisors).map(|(f, d)| f / d);
        divisors.len() == plain.len()
            && divided.zip(scaled).all(|(found, f)| (found - f).abs() <= 1e-5 * f.abs())
    })
}
