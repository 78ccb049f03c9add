//! AArch64 by encoding (Arm ARM, DDI 0487): the few instructions that assembled kernels are made of.
//! Registers are numbers, `x` for integers and addresses, `v` for vectors.

use super::Code;

/// Instructions so far.
#[derive(Default)]
pub struct A64 {
    words: Vec<u32>,
    text: String,
}

/// One method per instruction on whole vectors: name, its spelling, its encoding without registers.
macro_rules! vectors {
    ($($(#[$doc:meta])* $name:ident($($reg:ident << $at:literal),+) $text:literal $word:literal;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self, $($reg: u32),+) {
            self.put(format!($text), $word $(| ($reg << $at))+);
        })*
    };
}

impl A64 {
    vectors! {
        /// `to += a · bᵀ` of two rows of eight signed bytes each: four sums of 32 bits.
        smmla(to << 0, a << 5, b << 16) "smmla v{to}.4s, v{a}.16b, v{b}.16b" 0x4e80_a400;
        /// `to += a · b`, rounded once.
        fmla(to << 0, a << 5, b << 16) "fmla v{to}.4s, v{a}.4s, v{b}.4s" 0x4e20_cc00;
        /// `a · b`.
        fmul(to << 0, a << 5, b << 16) "fmul v{to}.4s, v{a}.4s, v{b}.4s" 0x6e20_dc00;
        /// `a + b`.
        fadd(to << 0, a << 5, b << 16) "fadd v{to}.4s, v{a}.4s, v{b}.4s" 0x4e20_d400;
        /// The low halves of two vectors.
        zip1(to << 0, a << 5, b << 16) "zip1 v{to}.2d, v{a}.2d, v{b}.2d" 0x4ec0_3800;
        /// The high halves of two vectors.
        zip2(to << 0, a << 5, b << 16) "zip2 v{to}.2d, v{a}.2d, v{b}.2d" 0x4ec0_7800;
        /// Integers of 32 bits to floats.
        scvtf(to << 0, from << 5) "scvtf v{to}.4s, v{from}.4s" 0x4e21_d800;
        /// Four halves to floats.
        fcvtl(to << 0, from << 5) "fcvtl v{to}.4s, v{from}.4h" 0x0e21_7800;
        /// The low half of a vector twice.
        low_twice(to << 0, from << 5) "dup v{to}.2d, v{from}.d[0]" 0x4e08_0400;
        /// The high half of a vector twice.
        high_twice(to << 0, from << 5) "dup v{to}.2d, v{from}.d[1]" 0x4e18_0400;
        /// Nothing.
        zero(to << 0) "movi v{to}.4s, #0" 0x4f00_0400;
        /// A vector from memory.
        load(to << 0, at << 5) "ldr q{to}, [x{at}]" 0x3dc0_0000;
        /// A vector to memory.
        store(from << 0, at << 5) "str q{from}, [x{at}]" 0x3d80_0000;
        /// Half a vector from memory; the address moves on.
        load_half(to << 0, at << 5) "ldr d{to}, [x{at}], #8" 0xfc40_8400;
        /// Two vectors from memory; the address moves on.
        load_two(to << 0, then << 10, at << 5) "ldp q{to}, q{then}, [x{at}], #32" 0xacc1_0000;
        /// `a + b`.
        add(to << 0, a << 5, b << 16) "add x{to}, x{a}, x{b}" 0x8b00_0000;
        /// The next vector's address.
        next(to << 0, from << 5) "add x{to}, x{from}, #16" 0x9100_4000;
        /// `to = from`.
        copy(to << 0, from << 16) "mov x{to}, x{from}" 0xaa00_03e0;
        /// A small number.
        number(to << 0, value << 5) "mov x{to}, #{value}" 0xd280_0000;
        /// One less; what `again` asks for.
        less_one(to << 0, from << 5) "subs x{to}, x{from}, #1" 0xf100_0400;
    }

    /// Where the next instruction stands.
    pub fn here(&self) -> usize {
        self.words.len()
    }

    /// Goes back to `at` until `less_one` has come to zero.
    pub fn again(&mut self, at: usize) {
        let back = at as i32 - self.here() as i32;
        self.put(format!("b.ne {}", 4 * back), 0x5400_0001 | ((back as u32 & 0x7_ffff) << 5));
    }

    /// Leaves `body` out where `x` is zero.
    pub fn unless_zero(&mut self, x: u32, body: impl FnOnce(&mut A64)) {
        let mut inner = A64::default();
        body(&mut inner);
        let over = inner.words.len() as u32 + 1;
        self.put(format!("cbz x{x}, {}", 4 * over), 0xb400_0000 | (over << 5) | x);
        self.words.extend(inner.words);
        self.text.push_str(&inner.text);
    }

    /// Ends the function.
    pub fn finish(mut self) -> Code {
        self.put("ret".into(), 0xd65f_03c0);
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Code { bytes, frame_bytes: 0, text: self.text }
    }

    fn put(&mut self, text: String, word: u32) {
        self.words.push(word);
        self.text.push_str(&format!("  {text}\n"));
    }
}
