//! Assembled kernels: units that Cranelift has no words for.

pub mod a64;
pub mod a64_smmla;
pub mod wide;
pub mod x64;
pub mod x64_amx;
pub mod x64_amx_rows;
pub mod x64_amx_scores;
pub mod x64_bytes;
pub mod x64_cpu;
pub mod x64_gate_mul;
pub mod x64_int;
pub mod x64_math;
pub mod x64_peak;
pub mod x64_quant_rows;
pub mod x64_rms_norm;
pub mod x64_softmax;

/// Machine code without relocations.
pub struct Code {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Stack it uses, return address excluded.
    pub frame_bytes: u32,
    /// Its listing.
    pub text: String,
}
