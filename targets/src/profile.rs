//! Where time goes: each step of the first worker measured by the code itself, on request.
//!
//! A table in scratch has a row per call of `@model` and one for what lies outside calls, and in each
//! row the ticks of every site. Nothing of this is emitted unless it is asked for.

use crate::builder::{Func, Val};
use crate::emit::Emitter;
use crate::plan::{GraphPlan, Step};
use crate::records::worker;
use crate::target::Arch;
use cranelift_codegen::ir::types::*;
use ir::{Arg, Graph};

/// What a site measures.
#[derive(Clone, Debug)]
pub struct Site {
    /// Graph that the step belongs to.
    pub graph: String,
    /// Operation, or `barrier` for waiting.
    pub op: &'static str,
    /// The value that the step defines; empty for barriers.
    pub value: String,
    /// Matrices and tables that the step reads.
    pub weights: Vec<Arg>,
}

/// The table: where it is and what its columns mean.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Offset in scratch of two words, the last tick and the address of the current row, and then of
    /// the rows.
    pub offset: u64,
    /// Rows: one per call of `@model`, then the one outside of calls.
    pub rows: u64,
    /// Columns.
    pub sites: Vec<Site>,
}

/// Bytes before the first row.
const HEAD_BYTES: u64 = 16;

impl Profile {
    /// Offset in scratch of the ticks (`u64`) of a site in a row.
    pub fn place(&self, row: u64, site: u64) -> u64 {
        self.offset + HEAD_BYTES + (row * self.sites.len() as u64 + site) * 8
    }

    /// Bytes of scratch.
    pub fn bytes(&self) -> u64 {
        self.place(self.rows, 0) - self.offset
    }

    /// Adds the sites of a graph: a barrier, then its steps. Returns the first.
    pub fn add(&mut self, graph: &Graph, plan: &GraphPlan) -> u64 {
        let first = self.sites.len() as u64;
        let name = graph.name.clone();
        self.sites.push(Site { graph: name, op: "barrier", value: String::new(), weights: vec![] });
        self.sites.extend(plan.steps.iter().map(|step| site(graph, step)));
        first
    }
}

fn site(graph: &Graph, step: &Step) -> Site {
    let insts = step.insts().into_iter().map(|i| &graph.insts[i]);
    let weight = |arg: &&Arg| matches!(arg, Arg::Weight(_) | Arg::FormalWeight(_));
    Site {
        graph: graph.name.clone(),
        op: step.name(graph),
        value: graph.value(step.result(graph)).name.clone(),
        weights: insts.flat_map(|i| &i.args).filter(weight).copied().collect(),
    }
}

/// Emits `ticks() -> u64`: the time stamp counter of x86-64, the virtual counter of AArch64,
/// the timer of RISC-V.
pub fn define_ticks(e: &mut Emitter) -> Func {
    let f = e.declare("ticks", &[], &[I64]);
    let (bytes, text): (&[u8], _) = match e.target.facts.arch {
        Arch::X64 => (
            &[0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3],
            "rdtsc\nshl rdx, 32\nor rax, rdx\nret\n",
        ),
        Arch::A64 => {
            (&[0x40, 0xe0, 0x3b, 0xd5, 0xc0, 0x03, 0x5f, 0xd6], "mrs x0, cntvct_el0\nret\n")
        }
        Arch::R64 => (&[0x73, 0x25, 0x10, 0xc0, 0x67, 0x80, 0x00, 0x00], "rdtime a0\nret\n"),
    };
    e.define_assembled(&f, bytes, 0, text.into());
    f
}

/// Starts the clock in the given row, on the first worker.
pub fn start<'k>(record: Val<'k>, ticks: &Func, profile: &Profile, row: u64) {
    let k = record.k;
    k.if_(record.load(I64, worker::INDEX).is(0), || {
        let table = record.load(I64, worker::FRAME) + profile.offset as i64;
        table.store(0, k.call(ticks, &[])[0]);
        let at = profile.place(row, 0) - profile.offset;
        table.store(8, table + at as i64);
    });
}

/// Books the time since the last mark to a site of the current row, on the first worker.
pub fn mark<'k>(record: Val<'k>, ticks: &Func, profile: &Profile, site: u64) {
    let k = record.k;
    k.if_(record.load(I64, worker::INDEX).is(0), || {
        let table = record.load(I64, worker::FRAME) + profile.offset as i64;
        let (before, row) = (table.load(I64, 0), table.load(I64, 8));
        let now = k.call(ticks, &[])[0];
        table.store(0, now);
        let (at, spent) = (site as i32 * 8, now - before);
        row.store(at, row.load(I64, at) + spent);
    });
}
