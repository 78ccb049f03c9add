//! Calibration: what the activations of a model look like on a text, and what that is good for.

pub mod cache;
mod flags;
mod kept;
mod lab;
pub mod learn;
pub mod observe;
mod own;
mod probe;
pub mod search;
pub mod sequential;
mod text;

pub use flags::{Calib, CalibFlags, Round};
pub use lab::{Laboratory, needs_statistics};
pub use sequential::Rounded;
