//! `ingot run --chat`: messages in, answers out, with the library's own tokenizer and template.

use super::writer::{Form, Writer};
use super::{RunFlags, Stop, generate, need_tokenizer, prompt_text};
use crate::Error;
use crate::build::stops;
use crate::host::{self, Host, refused};
use crate::model::Model;
use crate::output::say;
use crate::text::Known;
use runtime::chat::Role;
use std::io::{self, IsTerminal, Write};

/// Runs `ingot run --chat`: one message from the flags, or each line of standard input.
pub fn chat(flags: &RunFlags) -> Result<(), Error> {
    let message = prompt_text(&flags.prompt)?;
    let mut found = Known::default();
    let mut host = host::start_with(&flags.host, false, |model| {
        found = known(model)?;
        Ok(Some(found.text.clone()))
    })?;
    let mut talk = Talk {
        flags,
        stops: stops(&host.model.module.meta.eos, found.end_of_turn),
        pieces: found.text.pieces,
        after: Role::Start,
        host: &mut host,
    };
    talk.host.session.reset().map_err(refused)?;
    if let Some(system) = &flags.system {
        let tokens = talk.turn(Role::System, system)?;
        talk.host.session.prefill(&tokens).map_err(refused)?;
    }
    if let Some(message) = message {
        return talk.answer(&message);
    }
    while let Some(line) = read_line()? {
        if line.trim().is_empty() {
            continue;
        }
        match talk.answer(&line) {
            // Something shorter may still be said.
            Err(error) if error.code == NO_ROOM => say(error.to_string().trim_end()),
            answered => answered?,
        }
    }
    Ok(())
}

/// What a model knows of text; an error unless it can chat.
fn known(model: &Model) -> Result<Known, Error> {
    let known = Known::new(need_tokenizer(&model.tokenizer, &model.path)?);
    if !known.text.turns.is_empty() {
        return Ok(known);
    }
    let error = Error::new("IG0305", "the model cannot chat").file(&model.path);
    let why = known.no_encode.or(known.no_chat);
    Err(error.note(why.unwrap_or_else(|| "it has no chat template".into())))
}

/// A line of standard input without its end; `None` once there is none.
fn read_line() -> Result<Option<String>, Error> {
    if io::stdin().is_terminal() {
        // A prompt that cannot be shown is no reason to stop.
        let _ = write!(io::stderr(), "> ");
    }
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    let read = read.map_err(|e| {
        let error = Error::new("IG0403", "cannot read the text");
        error.file("standard input".as_ref()).note(e.to_string())
    })?;
    Ok((read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_string()))
}

/// The code of a message for which the context has no room.
const NO_ROOM: &str = "IG0401";

/// A conversation.
struct Talk<'f> {
    flags: &'f RunFlags,
    /// Tokens that end an answer.
    stops: Vec<u32>,
    pieces: Vec<Vec<u8>>,
    /// Who spoke last.
    after: Role,
    host: &'f mut Host,
}

impl Talk<'_> {
    /// The tokens of a turn, which is the last one then.
    fn turn(&mut self, role: Role, text: &str) -> Result<Vec<i32>, Error> {
        let tokens = self.host.session.chat(self.after, role, text).map_err(refused)?;
        self.after = role;
        Ok(tokens)
    }

    /// The tokens of a message and of the beginning of its answer, which must fit the context.
    fn question(&mut self, message: &str) -> Result<Vec<i32>, Error> {
        let before = self.after;
        let mut tokens = self.turn(Role::User, message)?;
        tokens.extend(self.turn(Role::Assistant, "")?);
        let context = self.host.model.module.meta.context;
        let left = context - u64::from(self.host.session.position());
        if tokens.len() as u64 <= left {
            return Ok(tokens);
        }
        self.after = before;
        let found = format!("{} tokens; {left} of {context} are left", tokens.len());
        Err(Error::new(NO_ROOM, "the message is too long")
            .note(found)
            .help("a shorter message, a new conversation, or --context N, at most the model's own"))
    }

    /// Feeds a message and prints the answer as it comes.
    fn answer(&mut self, message: &str) -> Result<(), Error> {
        let tokens = self.question(message)?;
        let mut writer = Writer::new(Form::Text(self.pieces.clone()), false);
        let done = generate(self.flags, &self.stops, self.host, &tokens, &mut writer)?;
        writer.finish()?;
        // What was said stays part of the conversation.
        if let (Stop::Count, Some(&last)) = (done.stop, done.tokens.last()) {
            self.host.session.decode(last).map_err(refused)?;
        }
        if self.flags.verbose {
            say(&done.summary(self.host));
        }
        Ok(())
    }
}
