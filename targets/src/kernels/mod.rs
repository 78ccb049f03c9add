//! Kernels: one file each, with its plain Rust reference.
//!
//! A kernel is a function of addresses, counts and strides, emitted for one target; who calls it on
//! which share of the work is the plan's business.

pub mod attention;
pub mod elementwise;
pub mod embed;
pub mod fake_quant;
pub mod hadamard;
pub mod int_panel;
pub mod kv_append;
pub mod linear;
pub mod panel;
pub mod quant_rows;
pub mod rms_norm;
pub mod rope;
pub mod score;
pub mod softmax;
