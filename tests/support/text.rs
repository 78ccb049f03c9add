//! Texts for tokenizers: real ones, and seeded ones that look for trouble.

use crate::{root, shared};
use ingot::tokenizer::Tokenizer;
use std::fs;

/// Numbers that look random and are the same in every run.
pub struct Random(u64);

impl Random {
    /// Numbers of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }
}

/// Sources, prose, and what is beside the project, where it is.
pub fn real() -> Vec<u8> {
    let mut paths = vec![
        root().join("examples/models/train/shakespeare.txt"),
        root().join("targets/src/builder/val.rs"),
        root().join("examples/models/shakespeare/tokenizer.json"),
        root().join("Cargo.lock"),
        root().join("README.md"),
    ];
    paths.extend(shared("data/text/wikitext2-test.txt"));
    paths.iter().flat_map(|path| fs::read(path).expect("it is there")).collect()
}

const PARTS: &[&str] = &[
    "the",
    " quick",
    " brown",
    "Fox",
    "'s",
    "'S",
    "'ll",
    "'LL",
    "'ſ",
    "’s",
    "''",
    "'re",
    "I'VE",
    "don't",
    "fn main() {\n    println!(\"{}\", x);\n}\n",
    "\tif (a[i] != 0x7f) return -1;",
    "</div>",
    "==",
    "::",
    "—",
    "…",
    "naïve",
    "Straße",
    "ǅ",
    "ﬁ",
    "e\u{301}",
    "a\u{308}\u{323}",
    "\u{301}",
    "한국어",
    "ㄱ",
    "日本語",
    "中文字",
    "。",
    "　",
    "العربية",
    "مرحبا",
    "שלום",
    "हिन्दी",
    "ไทย",
    "Ελληνικά",
    "русский",
    "🦀",
    "👩‍👩‍👧‍👦",
    "🇫🇷",
    "❤️",
    "👍🏽",
    "𝔘𝔫𝔦",
    "𓀀",
    "\u{10ffff}",
    "\u{fffd}",
    "\u{feff}",
    "\u{ad}",
    "▁",
    "▁▁",
    "Ġ",
    "Ċ",
    "<0x0A>",
    "\u{0}",
    "\u{1}",
    "\u{4}",
    "\u{6}",
    "\u{13}",
    "\u{14}",
    "\u{16}",
    "\u{1d}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{200b}",
    "\u{3000}",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    " \n",
    "\u{b}",
    "\u{c}",
    "1",
    "12",
    "1234567",
    "3.14",
    "½",
    "Ⅷ",
    "²",
    "٣",
    "१२",
    "𝟘",
    "㊿",
    "1,000",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_",
    "|>",
    "<s>",
    "</s>",
    "<bos>",
    "<start_of_turn>",
    "<unk>",
    "http://example.org/?q=1&r=%20",
    "user@host",
    "C++",
    "#define",
    "snake_case",
    "camelCase",
    "$100",
];

/// A text of seeded parts, about `bytes` long: words of many scripts, code, white space, runs, what
/// is no UTF-8, and the model's own tokens in orders that no writer would choose.
pub fn fuzzed(tokenizer: &Tokenizer, random: &mut Random, bytes: usize) -> Vec<u8> {
    let mut text: Vec<u8> = vec![];
    let pieces = tokenizer.pieces();
    while text.len() < bytes {
        match random.below(16) {
            0..5 => text.extend(random.pick(PARTS).as_bytes()),
            5..9 => text.extend(&random.pick(pieces).bytes),
            9 => text.push(random.below(256) as u8),
            10 => text.extend(
                char::from_u32(random.below(0x11_0000) as u32)
                    .map(String::from)
                    .unwrap_or_default()
                    .bytes(),
            ),
            11 => text.extend(
                char::from_u32(random.below(0x3000) as u32)
                    .map(String::from)
                    .unwrap_or_default()
                    .bytes(),
            ),
            12 => {
                let part = random.pick(PARTS).as_bytes();
                let times = random.below(20);
                text.extend(part.repeat(times));
            }
            13 => {
                // The first bytes of a character.
                let part = random.pick(PARTS).as_bytes();
                let cut = random.below(part.len());
                text.extend(&part[..cut]);
            }
            14 => {
                (0..random.below(12)).for_each(|_| text.push(b"etaoinshr '\n1"[random.below(13)]))
            }
            _ => text.push(b' '),
        }
    }
    text
}

/// Long words: one letter, few letters, few tokens, spaces, digits, marks.
pub fn long_words(tokenizer: &Tokenizer, random: &mut Random, bytes: usize) -> Vec<Vec<u8>> {
    let of = |parts: &[&str], random: &mut Random| {
        let mut text = vec![];
        while text.len() < bytes {
            text.extend(random.pick(parts).as_bytes());
        }
        text
    };
    let mut texts: Vec<Vec<u8>> = [
        &["a"][..],
        &["a", "b"],
        &["a", "aa", "ab", "aab"],
        &[" "],
        &["\n", " "],
        &["7", "1"],
        &["!"],
        &["=", "-"],
        &["漢", "字"],
        &["🦀"],
        &["e\u{301}"],
        &["\u{301}"],
        &["th", "e", "re", "in", "ing", "er"],
        &["\u{4}", "a"],
    ]
    .iter()
    .map(|parts| of(parts, random))
    .collect();
    texts.push((0..bytes).map(|_| random.below(256) as u8).collect());
    texts.push((0..bytes).map(|_| b'a' + random.below(26) as u8).collect());
    let few: Vec<&[u8]> = (0..5)
        .map(|_| random.pick(tokenizer.pieces()).bytes.as_slice())
        .filter(|b| !b.is_empty())
        .collect();
    if !few.is_empty() {
        texts.push((0..bytes / 4).flat_map(|_| random.pick(&few).to_vec()).collect());
    }
    texts
}
