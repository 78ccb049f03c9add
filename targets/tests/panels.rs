//! Kernels over weights, `linear` and `embed`, and the panels under them: equal to their references
//! bit for bit, on every target at hand.

mod support;

use half::{bf16, f16};
use ir::DType;
use support::Arg::{At, Int};
use support::{Case, bytes, everywhere, noise};
use targets::kernels::{embed, linear, panel};
use targets::{Emitter, Func};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The numbers as stored, and what they are then. Every third f16 is subnormal.
fn stored(values: &[f32], dtype: DType) -> (Vec<u8>, Vec<f32>) {
    match dtype {
        DType::F32 => (bytes(values), values.to_vec()),
        DType::BF16 => {
            let halves: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
            let bytes = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
            (bytes, halves.iter().map(|h| h.to_f32()).collect())
        }
        DType::F16 => {
            let scale = |i: usize| if i.is_multiple_of(3) { 4e-5 } else { 1.0 };
            let scaled = values.iter().enumerate().map(|(i, x)| f16::from_f32(x * scale(i)));
            let halves: Vec<f16> = scaled.collect();
            let bytes = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
            (bytes, halves.iter().map(|h| h.to_f32()).collect())
        }
        DType::I32 | DType::Int(_) => unreachable!("weights are floats"),
    }
}

#[test]
fn panels_are_one_chain_of_multiply_adds() {
    const WIDTHS: [u64; 3] = [8, 16, 32];
    let define = |e: &mut Emitter| -> Vec<Func> {
        let kinds = DTYPES.into_iter().flat_map(|d| WIDTHS.map(|w| (d, w)));
        kinds.map(|(dtype, width)| panel::define(e, dtype, width).rows).collect()
    };
    let (mut cases, mut expected) = (vec![], vec![]);
    for (which, (dtype, width)) in
        DTYPES.into_iter().flat_map(|d| WIDTHS.map(|w| (d, w as usize))).enumerate()
    {
        for k in [1, 3, 4, 5, 8, 64, 172, 576] {
            for rows in 1..=13 {
                let mut case = Case::default();
                let (weights, values) = stored(&noise(k * 100 + rows, k * width), dtype);
                let (x_stride, y_stride) = (k + 3, width + 5);
                let x = noise(k + rows, rows * x_stride);
                let residual = noise(rows, rows * y_stride);
                let weights_at = case.bytes(&weights);
                let (x_at, residual_at) = (case.floats(&x), case.floats(&residual));
                let y_at = case.room(rows * y_stride);
                let has_residual = (k + rows) % 2 == 1;
                case.call(
                    which,
                    &[
                        At(weights_at),
                        At(x_at),
                        At(y_at),
                        Int(k as i64),
                        Int(x_stride as i64 * 4),
                        Int(y_stride as i64 * 4),
                        if has_residual { At(residual_at) } else { Int(0) },
                        Int(rows as i64),
                    ],
                );
                let with = |fused| {
                    // What lies between rows stays as it was.
                    let mut y = vec![f32::from_bits(u32::MAX); rows * y_stride];
                    for t in 0..rows {
                        let row = &x[t * x_stride..][..k];
                        for (r, sum) in
                            panel::reference(&values, width, row, fused).into_iter().enumerate()
                        {
                            let at = t * y_stride + r;
                            y[at] = if has_residual { residual[at] + sum } else { sum };
                        }
                    }
                    case.with(y_at, &y)
                };
                expected.push((with(false), with(true), format!("{dtype} {width} {k} {rows}")));
                cases.push(case);
            }
        }
    }
    everywhere(&define, &cases, &|target, found| {
        for (found, (plain, fused, what)) in found.iter().zip(&expected) {
            let expected = if target.facts.fma { fused } else { plain };
            assert!(found == expected, "{} {what}", target.cpu);
        }
    });
}

/// Panels of a row-major matrix, k-major, the last one filled with zeros.
fn panels(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let width = panel::PANEL_ROWS as usize;
    let mut packed = vec![0.0; rows.next_multiple_of(width) * columns];
    for (r, row) in matrix.chunks(columns).enumerate() {
        for (k, x) in row.iter().enumerate() {
            packed[(r / width * columns + k) * width + r % width] = *x;
        }
    }
    packed
}

/// Length of the dot products of `linear`, outputs, and floats from row to row of the results.
const LINEAR: (usize, usize, usize) = (37, 96, 100);

/// What `linear` is asked: kernel, rows, panels, what is added.
#[derive(Clone, Debug)]
struct Linear {
    which: usize,
    rows: usize,
    panels: std::ops::Range<usize>,
    add: &'static str,
}

impl Linear {
    /// All ways to ask.
    fn table() -> Vec<Linear> {
        let mut table = vec![];
        for which in 0..DTYPES.len() {
            for rows in [1, 2, 7] {
                for panels in [0..3, 1..2, 2..3, 1..1] {
                    for add in ["nothing", "bias", "residual"] {
                        table.push(Linear { which, rows, panels: panels.clone(), add });
                    }
                }
            }
        }
        table
    }

    /// The case, and its memory afterwards without and with fused multiply-add.
    fn case(&self) -> (Case, [Vec<u8>; 2]) {
        let (k, outputs, stride) = LINEAR;
        let matrix = noise(self.which, outputs * k);
        let (weights, values) = stored(&panels(&matrix, outputs, k), DTYPES[self.which]);
        let (x, bias) = (noise(self.rows, self.rows * k), noise(5, outputs));
        let residual = noise(6, self.rows * stride);
        let mut case = Case::default();
        let weights_at = case.bytes(&weights);
        let (x_at, bias_at) = (case.floats(&x), case.floats(&bias));
        let (residual_at, y_at) = (case.floats(&residual), case.room(self.rows * stride));
        let if_added = |name, at| if self.add == name { At(at) } else { Int(0) };
        let (bias_at, residual_at) = (if_added("bias", bias_at), if_added("residual", residual_at));
        let sizes = [k, k * 4, stride * 4, self.rows, self.panels.start, self.panels.end];
        let sizes = sizes.map(|n| Int(n as i64));
        let places = [At(weights_at), At(x_at), At(y_at), bias_at, residual_at];
        case.call(self.which, &[&places[..], &sizes].concat());
        let with = |fused| {
            let mut y = vec![f32::from_bits(u32::MAX); self.rows * stride];
            for (t, row) in x.chunks(k).enumerate() {
                for column in self.panels.start * 32..self.panels.end * 32 {
                    let weights = &values[column / 32 * 32 * k..][..32 * k];
                    let sum = panel::reference(weights, 32, row, fused)[column % 32];
                    y[t * stride + column] = match self.add {
                        "bias" => bias[column] + sum,
                        "residual" => residual[t * stride + column] + sum,
                        _ => sum,
                    };
                }
            }
            case.with(y_at, &y)
        };
        let expected = [with(false), with(true)];
        (case, expected)
    }
}

#[test]
fn linear_adds_bias_or_residual() {
    let define = |e: &mut Emitter| -> Vec<Func> {
        let panels = DTYPES.map(|dtype| panel::define(e, dtype, panel::PANEL_ROWS));
        panels.iter().map(|panel| linear::define(e, &linear::Panels::floats(panel))).collect()
    };
    let table = Linear::table();
    let (cases, expected): (Vec<_>, Vec<_>) = table.iter().map(Linear::case).unzip();
    everywhere(&define, &cases, &|target, found| {
        for ((found, expected), what) in found.iter().zip(&expected).zip(&table) {
            let expected = &expected[usize::from(target.facts.fma)];
            assert!(found == expected, "{} {what:?}", target.cpu);
        }
    });
}

#[test]
fn embed_takes_rows_out_of_panels() {
    let define = |e: &mut Emitter| DTYPES.map(|dtype| embed::define(e, dtype)).to_vec();
    let vocab = 70;
    let (mut cases, mut expected) = (vec![], vec![]);
    for (which, dtype) in DTYPES.into_iter().enumerate() {
        for width in [1, 36, 64] {
            let mut case = Case::default();
            let (table, values) =
                stored(&panels(&noise(width, vocab * width), vocab, width), dtype);
            let tokens = [0i32, 69, 31, 32, 33, 69, 64];
            let tokens_bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
            let stride = width + 2;
            let (table_at, tokens_at) = (case.bytes(&table), case.bytes(&tokens_bytes));
            let y_at = case.room(tokens.len() * stride);
            case.call(
                which,
                &[
                    At(table_at),
                    At(tokens_at),
                    At(y_at),
                    Int(tokens.len() as i64),
                    Int(width as i64),
                    Int(stride as i64 * 4),
                ],
            );
            let mut y = vec![f32::from_bits(u32::MAX); tokens.len() * stride];
            for (t, token) in tokens.iter().map(|t| *t as usize).enumerate() {
                for k in 0..width {
                    y[t * stride + k] = values[(token / 32 * width + k) * 32 + token % 32];
                }
            }
            expected.push((case.with(y_at, &y), format!("{dtype} {width}")));
            cases.push(case);
        }
    }
    everywhere(&define, &cases, &|target, found| {
        for (found, (expected, what)) in found.iter().zip(&expected) {
            assert!(found == expected, "{} {what}", target.cpu);
        }
    });
}
