//! Text to Unicode's NFC (UAX 15): decomposed, marks in order, composed.
//!
//! Characters are handled as the numbers that their bytes in UTF-8 make, first byte highest: nothing
//! needs to be decoded but Hangul, which is computed. Marks behind one character are put in order by
//! going over them once for each combining class that they have, of which there are some fifty, so
//! time is linear in the text whatever stands in it.

use super::Normal;
use super::word::character_bytes;
use super::{classes, cut};
use cranelift_codegen::ir::types::I64;
use targets::builder::Var;
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// In a character's class: it has a decomposition.
pub const DECOMPOSES: u8 = 1 << 6;
/// In a character's class: it can be the second of two that compose.
pub const SECOND: u8 = 1 << 7;
/// In a character's class: the place of its combining class, 0 if it does not combine.
const ORDER: i64 = 63;

/// Functions that bring text to NFC.
pub struct Nfc {
    /// `quick(text, end) -> address`: where the first piece ends; the end if the text, which is not
    /// empty, surely is in NFC.
    pub quick: Func,
    /// `decompose(text, end, to, write) -> address`: behind what is or would be written.
    pub decompose: Func,
    /// `compose(text, end, to) -> address`: of decomposed text; behind what is written, which is no
    /// longer than the text.
    pub compose: Func,
}

impl Nfc {
    /// Emits the functions and their tables.
    pub fn emit(e: &mut Emitter, normal: &Normal) -> Nfc {
        let quick = cut::emit(e, "encode.nfc.normal", &normal.quick);
        let class = classes::emit(e, "encode.nfc.marks", &normal.marks);
        let key = emit_key(e);
        let find = emit_find(e);
        let pair = emit_pair(e, normal, &find);
        let marks = emit_marks(e, &class, &key, &pair);
        Nfc {
            quick,
            decompose: emit_decompose(e, normal, &class, &key, &find),
            compose: emit_compose(e, &class, &key, &pair, &marks),
        }
    }
}

/// A character as the number that its bytes make.
fn number(c: char) -> u64 {
    c.encode_utf8(&mut [0; 4]).bytes().fold(0, |n, byte| n << 8 | u64::from(byte))
}

fn numbers(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    numbers.flat_map(u64::to_le_bytes).collect()
}

/// Emits `key(at) -> i64`: the number of the character at an address.
fn emit_key(e: &mut Emitter) -> Func {
    let f = e.declare("encode.nfc.key", &[I64], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let number = k.var(k.i64(0));
        let bytes = character_bytes(k, args[0].load_byte(0));
        k.each_address(args[0], args[0] + bytes, k.i64(1), |at| {
            number.set((number.get() << 8) + at.load_byte(0));
        });
        k.ret(&[number.get()]);
    });
    f
}

/// Emits `find(table, count, number) -> i64`: its place in a sorted table, -1 if it is not there.
fn emit_find(e: &mut Emitter) -> Func {
    let f = e.declare("encode.nfc.find_number", &[I64; 3], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (table, number) = (args[0], args[2]);
        let (low, high) = (k.var(k.i64(0)), k.var(args[1]));
        k.while_(
            || low.get().ult(high.get()),
            || {
                let middle = (low.get() + high.get()) >> 1;
                let found = (table + (middle << 3)).load_constant(I64, 0);
                k.return_if(found.eq(number), &[middle]);
                let above = found.ult(number);
                low.set(above.select(middle + 1, low.get()));
                high.set(above.select(high.get(), middle));
            },
        );
        k.ret(&[k.i64(-1)]);
    });
    f
}

/// Emits `pair(first, second) -> i64`: the number of what two characters compose to, 0 if nothing.
fn emit_pair(e: &mut Emitter, normal: &Normal, find: &Func) -> Func {
    let both = |(a, b, c): &(char, char, char)| (number(*a) << 32 | number(*b), number(*c));
    let mut pairs: Vec<(u64, u64)> = normal.compositions.iter().map(both).collect();
    pairs.sort_unstable();
    let count = pairs.len() as i64;
    let keys = e.constant("encode.nfc.pairs", numbers(pairs.iter().map(|p| p.0)), 64);
    let results = e.constant("encode.nfc.composed", numbers(pairs.iter().map(|p| p.1)), 64);
    let hangul = emit_hangul(e);
    let f = e.declare("encode.nfc.pair", &[I64; 2], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (first, second) = (args[0], args[1]);
        let syllable = k.call(&hangul, &[first, second])[0];
        k.return_if(syllable.is_not(0), &[syllable]);
        let at = k.call(find, &[k.data(keys), k.i64(count), (first << 32) + second])[0];
        k.return_if(at.is(-1), &[k.i64(0)]);
        k.ret(&[(k.data(results) + (at << 3)).load_constant(I64, 0)]);
    });
    f
}

/// The code point of a character of three bytes, by its number; of fewer bytes it is smaller than any
/// of Hangul.
fn code(number: Val<'_>) -> Val<'_> {
    (((number >> 16) & 15) << 12) + (((number >> 8) & 63) << 6) + (number & 63)
}

fn within<'k>(k: &'k Kernel<'k>, n: Val<'k>, start: i64, count: i64) -> Val<'k> {
    (n - start).ult(k.i64(count))
}

/// Emits `hangul(first, second) -> i64`: as `pair`, of jamo and syllables (Unicode 3.12).
fn emit_hangul(e: &mut Emitter) -> Func {
    const LEADS: i64 = 19;
    const VOWELS: i64 = 21;
    const TAILS: i64 = 28;
    let f = e.declare("encode.nfc.hangul", &[I64; 2], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (first, second) = (code(args[0]), code(args[1]));
        let within = |n, start: i64, count: i64| within(k, n, start, count);
        let short = args[0].ult(k.i64(1 << 24)) & args[1].ult(k.i64(1 << 24));
        let open = within(first, 0x1100, LEADS) & within(second, 0x1161, VOWELS) & short;
        let both = ((first - 0x1100) * VOWELS + (second - 0x1161)) * TAILS + 0xac00;
        let block = within(first, 0xac00, LEADS * VOWELS * TAILS);
        let bare = (first - 0xac00).urem(k.i64(TAILS)).is(0);
        let closed = block & bare & within(second, 0x11a8, TAILS - 1) & short;
        let code = open.select(both, first + (second - 0x11a7));
        let bytes = (((code >> 12) + 0xe0) << 16) + ((((code >> 6) & 63) + 0x80) << 8);
        let number = bytes + (code & 63) + 0x80;
        k.ret(&[(open | closed).select(number, k.i64(0))]);
    });
    f
}

/// In place of a character's number: there is none.
const NONE: i64 = -1;

/// Writes a character by its number, if it is one.
fn put<'k>(k: &'k Kernel<'k>, to: Var<'k>, number: Val<'k>) {
    for shift in [24, 16, 8, 0] {
        let wide = if shift > 0 { (number >> shift).is_not(0) } else { number.is_not(NONE) };
        k.if_(wide & number.is_not(NONE), || {
            to.get().store_byte(0, number >> shift);
            to.add(k.i64(1));
        });
    }
}

/// Copies bytes, or only goes on as if.
fn copy<'k>(k: &'k Kernel<'k>, from: (Val<'k>, Val<'k>), to: Var<'k>, write: Val<'k>) {
    k.each_address(from.0, from.1, k.i64(1), |at| {
        k.if_(write.is_not(0), || to.get().store_byte(0, at.load_byte(0)));
        to.add(k.i64(1));
    });
}

/// Emits `decompose(text, end, to, write) -> address`.
fn emit_decompose(e: &mut Emitter, normal: &Normal, class: &Func, key: &Func, find: &Func) -> Func {
    let mut rows: Vec<(u64, String)> = normal
        .decompositions
        .iter()
        .map(|(c, parts)| (number(*c), parts.iter().collect()))
        .collect();
    rows.sort_unstable();
    let (mut pool, mut places) = (vec![], vec![]);
    for (_, parts) in &rows {
        places.push(pool.len() as u64);
        pool.extend(parts.as_bytes());
    }
    places.push(pool.len() as u64);
    let count = rows.len() as i64;
    let keys = e.constant("encode.nfc.whole_numbers", numbers(rows.iter().map(|r| r.0)), 64);
    let places = e.constant("encode.nfc.parts_places", numbers(places.into_iter()), 64);
    let pool = e.constant("encode.nfc.parts", pool, 64);
    let f = e.declare("encode.nfc.decompose", &[I64; 4], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (p, end, to, write) = (k.var(args[0]), args[1], k.var(args[2]), args[3]);
        let copy = |from, from_end| copy(k, (from, from_end), to, write);
        k.while_(
            || p.get().ult(end),
            || {
                let at = p.get();
                let after = at + character_bytes(k, at.load_byte(0));
                let class = k.call(class, &[at])[0];
                k.if_else(
                    (class & i64::from(DECOMPOSES)).is(0),
                    || copy(at, after),
                    || {
                        let number = k.call(key, &[at])[0];
                        let row = k.call(find, &[k.data(keys), k.i64(count), number])[0];
                        let place = k.data(places) + (row << 3);
                        let [from, from_end] =
                            [0, 8].map(|i| k.data(pool) + place.load_constant(I64, i));
                        copy(from, from_end);
                    },
                );
                p.set(after);
            },
        );
        k.ret(&[to.get()]);
    });
    f
}

/// Calls `visit` with the address and the class of each character of a text.
fn each_mark<'k>(
    k: &'k Kernel<'k>,
    class: &Func,
    (text, end): (Val<'k>, Val<'k>),
    visit: &dyn Fn(Val<'k>, Val<'k>),
) {
    let p = k.var(text);
    k.while_(
        || p.get().ult(end),
        || {
            visit(p.get(), k.call(class, &[p.get()])[0]);
            p.set(behind(k, p.get()));
        },
    );
}

/// Where the character at an address ends.
fn behind<'k>(k: &'k Kernel<'k>, at: Val<'k>) -> Val<'k> {
    at + character_bytes(k, at.load_byte(0))
}

/// The class of the character at an address, 0 at the end.
fn class_at<'k>(k: &'k Kernel<'k>, class: &Func, at: Val<'k>, end: Val<'k>) -> Val<'k> {
    let found = k.var(k.i64(0));
    k.if_(at.ult(end), || found.set(k.call(class, &[at])[0]));
    found.get()
}

/// Emits `marks(starter, text, end, to, write) -> (i64, address)`: marks in the order of their
/// combining classes behind a character, or `NONE`; what it composes with them to, and behind those
/// that are left and written; or the number of them from `to` on.
fn emit_marks(e: &mut Emitter, class: &Func, key: &Func, pair: &Func) -> Func {
    let f = e.declare("encode.nfc.marks", &[I64; 5], &[I64, I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [starter, text, end, to, write] = *args else { unreachable!("five are declared") };
        let (starter, to) = (k.var(starter), k.var(to));
        // Orders of the marks that are done, and of the last one that is left.
        let (done, last) = (k.var(k.i64(0)), k.var(k.i64(0)));
        k.loop_(|| {
            let next = k.var(k.i64(ORDER));
            each_mark(k, class, (text, end), &|_, class| {
                let order = class & ORDER;
                let ahead = done.get().ult(order);
                next.set(ahead.select(next.get().umin(order), next.get()));
            });
            k.break_if(next.get().is(ORDER));
            each_mark(k, class, (text, end), &|at, class| {
                k.if_((class & ORDER).eq(next.get()), || {
                    let number = k.call(key, &[at])[0];
                    let free = last.get().ult(next.get()) & (class & i64::from(SECOND)).is_not(0);
                    let composed = k.var(k.i64(0));
                    k.if_(free & starter.get().is_not(NONE), || {
                        composed.set(k.call(pair, &[starter.get(), number])[0]);
                    });
                    k.if_else(
                        composed.get().is(0),
                        || {
                            last.set(next.get());
                            let skip = || to.add(k.i64(1));
                            k.if_else(write.is_not(0), || put(k, to, number), skip);
                        },
                        || starter.set(composed.get()),
                    );
                });
            });
            done.set(next.get());
        });
        k.ret(&[starter.get(), to.get()]);
    });
    f
}

/// Emits `compose(text, end, to) -> address`.
fn emit_compose(e: &mut Emitter, class: &Func, key: &Func, pair: &Func, marks: &Func) -> Func {
    let f = e.declare("encode.nfc.compose", &[I64; 3], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (p, end, to) = (k.var(args[0]), args[1], k.var(args[2]));
        let (class_at, behind) = (|at| class_at(k, class, at, end), |at| behind(k, at));
        k.while_(
            || p.get().ult(end),
            || {
                // A character that marks and others may compose with; none before leading marks.
                let starter = k.var(k.i64(NONE));
                k.if_((class_at(p.get()) & ORDER).is(0), || {
                    starter.set(k.call(key, &[p.get()])[0]);
                    p.set(behind(p.get()));
                });
                let after = k.var(p.get());
                let done = k.var(k.i64(0));
                k.while_(
                    || done.get().is(0),
                    || {
                        after.set(p.get());
                        let class = k.var(class_at(after.get()));
                        k.while_(
                            || (class.get() & ORDER).is_not(0),
                            || {
                                after.set(behind(after.get()));
                                class.set(class_at(after.get()));
                            },
                        );
                        let none = k.i64(0);
                        let run = [starter.get(), p.get(), after.get(), none, none];
                        let found = k.call(marks, &run);
                        // A vowel or a final consonant, for one.
                        let second = (class.get() & i64::from(SECOND)).is_not(0);
                        let composed = k.var(k.i64(0));
                        k.if_(second & found[1].is(0) & found[0].is_not(NONE), || {
                            let number = k.call(key, &[after.get()])[0];
                            composed.set(k.call(pair, &[found[0], number])[0]);
                        });
                        k.if_else(
                            composed.get().is(0),
                            || {
                                put(k, to, found[0]);
                                let run = [starter.get(), p.get(), after.get(), to.get(), k.i64(1)];
                                to.set(k.call(marks, &run)[1]);
                                done.set(k.i64(1));
                                p.set(after.get());
                            },
                            || {
                                starter.set(composed.get());
                                p.set(behind(after.get()));
                            },
                        );
                    },
                );
            },
        );
        k.ret(&[to.get()]);
    });
    f
}
