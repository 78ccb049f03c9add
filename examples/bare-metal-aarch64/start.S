// What runs from reset to main: floating point on, memory mapped, .bss zero, the stack painted.
// Code and weights stay in flash. Memory must be mapped as normal memory: without, AArch64 takes it
// for a device, where a vector at an address that is no multiple of its size is a fault.

.equ PAINT, 0xa5a5a5a5a5a5a5a5

// Attributes of mapped memory, by number in MAIR: 0 device, 1 normal, cached.
.equ DEVICE, 0x00 << 2 | 1 << 10 | 1
.equ CACHED, 0x01 << 2 | 1 << 10 | 3 << 8 | 1
.equ READ_ONLY, 2 << 6
.equ NO_EXECUTE, 1 << 54

.section .text.start, "ax"
.global start
start:
    mrs     x0, mpidr_el1
    and     x0, x0, #0xff
    cbnz    x0, wait                    // one core is enough

    ldr     x0, =vectors
    msr     vbar_el1, x0
    mov     x0, #3 << 20
    msr     cpacr_el1, x0               // floating point and vectors

    ldr     x0, =stack_bottom           // painted, so that main can see how deep it went
    ldr     x1, =stack_top
    ldr     x2, =PAINT
1:  str     x2, [x0], #8
    cmp     x0, x1
    b.lo    1b
    mov     sp, x1

    ldr     x0, =bss_start
    ldr     x1, =bss_end
2:  cmp     x0, x1
    b.hs    3f
    stp     xzr, xzr, [x0], #16
    b       2b

3:  ldr     x0, =0xff00                 // MAIR: device-nGnRnE, normal write-back
    msr     mair_el1, x0
    ldr     x0, =(32 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23) // TCR: 4 GiB, pages of 4 KiB, one table
    msr     tcr_el1, x0
    ldr     x0, =level1
    msr     ttbr0_el1, x0
    tlbi    vmalle1
    dsb     sy
    isb
    mrs     x0, sctlr_el1
    mov     x1, #(1 << 0 | 1 << 2)      // mapping, data cache
    orr     x1, x1, #1 << 12            // instruction cache
    orr     x0, x0, x1
    msr     sctlr_el1, x0
    isb

    bl      main
    bl      power_off
wait:
    wfi
    b       wait

// Asks the firmware (PSCI) of the board to switch off.
.global power_off
power_off:
    ldr     w0, =0x84000008
    hvc     #0
    b       wait

// All exceptions end here: what happened, where, and the address.
.balign 2048
vectors:
.rept 16
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       fault
.balign 128
.endr

// One table of gigabytes; the first of them in blocks of 2 MiB: 128 MiB of flash, then devices.
.section .rodata.map, "a"
.balign 4096
level1:
    .quad   level2 + 3
    .quad   0x40000000 + CACHED + NO_EXECUTE
    .quad   0, 0
.balign 4096
level2:
    .set    at, 0
    .rept 64
    .quad   at + CACHED + READ_ONLY
    .set    at, at + 0x200000
    .endr
    .rept 448
    .quad   at + DEVICE + NO_EXECUTE
    .set    at, at + 0x200000
    .endr
