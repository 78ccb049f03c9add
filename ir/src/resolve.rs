//! Names to handles. A name may be used before it is defined or be defined twice (the first one
//! counts): the verifier says so with a rule number. Only a name defined nowhere is an error here.

use crate::lex::{ParseError, Sigil};
use crate::module::{
    Arg, CacheId, Formal, Graph, GraphId, Inst, Module, Param, Value, ValueId, WeightId,
};
use crate::op::Op;
use crate::place::{Lines, Place};
use crate::syntax::{GraphText, InstText, Name, Source, Verb};
use std::collections::HashMap;

type Names<'a> = HashMap<&'a str, u32>;

/// The module of a source, and the line of each of its parts.
pub(crate) fn resolve(source: Source<'_>) -> Result<(Module, Lines), ParseError> {
    let mut lines = Lines::default();
    let (meta, spot) = source.meta;
    lines.set(Place::Meta, spot.line);
    let mut module = Module { meta, ..Module::default() };
    let mut operands = vec![];
    for text in source.weights {
        let id = module.add_weight(text.weight);
        operands.push(text.operands);
        lines.set(Place::Weight(id), text.spot.line);
    }
    name_operands(&mut module, &operands)?;
    for (cache, spot) in source.caches {
        let id = module.add_cache(cache);
        lines.set(Place::Cache(id), spot.line);
    }
    let graphs = {
        let globals = Globals {
            weights: names(module.weights.iter().map(|w| w.name.as_str())),
            caches: names(module.caches.iter().map(|c| c.name.as_str())),
            graphs: names(source.graphs.iter().map(|g| g.name.text)),
        };
        let graph = |(i, text)| resolve_graph(GraphId(i as u32), text, &globals, &mut lines);
        source.graphs.iter().enumerate().map(graph).collect::<Result<Vec<Graph>, _>>()?
    };
    module.graphs = graphs;
    Ok((module, lines))
}

/// Handles for the weights that steps name.
fn name_operands(
    module: &mut Module,
    operands: &[Vec<Option<Name<'_>>>],
) -> Result<(), ParseError> {
    let mut names: HashMap<String, u32> = HashMap::new();
    for (weight, i) in module.weights.iter().zip(0..) {
        names.entry(weight.name.clone()).or_insert(i);
    }
    for (weight, operands) in module.weights.iter_mut().zip(operands) {
        for (step, name) in weight.via.iter_mut().zip(operands) {
            if let (Some(by), Some(name)) = (step.operand_mut(), name) {
                *by = WeightId(*names.get(name.text).ok_or_else(|| undefined(*name))?);
            }
        }
    }
    Ok(())
}

/// The index of each name; of equal names, the first.
fn names<'a>(list: impl Iterator<Item = &'a str>) -> Names<'a> {
    let mut names = Names::new();
    for (i, name) in list.enumerate() {
        names.entry(name).or_insert(i as u32);
    }
    names
}

/// Names of the module.
struct Globals<'a> {
    weights: Names<'a>,
    caches: Names<'a>,
    graphs: Names<'a>,
}

/// Names of one graph, and behind them those of the module.
struct Scope<'a> {
    globals: &'a Globals<'a>,
    values: Names<'a>,
    weights: Names<'a>,
    caches: Names<'a>,
}

fn resolve_graph(
    id: GraphId,
    text: &GraphText<'_>,
    globals: &Globals<'_>,
    lines: &mut Lines,
) -> Result<Graph, ParseError> {
    lines.set(Place::Graph(id), text.name.spot.line);
    let mut graph = header(text);
    for (i, (name, _)) in text.params.iter().enumerate() {
        lines.set(Place::Param(id, i as u32), name.spot.line);
    }
    let params = graph.values.len() as u32;
    for inst in &text.insts {
        graph.values.push(Value { name: inst.name.text.to_string(), ty: inst.ty.clone() });
    }
    let scope = Scope {
        globals,
        values: names(graph.values.iter().map(|v| v.name.as_str())),
        weights: names(graph.weights.iter().map(|w| w.name.as_str())),
        caches: names(graph.caches.iter().map(|c| c.name.as_str())),
    };
    let mut insts = vec![];
    for (i, inst) in text.insts.iter().enumerate() {
        lines.set(Place::Inst(id, i as u32), inst.name.spot.line);
        insts.push(scope.inst(inst, ValueId(params + i as u32))?);
    }
    let result = scope.value(text.result)?;
    lines.set(Place::Result(id), text.result.spot.line);
    graph.insts = insts;
    graph.result = result;
    let (claimed, spot) = &text.result_ty;
    let found = &graph.value(result).ty;
    if claimed != found {
        let name = text.result.text;
        return Err(spot.error(format!("found {claimed}, but `%{name}` is returned, a {found}")));
    }
    Ok(graph)
}

/// The graph without its instructions.
fn header(text: &GraphText<'_>) -> Graph {
    let mut graph = Graph {
        name: text.name.text.to_string(),
        params: vec![],
        weights: vec![],
        caches: vec![],
        values: vec![],
        insts: vec![],
        result: ValueId(0),
    };
    for (name, ty) in &text.params {
        let (name, sigil, ty) = (name.text.to_string(), name.sigil, ty.clone());
        graph.params.push(match sigil {
            Sigil::Weight => Param::Weight(push(&mut graph.weights, Formal { name, ty })),
            Sigil::Cache => Param::Cache(push(&mut graph.caches, Formal { name, ty })),
            Sigil::Value | Sigil::Graph => {
                Param::Value(ValueId(push(&mut graph.values, Value { name, ty })))
            }
        });
    }
    graph
}

/// Appends and returns the index.
fn push<X>(list: &mut Vec<X>, item: X) -> u32 {
    list.push(item);
    list.len() as u32 - 1
}

impl Scope<'_> {
    fn inst(&self, text: &InstText<'_>, result: ValueId) -> Result<Inst, ParseError> {
        let op = match &text.verb {
            Verb::Op(op) => op.clone(),
            Verb::Call(name) => Op::Call(GraphId(find(&self.globals.graphs, *name)?)),
        };
        let args = text.args.iter().map(|&a| self.arg(a)).collect::<Result<Vec<Arg>, _>>()?;
        Ok(Inst { result, op, args })
    }

    fn value(&self, name: Name<'_>) -> Result<ValueId, ParseError> {
        Ok(ValueId(find(&self.values, name)?))
    }

    fn arg(&self, name: Name<'_>) -> Result<Arg, ParseError> {
        match name.sigil {
            Sigil::Weight => match self.weights.get(name.text) {
                Some(&i) => Ok(Arg::FormalWeight(i)),
                None => Ok(Arg::Weight(WeightId(find(&self.globals.weights, name)?))),
            },
            Sigil::Cache => match self.caches.get(name.text) {
                Some(&i) => Ok(Arg::FormalCache(i)),
                None => Ok(Arg::Cache(CacheId(find(&self.globals.caches, name)?))),
            },
            Sigil::Value | Sigil::Graph => Ok(Arg::Value(self.value(name)?)),
        }
    }
}

fn find(names: &Names<'_>, name: Name<'_>) -> Result<u32, ParseError> {
    names.get(name.text).copied().ok_or_else(|| undefined(name))
}

fn undefined(name: Name<'_>) -> ParseError {
    let text = format!("{}{}", name.sigil.char(), name.text);
    name.spot.error(format!("found {}, which is defined nowhere", crate::lex::quote(&text)))
}
