//! Random bits by seed, and hashes: the same everywhere, on the finaliser of SplitMix64.

/// A number that looks random, one for each `z`.
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` signs, -1 or 1, by seed.
pub fn signs(seed: u64, count: usize) -> Vec<f64> {
    let bit = |i: u64| mix(mix(seed).wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 63;
    (1..=count as u64).map(|i| if bit(i) == 0 { 1.0 } else { -1.0 }).collect()
}

/// A hash of 128 bits of a sequence of words.
pub fn digest(words: impl Iterator<Item = u64>) -> u128 {
    let (mut a, mut b, mut count) = (0x9e37_79b9_7f4a_7c15u64, 0x6a09_e667_f3bc_c909u64, 0u64);
    for word in words {
        a = (a ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        b = (b.rotate_left(23) ^ word).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        count += 1;
    }
    u128::from(mix(a ^ count)) << 64 | u128::from(mix(b ^ count))
}
