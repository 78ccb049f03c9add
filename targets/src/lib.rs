//! Code generation of ingot: kernels for AArch64 and x86-64 through Cranelift, and objects.
//!
//! Knows the IR and machines; knows nothing of checkpoints, files or the C interface.

pub mod builder;
pub mod emit;
pub mod frame;
pub mod target;

pub use builder::{Func, Kernel, Val, Var};
pub use emit::{Emitter, Listing, Tuning};
pub use target::{Arch, Facts, Target, TargetError};
