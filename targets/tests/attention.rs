//! The cache, attention over it, and log-probabilities: against their plain references, and equal
//! bit for bit however the work is cut.

mod support;

use half::f16;
use ir::quant::{cache_row, quant_group};
use ir::{DType, IntFormat, RowRange};
use support::Arg::{At, Int};
use support::{Case, everywhere, floats, noise};
use targets::kernels::attention::Products;
use targets::kernels::kv_append::Slot;
use targets::kernels::{
    attention, elementwise, int_panel, kv_append, linear, panel, quant_rows, score,
};
use targets::{Arch, Emitter, Func};

/// Positions that are filled: more than a block of attention, no whole number of panels.
const FILLED: usize = 331;
const POSITIONS: u64 = 352;

fn slot(dtype: DType, heads: u64, head: u64) -> Slot {
    Slot { dtype, heads, head, positions: POSITIONS }
}

fn ints(bits: u8) -> DType {
    DType::Int(IntFormat::symmetric(bits, 0))
}

/// What the cache makes of a head.
fn rounded(x: &[f32], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F16 => x.iter().map(|x| f16::from_f32(*x).to_f32()).collect(),
        DType::Int(format) => {
            let (q, scale) = cache_row(x, format.bits);
            q.into_iter().map(|q| f32::from(q) * scale).collect()
        }
        _ => x.to_vec(),
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// An integer of the cache: the byte and, of 4 bits, the nibble.
fn integer(byte: u8, bits: u8, high: bool, arch: Arch) -> f32 {
    let q = match bits {
        8 => i16::from(byte),
        _ => i16::from(if high { byte >> 4 } else { byte & 15 }),
    };
    let half = 1 << (bits - 1);
    match arch {
        Arch::X64 => f32::from(q - half),
        Arch::A64 | Arch::R64 => f32::from(if q >= half { q - 2 * half } else { q }),
    }
}

/// Key and value of one head at a position, as the bytes of a cache have them.
fn stored(
    slot: &Slot,
    keys: &[u8],
    values: &[u8],
    at: (usize, usize),
    arch: Arch,
) -> [Vec<f32>; 2] {
    let (head, position) = at;
    let panel = kv_append::PANEL_POSITIONS as usize;
    let (p, lane) = (position / panel, position % panel);
    let width = slot.head as usize;
    let keys = &keys[head * slot.key_head_bytes() as usize + p * slot.key_panel_bytes() as usize..];
    let values = &values[head * slot.value_head_bytes() as usize..];
    let block = slot.value_width() as usize;
    let value_panel = |i: usize| {
        i / block * slot.value_block_bytes() as usize + p * slot.value_panel_bytes() as usize
    };
    let Some(bits) = slot.int_bits() else {
        let one = |bytes: &[u8], i: usize| match slot.dtype {
            DType::F16 => half(bytes, 2 * i),
            _ => floats(bytes, 4 * i, 1)[0],
        };
        let value = |i: usize| one(&values[value_panel(i)..], lane * block + i % block);
        return [
            (0..width).map(|i| one(keys, i * panel + lane)).collect(),
            (0..width).map(value).collect(),
        ];
    };
    let (quad, each) = (4 * panel, 32 / usize::from(bits));
    let key_scale = half(keys, width * panel * usize::from(bits) / 8 + 2 * lane);
    let key = |i: usize| {
        let byte = keys[i / each * quad + 4 * lane + i % 4];
        key_scale * integer(byte, bits, i % 8 >= 4, arch)
    };
    let scales = slot.value_blocks() as usize * slot.value_block_bytes() as usize;
    let value_scale = half(values, scales + 2 * position);
    let value = |i: usize| {
        let byte = values[value_panel(i) + lane / each * quad + 4 * (i % block) + lane % 4];
        value_scale * integer(byte, bits, lane % 8 >= 4, arch)
    };
    [(0..width).map(key).collect(), (0..width).map(value).collect()]
}

const SLOTS: [(u64, u64); 7] = [(1, 8), (2, 16), (1, 24), (3, 64), (1, 80), (1, 128), (1, 256)];

#[test]
fn kv_append_stores_each_element_in_its_place() {
    let slots: Vec<Slot> = [DType::F32, DType::F16, ints(8), ints(4)]
        .into_iter()
        .flat_map(|dtype| SLOTS.map(|(heads, head)| slot(dtype, heads, head)))
        .filter(|slot| slot.int_bits().is_none() || slot.head.is_multiple_of(16))
        .collect();
    let define = |e: &mut Emitter| -> Vec<Func> {
        let each = slots.iter().enumerate();
        each.map(|(i, slot)| kv_append::define(e, &format!("append_{i}"), *slot)).collect()
    };
    // Position of the first row, rows; the last calls write over what is there.
    const CALLS: [(usize, usize); 7] =
        [(0, 1), (1, 30), (31, 1), (32, 64), (96, 150), (200, 5), (36, 7)];
    const END: usize = 246;
    let new = |slot: &Slot, seed| noise(seed, END * (slot.heads * slot.head) as usize);
    let case = |(which, slot): (usize, &Slot)| {
        let mut case = Case::default();
        let width = (slot.heads * slot.head) as usize;
        let (k, v) = (case.floats(&new(slot, 1)), case.floats(&new(slot, 2)));
        let keys = case.bytes(&vec![0xff; slot.key_bytes() as usize]);
        let values = case.bytes(&vec![0xff; slot.value_bytes() as usize]);
        for (position, rows) in CALLS {
            let (from_k, from_v) = (k + position * width * 4, v + position * width * 4);
            // Two workers, one after the other: panels before and from the middle one on.
            let (first, end) = (position / 32, (position + rows - 1) / 32 + 1);
            for (first, end) in [(first, (first + end) / 2), ((first + end) / 2, end)] {
                let (first, end) = (Int(first as i64), Int(end as i64));
                let (rows, at) = (Int(rows as i64), Int(position as i64));
                let stride = Int(width as i64 * 4);
                let args = [At(from_k), At(from_v), At(keys), At(values), rows, at, stride];
                case.call(which, &[&args[..], &[first, end]].concat());
            }
        }
        (case, keys, values)
    };
    let made: Vec<(Case, usize, usize)> = slots.iter().enumerate().map(case).collect();
    let cases: Vec<Case> = made.iter().map(|(case, ..)| case.clone()).collect();
    // Integers differ between instruction sets, as those of weights do.
    for target in support::targets() {
        let found = support::run(&target, &define, &cases);
        for ((slot, (case, keys, values)), found) in slots.iter().zip(&made).zip(&found) {
            let parts =
                [(*keys, slot.key_bytes() as usize), (*values, slot.value_bytes() as usize)];
            assert!(case.only_changes(found, &parts));
            let (k, v) = (new(slot, 1), new(slot, 2));
            let (heads, width) = (slot.heads as usize, slot.head as usize);
            for position in 0..END {
                for head in 0..heads {
                    let at = (head, position);
                    let arch = target.facts.arch;
                    let row = stored(slot, &found[*keys..], &found[*values..], at, arch);
                    let source = (position * heads + head) * width;
                    let expected = [&k, &v].map(|new| rounded(&new[source..][..width], slot.dtype));
                    assert_eq!(row, expected, "{} {slot:?} {position} {head}", target.cpu);
                }
            }
            // What follows the last position in its panel is zero.
            if slot.int_bits().is_none() {
                for position in END..256 {
                    let at = (0, position);
                    let arch = target.facts.arch;
                    let row = stored(slot, &found[*keys..], &found[*values..], at, arch);
                    assert_eq!(row, [vec![0.0; width], vec![0.0; width]]);
                }
            }
        }
    }
}

/// Rows of a call: position of the first, how many.
const QUERIES: [(usize, usize); 8] =
    [(0, 1), (0, 5), (30, 4), (31, 1), (250, 13), (255, 2), (256, 1), (330, 1)];

/// KV heads, width of a head, query heads per KV head, a window, and a cap.
type Heads = (u64, u64, u64, Option<u64>, Option<f32>);

const SHAPES: [Heads; 15] = [
    (1, 8, 4, None, None),
    (2, 16, 1, None, None),
    (1, 24, 13, None, None),
    (2, 32, 3, None, None),
    (3, 64, 3, None, None),
    (1, 64, 1, None, None),
    (1, 80, 4, None, None),
    (2, 128, 3, None, None),
    (1, 256, 4, None, None),
    (2, 16, 3, Some(1), None),
    (1, 32, 13, Some(5), None),
    (2, 64, 2, Some(70), None),
    (1, 256, 4, Some(300), None),
    (1, 64, 3, None, Some(2.0)),
    (2, 32, 2, Some(70), Some(0.5)),
];

/// One shape: fills a cache, then asks for rows in several ways.
struct Attention {
    shape: attention::Shape,
    case: Case,
    /// Address of the queries, one row per position.
    q: usize,
    /// Results: position of the first row, rows, address.
    outs: Vec<(usize, usize, usize)>,
}

/// Functions of each shape: `kv_append`, `attention`, `quant_rows`.
const FUNCTIONS: usize = 3;

impl Attention {
    fn width(&self) -> usize {
        (self.shape.heads * self.shape.slot.head) as usize
    }

    fn new(index: usize, shape: attention::Shape) -> Attention {
        let slot = shape.slot;
        let mut case = Case::default();
        let kv = (slot.heads * slot.head) as usize;
        let (k, v) = (noise(index, FILLED * kv), noise(index + 99, FILLED * kv));
        let (k, v) = (case.floats(&k), case.floats(&v));
        let width = (shape.heads * slot.head) as usize;
        // Large enough for weights that differ much, small enough for many that count.
        let q: Vec<f32> = noise(index + 7, FILLED * width).iter().map(|x| x * 4.0).collect();
        let q = case.floats(&q);
        let keys = case.private(slot.key_bytes() as usize);
        let values = case.private(slot.value_bytes() as usize);
        let most = support::targets().iter().map(|t| shape.private_bytes(&t.facts)).max();
        let private = case.private(most.expect("there are targets") as usize);
        let append = [At(k), At(v), At(keys), At(values), Int(FILLED as i64), Int(0)];
        let panels = [Int(kv as i64 * 4), Int(0), Int(POSITIONS as i64 / 32)];
        case.call(FUNCTIONS * index, &[&append[..], &panels].concat());
        let (rows, row_bytes) = match slot.int_bits() {
            None => (q, width * 4),
            Some(_) => {
                let stride = quant_rows::row_stride(width as u64, slot.head) as usize;
                let to = case.bytes(&vec![0; FILLED * stride]);
                let counts = [Int(shape.heads as i64), Int(FILLED as i64)];
                let strides = [Int(width as i64 * 4), Int(stride as i64)];
                let args = [&[At(q), At(to)][..], &counts, &strides].concat();
                case.call(FUNCTIONS * index + 2, &args);
                (to, stride)
            }
        };
        let mut outs = vec![];
        for (position, count) in QUERIES {
            for workers in [1, 3] {
                let out = case.room(count * width);
                let from = At(rows + position * row_bytes);
                for worker in 0..workers {
                    let (count, at) = (Int(count as i64), Int(position as i64));
                    let args = [from, At(out), At(keys), At(values), count, at];
                    let strides = [Int(row_bytes as i64), Int(width as i64 * 4)];
                    let more = [At(private), Int(worker), Int(workers)];
                    let args = [&args[..], &strides, &more].concat();
                    case.call(FUNCTIONS * index + 1, &args);
                }
                outs.push((position, count, out));
            }
        }
        Attention { shape, case, q, outs }
    }

    /// One query head, as attention takes it.
    fn query(&self, head: usize, position: usize) -> Vec<f32> {
        let width = self.shape.slot.head as usize;
        let at = self.q + (position * self.width() + head * width) * 4;
        let q = floats(&self.case.memory, at, width);
        match self.shape.slot.int_bits() {
            None => q,
            Some(_) => {
                let (q, scale, _) = quant_group(&q);
                q.into_iter().map(|q| f32::from(q) * scale).collect()
            }
        }
    }

    /// What one query head sees: keys, or values, of the positions up to its own.
    fn seen(&self, seed: usize, head: usize, position: usize) -> Vec<f32> {
        let slot = self.shape.slot;
        let (kv, width) = ((slot.heads * slot.head) as usize, slot.head as usize);
        let kv_head = head / (self.shape.heads / slot.heads) as usize;
        let all = noise(seed, FILLED * kv);
        let row = |p: usize| rounded(&all[p * kv + kv_head * width..][..width], slot.dtype);
        let first = self.shape.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
        (first..=position).flat_map(row).collect()
    }

    fn check(&self, index: usize, cpu: &str, found: &[u8]) {
        let (width, head) = (self.width(), self.shape.slot.head as usize);
        let mut by_position = std::collections::HashMap::new();
        for &(first, rows, out) in &self.outs {
            for row in 0..rows {
                let position = first + row;
                let result = floats(found, out + row * width * 4, width);
                let bits: Vec<u32> = result.iter().map(|x| x.to_bits()).collect();
                let before = by_position.entry(position).or_insert_with(|| bits.clone());
                assert_eq!(*before, bits, "{cpu} {:?}: another cut at {position}", self.shape);
            }
        }
        // Weights in int8 are off by up to half of 1/127 of the largest in their group, either way.
        let ints = self.shape.slot.int_bits().is_some();
        // Of few positions each weighs more.
        let few = if self.shape.window.is_some() { 2.0 } else { 1.0 };
        let (bound, bound_of_mean) = if ints { (2e-2, few * 1e-3) } else { (3e-6, 3e-7) };
        let (mut sum, mut count) = (0.0, 0);
        for (position, bits) in by_position {
            for h in 0..self.shape.heads as usize {
                let q = self.query(h, position);
                let (keys, values) =
                    (self.seen(index, h, position), self.seen(index + 99, h, position));
                let expected = attention::reference(&self.shape, &q, &keys, &values);
                for (bits, expected) in bits[h * head..][..head].iter().zip(expected) {
                    let off = (f32::from_bits(*bits) - expected).abs();
                    assert!(off < bound, "{cpu} {:?} at {position}: {off}", self.shape);
                    (sum, count) = (sum + off, count + 1);
                }
            }
        }
        let mean = sum / count as f32;
        assert!(mean < bound_of_mean, "{cpu} {:?}: {mean} off in the mean", self.shape);
    }
}

#[test]
fn attention_is_softmax_of_scores_however_it_is_cut() {
    let shapes = [DType::F32, DType::F16, ints(8), ints(4)].into_iter().flat_map(|dtype| {
        SHAPES.map(|(kv_heads, head, group, window, cap)| attention::Shape {
            slot: slot(dtype, kv_heads, head),
            heads: kv_heads * group,
            scale: 1.0 / (head as f32).sqrt(),
            window,
            cap,
        })
    });
    let shapes = shapes.filter(|s| s.slot.int_bits().is_none() || s.slot.head.is_multiple_of(16));
    let all: Vec<Attention> =
        shapes.enumerate().map(|(i, shape)| Attention::new(i, shape)).collect();
    let define = |e: &mut Emitter| -> Vec<Func> {
        let mut functions = vec![];
        let mut panels = std::collections::HashMap::new();
        let mut int_panels = std::collections::HashMap::new();
        let mut quants = std::collections::HashMap::new();
        let softcap = elementwise::define_softcap(e);
        for (i, one) in all.iter().enumerate() {
            let slot = one.shape.slot;
            let ints = Products::ints(&slot, |shape| {
                let made = int_panels.entry(shape);
                made.or_insert_with(|| int_panel::define(e, shape)).clone()
            });
            let mut floats = |width| {
                let made = panels.entry((slot.dtype, width));
                made.or_insert_with(|| panel::define(e, slot.dtype, width)).clone()
            };
            let products = ints.unwrap_or_else(|| {
                let (keys, values) = (kv_append::PANEL_POSITIONS, slot.value_width());
                Products::floats(&floats(keys), &floats(values))
            });
            functions.push(kv_append::define(e, &format!("append_{i}"), slot));
            let (name, softcap) = (format!("attention_{i}"), one.shape.cap.map(|_| &softcap));
            functions.push(attention::define(e, &name, one.shape, &products, softcap));
            let group = slot.head.next_multiple_of(16);
            let quant = quants
                .entry(group)
                .or_insert_with(|| quant_rows::define(e, group, RowRange::Group));
            functions.push(quant.clone());
        }
        functions
    };
    let cases: Vec<Case> = all.iter().map(|one| one.case.clone()).collect();
    everywhere(&define, &cases, &|target, found| {
        for (i, (one, found)) in all.iter().zip(found).enumerate() {
            one.check(i, &target.cpu, found);
        }
    });
}

/// Rows of a head, and a cap of its logits.
const HEADS: [(usize, Option<f64>); 7] = [
    (5, None),
    (77, None),
    (128, None),
    (129, None),
    (1000, None),
    (77, Some(1.5)),
    (1000, Some(30.0)),
];
const WIDTH: usize = 24;
const ROWS: usize = 6;

/// A head of `vocab` rows, scored by two workers. Address of the results, and the targets.
fn score_case(index: usize, vocab: usize) -> (Case, usize, Vec<i32>) {
    let mut case = Case::default();
    let pieces = score::pieces(vocab as u64) as usize;
    // As panels; which numbers are in them is the same for any order.
    let w = case.floats(&noise(index, vocab.next_multiple_of(32) * WIDTH));
    let x = case.floats(&noise(index + 9, ROWS * WIDTH));
    let targets: Vec<i32> = (0..ROWS).map(|t| ((t * 53 + vocab - 1) % vocab) as i32).collect();
    let target_bytes: Vec<u8> = targets.iter().flat_map(|t| t.to_le_bytes()).collect();
    let targets_at = case.bytes(&target_bytes);
    let (chosen, partial) = (case.room(ROWS), case.room(pieces * ROWS * 2));
    let private = case.room(ROWS * score::PIECE as usize);
    let out = case.room(ROWS);
    let (rows, stride) = (Int(ROWS as i64), Int(WIDTH as i64 * 4));
    for (first, end) in [(0, pieces / 2), (pieces / 2, pieces)] {
        let args = [At(w), At(x), Int(WIDTH as i64), stride, rows, At(targets_at), At(chosen)];
        // Panels of floats want no room.
        let shares = [Int(0), Int(first as i64), Int(end as i64)];
        let more = [At(partial), At(private), shares[0], shares[1], shares[2]];
        case.call(0, &[&args[..], &more].concat());
    }
    for (first, end) in [(0, 2), (2, ROWS as i64)] {
        let args = [At(chosen), At(partial), rows, Int(first), Int(end), At(out)];
        case.call(1, &args);
    }
    (case, out, targets)
}

/// The log-probability of a target, in f64.
fn log_probability(
    index: usize,
    (vocab, cap): (usize, Option<f64>),
    row: usize,
    target: usize,
) -> f64 {
    let w = noise(index, vocab.next_multiple_of(32) * WIDTH);
    let x = noise(index + 9, ROWS * WIDTH);
    let logit = |r: usize| -> f64 {
        let weight = |k: usize| f64::from(w[(r / 32 * WIDTH + k) * 32 + r % 32]);
        let logit = (0..WIDTH).map(|k| weight(k) * f64::from(x[row * WIDTH + k])).sum();
        cap.map_or(logit, |cap| cap * (logit / cap).tanh())
    };
    let sum: f64 = (0..vocab).map(|r| logit(r).exp()).sum();
    logit(target) - sum.ln()
}

#[test]
fn score_is_log_softmax_of_the_targets() {
    for (i, (vocab, cap)) in HEADS.into_iter().enumerate() {
        let define = |e: &mut Emitter| -> Vec<Func> {
            let panel = panel::define(e, DType::F32, panel::PANEL_ROWS);
            let linear = linear::define(e, &linear::Panels::floats(&panel));
            let softcap = elementwise::define_softcap(e);
            let cap = cap.map(|cap| (&softcap, cap));
            let pieces = score::define_pieces(e, &linear, cap, vocab as u64);
            vec![pieces, score::define_merge(e, vocab as u64)]
        };
        let (case, out, targets) = score_case(i, vocab);
        everywhere(&define, &[case], &|target, found| {
            let scores = floats(&found[0], out, ROWS);
            for (row, (found, token)) in scores.iter().zip(&targets).enumerate() {
                let expected = log_probability(i, (vocab, cap), row, *token as usize);
                let off = (f64::from(*found) - expected).abs();
                assert!(off < 2e-6, "{} {vocab}: {off}", target.cpu);
            }
        });
    }
}
