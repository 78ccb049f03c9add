//! The checkpoint against the architecture: every tensor there, of the right shape, and no other.
//!
//! The same problem in many layers is one message.

use super::config::Config;
use super::gguf::dequant::Format;
use super::names::{Axis, BLOCK, EMBED, HEAD, NORM, Naming, Role};
use super::store::{BlobSource, Stored};
use crate::Error;
use std::collections::BTreeSet;

/// Buffers that are computed, not learned, and left out of the model.
const BUFFERS: &[&str] = &["rotary_emb.inv_freq", "rope_freqs.weight"];

/// What is wrong with one tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Problem {
    Missing,
    Format,
    Shape,
}

/// The same problem of the same tensor in one or more layers.
struct Group<'a> {
    problem: Problem,
    role: &'a Role,
    blobs: Vec<String>,
}

/// Checks the tensors of a checkpoint.
pub fn tensors(store: &BlobSource, config: &Config, naming: Naming) -> Result<(), Error> {
    let mut expected = BTreeSet::new();
    let mut groups: Vec<Group> = vec![];
    for (role, layer) in roles(config) {
        let blob = role.blob(naming, layer);
        expected.insert(blob.clone());
        let Some(problem) = problem(store.get(&blob), &role.dims(config)) else { continue };
        match groups.iter_mut().find(|g| g.problem == problem && g.role.name == role.name) {
            Some(group) => group.blobs.push(blob),
            None => groups.push(Group { problem, role, blobs: vec![blob] }),
        }
    }
    if let Some((first, others)) = groups.split_first() {
        let error = report(store, config, naming, first);
        return Err(others.iter().take(4).fold(error, |e, group| e.note(also(group))));
    }
    tied_head(store, config, naming)?;
    extras(store, config, naming, &expected)
}

/// Every tensor that the architecture has, in the order of the module's weights.
pub fn roles(config: &Config) -> impl Iterator<Item = (&'static Role, Option<u64>)> {
    let layers = (0..config.blocks).flat_map(|l| BLOCK.iter().map(move |role| (role, Some(l))));
    std::iter::once((&EMBED, None))
        .chain(layers)
        .chain([(&NORM, None), (&HEAD, None)])
        .filter(|(role, _)| (role.used)(config))
}

fn problem(found: Option<&Stored>, dims: &[u64]) -> Option<Problem> {
    match found {
        None => Some(Problem::Missing),
        Some(stored) if stored.dims != dims => Some(Problem::Shape),
        Some(stored) if stored.format.is_none() => Some(Problem::Format),
        Some(_) => None,
    }
}

/// All layers of a group but the first.
fn others(layers: usize) -> String {
    match layers - 1 {
        1 => "1 other layer".to_string(),
        n => format!("{n} other layers"),
    }
}

fn also(group: &Group) -> String {
    let what = match group.problem {
        Problem::Missing => "missing",
        Problem::Format => "in an unsupported format",
        Problem::Shape => "of another shape",
    };
    match group.blobs.len() {
        1 => format!("also {what}: {}", group.blobs[0]),
        n => format!("also {what}: {} and the same in {}", group.blobs[0], others(n)),
    }
}

fn report(store: &BlobSource, config: &Config, naming: Naming, group: &Group) -> Error {
    let blob = &group.blobs[0];
    let error = match (group.problem, store.get(blob)) {
        (Problem::Shape, Some(stored)) => shape(stored, config, naming, group.role),
        (Problem::Format, Some(stored)) => format_error(stored),
        _ => missing(config, naming, group.role),
    };
    let error = store.locate(error, blob);
    match group.blobs.len() {
        1 => error,
        n => error.note(format!("same mismatch in {}", others(n))),
    }
}

fn missing(config: &Config, naming: Naming, role: &Role) -> Error {
    let dims: Vec<String> = role.dims(config).iter().map(u64::to_string).collect();
    let error = Error::new("IG0205", "a tensor of the architecture is missing").note(format!(
        "expected {} of shape [{}]",
        role.name,
        dims.join(", ")
    ));
    match (role.name, naming) {
        ("head", Naming::HuggingFace) => error.help(
            "if the output matrix is the embedding table, set tie_word_embeddings to true in \
             config.json",
        ),
        _ => error,
    }
}

fn format_error(stored: &Stored) -> Error {
    Error::new("IG0108", format!("tensor format {} is not supported", stored.dtype))
        .note(format!("supported: {}", Format::readable()))
        .help("convert the original model to a supported format")
}

fn shape(stored: &Stored, config: &Config, naming: Naming, role: &Role) -> Error {
    let dims = role.dims(config);
    let expected = Stored { dims: dims.clone(), ..stored.clone() };
    let differs = |&(i, _): &(usize, &Axis)| stored.dims.get(i) != dims.get(i);
    let axis = role.axes.iter().enumerate().find(differs).map(|(_, axis)| *axis);
    if axis == Some(Axis::Vocab) && stored.dims.len() == 2 && stored.dims[1] == dims[1] {
        return Error::new("IG0208", "the embedding table has another number of tokens").note(
            format!(
                "found {} rows, expected {}",
                stored.dims[0],
                axis_reason(axis, naming, config)
            ),
        );
    }
    let error = Error::new("IG0207", "tensor shape does not match the architecture").note(format!(
        "found {}, expected {} for {}",
        stored.describe(),
        expected.describe(),
        axis_reason(axis, naming, config)
    ));
    let transposed = stored.dims.iter().rev().eq(&dims);
    match transposed {
        true => error.help("the matrix is transposed: outputs must be the rows"),
        false => error,
    }
}

fn axis_reason(axis: Option<Axis>, naming: Naming, config: &Config) -> String {
    axis.map_or("fewer dimensions".to_string(), |axis| axis.reason(naming, config))
}

/// A tied model may repeat the embedding table as output matrix, and nothing else.
fn tied_head(store: &BlobSource, config: &Config, naming: Naming) -> Result<(), Error> {
    let (head, embed) = (HEAD.blob(naming, None), EMBED.blob(naming, None));
    if !config.tied || store.get(&head).is_none() || store.identical(&head, &embed) {
        return Ok(());
    }
    let error =
        Error::new("IG0209", "the output matrix is tied to the embedding and differs from it");
    Err(store
        .locate(error, &head)
        .note("config.json ties it (tie_word_embeddings or share_embedding)")
        .help(
            "set tie_word_embeddings to false to use this matrix, or remove it from the checkpoint",
        ))
}

fn extras(
    store: &BlobSource,
    config: &Config,
    naming: Naming,
    expected: &BTreeSet<String>,
) -> Result<(), Error> {
    let head = HEAD.blob(naming, None);
    let known = |name: &str| {
        expected.contains(name) || name == head || BUFFERS.iter().any(|b| name.ends_with(b))
    };
    let extras: Vec<&str> = store.tensors().map(|(name, _)| name).filter(|n| !known(n)).collect();
    let Some((first, others)) = extras.split_first() else { return Ok(()) };
    let mut error = Error::new("IG0206", "the checkpoint holds a tensor the architecture lacks");
    error = store.locate(error, first);
    if !others.is_empty() {
        let named = others.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        error = error.note(format!("and {} more: {named}, …", others.len()));
    }
    error =
        error.note(format!("expected the tensors of {}, {} blocks", config.arch, config.blocks));
    Err(match first.ends_with(".bias") {
        true => {
            error.help("if the model has biases, set attention_bias or mlp_bias in config.json")
        }
        false => error,
    })
}
