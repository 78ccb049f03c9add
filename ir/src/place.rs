//! Where something is in a module, so that a violation can be shown on the line that caused it.

use crate::module::{CacheId, GraphId, Module, WeightId};
use std::collections::HashMap;

/// A part of a module that has a line in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The `model` line.
    Meta,
    /// A `weight` line.
    Weight(WeightId),
    /// A `cache` line.
    Cache(CacheId),
    /// The first line of a graph.
    Graph(GraphId),
    /// A parameter of a graph, by its index in `Graph::params`.
    Param(GraphId, u32),
    /// An instruction of a graph, by its index in `Graph::insts`.
    Inst(GraphId, u32),
    /// The `return` line of a graph.
    Result(GraphId),
}

/// Line numbers, from 1, of everything that was parsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines(HashMap<Place, u32>);

impl Lines {
    /// The line of a place, if the text has it.
    pub fn line(&self, place: Place) -> Option<u32> {
        self.0.get(&place).copied()
    }

    /// Other numbers for the same lines.
    pub(crate) fn map(self, to: impl Fn(u32) -> u32) -> Lines {
        Lines(self.0.into_iter().map(|(place, line)| (place, to(line))).collect())
    }

    pub(crate) fn set(&mut self, place: Place, line: u32) {
        self.0.insert(place, line);
    }
}

impl Place {
    /// The name of what is there, with sigils: `$embed`, `@block %q`. Never panics.
    pub fn name(self, module: &Module) -> String {
        let graph = |g: GraphId| module.graphs.get(g.0 as usize);
        let graph_name = |g| graph(g).map_or("?", |g| g.name.as_str());
        match self {
            Place::Meta => "model".to_string(),
            Place::Weight(w) => {
                format!("${}", module.weights.get(w.0 as usize).map_or("?", |w| &w.name))
            }
            Place::Cache(c) => {
                format!("^{}", module.caches.get(c.0 as usize).map_or("?", |c| &c.name))
            }
            Place::Graph(g) | Place::Result(g) => format!("@{}", graph_name(g)),
            Place::Param(g, i) => {
                let param = graph(g).and_then(|g| Some(g.param_name(*g.params.get(i as usize)?)));
                format!("@{} {}", graph_name(g), param.unwrap_or_else(|| "?".to_string()))
            }
            Place::Inst(g, i) => {
                let value = graph(g).and_then(|g| {
                    let inst = g.insts.get(i as usize)?;
                    Some(g.values.get(inst.result.0 as usize)?.name.as_str())
                });
                format!("@{} %{}", graph_name(g), value.unwrap_or("?"))
            }
        }
    }
}
