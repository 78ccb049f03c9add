//! The compiler as a library: frontends, tokenizer, errors.
//!
//! The only crate of the workspace that reads and writes files.

pub mod build;
pub mod error;
pub mod frontend;
pub mod model;
pub mod options;
pub mod pool;
pub mod progress;
pub mod session;
pub mod tokenizer;

pub use error::Error;
