//! `activations`: rows are quantised where they meet matrices of integers.
//!
//! # What
//! Before every `linear` whose matrix holds integers, a `quant_rows` of its input, once for all that
//! read the same value. Without a group in the context (weight-only formats) nothing is inserted.
//!
//! # Why it is exact (or how far off)
//! It is not: each group of a row is rounded to 8 bits, a relative error of at most 2⁻⁸ of the
//! largest element of the group.
//!
//! # Requires
//! A group that divides every width it is used on, and equals the group of the matrix unless that
//! has one group a row.
//!
//! # Paper
//! Per-token dynamic quantisation as in ZeroQuant (arXiv 2206.01861), in groups.

use crate::{Context, PassError};
use ir::def_use::renumber;
use ir::{Arg, DType, Dim, Graph, Inst, IntFormat, Module, Op, Type, Value, ValueId};
use std::collections::HashMap;

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let Some(group) = context.activation_group else { return Ok(vec![]) };
    let whole = module.clone();
    module.graphs.iter_mut().try_for_each(|graph| quantise(&whole, graph, group))?;
    Ok(vec![])
}

fn quantise(module: &Module, graph: &mut Graph, group: u32) -> Result<(), PassError> {
    let mut made: HashMap<ValueId, ValueId> = HashMap::new();
    let mut insts = vec![];
    for mut inst in std::mem::take(&mut graph.insts) {
        if let (Op::Linear, [Arg::Value(x), matrix, ..]) = (&inst.op, &inst.args[..])
            && let Some((DType::Int(_), _)) = graph.arg_type(module, *matrix).as_weight()
        {
            let x = *x;
            let quantised = match made.get(&x) {
                Some(quantised) => *quantised,
                None => {
                    let result = value(graph, x, group)?;
                    let op = Op::QuantRows { group };
                    insts.push(Inst { result, op, args: vec![x.into()] });
                    made.insert(x, result);
                    result
                }
            };
            inst.args[0] = quantised.into();
        }
        insts.push(inst);
    }
    graph.insts = insts;
    renumber(graph);
    Ok(())
}

/// The value that `quant_rows` of `x` defines.
fn value(graph: &mut Graph, x: ValueId, group: u32) -> Result<ValueId, PassError> {
    let name = graph.value(x).name.clone();
    let width = graph.value(x).ty.row_width().unwrap_or(0);
    let format = IntFormat { bits: 8, group, zero: false };
    if !format.fits(width) {
        let why = format!(
            "groups of {group} do not divide the {width} elements of %{name} in @{}; choose a group \
             that divides every width of the model",
            graph.name
        );
        return Err(PassError { pass: "activations", why });
    }
    let dims = vec![Dim::Tokens, Dim::Const(width)];
    let ty = Type::Tensor { dtype: DType::Int(format), dims };
    graph.values.push(Value { name: format!("{name}q"), ty });
    Ok(ValueId(graph.values.len() as u32 - 1))
}
