//! The kernel builder: one machine function written as arithmetic on values.
//!
//! `Val` carries operators, `Var` is a mutable SSA variable, loops and conditions are closures.
//! Vectors are 128 bits wide on every target. Nothing here may become a library call: an
//! operation that the target lacks is written out in those that it has.

mod control;
mod val;

pub use val::Val;

use crate::target::Facts;
use cranelift_codegen::ir::{
    AbiParam, AliasRegion, ConstantData, ExtFuncData, ExternalName, FuncRef, Function,
    GlobalValueData, InstBuilder, MemFlagsData, Signature, StackSlotData, StackSlotKind, Type,
    UserExternalName, Value, types::*,
};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use cranelift_module::{DataId, FuncId};
use std::cell::{RefCell, RefMut};

/// A function that can be called: its id in the module and its signature.
#[derive(Clone, Debug)]
pub struct Func {
    /// Id in the module.
    pub id: FuncId,
    /// Parameters, results and calling convention.
    pub signature: Signature,
}

/// One function being written.
pub struct Kernel<'a> {
    b: RefCell<Option<FunctionBuilder<'a>>>,
    /// What the target can do.
    pub facts: &'a Facts,
    exits: RefCell<Vec<cranelift_codegen::ir::Block>>,
}

/// A mutable variable.
#[derive(Clone, Copy)]
pub struct Var<'k> {
    k: &'k Kernel<'k>,
    v: Variable,
}

/// Memory that other code may write: loads keep their place.
pub(crate) const PLAIN: MemFlagsData = MemFlagsData::new().with_notrap();

/// A signature of our own functions: System V on every target, so that assembled code and CLIF
/// agree everywhere.
pub fn signature(params: &[Type], results: &[Type], call_conv: CallConv) -> Signature {
    let mut signature = Signature::new(call_conv);
    signature.params.extend(params.iter().map(|t| AbiParam::new(*t)));
    signature.returns.extend(results.iter().map(|t| AbiParam::new(*t)));
    signature
}

/// Writes one function body into `func`, whose signature is set.
pub fn build(
    func: &mut Function,
    facts: &Facts,
    body: impl for<'k> FnOnce(&'k Kernel<'k>, &[Val<'k>]),
) {
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(func, &mut context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let params = b.block_params(entry).to_vec();
    let k = Kernel { b: RefCell::new(Some(b)), facts, exits: RefCell::new(vec![]) };
    run(&k, &params, body);
}

fn run<'k>(k: &'k Kernel<'k>, params: &[Value], body: impl FnOnce(&'k Kernel<'k>, &[Val<'k>])) {
    let args: Vec<Val<'k>> = params.iter().map(|&v| k.wrap(v)).collect();
    body(k, &args);
    let b = k.b.borrow_mut().take().expect("a body is finished once");
    b.finalize(k.facts.frontend);
}

impl<'a> Kernel<'a> {
    /// The builder underneath.
    pub(crate) fn b(&self) -> RefMut<'_, FunctionBuilder<'a>> {
        RefMut::map(self.b.borrow_mut(), |b| b.as_mut().expect("the body is being written"))
    }

    pub(crate) fn wrap(&'a self, v: Value) -> Val<'a> {
        Val { k: self, v }
    }

    /// A 64-bit integer or address offset.
    pub fn i64(&'a self, x: i64) -> Val<'a> {
        let v = self.b().ins().iconst(I64, x);
        self.wrap(v)
    }

    /// A 32-bit integer.
    pub fn i32(&'a self, x: i32) -> Val<'a> {
        let v = self.b().ins().iconst(I32, i64::from(x as u32));
        self.wrap(v)
    }

    /// A single-precision constant.
    pub fn f32(&'a self, x: f32) -> Val<'a> {
        let v = self.b().ins().f32const(x);
        self.wrap(v)
    }

    /// A double-precision constant.
    pub fn f64(&'a self, x: f64) -> Val<'a> {
        let v = self.b().ins().f64const(x);
        self.wrap(v)
    }

    /// Four equal floats.
    pub fn f32x4(&'a self, x: f32) -> Val<'a> {
        self.vector(F32X4, &[x.to_le_bytes(); 4].concat())
    }

    /// Four equal integers.
    pub fn i32x4(&'a self, x: i32) -> Val<'a> {
        self.vector(I32X4, &[x.to_le_bytes(); 4].concat())
    }

    /// A vector constant from its bytes.
    pub fn vector(&'a self, ty: Type, bytes: &[u8]) -> Val<'a> {
        let mut b = self.b();
        let constant = b.func.dfg.constants.insert(ConstantData::from(bytes));
        let v = b.ins().vconst(ty, constant);
        drop(b);
        self.wrap(v)
    }

    /// A mutable variable with its first value.
    pub fn var(&'a self, init: Val<'a>) -> Var<'a> {
        let mut b = self.b();
        let ty = b.func.dfg.value_type(init.v);
        let v = b.declare_var(ty);
        b.def_var(v, init.v);
        drop(b);
        Var { k: self, v }
    }

    /// `n` variables with the same first value.
    pub fn vars(&'a self, n: usize, init: Val<'a>) -> Vec<Var<'a>> {
        (0..n).map(|_| self.var(init)).collect()
    }

    /// Returns from the function.
    pub fn ret(&self, values: &[Val<'_>]) {
        let values: Vec<Value> = values.iter().map(|x| x.v).collect();
        self.b().ins().return_(&values);
    }

    /// Calls one of our functions.
    pub fn call(&'a self, f: &Func, args: &[Val<'a>]) -> Vec<Val<'a>> {
        let args: Vec<Value> = args.iter().map(|x| x.v).collect();
        let mut b = self.b();
        let callee = import(&mut b, f);
        let inst = b.ins().call(callee, &args);
        let results = b.inst_results(inst).to_vec();
        drop(b);
        results.into_iter().map(|v| self.wrap(v)).collect()
    }

    /// Calls through a pointer.
    pub fn call_pointer(
        &'a self,
        signature: Signature,
        callee: Val<'a>,
        args: &[Val<'a>],
    ) -> Vec<Val<'a>> {
        let args: Vec<Value> = args.iter().map(|x| x.v).collect();
        let mut b = self.b();
        let signature = b.import_signature(signature);
        let inst = b.ins().call_indirect(signature, callee.v, &args);
        let results = b.inst_results(inst).to_vec();
        drop(b);
        results.into_iter().map(|v| self.wrap(v)).collect()
    }

    /// The address of one of our functions.
    pub fn address(&'a self, f: &Func) -> Val<'a> {
        let mut b = self.b();
        let callee = import(&mut b, f);
        let v = b.ins().func_addr(I64, callee);
        drop(b);
        self.wrap(v)
    }

    /// The address of our data.
    pub fn data(&'a self, id: DataId) -> Val<'a> {
        let mut b = self.b();
        let name = b
            .func
            .declare_imported_user_function(UserExternalName { namespace: 1, index: id.as_u32() });
        let symbol = b.create_global_value(GlobalValueData::Symbol {
            name: ExternalName::user(name),
            offset: 0.into(),
            colocated: true,
            tls: false,
        });
        let v = b.ins().symbol_value(I64, symbol);
        drop(b);
        self.wrap(v)
    }

    /// The address of `bytes` of stack, aligned to 16.
    pub fn stack(&'a self, bytes: u32) -> Val<'a> {
        let mut b = self.b();
        let slot =
            b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4));
        let v = b.ins().stack_addr(I64, slot, 0);
        drop(b);
        self.wrap(v)
    }

    /// Flags of a load from memory that nothing writes while the function runs.
    pub(crate) fn constant_memory(&self) -> MemFlagsData {
        PLAIN.with_readonly().with_can_move().with_alias_region(None::<AliasRegion>)
    }
}

fn import(b: &mut FunctionBuilder<'_>, f: &Func) -> FuncRef {
    let signature = b.import_signature(f.signature.clone());
    let name = b
        .func
        .declare_imported_user_function(UserExternalName { namespace: 0, index: f.id.as_u32() });
    b.import_function(ExtFuncData {
        name: ExternalName::user(name),
        signature,
        colocated: true,
        patchable: false,
    })
}

impl<'k> Var<'k> {
    /// The value now.
    pub fn get(self) -> Val<'k> {
        let v = self.k.b().use_var(self.v);
        self.k.wrap(v)
    }

    /// A new value.
    pub fn set(self, x: Val<'k>) {
        self.k.b().def_var(self.v, x.v);
    }

    /// `self += x`.
    pub fn add(self, x: Val<'k>) {
        self.set(self.get() + x);
    }

    /// `self += a · b`, fused where the target can.
    pub fn fma(self, a: Val<'k>, b: Val<'k>) {
        self.set(a.fma(b, self.get()));
    }
}
