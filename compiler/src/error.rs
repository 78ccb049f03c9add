//! Errors of the user's making, printed as rustc prints them: a code, a place, what was found and
//! what was expected, what to do.
//!
//! Our own mistakes are panics, not values of this type.

mod codes;

pub use codes::CODES;
use std::fmt;
use std::path::Path;

/// What kind of failure a code stands for; decides the exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The model cannot be compiled as asked.
    Compile,
    /// The command line is wrong.
    Usage,
    /// A check ran and found a difference.
    Check,
    /// A budget cannot be met.
    Budget,
}

/// A row of the table of codes.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// As in `IG0207`.
    pub code: &'static str,
    /// Decides the exit code.
    pub class: Class,
    /// One paragraph for `ingot explain`.
    pub text: &'static str,
}

/// One error: which rule, where, found and expected, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// A code of [`CODES`].
    pub code: &'static str,
    /// What is wrong: lower case, no full stop.
    pub what: String,
    /// The file, or the file and the tensor or key in it.
    pub place: Option<String>,
    /// What was found and what was expected, most important first.
    pub notes: Vec<String>,
    /// What the user can do.
    pub help: Option<String>,
}

impl Error {
    /// An error without a place yet.
    pub fn new(code: &'static str, what: impl Into<String>) -> Error {
        Error { code, what: what.into(), place: None, notes: vec![], help: None }
    }

    /// In which file; what [`Error::at`] named before is inside it.
    pub fn file(mut self, path: &Path) -> Error {
        let file = path.display().to_string();
        self.place = Some(match self.place {
            Some(inside) => format!("{file}: {inside}"),
            None => file,
        });
        self
    }

    /// At which tensor, key or element of the file named before.
    pub fn at(mut self, inside: impl fmt::Display) -> Error {
        self.place = Some(match self.place {
            Some(file) => format!("{file}: {inside}"),
            None => inside.to_string(),
        });
        self
    }

    /// One more thing to know.
    pub fn note(mut self, note: impl Into<String>) -> Error {
        self.notes.push(note.into());
        self
    }

    /// What the user can do.
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.help = Some(help.into());
        self
    }

    /// Exit code of the process: 1 compile error, 2 usage, 3 a check failed, 4 a budget.
    pub fn exit_code(&self) -> u8 {
        match explain(self.code).map_or(Class::Compile, |row| row.class) {
            Class::Compile => 1,
            Class::Usage => 2,
            Class::Check => 3,
            Class::Budget => 4,
        }
    }
}

/// The table row of a code; upper and lower case are the same.
pub fn explain(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|row| row.code.eq_ignore_ascii_case(code))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, line(&self.what))?;
        if let Some(place) = &self.place {
            write!(f, "\n  --> {}", line(place))?;
        }
        for note in &self.notes {
            write!(f, "\n   = {}", line(note))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n   = help: {}", line(help))?;
        }
        Ok(())
    }
}

/// Longest line that is printed whole, in characters.
const LINE: usize = 500;

/// Names come from files: one line, no control characters for a terminal to obey, not endless.
fn line(text: &str) -> String {
    let mut line = String::new();
    for (at, c) in text.chars().enumerate() {
        match c {
            _ if at == LINE => return line + "…",
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

impl std::error::Error for Error {}

impl From<ir::BlobError> for Error {
    fn from(e: ir::BlobError) -> Error {
        Error::new("IG0211", "weights cannot be read").at(e.blob).note(e.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    fn codes_in(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                codes_in(&path, found);
            } else if !path.ends_with("error.rs") && !path.ends_with("codes.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let quoted = text.split("\"IG").skip(1).filter_map(|s| s.get(..4));
                found.extend(quoted.map(|digits| format!("IG{digits}")));
            }
        }
    }

    #[test]
    fn every_code_used_is_explained_and_every_explained_code_is_used() {
        let mut used = BTreeSet::from(["IG0211".to_string()]);
        codes_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut used);
        let table: BTreeSet<String> = CODES.iter().map(|row| row.code.to_string()).collect();
        let missing: Vec<_> = used.difference(&table).collect();
        let idle: Vec<_> = table.difference(&used).collect();
        assert!(missing.is_empty() && idle.is_empty(), "explain {missing:?}, drop {idle:?}");
        assert_eq!(table.len(), CODES.len(), "a code is listed twice");
    }

    #[test]
    fn prints_like_rustc() {
        let e = Error::new("IG0207", "tensor shape does not match the architecture")
            .file(Path::new("model.safetensors"))
            .at("lm_head.weight")
            .note("found f16[1, 2], expected f16[2, 2]")
            .help("re-export the model");
        let text = "error[IG0207]: tensor shape does not match the architecture\n  \
                    --> model.safetensors: lm_head.weight\n   \
                    = found f16[1, 2], expected f16[2, 2]\n   = help: re-export the model";
        assert_eq!(e.to_string(), text);
        assert_eq!(e.exit_code(), 1);
    }

    #[test]
    fn names_from_files_cannot_steer_a_terminal() {
        let e = Error::new("IG0206", "x").at("a\u{1b}[2J\nb").note("y".repeat(10_000));
        let text = e.to_string();
        assert!(text.contains("a\\u{1b}[2J\\nb") && text.lines().count() == 3, "{text}");
        assert!(text.chars().count() < 600);
    }
}
