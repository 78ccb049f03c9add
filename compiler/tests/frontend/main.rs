//! The frontends against checkpoints written by the tests themselves, sound and hostile.

mod fuzz;
mod hostile;
mod hostile_gguf;
mod lowering;
mod shared;
mod support;
mod template;
mod tokenizer;
mod weights;
