//! `ingot run`: text in, text out, with the compiled model in this process.

mod chat;
mod flags;
mod writer;

pub use flags::{PromptFlags, RunFlags, SamplingFlags, TokenIds, words};

use crate::Error;
use crate::host::{self, Host, checked_tokens, refused};
use crate::output;
use crate::text::pieces;
use crate::tokenizer::Tokenizer;
use serde_json::json;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;
use writer::{Form, Writer};

/// Runs `ingot run`.
pub fn run(flags: &RunFlags) -> Result<(), Error> {
    if flags.chat {
        return chat::chat(flags);
    }
    let text = prompt_text(&flags.prompt)?;
    let mut host = host::start(&flags.host)?;
    let prompt = prompt_tokens(flags, &host, text.as_deref())?;
    let form = match &text {
        None => Form::Ids,
        Some(_) => Form::Text(pieces(need_tokenizer(&host.model.tokenizer, &host.model.path)?)),
    };
    let mut writer = Writer::new(form, flags.json);
    if let (true, Some(text)) = (flags.echo, &text) {
        output::print(text)?;
    }
    let eos = host.model.module.meta.eos.clone();
    host.session.reset().map_err(refused)?;
    let done = generate(flags, &eos, &mut host, &prompt, &mut writer)?;
    writer.finish()?;
    if flags.verbose {
        output::say(&done.summary(&host));
    }
    if flags.json {
        output::json(&json!({
            "text": text.is_some().then(|| String::from_utf8_lossy(&writer.bytes)),
            "tokens": done.tokens,
            "stop": done.stop.name(),
            "start_ms": host.start.as_secs_f64() * 1e3,
            "prefill": { "tokens": prompt.len(), "seconds": done.prefill },
            "decode": { "tokens": done.fed, "seconds": done.decode },
        }))?;
    }
    Ok(())
}

fn prompt_text(flags: &PromptFlags) -> Result<Option<String>, Error> {
    match (&flags.prompt, &flags.prompt_file) {
        (Some(text), _) => Ok(Some(text.clone())),
        (None, Some(path)) => read_text(path).map(Some),
        (None, None) => Ok(None),
    }
}

/// A text file, or standard input for `-`.
pub fn read_text(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().read_to_string(&mut text).map(|_| text),
        false => fs::read_to_string(path),
    };
    read.map_err(|e| Error::new("IG0403", "cannot read the text").file(path).note(e.to_string()))
}

/// The tokenizer of a model, for a command that cannot do without.
pub fn need_tokenizer<'t>(
    tokenizer: &'t Option<Tokenizer>,
    model: &Path,
) -> Result<&'t Tokenizer, Error> {
    tokenizer.as_ref().ok_or_else(|| Error::new("IG0304", "the model has no tokenizer").file(model))
}

fn prompt_tokens(flags: &RunFlags, host: &Host, text: Option<&str>) -> Result<Vec<i32>, Error> {
    let meta = &host.model.module.meta;
    let tokens = match text {
        None => flags.prompt.tokens.clone().map_or(vec![], |ids| ids.0),
        Some(text) => {
            let tokenizer = need_tokenizer(&host.model.tokenizer, &host.model.path)?;
            tokenizer.encode(text, tokenizer.settings.add_bos && !flags.no_bos)?
        }
    };
    match tokens.len() as u64 {
        0 => Err(Error::new("IG0401", "the prompt is empty")),
        n if n > meta.context => Err(Error::new("IG0401", "the prompt is too long")
            .note(format!("{n} tokens; the context holds {}", meta.context))),
        _ => checked_tokens(&tokens, meta.vocab),
    }
}

/// Why generating ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Eos,
    Count,
    Context,
}

impl Stop {
    fn name(self) -> &'static str {
        match self {
            Stop::Eos => "eos",
            Stop::Count => "count",
            Stop::Context => "context",
        }
    }
}

/// What was generated.
struct Done {
    /// All new tokens; an end of sequence that stopped it is not among them.
    tokens: Vec<i32>,
    stop: Stop,
    /// Tokens of the prompt.
    prompt: usize,
    /// Tokens decoded.
    fed: usize,
    /// Seconds.
    prefill: f64,
    /// Seconds.
    decode: f64,
}

impl Done {
    fn summary(&self, host: &Host) -> String {
        let tokens = |count: usize| output::counted(count as u64, "token");
        let line = |what: &str, count: usize, seconds: f64| {
            let speed = count as f64 / seconds.max(1e-9);
            format!("{what} {} in {:.1} ms, {speed:.1} tok/s", tokens(count), seconds * 1e3)
        };
        format!(
            "started in {:.0} ms, {}\n{}\n{}\nstopped: {}",
            host.start.as_secs_f64() * 1e3,
            output::counted(host.threads.into(), "thread"),
            line("prefill", self.prompt, self.prefill),
            line("decode", self.fed, self.decode),
            self.stop.name(),
        )
    }
}

/// Feeds a prompt and writes what follows it, up to one of `stops` or as many tokens as are asked for.
fn generate(
    flags: &RunFlags,
    stops: &[u32],
    host: &mut Host,
    prompt: &[i32],
    writer: &mut Writer,
) -> Result<Done, Error> {
    let (session, meta) = (&mut host.session, &host.model.module.meta);
    let sampling = flags.sampling.options(flags.host.model.transforms.seed);
    let began = Instant::now();
    session.prefill(prompt).map_err(refused)?;
    let prefill = began.elapsed().as_secs_f64();
    let (began, mut tokens, mut fed) = (Instant::now(), vec![], 0);
    let stop = loop {
        if tokens.len() as u64 >= flags.count {
            break Stop::Count;
        }
        let token = session.sample(&sampling).map_err(refused)?;
        if stops.contains(&(token as u32)) && !flags.ignore_eos {
            break Stop::Eos;
        }
        tokens.push(token);
        writer.token(token)?;
        if u64::from(session.position()) == meta.context {
            break Stop::Context;
        }
        // The last token needs no answer.
        if (tokens.len() as u64) < flags.count {
            session.decode(token).map_err(refused)?;
            fed += 1;
        }
    };
    let decode = began.elapsed().as_secs_f64();
    Ok(Done { tokens, stop, prompt: prompt.len(), fed, prefill, decode })
}
