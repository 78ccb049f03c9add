/// What the caller provides; see the header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct smol_env {
    pub size: u32,
    pub workers: u32,
    pub weights: *const c_void,
    pub scratch: *mut c_void,
    pub scratch_bytes: usize,
    pub user: *mut c_void,
    pub parallel: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            n: u32,
            task: unsafe extern "C" fn(arg: *mut c_void, index: u32),
            arg: *mut c_void,
        ),
    >,
    pub poll: Option<unsafe extern "C" fn(user: *mut c_void, done: u32, total: u32) -> c_int>,
}

/// How a token is chosen; all zero but `size` is greedy. See the header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct smol_sampling {
    pub size: u32,
    pub top_k: u32,
    pub seed: u64,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repeat_penalty: f32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    pub penalty_window: u32,
}

const _: () = assert!(size_of::<smol_env>() == 56 && size_of::<smol_sampling>() == 48);

/// Who speaks: for `smol_chat`.
pub const SMOL_START: u32 = 0;
pub const SMOL_SYSTEM: u32 = 1;
pub const SMOL_USER: u32 = 2;
pub const SMOL_ASSISTANT: u32 = 3;

unsafe extern "C" {
    pub fn smol_init(env: *const smol_env, state: *mut c_void, state_bytes: usize) -> i32;
    pub fn smol_verify(env: *const smol_env) -> i32;
    pub fn smol_prefill(
        env: *const smol_env,
        state: *mut c_void,
        tokens: *const i32,
        count: usize,
    ) -> i32;
    pub fn smol_decode(env: *const smol_env, state: *mut c_void, token: i32) -> i32;
    pub fn smol_logits(env: *const smol_env, state: *const c_void) -> *const f32;
    pub fn smol_score(
        env: *const smol_env,
        state: *mut c_void,
        tokens: *const i32,
        count: usize,
        logprobs: *mut f32,
    ) -> i32;
    pub fn smol_sample(
        env: *const smol_env,
        state: *mut c_void,
        sampling: *const smol_sampling,
    ) -> i32;
    pub fn smol_position(state: *const c_void) -> u32;
    pub fn smol_truncate(state: *mut c_void, position: u32) -> i32;
    pub fn smol_save(state: *const c_void, out: *mut c_void, cap: usize) -> i64;
    pub fn smol_load(state: *mut c_void, blob: *const c_void, bytes: usize) -> i32;
    pub fn smol_encode(text: *const c_char, bytes: usize, tokens: *mut i32, cap: usize) -> i32;
    pub fn smol_piece(token: i32, out: *mut c_char, cap: usize) -> i32;
    pub fn smol_chat(
        after: u32,
        role: u32,
        text: *const c_char,
        bytes: usize,
        tokens: *mut i32,
        cap: usize,
    ) -> i32;
    pub fn smol_error(status: i32) -> *const c_char;
}
