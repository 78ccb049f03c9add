//! Whether this process may use the tiles of AMX.
//!
//! The CPU must have them and the operating system must keep them; Linux wants to be asked once by
//! each process (Documentation/arch/x86/xstate.rst).

/// Asks for tiles; true once they are granted.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // Leaf 7: bit 24 tiles, bit 25 their products of bytes.
    let leaf = std::arch::x86_64::__cpuid_count(7, 0).edx;
    let has = leaf & (3 << 24) == 3 << 24;
    // SAFETY: the call takes two numbers and changes nothing but this permission.
    has && unsafe {
        libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
    }
}

/// Other systems are not asked.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
pub fn permitted() -> bool {
    false
}
