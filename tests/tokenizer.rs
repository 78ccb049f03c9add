//! scratch
use ingot_tests::codec::{Codec, expected};
use targets::Target;
use std::time::Instant;

#[test]
fn scratch() {
    let path = std::env::var("TOK_MODEL").unwrap();
    let checkpoint = ingot::frontend::open(std::path::Path::new(&path)).unwrap();
    let t = checkpoint.tokenizer.unwrap();
    let at = Instant::now();
    let enc = t.encoder().unwrap();
    eprintln!("encoder {:?}", at.elapsed());
    let at = Instant::now();
    let codec = Codec::new(&Target::native().unwrap(), &enc);
    eprintln!("emit {:?}", at.elapsed());
    for s in ["Hello", "Hello world, it's 1234   times \n\n ok", "", " ", "<|im_start|>user\nhi<|im_end|>", "héllo 世界 🦀 \u{4}a\u{6}!\u{6}!!", "a▁b ▁ c"] {
        assert_eq!(codec.encode(s.as_bytes()), expected(&t, s.as_bytes()), "{s}");
    }
    let text = std::fs::read(std::env::var("TOK_TEXT").unwrap()).unwrap();
    let at = Instant::now();
    let got = codec.encode(&text);
    let ours = at.elapsed();
    let at = Instant::now();
    let want = expected(&t, &text);
    eprintln!("ours {ours:?} theirs {:?} bytes {} tokens {}", at.elapsed(), text.len(), want.len());
    let bad = got.iter().zip(&want).position(|(a, b)| a != b);
    if let Some(i) = bad { panic!("at {i}: {:?} {:?}", &got[i-3..i+5], &want[i-3..i+5]); }
    assert_eq!(got.len(), want.len());
}
