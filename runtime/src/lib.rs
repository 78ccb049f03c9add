//! What ingot emits beside the kernels: state, sampler, tokenizer, chat, statuses, the header.
//!
//! Holds no code that runs on the device, only code that emits it.

pub mod abi;
pub mod chat;
pub mod cpu;
pub mod encode;
pub mod entry;
pub mod errors;
pub mod header;
pub mod library;
pub mod packages;
pub mod pieces;
pub mod sample;
pub mod save;
pub mod state;
pub mod text;

pub use library::{Library, LibraryError, Options, emit};
pub use text::Text;
