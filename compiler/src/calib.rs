//! Calibration: what the activations of a model look like on a text, and what that is good for.

mod flags;
mod lab;
pub mod observe;
pub mod sequential;
mod text;

pub use flags::{CalibFlags, Round};
pub use lab::Laboratory;
pub use sequential::Rounded;
