//! Statuses of the C interface: one table, from which the header and `NAME_error` are written.

use cranelift_codegen::ir::Type;
use cranelift_codegen::ir::types::{I32, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// Success.
pub const OK: i32 = 0;
/// An argument is out of its range.
pub const E_ARG: i32 = -1;
/// Memory is not aligned to 64 bytes.
pub const E_ALIGN: i32 = -2;
/// Memory is too small.
pub const E_SIZE: i32 = -3;
/// The environment is missing or too small.
pub const E_ENV: i32 = -4;
/// Scratch is missing, misaligned or too small.
pub const E_SCRATCH: i32 = -5;
/// The state is null, not initialised, or has no logits to sample from.
pub const E_STATE: i32 = -6;
/// A token is not in the vocabulary.
pub const E_TOKEN: i32 = -7;
/// The conversation would exceed the context.
pub const E_CONTEXT: i32 = -8;
/// `poll` cancelled the call.
pub const E_CANCELLED: i32 = -9;
/// The weights are missing, misaligned or another model's.
pub const E_WEIGHTS: i32 = -10;
/// A saved conversation of another model.
pub const E_MODEL: i32 = -11;
/// A saved conversation that is damaged.
pub const E_BLOB: i32 = -12;
/// The library has no tokenizer.
pub const E_TOKENIZER: i32 = -13;
/// The chat template has no such turn.
pub const E_TEMPLATE: i32 = -14;
/// Packed weights that are damaged.
pub const E_DAMAGED: i32 = -15;
/// The CPU lacks what the code was made for.
pub const E_CPU: i32 = -16;

/// One status.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Name, without the library's prefix.
    pub name: &'static str,
    /// Value.
    pub value: i32,
    /// What `NAME_error` says, and the header.
    pub message: &'static str,
}

const fn status(name: &'static str, value: i32, message: &'static str) -> Status {
    Status { name, value, message }
}

/// Every status, from 0 downwards without gaps.
pub const STATUSES: &[Status] = &[
    status("OK", OK, "ok"),
    status("E_ARG", E_ARG, "an argument is null or out of its range"),
    status("E_ALIGN", E_ALIGN, "memory is not aligned to 64 bytes"),
    status("E_SIZE", E_SIZE, "memory is too small"),
    status("E_ENV", E_ENV, "the environment is null, or its size field is too small"),
    status("E_SCRATCH", E_SCRATCH, "scratch is null, misaligned or too small"),
    status("E_STATE", E_STATE, "the state is null, not initialised, or has no logits"),
    status("E_TOKEN", E_TOKEN, "a token is not in the vocabulary"),
    status("E_CONTEXT", E_CONTEXT, "the context is full"),
    status("E_CANCELLED", E_CANCELLED, "cancelled by poll"),
    status("E_WEIGHTS", E_WEIGHTS, "the weights are missing, misaligned or of another model"),
    status("E_MODEL", E_MODEL, "saved by another model"),
    status("E_BLOB", E_BLOB, "the saved conversation is damaged or cut short"),
    status("E_TOKENIZER", E_TOKENIZER, "built without a tokenizer"),
    status("E_TEMPLATE", E_TEMPLATE, "the chat template has no such turn, or there is none"),
    status("E_DAMAGED", E_DAMAGED, "the weights are not as they were written"),
    status("E_CPU", E_CPU, "the CPU or the system lacks what the code was made for"),
];

const UNKNOWN: &str = "unknown status";

/// Leaves the function with `status`, an integer of type `ty`, when `condition` holds.
pub fn fail_if<'k>(k: &'k Kernel<'k>, condition: Val<'k>, status: i32, ty: Type) {
    let status = if ty == I64 { k.i64(status.into()) } else { k.i32(status) };
    k.return_if(condition, &[status]);
}

/// Emits `const char *NAME_error(int32_t status)`; it never returns NULL.
pub fn emit(emitter: &mut Emitter<'_>) -> Func {
    let table = emitter.constant("error.text", table(), 4);
    let f = emitter.declare_export("error", &[I32], &[I64]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (zero, unknown) = (k.i32(0), k.i32(STATUSES.len() as i32));
        let bad = args[0].lt(zero);
        let index = bad.select((zero - args[0]).umin(unknown), zero).uext(I64);
        let table = k.data(table);
        let offset = (table + (index << 2)).load_constant(I32, 0).uext(I64);
        k.ret(&[table + offset]);
    });
    f
}

/// `u32` offset of each message and of the unknown one, then the messages, each ended by a zero.
fn table() -> Vec<u8> {
    let messages: Vec<&str> = STATUSES.iter().map(|s| s.message).chain([UNKNOWN]).collect();
    let mut offset = messages.len() as u32 * 4;
    let mut bytes = vec![];
    for message in &messages {
        bytes.extend(offset.to_le_bytes());
        offset += message.len() as u32 + 1;
    }
    for message in messages {
        bytes.extend(message.as_bytes());
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::STATUSES;

    #[test]
    fn the_table_is_in_order_without_gaps() {
        for (i, s) in STATUSES.iter().enumerate() {
            assert_eq!(s.value, -(i as i32), "{}", s.name);
        }
    }
}
