//! The compiler as a library: frontends, tokenizer, errors.
//!
//! The only crate of the workspace that reads and writes files.

pub mod error;
pub mod frontend;
pub mod pool;
pub mod session;
pub mod tokenizer;

pub use error::Error;
