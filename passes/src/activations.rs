//! `activations`: rows are quantised where they meet matrices of integers.
//!
//! # What
//! Before every `linear` whose matrix holds integers, a `quant_rows` of its input in the groups of the
//! matrix, or where its scales are those of a row in the largest ones that divide the row and are not
//! larger than the context says; once for all that read the same value in the same groups. The range of
//! a group is its own, that of its row, or a fixed one for each place, which calibration gives. Fixed
//! ranges are for the layers: the head reads one row a token, whose groups have ranges of their own,
//! because no factors can even out what a tied table reads. Without a group in the context (weight-only
//! formats) nothing is inserted.
//!
//! # Why it is exact (or how far off)
//! It is not: each group of a row is rounded to 8 bits, a relative error of at most 2⁻⁸ of the
//! largest element in its range. What is beyond a fixed range becomes its end.
//!
//! # Requires
//! A group that divides every width it is used on, and equals the group of the matrix unless that
//! has one group a row; for fixed ranges, calibration.
//!
//! # Paper
//! Per-token dynamic quantisation as in ZeroQuant (arXiv 2206.01861), in groups; fixed ranges as in
//! SmoothQuant (2211.10438).

use crate::bindings::instructions;
use crate::{Context, PassError, ranges};
use ir::def_use::renumber;
use ir::{
    Arg, DType, Dim, Graph, GraphId, Inst, IntFormat, Module, Op, RowRange, Type, Value, ValueId,
};
use std::collections::HashMap;

const PASS: &str = "activations";

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let Some(group) = context.activation_group else { return Ok(vec![]) };
    let rows = Rows { group, range: context.activation_range, fixed: fixed(module, context)? };
    let whole = module.clone();
    for (i, graph) in module.graphs.iter_mut().enumerate() {
        quantise(&whole, GraphId(i as u32), graph, &rows)?;
    }
    Ok(vec![])
}

/// How rows are quantised.
struct Rows {
    /// The largest group.
    group: u32,
    range: RowRange,
    /// Operands that are the ranges, where these are fixed.
    fixed: HashMap<(GraphId, ValueId), Arg>,
}

/// Fixed ranges of all rows that meet integers.
fn fixed(
    module: &mut Module,
    context: &Context<'_>,
) -> Result<HashMap<(GraphId, ValueId), Arg>, PassError> {
    if context.activation_range != RowRange::Fixed {
        return Ok(HashMap::new());
    }
    let mut places = vec![];
    for (id, inst, _) in instructions(module).filter(|(id, ..)| !is_head(module.graph(*id))) {
        let met = meets_integers(module, module.graph(id), inst);
        places.extend(met.map(|(x, _)| (id, x)).filter(|place| !places.contains(place)));
    }
    let args = ranges::fixed(PASS, module, context, &places)?;
    Ok(places.into_iter().zip(args).collect())
}

fn is_head(graph: &Graph) -> bool {
    graph.name == "head"
}

fn quantise(module: &Module, id: GraphId, graph: &mut Graph, rows: &Rows) -> Result<(), PassError> {
    let mut made: HashMap<(ValueId, u32), ValueId> = HashMap::new();
    let mut insts = vec![];
    let range = match rows.range {
        RowRange::Fixed if is_head(graph) => RowRange::Group,
        range => range,
    };
    let all = std::mem::take(&mut graph.insts);
    for mut inst in all.clone() {
        if let Some((x, format)) = meets_integers(module, graph, &inst) {
            let own = own_group(format);
            let width = graph.value(x).ty.row_width().unwrap_or(0);
            let multiple = if format.nested { format.group } else { format.multiple() };
            let free = || largest_group(width, rows.group, multiple);
            let group = own.or_else(|| beside(module, graph, &all, x)).unwrap_or_else(free);
            let quantised_x = match made.get(&(x, group)) {
                Some(known) => *known,
                None => {
                    let result = quantised(graph, x, group, PASS)?;
                    let op = Op::QuantRows { group, range };
                    let args = [x.into()].into_iter().chain(rows.fixed.get(&(id, x)).copied());
                    insts.push(Inst { result, op, args: args.collect() });
                    made.insert((x, group), result);
                    result
                }
            };
            inst.args[0] = quantised_x.into();
        }
        insts.push(inst);
    }
    graph.insts = insts;
    renumber(graph);
    Ok(())
}

/// The group that a matrix wants of the rows it multiplies; none where its scales are those of a row.
fn own_group(format: IntFormat) -> Option<u32> {
    (format.group != 0 && !format.nested).then_some(format.group)
}

/// The rows of a `linear` whose matrix holds integers, and their format.
fn meets_integers(module: &Module, graph: &Graph, inst: &Inst) -> Option<(ValueId, IntFormat)> {
    let (Op::Linear, [Arg::Value(x), matrix, ..]) = (&inst.op, &inst.args[..]) else { return None };
    match graph.arg_type(module, *matrix).as_weight() {
        Some((DType::Int(format), _)) => Some((*x, format)),
        _ => None,
    }
}

/// The smallest group of another matrix that reads the same rows: then they are quantised once.
fn beside(module: &Module, graph: &Graph, insts: &[Inst], x: ValueId) -> Option<u32> {
    let readers = insts.iter().filter_map(|inst| meets_integers(module, graph, inst));
    readers.filter(|&(value, _)| value == x).filter_map(|(_, format)| own_group(format)).min()
}

/// The largest group of at most `most` elements that divides a row of `width`: a multiple of 16, or of
/// what a nested format wants. `most` itself if there is none.
fn largest_group(width: u64, most: u32, multiple: u32) -> u32 {
    let groups = (multiple..=most).rev().filter(|g| g.is_multiple_of(multiple));
    groups.into_iter().find(|g| width.is_multiple_of(u64::from(*g))).unwrap_or(most)
}

/// The value that `quant_rows` of `x` defines.
pub(crate) fn quantised(
    graph: &mut Graph,
    x: ValueId,
    group: u32,
    pass: &'static str,
) -> Result<ValueId, PassError> {
    let name = graph.value(x).name.clone();
    let width = graph.value(x).ty.row_width().unwrap_or(0);
    let format = IntFormat::symmetric(8, group);
    if !format.fits(width) {
        let why = format!(
            "groups of {group} do not divide the {width} elements of %{name} in @{}; choose a group \
             that divides every width of the model",
            graph.name
        );
        return Err(PassError { pass, why });
    }
    let dims = vec![Dim::Tokens, Dim::Const(width)];
    let ty = Type::Tensor { dtype: DType::Int(format), dims };
    let taken = |name: &str| graph.values.iter().any(|value| value.name == name);
    let plain = format!("{name}q");
    let name = if taken(&plain) { format!("{plain}{group}") } else { plain };
    graph.values.push(Value { name, ty });
    Ok(ValueId(graph.values.len() as u32 - 1))
}
