//! What the parser saw, names still unresolved: between `parse` and `resolve`.

use crate::lex::{Sigil, Spot};
use crate::module::{Cache, Meta, Weight};
use crate::op::Op;
use crate::types::Type;

/// A whole text.
pub(crate) struct Source<'a> {
    pub meta: (Meta, Spot),
    pub weights: Vec<WeightText<'a>>,
    pub caches: Vec<(Cache, Spot)>,
    pub graphs: Vec<GraphText<'a>>,
}

/// A weight whose steps name others.
pub(crate) struct WeightText<'a> {
    pub weight: Weight,
    /// The weight that each step names, if it names one.
    pub operands: Vec<Option<Name<'a>>>,
    pub spot: Spot,
}

/// A graph.
pub(crate) struct GraphText<'a> {
    pub name: Name<'a>,
    /// Names and types of the parameters, in order.
    pub params: Vec<(Name<'a>, Type)>,
    /// The type after `->`.
    pub result_ty: (Type, Spot),
    pub insts: Vec<InstText<'a>>,
    pub result: Name<'a>,
}

/// A name and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a> {
    pub sigil: Sigil,
    pub text: &'a str,
    pub spot: Spot,
}

/// An instruction.
pub(crate) struct InstText<'a> {
    pub name: Name<'a>,
    pub verb: Verb<'a>,
    pub args: Vec<Name<'a>>,
    pub ty: Type,
}

/// An operation; a call's graph is still a name.
pub(crate) enum Verb<'a> {
    Op(Op),
    Call(Name<'a>),
}
