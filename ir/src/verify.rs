//! The verifier: every rule of `ir/README.md`, every violation at once.
//!
//! V1 names, V2 operands exist and come first, V3 to V7 from `infer`, V8 claimed types, V9 results,
//! V10 calls, V11 roots, V12 cache slots, V13 storage, V14 values and parameters, V15 facts about
//! the model, V16 tokens and positions, V17 weights made from others. Never panics, whatever the handles say; judges no style
//! and no speed.

mod flow;
mod graphs;
mod history;
mod module;

use crate::module::Module;
use crate::place::{Lines, Place};
use std::fmt;

/// Names are unique where they are looked up, and made of letters, digits, `_` and `.`.
pub const V_NAME: u32 = 1;
/// Operands exist and are defined before they are used.
pub const V_DEFINED: u32 = 2;
/// The type an instruction claims is the one its operation has.
pub const V_CLAIM: u32 = 8;
/// A graph returns a value of its own, `f32[T, width]`.
pub const V_RESULT: u32 = 9;
/// A graph calls only graphs before it, to a bounded depth.
pub const V_ORDER: u32 = 10;
/// The roots are there, with their types.
pub const V_ROOTS: u32 = 11;
/// Every cache slot is appended to exactly once when `@model` runs.
pub const V_SLOTS: u32 = 12;
/// Weights and cache slots can be stored.
pub const V_STORAGE: u32 = 13;
/// Values and parameters are numbered in order, each defined once.
pub const V_VALUES: u32 = 14;
/// Facts about the model are in range.
pub const V_META: u32 = 15;
/// Tokens are never taken for positions.
pub const V_ROLES: u32 = 16;

/// Steps name weights that fit them, and no weight is made from itself.
pub const V_HISTORY: u32 = 17;

/// Largest dimension, so that an index fits an `i32`.
pub const DIM_MAX: u64 = i32::MAX as u64;
/// Most elements of one weight.
pub const ELEMENTS_MAX: u64 = 1 << 40;
/// Largest context: positions up to it are exact in f32.
pub const CONTEXT_MAX: u64 = 1 << 24;
/// Deepest chain of calls, counting the root.
pub const DEPTH_MAX: u32 = 8;

/// A rule that a module breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Rule number, as in `V4`.
    pub rule: u32,
    /// The part of the module.
    pub place: Place,
    /// Its name, with sigils.
    pub name: String,
    /// What was found and what was expected.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{} at {}: {}", self.rule, self.name, self.what)
    }
}

impl std::error::Error for Violation {}

impl Violation {
    /// The violation with its line in front, where the text is known.
    pub fn in_text(&self, lines: &Lines) -> String {
        match lines.line(self.place) {
            Some(line) => format!("line {line}: {self}"),
            None => self.to_string(),
        }
    }
}

/// Checks every rule; violations come in the order of the text.
pub fn verify(module: &Module) -> Result<(), Vec<Violation>> {
    let mut check = Check { module, found: vec![] };
    module::meta(&mut check);
    module::names(&mut check);
    module::storage(&mut check);
    history::cycles(&mut check);
    let sound = graphs::graphs(&mut check);
    flow::roots(&mut check, &sound);
    // Flow follows handles through calls, so it needs all of them in range.
    if sound.iter().all(|&s| s) {
        flow::slots(&mut check);
        flow::roles(&mut check);
    }
    let mut found = check.found;
    found.sort_by_key(|v| (v.place, v.rule));
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// A verification under way.
struct Check<'m> {
    module: &'m Module,
    found: Vec<Violation>,
}

impl Check<'_> {
    fn report(&mut self, rule: u32, place: Place, what: impl Into<String>) {
        let name = place.name(self.module);
        self.found.push(Violation { rule, place, name, what: what.into() });
    }
}
