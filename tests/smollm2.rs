//! SmolLM2-135M from its GGUF: a real checkpoint, in C programs, natively and under qemu.
//!
//! The checkpoint is fetched by `scripts/fetch-smollm2`; references are beside the project. What is
//! not there is said and left out.

use ingot::model::prepare;
use ingot_tests::machine::{A64, Language, Machine, X64, words};
use ingot_tests::model::{build, flags, smollm2};
use ingot_tests::reference::{Prompt, read};
use ingot_tests::said::{Said, Way};
use ingot_tests::{folder, shared, skipped};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The checkpoint's weights were quantised to 4 bits with f16 scales: f16 and bf16 round them again.
const F32: Way = Way { line: "--quant f32 --kv f32", tokens: 48, logits: 1e-3, score: 1e-3 };
const F16: Way = Way { line: "--quant f16", tokens: 48, logits: 0.1, score: 1e-2 };
const BF16: Way = Way { line: "--quant bf16", tokens: 48, logits: 0.5, score: 5e-2 };

fn prompts() -> Option<Vec<Prompt>> {
    shared("data/reference/smollm2.json").map(|path| read(&path))
}

fn best() -> (&'static Machine, &'static str) {
    (Machine::host(), Machine::host_cpus().last().expect("there is one"))
}

#[test]
fn a_c_program_says_what_the_reference_says() {
    let (Some(model), Some(prompts)) = (smollm2(), prompts()) else { return };
    for way in [F32, F16, BF16] {
        way.say(&model, best(), &[""], &prompts);
    }
}

#[test]
fn aarch64_says_it_with_the_same_bits() {
    let (Some(model), Some(prompts)) = (smollm2(), prompts()) else { return };
    if !X64.is_host() || !A64.available() {
        return;
    }
    // Emulation is slow: one prompt and a few tokens.
    let few = Way { tokens: 3, ..F16 };
    let emulated: Vec<Said> = few.say(&model, (&A64, "generic"), &["max"], &prompts[..1]);
    if !best().0.fuses(best().1) {
        return skipped("no processor with fused multiply-add to compare bits with");
    }
    assert!(emulated == few.say(&model, best(), &[""], &prompts[..1]));
}

/// Needs no reference: what the model says is common knowledge.
#[test]
fn it_knows_the_capital_of_france() {
    let Some(model) = smollm2() else { return };
    let dir = folder();
    let (machine, cpu) = best();
    let line = format!("--name smol -C target-cpu={cpu}");
    let tokenizer = prepare(&flags(&model, dir.path(), &line).model).expect("it opens").tokenizer;
    let question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n\
                    <|im_start|>assistant\n";
    let ids = tokenizer.expect("a GGUF has one").encode(question, false).expect("it is text");
    build(&model, dir.path(), &line);
    let inputs = ["examples/c/continue.c", "libsmol.a"];
    let program = machine.compile(Language::C, dir.path(), "continue", &inputs);
    let printed = machine.run(&program, "max", &[words(&[20]), words(&ids)].concat());
    let (_, answer) = printed.split_once('\n').expect("ids, then text");
    assert_eq!(answer, "The capital of France is Paris.\n");
}

/// Whether two files are equal from `start` on.
fn same_from(start: u64, one: &Path, two: &Path) -> bool {
    let open = |path: &Path| {
        let mut file = File::open(path).expect("it was written");
        file.seek(SeekFrom::Start(start)).expect("it is longer");
        BufReader::with_capacity(1 << 20, file)
    };
    let (mut one, mut two) = (open(one), open(two));
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let n = one.read(&mut a).expect("readable");
        if n == 0 {
            return two.read(&mut b).expect("readable") == 0;
        }
        if two.read_exact(&mut b[..n]).is_err() || a[..n] != b[..n] {
            return false;
        }
    }
}

/// The Hugging Face directory holds the same weights as the GGUF, which permutes rows of q and k.
#[test]
fn the_hugging_face_directory_is_the_same_model() {
    let Some(gguf) = smollm2() else { return };
    let directory = gguf.with_file_name("hf-f32");
    if !directory.exists() {
        return skipped("no hf-f32 beside the GGUF");
    }
    let dir = folder();
    for (name, model) in [("gguf", &gguf), ("hf", &directory)] {
        build(model, dir.path(), &format!("--name {name} --weights external --emit weights"));
    }
    let [gguf, hf] = ["gguf.weights", "hf.weights"].map(|file| dir.path().join(file));
    // The header names the blobs' identity, which tensor names are part of.
    assert!(same_from(64, &gguf, &hf));
}
