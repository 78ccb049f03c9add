//! The header: its text, and that C99 and C++17 compilers take it without a word.

use runtime::header::{HeaderFacts, header};
use std::path::Path;
use std::process::Command;

fn facts() -> HeaderFacts {
    HeaderFacts {
        name: "smol".into(),
        version: "0.1.0".into(),
        triple: "aarch64-unknown-none".into(),
        cpu: "cortex-a76".into(),
        features: vec!["dotprod".into(), "neon".into()],
        notes: vec![
            ("model".into(), "SmolLM2-135M".into()),
            ("licence".into(), "Apache-2.0 */ int x; /*\nsee \\".into()),
        ],
        identity: 0x0123_4567_89ab_cdef,
        vocab: 49152,
        context: 2048,
        bos: Some(1),
        eos: vec![2, 0],
        weights_bytes: 75_497_472,
        state_bytes: 47_390_784,
        scratch_bytes: 1_048_576,
        stack_bytes: 4096,
        max_workers: 8,
        prefill_chunk: 32,
        weights_external: false,
        add_bos: false,
        has_encode: true,
        has_chat: true,
    }
}

/// Neither end of the range of what a header says.
fn bare_facts() -> HeaderFacts {
    HeaderFacts {
        name: "other_2".into(),
        features: vec![],
        notes: vec![],
        bos: None,
        eos: vec![],
        weights_bytes: 6 << 32,
        weights_external: true,
        add_bos: true,
        has_encode: false,
        has_chat: false,
        ..facts()
    }
}

#[test]
fn the_text_is_the_golden_one() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smol.h");
    let text = header(&facts()).unwrap();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(text == expected, "{} differs; BLESS=1 rewrites it\n{text}", golden.display());
}

#[test]
fn a_bad_name_has_no_header() {
    let error = header(&HeaderFacts { name: "9lives".into(), ..facts() }).unwrap_err();
    assert_eq!(error.to_string(), "name `9lives`: it must start with a lower-case letter");
}

/// Two models in one program, every function and every macro used.
const PROGRAM: &str = r#"
#include "smol.h"
#include "other_2.h"
#include "smol.h"

#define USES(name, NAME)                                                            \
  int use_##name(const name##_env *env, void *state, const name##_sampling *how);   \
  int use_##name(const name##_env *env, void *state, const name##_sampling *how) {  \
    const int32_t tokens[2] = {NAME##_BOS, NAME##_EOS};                             \
    float logprobs[1];                                                              \
    char text[8];                                                                   \
    int64_t status = name##_init(env, state, NAME##_STATE_BYTES);                   \
    if (status < NAME##_OK || status == NAME##_E_TOKENIZER) return 1;               \
    status += name##_prefill(env, state, tokens, 2) + name##_decode(env, state, 3); \
    status += name##_score(env, state, tokens, 2, logprobs);                        \
    status += name##_sample(env, state, how) + name##_truncate(state, 1);           \
    status += name##_save(state, text, sizeof text) + name##_load(state, text, 8);  \
    status += name##_piece(1, text, sizeof text) + name##_error(-1)[0];             \
    int32_t ids[8] = {NAME##_HAS_ENCODE, NAME##_HAS_CHAT, NAME##_ADD_BOS};          \
    status += name##_encode(text, sizeof text, ids, 8);                             \
    status += name##_chat(NAME##_START, NAME##_USER, text, sizeof text, ids, 8);    \
    if (name##_logits(env, state) == NULL) return (int)name##_position(state);      \
    return NAME##_IS_EOS(tokens[0]) ? (int)status : NAME##_ABI_VERSION;             \
  }

USES(smol, SMOL)
USES(other_2, OTHER_2)

enum { weights_are_big = OTHER_2_WEIGHTS_BYTES > 4294967296u };
"#;

#[test]
fn compilers_take_it_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    for facts in [facts(), bare_facts()] {
        let path = dir.path().join(format!("{}.h", facts.name));
        std::fs::write(path, header(&facts).unwrap()).unwrap();
    }
    std::fs::write(dir.path().join("program.c"), PROGRAM).unwrap();
    for (compiler, flags) in [
        ("gcc", ["-std=c99", "-xc"]),
        ("g++", ["-std=c++17", "-xc++"]),
        ("clang", ["-std=c99", "-xc"]),
    ] {
        let mut command = Command::new(compiler);
        command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]);
        match command.args(flags).arg("program.c").current_dir(&dir).output() {
            Ok(out) => {
                let said = String::from_utf8_lossy(&out.stderr);
                assert!(out.status.success() && said.is_empty(), "{compiler}: {said}");
            }
            Err(_) => println!("skipped: {compiler} is not installed"),
        }
    }
}
