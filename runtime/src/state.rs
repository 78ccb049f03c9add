//! One conversation's state: what lies where in the memory that the caller provides.
//!
//! A header, the tokens fed so far, the last logits, the KV cache; each part on a cache line of its
//! own. It holds no pointers, so it can be copied, swapped out and restored. The fields below are
//! byte offsets from its start.

use crate::errors::{E_ALIGN, E_STATE, fail_if};
use cranelift_codegen::ir::types::I64;
use ir::{DType, Module, Type};
use targets::kernels::kv_append::{PANEL_POSITIONS, Slot};
use targets::{Arch, Kernel, Val};

/// `u64`: [`StateLayout::identity`] once the state is initialised.
pub const MAGIC: i32 = 0;
/// `u32`: tokens held.
pub const POSITION: i32 = 8;
/// `u32`: 1 if the logits are those of the last token held.
pub const LOGITS_VALID: i32 = 12;
/// `u64`: seed of the generator.
pub const SEED: i32 = 16;
/// `u64`: draws taken since the seed was set.
pub const DRAWS: i32 = 24;
/// `u32`: which of the library's models this machine runs, chosen by `init`.
pub const VARIANT: i32 = 32;
/// Bytes of the header; what the fields leave is zero.
pub const HEADER_BYTES: u64 = 64;

/// Alignment of a state and of every part of it.
pub const ALIGN: u64 = 64;
/// Positions of one panel; the cache is made for a multiple of it.
pub const PANEL: u64 = PANEL_POSITIONS;
/// The largest vocabulary and context, so that both tables are within reach of an `i32` offset.
const TABLE_MAX: u64 = 1 << 26;

/// Where everything lies in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    /// Offset of the tokens fed so far: `i32[context]`.
    pub tokens: u32,
    /// Offset of the logits: `f32[vocab]`, padded to a multiple of 32.
    pub logits: u32,
    /// Offset of the KV cache.
    pub kv: u32,
    /// Bytes in all.
    pub bytes: u64,
    /// Positions a conversation may hold.
    pub context: u64,
    /// Number of logits.
    pub vocab: u64,
    /// Of the model and of this layout; never zero.
    pub identity: u64,
    /// Slots of the KV cache, as in `ir::Module::caches`.
    pub caches: Vec<CacheSlot>,
}

/// Where one slot of the KV cache lies; `Slot` says how keys and values lie in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSlot {
    /// Offset of the keys from the start of the state.
    pub key_offset: u64,
    /// Offset of the values from the start of the state.
    pub value_offset: u64,
    /// What it holds.
    pub slot: Slot,
}

/// Stretches of a slot at equal distances, each a run of panels of positions of which the first ones
/// are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretches {
    /// Offset of the first from the slot's keys.
    pub offset: u64,
    /// How many.
    pub count: u64,
    /// Bytes from one to the next.
    pub distance_bytes: u64,
    /// Bytes of one panel.
    pub panel_bytes: u64,
}

/// A model for which there is no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct LayoutError {
    /// What is wrong.
    pub what: String,
}

impl StateLayout {
    /// The layout for `module`; `model` tells models of equal shape apart. What bytes of integers mean
    /// depends on the architecture.
    pub fn new(module: &Module, arch: Arch, model: u64) -> Result<StateLayout, LayoutError> {
        let (context, vocab) = (module.meta.context, module.meta.vocab);
        for (what, n) in [("context", context), ("vocabulary", vocab)] {
            if n == 0 || n > TABLE_MAX {
                return err(format!("a {what} of {n} is not between 1 and {TABLE_MAX}"));
            }
        }
        let tokens = HEADER_BYTES;
        let logits = tokens + (context * 4).next_multiple_of(ALIGN);
        let kv = logits + (vocab.next_multiple_of(32) * 4).next_multiple_of(ALIGN);
        let mut bytes = kv;
        let mut caches = vec![];
        for cache in &module.caches {
            let slot = CacheSlot::new(&cache.ty, context, bytes)
                .map_err(|e| LayoutError { what: format!("cache {}: {e}", cache.name) })?;
            bytes = slot.value_offset + slot.slot.value_bytes().next_multiple_of(ALIGN);
            caches.push(slot);
        }
        let identity = identity(model, arch, [context, vocab], &caches);
        let (tokens, logits, kv) = (tokens as u32, logits as u32, kv as u32);
        Ok(StateLayout { tokens, logits, kv, bytes, context, vocab, identity, caches })
    }
}

impl CacheSlot {
    fn new(ty: &Type, context: u64, key_offset: u64) -> Result<CacheSlot, LayoutError> {
        let &Type::Kv { dtype, heads, head } = ty else {
            return err(format!("{ty} is not a cache"));
        };
        if !dtype.holds_cache() {
            return err(format!("elements of {dtype}; f32, f16, i8row and i4row are supported"));
        }
        let multiple = if matches!(dtype, DType::Int(_)) { 16 } else { 8 };
        if head == 0 || !head.is_multiple_of(multiple) {
            return err(format!("a head of {head} is not a multiple of {multiple}"));
        }
        let positions = context.next_multiple_of(PANEL);
        let all = heads.checked_mul(head).and_then(|n| n.checked_mul(positions * 4));
        if heads == 0 || all.is_none_or(|bytes| bytes > 1 << 40) {
            return err(format!("{heads} heads of {head} by {positions} positions"));
        }
        let slot = Slot { dtype, heads, head, positions };
        let value_offset = key_offset + slot.key_bytes().next_multiple_of(ALIGN);
        Ok(CacheSlot { key_offset, value_offset, slot })
    }

    /// Whether `other` differs in nothing but its place.
    pub fn is_shaped_as(&self, other: &CacheSlot) -> bool {
        let values_after = |c: &CacheSlot| c.value_offset - c.key_offset;
        self.slot == other.slot && values_after(self) == values_after(other)
    }

    /// All that the slot holds: keys of each head, blocks of values, and what scales these.
    pub fn stretches(&self) -> Vec<Stretches> {
        let slot = &self.slot;
        let values = self.value_offset - self.key_offset;
        let keys = Stretches {
            offset: 0,
            count: slot.heads,
            distance_bytes: slot.key_head_bytes(),
            panel_bytes: slot.key_panel_bytes(),
        };
        let block = |i: u64| Stretches {
            offset: values + i * slot.value_block_bytes(),
            count: slot.heads,
            distance_bytes: slot.value_head_bytes(),
            panel_bytes: slot.value_panel_bytes(),
        };
        let scales =
            Stretches { panel_bytes: slot.value_scales_bytes(), ..block(slot.value_blocks()) };
        let all = [keys].into_iter().chain((0..slot.value_blocks()).map(block)).chain([scales]);
        all.filter(|stretches| stretches.panel_bytes > 0).collect()
    }

    /// Bytes of a panel of positions in all stretches together.
    pub fn panel_bytes(&self) -> u64 {
        self.stretches().iter().map(|s| s.count * s.panel_bytes).sum()
    }
}

fn err<T>(what: String) -> Result<T, LayoutError> {
    Err(LayoutError { what })
}

impl CacheSlot {
    fn facts(&self) -> [u64; 5] {
        let slot = &self.slot;
        let bits =
            slot.int_bits().map_or(8 * slot.key_panel_bytes() / PANEL / slot.head, u64::from);
        [self.key_offset, self.value_offset, bits, slot.heads, slot.head]
    }
}

/// Leaves the function with an error, an integer of type `ty`, unless `state` is an initialised
/// state of this layout.
pub fn check<'k>(
    k: &'k Kernel<'k>,
    layout: &StateLayout,
    state: Val<'k>,
    ty: cranelift_codegen::ir::Type,
) {
    fail_if(k, (state & (ALIGN as i64 - 1)).is_not(0), E_ALIGN, ty);
    fail_if(k, state.is(0), E_STATE, ty);
    fail_if(k, state.load(I64, MAGIC).is_not(layout.identity as i64), E_STATE, ty);
}

/// FNV-1a over all that decides what a state means.
fn identity(model: u64, arch: Arch, sizes: [u64; 2], caches: &[CacheSlot]) -> u64 {
    let facts = [model].into_iter().chain(sizes).chain(caches.iter().flat_map(|c| c.facts()));
    let mut hash = FNV_OFFSET;
    for fact in facts {
        hash = fnv1a(hash, &fact.to_le_bytes());
    }
    if caches.iter().any(|cache| cache.slot.int_bits().is_some()) {
        hash = fnv1a(hash, format!("{arch:?}").as_bytes());
    }
    hash.max(1)
}

/// Where an FNV-1a hash starts.
pub const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// The FNV-1a hash `hash`, continued over `bytes`.
pub fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{Cache, IntFormat, Meta};

    fn module(context: u64, vocab: u64, caches: &[Type]) -> Module {
        let meta = Meta { context, vocab, ..Meta::default() };
        let cache = |(i, ty): (usize, &Type)| Cache { name: format!("c{i}"), ty: ty.clone() };
        let caches = caches.iter().enumerate().map(cache).collect();
        Module { meta, caches, ..Module::default() }
    }

    fn kv(dtype: DType, heads: u64, head: u64) -> Type {
        Type::Kv { dtype, heads, head }
    }

    #[test]
    fn parts_are_aligned_and_apart() {
        let m = module(33, 101, &[kv(DType::F16, 3, 24), kv(DType::F32, 1, 64)]);
        let s = StateLayout::new(&m, Arch::X64, 7).unwrap();
        assert_eq!((s.tokens, s.logits, s.kv), (64, 256, 256 + 512));
        let (a, b) = (&s.caches[0], &s.caches[1]);
        assert_eq!((a.slot.value_width(), a.slot.positions, b.slot.value_width()), (8, 64, 32));
        assert_eq!(a.key_offset, u64::from(s.kv));
        assert_eq!(a.slot.key_bytes(), 3 * 2 * 24 * 32 * 2);
        assert_eq!(a.slot.value_bytes(), 3 * 24 * 64 * 2);
        assert_eq!(b.key_offset, a.value_offset + a.slot.value_bytes());
        assert_eq!(s.bytes, b.value_offset + b.slot.value_bytes());
        assert!([a.key_offset, a.value_offset, b.key_offset, s.bytes].iter().all(|o| o % 64 == 0));
    }

    #[test]
    fn whatever_changes_the_meaning_changes_the_identity() {
        let base = module(32, 100, &[kv(DType::F32, 2, 32)]);
        let of = |m: &Module, arch, model| StateLayout::new(m, arch, model).unwrap().identity;
        let id = |m: &Module, model| of(m, Arch::X64, model);
        let same = id(&base, 1);
        assert_eq!(same, id(&base, 1));
        assert_ne!(same, id(&base, 2));
        for other in [
            module(31, 100, &[kv(DType::F32, 2, 32)]),
            module(32, 99, &[kv(DType::F32, 2, 32)]),
            module(32, 100, &[kv(DType::F16, 2, 32)]),
            module(32, 100, &[kv(DType::F32, 1, 64)]),
            module(32, 100, &[]),
        ] {
            assert_ne!(same, id(&other, 1), "{other:?}");
        }
        let ints = module(32, 100, &[kv(DType::Int(IntFormat::symmetric(8, 0)), 2, 32)]);
        for (cache, moves) in [(&base, true), (&ints, false)] {
            assert_eq!(of(cache, Arch::X64, 1) == of(cache, Arch::A64, 1), moves, "{cache:?}");
        }
    }

    #[test]
    fn impossible_states_are_refused() {
        let table = [
            (module(0, 1, &[]), "a context of 0 is not between 1 and 67108864"),
            (module(1, 1 << 30, &[]), "a vocabulary of 1073741824 is not between 1 and 67108864"),
            (
                module(1, 1, &[kv(DType::F32, 1, 12)]),
                "cache c0: a head of 12 is not a multiple of 8",
            ),
            (module(1, 1, &[kv(DType::F32, 1, 0)]), "cache c0: a head of 0 is not a multiple of 8"),
            (module(1, 1, &[kv(DType::F32, 0, 8)]), "cache c0: 0 heads of 8 by 32 positions"),
            (
                module(1, 1, &[kv(DType::BF16, 1, 8)]),
                "cache c0: elements of bf16; f32, f16, i8row and i4row are supported",
            ),
        ];
        for (m, message) in table {
            assert_eq!(StateLayout::new(&m, Arch::X64, 0).unwrap_err().to_string(), message);
        }
    }
}
