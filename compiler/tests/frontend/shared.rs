//! Against models and references beside the repository; skipped, aloud, where they are absent.

use super::support::shared;
use ingot::frontend::{self, Checkpoint};
use serde_json::Value;

/// A reference: prompt, its tokens, the greedy continuation, the text of both.
struct Reference {
    prompt: String,
    tokens: Vec<u32>,
    greedy: Vec<u32>,
    text: String,
}

fn references(name: &str) -> Option<Vec<Reference>> {
    let file = std::fs::read(shared(&format!("data/reference/{name}.json"))?).unwrap();
    let all: Value = serde_json::from_slice(&file).unwrap();
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let reference = |value: &Value| Reference {
        prompt: value["prompt"].as_str().unwrap().into(),
        tokens: ids(&value["ids"]),
        greedy: ids(&value["greedy"]),
        text: value["text"].as_str().unwrap().into(),
    };
    Some(all.as_array().unwrap().iter().map(reference).collect())
}

fn stories() -> Option<(Checkpoint, Vec<Reference>)> {
    let dir = shared("data/stories260k")?;
    Some((frontend::open(&dir).unwrap(), references("stories260k")?))
}

#[test]
fn stories260k_has_the_tokens_of_transformers() {
    let Some((checkpoint, references)) = stories() else { return };
    let tokenizer = checkpoint.tokenizer.unwrap();
    for reference in references {
        let tokens = tokenizer.encode(&reference.prompt, tokenizer.settings.add_bos).unwrap();
        assert_eq!(tokens, reference.tokens, "{}", reference.prompt);
        let all: Vec<u32> = tokens.into_iter().chain(reference.greedy).collect();
        assert_eq!(tokenizer.decode(&all), reference.text);
    }
}

#[test]
fn stories260k_continues_as_in_transformers() {
    let Some((checkpoint, references)) = stories() else { return };
    let mut interpreter = ir::Interpreter::new(&checkpoint.module, &checkpoint.blobs).unwrap();
    for reference in references {
        interpreter.truncate(0);
        let mut next = reference.tokens.clone();
        for (at, &expected) in reference.greedy.iter().enumerate() {
            let logits = interpreter.run(&next).unwrap();
            let last = &logits[logits.len() - checkpoint.config.vocab as usize..];
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
            assert_eq!(best as u32, expected, "token {at} after {:?}", reference.prompt);
            next = vec![expected];
        }
    }
}

#[test]
fn tokenizer_model_and_tokenizer_json_agree() {
    let Some(dir) = shared("data/stories260k") else { return };
    let Some(text) = shared("data/text/tinyshakespeare.txt") else { return };
    let text = std::fs::read_to_string(text).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.model"] {
        std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    let json = frontend::open(&dir).unwrap().tokenizer.unwrap();
    let model = frontend::open(copy.path()).unwrap().tokenizer.unwrap();
    assert_eq!(json.pieces(), model.pieces());
    for part in text.as_bytes()[..60_000].chunks(997) {
        let part = String::from_utf8_lossy(part);
        assert_eq!(json.encode(&part, true).unwrap(), model.encode(&part, true).unwrap());
    }
}
