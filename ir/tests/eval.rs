//! The reference interpreter: each operation on numbers that a person can check, and equalities
//! that hold bit for bit.

use ir::sample::{Sample, Seeded};
use ir::*;
use std::collections::HashMap;

/// Blobs by name.
struct Table(HashMap<&'static str, Tensor>);

impl Blobs for Table {
    fn load(&self, blob: &str) -> Result<Tensor, BlobError> {
        let missing = || BlobError { blob: blob.to_string(), why: "missing".into() };
        self.0.get(blob).cloned().ok_or_else(missing)
    }
}

type Blob = (&'static str, &'static [u64], &'static [f32]);

/// Rows of width 2 by token: what `@model` below embeds.
const TOKENS: Blob = ("e", &[3, 2], &[3.0, 4.0, 1.0, 0.0, -2.0, 0.5]);

/// Runs `body`, which computes %y: f32[T, `width`] from %x: f32[T, 2], after `lines`.
fn hidden(lines: &str, body: &str, width: u64, blobs: &[Blob], tokens: &[u32]) -> Vec<f32> {
    let text = format!(
        "ingot 1 model \"t\" {{vocab = 3, context = 8, eos = []}}
        weight $e : f32[3, 2] = blob \"e\"
        weight $h : f32[3, {width}] = blob \"h\"
        {lines}
        graph @model(%tokens: i32[T], %pos: i32[T]) -> f32[T, {width}] {{
          %x = embed %tokens, $e : f32[T, 2]
          {body}
          return %y
        }}
        graph @head(%x: f32[T, {width}]) -> f32[T, 3] {{
          %y = linear %x, $h : f32[T, 3]
          return %y
        }}"
    );
    let module = parse(&text).unwrap();
    let head = Tensor { dims: vec![3, width], data: vec![0.0; 3 * width as usize] };
    let named = blobs
        .iter()
        .chain([&TOKENS])
        .map(|&(name, dims, data)| (name, Tensor { dims: dims.to_vec(), data: data.to_vec() }));
    let blobs = Table(named.chain([("h", head)]).collect());
    Interpreter::new(&module, &blobs).unwrap().hidden(tokens).unwrap()
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= 1e-6 * (1.0 + e.abs()), "{found:?} is not {expected:?}");
    }
}

#[test]
fn embed_takes_rows() {
    let y = hidden("", "%y = add %x, %x : f32[T, 2]", 2, &[], &[2, 0]);
    assert_eq!(y, [-4.0, 1.0, 6.0, 8.0]);
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    let root = 12.5f32.sqrt();
    let body = "%y = rms_norm %x {eps = 0.0} : f32[T, 2]";
    close(&hidden("", body, 2, &[], &[0]), &[3.0 / root, 4.0 / root]);
    let body = "%y = rms_norm %x {eps = 3.5} : f32[T, 2]";
    close(&hidden("", body, 2, &[], &[0]), &[0.75, 1.0]);
    let gain = "weight $g : f32[2] = blob \"g\"";
    let body = "%y = rms_norm %x, $g {eps = 3.5} : f32[T, 2]";
    close(&hidden(gain, body, 2, &[("g", &[2], &[2.0, -1.0])], &[0]), &[1.5, -1.0]);
    let gain = "weight $g : f32[1] = blob \"g\"";
    let body = "%y = rms_norm %x, $g {eps = 0.0, group = 1} : f32[T, 2]";
    close(&hidden(gain, body, 2, &[("g", &[1], &[0.5])], &[2]), &[-0.5, 0.5]);
}

#[test]
fn linear_is_rows_times_the_transposed_matrix() {
    let lines = "weight $w : f32[3, 2] = blob \"w\" weight $b : f32[3] = blob \"b\"";
    let blobs: &[Blob] =
        &[("w", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), ("b", &[3], &[10.0, 20.0, 30.0])];
    let y = hidden(lines, "%y = linear %x, $w : f32[T, 3]", 3, blobs, &[0, 2]);
    assert_eq!(y, [3.0, 4.0, 7.0, -2.0, 0.5, -1.5]);
    let y = hidden(lines, "%y = linear %x, $w, $b : f32[T, 3]", 3, blobs, &[0]);
    assert_eq!(y, [13.0, 24.0, 37.0]);
}

#[test]
fn linear_sums_in_f64() {
    // 1e8 + 1 - 1e8 is 0 when the sum is f32.
    let lines = "weight $a : f32[4, 2] = blob \"a\" weight $w : f32[1, 4] = blob \"w\"";
    let a: Blob = ("a", &[4, 2], &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    let w: Blob = ("w", &[1, 4], &[1e8, 1.0, -1e8, 0.0]);
    let body = "%a = linear %x, $a : f32[T, 4] %y = linear %a, $w : f32[T, 1]";
    assert_eq!(hidden(lines, body, 1, &[a, w], &[1]), [1.0]);
}

#[test]
fn unpermute_and_cast_are_applied() {
    // Rows come 0, h/2, 1, h/2 + 1 and leave 0, 1, h/2, h/2 + 1; 2049 is no f16.
    let lines = "weight $w : f16[4, 2] = blob \"w\" via unpermute(1), cast(f16)";
    let w: Blob = ("w", &[4, 2], &[1.0, 0.0, 3.0, 0.0, 2.0, 0.0, 2049.0, 0.0]);
    let y = hidden(lines, "%y = linear %x, $w : f32[T, 4]", 4, &[w], &[1]);
    assert_eq!(y, [1.0, 2.0, 3.0, 2048.0]);
}

#[test]
fn scales_multiply_and_divide_rows_and_columns() {
    let lines =
        "weight $s : f32[2] = factors \"TL\" weight $t : f32[4] = factors \"TL\" via repeat(1, 2)
                 weight $w : f32[4, 2] = blob \"w\" via scale_in($s), unscale_out($t)";
    // T is 2, L is 1/2; the rows are divided by 2, 2, 1/2, 1/2.
    let w: Blob = ("w", &[4, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
    let y = hidden(lines, "%y = linear %x, $w : f32[T, 4]", 4, &[w], &[0]);
    assert_eq!(y, [3.0, 1.0, 12.0, 4.0]);
}

#[test]
fn rotations_turn_what_a_matrix_reads_or_writes() {
    let (lines, w) = ("weight $r : f32[2, 2] = blob \"r\"", ("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    // (a, b) · R = (-b, a).
    let r: Blob = ("r", &[2, 2], &[0.0, 1.0, -1.0, 0.0]);
    let w: Blob = (w.0, w.1, w.2);
    let body = "%y = linear %x, $w : f32[T, 2]";
    let turned = format!("{lines} weight $w : f32[2, 2] = blob \"w\" via rotate_in($r)");
    assert_eq!(hidden(&turned, body, 2, &[w, r], &[1]), [-2.0, -4.0]);
    let turned = format!("{lines} weight $w : f32[2, 2] = blob \"w\" via rotate_out($r)");
    assert_eq!(hidden(&turned, body, 2, &[w, r], &[1]), [-3.0, 1.0]);
    // A bias is turned like what it is added to.
    let turned = format!(
        "{lines} weight $w : f32[2, 2] = eye weight $b : f32[2] = blob \"b\" via rotate_out($r)"
    );
    let body = "%y = linear %x, $w, $b : f32[T, 2]";
    assert_eq!(hidden(&turned, body, 2, &[w, r, ("b", &[2], &[5.0, 7.0])], &[1]), [-6.0, 5.0]);
}

#[test]
fn hadamard_mixes_blocks_of_a_row() {
    let root = 0.5f32.sqrt();
    let y = hidden("", "%y = hadamard %x {size = 2} : f32[T, 2]", 2, &[], &[0, 1]);
    close(&y, &[7.0 * root, -root, root, root]);
    assert_eq!(hidden("", "%y = hadamard %x {size = 1} : f32[T, 2]", 2, &[], &[0]), [3.0, 4.0]);
    // The same as a matrix of the same order, by the fast transform and as numbers.
    for via in ["", " via cast(f32)"] {
        let lines = format!(
            "weight $t : f32[2, 2] = hadamard{via} weight $w : f32[2, 2] = eye via rotate_out($t)"
        );
        let y = hidden(&lines, "%y = linear %x, $w : f32[T, 2]", 2, &[], &[0]);
        close(&y, &[7.0 * root, -root]);
    }
}

#[test]
fn rope_turns_pairs_half_a_head_apart() {
    let body = "%y = rope %x, %pos {head = 2, theta = 10000.0} : f32[T, 2]";
    let y = hidden("", body, 2, &[], &[0, 1, 0]);
    let (s1, c1, s2, c2) = (1f32.sin(), 1f32.cos(), 2f32.sin(), 2f32.cos());
    close(&y, &[3.0, 4.0, c1, s1, 3.0 * c2 - 4.0 * s2, 4.0 * c2 + 3.0 * s2]);
    let body = "%y = rope %x, %pos {head = 2, theta = 10000.0, scaling = linear, factor = 2.0} \
                : f32[T, 2]";
    close(&hidden("", body, 2, &[], &[1, 1]), &[1.0, 0.0, 0.5f32.cos(), 0.5f32.sin()]);
    // A head of 4: the second pair turns by 1/sqrt(theta) per position.
    let lines = "weight $w : f32[4, 2] = blob \"w\"";
    let w: Blob = ("w", &[4, 2], &[1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let body = "%a = linear %x, $w : f32[T, 4] \
                %y = rope %a, %pos {head = 4, theta = 100.0} : f32[T, 4]";
    let y = hidden(lines, body, 4, &[w], &[1, 1]);
    close(&y[4..], &[c1, 0.1f32.cos(), s1, 0.1f32.sin()]);
}

#[test]
fn llama3_scaling_divides_low_frequencies_only() {
    let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 };
    let plain = Rope { head: 64, theta: 500000.0, scaling: RopeScaling::None }.frequencies();
    let scaled = Rope { head: 64, theta: 500000.0, scaling }.frequencies();
    assert_eq!(plain[0], scaled[0]);
    assert_eq!(plain[31] / 8.0, scaled[31]);
    assert!(plain.iter().zip(&scaled).all(|(p, s)| p / 8.0 <= *s && s <= p));
}

#[test]
fn attention_averages_values_by_scores() {
    // One head of width 2, scale 0: every position weighs the same.
    let lines = "cache ^c : kv.f32[1, 2]";
    let body = "%c = kv_append ^c, %x, %x, %pos : kv.f32[1, 2] \
                %y = attention %x, %c, %pos {heads = 1, scale = 0.0} : f32[T, 2]";
    close(&hidden(lines, body, 2, &[], &[0, 1, 2]), &[3.0, 4.0, 2.0, 2.0, 2.0 / 3.0, 1.5]);
    // Scale 1: softmax(1·3, 1·1) over the values of tokens 0 and 1.
    let body = body.replace("scale = 0.0", "scale = 1.0");
    let share = 1.0 / (1.0 + (-2f32).exp());
    let y = hidden(lines, &body, 2, &[], &[0, 1]);
    close(&y, &[3.0, 4.0, 3.0 * share + (1.0 - share), 4.0 * share]);
}

#[test]
fn a_window_shows_the_last_positions() {
    let lines = "cache ^c : kv.f32[1, 2]";
    let body = "%c = kv_append ^c, %x, %x, %pos : kv.f32[1, 2] \
                %y = attention %x, %c, %pos {heads = 1, scale = 0.0, window = 2} : f32[T, 2]";
    close(&hidden(lines, body, 2, &[], &[0, 1, 2]), &[3.0, 4.0, 2.0, 2.0, -0.5, 0.25]);
    let body = body.replace("window = 2", "window = 1");
    close(&hidden(lines, &body, 2, &[], &[0, 1, 2]), &[3.0, 4.0, 1.0, 0.0, -2.0, 0.5]);
}

#[test]
fn query_heads_share_kv_heads_in_order() {
    // Two KV heads of width 1 (1 and 0 for token 1), four query heads.
    let lines = "cache ^c : kv.f32[2, 1] weight $w : f32[4, 2] = blob \"w\"";
    let w: Blob = ("w", &[4, 2], &[0.0; 8]);
    let body = "%q = linear %x, $w : f32[T, 4] \
                %c = kv_append ^c, %x, %x, %pos : kv.f32[2, 1] \
                %y = attention %q, %c, %pos {heads = 4, scale = 1.0} : f32[T, 4]";
    assert_eq!(hidden(lines, body, 4, &[w], &[1]), [1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn an_f16_cache_rounds_and_saturates() {
    let lines = "cache ^c : kv.f16[1, 2] weight $w : f32[2, 2] = blob \"w\"";
    let w: Blob = ("w", &[2, 2], &[2049.0, 0.0, -1e6, 0.0]);
    let body = "%v = linear %x, $w : f32[T, 2] \
                %c = kv_append ^c, %x, %v, %pos : kv.f16[1, 2] \
                %y = attention %x, %c, %pos {heads = 1, scale = 1.0} : f32[T, 2]";
    assert_eq!(hidden(lines, body, 2, &[w], &[1]), [2048.0, -65504.0]);
}

#[test]
fn silu_mul_gates() {
    let y = hidden("", "%y = silu_mul %x, %x : f32[T, 2]", 2, &[], &[0, 2]);
    let silu = |x: f32| x / (1.0 + (-x).exp()) * x;
    close(&y, &[silu(3.0), silu(4.0), silu(-2.0), silu(0.5)]);
}

#[test]
fn gelu_mul_gates() {
    let y = hidden("", "%y = gelu_mul %x, %x : f32[T, 2]", 2, &[], &[0, 2]);
    let gelu = |x: f32| {
        let u = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + u.tanh()) * x
    };
    close(&y, &[gelu(3.0), gelu(4.0), gelu(-2.0), gelu(0.5)]);
}

#[test]
fn scale_multiplies() {
    let y = hidden("", "%y = scale %x {by = -0.5} : f32[T, 2]", 2, &[], &[0, 2]);
    close(&y, &[-1.5, -2.0, 1.0, -0.25]);
}

#[test]
fn plus_adds_to_what_is_stored() {
    let lines = "weight $g : f32[2] = blob \"g\" via plus(1)";
    let body = "%y = rms_norm %x, $g {eps = 0.0} : f32[T, 2]";
    let rms = 12.5f32.sqrt();
    close(&hidden(lines, body, 2, &[("g", &[2], &[0.5, -1.0])], &[0]), &[4.5 / rms, 0.0]);
}

fn samples() -> Vec<Sample> {
    let base = Sample::default();
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 16 };
    vec![
        base.clone(),
        Sample { bias: true, qk_norm: true, tied: false, scaling: llama3, ..base.clone() },
        Sample { cache: DType::F32, dtype: DType::BF16, kv_heads: 4, ..base.clone() },
        Sample { shared: 2, layers: 4, kv_heads: 1, ..base },
        Sample { layers: 3, ..Sample::gemma() },
    ]
}

const PROMPT: &[u32] = &[1, 7, 3, 3, 40, 11, 0, 47, 5];

#[test]
fn prefill_equals_single_steps_bit_for_bit() {
    for sample in samples() {
        let module = sample.module().unwrap();
        let blobs = Seeded::new(&module, 7);
        let whole = Interpreter::new(&module, &blobs).unwrap().run(PROMPT).unwrap();
        for chunk in [1, 2, 4] {
            let mut interpreter = Interpreter::new(&module, &blobs).unwrap();
            let parts = PROMPT.chunks(chunk).flat_map(|t| interpreter.run(t).unwrap());
            assert_eq!(parts.collect::<Vec<f32>>(), whole, "chunks of {chunk}, {sample:?}");
            assert_eq!(interpreter.position(), PROMPT.len());
        }
        assert!(whole.iter().all(|x| x.is_finite()));
        assert!(whole.iter().any(|x| x.abs() > 0.01));
    }
}

#[test]
fn shared_layers_equal_unrolled_ones_bit_for_bit() {
    let shared = Sample { shared: 2, layers: 4, ..Sample::default() };
    let unrolled = Sample { repeated: true, ..shared.clone() };
    let [shared, unrolled] = [shared, unrolled].map(|s| s.module().unwrap());
    assert!(shared.weights.len() < unrolled.weights.len());
    let blobs = Seeded::new(&unrolled, 3);
    let one = Interpreter::new(&shared, &blobs).unwrap().run(PROMPT).unwrap();
    let two = Interpreter::new(&unrolled, &blobs).unwrap().run(PROMPT).unwrap();
    assert_eq!(one, two);
}

#[test]
fn truncating_forgets() {
    let module = Sample::default().module().unwrap();
    let blobs = Seeded::new(&module, 1);
    let mut interpreter = Interpreter::new(&module, &blobs).unwrap();
    let first = interpreter.run(PROMPT).unwrap();
    interpreter.truncate(4);
    assert_eq!(interpreter.position(), 4);
    interpreter.truncate(100);
    assert_eq!(interpreter.position(), 4);
    let vocab = module.meta.vocab as usize;
    assert_eq!(interpreter.run(&PROMPT[4..]).unwrap(), first[4 * vocab..]);
}

#[test]
fn hidden_states_and_logits_fit_together() {
    let module = Sample::default().module().unwrap();
    let blobs = Seeded::new(&module, 1);
    let mut interpreter = Interpreter::new(&module, &blobs).unwrap();
    let hidden = interpreter.hidden(PROMPT).unwrap();
    assert_eq!(hidden.len(), PROMPT.len() * 16);
    let last = interpreter.logits(&hidden[hidden.len() - 16..]).unwrap();
    let all = Interpreter::new(&module, &blobs).unwrap().run(PROMPT).unwrap();
    assert_eq!(last, all[all.len() - 48..]);
    assert!(matches!(interpreter.logits(&hidden[1..]), Err(EvalError::Rows { found: 143, .. })));
    assert!(matches!(interpreter.logits(&[]), Err(EvalError::Rows { .. })));
}

#[test]
fn bad_calls_are_errors_and_change_nothing() {
    let module = Sample { context: 10, ..Sample::default() }.module().unwrap();
    let blobs = Seeded::new(&module, 1);
    let mut interpreter = Interpreter::new(&module, &blobs).unwrap();
    assert!(matches!(interpreter.run(&[]), Err(EvalError::Empty)));
    assert!(matches!(interpreter.run(&[1, 48]), Err(EvalError::Token { token: 48, vocab: 48 })));
    assert!(matches!(interpreter.run(&[1, u32::MAX]), Err(EvalError::Token { .. })));
    interpreter.run(PROMPT).unwrap();
    let full = interpreter.run(&[1, 1]).unwrap_err().to_string();
    assert_eq!(full, "2 tokens at position 9 exceed the context of 10");
    assert_eq!(interpreter.position(), 9);
    interpreter.run(&[1]).unwrap();
    assert!(matches!(interpreter.run(&[1]), Err(EvalError::Context { .. })));
}

#[test]
fn bad_modules_and_blobs_are_errors() {
    let mut module = Sample::default().module().unwrap();
    let blobs = Seeded::new(&module, 1);
    module.weights[0].source = "gone".into();
    assert!(matches!(Interpreter::new(&module, &blobs), Err(EvalError::Blob(_))));
    module.weights[0].source = "l0.wq".into();
    let error = Interpreter::new(&module, &blobs).err().unwrap().to_string();
    assert_eq!(error, "l0.wq: found shape [16, 16], expected [48, 16]");
    module.meta.vocab = 0;
    assert!(matches!(Interpreter::new(&module, &blobs), Err(EvalError::Invalid(_))));
    let short = Tensor { dims: vec![48, 16], data: vec![0.0; 3] };
    let module = Sample::default().module().unwrap();
    let error = Interpreter::new(&module, &Table([("embed", short)].into())).err().unwrap();
    assert!(matches!(error, EvalError::Blob(_)), "{error}");
}
