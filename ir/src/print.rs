//! Module to text: one canonical form, so that `print(parse(print(m))) == print(m)`.
//!
//! Columns are aligned within weights, caches and each graph up to a fixed width. Lines that come
//! again with another number are one block (`repeat`). A graph header longer than 100 columns has
//! one parameter per line. An unsound module prints too, with `?` for whatever a handle does not
//! reach; only sound ones parse again.

use crate::history::quoted;
use crate::module::{Arg, Cache, Graph, Inst, Meta, Module, Param, ValueId, Weight, WeightId};
use crate::op::{Op, Rope, RopeScaling, RowRange};
use crate::parse::VERSION;
use crate::repeat::{Block, fold};
use std::fmt;

/// Longest graph header on one line.
const HEADER_COLUMNS: usize = 100;
/// Names and types wider than this do not widen their column.
const NAME_COLUMNS: usize = 40;
/// Instructions wider than this (calls) do not push the types of the others away.
const INST_COLUMNS: usize = 64;

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ingot {VERSION}\n{}", self.meta)?;
        let weight = |(w, i): (&Weight, u32)| {
            vec![format!("${}", w.name), w.ty().to_string(), self.history(WeightId(i)).to_string()]
        };
        let weights = fold(self.weights.iter().zip(0..).map(weight).collect());
        if !weights.is_empty() {
            writeln!(f)?;
        }
        write_blocks(f, "", &weights, NAME_COLUMNS, |[name, ty, history], [names, types]| {
            format!("weight {name:<names$} : {ty:<types$} = {history}")
        })?;
        let cache = |c: &Cache| vec![format!("^{}", c.name), c.ty.to_string(), String::new()];
        let caches = fold(self.caches.iter().map(cache).collect());
        if !caches.is_empty() {
            writeln!(f)?;
        }
        write_blocks(f, "", &caches, NAME_COLUMNS, |[name, ty, _], [names, _]| {
            format!("cache {name:<names$} : {ty}")
        })?;
        for graph in &self.graphs {
            writeln!(f)?;
            write_graph(f, self, graph)?;
        }
        Ok(())
    }
}

/// Lines of blocks whose rows have three columns; the first two are as wide in each block as they need,
/// up to `NAME_COLUMNS` and `second`.
fn write_blocks(
    f: &mut fmt::Formatter<'_>,
    indent: &str,
    blocks: &[Block],
    second: usize,
    line: impl Fn([&str; 3], [usize; 2]) -> String,
) -> fmt::Result {
    for Block { range, rows } in blocks {
        let width = |n: usize, most: usize| column(rows.iter().map(|row| &row[n]), most);
        let widths = [width(0, NAME_COLUMNS), width(1, second)];
        if let Some(range) = range {
            writeln!(f, "{indent}for {}..{} {{", range.start, range.end)?;
        }
        let inner = if range.is_some() { "  " } else { "" };
        for row in rows {
            writeln!(f, "{indent}{inner}{}", line([&row[0], &row[1], &row[2]], widths))?;
        }
        if range.is_some() {
            writeln!(f, "{indent}}}")?;
        }
    }
    Ok(())
}

/// Width of a column: its widest entry that is not too wide.
fn column<'a>(entries: impl Iterator<Item = &'a String>, most: usize) -> usize {
    entries.map(String::len).filter(|&n| n <= most).max().unwrap_or(0)
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model {} {{vocab = {}", quoted(&self.arch), self.vocab)?;
        write!(f, ", context = {}", self.context)?;
        if let Some(bos) = self.bos {
            write!(f, ", bos = {bos}")?;
        }
        let eos: Vec<String> = self.eos.iter().map(u32::to_string).collect();
        write!(f, ", eos = [{}]}}", eos.join(", "))
    }
}

fn write_graph(f: &mut fmt::Formatter<'_>, module: &Module, graph: &Graph) -> fmt::Result {
    writeln!(f, "{} {{", header(graph))?;
    let row = |inst: &Inst| {
        let ty = graph.values.get(inst.result.0 as usize).map(|v| v.ty.to_string());
        let ty = ty.unwrap_or_else(|| "?".to_string());
        vec![graph.value_name(inst.result), operation(module, graph, inst), ty]
    };
    let blocks = fold(graph.insts.iter().map(row).collect());
    write_blocks(f, "  ", &blocks, INST_COLUMNS, |[name, operation, ty], [names, wide]| {
        format!("{name:<names$} = {operation:<wide$} : {ty}")
    })?;
    writeln!(f, "  return {}\n}}", graph.value_name(graph.result))
}

fn header(graph: &Graph) -> String {
    let params: Vec<String> = graph.params.iter().map(|&p| parameter(graph, p)).collect();
    let result = graph.values.get(graph.result.0 as usize).map(|v| v.ty.to_string());
    let result = result.unwrap_or_else(|| "?".to_string());
    let line = format!("graph @{}({}) -> {result}", graph.name, params.join(", "));
    if line.len() + " {".len() <= HEADER_COLUMNS {
        return line;
    }
    format!("graph @{}(\n    {}\n) -> {result}", graph.name, params.join(",\n    "))
}

fn parameter(graph: &Graph, param: Param) -> String {
    let ty = match param {
        Param::Value(v) => graph.values.get(v.0 as usize).map(|v| &v.ty),
        Param::Weight(i) => graph.weights.get(i as usize).map(|w| &w.ty),
        Param::Cache(i) => graph.caches.get(i as usize).map(|c| &c.ty),
    };
    format!("{}: {}", graph.param_name(param), ty.map_or("?".to_string(), |ty| ty.to_string()))
}

/// Operation, operands and attributes.
fn operation(module: &Module, graph: &Graph, inst: &Inst) -> String {
    let mut operands: Vec<String> = vec![];
    if let Op::Call(callee) = inst.op {
        let callee = module.graphs.get(callee.0 as usize).map_or("?", |g| &g.name);
        operands.push(format!("@{callee}"));
    }
    operands.extend(inst.args.iter().map(|&a| graph.arg_name(module, a)));
    let mut text = inst.op.name().to_string();
    if !operands.is_empty() {
        text.push(' ');
        text.push_str(&operands.join(", "));
    }
    match attributes(&inst.op) {
        Some(attributes) => format!("{text} {{{attributes}}}"),
        None => text,
    }
}

fn attributes(op: &Op) -> Option<String> {
    match op {
        Op::RmsNorm { eps, group: None } => Some(format!("eps = {eps:?}")),
        Op::RmsNorm { eps, group: Some(group) } => Some(format!("eps = {eps:?}, group = {group}")),
        Op::QuantRows { group, range: RowRange::Group } => Some(format!("group = {group}")),
        Op::QuantRows { group, range } => {
            Some(format!("group = {group}, range = {}", range.name()))
        }
        Op::FakeQuant { levels, group } => Some(format!("levels = {levels}, group = {group}")),
        Op::Hadamard { size } => Some(format!("size = {size}")),
        Op::Rope(rope) => Some(rope_attributes(rope)),
        Op::Attention { heads, scale, window, cap } => {
            let window = window.map_or_else(String::new, |window| format!(", window = {window}"));
            let cap = cap.map_or_else(String::new, |cap| format!(", cap = {cap:?}"));
            Some(format!("heads = {heads}, scale = {scale:?}{window}{cap}"))
        }
        Op::Scale { by } => Some(format!("by = {by:?}")),
        Op::Softcap { cap } => Some(format!("cap = {cap:?}")),
        Op::Embed | Op::Linear | Op::KvAppend | Op::Add | Op::GateMul(_) | Op::Call(_) => None,
    }
}

fn rope_attributes(rope: &Rope) -> String {
    let plain = format!("head = {}, theta = {:?}", rope.head, rope.theta);
    match &rope.scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => {
            format!("{plain}, scaling = linear, factor = {factor:?}")
        }
        RopeScaling::Llama3 { factor, low, high, original } => format!(
            "{plain}, scaling = llama3, factor = {factor:?}, low = {low:?}, high = {high:?}, \
             original = {original}"
        ),
    }
}

impl Graph {
    /// The name of a value with its sigil; `%?` if there is no such value.
    pub fn value_name(&self, value: ValueId) -> String {
        format!("%{}", self.values.get(value.0 as usize).map_or("?", |v| &v.name))
    }

    /// The name of a parameter with its sigil; `?` for a name if there is no such parameter.
    pub fn param_name(&self, param: Param) -> String {
        match param {
            Param::Value(v) => self.value_name(v),
            Param::Weight(i) => {
                format!("${}", self.weights.get(i as usize).map_or("?", |w| &w.name))
            }
            Param::Cache(i) => format!("^{}", self.caches.get(i as usize).map_or("?", |c| &c.name)),
        }
    }

    /// The name of an operand with its sigil; `?` for a name if there is no such operand.
    pub fn arg_name(&self, module: &Module, arg: Arg) -> String {
        match arg {
            Arg::Value(v) => self.value_name(v),
            Arg::FormalWeight(i) => self.param_name(Param::Weight(i)),
            Arg::FormalCache(i) => self.param_name(Param::Cache(i)),
            Arg::Weight(w) => crate::place::Place::Weight(w).name(module),
            Arg::Cache(c) => crate::place::Place::Cache(c).name(module),
        }
    }
}
