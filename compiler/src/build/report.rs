//! What a build says: the files it wrote, and what takes up room.

use super::{BuildFlags, Built, build};
use crate::output::{grouped, say};
use crate::{Error, output};
use serde_json::{Map, Value, json};
use std::io::{self, IsTerminal};

/// Runs `ingot build`: files on standard output, sizes on standard error.
pub fn build_and_report(flags: &BuildFlags) -> Result<(), Error> {
    let built = build(flags)?;
    let sizes = built.sizes();
    built.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    if flags.json {
        let sizes = sizes.iter().map(|&(name, bytes, _)| (format!("{name}_bytes"), json!(bytes)));
        let mut value: Map<String, Value> = sizes.collect();
        value.insert("files".into(), json!(built.files));
        return output::json(&value.into());
    }
    if flags.verbose || io::stderr().is_terminal() {
        let rows: Vec<(&str, String)> = sizes
            .iter()
            .map(|(name, bytes, what)| (*name, format!("{:>13} bytes  {what}", grouped(*bytes))))
            .collect();
        say(output::pairs(&rows).trim_end());
    }
    let files: Vec<String> = built.files.iter().map(|f| format!("{}\n", f.display())).collect();
    output::print(&files.concat())
}

impl Built {
    /// What takes up room: name, bytes, what it is.
    fn sizes(&self) -> [(&'static str, u64, &'static str); 6] {
        let library = &self.library;
        [
            ("code", self.sizes.code_bytes, "machine code"),
            ("tables", self.sizes.tables_bytes, "tokenizer, chat template, messages"),
            ("weights", library.weights.bytes, "read in place"),
            ("state", library.state.bytes, "one conversation"),
            ("scratch", library.scratch_bytes, "one call in flight"),
            ("stack", library.stack_bytes, "the deepest chain of calls"),
        ]
    }
}
