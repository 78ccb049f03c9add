//! The C header of a library: sizes and facts as macros, statuses, structures, functions.
//!
//! `header/api.h` holds what is the same for every model, written for the name `smol`.

use crate::errors::STATUSES;
use crate::state::ALIGN;
use std::fmt::Write;

/// Version of the C interface.
pub const ABI_VERSION: u32 = 1;

/// Declarations that depend on the model only in their prefix.
const API: &str = include_str!("header/api.h");

const NAME_MAX: usize = 48;

/// Keywords of C++ that pass for a name, and `std`: `--emit cpp` makes the name a namespace.
const WORDS: &str = "
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t
    char8_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
    constinit continue decltype default delete do double dynamic_cast else enum explicit export
    extern false float for friend goto if inline int long mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public register reinterpret_cast requires return
    short signed sizeof static static_assert static_cast std struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile
    wchar_t while xor xor_eq";

/// Headers of C and of systems that a folder of `NAME.h` on the include path would hide.
const HEADERS: &str = "
    assert complex ctype dirent errno fcntl fenv features float inttypes iso646 limits locale malloc
    math memory pthread poll sched setjmp signal stdalign stdarg stdatomic stdbool stddef stdint
    stdio stdlib stdnoreturn string strings tgmath threads time uchar unistd wchar wctype windows";

/// What a header says of its library.
#[derive(Clone, Debug)]
pub struct HeaderFacts {
    /// Prefix of every function and type.
    pub name: String,
    /// Version of the compiler.
    pub version: String,
    /// Target triple, as the user spelled it.
    pub triple: String,
    /// CPU that the code is for.
    pub cpu: String,
    /// CPU features that the code needs.
    pub features: Vec<String>,
    /// Further lines of the banner, such as model and licence: what, and its value.
    pub notes: Vec<(String, String)>,
    /// Identity of the model and its state.
    pub identity: u64,
    /// Number of tokens in the vocabulary.
    pub vocab: u64,
    /// Positions a conversation may hold.
    pub context: u64,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the usual one first.
    pub eos: Vec<u32>,
    /// Bytes of weights.
    pub weights_bytes: u64,
    /// Bytes of one state.
    pub state_bytes: u64,
    /// Bytes of scratch.
    pub scratch_bytes: u64,
    /// Bytes of stack of the deepest call chain.
    pub stack_bytes: u64,
    /// Workers that scratch has room for.
    pub max_workers: u32,
    /// Tokens that prefill takes at a time.
    pub prefill_chunk: u32,
    /// Whether the weights are a file of their own.
    pub weights_external: bool,
    /// Whether a text usually begins with `bos`.
    pub add_bos: bool,
    /// Whether there is `NAME_encode`.
    pub has_encode: bool,
    /// Whether there is `NAME_chat`.
    pub has_chat: bool,
}

/// A name that C will not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name `{name}`: {why}")]
pub struct NameError {
    /// The name.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Whether `name` can prefix the symbols, types and macros of a library.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let err = |why| Err(NameError { name: name.into(), why });
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return err("it must start with a lower-case letter");
    }
    if !name.chars().all(allowed) {
        return err("only lower-case letters, digits and underscores are allowed");
    }
    if name.contains("__") || name.ends_with('_') {
        return err("C++ reserves names with two underscores in a row, and one follows the name");
    }
    if name.len() > NAME_MAX {
        return err("it is longer than 48 characters");
    }
    if WORDS.split_whitespace().any(|word| word == name) {
        return err("it is a word of C++, which no namespace can be called");
    }
    if HEADERS.split_whitespace().any(|header| header == name) {
        return err("its header would stand in for a header of the system");
    }
    Ok(())
}

/// The text of `NAME.h`.
pub fn header(facts: &HeaderFacts) -> Result<String, NameError> {
    check_name(&facts.name)?;
    let upper = facts.name.to_uppercase();
    let weights = if facts.weights_external {
        "SMOL_WEIGHTS_BYTES of weights, aligned to SMOL_ALIGN"
    } else {
        "NULL: those in the library"
    };
    let api = API.replace("@WEIGHTS@", weights);
    let api = api.replace("SMOL", &upper).replace("smol", &facts.name);
    let mut text = banner(facts, "h");
    _ = write!(text, "#ifndef {upper}_H\n#define {upper}_H\n\n");
    text.push_str("#include <stddef.h>\n#include <stdint.h>\n\n");
    text.push_str(&defines(facts, &upper));
    text.push_str("#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n");
    text.push_str(&statuses(&facts.name, &upper));
    text.push_str(&api);
    _ = write!(text, "\n#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {upper}_H */\n");
    Ok(text)
}

/// The comment that a file starts with.
pub(crate) fn banner(facts: &HeaderFacts, extension: &str) -> String {
    let mut cpu = facts.cpu.clone();
    for feature in &facts.features {
        _ = write!(cpu, " +{feature}");
    }
    let fixed = [
        ("target", facts.triple.clone()),
        ("cpu", cpu),
        ("identity", format!("{:016x}", facts.identity)),
    ];
    let mut text = format!(
        "/* {}.{extension}: written by ingot {}; do not edit.\n",
        facts.name,
        comment(&facts.version)
    );
    let fixed = fixed.iter().map(|(what, value)| (*what, value.as_str()));
    let notes = facts.notes.iter().map(|(what, value)| (what.as_str(), value.as_str()));
    for (what, value) in fixed.chain(notes) {
        _ = writeln!(text, "   {:<10} {}", format!("{}:", comment(what)), comment(value));
    }
    text.push_str("*/\n");
    text
}

/// `text` as one line that cannot end a comment, nor look as if it began one.
pub(crate) fn comment(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let text: String = text.chars().map(plain).collect();
    text.replace("*/", "* /").replace("/*", "/ *")
}

/// Numbers of the library: name without prefix, value as C has it, what it is.
pub(crate) fn macros(facts: &HeaderFacts) -> [(&'static str, String, &'static str); 17] {
    let bos = facts.bos.map_or(-1, i64::from);
    let eos = facts.eos.first().copied().map_or(-1, i64::from);
    let flag = |flag: bool| u32::from(flag).to_string();
    [
        ("ABI_VERSION", ABI_VERSION.to_string(), "of this interface"),
        ("VOCAB", facts.vocab.to_string(), "tokens are 0 .. VOCAB - 1"),
        ("CONTEXT", facts.context.to_string(), "tokens a conversation may hold"),
        ("BOS", negative(bos), "begins a text; -1: none"),
        ("ADD_BOS", flag(facts.add_bos), "1: a text usually begins with BOS"),
        ("EOS", negative(eos), "ends a text; -1: none"),
        ("IS_EOS(token)", is_eos(&facts.eos), "whether a token ends a text; may read it twice"),
        ("ALIGN", ALIGN.to_string(), "of weights, state and scratch, in bytes"),
        ("WEIGHTS_BYTES", bytes(facts.weights_bytes), "read only"),
        ("WEIGHTS_EXTERNAL", flag(facts.weights_external), "1: env.weights"),
        ("STATE_BYTES", bytes(facts.state_bytes), "one conversation"),
        ("SCRATCH_BYTES", bytes(facts.scratch_bytes), "one call in flight, all its workers"),
        (
            "STACK_BYTES",
            bytes(facts.stack_bytes),
            "of each thread, the caller's functions not counted",
        ),
        ("MAX_WORKERS", facts.max_workers.to_string(), "most that env.workers may ask for"),
        ("PREFILL_CHUNK", facts.prefill_chunk.to_string(), "tokens that prefill takes at a time"),
        ("HAS_ENCODE", flag(facts.has_encode), "0: encode returns E_TOKENIZER"),
        ("HAS_CHAT", flag(facts.has_chat), "0: chat returns E_TOKENIZER or E_TEMPLATE"),
    ]
}

fn defines(facts: &HeaderFacts, upper: &str) -> String {
    let mut text = String::new();
    for (name, value, what) in macros(facts) {
        let define = format!("#define {upper}_{name} {value}");
        _ = writeln!(text, "{define:<40} /* {what} */");
    }
    text + "\n"
}

fn bytes(n: u64) -> String {
    format!("{n}u")
}

fn negative(n: i64) -> String {
    if n < 0 { format!("({n})") } else { n.to_string() }
}

fn is_eos(eos: &[u32]) -> String {
    if eos.is_empty() {
        return "((void)(token), 0)".into();
    }
    let tests: Vec<String> = eos.iter().map(|t| format!("(token) == {t}")).collect();
    format!("({})", tests.join(" || "))
}

fn statuses(name: &str, upper: &str) -> String {
    let mut text = format!(
        "/* Statuses: 0 or positive is good, negative an error. {name}_error gives the text. */\n\
         enum {name}_status {{\n"
    );
    for (i, s) in STATUSES.iter().enumerate() {
        let comma = if i + 1 < STATUSES.len() { "," } else { "" };
        let row = format!("{upper}_{} = {}{comma}", s.name, s.value);
        _ = writeln!(text, "  {row:<28} /* {} */", s.message);
    }
    text + "};\n\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_c_will_not_take_are_refused() {
        for good in ["smol", "a", "smol2", "smol_lm_135m"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "a".repeat(49);
        let bad = ["", "2b", "_a", "Smol", "a-b", "a b", "a__b", "a_", "ä", "a\n", &long];
        for bad in bad.into_iter().chain(["int", "std", "string", "stdint"]) {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn comments_stay_comments() {
        assert_eq!(comment("a*/b/*/c\nd\\é"), "a* /b/ * /c?d\\?");
    }
}
