//! The same functions in the memory of this process.

use crate::target::Target;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, default_libcall_names};

/// An empty module in memory.
pub fn module(target: &Target) -> JITModule {
    JITModule::new(JITBuilder::with_isa(target.ordered.clone(), default_libcall_names()))
}

/// Code in memory, ready to be called. Freed when dropped.
pub struct Code {
    module: Option<JITModule>,
}

impl Code {
    /// Makes a module executable.
    pub fn new(mut module: JITModule) -> Code {
        module.finalize_definitions().expect("the module needs nothing from outside");
        Code { module: Some(module) }
    }

    /// Address of a function.
    pub fn function(&self, id: FuncId) -> *const u8 {
        let module = self.module.as_ref().expect("taken only on drop");
        module.get_finalized_function(id)
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: addresses of functions live in values that borrow or own this one.
            unsafe { module.free_memory() };
        }
    }
}
