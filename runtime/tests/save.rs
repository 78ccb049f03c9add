//! Conversations that are saved, restored, cut, and refused.

mod support;

use ir::{DType, IntFormat};
use runtime::errors::{E_ALIGN, E_ARG, E_BLOB, E_MODEL, E_SIZE, E_STATE, OK};
use runtime::state::{self, StateLayout};
use support::{Conversation, GARBAGE, Memory, Random, Runtime, hosts, layout};

const CONTEXT: u64 = 100;
const VOCAB: u64 = 101;

fn runtime(dtype: DType) -> Runtime {
    Runtime::new(&hosts()[0], layout(CONTEXT, VOCAB, dtype), None)
}

/// A conversation with `position` tokens, logits perhaps, and a cache of noise.
fn conversation(runtime: &Runtime, position: u64, logits: bool) -> Conversation<'_> {
    let mut random = Random(position);
    let mut c = Conversation::new(runtime);
    let kv = runtime.layout.kv as usize;
    c.state.bytes_mut()[kv..].fill_with(|| random.next() as u8);
    let history: Vec<i32> = (0..position).map(|_| random.below(VOCAB) as i32).collect();
    c.set_history(&history);
    if logits {
        c.set_logits(&(0..VOCAB).map(|_| random.normal()).collect::<Vec<_>>());
    }
    c.put(state::SEED as usize, &random.next().to_le_bytes());
    c.put(state::DRAWS as usize, &random.next().to_le_bytes());
    c
}

/// What caches hold.
const CACHES: [DType; 4] = [DType::F32, DType::F16, ints(8), ints(4)];

const fn ints(bits: u8) -> DType {
    DType::Int(IntFormat::symmetric(bits, 0))
}

/// Every stretch of a state that means something at `position`: start and length.
fn used(layout: &StateLayout, position: u64, logits: bool) -> Vec<(u64, u64)> {
    let mut used = vec![(0, 64), (layout.tokens.into(), position * 4)];
    if logits {
        used.push((layout.logits.into(), layout.vocab * 4));
    }
    for c in &layout.caches {
        for s in c.stretches() {
            for i in 0..s.count {
                let at = c.key_offset + s.offset + i * s.distance_bytes;
                used.push((at, position.div_ceil(32) * s.panel_bytes));
            }
        }
    }
    used
}

#[test]
fn a_conversation_survives_and_nothing_else_is_written() {
    for dtype in CACHES {
        let runtime = runtime(dtype);
        for (position, logits) in
            [(0, false), (1, true), (3, false), (32, true), (33, true), (64, false), (100, true)]
        {
            let mut from = conversation(&runtime, position, logits);
            let blob = from.save().unwrap();
            let mut to = Conversation::new(&runtime);
            to.state.bytes_mut().fill(GARBAGE);
            assert_eq!(to.load(&blob), OK);
            let mut expected = vec![GARBAGE; to.state.bytes().len()];
            for (start, bytes) in used(&runtime.layout, position, logits) {
                let range = start as usize..(start + bytes) as usize;
                expected[range.clone()].copy_from_slice(&from.state.bytes()[range]);
            }
            // What lies between the end of tokens and logits and the next part is padding.
            for (start, end) in [(64 + position * 4, runtime.layout.logits), {
                (u64::from(runtime.layout.logits) + VOCAB * 4, runtime.layout.kv)
            }] {
                let range = start as usize..end as usize;
                expected[range.clone()].copy_from_slice(&to.state.bytes()[range]);
            }
            assert!(to.state.bytes() == expected, "{dtype} {position} {logits}");
            assert_eq!(to.save().unwrap(), blob, "saved again it is the same");
        }
    }
}

/// Padding is not what happened to be in memory.
#[test]
fn the_same_conversation_is_the_same_bytes() {
    let runtime = runtime(DType::F16);
    let mut a = conversation(&runtime, 35, true);
    let mut b = Conversation::new(&runtime);
    for (start, bytes) in used(&runtime.layout, 35, true) {
        let range = start as usize..(start + bytes) as usize;
        b.put(start as usize, &a.state.bytes()[range]);
    }
    assert_eq!(a.save().unwrap(), b.save().unwrap());
}

#[test]
fn damaged_and_foreign_conversations_are_refused() {
    let runtime = runtime(DType::F32);
    let blob = conversation(&runtime, 40, true).save().unwrap();
    let patched = |offset: usize, bytes: &[u8]| {
        let mut blob = blob.clone();
        blob[offset..][..bytes.len()].copy_from_slice(bytes);
        blob
    };
    let mut longer = blob.clone();
    longer.extend([1, 2, 3]);
    let table: &[(&str, Vec<u8>, i32)] = &[
        ("whole", blob.clone(), OK),
        ("followed by something else", longer, OK),
        ("empty", vec![], E_BLOB),
        ("half a header", blob[..63].to_vec(), E_BLOB),
        ("header alone", blob[..64].to_vec(), E_BLOB),
        ("one byte short", blob[..blob.len() - 1].to_vec(), E_BLOB),
        ("magic", patched(0, b"X"), E_BLOB),
        ("identity", patched(8, &[0; 8]), E_MODEL),
        ("bytes", patched(16, &[0; 8]), E_BLOB),
        ("more bytes", patched(16, &u64::MAX.to_le_bytes()), E_BLOB),
        ("position", patched(24, &39u32.to_le_bytes()), E_BLOB),
        ("position beyond the context", patched(24, &101u32.to_le_bytes()), E_BLOB),
        ("huge position", patched(24, &u32::MAX.to_le_bytes()), E_BLOB),
        ("flags", patched(28, &[3]), E_BLOB),
        ("no logits", patched(28, &[0]), E_BLOB),
        ("seed", patched(32, &[!blob[32]]), E_BLOB),
        ("draws", patched(40, &[!blob[40]]), E_BLOB),
        ("checksum", patched(48, &[!blob[48]]), E_BLOB),
        ("reserved", patched(56, &[1]), E_BLOB),
        ("a token", patched(64, &[!blob[64]]), E_BLOB),
        ("a logit", patched(64 + 160 + 8, &[!blob[64 + 160 + 8]]), E_BLOB),
        ("the last byte", patched(blob.len() - 1, &[!blob[blob.len() - 1]]), E_BLOB),
    ];
    for (what, blob, status) in table {
        let mut c = conversation(&runtime, 7, false);
        let before = c.state.bytes().to_vec();
        assert_eq!(c.load(blob), *status, "{what}");
        assert_eq!(c.state.bytes() == before, *status != OK, "{what}: the state");
    }
}

/// Someone who computes checksums can write anything; it must not become a token.
#[test]
fn tokens_that_do_not_exist_are_refused() {
    let runtime = runtime(DType::F32);
    for token in [VOCAB as i32, -1, i32::MIN] {
        let mut c = conversation(&runtime, 5, true);
        c.put(runtime.layout.tokens as usize + 16, &token.to_le_bytes());
        let blob = c.save().unwrap();
        assert_eq!(conversation(&runtime, 0, false).load(&blob), E_BLOB, "{token}");
    }
    let mut c = conversation(&runtime, 0, true);
    let blob = c.save().unwrap();
    assert_eq!(conversation(&runtime, 1, false).load(&blob), E_BLOB, "logits after nothing");
}

#[test]
fn arguments_are_checked() {
    let runtime = runtime(DType::F32);
    let mut c = conversation(&runtime, 5, true);
    let blob = c.save().unwrap();
    let (state, null) = (c.state.at(), std::ptr::null_mut());
    let mut out = Memory::new(blob.len(), GARBAGE);
    // SAFETY: whatever is wrong with these is found before it is used.
    unsafe {
        assert_eq!((runtime.save)(state, null, blob.len()), E_ARG.into());
        assert_eq!((runtime.save)(state, out.at(), blob.len() - 1), E_SIZE.into());
        assert_eq!((runtime.save)(null, out.at(), blob.len()), E_STATE.into());
        assert_eq!((runtime.save)(state.add(32), out.at(), blob.len()), E_ALIGN.into());
        assert!(out.bytes().iter().all(|b| *b == GARBAGE));
        assert_eq!((runtime.load)(null, blob.as_ptr(), blob.len()), E_ARG);
        assert_eq!((runtime.load)(state, null, blob.len()), E_ARG);
        assert_eq!((runtime.load)(state.add(32), blob.as_ptr(), blob.len()), E_ALIGN);
        assert_eq!((runtime.position)(null), 0);
        assert_eq!((runtime.truncate)(null, 0), E_STATE);
    }
    c.put(state::MAGIC as usize, &[0; 8]);
    assert_eq!((c.position(), c.truncate(0), c.save()), (0, E_STATE, Err(E_STATE.into())));
}

#[test]
fn truncating_forgets_tokens_and_logits() {
    let runtime = runtime(DType::F32);
    let mut c = conversation(&runtime, 9, true);
    let valid = |c: &Conversation| c.state.bytes()[state::LOGITS_VALID as usize];
    assert_eq!((c.position(), c.truncate(10)), (9, E_ARG));
    assert_eq!((c.truncate(u32::MAX), c.position(), valid(&c)), (E_ARG, 9, 1));
    assert_eq!((c.truncate(9), c.position(), valid(&c)), (OK, 9, 1));
    assert_eq!((c.truncate(4), c.position(), valid(&c)), (OK, 4, 0));
    assert_eq!((c.truncate(9), c.sample(None)), (E_ARG, E_STATE));
    assert_eq!((c.truncate(0), c.position()), (OK, 0));
}
