//! Tokenizers of every source: tokens, pieces and settings.

use super::hostile::expect;
use super::support::{Case, Files, Gguf, Kv, config_with, root};
use ingot::frontend::Checkpoint;
use ingot::tokenizer::{Alphabet, Kind, Merge, Prefix, Tokenizer};
use serde_json::{Value, json};

/// GPT-2's character of a byte, derived as its code derives it.
fn character(byte: u8) -> char {
    let printable = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    match printable(&byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|b| !printable(b)).count() as u32;
            char::from_u32(256 + before).unwrap()
        }
    }
}

const CONTROL: i32 = 3;
const NORMAL: i32 = 1;

/// Two control tokens, one user-defined, 256 bytes, then words made by merges; one unused.
fn byte_level() -> (Vec<String>, Vec<String>, Vec<i32>) {
    let mut tokens: Vec<String> = ["<|end|>", "<|start|>", "<tool>"].map(String::from).to_vec();
    let mut kinds = vec![CONTROL, CONTROL, 4];
    tokens.extend((0..=255).map(|b| character(b).to_string()));
    let merges = ["1 2", "12 3", "l l", "' ll", "' LL", "L L", "Ġ h", "h e", "Ġ Ġ"];
    let merges: Vec<String> = merges.map(String::from).to_vec();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.push("[PAD]".into());
    kinds.resize(tokens.len() - 1, NORMAL);
    kinds.push(5);
    (tokens, merges, kinds)
}

fn gguf_byte_level(pre: &'static str) -> Gguf {
    let (tokens, merges, kinds) = byte_level();
    let mut gguf = Gguf::model("llama");
    gguf.resize_vocab(tokens.len() as u64);
    gguf.set("tokenizer.ggml.model", Kv::Text("gpt2"));
    gguf.set("tokenizer.ggml.pre", Kv::Text(pre));
    gguf.set("tokenizer.ggml.tokens", Kv::Texts(tokens));
    gguf.set("tokenizer.ggml.merges", Kv::Texts(merges));
    gguf.set("tokenizer.ggml.token_type", Kv::Ints(kinds));
    gguf
}

fn tokenizer(checkpoint: Checkpoint) -> Tokenizer {
    checkpoint.tokenizer.unwrap()
}

/// Tokens of a text as the texts they stand for.
fn cut(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let tokens = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.decode(&tokens), text);
    tokens.iter().map(|&token| tokenizer.decode(&[token])).collect()
}

#[test]
fn each_pre_tokenizer_of_gguf_cuts_its_own_way() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("gpt-2", &["123", "3"], &["i", "'ll", "I", "'", "LL"]),
        ("default", &["123", "3"], &["i", "'ll", "I", "'", "LL"]),
        ("smollm", &["1", "2", "3", "3"], &["i", "'ll", "I", "'", "LL"]),
        ("llama-bpe", &["123", "3"], &["i", "'ll", "I", "'LL"]),
        ("qwen2", &["1", "2", "3", "3"], &["i", "'ll", "I", "'LL"]),
    ];
    for (pre, digits, contraction) in cases {
        let tokenizer = tokenizer(gguf_byte_level(pre).open().unwrap());
        assert_eq!(tokenizer.alphabet, Alphabet::Bytes);
        assert_eq!(tokenizer.prefix, Prefix::None);
        assert_eq!(tokenizer.nfc, *pre == "qwen2");
        let encoder = tokenizer.encoder().unwrap();
        assert_eq!(encoder.whole, *pre == "llama-bpe");
        assert_eq!(tokenizer.settings.add_bos, *pre == "llama-bpe");
        assert_eq!(cut(&tokenizer, "1233"), *digits, "{pre}");
        assert_eq!(cut(&tokenizer, "i'llI'LL"), *contraction, "{pre}");
        assert_eq!(cut(&tokenizer, "he he"), ["he", " h", "e"], "{pre}");
    }
}

#[test]
fn special_tokens_in_text_are_recognised() {
    let tokenizer = tokenizer(gguf_byte_level("smollm").open().unwrap());
    assert_eq!(tokenizer.encode("<|start|>he<|end|>", false).unwrap()[0], 1);
    assert_eq!(cut(&tokenizer, "<|start|>a<tool>"), ["<|start|>", "a", "<tool>"]);
    assert_eq!(tokenizer.encode("a", true).unwrap()[0], 1);
    assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
    assert_eq!(tokenizer.encode("", false).unwrap(), [] as [u32; 0]);
}

#[test]
fn pieces_are_the_exact_bytes() {
    let (tokens, merges, _) = byte_level();
    let tokenizer = tokenizer(gguf_byte_level("smollm").open().unwrap());
    let pieces = tokenizer.pieces();
    assert_eq!(pieces.len(), tokens.len());
    let kinds = |at: usize| (pieces[at].kind, pieces[at].bytes.clone());
    assert_eq!(kinds(0), (Kind::Control, b"<|end|>".to_vec()));
    assert_eq!(kinds(2), (Kind::Normal, b"<tool>".to_vec()));
    assert_eq!(kinds(tokens.len() - 1), (Kind::Unused, vec![]));
    for byte in 0..=255 {
        assert_eq!(kinds(3 + usize::from(byte)), (Kind::Normal, vec![byte]));
    }
    assert_eq!(pieces[tokenizer.token("Ġh").unwrap() as usize].bytes, b" h");
    assert_eq!(tokenizer.merges.len(), merges.len());
    let token = |name| tokenizer.token(name).unwrap();
    let expected = Merge { left: token("12"), right: token("3"), result: token("123") };
    assert_eq!(tokenizer.merges[1], expected);
}

/// tokenizer.json of `byte_level`, for a directory.
fn byte_level_json() -> Value {
    let (tokens, merges, _) = byte_level();
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, name)| (name.clone(), id.into())).collect();
    let added = |id: usize, special: bool| {
        json!({"id": id, "content": tokens[id], "special": special, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let digits = json!({"type": "Digits", "individual_digits": true});
    json!({
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [added(0, true), added(1, true), added(2, false)],
        "normalizer": null, "post_processor": null, "decoder": bytes,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, bytes]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                  "continuing_subword_prefix": "", "end_of_word_suffix": "",
                  "byte_fallback": false, "vocab": vocab, "merges": merges},
    })
}

fn directory(tokenizer: &Value) -> Files {
    let rows = byte_level().0.len() + 5;
    let mut files = Files::model(&config_with("LlamaForCausalLM", json!({"vocab_size": rows})));
    files.put("tokenizer.json", tokenizer.to_string());
    files
}

#[test]
fn a_directory_and_a_gguf_file_give_the_same_tokens() {
    let hf = tokenizer(directory(&byte_level_json()).open().unwrap());
    let gguf = tokenizer(gguf_byte_level("smollm").open().unwrap());
    for text in ["he said: 1233, he'll <|end|>", "  \n\t héllo 世界 🦀", "\u{0}\u{ad}ÿ"] {
        let tokens = hf.encode(text, false).unwrap();
        assert_eq!(tokens, gguf.encode(text, false).unwrap());
        assert_eq!(hf.decode(&tokens), text);
        let pieces = tokens.iter().flat_map(|&t| hf.pieces()[t as usize].bytes.clone());
        assert_eq!(pieces.collect::<Vec<u8>>(), text.as_bytes());
    }
    assert_eq!(hf.merges, gguf.merges);
    assert_eq!(hf.encoder().unwrap().cuts, gguf.encoder().unwrap().cuts);
    // Rows without a token: the five that pad the table.
    let padding = &hf.pieces()[byte_level().0.len()..];
    assert!(padding.len() == 5 && padding.iter().all(|piece| piece.kind == Kind::Unused));
}

#[test]
fn settings_come_from_the_files_beside() {
    let mut files = directory(&byte_level_json());
    let settings = |files: &Files| tokenizer(files.open().unwrap()).settings;
    let plain = settings(&files);
    assert_eq!((plain.bos, plain.eos, plain.add_bos), (Some(1), Some(2), false));
    assert_eq!(plain.chat_template, None);
    let named =
        json!([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]);
    let config = json!({
        "bos_token": {"content": "<|start|>"}, "eos_token": "<|end|>", "add_bos_token": true,
        "chat_template": named,
    });
    files.put("tokenizer_config.json", config.to_string());
    let read = settings(&files);
    assert_eq!((read.bos, read.eos, read.add_bos), (Some(1), Some(0), true));
    assert_eq!(read.chat_template.as_deref(), Some("D"));
    files.put("chat_template.jinja", "{{ messages }}");
    assert_eq!(settings(&files).chat_template.as_deref(), Some("{{ messages }}"));
    let mut template = byte_level_json();
    let start = json!({"SpecialToken": {"id": "<|start|>", "type_id": 0}});
    let single = json!([start, {"Sequence": {"id": "A", "type_id": 0}}]);
    template["post_processor"] = json!({"type": "TemplateProcessing", "single": single});
    assert!(settings(&directory(&template)).add_bos);
}

/// Names, scores and types of a SentencePiece model.
fn sentencepiece() -> (Vec<String>, Vec<f32>, Vec<i32>) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut kinds = vec![2, CONTROL, CONTROL];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    kinds.resize(tokens.len(), 6);
    let words = ["▁t", "he", "▁the", "▁", "t", "h", "e", "n"];
    tokens.extend(words.map(String::from));
    kinds.resize(tokens.len(), NORMAL);
    let scores = (0..tokens.len()).map(|id| if id < 259 { 0.0 } else { 259.0 - id as f32 });
    let scores = scores.collect();
    (tokens, scores, kinds)
}

fn gguf_sentencepiece() -> Gguf {
    let (tokens, scores, kinds) = sentencepiece();
    let mut gguf = Gguf::model("llama");
    gguf.resize_vocab(tokens.len() as u64);
    gguf.set("tokenizer.ggml.model", Kv::Text("llama"));
    gguf.set("tokenizer.ggml.tokens", Kv::Texts(tokens));
    gguf.set("tokenizer.ggml.scores", Kv::Floats(scores));
    gguf.set("tokenizer.ggml.token_type", Kv::Ints(kinds));
    gguf
}

/// tokenizer.model: a protocol buffer, written by hand.
fn tokenizer_model(model_type: u8) -> Vec<u8> {
    let (tokens, scores, kinds) = sentencepiece();
    let mut out = vec![];
    for ((token, score), kind) in tokens.iter().zip(scores).zip(kinds) {
        let mut piece = vec![0x0a, token.len() as u8];
        piece.extend(token.as_bytes());
        piece.push(0x15);
        piece.extend(score.to_le_bytes());
        piece.extend([0x18, kind as u8]);
        out.extend([0x0a, piece.len() as u8]);
        out.extend(piece);
    }
    out.extend([0x12, 2, 0x18, model_type]);
    out
}

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let rows = sentencepiece().0.len();
    let mut files = Files::model(&config_with("LlamaForCausalLM", json!({"vocab_size": rows})));
    files.put("tokenizer.model", tokenizer_model(2));
    for tokenizer in
        [tokenizer(gguf_sentencepiece().open().unwrap()), tokenizer(files.open().unwrap())]
    {
        assert_eq!(tokenizer.alphabet, Alphabet::Text);
        assert!(tokenizer.encoder().unwrap().cuts.is_empty());
        assert_eq!(tokenizer.prefix, Prefix::Always);
        assert!(tokenizer.settings.add_bos);
        let token = |name: &str| tokenizer.token(name).unwrap();
        let then = tokenizer.encode("then the", true).unwrap();
        assert_eq!(then, [1, token("▁the"), token("n"), token("▁the")]);
        assert_eq!(tokenizer.decode(&then[1..]), "then the");
        let crab = tokenizer.encode("🦀", false).unwrap();
        assert_eq!(crab, [token("▁"), 3 + 0xf0, 3 + 0x9f, 3 + 0xa6, 3 + 0x80]);
        assert_eq!(tokenizer.decode(&crab), "🦀");
        let pieces = tokenizer.pieces();
        assert_eq!((pieces[0].kind, pieces[1].kind), (Kind::Control, Kind::Control));
        assert_eq!((pieces[13].kind, pieces[13].bytes.as_slice()), (Kind::Byte, &[10u8][..]));
        assert_eq!(pieces[token("▁the") as usize].bytes, b" the");
    }
}

#[test]
fn no_tokenizer_is_fine() {
    assert!(Gguf::model("llama").open().unwrap().tokenizer.is_none());
    assert!(
        Files::model(&config_with("LlamaForCausalLM", json!({})))
            .open()
            .unwrap()
            .tokenizer
            .is_none()
    );
}

/// Where in tokenizer.json, the value put there, code and words of the error.
const JSON: &[(&str, &str, &str, &str)] = &[
    ("/model/type", r#""Unigram""#, "IG0302", "a Unigram tokenizer"),
    ("/decoder", r#"{"type": "WordPiece"}"#, "IG0302", "decoder WordPiece"),
    ("/decoder", "null", "IG0302", "found null"),
    ("/decoder", r#"{"type": "Fuse"}"#, "IG0302", "with this decoder"),
    ("/normalizer", r#"{"type": "Lowercase"}"#, "IG0302", "normalizer Lowercase"),
    ("/model/dropout", "0.1", "IG0302", "dropout"),
    ("/model/continuing_subword_prefix", r###""##""###, "IG0302", "continuing_subword_prefix"),
    ("/model/merges", r#"[["a", "b"]]"#, "IG0301", "merge 0 needs a token \"ab\""),
    ("/model/merges", r#"["<|start|> <|end|>"]"#, "IG0301", "merge 0 needs"),
    ("/model/merges", r#"["ab"]"#, "IG0301", "merge 0 is no pair"),
    ("/model/merges", "5", "IG0301", "not a list"),
    ("/model/vocab", "[]", "IG0301", "not an object"),
    ("/model/vocab/a", "98", "IG0301", "two tokens have the id 98"),
    ("/model/vocab/a", "-1", "IG0301", "the id of token \"a\" is -1"),
    ("/model/vocab/a", "4000", "IG0303", "\"a\" is 4000"),
    ("/model/unk_token", r#""?!""#, "IG0301", "\"?!\" is no token"),
    ("/added_tokens/0/id", "7", "IG0301", "asks for another id"),
    ("/added_tokens/0/id", "900", "IG0303", "is 900"),
    ("/model", "null", "IG0301", "model.vocab"),
];

#[test]
fn damaged_and_foreign_tokenizers() {
    for (pointer, value, code, words) in JSON {
        let mut json = byte_level_json();
        *json.pointer_mut(pointer).unwrap() = serde_json::from_str(value).unwrap();
        expect(pointer, directory(&json).open(), code, words);
    }
}

/// What is done to a sound file, code and words of the error.
const GGUF: &[Case<Gguf>] = &[
    ("model", |g| g.set("tokenizer.ggml.model", Kv::Text("t5")), "IG0302", "\"t5\""),
    ("pre", |g| g.set("tokenizer.ggml.pre", Kv::Text("tekken")), "IG0302", "supported: gpt-2"),
    ("merges", |g| g.unset("tokenizer.ggml.merges"), "IG0301", "merges is missing"),
    ("tokens", |g| g.unset("tokenizer.ggml.tokens"), "IG0301", "tokens is missing"),
    ("types", |g| g.set("tokenizer.ggml.token_type", Kv::Ints(vec![1])), "IG0301", "1 types"),
    ("scores", |g| g.set("tokenizer.ggml.model", Kv::Text("llama")), "IG0301", "0 scores"),
    (
        "twice",
        |g| g.set("tokenizer.ggml.tokens", Kv::Texts(vec!["a".into(); 269])),
        "IG0301",
        "are both \"a\"",
    ),
];

#[test]
fn damaged_and_foreign_tokenizers_in_gguf() {
    for (case, edit, code, words) in GGUF {
        let mut gguf = gguf_byte_level("smollm");
        edit(&mut gguf);
        expect(case, gguf.open(), code, words);
    }
    let rows = sentencepiece().0.len();
    let mut files = Files::model(&config_with("LlamaForCausalLM", json!({"vocab_size": rows})));
    for (bytes, code) in
        [(tokenizer_model(1), "IG0302"), (vec![0xff; 9], "IG0301"), (vec![], "IG0301")]
    {
        files.put("tokenizer.model", bytes);
        assert_eq!(files.open().unwrap_err().code, code);
    }
}

#[test]
fn the_models_of_the_repository_round_trip_their_text() {
    let models = root().join("examples/models");
    let text = std::fs::read_to_string(models.join("train/shakespeare.txt")).unwrap();
    let text: String = text.chars().take(20_000).collect();
    for name in ["shakespeare", "shakespeare-shared"] {
        let checkpoint = ingot::frontend::open(&models.join(name)).unwrap();
        ir::verify(&checkpoint.module).unwrap();
        let tokenizer = tokenizer(checkpoint);
        let tokens = tokenizer.encode(&text, false).unwrap();
        assert!(tokens.len() < text.len() / 2);
        assert_eq!(tokenizer.decode(&tokens), text);
    }
}

/// Where in tokenizer.json, the value put there, words of why the device cannot have it.
const NOT_ON_THE_DEVICE: &[(&str, &str, &str)] = &[
    ("/normalizer", r#"{"type": "Prepend", "prepend": "x"}"#, "normalizer {\"prepend\":\"x\""),
    ("/pre_tokenizer", r#"{"type": "Digits", "individual_digits": true}"#, "pre-tokenizer"),
    ("/pre_tokenizer/pretokenizers/0/individual_digits", "false", "pre-tokenizer"),
    (
        "/pre_tokenizer/pretokenizers/0",
        r#"{"type": "Split", "pattern": {"Regex": "a(?<!b)"}, "behavior": "Isolated", "invert": false}"#,
        "look-around",
    ),
    (
        "/pre_tokenizer/pretokenizers/0",
        r#"{"type": "Split", "pattern": {"Regex": "a++"}, "behavior": "Isolated", "invert": false}"#,
        "possessive",
    ),
    (
        "/pre_tokenizer/pretokenizers/0",
        r#"{"type": "Split", "pattern": {"Regex": "a*"}, "behavior": "Isolated", "invert": false}"#,
        "matches nothing at all",
    ),
    (
        "/pre_tokenizer/pretokenizers/0",
        r#"{"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed", "invert": false}"#,
        "Removed",
    ),
    (
        "/added_tokens/0",
        r#"{"id": 0, "content": "<|end|>", "special": true, "single_word": false, "lstrip": true,
            "rstrip": false, "normalized": true}"#,
        "looked for after others",
    ),
    ("/pre_tokenizer/pretokenizers/1/add_prefix_space", "true", "pre-tokenizer"),
];

#[test]
fn what_the_device_cannot_have_is_named() {
    for (pointer, value, words) in NOT_ON_THE_DEVICE {
        let mut json = byte_level_json();
        *json.pointer_mut(pointer).unwrap() = serde_json::from_str(value).unwrap();
        let why = tokenizer(directory(&json).open().unwrap()).encoder().unwrap_err();
        assert!(why.contains(words), "{pointer}: {why}");
    }
}
