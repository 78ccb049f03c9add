//! Watching values while code runs in this process: what calibration and evaluation see.
//!
//! An observed library calls back with the rows of a value as soon as all workers have made them,
//! and goes on when the callback returns. Libraries that are written to files are never observed.

use super::writer::{Scope, Writer};
use crate::records::worker;
use crate::{builder::signature, plan::Place};
use cranelift_codegen::ir::types::*;
use ir::{GraphId, ValueId};
use std::ffi::c_void;

/// Hears of one value: `user`, index into `Observer::values`, calls of graphs since the library was
/// called, address of the first row, rows, bytes from row to row. Comes from one thread at a time.
pub type Watch = unsafe extern "C" fn(*mut c_void, u64, u64, *const f32, u64, u64);

/// What is watched, and who hears of it.
#[derive(Clone, Debug)]
pub struct Observer {
    /// Called with the rows of a value.
    pub watch: Watch,
    /// Its first argument, as an address; must stay valid as long as the code may run.
    pub user: usize,
    /// Values of `f32` rows, each the result of a step: what a step of several makes on its way is
    /// never in memory.
    pub values: Vec<(GraphId, ValueId)>,
}

impl Observer {
    /// Whether some value of the graph is watched.
    pub fn watches(&self, graph: GraphId) -> bool {
        self.values.iter().any(|(g, _)| *g == graph)
    }
}

impl Writer<'_> {
    /// Calls back with a value that was just defined, if it is watched. Other workers wait: the next
    /// step may write over it.
    pub(super) fn observe(&self, s: &mut Scope, v: ValueId) {
        let Some(observer) = self.inputs.observer else { return };
        let module = self.inputs.module;
        let here = module.graph_named(&self.graph.name).expect("the graph is the module's");
        let Some(index) = observer.values.iter().position(|&w| w == (here, v)) else { return };
        assert!(self.place(v) != Place::None, "%{} is not in memory", self.graph.value(v).name);
        self.barrier(s);
        let (k, record) = (s.k, s.record);
        k.if_(record.load(I64, worker::INDEX).is(0), || {
            let arguments = [
                k.i64(observer.user as i64),
                k.i64(index as i64),
                record.load(I32, worker::DONE).uext(I64),
                self.at(s, v),
                s.rows,
                k.i64(self.stride(v)),
            ];
            let watch = k.i64(observer.watch as usize as i64);
            k.call_pointer(signature(&[I64; 6], &[], self.inputs.call_conv), watch, &arguments);
        });
        self.barrier(s);
    }

    /// As `observe`, for what the graph is given.
    pub(super) fn observe_params(&self, s: &mut Scope) {
        for v in self.value_params() {
            self.observe(s, v);
        }
    }
}
