//! x86-64 panel kernels over integers, 512 bits wide (AVX-512 F, VL, DQ, VNNI).
//!
//! Same parameters, layout and order of arithmetic as the CLIF kernel in `kernels/int_panel.rs`,
//! System V: `rdi` w, `rsi` x, `rdx` y, `rcx` groups, `r8` x_stride, `r9` y_stride, first stack slot
//! residual.

use super::Code;
use super::x64::{BASES, FRAME_BYTES, SAVED, ZMM, finish, row};
use crate::kernels::int_panel::{SCALES_BYTES, Shape};
use crate::kernels::quant_rows::{NEGATIVE_SUM, SCALED_SUM, group_bytes};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// The kernel for `m` quantised rows, at most 6.
pub fn panel(shape: Shape, m: u64) -> Code {
    let kernel = Kernel { shape, m: m as usize };
    finish(assemble(&kernel).expect("the kernel's operands are encodable"))
}

/// Registers: the running sums, the products of a group, then weights and what else a step needs.
struct Kernel {
    shape: Shape,
    m: usize,
}

/// Vectors of a panel: 32 rows.
const VECTORS: usize = 2;
/// Bytes of a line of quads: four bytes of each row.
const LINE: i32 = 128;

impl Kernel {
    fn sum(&self, t: usize, j: usize) -> AsmRegisterZmm {
        ZMM[t * VECTORS + j]
    }

    fn product(&self, t: usize, j: usize) -> AsmRegisterZmm {
        ZMM[(self.m + t) * VECTORS + j]
    }

    fn spare(&self, i: usize) -> AsmRegisterZmm {
        ZMM[2 * self.m * VECTORS + i]
    }

    fn each(
        &self,
        mut f: impl FnMut(usize, usize) -> Result<(), IcedError>,
    ) -> Result<(), IcedError> {
        (0..self.m).try_for_each(|t| (0..VECTORS).try_for_each(|j| f(t, j)))
    }
}

fn assemble(s: &Kernel) -> Result<CodeAssembler, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.set_prefer_vex(false);
    SAVED.iter().try_for_each(|r| a.push(*r))?;
    a.mov(BASES[0], rsi)?;
    a.lea(r12, qword_ptr(r8 + r8 * 2))?;
    for g in 1..s.m.div_ceil(3) {
        a.lea(BASES[g], qword_ptr(BASES[g - 1] + r12))?;
    }
    s.each(|t, j| a.vpxord(s.sum(t, j), s.sum(t, j), s.sum(t, j)))?;
    if s.shape.format.bits == 4 {
        a.mov(r12d, 0x0f0f_0f0f)?;
        a.vpbroadcastd(s.spare(3), r12d)?;
    }
    let mut group = a.create_label();
    a.set_label(&mut group)?;
    one_group(&mut a, s)?;
    a.dec(rcx)?;
    a.jnz(group)?;
    if !s.shape.scales_per_group() {
        for j in 0..VECTORS {
            a.vcvtph2ps(s.spare(j), ymmword_ptr(rdi + 32 * j as i32))?;
        }
        s.each(|t, j| a.vmulps(s.sum(t, j), s.sum(t, j), s.spare(j)))?;
    }
    write(&mut a, s)?;
    a.vzeroupper()?;
    SAVED.iter().rev().try_for_each(|r| a.pop(*r))?;
    a.ret()?;
    Ok(a)
}

fn one_group(a: &mut CodeAssembler, s: &Kernel) -> Result<(), IcedError> {
    let group = s.shape.group as i32;
    start(a, s, group)?;
    let (weights, half, mask) = (s.spare(0), s.spare(1), s.spare(3));
    let bits = i32::from(s.shape.format.bits);
    for q in 0..group * bits / 32 {
        for j in 0..VECTORS {
            a.vmovdqu64(weights, zmmword_ptr(rdi + (q * LINE + 64 * j as i32)))?;
            if bits == 8 {
                dots(a, s, j, weights, q * 4)?;
                continue;
            }
            a.vpandd(half, weights, mask)?;
            dots(a, s, j, half, q * 8)?;
            a.vpsrlw(half, weights, 4)?;
            a.vpandd(half, half, mask)?;
            dots(a, s, j, half, q * 8 + 4)?;
        }
    }
    scale(a, s, group)?;
    a.add(rdi, s.shape.step_bytes() as i32)?;
    for base in &BASES[..s.m.div_ceil(3)] {
        a.add(*base, group_bytes(s.shape.group) as i32)?;
    }
    Ok(())
}

/// Products start at minus the offset of unsigned integers.
fn start(a: &mut CodeAssembler, s: &Kernel, group: i32) -> Result<(), IcedError> {
    s.each(|t, j| {
        let product = s.product(t, j);
        if s.shape.format.zero {
            a.vpxord(product, product, product)
        } else if j == 0 {
            a.vpbroadcastd(product, dword_ptr(row(t) + (group + NEGATIVE_SUM)))?;
            a.vpslld(product, product, u32::from(s.shape.format.bits) - 1)
        } else {
            a.vmovdqa32(product, s.product(t, 0))
        }
    })
}

fn dots(
    a: &mut CodeAssembler,
    s: &Kernel,
    j: usize,
    weights: AsmRegisterZmm,
    at: i32,
) -> Result<(), IcedError> {
    (0..s.m).try_for_each(|t| a.vpdpbusd(s.product(t, j), weights, dword_bcst(row(t) + at)))
}

/// `sum += float(product) · (s_w · s_x)`, and the low ends.
fn scale(a: &mut CodeAssembler, s: &Kernel, group: i32) -> Result<(), IcedError> {
    let (scales, factor) = (s.spare(0), s.spare(1));
    let at = s.shape.quads_bytes() as i32;
    for j in 0..VECTORS {
        if s.shape.scales_per_group() {
            a.vcvtph2ps(scales, ymmword_ptr(rdi + (at + 32 * j as i32)))?;
        }
        for t in 0..s.m {
            let product = s.product(t, j);
            a.vcvtdq2ps(product, product)?;
            let x_scale = row(t) + group;
            if s.shape.scales_per_group() {
                a.vmulps(factor, scales, dword_bcst(x_scale))?;
                a.vfmadd231ps(s.sum(t, j), product, factor)?;
            } else {
                a.vfmadd231ps(s.sum(t, j), product, dword_bcst(x_scale))?;
            }
        }
        if s.shape.format.zero {
            let lows = at + SCALES_BYTES as i32 + 32 * j as i32;
            a.vcvtph2ps(scales, ymmword_ptr(rdi + lows))?;
            for t in 0..s.m {
                let sum = dword_bcst(row(t) + (group + SCALED_SUM));
                a.vfmadd231ps(s.sum(t, j), scales, sum)?;
            }
        }
    }
    Ok(())
}

fn write(a: &mut CodeAssembler, s: &Kernel) -> Result<(), IcedError> {
    let (mut plain, mut done) = (a.create_label(), a.create_label());
    a.mov(r14, qword_ptr(rsp + (FRAME_BYTES as i32 + 8)))?;
    a.test(r14, r14)?;
    a.jz(plain)?;
    for t in 0..s.m {
        for j in 0..VECTORS {
            let place = 64 * j as i32;
            a.vaddps(s.sum(t, j), s.sum(t, j), zmmword_ptr(r14 + place))?;
            a.vmovups(zmmword_ptr(rdx + place), s.sum(t, j))?;
        }
        a.add(rdx, r9)?;
        a.add(r14, r9)?;
    }
    a.jmp(done)?;
    a.set_label(&mut plain)?;
    for t in 0..s.m {
        for j in 0..VECTORS {
            a.vmovups(zmmword_ptr(rdx + 64 * j as i32), s.sum(t, j))?;
        }
        a.add(rdx, r9)?;
    }
    a.set_label(&mut done)?;
    a.zero_bytes()
}
