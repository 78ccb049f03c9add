//! Code generation of ingot: kernels for AArch64 and x86-64 through Cranelift, and objects.
//!
//! Knows the IR and machines; knows nothing of checkpoints, files or the C interface.

pub mod archive;
pub mod asm;
pub mod builder;
pub mod compile;
pub mod emit;
pub mod jit;
pub mod kernels;
pub mod math;
pub mod object;
pub mod pack;
pub mod peak;
pub mod plan;
pub mod profile;
pub mod records;
pub mod sync;
pub mod target;
mod tiles;

pub use builder::{Func, Kernel, Val, Var};
pub use emit::{Emitter, Listing, Tuning};
pub use target::{Arch, Facts, Target, TargetError};
