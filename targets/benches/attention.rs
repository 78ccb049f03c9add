//! Speed of `attention` over a cache of int8: `cargo bench -p ingot-targets --bench attention`.
//!
//! SmolLM2-135M's shape: 30 layers, 3 KV heads, 9 query heads of 64. Decode at several depths, over the
//! caches of all layers in turn, so that they come from memory: microseconds a token, and billions of
//! bytes of cache per second. Prefill of 128 rows behind so many positions: microseconds a token.
//! Medians of several runs.

mod support;

use ir::{DType, IntFormat, RowRange};
use std::time::Instant;
use support::noise;
use targets::kernels::attention::{self, Products};
use targets::kernels::kv_append::{self, Slot};
use targets::kernels::{int_panel, quant_rows};
use targets::{Emitter, Target, jit};

const LAYERS: usize = 30;
const CHUNK: u64 = 128;
const POSITIONS: u64 = 2048;
const SLOT: Slot = Slot {
    dtype: DType::Int(IntFormat::symmetric(8, 0)),
    heads: 3,
    head: 64,
    positions: POSITIONS,
};
const SHAPE: attention::Shape =
    attention::Shape { slot: SLOT, heads: 9, scale: 0.125, window: None, cap: None };

type Append = extern "sysv64" fn(*const f32, *const f32, *mut u8, *mut u8, u64, u64, u64, u64, u64);
type QuantRows = extern "sysv64" fn(*const f32, *mut u8, u64, u64, u64, u64);
type Attention = extern "sysv64" fn(
    *const u8,
    *mut f32,
    *const u8,
    *const u8,
    u64,
    u64,
    u64,
    u64,
    *mut u8,
    u64,
    u64,
);

fn main() {
    let target = Target::native().expect("this machine is a target");
    let mut sink = jit::module(&target);
    let mut e = Emitter::new(&target, &mut sink, "b", false);
    let products = Products::ints(&SLOT, |shape| int_panel::define(&mut e, shape));
    let attention =
        attention::define(&mut e, "attention", SHAPE, &products.expect("integers"), None);
    let append = kv_append::define(&mut e, "append", SLOT);
    let quantise = quant_rows::define(&mut e, SLOT.head, RowRange::Group);
    let code = jit::Code::new(sink);
    // SAFETY: the functions take the parameters that their docs name.
    let (attention, append, quantise) = unsafe {
        (
            std::mem::transmute::<*const u8, Attention>(code.function(attention.id)),
            std::mem::transmute::<*const u8, Append>(code.function(append.id)),
            std::mem::transmute::<*const u8, QuantRows>(code.function(quantise.id)),
        )
    };
    let kv_width = SLOT.heads * SLOT.head;
    let new = [noise(1, POSITIONS * kv_width), noise(2, POSITIONS * kv_width)];
    let caches: Vec<[Vec<u8>; 2]> = (0..LAYERS)
        .map(|_| {
            let mut keys = vec![0u8; SLOT.key_bytes() as usize];
            let mut values = vec![0u8; SLOT.value_bytes() as usize];
            let [k, v] = [&new[0], &new[1]].map(|new| new.as_ptr());
            let (keys_at, values_at) = (keys.as_mut_ptr(), values.as_mut_ptr());
            append(k, v, keys_at, values_at, POSITIONS, 0, 4 * kv_width, 0, POSITIONS / 32);
            [keys, values]
        })
        .collect();
    let width = SHAPE.heads * SLOT.head;
    let stride = quant_rows::row_stride(width, SLOT.head);
    let mut q = vec![0u8; (CHUNK * stride) as usize];
    quantise(noise(3, CHUNK * width).as_ptr(), q.as_mut_ptr(), 9, CHUNK, 4 * width, stride);
    let mut out = vec![0f32; (CHUNK * width) as usize];
    let mut private = vec![0u8; SHAPE.private_bytes(&target.facts) as usize + 64];
    let start = private.as_ptr().align_offset(64);
    let private = private[start..].as_mut_ptr();
    let mut seconds_of_layers = |rows: u64, position: u64| {
        let mut one = || {
            let began = Instant::now();
            for [keys, values] in &caches {
                attention(
                    q.as_ptr(),
                    out.as_mut_ptr(),
                    keys.as_ptr(),
                    values.as_ptr(),
                    rows,
                    position,
                    stride,
                    4 * width,
                    private,
                    0,
                    1,
                );
            }
            began.elapsed().as_secs_f64()
        };
        let mut seconds: Vec<f64> = (0..31).map(|_| one()).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[15]
    };
    for depth in [128, 512, 2047] {
        let seconds = seconds_of_layers(1, depth);
        let bytes = LAYERS as u64 * (depth + 1) * (SLOT.key_bytes() + SLOT.value_bytes());
        let gbs = (bytes / POSITIONS) as f64 / seconds / 1e9;
        println!("decode   {depth:5} {:8.1} us {gbs:5.1} GB/s", seconds * 1e6);
    }
    for depth in [0, 384, 1920] {
        let seconds = seconds_of_layers(CHUNK, depth) / CHUNK as f64;
        println!("prefill  {depth:5} {:8.1} us", seconds * 1e6);
    }
}
