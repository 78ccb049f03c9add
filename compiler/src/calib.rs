//! Calibration: what the activations of a model look like on a text.

pub mod observe;
