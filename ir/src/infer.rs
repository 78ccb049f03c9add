//! The result type of an operation from the types of its operands: one function for builder,
//! parser and verifier. Rule numbers are those of `ir/README.md`.

use crate::hadamard::Hadamard;
use crate::module::{Arg, Graph, Module, Param};
use crate::op::{Levels, Op, Rope, RopeScaling, RowRange};
use crate::types::{DType, Dim, IntFormat, Type};
use std::fmt;

/// Why an operation has no type: the rule and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Rule number, as in `V4`.
    pub rule: u32,
    /// What was found and what was expected.
    pub what: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{}: {}", self.rule, self.what)
    }
}

impl std::error::Error for Mismatch {}

/// Operand count and kinds (value, weight, cache) fit the operation.
pub const V_OPERANDS: u32 = 3;
/// Shapes fit the operation.
pub const V_SHAPE: u32 = 4;
/// Element types fit the operation.
pub const V_DTYPE: u32 = 5;
/// Attributes are in range.
pub const V_ATTRIBUTE: u32 = 6;
/// A call's arguments are exactly its graph's parameters.
pub const V_CALL: u32 = 7;

fn err<T>(rule: u32, what: impl Into<String>) -> Result<T, Mismatch> {
    Err(Mismatch { rule, what: what.into() })
}

/// The type of `op` applied to `args` inside `graph`.
pub fn infer(module: &Module, graph: &Graph, op: &Op, args: &[Arg]) -> Result<Type, Mismatch> {
    if let Op::Call(callee) = op {
        return infer_call(module, graph, module.graph(*callee), args);
    }
    check_kinds(op, args)?;
    let types: Vec<Type> = args.iter().map(|&a| graph.arg_type(module, a)).collect();
    match op {
        Op::Embed => infer_embed(&types),
        Op::RmsNorm { eps, group } => infer_rms_norm(*eps, *group, &types),
        Op::Linear => infer_linear(&types),
        Op::QuantRows { group, .. } => infer_quant_rows(*group, &types),
        Op::FakeQuant { levels, group } => infer_fake_quant(*levels, *group, &types),
        Op::Hadamard { size } => infer_hadamard(*size, &types),
        Op::Rope(rope) => infer_rope(rope, &types),
        Op::KvAppend => infer_kv_append(&types),
        Op::Attention { heads, scale, window, cap } => {
            attention_attributes(*scale, *window, *cap)?;
            infer_attention(*heads, &types)
        }
        Op::Add | Op::GateMul(_) => infer_pair(&types),
        Op::Scale { by } => infer_scale(*by, &types),
        Op::Softcap { cap } => infer_softcap(*cap, &types),
        Op::Call(_) => unreachable!("calls are handled above"),
    }
}

/// Operand kinds of an operation: `v` value, `w` weight, `c` cache; upper case is optional.
fn kinds(op: &Op) -> &'static str {
    match op {
        Op::Embed => "vw",
        Op::RmsNorm { .. } | Op::FakeQuant { .. } => "vW",
        Op::Linear => "vwW",
        Op::QuantRows { range: RowRange::Fixed, .. } => "vw",
        Op::QuantRows { .. } | Op::Hadamard { .. } | Op::Scale { .. } | Op::Softcap { .. } => "v",
        Op::Rope(_) => "vv",
        Op::KvAppend => "cvvv",
        Op::Attention { .. } => "vvv",
        Op::Add | Op::GateMul(_) => "vv",
        Op::Call(_) => "",
    }
}

fn check_kinds(op: &Op, args: &[Arg]) -> Result<(), Mismatch> {
    let found: String = args
        .iter()
        .map(|a| match a {
            Arg::Value(_) => 'v',
            Arg::Weight(_) | Arg::FormalWeight(_) => 'w',
            Arg::Cache(_) | Arg::FormalCache(_) => 'c',
        })
        .collect();
    let expected = kinds(op);
    let least = expected.chars().filter(char::is_ascii_lowercase).count();
    if found.len() < least || !expected.to_lowercase().starts_with(&found) {
        return err(
            V_OPERANDS,
            format!(
                "{} takes operands `{expected}` (v value, w weight, c cache, capital optional), \
                 found `{found}`",
                op.name()
            ),
        );
    }
    Ok(())
}

fn rows(what: &str, ty: &Type) -> Result<u64, Mismatch> {
    match ty.row_width() {
        Some(width) => Ok(width),
        None => err(V_SHAPE, format!("{what} must be f32[T, width], found {ty}")),
    }
}

fn positions(ty: &Type) -> Result<(), Mismatch> {
    if *ty == Type::tokens() {
        return Ok(());
    }
    err(V_SHAPE, format!("positions and tokens must be i32[T], found {ty}"))
}

fn weight(what: &str, ty: &Type, rank: usize) -> Result<Vec<u64>, Mismatch> {
    let Some((dtype, dims)) = ty.as_weight() else {
        return err(V_SHAPE, format!("{what} must have constant dimensions, found {ty}"));
    };
    if !dtype.holds_weights() {
        return err(V_DTYPE, format!("{what} must hold weights, found {ty}"));
    }
    if dims.len() != rank {
        return err(V_SHAPE, format!("{what} must have {rank} dimensions, found {ty}"));
    }
    if let DType::Int(format) = dtype
        && !dims.last().is_some_and(|&k| format.fits(k))
    {
        return err(V_SHAPE, format!("{what}: groups of {format} do not divide rows of {ty}"));
    }
    Ok(dims)
}

fn vector(what: &str, ty: &Type, width: u64) -> Result<(), Mismatch> {
    if *ty == Type::weight(DType::F32, &[width]) {
        return Ok(());
    }
    err(V_SHAPE, format!("{what} must be f32[{width}], found {ty}"))
}

fn infer_embed(types: &[Type]) -> Result<Type, Mismatch> {
    positions(&types[0])?;
    Ok(Type::rows(weight("the embedding table", &types[1], 2)?[1]))
}

fn infer_rms_norm(eps: f64, group: Option<u64>, types: &[Type]) -> Result<Type, Mismatch> {
    let width = rows("the input of rms_norm", &types[0])?;
    if !(eps >= 0.0 && eps.is_finite()) {
        return err(V_ATTRIBUTE, format!("eps must be finite and not negative, found {eps}"));
    }
    let group = group.unwrap_or(width);
    if group == 0 || width % group != 0 {
        return err(V_ATTRIBUTE, format!("group {group} does not divide the width {width}"));
    }
    if let Some(gain) = types.get(1) {
        vector("the gain of rms_norm", gain, group)?;
    }
    Ok(types[0].clone())
}

fn infer_linear(types: &[Type]) -> Result<Type, Mismatch> {
    let Some((activation, k)) = types[0].as_rows() else {
        return err(V_SHAPE, format!("the input of linear must be rows, found {}", types[0]));
    };
    let dims = weight("the matrix of linear", &types[1], 2)?;
    if dims[1] != k {
        return err(
            V_SHAPE,
            format!("linear multiplies rows of {k} with {}: {} columns", types[1], dims[1]),
        );
    }
    let (stored, _) = types[1].as_weight().expect("checked by `weight`");
    if !multiplies(activation, stored) {
        return err(V_DTYPE, format!("linear cannot multiply {} with {}", types[0], types[1]));
    }
    if let Some(bias) = types.get(2) {
        vector("the bias of linear", bias, dims[0])?;
    }
    Ok(Type::rows(dims[0]))
}

/// Whether `linear` takes rows of one type and a matrix of another.
fn multiplies(rows: DType, matrix: DType) -> bool {
    match (rows, matrix) {
        (DType::F32, _) => true,
        (DType::Int(x), DType::Int(w)) => {
            let fits = match w.nested {
                true => x.group.is_multiple_of(w.group),
                false => w.group == x.group || w.group == 0,
            };
            let rows = IntFormat::symmetric(8, x.group);
            x == rows && x.group > 0 && x.group.is_multiple_of(w.multiple()) && fits
        }
        _ => false,
    }
}

fn infer_quant_rows(group: u32, types: &[Type]) -> Result<Type, Mismatch> {
    let width = rows("the input of quant_rows", &types[0])?;
    let format = IntFormat::symmetric(8, group);
    if group == 0 || !group.is_multiple_of(16) || !format.fits(width) {
        let what = format!("group {group} must be a multiple of 16 that divides the width {width}");
        return err(V_ATTRIBUTE, what);
    }
    check_range("quant_rows", types)?;
    Ok(Type::rows_of(DType::Int(format), width))
}

fn infer_fake_quant(levels: Levels, group: u32, types: &[Type]) -> Result<Type, Mismatch> {
    let width = rows("the input of fake_quant", &types[0])?;
    if !levels.exist() {
        return err(V_ATTRIBUTE, format!("there are no levels {levels}"));
    }
    if group == 0 || !group.is_multiple_of(16) || !width.is_multiple_of(group.into()) {
        let what = format!("group {group} must be a multiple of 16 that divides the width {width}");
        return err(V_ATTRIBUTE, what);
    }
    check_range("fake_quant", types)?;
    Ok(types[0].clone())
}

/// A range that is an operand is one number.
fn check_range(op: &str, types: &[Type]) -> Result<(), Mismatch> {
    if let Some(range) = types.get(1)
        && weight(&format!("the range of {op}"), range, 1)? != [1]
    {
        return err(V_SHAPE, format!("the range of {op} must be f32[1], found {range}"));
    }
    Ok(())
}

fn infer_hadamard(size: u64, types: &[Type]) -> Result<Type, Mismatch> {
    let width = rows("the input of hadamard", &types[0])?;
    if size == 0 || !width.is_multiple_of(size) {
        return err(V_ATTRIBUTE, format!("size {size} does not divide the width {width}"));
    }
    if !Hadamard::exists(size) {
        return err(
            V_ATTRIBUTE,
            format!("there is no Hadamard matrix of order {size} to be built"),
        );
    }
    Ok(types[0].clone())
}

fn infer_rope(rope: &Rope, types: &[Type]) -> Result<Type, Mismatch> {
    let width = rows("the input of rope", &types[0])?;
    positions(&types[1])?;
    let head = rope.head;
    if head == 0 || !head.is_multiple_of(2) || width % head != 0 {
        return err(V_ATTRIBUTE, format!("head {head} must be even and divide the width {width}"));
    }
    let theta = rope.theta as f32;
    if !(theta > 0.0 && theta.is_finite()) {
        return err(V_ATTRIBUTE, format!("theta must be a positive f32, found {}", rope.theta));
    }
    check_scaling(&rope.scaling)?;
    Ok(types[0].clone())
}

/// Nothing the frequencies divide by is zero or infinite.
fn check_scaling(scaling: &RopeScaling) -> Result<(), Mismatch> {
    let positive = |x: f64| x > 0.0 && x.is_finite();
    let fits = match *scaling {
        RopeScaling::None => true,
        RopeScaling::Linear { factor } => positive(factor),
        RopeScaling::Llama3 { factor, low, high, original } => {
            positive(factor) && positive(low) && positive(high) && low < high && original > 0
        }
    };
    if fits {
        return Ok(());
    }
    err(V_ATTRIBUTE, format!("factors must be positive and low below high, found {scaling:?}"))
}

fn infer_kv_append(types: &[Type]) -> Result<Type, Mismatch> {
    let Type::Kv { heads, head, dtype } = types[0] else {
        return err(V_SHAPE, format!("kv_append needs a cache slot, found {}", types[0]));
    };
    if !dtype.holds_cache() {
        return err(V_DTYPE, format!("a cache holds f32, f16, i8row or i4row, found {dtype}"));
    }
    for (what, ty) in [("keys", &types[1]), ("values", &types[2])] {
        let width = rows(what, ty)?;
        if heads.checked_mul(head) != Some(width) {
            return err(
                V_SHAPE,
                format!("{what} are {width} wide, {} stores {heads}·{head}", types[0]),
            );
        }
    }
    positions(&types[3])?;
    Ok(types[0].clone())
}

fn attention_attributes(scale: f64, window: Option<u64>, cap: Option<f64>) -> Result<(), Mismatch> {
    // The largest score is that of the largest product.
    if scale < 0.0 || !(scale as f32).is_finite() {
        return err(V_ATTRIBUTE, format!("scale must be an f32 of 0 or more, found {scale}"));
    }
    if window == Some(0) {
        return err(V_ATTRIBUTE, "a window of 0 positions shows nothing");
    }
    cap.map_or(Ok(()), check_cap)
}

fn check_cap(cap: f64) -> Result<(), Mismatch> {
    match cap > 0.0 && (cap as f32).is_finite() && (1.0 / cap as f32).is_finite() {
        true => Ok(()),
        false => err(V_ATTRIBUTE, format!("cap must be an f32 more than 0, found {cap}")),
    }
}

fn infer_attention(heads: u64, types: &[Type]) -> Result<Type, Mismatch> {
    let Type::Kv { heads: kv_heads, head, dtype } = types[1] else {
        return err(V_SHAPE, format!("attention reads a cache, found {}", types[1]));
    };
    let width = queries(&types[0], dtype, head)?;
    positions(&types[2])?;
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return err(V_ATTRIBUTE, format!("{heads} heads cannot share {kv_heads} KV heads"));
    }
    if heads.checked_mul(head) != Some(width) {
        return err(V_SHAPE, format!("queries are {width} wide, expected {heads} heads of {head}"));
    }
    Ok(Type::rows(width))
}

/// Width of the queries: floats for a cache of floats, int8 in heads for one of integers.
fn queries(ty: &Type, cache: DType, head: u64) -> Result<u64, Mismatch> {
    let DType::Int(_) = cache else { return rows("the queries", ty) };
    let wanted = IntFormat::symmetric(8, head as u32);
    match ty.as_rows() {
        Some((DType::Int(found), width)) if found == wanted => Ok(width),
        _ => err(V_DTYPE, format!("queries of a cache of {cache} are {wanted}[T, _], found {ty}")),
    }
}

fn infer_scale(by: f64, types: &[Type]) -> Result<Type, Mismatch> {
    rows("the input of scale", &types[0])?;
    if !(by as f32).is_finite() {
        return err(V_ATTRIBUTE, format!("by must be a finite f32, found {by}"));
    }
    Ok(types[0].clone())
}

fn infer_softcap(cap: f64, types: &[Type]) -> Result<Type, Mismatch> {
    rows("the input of softcap", &types[0])?;
    check_cap(cap)?;
    Ok(types[0].clone())
}

fn infer_pair(types: &[Type]) -> Result<Type, Mismatch> {
    rows("the first operand", &types[0])?;
    if types[0] != types[1] {
        return err(V_SHAPE, format!("operands differ: {} and {}", types[0], types[1]));
    }
    Ok(types[0].clone())
}

fn infer_call(
    module: &Module,
    graph: &Graph,
    callee: &Graph,
    args: &[Arg],
) -> Result<Type, Mismatch> {
    if args.len() != callee.params.len() {
        return err(
            V_CALL,
            format!(
                "@{} takes {} arguments, found {}",
                callee.name,
                callee.params.len(),
                args.len()
            ),
        );
    }
    for (param, &arg) in callee.params.iter().zip(args) {
        let (name, ty, fits) = match *param {
            Param::Value(v) => {
                let value = callee.value(v);
                (format!("%{}", value.name), &value.ty, matches!(arg, Arg::Value(_)))
            }
            Param::Weight(i) => {
                let formal = &callee.weights[i as usize];
                let fits = matches!(arg, Arg::Weight(_) | Arg::FormalWeight(_));
                (format!("${}", formal.name), &formal.ty, fits)
            }
            Param::Cache(i) => {
                let formal = &callee.caches[i as usize];
                let fits = matches!(arg, Arg::Cache(_) | Arg::FormalCache(_));
                (format!("^{}", formal.name), &formal.ty, fits)
            }
        };
        let found = graph.arg_type(module, arg);
        if !fits || found != *ty {
            return err(V_CALL, format!("{name} of @{} is {ty}, found {found}", callee.name));
        }
    }
    Ok(callee.value(callee.result).ty.clone())
}

/// Dimensions of a tensor type as text needs them: every constant at least 1.
pub fn dims_positive(ty: &Type) -> bool {
    match ty {
        Type::Tensor { dims, .. } => !dims.contains(&Dim::Const(0)),
        Type::Kv { heads, head, .. } => *heads > 0 && *head > 0,
    }
}
