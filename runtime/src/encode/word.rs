//! One stretch of text into tokens: longest token first, stepping back where two cannot stand side
//! by side (`merges.rs` says when).
//!
//! The tokens of every beginning of a text are one sequence, so each place is reached at most once:
//! time is linear in the text, and the path is the caller's buffer of tokens itself.

use super::merges::{Merges, Origin};
use super::trie::Trie;
use cranelift_codegen::ir::Type;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_module::DataId;
use targets::builder::Var;
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// What `word` returns when tokens do not fit; an address is never so small.
pub const NO_ROOM: i64 = 0;
/// What `word` returns at a byte that no token stands for.
pub const STUCK: i64 = 1;
/// No address is smaller.
pub const FIRST_ADDRESS: i64 = 2;

/// An array of numbers, each of one, two or four bytes, as few as they all fit in.
#[derive(Clone, Copy)]
struct Numbers {
    at: DataId,
    ty: Type,
}

impl Numbers {
    fn new(e: &mut Emitter, name: &str, numbers: &[u32]) -> Numbers {
        let ty = match numbers.iter().max() {
            Some(0x1_0000..) => I32,
            Some(0x100..) => I16,
            _ => I8,
        };
        let bytes =
            numbers.iter().flat_map(|n| n.to_le_bytes().into_iter().take(ty.bytes() as usize));
        Numbers { at: e.constant(name, bytes.collect(), 64), ty }
    }

    /// The number at an index (`i64`), as an `i64`.
    fn get<'k>(self, k: &'k Kernel<'k>, index: Val<'k>, offset: i32) -> Val<'k> {
        let bytes = self.ty.bytes() as i32;
        let at = k.data(self.at) + (index << i64::from(bytes.ilog2()));
        at.load_constant(self.ty, offset * bytes).uext(I64)
    }
}

/// Columns of the table of tokens.
#[derive(Clone, Copy)]
enum Column {
    Order,
    Left,
    Right,
    /// The longest shorter token that it begins with, and one more; 0 if there is none.
    Prefix,
    SinceLeft,
    SinceRight,
}

/// Facts of each token, a row of numbers.
#[derive(Clone, Copy)]
struct Rows {
    numbers: Numbers,
    columns: i64,
}

impl Rows {
    fn new(e: &mut Emitter, merges: &Merges, prefixes: &[u32]) -> Rows {
        let mut numbers = vec![];
        for (origin, &prefix) in merges.origins.iter().zip(prefixes) {
            let Origin::Merge(last) = origin else {
                numbers.extend([0, 0, 0, prefix]);
                numbers.extend(merges.uneven.then_some([0, 0]).into_iter().flatten());
                continue;
            };
            numbers.extend([last.order, last.left, last.right, prefix]);
            let since = merges.uneven.then_some([last.since_left, last.since_right]);
            numbers.extend(since.into_iter().flatten());
        }
        let columns = if merges.uneven { 6 } else { 4 };
        Rows { numbers: Numbers::new(e, "encode.tokens", &numbers), columns }
    }

    /// Where a token's row starts.
    fn row<'k>(self, token: Val<'k>) -> Val<'k> {
        if self.columns == 4 { token << 2 } else { token * self.columns }
    }

    fn get<'k>(self, k: &'k Kernel<'k>, row: Val<'k>, column: Column) -> Val<'k> {
        let column = match column {
            Column::SinceLeft | Column::SinceRight if self.columns == 4 => Column::Order,
            other => other,
        };
        self.numbers.get(k, row, column as i32)
    }
}

/// The pairs that merge: buckets by a hash that can be undone, so that only what the bucket does
/// not tell is kept of a pair.
struct Pairs {
    starts: Numbers,
    entries: DataId,
    /// Type of an entry: what is left of the hash above, the rank below.
    entry: Type,
    /// Bits of a token, of what is left of a hash, of a rank.
    token_bits: u32,
    rest_bits: u32,
    rank_bits: u32,
}

/// Odd, so that multiplication is one to one.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn bits(n: u64) -> u32 {
    u64::BITS - n.leading_zeros()
}

fn mask(bits: u32) -> u64 {
    if bits == 0 { 0 } else { u64::MAX >> (u64::BITS - bits) }
}

impl Pairs {
    fn new(e: &mut Emitter, merges: &Merges) -> Pairs {
        let token_bits = bits(merges.origins.len() as u64).max(1);
        let bucket_bits = bits(merges.pairs.len() as u64).min(2 * token_bits);
        let rest_bits = 2 * token_bits - bucket_bits;
        let rank_bits = bits(merges.pairs.iter().map(|pair| pair.2.into()).max().unwrap_or(0));
        let mut all: Vec<(u64, u64)> = merges
            .pairs
            .iter()
            .map(|&(left, right, rank)| {
                let key = u64::from(left) << token_bits | u64::from(right);
                (key.wrapping_mul(SPREAD) & mask(2 * token_bits), rank.into())
            })
            .collect();
        all.sort_unstable();
        let mut starts = vec![0; (1 << bucket_bits) + 1];
        all.iter().for_each(|(hash, _)| starts[(hash >> rest_bits) as usize + 1] += 1);
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let entries = all.iter().map(|(hash, rank)| (hash & mask(rest_bits)) << rank_bits | rank);
        let narrow = rest_bits + rank_bits <= 32;
        let mut bytes: Vec<u8> = match narrow {
            true => entries.flat_map(|entry| (entry as u32).to_le_bytes()).collect(),
            false => entries.flat_map(u64::to_le_bytes).collect(),
        };
        // An object has no place for nothing.
        bytes.resize(bytes.len().max(8), 0);
        Pairs {
            starts: Numbers::new(e, "encode.buckets", &starts),
            entries: e.constant("encode.pairs", bytes, 64),
            entry: if narrow { I32 } else { I64 },
            token_bits,
            rest_bits,
            rank_bits,
        }
    }

    /// The rank of a pair, 0 if it does not merge.
    fn rank<'k>(&self, k: &'k Kernel<'k>, left: Val<'k>, right: Val<'k>) -> Val<'k> {
        let key = (left << self.token_bits.into()) | right;
        let hash = (key * SPREAD as i64) & mask(2 * self.token_bits) as i64;
        let bucket = hash >> self.rest_bits.into();
        let rest = hash & mask(self.rest_bits) as i64;
        let end = self.starts.get(k, bucket, 1);
        let (rank, entries) = (k.var(k.i64(0)), k.data(self.entries));
        let shift = i64::from(self.entry.bytes().ilog2());
        k.each(self.starts.get(k, bucket, 0), end, 1, |i| {
            let entry = (entries + (i << shift)).load_constant(self.entry, 0).uext(I64);
            let same = (entry >> self.rank_bits.into()).eq(rest);
            let found = entry & mask(self.rank_bits) as i64;
            rank.set(same.select(found, rank.get()));
        });
        rank.get()
    }
}

/// Emits `fits(left, right) -> i32`: whether two tokens can stand side by side.
fn emit_fits(e: &mut Emitter, merges: &Merges, rows: Rows) -> Func {
    let pairs = Pairs::new(e, merges);
    let f = e.declare("encode.fits", &[I64, I64], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (left, right) = (k.var(args[0]), k.var(args[1]));
        let limit = k.var(k.i64(i64::MAX));
        k.loop_(|| {
            let rank = pairs.rank(k, left.get(), right.get());
            // None is 0, which this makes the largest of all.
            k.return_if((rank - 1).ult(limit.get() - 1), &[k.i32(0)]);
            let (l, r) = (rows.row(left.get()), rows.row(right.get()));
            let (before, after) = (rows.get(k, l, Column::Order), rows.get(k, r, Column::Order));
            k.return_if((before | after).is(0), &[k.i32(1)]);
            k.if_else(
                after.lt(before),
                || {
                    limit.set(rows.get(k, l, Column::SinceRight));
                    left.set(rows.get(k, l, Column::Right));
                },
                || {
                    limit.set(rows.get(k, r, Column::SinceLeft) + 1);
                    right.set(rows.get(k, r, Column::Left));
                },
            );
        });
        k.ret(&[k.i32(1)]);
    });
    f
}

/// What the search for the tokens of a word looks things up in.
struct Tables {
    rows: Rows,
    lengths: Numbers,
    trie: Trie,
    cells: DataId,
    /// `fits(left, right)`: whether the two can stand side by side.
    fits: Func,
    /// Of each byte its token.
    fallback: Option<DataId>,
}

impl Tables {
    fn new(
        e: &mut Emitter,
        tokens: &[Option<Vec<u8>>],
        merges: &Merges,
        fallback: Option<&[u32; 256]>,
    ) -> Option<Tables> {
        let occurs = |id: usize| merges.origins[id] != Origin::Never;
        let strings = tokens.iter().enumerate().filter(|(id, _)| occurs(*id));
        let strings: Vec<(&[u8], u32)> =
            strings.filter_map(|(id, bytes)| Some((bytes.as_deref()?, id as u32))).collect();
        let lengths: Vec<u32> =
            tokens.iter().map(|bytes| bytes.as_ref().map_or(0, Vec::len) as u32).collect();
        let rows = Rows::new(e, merges, &prefixes(tokens.len(), &strings));
        let lengths = Numbers::new(e, "encode.lengths", &lengths);
        let trie = Trie::new(strings)?;
        let cells = e.constant("encode.trie", trie.bytes(), 64);
        let fits = emit_fits(e, merges, rows);
        let fallback = fallback.map(|tokens| {
            let bytes = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
            e.constant("encode.fallback", bytes, 64)
        });
        Some(Tables { rows, lengths, trie, cells, fits, fallback })
    }
}

/// Emits `word(text, end, out, limit) -> address`: writes the tokens of the text to `out`, at most
/// up to `limit`, and returns where they end, or `NO_ROOM`, or `STUCK`. The text is not empty.
/// `fallback` is a table of the 256 tokens that characters without a token become, byte by byte.
pub fn emit(
    e: &mut Emitter,
    tokens: &[Option<Vec<u8>>],
    merges: &Merges,
    fallback: Option<&[u32; 256]>,
) -> Option<Func> {
    let tables = Tables::new(e, tokens, merges, fallback)?;
    let f = e.declare("encode.word", &[I64; 4], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [text, end, out, limit] = *args else { unreachable!("four are declared") };
        let (out, floor) = (k.var(out), k.var(out));
        let search = Search { k, tables: &tables, pos: k.var(text), out, floor, limit };
        k.while_(
            || search.pos.get().ult(end),
            || {
                let (token, after) = (k.var(k.i64(-1)), k.var(search.pos.get()));
                tables.trie.walk(k, k.data(tables.cells), search.pos.get(), end, |value, at| {
                    token.set(value);
                    after.set(at);
                });
                k.if_else(
                    token.get().is(-1),
                    || search.spell(),
                    || {
                        search.fit(token, after);
                        push(k, out, limit, token.get());
                        search.pos.set(after.get());
                    },
                );
            },
        );
        k.ret(&[out.get()]);
    });
    Some(f)
}

/// How far the search for the tokens of a word is.
struct Search<'k, 't> {
    k: &'k Kernel<'k>,
    tables: &'t Tables,
    /// What has no token yet.
    pos: Var<'k>,
    /// Behind the last token.
    out: Var<'k>,
    /// Tokens before it stay.
    floor: Var<'k>,
    limit: Val<'k>,
}

impl<'k> Search<'k, '_> {
    /// A character of which no token has a part, byte by byte; what comes after is a new start.
    fn spell(&self) {
        let Search { k, pos, out, floor, limit, .. } = *self;
        let Some(fallback) = self.tables.fallback else {
            return k.return_if(pos.get().is_not(0), &[k.i64(STUCK)]);
        };
        let bytes = character_bytes(k, pos.get().load_byte(0));
        k.each_address(pos.get(), pos.get() + bytes, k.i64(1), |at| {
            let entry = k.data(fallback) + (at.load_byte(0) << 2);
            push(k, out, limit, entry.load_constant(I32, 0));
        });
        pos.add(bytes);
        floor.set(out.get());
    }

    /// Shortens `token`, which ends at `after`, until it can stand behind the last one; takes that one
    /// back where nothing of it can.
    fn fit(&self, token: Var<'k>, after: Var<'k>) {
        let Search { k, tables, pos, out, floor, .. } = *self;
        let prefix = |token| tables.rows.get(k, tables.rows.row(token), Column::Prefix) - 1;
        k.loop_(|| {
            k.break_if(out.get().eq(floor.get()));
            let before = (out.get() - 4).load(I32, 0).uext(I64);
            k.break_if(k.call(&tables.fits, &[before, token.get()])[0].is_not(0));
            token.set(prefix(token.get()));
            k.while_(
                || token.get().is(-1),
                || {
                    k.return_if(out.get().eq(floor.get()), &[k.i64(STUCK)]);
                    out.set(out.get() - 4);
                    let last = out.get().load(I32, 0).uext(I64);
                    pos.set(pos.get() - tables.lengths.get(k, last, 0));
                    token.set(prefix(last));
                },
            );
            after.set(pos.get() + tables.lengths.get(k, token.get(), 0));
        });
    }
}

/// Writes a token to `out`, which goes on behind it; leaves the function where there is no room.
pub fn push<'k>(k: &'k Kernel<'k>, out: Var<'k>, limit: Val<'k>, token: Val<'k>) {
    k.return_if(limit.ult(out.get() + 4), &[k.i64(NO_ROOM)]);
    out.get().store(0, token.truncate(I32));
    out.add(k.i64(4));
}

/// Of each token one more than the longest shorter token that it begins with, 0 if there is none.
fn prefixes(count: usize, strings: &[(&[u8], u32)]) -> Vec<u32> {
    let mut sorted = strings.to_vec();
    sorted.sort_unstable();
    let (mut prefixes, mut open) = (vec![0; count], Vec::<(&[u8], u32)>::new());
    for (bytes, id) in sorted {
        while open.last().is_some_and(|(prefix, _)| !bytes.starts_with(prefix)) {
            open.pop();
        }
        prefixes[id as usize] = open.last().map_or(0, |(_, prefix)| prefix + 1);
        open.push((bytes, id));
    }
    prefixes
}

/// Bytes of the character that starts with this byte, in valid UTF-8.
pub fn character_bytes<'k>(k: &'k Kernel<'k>, first: Val<'k>) -> Val<'k> {
    let above = |limit: i64| k.i64(limit).ult(first).uext(I64);
    above(0xbf) + above(0xdf) + above(0xef) + 1
}
