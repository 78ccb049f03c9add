//! What other tools take a library by: CMake, pkg-config, Cargo, and C++ beside the C header.
//!
//! All of them find the library beside themselves, so a folder can be moved as a whole.

use crate::errors::STATUSES;
use crate::header::{HeaderFacts, NameError, banner, check_name, comment, macros};
use std::fmt::Write;

/// The C++17 interface, written for the name `smol`; it needs the C header only.
const CPP: &str = include_str!("header/api.hpp");
/// Declarations of the C interface in Rust, written for the name `smol`.
const RUST: &str = include_str!("header/api.rs");

fn renamed(text: &str, name: &str) -> String {
    text.replace("SMOL", &name.to_uppercase()).replace("smol", name)
}

/// The text of `NAME.hpp`.
pub fn cpp(facts: &HeaderFacts) -> Result<String, NameError> {
    check_name(&facts.name)?;
    let (name, upper) = (&facts.name, facts.name.to_uppercase());
    let mut text = banner(facts, "hpp");
    _ = write!(text, "#ifndef {upper}_HPP\n#define {upper}_HPP\n\n#include \"{name}.h\"\n\n");
    let includes = [
        "cstddef",
        "cstdint",
        "iterator",
        "memory",
        "new",
        "stdexcept",
        "string",
        "string_view",
        "utility",
        "vector",
    ];
    includes.iter().for_each(|header| _ = writeln!(text, "#include <{header}>"));
    _ = write!(text, "\n{}\n#endif /* {upper}_HPP */\n", renamed(CPP, name));
    Ok(text)
}

/// The text of `NAME-config.cmake`, for `find_package(NAME)`: a target `NAME::NAME`.
pub fn cmake(facts: &HeaderFacts, library_file: &str) -> String {
    let name = &facts.name;
    let here = "${CMAKE_CURRENT_LIST_DIR}";
    let mut text = format!(
        "# Written by ingot {}: find_package({name}) for {}.\n",
        facts.version, facts.triple
    );
    _ = write!(
        text,
        "if(NOT TARGET {name}::{name})\n  \
           add_library({name}::{name} STATIC IMPORTED)\n  \
           set_target_properties({name}::{name} PROPERTIES\n    \
             IMPORTED_LOCATION \"{here}/{library_file}\"\n    \
             IMPORTED_LINK_INTERFACE_LANGUAGES C\n    \
             INTERFACE_INCLUDE_DIRECTORIES \"{here}\")\n\
         endif()\n"
    );
    if facts.weights_external {
        _ = writeln!(text, "set({name}_WEIGHTS \"{here}/{name}.weights\")");
    }
    text
}

/// The text of `NAME.pc`.
pub fn pkgconfig(facts: &HeaderFacts) -> String {
    let HeaderFacts { name, version, triple, .. } = facts;
    let weights = match facts.weights_external {
        true => format!("weights=${{pcfiledir}}/{name}.weights\n"),
        false => String::new(),
    };
    format!(
        "{weights}Name: {name}\nDescription: language model compiled for {triple}\nVersion: {version}\n\
         Cflags: -I${{pcfiledir}}\nLibs: -L${{pcfiledir}} -l{name}\n"
    )
}

/// The files of a Rust crate `NAME-sys` in a folder of that name beside the library: path, text.
pub fn cargo(facts: &HeaderFacts) -> Vec<(String, String)> {
    let name = &facts.name;
    let manifest = format!(
        "[package]\nname = \"{name}-sys\"\nversion = \"{}\"\nedition = \"2024\"\nlinks = \"{name}\"\n\
         description = \"{name}, compiled for {}\"\npublish = false\n",
        facts.version, facts.triple
    );
    let build = format!(
        "//! Links with the library beside this crate.\n\n\
         fn main() {{\n    \
             let here = std::env::var(\"CARGO_MANIFEST_DIR\").expect(\"cargo sets it\");\n    \
             println!(\"cargo::rustc-link-search=native={{here}}/..\");\n    \
             println!(\"cargo::rustc-link-lib=static:-bundle={name}\");\n    \
             println!(\"cargo::rerun-if-changed={{here}}/..\");\n\
         }}\n"
    );
    let folder = format!("{name}-sys");
    vec![
        (format!("{folder}/Cargo.toml"), manifest),
        (format!("{folder}/build.rs"), build),
        (format!("{folder}/src/lib.rs"), rust(facts)),
    ]
}

fn rust(facts: &HeaderFacts) -> String {
    let (name, upper) = (&facts.name, facts.name.to_uppercase());
    let mut text = format!(
        "//! The C interface of {name}, written by ingot {}; `{name}.h` says what each part means.\n\n\
         #![no_std]\n#![allow(non_camel_case_types)]\n\n\
         use core::ffi::{{c_char, c_int, c_void}};\n\n",
        comment(&facts.version)
    );
    for (macro_name, value, what) in macros(facts).into_iter().filter(|(n, ..)| !n.contains('(')) {
        let value = value.trim_matches(['(', ')']).trim_end_matches('u').to_string();
        let ty = match macro_name {
            "BOS" | "EOS" => "i32",
            n if n.ends_with("_BYTES") || n == "ALIGN" => "usize",
            _ => "u32",
        };
        _ = writeln!(text, "/// {what}\npub const {upper}_{macro_name}: {ty} = {value};");
    }
    for status in STATUSES {
        let (row, value) = (status.name, status.value);
        _ = writeln!(text, "/// {}\npub const {upper}_{row}: i32 = {value};", status.message);
    }
    let tests: Vec<String> = facts.eos.iter().map(|token| format!("token == {token}")).collect();
    let (token, any) = match tests.is_empty() {
        true => ("_", "false".to_string()),
        false => ("token", tests.join(" || ")),
    };
    _ = write!(
        text,
        "\n/// Whether a token ends a text.\n\
         pub const fn {name}_is_eos({token}: i32) -> bool {{\n    {any}\n}}\n\n"
    );
    text + &renamed(RUST, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of functions and their numbers of parameters, in the words of one language.
    fn functions(text: &str) -> Vec<(String, usize)> {
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let starts = text.match_indices("smol_").filter_map(|(at, _)| {
            let rest = &text[at..];
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
            let arguments = rest.strip_prefix(name)?.strip_prefix('(')?.split(')').next()?;
            let end = rest.find(')')? + 1;
            let declared = rest[end..].starts_with(';') || rest[end..].starts_with(" ->");
            let count = arguments.trim_end_matches([',', ' ']).split(',').count();
            declared.then(|| (name.to_string(), count))
        });
        let mut found: Vec<(String, usize)> = starts.collect();
        found.sort();
        found.dedup();
        found
    }

    #[test]
    fn rust_declares_what_c_declares() {
        let c = include_str!("header/api.h");
        let comments = c.split("*/").map(|part| part.split("/*").next().unwrap_or_default());
        let c: String = comments.collect();
        let (c, rust) = (functions(&c), functions(RUST));
        assert!(c.len() >= 14, "{c:?}");
        assert_eq!(c, rust);
    }
}
