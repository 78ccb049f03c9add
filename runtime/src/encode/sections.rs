//! From a text to tokens: tokens that are found in it as they are spelled, and between them sections
//! that are cut into words.
//!
//! A text is read where it lies unless it has to change: what is not UTF-8, `▁` for spaces, a space
//! in front, bytes that no token stands for. Then a copy is made at the end of the caller's buffer
//! of tokens, and tokens grow towards it as it is used up.

use super::added::emit_find;
use super::cut;
use super::merges::{Origin, analyse};
use super::normal::Nfc;
use super::trie::Trie;
use super::utf8::{Utf8, is_low_line};
use super::word::{self, FIRST_ADDRESS, NO_ROOM, STUCK, push};
use super::{Alphabet, Encoder, Normal, Prefix};
use cranelift_codegen::ir::types::{I32, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// Flags of `text`: special tokens that are spelled in the text count as text.
pub const PLAIN_TEXT: i64 = 1;
/// Flags of `text`: something stands before the text.
pub const CONTINUES: i64 = 2;
/// Most bytes of a character.
const CHARACTER: i64 = 4;

/// Functions from text to tokens.
pub struct Sections {
    /// `room(text, end) -> i64`: tokens that a buffer always suffices with.
    pub room: Func,
    /// `text(head, head_bytes, text, end, out, out_end, flags) -> address`: the tokens of the bytes
    /// at `head` and the text behind them to `out`; where they end, or `NO_ROOM`.
    pub text: Func,
}

impl Sections {
    /// Emits the functions; `None` if the vocabulary is too large for its tables.
    pub fn emit(e: &mut Emitter, encoder: &Encoder) -> Option<Sections> {
        let utf8 = Utf8::emit(e, encoder.alphabet == Alphabet::Characters);
        let section = emit_section(e, encoder)?;
        let find = match encoder.added.is_empty() {
            true => None,
            false => Some(emit_find(e, encoder)?),
        };
        let sections = emit_sections(e, encoder, &section, find.as_ref());
        let normal = encoder.normal.as_ref();
        let normal = normal.map(|normal| Normaliser::emit(e, normal, find.as_ref()));
        let normal = normal.as_ref();
        let room = e.declare("encode.room", &[I64, I64], &[I64]);
        e.define(&room, Tuning::Optimised, |k, args| {
            let scanned = k.call(&utf8.scan, args);
            let bytes = scanned[0];
            // A token a byte, the copy, and a space in front of each section.
            let spaces = if encoder.prefix == Prefix::None { k.i64(0) } else { bytes };
            if let Some(normal) = normal {
                // Decomposed it may be three times as long: tokens for that, two copies of it, and
                // one of the text.
                let large = bytes * 4 + spaces * 3 + 8;
                k.return_if(scanned[1].is(0), &[large]);
                k.return_if(normal.wanted(k, args[0], args[1]), &[large]);
            }
            k.ret(&[bytes + (bytes >> 2) + spaces + 8]);
        });
        Some(Sections { room, text: emit_text(e, encoder, &utf8, &sections, normal) })
    }
}

fn emit_text(
    e: &mut Emitter,
    encoder: &Encoder,
    utf8: &Utf8,
    sections: &Func,
    normal: Option<&Normaliser>,
) -> Func {
    let f = e.declare("encode.text", &[I64, I64, I64, I64, I64, I64, I64], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [head, head_bytes, text, end, out, out_end, flags] = *args else {
            unreachable!("seven are declared")
        };
        let scanned = k.call(&utf8.scan, &[text, end]);
        let normalise = |text, end, limit| {
            let Some(normal) = normal else { return };
            k.if_(normal.wanted(k, text, end), || {
                let made = k.call(&normal.write, &[text, end, out, limit, flags]);
                let fits = made[0].is_not(NO_ROOM);
                k.return_if(!fits, &[k.i64(NO_ROOM)]);
                let done = [made[0], made[1], out, made[1], flags, k.i64(1)];
                k.return_if(fits, &k.call(sections, &done));
            });
        };
        if encoder.prefix == Prefix::None {
            let plain = scanned[1].is_not(0) & head_bytes.is(0);
            k.if_(plain, || {
                normalise(text, end, out_end);
                let done = k.call(sections, &[text, end, out, out_end, flags, k.i64(0)])[0];
                k.return_if(done.is_not(STUCK), &[done]);
            });
        }
        let bytes = head_bytes + scanned[0];
        k.return_if((out_end - out).lt(bytes + 1), &[k.i64(NO_ROOM)]);
        let copy = out_end - bytes;
        k.each(k.i64(0), head_bytes, 1, |i| (copy + i).store_byte(0, (head + i).load_byte(0)));
        k.call(&utf8.repair, &[text, end, copy + head_bytes]);
        normalise(copy, out_end, copy);
        k.ret(&k.call(sections, &[copy, out_end, out, out_end, flags, k.i64(1)]));
    });
    f
}

/// Functions that bring the sections between added tokens to NFC, each for itself.
struct Normaliser {
    nfc: Nfc,
    /// `write(text, end, out, limit, flags) -> (address, address)`: the text in NFC, not before `out`
    /// nor behind `limit`, with a byte free before it; or `NO_ROOM`.
    write: Func,
}

impl Normaliser {
    fn emit(e: &mut Emitter, normal: &Normal, find: Option<&Func>) -> Normaliser {
        let nfc = Nfc::emit(e, normal);
        let f = e.declare("encode.normalise", &[I64; 5], &[I64, I64]);
        e.define(&f, Tuning::Optimised, |k, args| {
            let [text, end, out, limit, flags] = *args else { unreachable!("five are declared") };
            let (zero, one) = (k.i64(0), k.i64(1));
            let bytes = k.call(&nfc.decompose, &[text, end, zero, zero])[0];
            let room = (limit - out).lt((bytes << 1) + 1);
            k.return_if(room, &[k.i64(NO_ROOM), k.i64(NO_ROOM)]);
            // What is decomposed lies behind what is made of it.
            let parts = limit - bytes;
            let start = parts - bytes;
            let (p, to) = (k.var(text), k.var(start));
            k.while_(
                || p.get().ult(end),
                || {
                    let found = match find {
                        Some(find) => k.call(find, &[text, p.get(), end, flags]),
                        None => vec![end, k.i64(-1)],
                    };
                    let behind = k.call(&nfc.decompose, &[p.get(), found[0], parts, one])[0];
                    to.set(k.call(&nfc.compose, &[parts, behind, to.get()])[0]);
                    p.set(found[0]);
                    k.if_(found[1].is_not(-1), || {
                        let after = found[0] + (found[1] >> 32);
                        k.each_address(found[0], after, one, |at| {
                            to.get().store_byte(0, at.load_byte(0));
                            to.add(one);
                        });
                        p.set(after);
                    });
                },
            );
            k.ret(&[start, to.get()]);
        });
        Normaliser { nfc, write: f }
    }

    /// Whether a text has to be brought to NFC, as far as a glance tells.
    fn wanted<'k>(&self, k: &'k Kernel<'k>, text: Val<'k>, end: Val<'k>) -> Val<'k> {
        let wanted = k.var(k.i32(0));
        k.if_(text.ult(end), || {
            wanted.set(k.call(&self.nfc.quick, &[text, end])[0].ne(end).uext(I32));
        });
        wanted.get().is_not(0)
    }
}

/// Emits `sections(text, end, out, limit, flags, copied) -> address`: a whole text, which may be
/// written if it is a copy; then tokens may be written up to where it is read.
fn emit_sections(e: &mut Emitter, encoder: &Encoder, section: &Func, find: Option<&Func>) -> Func {
    let changes = encoder.alphabet == Alphabet::Characters || encoder.prefix != Prefix::None;
    let prepare = changes.then(|| emit_prepare(e, encoder));
    let f = e.declare("encode.sections", &[I64; 6], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [text, end, _, limit, flags, copied] = *args else { unreachable!("six are declared") };
        let (p, out, flags) = (k.var(text), k.var(args[2]), k.var(flags));
        k.loop_(|| {
            let found = match find {
                Some(find) => k.call(find, &[text, p.get(), end, flags.get()]),
                None => vec![end, k.i64(-1)],
            };
            let (next, token) = (found[0], found[1]);
            k.if_(p.get().ult(next), || {
                let (from, to) = (k.var(p.get()), k.var(next));
                if let Some(prepare) = &prepare {
                    k.if_(copied.is_not(0), || {
                        let prepared = k.call(prepare, &[p.get(), next, flags.get()]);
                        from.set(prepared[0]);
                        to.set(prepared[1]);
                    });
                }
                let done = [from.get(), to.get(), out.get(), limit, copied];
                let done = k.call(section, &done)[0];
                k.return_if(done.ult(k.i64(FIRST_ADDRESS)), &[done]);
                out.set(done);
            });
            k.break_if(token.is(-1));
            let after = next + (token >> 32);
            // One byte stays free for a space in front of what follows; a token there may ask for
            // the character before it.
            push(k, out, limit_at(copied, limit, after - CHARACTER), token);
            flags.set(flags.get() | CONTINUES);
            p.set(after);
        });
        k.ret(&[out.get()]);
    });
    f
}

/// Where tokens must end when text from an address on is still needed.
fn limit_at<'k>(copied: Val<'k>, limit: Val<'k>, at: Val<'k>) -> Val<'k> {
    copied.is_not(0).select(at & -4, limit)
}

/// Emits `prepare(text, end, flags) -> (start, end)`: puts a space before a section that wants one,
/// and writes `▁` as a space. The byte before the section is free.
fn emit_prepare(e: &mut Emitter, encoder: &Encoder) -> Func {
    let (prefix, spaces) = (encoder.prefix, encoder.alphabet == Alphabet::Characters);
    let f = e.declare("encode.prepare", &[I64; 3], &[I64, I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (text, end, flags) = (args[0], args[1], args[2]);
        let low_line = |at| low_line(k, spaces, at, end);
        let start = k.var(text);
        let spaced = text.load_byte(0).is(b' '.into()) | low_line(text);
        let wanted = match prefix {
            Prefix::None => k.i32(0).is(1),
            Prefix::Every => k.i32(0).is(0),
            Prefix::Missing => !spaced,
            Prefix::First => !spaced & (flags & CONTINUES).is(0),
        };
        k.if_(wanted, || {
            start.set(text - 1);
            start.get().store_byte(0, k.i64(b' '.into()));
        });
        if !spaces {
            return k.ret(&[start.get(), end]);
        }
        let (from, to) = (k.var(text), k.var(text));
        k.while_(
            || from.get().ult(end),
            || {
                let wide = low_line(from.get());
                let byte = wide.select(k.i64(b' '.into()), from.get().load_byte(0));
                to.get().store_byte(0, byte);
                to.add(k.i64(1));
                from.add(wide.select(k.i64(3), k.i64(1)));
            },
        );
        k.ret(&[start.get(), to.get()]);
    });
    f
}

/// Whether a `▁` that stands for a space is at an address.
fn low_line<'k>(k: &'k Kernel<'k>, spaces: bool, at: Val<'k>, end: Val<'k>) -> Val<'k> {
    let found = k.var(k.i32(0));
    if !spaces {
        return found.get().is_not(0);
    }
    k.if_(!(end - at).ult(k.i64(3)), || found.set(is_low_line(at).uext(I32)));
    found.get().is_not(0)
}

/// Emits `section(text, end, out, limit, copied) -> address`: text without added tokens, cut into
/// words; not empty.
fn emit_section(e: &mut Emitter, encoder: &Encoder) -> Option<Func> {
    let symbol = match encoder.alphabet {
        Alphabet::Bytes => |_: &[u8]| 1,
        Alphabet::Characters => |text: &[u8]| match text[0] {
            0..0xc0 => 1,
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0.. => 4,
        },
    };
    let merges = analyse(&encoder.tokens, &encoder.merges, symbol);
    let word = word::emit(e, &encoder.tokens, &merges, encoder.fallback.as_deref())?;
    let whole = match encoder.whole {
        true => emit_whole(e, encoder, &merges.origins)?,
        false => None,
    };
    let squeeze = (encoder.alphabet == Alphabet::Bytes).then(|| emit_squeeze(e, encoder)).flatten();
    let cuts = encoder.cuts.iter().enumerate();
    let cuts: Vec<Func> =
        cuts.map(|(i, cut)| cut::emit(e, &format!("encode.cut{i}"), cut)).collect();

    let f = e.declare("encode.section", &[I64; 5], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [text, end, _, limit, copied] = *args else { unreachable!("five are declared") };
        let out = k.var(args[2]);
        each_piece(k, &cuts, text, end, &|text, end| {
            let (start, done) = (k.var(text), k.var(k.i64(0)));
            if let Some(whole) = &whole {
                let token = k.call(whole, &[text, end])[0];
                k.if_(token.is_not(-1), || {
                    push(k, out, limit_at(copied, limit, text), token);
                    done.set(k.i64(1));
                });
            }
            if let Some(squeeze) = &squeeze {
                k.if_(copied.is_not(0), || start.set(k.call(squeeze, &[text, end])[0]));
            }
            k.if_(done.get().is(0), || {
                let limit = limit_at(copied, limit, text);
                let tokens = k.call(&word, &[start.get(), end, out.get(), limit])[0];
                k.return_if(tokens.ult(k.i64(FIRST_ADDRESS)), &[tokens]);
                out.set(tokens);
            });
        });
        k.ret(&[out.get()]);
    });
    Some(f)
}

/// Calls `visit` for each piece of a text that is left after all cuts.
fn each_piece<'k>(
    k: &'k Kernel<'k>,
    cuts: &[Func],
    text: Val<'k>,
    end: Val<'k>,
    visit: &dyn Fn(Val<'k>, Val<'k>),
) {
    let Some((cut, finer)) = cuts.split_first() else { return visit(text, end) };
    let p = k.var(text);
    k.while_(
        || p.get().ult(end),
        || {
            let next = k.call(cut, &[p.get(), end])[0];
            each_piece(k, finer, p.get(), next, visit);
            p.set(next);
        },
    );
}

/// Emits `whole(text, end) -> i64`: the token of a piece that merging does not lead to, but which is
/// one as a whole; -1 if it is none. `None` inside if there is no such token.
fn emit_whole(e: &mut Emitter, encoder: &Encoder, origins: &[Origin]) -> Option<Option<Func>> {
    let tokens = encoder.tokens.iter().zip(origins).enumerate();
    let unmerged = tokens.filter(|(_, (_, origin))| **origin == Origin::Never);
    let strings: Vec<(&[u8], u32)> = unmerged
        .filter_map(|(id, (bytes, _))| Some((bytes.as_deref()?, id as u32)))
        .filter(|(bytes, _)| !bytes.is_empty())
        .collect();
    if strings.is_empty() {
        return Some(None);
    }
    let trie = Trie::new(strings)?;
    let cells = e.constant("encode.whole_trie", trie.bytes(), 64);
    let f = e.declare("encode.whole", &[I64; 2], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (text, end) = (args[0], args[1]);
        let token = k.var(k.i64(-1));
        trie.walk(k, k.data(cells), text, end, |value, at| {
            token.set(at.eq(end).select(value, token.get()));
        });
        k.ret(&[token.get()]);
    });
    Some(Some(f))
}

/// Emits `squeeze(text, end) -> address`: takes the bytes that no token stands for out of a text,
/// which then starts later. `None` if every byte has a token.
fn emit_squeeze(e: &mut Emitter, encoder: &Encoder) -> Option<Func> {
    let mut present = vec![0; 256];
    for bytes in encoder.tokens.iter().flatten().filter(|bytes| bytes.len() == 1) {
        present[usize::from(bytes[0])] = 1;
    }
    if present.iter().all(|there| *there == 1) {
        return None;
    }
    let present = e.constant("encode.present", present, 64);
    let f = e.declare("encode.squeeze", &[I64; 2], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (text, from, to) = (args[0], k.var(args[1]), k.var(args[1]));
        k.while_(
            || text.ult(from.get()),
            || {
                from.set(from.get() - 1);
                let byte = from.get().load_byte(0);
                (to.get() - 1).store_byte(0, byte);
                to.set(to.get() - (k.data(present) + byte).load_byte(0));
            },
        );
        k.ret(&[to.get()]);
    });
    Some(f)
}
