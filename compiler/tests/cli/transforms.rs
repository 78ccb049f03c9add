//! Transforms and the pipeline: rotations, smoothing, and the flags that show what passes do.

use crate::{ingot, plain, printed};
use std::fs;

/// Of the residual stream of the model that ships.
const WIDTH: usize = 192;

#[test]
fn a_rotated_model_says_the_same() {
    let model = plain();
    let run = |flags: &[&str]| {
        let prompt = ["run", &model, "--threads", "1", "--quant", "f32", "--kv", "f32"];
        printed(&[&prompt[..], &["-p", "ROMEO:\n", "-n", "24"], flags].concat())
    };
    let expected = run(&[]);
    assert_eq!(run(&["--rotate", "hadamard", "--rotations", "r1,r2,r3,r4"]), expected);
    assert_eq!(run(&["--rotate", "hadamard", "--seed", "9"]), expected);
}

/// A safetensors file whose one tensor is the rotation of `order` that turns rows around.
fn reversal(order: usize) -> Vec<u8> {
    let bytes = 4 * order * order;
    let header = format!(
        r#"{{"R1":{{"dtype":"F32","shape":[{order},{order}],"data_offsets":[0,{bytes}]}}}}"#
    );
    let one = |i: usize| if i / order + i % order == order - 1 { 1f32 } else { 0.0 };
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend((0..order * order).flat_map(|i| one(i).to_le_bytes()));
    file
}

#[test]
fn text_that_was_rotated_by_a_file_is_read_back_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    fs::write(path("r.safetensors"), reversal(WIDTH)).unwrap();
    let (model, file) = (plain(), path("r.safetensors"));
    let build =
        |args: &[&str]| ingot(&[&["build", "--name", "m", "--quant", "f32"], args].concat());
    let rotated = ["--rotate", &file, "--rotations", "r1", "--emit", "ir,lib", "-o", &path("one")];
    assert_eq!(build(&[&[&model[..]], &rotated[..]].concat()).code, 0);
    let text = path("one/m.ingot");
    let again = [&text, "--blobs", &model, "-o", &path("two")];
    let without = build(&again);
    assert!(without.stderr.contains("--tensors FILE"), "{}", without.stderr);
    assert_eq!(build(&[&again[..], &["--tensors", &file]].concat()).code, 0);
    assert_eq!(fs::read(path("one/libm.a")).unwrap(), fs::read(path("two/libm.a")).unwrap());
}

#[test]
fn the_log_says_what_passes_did_and_the_probe_how_far_logits_moved() {
    let args = ["opt", &plain(), "--rotate", "hadamard", "--rotations", "r1,r4", "--probe"];
    let ended = ingot(&args);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for line in [
        "share ",
        "6 gains folded into 15 matrices",
        "the gain of %n in @head stays: $embed is read by embed too",
        "R1: hadamard(1) of order 192 over 22 weights",
        "R4: order 512 before the last matrix of @block",
        "of the largest",
        " ms  unchanged",
    ] {
        assert!(ended.stderr.contains(line), "no `{line}` in\n{}", ended.stderr);
    }
    let quiet = printed(&args[..args.len() - 1]);
    assert_eq!(quiet, ended.stdout);
}

#[test]
fn a_limit_stops_the_pipeline() {
    let model = plain();
    let args = ["opt", &model, "--passes", "fold_norms,rotate", "--log-passes"];
    let limited = ingot(&[&args[..], &["--pass-limit", "1"]].concat());
    assert_eq!(limited.code, 0);
    assert!(limited.stderr.contains("stopped before rotate, pass 2 of 2"), "{}", limited.stderr);
    assert_eq!(limited.stdout, printed(&["opt", &model, "--passes", "fold_norms"]));
}

#[test]
fn dumps_are_numbered_and_read_back() {
    let (model, dir) = (plain(), tempfile::tempdir().unwrap());
    let out = dir.path().to_str().unwrap();
    let args =
        ["opt", &model, "--rotate", "hadamard", "--dump-after", "changed", "--dump-dir", out];
    let after = printed(&args);
    let mut names: Vec<String> = fs::read_dir(out)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["00-import.ingot", "01-fold_norms.ingot", "02-rotate.ingot"]);
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(text("02-rotate.ingot"), after);
    // Text alone, and text with its numbers, lead to the same module.
    let folded = dir.path().join("01-fold_norms.ingot");
    let rotate = ["opt", folded.to_str().unwrap(), "--passes", "rotate", "--rotate", "hadamard"];
    assert_eq!(printed(&rotate), after);
    assert_eq!(printed(&[&rotate[..], &["--blobs", &model]].concat()), after);
}

#[test]
fn what_cannot_be_is_refused() {
    let model = plain();
    for (args, code, words) in [
        (&["--passes", "rotate,fold_norms"][..], 2, "`fold_norms` comes before `rotate`"),
        (&["--passes", "rotate"], 1, "run `fold_norms` first"),
        (&["--smooth", "2"], 2, "a number from 0 to 1"),
        (&["--rotations", "r1"], 2, "--rotate"),
        (&["--rotate", "no/file.safetensors"], 1, "error[IG0101]"),
        (&["--rotate", "hadamrd"], 2, "hadamard, auto, learned"),
        (&["--passes", "smooth"], 1, "calibration"),
    ] {
        let ended = ingot(&[&["opt", &model][..], args].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{args:?}: {}", ended.stderr);
    }
}
