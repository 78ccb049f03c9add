//! The graph IR of ingot: what a model is between checkpoint and machine code.
//!
//! SSA values of typed tensors, one closed set of operations, weights by reference with a history,
//! layers as graphs that are called. Knows nothing of files, passes or machines.

pub mod build;
pub mod infer;
pub mod module;
pub mod op;
pub mod types;
pub mod weights;

pub use build::GraphBuilder;
pub use infer::Mismatch;
pub use module::*;
pub use op::{Op, Rope, RopeScaling};
pub use types::{DType, Dim, Type};
pub use weights::{BlobError, Blobs, Tensor};
