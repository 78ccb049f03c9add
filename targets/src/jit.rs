//! The same functions in the memory of this process.

use crate::target::Target;
use cranelift_jit::{ArenaMemoryProvider, JITBuilder, JITModule};
use cranelift_module::{FuncId, default_libcall_names};

/// Addresses that a module has for code and constants: more than any model needs, and few enough that
/// 32 bits lead from any of them to any other. Memory is taken as it is used.
const ARENA_BYTES: usize = 1 << 29;

/// An empty module in memory.
pub fn module(target: &Target) -> JITModule {
    let mut builder = JITBuilder::with_isa(target.ordered.clone(), default_libcall_names());
    let arena = ArenaMemoryProvider::new_with_size(ARENA_BYTES);
    builder.memory_provider(Box::new(arena.expect("the system has addresses for code")));
    JITModule::new(builder)
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
