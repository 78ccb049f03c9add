//! The caller's structures, as C lays them out on 64-bit targets. Offsets in bytes.

/// `struct NAME_env`.
pub mod env {
    /// `uint32_t size`.
    pub const SIZE: i32 = 0;
    /// `uint32_t workers`.
    pub const WORKERS: i32 = 4;
    /// `const void *weights`.
    pub const WEIGHTS: i32 = 8;
    /// `void *scratch`.
    pub const SCRATCH: i32 = 16;
    /// `size_t scratch_bytes`.
    pub const SCRATCH_BYTES: i32 = 24;
    /// `void *user`.
    pub const USER: i32 = 32;
    /// `void (*parallel)(void *, uint32_t, void (*)(void *, uint32_t), void *)`.
    pub const PARALLEL: i32 = 40;
    /// `int (*poll)(void *, uint32_t, uint32_t)`.
    pub const POLL: i32 = 48;
    /// `sizeof(struct NAME_env)`.
    pub const BYTES: i64 = 56;
}
