//! What benches share.

/// Elements like those of weights and activations: what tiles draw, and so the clock, depends on them.
pub fn noise(seed: u64, count: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() + next() + next()).collect()
}
