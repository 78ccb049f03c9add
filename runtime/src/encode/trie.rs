//! Byte strings and their values as a double array (Aoe 1989), in cells of 32 bits.
//!
//! The cell of a node: bit 31 is 0, bits 9 to 30 are its base, bit 8 says whether a string ends
//! here, bits 0 to 7 are the byte that leads here. The node after byte `b` is at base + `b`, the
//! value at base + 256, with bit 31 set. No two nodes have one base, so the byte tells whether a
//! cell is the node's own.

use cranelift_codegen::ir::types::{I32, I64};
use targets::{Kernel, Val};

const LEAF: u32 = 1 << 31;
const ENDS: u32 = 1 << 8;
/// Where a node's value is, after its base.
const VALUE: usize = 256;
/// Cells that 22 bits of base can reach.
const MOST: usize = 1 << 22;

/// A trie as it lies in memory, root first.
#[derive(Debug)]
pub struct Trie {
    /// The cells.
    pub cells: Vec<u32>,
}

impl Trie {
    /// Builds a trie of different strings, none of them empty; `None` if it would be too large.
    pub fn new(mut strings: Vec<(&[u8], u32)>) -> Option<Trie> {
        strings.sort_unstable();
        // No byte leads to the root: before its cell there is no room for a base.
        let cells = vec![LEAF | 0xff];
        let mut builder = Builder { cells, used: vec![true], bases: vec![], next: 1 };
        builder.place(&strings, 0, 0)?;
        let end = builder.bases.iter().rposition(|used| *used).unwrap_or(0) + VALUE + 1;
        builder.cells.resize(end.max(builder.cells.len()), LEAF);
        Some(Trie { cells: builder.cells })
    }

    /// Bytes of the cells.
    pub fn bytes(&self) -> Vec<u8> {
        self.cells.iter().flat_map(|cell| cell.to_le_bytes()).collect()
    }

    fn root(&self) -> i64 {
        i64::from(self.cells[0] >> 9 & (MOST as u32 - 1))
    }

    /// Walks from `text` to at most `end` (both `i64`) through the cells at `at`; `found` is called
    /// with the value (`i64`) of each string on the way and the address after it.
    pub fn walk<'k>(
        &self,
        k: &'k Kernel<'k>,
        at: Val<'k>,
        text: Val<'k>,
        end: Val<'k>,
        found: impl FnOnce(Val<'k>, Val<'k>),
    ) {
        let (base, p) = (k.var(k.i64(self.root())), k.var(text));
        k.while_(
            || p.get().ult(end),
            || {
                let byte = p.get().load_byte(0);
                let cell = cell(at, base.get() + byte);
                let other = (cell ^ byte) & i64::from(LEAF | 0xff);
                k.break_if(other.is_not(0));
                p.set(p.get() + 1);
                base.set(cell >> 9);
                k.if_((cell & i64::from(ENDS)).is_not(0), || {
                    let value = self::cell(at, base.get() + VALUE as i64);
                    found(value & i64::from(!LEAF), p.get());
                });
            },
        );
    }
}

/// The cell at an index, as an `i64`.
fn cell<'k>(at: Val<'k>, index: Val<'k>) -> Val<'k> {
    (at + (index << 2)).load_constant(I32, 0).uext(I64)
}

struct Builder {
    cells: Vec<u32>,
    used: Vec<bool>,
    /// Bases that nodes have.
    bases: Vec<bool>,
    /// Cells before this one are taken, or hardly worth a look.
    next: usize,
}

impl Builder {
    /// Places what follows the first `depth` bytes of `strings`, which are all the same, below the
    /// node at `node`.
    fn place(&mut self, strings: &[(&[u8], u32)], depth: usize, node: usize) -> Option<()> {
        let ends = strings.first().filter(|(string, _)| string.len() == depth);
        let longer = &strings[usize::from(ends.is_some())..];
        let groups: Vec<&[(&[u8], u32)]> =
            longer.chunk_by(|a, b| a.0[depth] == b.0[depth]).collect();
        let bytes = groups.iter().map(|group| usize::from(group[0].0[depth]));
        let offsets: Vec<usize> = bytes.chain(ends.map(|_| VALUE)).collect();
        let base = self.find(&offsets)?;
        self.cells[node] |= (base as u32) << 9 | if ends.is_some() { ENDS } else { 0 };
        self.cells[node] &= !LEAF;
        if let Some((_, value)) = ends {
            self.cells[base + VALUE] = LEAF | value;
        }
        for offset in &offsets[..groups.len()] {
            self.cells[base + offset] = LEAF | *offset as u32;
        }
        for (group, offset) in groups.iter().zip(&offsets) {
            self.place(group, depth + 1, base + offset)?;
        }
        Some(())
    }

    /// A base with room for these offsets, which are taken.
    fn find(&mut self, offsets: &[usize]) -> Option<usize> {
        let first = *offsets.first()?;
        let (mut at, mut full) = (self.next.max(first), 0);
        let start = at;
        loop {
            if at - first + VALUE >= MOST {
                return None;
            }
            if self.is_used(at) {
                full += 1;
            } else {
                let base = at - first;
                let free = offsets.iter().all(|offset| !self.is_used(base + offset));
                if free && !self.bases.get(base).copied().unwrap_or(false) {
                    self.take(base, offsets);
                    // A stretch that is nearly full is not searched again.
                    if full * 20 >= (at - start + 1) * 19 {
                        self.next = at;
                    }
                    return Some(base);
                }
            }
            at += 1;
        }
    }

    fn is_used(&self, at: usize) -> bool {
        self.used.get(at).copied().unwrap_or(false)
    }

    fn take(&mut self, base: usize, offsets: &[usize]) {
        let most = base + offsets.iter().max().copied().unwrap_or(0) + 1;
        if self.cells.len() < most {
            self.cells.resize(most, LEAF);
            self.used.resize(most, false);
        }
        if self.bases.len() <= base {
            self.bases.resize(base + 1, false);
        }
        self.bases[base] = true;
        offsets.iter().for_each(|offset| self.used[base + offset] = true);
    }
}
