//! ingot
fn main() {}
