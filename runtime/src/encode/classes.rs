//! Classes of characters, found by their bytes in three small tables.

use super::cut::{half, halves};
use cranelift_codegen::ir::types::I64;
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// Tables of a function from characters to bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Of each first byte of a character: of one byte its class; of two its row in `last`; of more
    /// its row in `inner`.
    pub first: Vec<u16>,
    /// Rows of 64, by the low bits of the next byte but the last: the next row.
    pub inner: Vec<u16>,
    /// Rows of 64, by the low bits of the last byte: the class.
    pub last: Vec<u8>,
}

/// Emits `class(at) -> i64`: of the character at an address.
pub fn emit(e: &mut Emitter, name: &str, classes: &Classes) -> Func {
    let first = e.constant(&format!("{name}.first"), halves(&classes.first), 64);
    let inner = e.constant(&format!("{name}.inner"), halves(&classes.inner), 64);
    let last = e.constant(&format!("{name}.last"), [&classes.last[..], &[0]].concat(), 64);
    let f = e.declare(&format!("{name}.class"), &[I64], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let byte = args[0].load_byte(0);
        let (row, at) = (k.var(half(k, first, byte)), k.var(args[0]));
        k.return_if(byte.ult(k.i64(0x80)), &[row.get()]);
        let next = || {
            at.add(k.i64(1));
            (row.get() << 6) + (at.get().load_byte(0) & 63)
        };
        k.if_(k.i64(0xdf).ult(byte), || {
            k.if_(k.i64(0xef).ult(byte), || row.set(half(k, inner, next())));
            row.set(half(k, inner, next()));
        });
        k.ret(&[(k.data(last) + next()).load_byte(0)]);
    });
    f
}

/// Where the character before an address starts.
pub fn before<'k>(k: &'k Kernel<'k>, at: Val<'k>) -> Val<'k> {
    let p = k.var(at - 1);
    k.while_(|| (p.get().load_byte(0) & 0xc0).is(0x80), || p.set(p.get() - 1));
    p.get()
}
