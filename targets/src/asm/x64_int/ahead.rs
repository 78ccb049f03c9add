//! What kernels of panels fetch before they need it.

use super::super::wide::Wide;
use super::super::x64::{AHEAD_BYTES, LINE, fetch_ahead};
use super::{Kernel, Unit};
use crate::kernels::panel::PANEL_ROWS;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

impl Kernel {
    /// How many times it goes through a panel.
    pub(super) fn slices(&self, w: &Wide) -> usize {
        PANEL_ROWS as usize / (self.vectors() * w.lanes() as usize)
    }

    /// Whether several rows fetch the next panel while they go through this one. Of many such rows the
    /// first ones do, for the others it is there.
    pub(super) fn fetches_panel(&self) -> bool {
        self.unit == Unit::Avx2 && self.m > 1
    }

    /// Bytes of the next panel that each group of each slice fetches; `r15` walks them.
    pub(super) fn share_bytes(&self, w: &Wide) -> usize {
        (self.shape.step_bytes() + self.shape.factors_bytes()) as usize / self.slices(w)
    }

    /// Whether what is ahead of the integers and of the factors of a panel is fetched each by itself.
    pub(super) fn fetches_parts(&self) -> bool {
        self.one_by_one() && self.shape.nested()
    }
}

/// Fetches with four `k` the lines that are then due: all those of a group at once would keep loads
/// waiting.
pub(super) fn fetch(w: &mut Wide, s: &Kernel, k: i32) -> Result<(), IcedError> {
    if s.m > 1 && !s.fetches_panel() {
        return Ok(());
    }
    // Each slice of the rows reads lines of its own, and fetches its share of the next panel.
    let slices = s.slices(w);
    let (bytes, apart) = match s.m {
        1 => (s.shape.step_bytes() as usize, LINE * slices),
        _ => (s.share_bytes(w), LINE),
    };
    let (group, lines) = (s.shape.group as usize, bytes.div_ceil(apart));
    let mut mine = (0..lines).filter(|line| line * group / lines / 4 == k as usize / 4);
    mine.try_for_each(|i| {
        let at = (i * apart) as i32;
        match s.m {
            1 if s.fetches_parts() => w.a.prefetcht0(r10 + r14 + at),
            1 => fetch_ahead(&mut w.a, r10 + at, s.unit.has_dot()),
            _ => w.a.prefetcht0(r15 + at),
        }
    })
}

/// What is ahead of a panel's integers are its factors, which are in use long before; so towards its end
/// `r14`, from `r10` to what is fetched, becomes `r15` and reaches over them into the next panel. `rbp`
/// is from a panel to the next.
pub(super) fn start_fetching_parts(w: &mut Wide, s: &Kernel) -> Result<(), IcedError> {
    let end = s.shape.panel_bytes(0) as i32;
    w.a.imul_3(r15, rcx, s.shape.factors_bytes() as i32)?;
    w.a.imul_3(rbp, rcx, s.shape.step_bytes() as i32)?;
    w.a.lea(rbp, qword_ptr(rbp + r15 + end))?;
    w.a.add(r15, AHEAD_BYTES + end)?;
    w.a.mov(r14, AHEAD_BYTES as u64)
}

/// Fetches the factors that this group has in the next panel, and chooses what is ahead of its integers.
pub(super) fn fetch_factors(w: &mut Wide, s: &Kernel) -> Result<(), IcedError> {
    let bytes = s.shape.factors_bytes() as i32;
    (0..bytes).step_by(LINE).try_for_each(|at| w.a.prefetcht0(rbx + rbp + at))?;
    w.a.cmp(r13, AHEAD_BYTES / s.shape.step_bytes() as i32)?;
    w.a.cmovle(r14, r15)
}

/// `r15`: the next panel.
pub(super) fn start_fetching_panel(w: &mut Wide, s: &Kernel) -> Result<(), IcedError> {
    let step = s.shape.step_bytes() + s.shape.factors_bytes();
    w.a.imul_3(r15, rcx, step as i32)?;
    w.a.lea(r15, qword_ptr(rdi + r15 + s.shape.panel_bytes(0) as i32))
}
