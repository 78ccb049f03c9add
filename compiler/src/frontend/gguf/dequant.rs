//! Tensor formats of checkpoints: one row each, and the function from its blocks to f32.
//!
//! The float operations and their order are those of ggml's reference code and of gguf-py, so the
//! results are equal bit for bit. Safetensors uses the first three rows.

use half::{bf16, f16};

/// How a format stores a run of elements.
#[derive(Debug)]
pub struct Format {
    /// Name, as ggml spells it.
    pub name: &'static str,
    /// Type number in GGUF files.
    pub id: u32,
    /// Elements of one block.
    pub elements: usize,
    /// Bytes of one block.
    pub bytes: usize,
    /// From whole blocks to f32; `None` for a format that is known, but not read.
    pub decode: Option<Decode>,
}

/// From whole blocks to their elements; both slices hold the same number of blocks.
pub type Decode = fn(&[u8], &mut [f32]);

const fn row(
    name: &'static str,
    id: u32,
    elements: usize,
    bytes: usize,
    decode: Option<Decode>,
) -> Format {
    Format { name, id, elements, bytes, decode }
}

/// Every tensor format of ggml.
pub const FORMATS: &[Format] = &[
    row("F32", 0, 1, 4, Some(f32_block)),
    row("F16", 1, 1, 2, Some(f16_block)),
    row("BF16", 30, 1, 2, Some(bf16_block)),
    row("Q8_0", 8, 32, 34, Some(q8_0)),
    row("Q4_0", 2, 32, 18, Some(q4_0)),
    row("Q4_1", 3, 32, 20, Some(q4_1)),
    row("Q5_0", 6, 32, 22, Some(q5_0)),
    row("Q5_1", 7, 32, 24, Some(q5_1)),
    row("Q4_K", 12, 256, 144, Some(q4_k)),
    row("Q5_K", 13, 256, 176, Some(q5_k)),
    row("Q6_K", 14, 256, 210, Some(q6_k)),
    row("Q8_1", 9, 32, 40, None),
    row("Q2_K", 10, 256, 84, None),
    row("Q3_K", 11, 256, 110, None),
    row("Q8_K", 15, 256, 292, None),
    row("IQ2_XXS", 16, 256, 66, None),
    row("IQ2_XS", 17, 256, 74, None),
    row("IQ3_XXS", 18, 256, 98, None),
    row("IQ1_S", 19, 256, 50, None),
    row("IQ4_NL", 20, 32, 18, None),
    row("IQ3_S", 21, 256, 110, None),
    row("IQ2_S", 22, 256, 82, None),
    row("IQ4_XS", 23, 256, 136, None),
    row("I8", 24, 1, 1, None),
    row("I16", 25, 1, 2, None),
    row("I32", 26, 1, 4, None),
    row("I64", 27, 1, 8, None),
    row("F64", 28, 1, 8, None),
    row("IQ1_M", 29, 256, 56, None),
    row("TQ1_0", 34, 256, 54, None),
    row("TQ2_0", 35, 256, 66, None),
    row("MXFP4", 39, 32, 17, None),
    row("NVFP4", 40, 64, 36, None),
    row("Q1_0", 41, 128, 18, None),
];

impl Format {
    /// The format of a name.
    pub fn named(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|f| f.name == name)
    }

    /// The format of a GGUF type number.
    pub fn of_id(id: u32) -> Option<&'static Format> {
        FORMATS.iter().find(|f| f.id == id)
    }

    /// The names of the formats that are read, for messages.
    pub fn readable() -> String {
        let names: Vec<&str> =
            FORMATS.iter().filter(|f| f.decode.is_some()).map(|f| f.name).collect();
        names.join(", ")
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn f32_block(src: &[u8], out: &mut [f32]) {
    for (x, out) in src.chunks_exact(4).zip(out) {
        *out = f32::from_le_bytes([x[0], x[1], x[2], x[3]]);
    }
}

fn f16_block(src: &[u8], out: &mut [f32]) {
    for (x, out) in src.chunks_exact(2).zip(out) {
        *out = f16::from_le_bytes([x[0], x[1]]).to_f32();
    }
}

fn bf16_block(src: &[u8], out: &mut [f32]) {
    for (x, out) in src.chunks_exact(2).zip(out) {
        *out = bf16::from_le_bytes([x[0], x[1]]).to_f32();
    }
}

/// `d: f16, q: i8[32]` → `q · d`.
fn q8_0(src: &[u8], out: &mut [f32]) {
    for (block, out) in src.chunks_exact(34).zip(out.chunks_exact_mut(32)) {
        let d = half(block, 0);
        for (out, &q) in out.iter_mut().zip(&block[2..]) {
            *out = f32::from(q as i8) * d;
        }
    }
}

/// `d: f16, nibbles[16]` → `d · (q - 8)`; low nibbles first, then high ones.
fn q4_0(src: &[u8], out: &mut [f32]) {
    for (block, out) in src.chunks_exact(18).zip(out.chunks_exact_mut(32)) {
        let d = half(block, 0);
        for (i, &byte) in block[2..].iter().enumerate() {
            out[i] = d * (f32::from(byte & 15) - 8.0);
            out[i + 16] = d * (f32::from(byte >> 4) - 8.0);
        }
    }
}

/// `d: f16, m: f16, nibbles[16]` → `d · q + m`.
fn q4_1(src: &[u8], out: &mut [f32]) {
    for (block, out) in src.chunks_exact(20).zip(out.chunks_exact_mut(32)) {
        let (d, m) = (half(block, 0), half(block, 2));
        for (i, &byte) in block[4..].iter().enumerate() {
            out[i] = d * f32::from(byte & 15) + m;
            out[i + 16] = d * f32::from(byte >> 4) + m;
        }
    }
}

/// The fifth bits of a block of 32: element `i` has bit `i`.
fn five_bits(nibbles: &[u8], high: u32, i: usize) -> f32 {
    let low = if i < 16 { nibbles[i] & 15 } else { nibbles[i - 16] >> 4 };
    f32::from(low | ((high >> i & 1) as u8) << 4)
}

/// `d: f16, high: u32, nibbles[16]` → `d · (q - 16)`.
fn q5_0(src: &[u8], out: &mut [f32]) {
    for (block, out) in src.chunks_exact(22).zip(out.chunks_exact_mut(32)) {
        let (d, high) = (half(block, 0), word(block, 2));
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * (five_bits(&block[6..], high, i) - 16.0);
        }
    }
}

/// `d: f16, m: f16, high: u32, nibbles[16]` → `d · q + m`.
fn q5_1(src: &[u8], out: &mut [f32]) {
    for (block, out) in src.chunks_exact(24).zip(out.chunks_exact_mut(32)) {
        let (d, m, high) = (half(block, 0), half(block, 2), word(block, 4));
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * five_bits(&block[8..], high, i) + m;
        }
    }
}

/// Scale and minimum of group `g` of 8, six bits each, packed into 12 bytes.
fn scale_min(packed: &[u8], g: usize) -> (f32, f32) {
    let (scale, min) = if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        let both = packed[g + 4];
        (both & 15 | packed[g - 4] >> 6 << 4, both >> 4 | packed[g] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// The nibble of element `i` of group `g` of 32: groups share bytes in pairs.
fn pair_nibble(nibbles: &[u8], g: usize, i: usize) -> u8 {
    let byte = nibbles[g / 2 * 32 + i];
    if g.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}

/// `d: f16, dmin: f16, scales[12], nibbles[128]` → `(d · scale) · q - dmin · min`, groups of 32.
fn q4_k(src: &[u8], out: &mut [f32]) {
    for (block, out) in src.chunks_exact(144).zip(out.chunks_exact_mut(256)) {
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&block[4..16], g);
            let (d, m) = (half(block, 0) * scale, half(block, 2) * min);
            for (i, out) in out.iter_mut().enumerate() {
                *out = d * f32::from(pair_nibble(&block[16..], g, i)) - m;
            }
        }
    }
}

/// As `q4_k`, with the fifth bits of element `i` of every group in byte `i` of `high[32]`.
fn q5_k(src: &[u8], out: &mut [f32]) {
    for (block, out) in src.chunks_exact(176).zip(out.chunks_exact_mut(256)) {
        let (high, nibbles) = (&block[16..48], &block[48..]);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&block[4..16], g);
            let (d, m) = (half(block, 0) * scale, half(block, 2) * min);
            for (i, out) in out.iter_mut().enumerate() {
                let q = pair_nibble(nibbles, g, i) | (high[i] >> g & 1) << 4;
                *out = d * f32::from(q) - m;
            }
        }
    }
}

/// `nibbles[128], high[64], scales: i8[16], d: f16` → `(d · scale) · (q - 32)`, scales for 16 each.
fn q6_k(src: &[u8], out: &mut [f32]) {
    for (block, out) in src.chunks_exact(210).zip(out.chunks_exact_mut(256)) {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let d = half(block, 208);
        for (i, out) in out.iter_mut().enumerate() {
            // Half of 128, quarter of 32 within it, element within that.
            let (h, s, e) = (i / 128, i / 32 % 4, i % 32);
            let byte = low[h * 64 + s % 2 * 32 + e];
            let nibble = if s < 2 { byte & 15 } else { byte >> 4 };
            let q = nibble | (high[h * 32 + e] >> (2 * s) & 3) << 4;
            *out = d * f32::from(scales[i / 16] as i8) * (f32::from(q) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn every_readable_format_equals_gguf_py_bit_for_bit() {
        let golden = include_str!("../../../tests/fixtures/dequant.txt");
        let mut tested: Vec<&str> = vec![];
        for line in golden.lines() {
            let [name, blocks, expected] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("a line has three fields: {line}");
            };
            let format = Format::named(name).unwrap();
            let (blocks, expected) = (bytes(blocks), bytes(expected));
            let mut found = vec![0f32; blocks.len() / format.bytes * format.elements];
            format.decode.unwrap()(&blocks, &mut found);
            let expected = expected.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_eq!(found.to_bits(), expected, "{name}, element {i}");
            }
            tested.push(name);
        }
        let readable = FORMATS.iter().filter(|f| f.decode.is_some());
        assert_eq!(tested.join(", "), readable.map(|f| f.name).collect::<Vec<_>>().join(", "));
    }

    #[test]
    fn names_and_numbers_are_unique() {
        for (i, a) in FORMATS.iter().enumerate() {
            assert!(
                FORMATS[i + 1..].iter().all(|b| a.name != b.name && a.id != b.id),
                "{}",
                a.name
            );
        }
    }
}
