//! The functions of a library that turn text into tokens, alone in this process.

use ingot::tokenizer::Tokenizer;
use runtime::encode::{self, Encoder, Sections};
use targets::{Emitter, Target, jit};

type Encode = unsafe extern "C" fn(*const u8, usize, *mut i32, usize) -> i32;

/// `NAME_encode` of a tokenizer.
pub struct Codec {
    encode: Encode,
    _code: jit::Code,
}

/// The functions as an object file, with the prefix `codec`.
pub fn object(target: &Target, encoder: &Encoder) -> Vec<u8> {
    let mut module = targets::object::module(target, "codec");
    let mut e = Emitter::new(target, &mut module, "codec", false);
    let sections = Sections::emit(&mut e, encoder).expect("tables have room");
    encode::emit(&mut e, Some(&sections));
    let mut bytes = vec![];
    targets::object::write(module.finish(), None, None, &mut bytes).expect("memory takes it");
    bytes
}

impl Codec {
    /// Emits the functions for a target that this machine can run.
    pub fn new(target: &Target, encoder: &Encoder) -> Codec {
        let mut module = jit::module(target);
        let mut e = Emitter::new(target, &mut module, "codec", false);
        let sections = Sections::emit(&mut e, encoder).expect("tables have room");
        let f = encode::emit(&mut e, Some(&sections));
        let code = jit::Code::new(module);
        // SAFETY: the function was emitted with this signature.
        let encode = unsafe { std::mem::transmute::<*const u8, Encode>(code.function(f.id)) };
        Codec { encode, _code: code }
    }

    /// `NAME_encode` into `cap` tokens, or what it returns instead.
    pub fn encode_into(&self, text: &[u8], cap: usize) -> Result<Vec<i32>, i32> {
        const CANARY: i32 = 0x5a5a_5a5a;
        let mut tokens = vec![CANARY; cap + 1];
        // SAFETY: there is room for `cap` tokens.
        let n = unsafe { (self.encode)(text.as_ptr(), text.len(), tokens.as_mut_ptr(), cap) };
        assert_eq!(tokens[cap], CANARY, "nothing is written behind the end");
        if n < 0 {
            return Err(n);
        }
        tokens.truncate(n as usize);
        Ok(tokens)
    }

    /// Tokens that a text needs room for, as `NAME_encode` says it.
    pub fn room(&self, text: &[u8]) -> usize {
        // SAFETY: `cap` 0 writes nothing.
        let n = unsafe { (self.encode)(text.as_ptr(), text.len(), std::ptr::null_mut(), 0) };
        usize::try_from(n).expect("a number of tokens")
    }

    /// Tokens of a text.
    pub fn encode(&self, text: &[u8]) -> Vec<i32> {
        self.encode_into(text, self.room(text)).expect("there is room")
    }
}

/// What the `tokenizers` crate makes of a text that need not be UTF-8.
pub fn expected(tokenizer: &Tokenizer, text: &[u8]) -> Vec<i32> {
    let tokens = tokenizer.encode(&String::from_utf8_lossy(text), false).expect("it is text");
    tokens.into_iter().map(|token| token as i32).collect()
}
