//! JSON files of a model directory, and typed access to the keys of a configuration.
//!
//! A key that is absent and one that is null are the same but for `is_null`. GGUF metadata is read through the same
//! access, so every hyper-parameter is checked in one place.

use super::map::{Mapped, unreadable};
use crate::Error;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The largest JSON file that is read; tokenizers of large vocabularies have some 35 MB.
const LIMIT: usize = 256 << 20;

/// A JSON file whose top level is an object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>, Error> {
    let file = Mapped::open(path)?;
    if file.bytes().len() > LIMIT {
        return Err(unreadable(path, format!("larger than {} MiB", LIMIT >> 20)));
    }
    let invalid = |why: String| Error::new("IG0103", "invalid JSON").file(path).note(why);
    match serde_json::from_slice(file.bytes()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(invalid(format!("found {}, expected an object", kind(&other)))),
        Err(e) => Err(invalid(e.to_string())),
    }
}

/// As `read_object`; a file that does not exist is `None`.
pub fn read_optional(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    if path.exists() { read_object(path).map(Some) } else { Ok(None) }
}

/// A value as JSON, cut where it becomes long.
pub fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The keys of one object of a configuration.
#[derive(Clone, Debug)]
pub struct Keys<'a> {
    file: PathBuf,
    /// Prefix in messages and, if `prefixed`, in the object: `llama.` for GGUF.
    prefix: String,
    prefixed: bool,
    object: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// The top-level keys of a file.
    pub fn new(file: &Path, object: &'a Map<String, Value>) -> Keys<'a> {
        Keys { file: file.to_path_buf(), prefix: String::new(), prefixed: false, object }
    }

    /// The same object, for keys that all begin with `prefix`.
    pub fn with_prefix(&self, prefix: &str) -> Keys<'a> {
        Keys { prefix: prefix.to_string(), prefixed: true, ..self.clone() }
    }

    /// The object under a key.
    pub fn object(&self, key: &str) -> Result<Option<Keys<'a>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Keys {
                file: self.file.clone(),
                prefix: format!("{}{key}.", self.prefix),
                prefixed: false,
                object,
            })),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    /// The value of a key; null is absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.raw(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there and says null.
    pub fn is_null(&self, key: &str) -> bool {
        self.raw(key).is_some_and(Value::is_null)
    }

    fn raw(&self, key: &str) -> Option<&'a Value> {
        match self.prefixed {
            true => self.object.get(&format!("{}{key}", self.prefix)),
            false => self.object.get(key),
        }
    }

    /// `error`, placed at a key of this object.
    pub fn place(&self, error: Error, key: &str) -> Error {
        error.file(&self.file).at(format!("{}{key}", self.prefix))
    }

    /// A number that must be there.
    pub fn need(&self, key: &str) -> Result<u64, Error> {
        self.int(key)?.ok_or_else(|| self.missing(key))
    }

    /// An error about a key that must be there.
    pub fn missing(&self, key: &str) -> Error {
        self.place(Error::new("IG0203", "a hyper-parameter is missing"), key)
    }

    /// An integer that is not negative; a float without a fraction counts.
    pub fn int(&self, key: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let whole = |x: f64| (x >= 0.0 && x.fract() == 0.0 && x < 9e15).then_some(x as u64);
        match value.as_u64().or_else(|| value.as_f64().and_then(whole)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, value, "a whole number, not negative")),
        }
    }

    /// A number.
    pub fn float(&self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() => Ok(Some(x)),
            _ => Err(self.wrong(key, value, "a finite number")),
        }
    }

    /// A truth value; absent is false.
    pub fn flag(&self, key: &str) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// One integer or a list of them.
    pub fn ints(&self, key: &str) -> Result<Vec<u64>, Error> {
        let Some(value) = self.get(key) else { return Ok(vec![]) };
        let one = std::slice::from_ref(value);
        let ints = value.as_array().map_or(one, Vec::as_slice).iter().map(Value::as_u64);
        ints.collect::<Option<Vec<u64>>>()
            .ok_or_else(|| self.wrong(key, value, "a whole number or a list of them"))
    }

    /// An error about a value of the wrong kind or out of range.
    pub fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        let error = Error::new("IG0204", "a hyper-parameter has an impossible value");
        self.place(error, key).note(format!("found {}, expected {expected}", brief(found)))
    }

    /// An error about a feature that is in use and not supported.
    pub fn unsupported(&self, key: &str, what: impl Into<String>) -> Error {
        self.place(Error::new("IG0202", what), key)
    }
}
