//! `NAME_position`, `NAME_truncate`, `NAME_save` and `NAME_load`: a conversation as a thing.
//!
//! A saved conversation is a header, the tokens, the logits if they are valid, and of each cache
//! slot only what is used: whole panels of keys and values up to the position. Every
//! part is a multiple of 16 bytes, so that copies have no tails; padding is zero. Loading checks
//! everything before it writes anything.

use crate::errors::{E_ALIGN, E_ARG, E_BLOB, E_CPU, E_MODEL, E_SIZE, OK, fail_if};
use crate::state::{
    ALIGN, CacheSlot, DRAWS, HEADER_BYTES, LOGITS_VALID, MAGIC, PANEL, POSITION, SEED, StateLayout,
    VARIANT, check,
};
use cranelift_codegen::ir::types::{I8X16, I32, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// Offsets of a saved conversation's header.
mod blob {
    /// `u64`: "INGOTSAV".
    pub const MAGIC: i32 = 0;
    /// `u64`: identity of the state that was saved.
    pub const IDENTITY: i32 = 8;
    /// `u64`: bytes in all.
    pub const BYTES: i32 = 16;
    /// `u32`: tokens held.
    pub const POSITION: i32 = 24;
    /// `u32`: 1 if the logits are there.
    pub const FLAGS: i32 = 28;
    /// `u64`: seed of the generator.
    pub const SEED: i32 = 32;
    /// `u64`: draws taken.
    pub const DRAWS: i32 = 40;
    /// `u64`: over everything but this field and the next.
    pub const CHECKSUM: i32 = 48;
    /// `u64`: zero.
    pub const RESERVED: i32 = 56;
    /// Bytes of the header.
    pub const HEADER_BYTES: i64 = 64;
    /// What `MAGIC` holds.
    pub const INGOTSAV: i64 = i64::from_le_bytes(*b"INGOTSAV");
}

/// Emits the four functions; returns them in the order of this file's first line. `variant` is that of
/// `cpu::emit_variant`.
pub fn emit(
    emitter: &mut Emitter<'_>,
    layout: &StateLayout,
    checksum: &Func,
    variant: &Func,
) -> [Func; 4] {
    let copy = emit_copy(emitter);
    [
        emit_position(emitter, layout),
        emit_truncate(emitter, layout),
        emit_save(emitter, layout, &copy, checksum),
        emit_load(emitter, layout, &copy, checksum, variant),
    ]
}

fn emit_position(emitter: &mut Emitter<'_>, layout: &StateLayout) -> Func {
    let f = emitter.declare_export("position", &[I64], &[I32]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let state = args[0];
        k.return_if(state.is(0), &[k.i32(0)]);
        let ours = state.load(I64, MAGIC).is(layout.identity as i64);
        k.ret(&[ours.select(state.load(I32, POSITION), k.i32(0))]);
    });
    f
}

fn emit_truncate(emitter: &mut Emitter<'_>, layout: &StateLayout) -> Func {
    let f = emitter.declare_export("truncate", &[I64, I32], &[I32]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (state, position) = (args[0], args[1]);
        check(k, layout, state, I32);
        let now = state.load(I32, POSITION);
        fail_if(k, now.ult(position), E_ARG, I32);
        k.if_(now.ne(position), || {
            state.store(POSITION, position);
            state.store(LOGITS_VALID, k.i32(0));
        });
        k.ret(&[k.i32(OK)]);
    });
    f
}

fn emit_save(
    emitter: &mut Emitter<'_>,
    layout: &StateLayout,
    copy: &Func,
    checksum: &Func,
) -> Func {
    let f = emitter.declare_export("save", &[I64, I64, I64], &[I64]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (state, out, cap) = (args[0], args[1], args[2]);
        check(k, layout, state, I64);
        let position = state.load(I32, POSITION);
        let valid = state.load(I32, LOGITS_VALID);
        let used = Used::new(position.uext(I64), valid);
        let bytes = used.blob_bytes(layout);
        k.return_if(cap.is(0), &[bytes]);
        fail_if(k, out.is(0), E_ARG, I64);
        fail_if(k, cap.ult(bytes), E_SIZE, I64);

        let zero = k.i64(0);
        for (offset, value) in [
            (blob::MAGIC, k.i64(blob::INGOTSAV)),
            (blob::IDENTITY, k.i64(layout.identity as i64)),
            (blob::BYTES, bytes),
            (blob::POSITION, position),
            (blob::FLAGS, valid),
            (blob::SEED, state.load(I64, SEED)),
            (blob::DRAWS, state.load(I64, DRAWS)),
            (blob::RESERVED, zero),
        ] {
            out.store(offset, value);
        }
        used.each_part(k, layout, &|part| {
            let to = out + part.blob;
            k.call(copy, &[to, state + part.state, part.bytes]);
            k.each(part.content, part.bytes, 4, |i| (to + i).store(0, k.i32(0)));
        });
        out.store(blob::CHECKSUM, k.call(checksum, &[out, bytes])[0]);
        k.ret(&[bytes]);
    });
    f
}

fn emit_load(
    emitter: &mut Emitter<'_>,
    layout: &StateLayout,
    copy: &Func,
    checksum: &Func,
    variant: &Func,
) -> Func {
    let f = emitter.declare_export("load", &[I64, I64, I64], &[I32]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (state, from, bytes) = (args[0], args[1], args[2]);
        fail_if(k, state.is(0) | from.is(0), E_ARG, I32);
        fail_if(k, (state & (ALIGN as i64 - 1)).is_not(0), E_ALIGN, I32);
        let used = check_blob(k, layout, from, bytes, checksum);
        // The conversation may have begun on another machine.
        let variant = k.call(variant, &[])[0];
        fail_if(k, variant.lt(k.i32(0)), E_CPU, I32);

        let zero = k.i64(0);
        for offset in (0..HEADER_BYTES as i32).step_by(8) {
            state.store(offset, zero);
        }
        used.each_part(k, layout, &|part| {
            k.call(copy, &[state + part.state, from + part.blob, part.bytes]);
        });
        state.store(VARIANT, variant);
        state.store(POSITION, from.load(I32, blob::POSITION));
        state.store(LOGITS_VALID, from.load(I32, blob::FLAGS));
        state.store(SEED, from.load(I64, blob::SEED));
        state.store(DRAWS, from.load(I64, blob::DRAWS));
        state.store(MAGIC, k.i64(layout.identity as i64));
        k.ret(&[k.i32(OK)]);
    });
    f
}

/// Leaves the function with an error unless `bytes` at `from` begin with a conversation that fits
/// `layout`.
fn check_blob<'k>(
    k: &'k Kernel<'k>,
    layout: &StateLayout,
    from: Val<'k>,
    bytes: Val<'k>,
    checksum: &Func,
) -> Used<'k> {
    let damaged_if = |condition| fail_if(k, condition, E_BLOB, I32);
    damaged_if(bytes.ult(k.i64(blob::HEADER_BYTES)));
    damaged_if(from.load(I64, blob::MAGIC).is_not(blob::INGOTSAV));
    let theirs = from.load(I64, blob::IDENTITY).is_not(layout.identity as i64);
    fail_if(k, theirs, E_MODEL, I32);

    let position = from.load(I32, blob::POSITION).uext(I64);
    let valid = from.load(I32, blob::FLAGS);
    damaged_if(k.i64(layout.context as i64).ult(position));
    damaged_if(k.i32(1).ult(valid));
    damaged_if(position.is(0) & valid.is(1));
    damaged_if(from.load(I64, blob::RESERVED).is_not(0));
    let used = Used::new(position, valid);
    let whole = used.blob_bytes(layout);
    damaged_if(from.load(I64, blob::BYTES).ne(whole) | bytes.ult(whole));
    damaged_if(from.load(I64, blob::CHECKSUM).ne(k.call(checksum, &[from, whole])[0]));

    let vocab = k.i32(layout.vocab as i32);
    k.each(k.i64(0), position, 1, |i| {
        let token = (from + (i << 2)).load(I32, blob::HEADER_BYTES as i32);
        damaged_if(!token.ult(vocab));
    });
    used
}

/// How much of a state is in use.
#[derive(Clone, Copy)]
struct Used<'k> {
    /// `i64`: tokens held.
    position: Val<'k>,
    /// `i64`: whole panels that hold them.
    panels: Val<'k>,
    /// `i64`: 1 if the logits are valid.
    valid: Val<'k>,
}

/// One stretch of a state that is saved.
struct Part<'k> {
    /// Where it starts in the state.
    state: Val<'k>,
    /// Where it starts in the saved conversation.
    blob: Val<'k>,
    /// Its length, a multiple of 16.
    bytes: Val<'k>,
    /// Its length without padding.
    content: Val<'k>,
}

impl<'k> Used<'k> {
    fn new(position: Val<'k>, valid: Val<'k>) -> Used<'k> {
        let panels = (position + (PANEL as i64 - 1)) >> i64::from(PANEL.ilog2());
        Used { position, panels, valid: valid.uext(I64) }
    }

    fn token_bytes(self) -> Val<'k> {
        pad(self.position << 2)
    }

    /// Bytes of the whole saved conversation.
    fn blob_bytes(self, layout: &StateLayout) -> Val<'k> {
        let logits = (layout.vocab * 4).next_multiple_of(16);
        let caches: u64 = layout.caches.iter().map(CacheSlot::panel_bytes).sum();
        self.token_bytes()
            + self.valid * logits as i64
            + self.panels * caches as i64
            + blob::HEADER_BYTES
    }

    /// Every part in the order of the saved conversation.
    fn each_part(self, k: &'k Kernel<'k>, layout: &StateLayout, part: &dyn Fn(Part<'k>)) {
        let cursor = k.var(k.i64(blob::HEADER_BYTES));
        let next = |state: Val<'k>, content: Val<'k>| {
            let bytes = pad(content);
            part(Part { state, blob: cursor.get(), bytes, content });
            cursor.add(bytes);
        };
        next(k.i64(layout.tokens.into()), self.position << 2);
        next(k.i64(layout.logits.into()), self.valid * (layout.vocab * 4) as i64);
        for (first, count, distance) in runs(&layout.caches) {
            k.each(k.i64(0), k.i64(count), 1, |i| {
                let slot = i * distance + first.key_offset as i64;
                for s in first.stretches() {
                    let bytes = self.panels * s.panel_bytes as i64;
                    k.each(k.i64(0), k.i64(s.count as i64), 1, |head| {
                        next(slot + head * s.distance_bytes as i64 + s.offset as i64, bytes);
                    });
                }
            });
        }
    }
}

/// Up to a multiple of 16.
fn pad(bytes: Val<'_>) -> Val<'_> {
    (bytes + 15) & -16
}

/// Slots of one shape at equal distances: the first, how many, the distance in bytes.
fn runs(caches: &[CacheSlot]) -> Vec<(&CacheSlot, i64, i64)> {
    let mut runs: Vec<(&CacheSlot, i64, i64)> = vec![];
    for slot in caches {
        if let Some((first, count, distance)) = runs.last_mut() {
            let apart = (slot.key_offset - first.key_offset) as i64;
            if *count == 1 {
                *distance = apart;
            }
            if slot.is_shaped_as(first) && apart == *distance * *count {
                *count += 1;
                continue;
            }
        }
        runs.push((slot, 1, 0));
    }
    runs
}

/// `copy(to, from, bytes)`: a multiple of 16 bytes; the two do not overlap.
fn emit_copy(emitter: &mut Emitter<'_>) -> Func {
    let f = emitter.declare("save.copy", &[I64, I64, I64], &[]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (to, from, bytes) = (args[0], args[1], args[2]);
        let whole = bytes & -64;
        k.each(k.i64(0), whole, 64, |i| {
            let lines: Vec<_> = (0..4).map(|n| (from + i).load(I8X16, n * 16)).collect();
            for (n, line) in lines.into_iter().enumerate() {
                (to + i).store(n as i32 * 16, line);
            }
        });
        k.each(whole, bytes, 16, |i| (to + i).store(0, (from + i).load(I8X16, 0)));
        k.ret(&[]);
    });
    f
}

/// `checksum(blob, bytes)`: [`targets::pack::Hash`] over everything but the 16 bytes at 48, where
/// saved conversations and packed weights have it.
pub fn emit_checksum(emitter: &mut Emitter<'_>) -> Func {
    const PRIME: i64 = 0x0000_0100_0000_01b3;
    let f = emitter.declare("save.checksum", &[I64, I64], &[I64]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (blob, bytes) = (args[0], args[1]);
        let basis = k.i64(crate::state::FNV_OFFSET as i64);
        let (even, odd) = (k.var(basis), k.var(basis + 1));
        let header = (k.i64(0), k.i64(blob::CHECKSUM.into()));
        for (start, end) in [header, (k.i64(blob::HEADER_BYTES), bytes)] {
            k.each(start, end, 16, |i| {
                even.set((even.get() ^ (blob + i).load(I64, 0)) * PRIME);
                odd.set((odd.get() ^ (blob + i).load(I64, 8)) * PRIME);
            });
        }
        let folded = even.get() ^ (odd.get() * PRIME);
        k.ret(&[folded ^ (folded >> 32)]);
    });
    f
}
