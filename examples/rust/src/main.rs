//! Continues a text that is given as token ids, always with the likeliest token.
//! usage: continue COUNT ID...  Prints the new ids on one line, and below it the text they stand for.

use smol_sys::*;
use std::ffi::CStr;
use std::io::{Write, stdout};
use std::ptr::{null, null_mut};

/// Memory as the library wants it aligned.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; SMOL_ALIGN]);

fn memory(bytes: usize) -> Vec<Line> {
    vec![Line([0; SMOL_ALIGN]); bytes.div_ceil(SMOL_ALIGN)]
}

/// A conversation with memory of its own.
struct Conversation {
    env: smol_env,
    state: Vec<Line>,
    _scratch: Vec<Line>,
}

fn check(status: i32) -> Result<i32, String> {
    if status >= 0 {
        return Ok(status);
    }
    // SAFETY: the text of a status is static and ends with a zero.
    Err(unsafe { CStr::from_ptr(smol_error(status)) }.to_string_lossy().into_owned())
}

impl Conversation {
    fn new() -> Result<Conversation, String> {
        let mut scratch = memory(SMOL_SCRATCH_BYTES);
        let env = smol_env {
            size: size_of::<smol_env>() as u32,
            workers: 1,
            weights: null(),
            scratch: scratch.as_mut_ptr().cast(),
            scratch_bytes: SMOL_SCRATCH_BYTES,
            user: null_mut(),
            parallel: None,
            poll: None,
        };
        let mut talk = Conversation { env, state: memory(SMOL_STATE_BYTES), _scratch: scratch };
        let state = talk.state.as_mut_ptr().cast();
        // SAFETY: state and scratch are as large as the library says.
        check(unsafe { smol_init(&talk.env, state, SMOL_STATE_BYTES) })?;
        Ok(talk)
    }

    fn feed(&mut self, tokens: &[i32]) -> Result<(), String> {
        let state = self.state.as_mut_ptr().cast();
        // SAFETY: the state is initialised, the tokens are there.
        check(unsafe { smol_prefill(&self.env, state, tokens.as_ptr(), tokens.len()) })?;
        Ok(())
    }

    fn best(&mut self) -> Result<i32, String> {
        // SAFETY: the state is initialised; no sampling is greedy.
        check(unsafe { smol_sample(&self.env, self.state.as_mut_ptr().cast(), null()) })
    }
}

fn piece(token: i32) -> Result<Vec<u8>, String> {
    // SAFETY: nothing is written where there is no room.
    let bytes = check(unsafe { smol_piece(token, null_mut(), 0) })?;
    let mut text = vec![0u8; bytes as usize];
    // SAFETY: there is room for them all.
    check(unsafe { smol_piece(token, text.as_mut_ptr().cast(), text.len()) })?;
    Ok(text)
}

fn main() -> Result<(), String> {
    let numbers = std::env::args().skip(1).map(|word| word.parse::<i32>());
    let numbers = numbers.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let Some((count, tokens)) = numbers.split_first() else { return Ok(()) };
    let (mut talk, mut text) = (Conversation::new()?, vec![]);
    talk.feed(tokens)?;
    for _ in 0..*count {
        let token = talk.best()?;
        print!("{token} ");
        text.extend(piece(token)?);
        if smol_is_eos(token) {
            break;
        }
        talk.feed(&[token])?;
    }
    println!();
    text.push(b'\n');
    stdout().write_all(&text).map_err(|e| e.to_string())
}
