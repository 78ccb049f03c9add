//! `run`, `tokenize`, `opt`, `inspect` and the tables.

use crate::{copied, ingot, json, plain, printed, shared, with_input};
use std::fs;

const PROMPT: &str = "ROMEO:\n";

/// `run` of a model with one thread and further arguments.
fn run(model: &str, args: &[&str]) -> String {
    printed(&[&["run", model, "--threads", "1"], args].concat())
}

#[test]
fn run_continues_a_text() {
    for model in [plain(), shared()] {
        let text = run(&model, &["-p", PROMPT, "-n", "20"]);
        assert!(text.len() > 5 && text.ends_with('\n'), "{text}");
        assert_eq!(
            text,
            run(&model, &["-p", PROMPT, "-n", "20"]),
            "greedy text is always the same"
        );
        let echoed = run(&model, &["-p", PROMPT, "-n", "20", "--echo"]);
        assert_eq!(echoed, format!("{PROMPT}{text}"));
    }
}

#[test]
fn prompts_come_from_anywhere() {
    let model = plain();
    let expected = run(&model, &["-p", PROMPT, "-n", "8"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    fs::write(&file, PROMPT).unwrap();
    assert_eq!(run(&model, &["--prompt-file", file.to_str().unwrap(), "-n", "8"]), expected);
    let args = ["run", &model, "--threads", "1", "--prompt-file", "-", "-n", "8"];
    assert_eq!(with_input(&args, PROMPT).stdout, expected);

    let ids = printed(&["tokenize", &model, PROMPT]).trim().replace(' ', ",");
    let found = run(&model, &["--tokens", &ids, "-n", "8"]);
    assert_eq!(found.split_whitespace().count(), 8);
    assert_eq!(printed(&["tokenize", &model, "--decode", &found]), expected);
}

#[test]
fn threads_chunks_and_repetition_change_nothing() {
    let model = shared();
    let prompt: Vec<String> = (0..40).map(|i| (i * 37 % 1000).to_string()).collect();
    let prompt = prompt.join(",");
    let args = ["--tokens", &prompt, "-n", "12", "--temp", "1", "--seed", "3", "--ignore-eos"];
    let expected = run(&model, &args);
    assert_eq!(run(&model, &[&args[..], &["--prefill-chunk", "7"]].concat()), expected);
    assert_eq!(printed(&[&["run", &model, "--threads", "2"], &args[..]].concat()), expected);
}

#[test]
fn sampling_listens_to_its_flags() {
    let model = plain();
    let sample = |args: &[&str]| {
        run(&model, &[&["--tokens", "40,30", "-n", "16", "--ignore-eos"], args].concat())
    };
    let (one, two) = (["--temp", "1.5", "--seed", "1"], ["--temp", "1.5", "--seed", "2"]);
    assert_ne!(sample(&one), sample(&two));
    let greedy = sample(&[]);
    assert_eq!(sample(&[&one[..], &["--top-k", "1"]].concat()), greedy);
    assert_eq!(sample(&[&one[..], &["--min-p", "1"]].concat()), greedy);
    let distinct = |ids: &str| {
        let mut ids: Vec<&str> = ids.split_whitespace().collect();
        ids.sort();
        ids.dedup();
        ids.len()
    };
    assert_eq!(distinct(&sample(&["--presence-penalty", "1000"])), 16);
}

#[test]
fn run_says_why_it_stopped() {
    let model = plain();
    let args = |n| ["run", &model, "--threads", "1", "--tokens", "40,30,20", "--json", "-n", n];
    let counted = json(&args("5"));
    assert_eq!(counted["stop"], "count");
    assert_eq!(counted["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(
        (&counted["prefill"]["tokens"], &counted["decode"]["tokens"]),
        (&3.into(), &4.into())
    );
    assert_eq!(json(&args("0"))["tokens"].as_array().unwrap().len(), 0);
    let full = json(&[&args("50")[..], &["--context", "8", "--ignore-eos"]].concat());
    assert_eq!(full["stop"], "context");
    // The last token is known but has no room.
    assert_eq!(full["tokens"].as_array().unwrap().len(), 6);
}

#[test]
fn figures_of_a_run_go_to_standard_error() {
    let model = plain();
    let args = ["run", &model, "--threads", "1", "-p", PROMPT, "-n", "4", "-v"];
    let ended = ingot(&args);
    assert_eq!(ended.stdout, printed(&args[..args.len() - 1]));
    for word in ["prefill 3 tokens", "decode 3 tokens", "tok/s", "stopped: count"] {
        assert!(ended.stderr.contains(word), "{}", ended.stderr);
    }
}

#[test]
fn tokens_become_text_again() {
    let model = plain();
    let text = "Hé → you:\n\tday";
    let ids = printed(&["tokenize", &model, text]);
    assert_eq!(printed(&["tokenize", &model, "--decode", ids.trim()]), format!("{text}\n"));
    assert_eq!(with_input(&["tokenize", &model, "--file", "-"], text).stdout, ids);
    let pieces = printed(&["tokenize", &model, "--pieces", "Hé"]);
    assert!(pieces.contains("\"H\"") && pieces.contains("\\x"), "{pieces}");
    assert_eq!(json(&["tokenize", &model, "--json", text])["text"], text);
    let continued = run(&model, &["--tokens", ids.trim(), "-n", "4"]);
    assert_eq!(continued, run(&model, &["--tokens", &ids.trim().replace(' ', ","), "-n", "4"]));
    assert_eq!(continued.split_whitespace().count(), 4);
}

#[test]
fn opt_prints_what_it_reads() {
    let model = plain();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args =
        ["build", &model, "-o", out, "--name", "m", "--emit", "ir", "--dump-after", "import"];
    assert_eq!(ingot(&[&args[..], &["--dump-dir", out]].concat()).code, 0);
    let (imported, built) = (dir.path().join("00-import.ingot"), dir.path().join("m.ingot"));
    let (imported, built) = (imported.to_str().unwrap(), built.to_str().unwrap());
    let whole = fs::read_to_string(built).unwrap();
    assert_eq!(printed(&["opt", built, "--no-passes"]), whole);
    assert_eq!(printed(&["opt", imported, "--quant", "f16", "--kv", "f16"]), whole);
    assert_eq!(printed(&["opt", imported]), fs::read_to_string(imported).unwrap());
    let half = printed(&["opt", imported, "--passes", "select", "--quant", "bf16"]);
    assert!(half.contains("cast(bf16)") && half.contains("kv.f32") && !whole.contains("kv.f32"));

    let figures = json(&["inspect", built, "--json"]);
    assert_eq!((&figures["kind"], &figures["vocab"]), (&"ir".into(), &1024.into()));
    assert!(printed(&["inspect", built]).contains("@head"));
    let args = ["run", built, "--blobs", &model, "--threads", "1", "-p", PROMPT, "-n", "8"];
    assert_eq!(printed(&args), run(&model, &["-p", PROMPT, "-n", "8"]));
}

#[test]
fn checkpoints_are_described() {
    let figures = json(&["inspect", &plain(), "--json"]);
    assert_eq!(figures["config"]["vocab"], 1024);
    assert_eq!(figures["tokenizer"]["kind"], "byte-level BPE");
    let calls = json(&["inspect", &shared(), "--json"])["config"]["calls"].as_u64();
    assert!(calls > Some(1), "{calls:?}");
    let text = printed(&["inspect", &plain()]);
    assert!(text.contains("model.layers.{0..2}.mlp.down_proj.weight"), "{text}");
}

#[test]
fn tables_are_listed() {
    let codes = printed(&["explain"]);
    for line in codes.lines() {
        let (code, headline) = line.split_once("  ").unwrap();
        let text = printed(&["explain", &code.to_lowercase()]);
        let start: String = headline.chars().take(30).collect();
        assert!(text.starts_with(code) && text.contains(&start), "{text}");
    }
    let targets = json(&["targets", "--json"]);
    assert!(targets["triples"].as_array().unwrap().contains(&"aarch64-unknown-none".into()));
    assert!(targets["cpus"]["x86-64"]["znver4"].as_array().unwrap().contains(&"avx512vnni".into()));
    assert!(printed(&["targets"]).contains("cortex-a55"));
    let passes = json(&["passes", "--json"]);
    let first = passes["passes"][0]["name"].as_str().unwrap();
    assert!(printed(&["passes"]).starts_with(first));
}

#[test]
fn every_command_has_help() {
    let all = printed(&["help"]);
    let (_, commands) = all.split_once("Commands:\n").unwrap();
    let names = commands.lines().take_while(|line| line.starts_with("  "));
    for name in names.map(|line| line.split_whitespace().next().unwrap()) {
        let help = printed(&["help", name]);
        assert!(name == "help" || help.contains(&format!("Usage: ingot {name}")), "{help}");
    }
}

/// A copy of a model that ships, with a chat template.
fn with_template(dir: &std::path::Path, template: &str) -> String {
    let model = copied("shakespeare", dir);
    fs::write(dir.join("chat_template.jinja"), template).unwrap();
    model
}

#[test]
fn run_chats_as_the_template_says() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{{ m.role | upper }}:\n{{ m.content }}\n\n{% endfor %}\
                    {% if add_generation_prompt %}ASSISTANT:\n{% endif %}";
    let model = with_template(dir.path(), template);
    let answer = run(&model, &["--chat", "-p", "Who is there?", "-n", "12"]);
    let whole = "USER:\nWho is there?\n\nASSISTANT:\n";
    assert_eq!(answer, run(&model, &["-p", whole, "-n", "12"]), "as if it were all typed");
    let args = ["run", &model, "--threads", "1", "--chat", "-n", "12"];
    let two = with_input(&args, "Who is there?\n\nAnd who is not?\n").stdout;
    let more = two.strip_prefix(&answer).unwrap();
    let answer = answer.strip_suffix('\n').unwrap();
    let whole = format!("{whole}{answer}\n\nUSER:\nAnd who is not?\n\nASSISTANT:\n");
    assert_eq!(more, run(&model, &["-p", &whole, "-n", "12"]));
}

#[test]
fn a_template_that_cannot_be_compiled_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}\n{{ m.content }}\n{% if loop.index > 3 %}\n\
                    {{ 'So ' }}\n{% endif %}\n{% endfor %}";
    let model = with_template(dir.path(), template);
    let ended = ingot(&["run", &model, "--chat", "-p", "a"]);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("IG0305"), "{}", ended.stderr);
    assert!(ended.stderr.contains("line 4 of the chat template"), "{}", ended.stderr);
    // A library can do without, and says so.
    let out = dir.path().join("out");
    let ended = ingot(&["build", &model, "-o", out.to_str().unwrap(), "--name", "smol"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("warning: the library has no chat: line 4"), "{}", ended.stderr);
    let header = fs::read_to_string(out.join("smol.h")).unwrap();
    assert!(header.contains("#define SMOL_HAS_CHAT 0") && header.contains("no chat: line 4"));
}

#[test]
fn inspect_tells_what_sets_a_gemma_apart() {
    let gemma = |n: u32| format!("{}/../tests/gemma/{n}", env!("CARGO_MANIFEST_DIR"));
    let second = printed(&["inspect", &gemma(2)]);
    for words in
        ["2 of 4 blocks see 9 positions; rope theta 10000", "scores below 1, logits below 1"]
    {
        assert!(second.contains(words), "{second}");
    }
    let third = json(&["inspect", &gemma(3), "--json"]);
    let config = &third["config"];
    assert_eq!(config["windowed"], serde_json::json!([true, false, true, false]));
    assert_eq!((&config["window"], &config["score_cap"]), (&9.into(), &serde_json::Value::Null));
}
