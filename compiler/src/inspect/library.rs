//! A static library or an object file: what a linker sees, and what takes up the room.

use super::Found;
use crate::{Error, output};
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};
use output::grouped;
use serde_json::json;
use std::path::Path;
use targets::object::weights_section;

/// One object file of a library.
struct Member {
    name: String,
    bytes: u64,
    arch: String,
}

/// All members of a library together.
#[derive(Default)]
struct Contents {
    members: Vec<Member>,
    exported: Vec<String>,
    undefined: Vec<String>,
    code: u64,
    tables: u64,
    weights: u64,
    /// Data that a program could write; ours has none.
    writable: u64,
}

/// A static library.
pub fn archive(path: &Path, bytes: &[u8]) -> Result<Found, Error> {
    let damaged = |e: object::Error| damaged(path, e);
    let mut contents = Contents::default();
    for member in ArchiveFile::parse(bytes).map_err(damaged)?.members() {
        let member = member.map_err(damaged)?;
        let name = String::from_utf8_lossy(member.name()).into_owned();
        contents.add(name, member.data(bytes).map_err(damaged)?).map_err(damaged)?;
    }
    Ok(contents.found("library"))
}

/// An object file.
pub fn object(path: &Path, bytes: &[u8]) -> Result<Found, Error> {
    let mut contents = Contents::default();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    contents.add(name, bytes).map_err(|e| damaged(path, e))?;
    Ok(contents.found("object"))
}

fn damaged(path: &Path, e: object::Error) -> Error {
    Error::new("IG0110", "the library is damaged").file(path).note(e.to_string())
}

impl Contents {
    fn add(&mut self, name: String, bytes: &[u8]) -> Result<(), object::Error> {
        let file = object::File::parse(bytes)?;
        let arch = format!("{:?}", file.architecture()).to_lowercase();
        self.members.push(Member { name, bytes: bytes.len() as u64, arch });
        for section in file.sections() {
            let is_weights = weights_section(file.format()).1 == section.name()?;
            let to = match section.kind() {
                _ if is_weights => &mut self.weights,
                SectionKind::Text => &mut self.code,
                SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => &mut self.tables,
                SectionKind::Data | SectionKind::UninitializedData | SectionKind::Tls => {
                    &mut self.writable
                }
                _ => continue,
            };
            *to += section.size();
        }
        for symbol in file.symbols().filter(|s| s.is_global()) {
            let name = symbol.name()?.to_string();
            match symbol.is_undefined() {
                true => self.undefined.push(name),
                false => self.exported.push(name),
            }
        }
        Ok(())
    }

    fn found(mut self, kind: &str) -> Found {
        self.exported.sort();
        self.undefined.sort();
        Found { text: self.text(kind), json: self.json(kind) }
    }

    fn text(&self, kind: &str) -> String {
        let member = |m: &Member| format!("{} ({}, {} bytes)", m.name, m.arch, grouped(m.bytes));
        let members: Vec<String> = self.members.iter().map(member).collect();
        let undefined = match self.undefined.is_empty() {
            true => "none".into(),
            false => self.undefined.join(" "),
        };
        output::pairs(&[
            ("kind", kind.into()),
            ("members", members.join(", ")),
            ("code", format!("{} bytes", grouped(self.code))),
            ("tables", format!("{} bytes", grouped(self.tables))),
            ("weights", format!("{} bytes", grouped(self.weights))),
            ("writable", format!("{} bytes", grouped(self.writable))),
            ("exported", self.exported.join(" ")),
            ("undefined", undefined),
        ])
    }

    fn json(&self, kind: &str) -> serde_json::Value {
        let member =
            |m: &Member| json!({ "name": m.name, "bytes": m.bytes, "architecture": m.arch });
        json!({
            "kind": kind,
            "members": self.members.iter().map(member).collect::<Vec<_>>(),
            "code_bytes": self.code,
            "tables_bytes": self.tables,
            "weights_bytes": self.weights,
            "writable_bytes": self.writable,
            "exported": self.exported,
            "undefined": self.undefined,
        })
    }
}
