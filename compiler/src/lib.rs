//! The compiler as a library: frontends, tokenizer, errors, and each command of the program.
//!
//! The only crate of the workspace that reads and writes files.

pub mod arithmetic;
pub mod bandwidth;
pub mod bench;
pub mod build;
pub mod calib;
pub mod error;
pub mod eval;
pub mod frontend;
pub mod host;
pub mod inspect;
pub mod model;
pub mod opt;
pub mod options;
pub mod output;
pub mod pipeline;
pub mod pool;
pub mod predict;
pub mod progress;
pub mod recipe;
pub mod reference;
pub mod run;
pub mod session;
pub mod simulate;
mod spread;
pub mod text;
pub mod tokenize;
pub mod tokenizer;
pub mod transforms;
pub mod watch;
pub mod work;

pub use error::Error;
