//! Loops and conditions of the kernel builder.

use super::{Kernel, Val};
use cranelift_codegen::ir::InstBuilder;

impl<'k> Kernel<'k> {
    /// `for i in (start..end).step_by(step)`, tested at the top: the loop's values are used once
    /// on the back edge, so Cranelift can still fold loads into operands.
    pub fn each(&'k self, start: Val<'k>, end: Val<'k>, step: i64, body: impl FnOnce(Val<'k>)) {
        let i = self.var(start);
        self.while_(
            || i.get().lt(end),
            || {
                body(i.get());
                i.set(i.get() + step);
            },
        );
    }

    /// Addresses `start, start + step, …` below `end`, the step a value.
    pub fn each_address(
        &'k self,
        start: Val<'k>,
        end: Val<'k>,
        step: Val<'k>,
        body: impl FnOnce(Val<'k>),
    ) {
        let at = self.var(start);
        self.while_(
            || at.get().ult(end),
            || {
                body(at.get());
                at.set(at.get() + step);
            },
        );
    }

    /// `while condition { body }`.
    pub fn while_(&'k self, condition: impl FnOnce() -> Val<'k>, body: impl FnOnce()) {
        let (head, inside, exit) = {
            let mut b = self.b();
            let blocks = (b.create_block(), b.create_block(), b.create_block());
            b.ins().jump(blocks.0, &[]);
            b.switch_to_block(blocks.0);
            blocks
        };
        let go = condition();
        {
            let mut b = self.b();
            b.ins().brif(go.v, inside, &[], exit, &[]);
            b.seal_block(inside);
            b.switch_to_block(inside);
        }
        self.exits.borrow_mut().push(exit);
        body();
        self.exits.borrow_mut().pop();
        let mut b = self.b();
        b.ins().jump(head, &[]);
        b.seal_block(head);
        b.seal_block(exit);
        b.switch_to_block(exit);
    }

    /// `loop { body }`, left by `break_if`.
    pub fn loop_(&'k self, body: impl FnOnce()) {
        let (head, exit) = {
            let mut b = self.b();
            let blocks = (b.create_block(), b.create_block());
            b.ins().jump(blocks.0, &[]);
            b.switch_to_block(blocks.0);
            blocks
        };
        self.exits.borrow_mut().push(exit);
        body();
        self.exits.borrow_mut().pop();
        let mut b = self.b();
        b.ins().jump(head, &[]);
        b.seal_block(head);
        b.seal_block(exit);
        b.switch_to_block(exit);
    }

    /// Leaves the innermost loop when `condition` holds.
    pub fn break_if(&'k self, condition: Val<'k>) {
        let exit = *self.exits.borrow().last().expect("break_if is inside a loop");
        let mut b = self.b();
        let next = b.create_block();
        b.ins().brif(condition.v, exit, &[], next, &[]);
        b.seal_block(next);
        b.switch_to_block(next);
    }

    /// `if condition { then }`.
    pub fn if_(&'k self, condition: Val<'k>, then: impl FnOnce()) {
        self.if_else(condition, then, || {});
    }

    /// `if condition { then } else { otherwise }`.
    pub fn if_else(&'k self, condition: Val<'k>, then: impl FnOnce(), otherwise: impl FnOnce()) {
        let (yes, no, join) = {
            let mut b = self.b();
            let blocks = (b.create_block(), b.create_block(), b.create_block());
            b.ins().brif(condition.v, blocks.0, &[], blocks.1, &[]);
            b.seal_block(blocks.0);
            b.seal_block(blocks.1);
            b.switch_to_block(blocks.0);
            blocks
        };
        then();
        {
            let mut b = self.b();
            b.ins().jump(join, &[]);
            b.switch_to_block(no);
        }
        otherwise();
        let _ = yes;
        let mut b = self.b();
        b.ins().jump(join, &[]);
        b.seal_block(join);
        b.switch_to_block(join);
    }

    /// Returns `values` at once when `condition` holds.
    pub fn return_if(&'k self, condition: Val<'k>, values: &[Val<'k>]) {
        let next = {
            let mut b = self.b();
            let (leave, next) = (b.create_block(), b.create_block());
            b.ins().brif(condition.v, leave, &[], next, &[]);
            b.seal_block(leave);
            b.seal_block(next);
            b.switch_to_block(leave);
            next
        };
        self.ret(values);
        self.b().switch_to_block(next);
    }

    /// One of two values.
    pub fn choose(
        &'k self,
        condition: Val<'k>,
        then: impl FnOnce() -> Val<'k>,
        otherwise: impl FnOnce() -> Val<'k>,
    ) -> Val<'k> {
        let mut result = None;
        let slot = std::cell::Cell::new(None);
        self.if_else(
            condition,
            || {
                let v = self.var(then());
                slot.set(Some(v));
            },
            || {
                let v = slot.get().expect("the first arm is written first");
                v.set(otherwise());
                result = Some(v);
            },
        );
        result.expect("both arms are written").get()
    }
}
