//! The tokenizer of a Hugging Face directory: tokenizer.json or tokenizer.model, with
//! tokenizer_config.json and chat_template.jinja beside it.

use super::definition::Definition;
use super::sentencepiece;
use super::{Ids, Settings, Tokenizer};
use crate::Error;
use crate::frontend::json::{read_object, read_optional};
use crate::frontend::map::{Mapped, unreadable};
use serde_json::{Map, Value};
use std::path::Path;

/// The largest template that is read; real ones have some 20 kB.
const LONGEST_TEMPLATE: usize = 1 << 20;

impl Tokenizer {
    /// The tokenizer of a model directory, if it has one.
    pub fn from_directory(dir: &Path, ids: &Ids) -> Result<Option<Tokenizer>, Error> {
        let (json, model) = (dir.join("tokenizer.json"), dir.join("tokenizer.model"));
        let (path, definition, adds_bos) = if json.exists() {
            let object = read_object(&json)?;
            let adds_bos = begins_with_special(&object);
            (&json, Definition::new(object).map_err(|e| e.file(&json))?, adds_bos)
        } else if model.exists() {
            let file = Mapped::open(&model)?;
            let definition = sentencepiece::parse(file.bytes())
                .and_then(|(vocab, prefix)| sentencepiece::definition(&vocab, prefix))
                .map_err(|e| e.file(&model))?;
            (&model, definition, true)
        } else {
            return Ok(None);
        };
        let settings = Settings {
            bos: ids.bos,
            eos: ids.eos.first().copied(),
            add_bos: adds_bos,
            chat_template: None,
        };
        let mut tokenizer = Tokenizer::build(path, definition, settings, ids.rows)?;
        tokenizer.read_settings(dir)?;
        Ok(Some(tokenizer))
    }

    /// Names of special tokens and the template override what config.json says.
    fn read_settings(&mut self, dir: &Path) -> Result<(), Error> {
        let path = dir.join("tokenizer_config.json");
        let object = read_optional(&path)?.unwrap_or_default();
        if let Some(bos) = special(&object, "bos_token").and_then(|name| self.token(name)) {
            self.settings.bos = Some(bos);
        }
        if let Some(eos) = special(&object, "eos_token").and_then(|name| self.token(name)) {
            self.settings.eos = Some(eos);
        }
        if let Some(add) = object.get("add_bos_token").and_then(Value::as_bool) {
            self.settings.add_bos = add;
        }
        self.settings.chat_template = match read_template(&dir.join("chat_template.jinja"))? {
            Some(template) => Some(template),
            None => template(&object),
        };
        Ok(())
    }
}

/// Whether the post-processor puts a special token before the text.
fn begins_with_special(object: &Map<String, Value>) -> bool {
    let Some(processor) = object.get("post_processor") else { return false };
    let parts = match processor["processors"].as_array() {
        Some(parts) => parts.iter().collect(),
        None => vec![processor],
    };
    let templates = parts.into_iter().filter(|part| part["type"] == "TemplateProcessing");
    let mut firsts = templates.map(|template| &template["single"][0]);
    firsts.any(|first| first.get("SpecialToken").is_some())
}

/// The name of a special token: a string, or an object around it.
fn special<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let value = object.get(key)?;
    value.as_str().or_else(|| value["content"].as_str())
}

/// The template: a string, or a list of named ones of which `default` counts.
fn template(object: &Map<String, Value>) -> Option<String> {
    let value = object.get("chat_template")?;
    let default =
        || value.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str();
    value.as_str().or_else(default).map(str::to_string)
}

fn read_template(path: &Path) -> Result<Option<String>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let file = Mapped::open(path)?;
    if file.bytes().len() > LONGEST_TEMPLATE {
        return Err(unreadable(path, format!("larger than {} KiB", LONGEST_TEMPLATE >> 10)));
    }
    match std::str::from_utf8(file.bytes()) {
        Ok(text) => Ok(Some(text.to_string())),
        Err(e) => Err(unreadable(path, e)),
    }
}
