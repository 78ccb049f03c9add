//! The graph IR of ingot: what a model is between checkpoint and machine code.
//!
//! SSA values of typed tensors, one closed set of operations, weights by reference with a history,
//! layers as graphs that are called. Knows nothing of files, passes or machines.

mod attrs;
pub mod build;
pub mod def_use;
pub mod eval;
pub mod hadamard;
pub mod history;
pub mod infer;
mod lex;
pub mod module;
pub mod op;
pub mod parse;
pub mod place;
mod print;
pub mod quant;
pub mod random;
mod repeat;
mod resolve;
pub mod round;
pub mod sample;
mod syntax;
pub mod types;
pub mod uses;
pub mod verify;
pub mod weights;

pub use build::GraphBuilder;
pub use eval::{EvalError, Interpreter};
pub use history::{Side, Source, Step};
pub use infer::Mismatch;
pub use module::*;
pub use op::{Gate, Levels, Op, Rope, RopeScaling, RowRange};
pub use parse::{ParseError, parse, parse_with_lines};
pub use place::{Lines, Place};
pub use round::Rounding;
pub use types::{Codes, DType, Dim, IntFormat, Type};
pub use verify::{Violation, verify};
pub use weights::{BlobError, Blobs, Tensor};
