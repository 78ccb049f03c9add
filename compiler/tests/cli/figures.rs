//! `eval` and `bench`: figures that make sense.

use crate::{json, plain, printed, shared};
use serde_json::Value;
use std::fs;

const TEXT: &str = "\
KING RICHARD II:
Speak truly, on thy knighthood and thy oath;
As so defend thee heaven and thy valour!

QUEEN:
What, is my Richard both in shape and mind
Transform'd and weaken'd? hath Bolingbroke deposed
Thine intellect? hath he been in thy heart?
";

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// `eval` of a model on `TEXT` with further arguments.
fn eval(model: &str, args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    fs::write(&file, TEXT).unwrap();
    let base = ["eval", model, "--text", file.to_str().unwrap(), "--json", "--threads", "1"];
    json(&[&base[..], args].concat())
}

#[test]
fn perplexity_is_that_of_a_trained_model() {
    for model in [plain(), shared()] {
        let found = eval(&model, &["--ctx", "32"]);
        let perplexity = float(&found["perplexity"]);
        // A model that knows nothing has the size of its vocabulary, 1024.
        assert!((1.5..300.0).contains(&perplexity), "{found}");
        assert!((float(&found["nll"]).exp() - perplexity).abs() < 1e-9);
        assert!(float(&found["perplexity_error"]) > 0.0);
        // Half of a window of 32 without its first position.
        assert_eq!(found["tokens"], 15 * found["windows"].as_u64().unwrap());
        assert!((16.0..16.2).contains(&float(&found["bits_per_weight"])), "{found}");
    }
}

#[test]
fn every_token_counts_in_the_full_scheme() {
    let tokens = printed(&["tokenize", &plain(), TEXT]).split_whitespace().count();
    let found = eval(&plain(), &["--ctx", "32", "--scheme", "full"]);
    assert_eq!(found["tokens"], tokens - tokens.div_ceil(32));
    assert_eq!(eval(&plain(), &["--ctx", "32", "--chunks", "2"])["windows"], 2);
    assert_eq!(eval(&plain(), &["--ctx", "16", "--tokens", "50"])["windows"], 3);
}

#[test]
fn rounding_moves_the_model_a_little() {
    let found = eval(&plain(), &["--ctx", "64", "--against", "f32", "--kl-tokens", "30"]);
    let against = &found["against"];
    assert_eq!(against["tokens"], 30);
    let (mean, p99, max) =
        (float(&against["kl_mean"]), float(&against["kl_p99"]), float(&against["kl_max"]));
    assert!((0.0..1e-3).contains(&mean) && p99 <= max, "{found}");
    assert!(float(&against["top1_agreement"]) > 0.9);
    let coarse = eval(
        &plain(),
        &["--ctx", "64", "--against", "f32", "--kl-tokens", "30", "--quant", "bf16"],
    );
    assert!(float(&coarse["against"]["kl_mean"]) > mean);
}

#[test]
fn speed_is_measured() {
    let model = plain();
    let args = ["bench", &model, "--threads", "1", "--repeat", "2", "--prefill", "16"];
    let args = [&args[..], &["--decode", "8", "--depth", "0,4"]].concat();
    let found = json(&[&args[..], &["--json"]].concat());
    let depths = found["depths"].as_array().unwrap();
    assert_eq!(depths.iter().map(|at| &at["depth"]).collect::<Vec<_>>(), [0, 4]);
    let deepest = &depths[1];
    for part in ["prefill", "decode"] {
        let speed = &deepest[part]["tokens_per_second"];
        let [min, median, max] = ["min", "median", "max"].map(|key| float(&speed[key]));
        assert!(0.0 < min && min <= median && median <= max, "{found}");
    }
    let weights = float(&found["weights_bytes"]);
    let read = float(&deepest["decode"]["bytes_per_token"]);
    // All weights but the header and the gaps between them, one row of the table, some keys.
    assert!((0.99..1.1).contains(&(read / weights)), "{found}");
    assert!(float(&found["bandwidth_gb_per_second"]["before"]) > 0.1);
    assert!(float(&found["first_token_ms"]["median"]) > 0.0);

    let text = printed(&args);
    for word in ["prefill 16", "decode 8", "decode 8 at 4", "GFLOP/s", "GB/s", "first token of 8"] {
        assert!(text.contains(word), "{text}");
    }
}
