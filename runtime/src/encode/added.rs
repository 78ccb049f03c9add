//! Added tokens: found in text as they are spelled, before anything is cut or merged.
//!
//! One may want to stand alone, no letter beside it, and may take white space around it along.

use super::Encoder;
use super::classes::{self, before};
use super::sections::PLAIN_TEXT;
use super::trie::Trie;
use super::word::character_bytes;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_module::DataId;
use targets::builder::Var;
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// In a character's class: it is white space.
pub const SPACE: u8 = 1;
/// In a character's class: it is part of a word.
pub const WORD: u8 = 2;

/// What a token asks of the text around it.
const LSTRIP: i64 = 1;
const RSTRIP: i64 = 2;
const SINGLE_WORD: i64 = 4;

/// Emits `find(begin, text, end, flags) -> (address, i64)`: where the first added token from `text` on
/// is, the longest one there, and the token with its length above bit 32; `end` and -1 if there is
/// none. White space that it takes along counts as part of it; `begin` is where the whole text does.
/// `None` if there are too many tokens for a table.
pub fn emit_find(e: &mut Emitter, encoder: &Encoder) -> Option<Func> {
    const SPECIAL: u32 = 1 << 30;
    let value = |index: usize, special| index as u32 | if special { SPECIAL } else { 0 };
    let added = encoder.added.iter().enumerate();
    let strings = added.map(|(i, added)| (added.bytes.as_slice(), value(i, added.special)));
    let trie = Trie::new(strings.collect())?;
    let cells = e.constant("encode.added", trie.bytes(), 64);
    let tokens = encoder.added.iter().flat_map(|added| added.token.to_le_bytes());
    let tokens = tokens.collect();
    let tokens = e.constant("encode.added_tokens", tokens, 64);
    let mut starts = vec![0; 256];
    encoder.added.iter().for_each(|added| starts[usize::from(added.bytes[0])] = 1);
    let starts = e.constant("encode.added_starts", starts, 64);
    let around = Around::emit(e, encoder);

    let f = e.declare("encode.find", &[I64; 4], &[I64, I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [begin, text, end, flags] = *args else { unreachable!("four are declared") };
        let p = k.var(text);
        k.while_(
            || p.get().ult(end),
            || {
                let starts = (k.data(starts) + p.get().load_byte(0)).load_byte(0);
                let (found, after) = (k.var(k.i64(-1)), k.var(p.get() + 1));
                k.if_(starts.is_not(0), || {
                    trie.walk(k, k.data(cells), p.get(), end, |value, at| {
                        found.set(value);
                        after.set(at);
                    });
                });
                let special = (found.get() & i64::from(SPECIAL)).is_not(0);
                let as_text = special & (flags & PLAIN_TEXT).is_not(0);
                let hit = found.get().is_not(-1) & !as_text;
                let index = hit.select(found.get() & i64::from(SPECIAL - 1), k.i64(0));
                let place = Place {
                    hit: k.var(hit.uext(I32)),
                    from: k.var(p.get()),
                    to: k.var(after.get()),
                };
                if let Some(around) = &around {
                    let asks = (k.data(around.asks) + index).load_byte(0);
                    k.if_((asks & SINGLE_WORD).is_not(0), || around.alone(k, &place, begin, end));
                    k.if_(place.hit.get().is_not(0), || around.strip(k, &place, asks, text, end));
                }
                let token = (k.data(tokens) + (index << 2)).load_constant(I32, 0).uext(I64);
                let taken = token + ((place.to.get() - place.from.get()) << 32);
                k.return_if(place.hit.get().is_not(0), &[place.from.get(), taken]);
                p.set(after.get());
            },
        );
        k.ret(&[end, k.i64(-1)]);
    });
    Some(f)
}

/// An added token in text.
struct Place<'k> {
    /// Whether it counts.
    hit: Var<'k>,
    from: Var<'k>,
    to: Var<'k>,
}

/// What tells about the text around tokens.
struct Around {
    /// What each token asks.
    asks: DataId,
    class: Func,
}

impl Around {
    /// Emits the tables; `None` if no token asks for anything.
    fn emit(e: &mut Emitter, encoder: &Encoder) -> Option<Around> {
        let classes = encoder.around.as_ref()?;
        let asks = encoder.added.iter().map(|added| {
            let all =
                [(added.lstrip, LSTRIP), (added.rstrip, RSTRIP), (added.single_word, SINGLE_WORD)];
            all.iter().filter(|(asks, _)| *asks).map(|(_, flag)| *flag as u8).sum()
        });
        let asks = e.constant("encode.added_asks", asks.collect(), 64);
        Some(Around { asks, class: classes::emit(e, "encode.around", classes) })
    }

    fn is<'k>(&self, k: &'k Kernel<'k>, at: Val<'k>, class: u8) -> Val<'k> {
        (k.call(&self.class, &[at])[0] & i64::from(class)).is_not(0)
    }

    /// A token with a part of a word beside it does not count.
    fn alone<'k>(&self, k: &'k Kernel<'k>, place: &Place<'k>, begin: Val<'k>, end: Val<'k>) {
        let unless = |word: Val<'k>| place.hit.set(word.select(k.i32(0), place.hit.get()));
        let (from, to) = (place.from.get(), place.to.get());
        k.if_(begin.ult(from), || unless(self.is(k, before(k, from), WORD)));
        k.if_(to.ult(end), || unless(self.is(k, to, WORD)));
    }

    /// Takes white space along, not before `text`.
    fn strip<'k>(
        &self,
        k: &'k Kernel<'k>,
        place: &Place<'k>,
        asks: Val<'k>,
        text: Val<'k>,
        end: Val<'k>,
    ) {
        k.if_((asks & LSTRIP).is_not(0), || {
            k.loop_(|| {
                k.break_if(!text.ult(place.from.get()));
                let at = before(k, place.from.get());
                k.break_if(!self.is(k, at, SPACE));
                place.from.set(at);
            });
        });
        k.if_((asks & RSTRIP).is_not(0), || {
            k.loop_(|| {
                k.break_if(!place.to.get().ult(end));
                let at = place.to.get();
                k.break_if(!self.is(k, at, SPACE));
                place.to.set(at + character_bytes(k, at.load_byte(0)));
            });
        });
    }
}
