//! Memory that emitted functions share during one call: the frame at the start of scratch, and one
//! record per worker. Offsets in bytes.

/// The call's frame, at the start of scratch.
pub mod frame {
    /// `u64`: address of the weights.
    pub const WEIGHTS: i32 = 0;
    /// `u64`: address of the state.
    pub const STATE: i32 = 8;
    /// `u64`: address of the caller's tokens, `i32` each.
    pub const TOKENS: i32 = 16;
    /// `u64`: how many tokens.
    pub const COUNT: i32 = 24;
    /// `u64`: address of the caller's environment.
    pub const ENV: i32 = 32;
    /// `u64`: where log-probabilities go, or 0.
    pub const LOGPROBS: i32 = 40;
    /// `u64`: position of the first token.
    pub const POSITION: i32 = 48;
    /// `u32`: workers taking part.
    pub const WORKERS: i32 = 56;
    /// `u32`: 1 once the caller has cancelled.
    pub const CANCEL: i32 = 60;
    /// `u32`: arrivals at barriers, alone on its cache line.
    pub const ARRIVED: i32 = 64;
    /// The first worker record.
    pub const RECORDS: i32 = 128;
}

/// One worker's record.
pub mod worker {
    /// Bytes of a record: one cache line, so that workers do not share lines.
    pub const BYTES: i32 = 64;
    /// `u64`: address of the frame.
    pub const FRAME: i32 = 0;
    /// `u64`: index of this worker.
    pub const INDEX: i32 = 8;
    /// `u64`: workers taking part.
    pub const WORKERS: i32 = 16;
    /// `u64`: rows of this chunk, `T`.
    pub const ROWS: i32 = 24;
    /// `u64`: position of the chunk's first row.
    pub const POSITION: i32 = 32;
    /// `u64`: address of the chunk's first token.
    pub const TOKENS: i32 = 40;
    /// `u32`: arrivals that complete the next barrier, less the workers.
    pub const PASSED: i32 = 48;
    /// `u32`: steps done since the call began, for `poll`.
    pub const DONE: i32 = 52;
    /// `u64`: address of memory that only this worker uses.
    pub const PRIVATE: i32 = 56;
}
