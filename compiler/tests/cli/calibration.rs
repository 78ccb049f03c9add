//! Rounding with statistics, recipes and budgets.
//!
//! What calibration finds is kept beside the model, so each test works on a copy of one.

use crate::{copied, ingot, json};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A copy of a model, with a text to calibrate with and one to evaluate.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new(model: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        copied(model, &dir.path().join("model"));
        let bench = Bench { dir };
        // What the model writes itself is what it knows.
        let text = |seed: &str, file: &str| {
            let args =
                ["--temp", "1", "--seed", seed, "-n", "1000", "--ignore-eos", "--context", "512"];
            let model = bench.path("model");
            let written: String = ["KING:", "ROMEO:", "First Citizen:", "O, "]
                .map(|start| {
                    let run = ["run", &model, "--threads", "1", "-p", start];
                    ingot(&[&run[..], &args].concat()).stdout
                })
                .concat();
            fs::write(bench.path(file), written).unwrap();
        };
        text("1", "calib.txt");
        text("2", "eval.txt");
        bench
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn kept(&self, kind: &str) -> Vec<PathBuf> {
        let Ok(files) = fs::read_dir(self.dir.path().join("model/.ingot")) else { return vec![] };
        let files = files.map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == kind)).collect()
    }

    fn eval(&self, line: &str) -> Value {
        let (model, text) = (self.path("model"), self.path("eval.txt"));
        let line = line.replace("CALIB", &self.path("calib.txt"));
        let base = ["eval", &model, "--text", &text, "--json", "--threads", "1", "--ctx", "128"];
        let more: Vec<&str> = line.split_whitespace().collect();
        json(&[&base[..], &["--against", "f32"], &more].concat())
    }
}

fn kl(found: &Value) -> f64 {
    found["against"]["kl_mean"].as_f64().unwrap()
}

#[test]
fn statistics_make_rounding_better_and_are_kept() {
    for model in ["shakespeare", "shakespeare-shared"] {
        let bench = Bench::new(model);
        let nearest = kl(&bench.eval("--quant w4a8 --round nearest"));
        let searched = kl(&bench.eval("--quant w4a8 --round mse"));
        let line = "--quant w4a8 --calib CALIB --calib-tokens 4096";
        let calibrated = bench.eval(line);
        assert!(kl(&calibrated) < searched * 0.9, "{} against {searched}", kl(&calibrated));
        assert!(searched < nearest, "{searched} against {nearest}");
        let [kept] = &bench.kept("rounded")[..] else { panic!("one file is kept") };
        assert_eq!(kl(&bench.eval(line)), kl(&calibrated));
        // A damaged file is found out, and made again.
        let mut bytes = fs::read(kept).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(kept, bytes).unwrap();
        assert_eq!(kl(&bench.eval(line)), kl(&calibrated));
    }
}

#[test]
fn a_model_calibrates_itself_by_seed() {
    let bench = Bench::new("shakespeare");
    let line = "--quant w4a8 --calib self --calib-tokens 2048";
    let first = bench.eval(line);
    assert!(kl(&first) < kl(&bench.eval("--quant w4a8 --round nearest")));
    let tokens = fs::read(&bench.kept("tokens")[0]).unwrap();
    fs::remove_dir_all(bench.dir.path().join("model/.ingot")).unwrap();
    assert_eq!(kl(&bench.eval(line)), kl(&first));
    assert_eq!(fs::read(&bench.kept("tokens")[0]).unwrap(), tokens);
    bench.eval(&format!("{line} --seed 9"));
    assert_eq!(bench.kept("tokens").len(), 2, "another seed, another text");
}

#[test]
fn budgets_are_kept_and_more_room_loses_less_and_no_more_than_one_format() {
    let bench = Bench::new("shakespeare");
    let mut before = f64::INFINITY;
    let sizes = [
        (3.1, "i3row"),
        (4.3, "i4g64"),
        (4.6, "i4g32"),
        (5.3, "i5g64"),
        (6.4, "i6g64"),
        (8.6, "i8g32"),
    ];
    for (bits, uniform) in sizes {
        let line = format!("--budget bpw={bits} --calib CALIB --calib-tokens 4096");
        let found = bench.eval(&line);
        let stored = found["bits_per_weight"].as_f64().unwrap();
        // Weights begin at cache lines, panels are whole: not all of that is in the budget.
        assert!(stored < bits * 1.01 && stored > bits - 0.4, "{stored} of {bits}");
        assert!(kl(&found) < before, "{bits} bits: {} after {before}", kl(&found));
        before = kl(&found);
        let recipe = bench.path("uniform.toml");
        fs::write(&recipe, format!("[weights]\n\"*\" = \"{uniform}\"\n")).unwrap();
        let same = bench.eval(&format!("--recipe {recipe} --calib CALIB --calib-tokens 4096"));
        assert!(same["bits_per_weight"].as_f64().unwrap() < bits * 1.01);
        assert!(kl(&found) <= kl(&same), "{bits} bits: {}, {uniform} {}", kl(&found), kl(&same));
    }
    assert_eq!(bench.kept("losses").len(), 1, "losses are measured once");
}

#[test]
fn what_a_token_may_cost_decides_too() {
    let bench = Bench::new("shakespeare");
    let bits = |budget: &str| {
        let line = format!("--budget {budget} --calib CALIB --calib-tokens 2048 --round mse");
        bench.eval(&line)["bits_per_weight"].as_f64().unwrap()
    };
    // A megabyte at a gigabyte a second.
    let same = [bits("latency=1ms@1GB/s"), bits("energy=100uJ@100pJ/B"), bits("size=1M,ppl=+20%")];
    assert!((same[0] - same[1]).abs() < 1e-9 && (same[0] - same[2]).abs() < 0.1, "{same:?}");
    assert!(bits("latency=1.2ms@1GB/s") > same[0]);
    // What two calls in a row read stays near: as much time leaves room for more bits.
    let bench = Bench::new("shakespeare-shared");
    let bits = |cache: &str| {
        let line = format!("--budget latency=0.7ms@1GB/s,cache={cache} --calib CALIB");
        let line = format!("{line} --calib-tokens 2048 --round mse");
        bench.eval(&line)["bits_per_weight"].as_f64().unwrap()
    };
    assert!(bits("1M") > bits("1k"));
}

#[test]
fn a_recipe_that_was_written_is_read_back() {
    let bench = Bench::new("shakespeare");
    let (model, out) = (bench.path("model"), bench.path("out"));
    let calib = bench.path("calib.txt");
    let build = |args: &[&str]| {
        let base = ["build", &model, "-o", &out, "--name", "m", "--emit", "recipe,weights"];
        let ended = ingot(&[&base[..], args].concat());
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let file = |name: &str| fs::read(Path::new(&out).join(name)).unwrap();
        (file("m.recipe.toml"), file("m.weights"))
    };
    let calibrated = ["--calib", &calib, "--calib-tokens", "2048"];
    let budgeted = build(&[&["--budget", "bpw=5"][..], &calibrated].concat());
    let kept = bench.path("kept.toml");
    fs::write(&kept, &budgeted.0).unwrap();
    let again = build(&[&["--recipe", &kept][..], &calibrated].concat());
    assert!(budgeted == again, "the same recipe gives the same bytes");
    let pinned = bench.path("pinned.toml");
    fs::write(&pinned, "[weights]\n\"*\" = \"i4g32\"\n\"l0.*\" = \"i8row\"\nembed = \"f16\"\n")
        .unwrap();
    let text = String::from_utf8(build(&["--recipe", &pinned]).0).unwrap();
    assert!(text.contains("\"embed\" = \"f16\"\n\"l0.wq\" = \"i8row\""), "{text}");
    assert!(text.contains("\"l1.wq\" = \"i4g32\""), "{text}");
}

#[test]
fn of_several_formats_each_matrix_has_the_one_that_loses_least() {
    let bench = Bench::new("shakespeare");
    let (model, recipe) = (bench.path("model"), bench.path("r.toml"));
    let floats = ["e3m0g32", "e2m1g32", "e1m2g32"];
    let lost = |formats: &str| {
        fs::write(&recipe, format!("[weights]\n\"*\" = {formats}\n")).unwrap();
        kl(&bench.eval(&format!("--recipe {recipe} --calib CALIB --calib-tokens 2048")))
    };
    let one = floats.map(|format| lost(&format!("\"{format}\"")));
    let chosen = lost(&format!("{floats:?}"));
    assert!(one.iter().all(|one| chosen <= *one), "{chosen} against {one:?}");

    let out = bench.path("out");
    let build = ["build", &model, "-o", &out, "--name", "m", "--emit", "recipe"];
    let open = ["--recipe", &recipe];
    let ended = ingot(&[&build[..], &open].concat());
    assert!(ended.code == 1 && ended.stderr.contains("a calibration text"), "{}", ended.stderr);
    let calib = ["--calib", "self", "--calib-tokens", "512"];
    assert_eq!(ingot(&[&build[..], &open, &calib].concat()).code, 0);
    let settled = fs::read_to_string(Path::new(&out).join("m.recipe.toml")).unwrap();
    let formats = |line: &str| line.split('"').nth(3).map(str::to_string);
    let settled: Vec<String> = settled.lines().skip(2).filter_map(formats).collect();
    assert!(settled.iter().all(|format| floats.contains(&&format[..])), "{settled:?}");
}

#[test]
fn a_star_does_not_mean_what_a_pass_made() {
    let bench = Bench::new("shakespeare");
    let (model, recipe, out) = (bench.path("model"), bench.path("r.toml"), bench.path("out"));
    let build = ["build", &model, "-o", &out, "--name", "m", "--emit", "recipe"];
    let rotated = ["--recipe", &recipe, "--rotate", "hadamard"];
    for (more, middle) in [("", "i8g64"), ("\"middle\" = \"i4g32\"\n", "i4g32")] {
        fs::write(&recipe, format!("[weights]\n\"*\" = \"i4g32\"\n{more}")).unwrap();
        assert_eq!(ingot(&[&build[..], &rotated].concat()).code, 0);
        let resolved = fs::read_to_string(Path::new(&out).join("m.recipe.toml")).unwrap();
        assert!(resolved.contains(&format!("\"middle\" = \"{middle}\"")), "{resolved}");
        assert!(resolved.contains("\"embed\" = \"i4g32\""), "{resolved}");
    }
}

#[test]
fn opt_calibrates_as_build_does() {
    let bench = Bench::new("shakespeare");
    let (model, out) = (bench.path("model"), bench.path("out"));
    let flags = ["--quant", "w8a8", "--kv", "i8", "--smooth", "0.5", "--activations", "static"];
    let calibrated = ["--calib", "self", "--calib-tokens", "512", "--round", "nearest"];
    let flags = [&flags[..], &calibrated].concat();
    let build = ["build", &model, "-o", &out, "--name", "m", "--emit", "ir"];
    assert_eq!(ingot(&[&build[..], &flags].concat()).code, 0);
    let built = fs::read_to_string(Path::new(&out).join("m.ingot")).unwrap();
    assert!(built.contains("factors \"") && built.contains("round(i8row, nearest)"), "{built}");
    assert_eq!(ingot(&[&["opt", &model][..], &flags].concat()).stdout, built);
}

#[test]
fn recipes_leave_activations_in_floats_where_the_preset_does() {
    let bench = Bench::new("shakespeare");
    let (model, out, recipe) = (bench.path("model"), bench.path("out"), bench.path("r.toml"));
    fs::write(&recipe, "[weights]\n\"*\" = \"i4g32\"\n").unwrap();
    for (quant, rows) in [("f16", true), ("w8a8", true), ("w8a16", false)] {
        let args = ["build", &model, "-o", &out, "--name", "m", "--emit", "ir"];
        let ended = ingot(&[&args[..], &["--recipe", &recipe, "--quant", quant]].concat());
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let built = fs::read_to_string(Path::new(&out).join("m.ingot")).unwrap();
        assert!(built.contains("cast(i4g32)"), "{built}");
        assert_eq!(built.contains("quant_rows"), rows, "{quant}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::new("shakespeare");
    let (model, calib, recipe) =
        (bench.path("model"), bench.path("calib.txt"), bench.path("r.toml"));
    fs::write(&recipe, "[weights]\n\"l7.*\" = \"f16\"\n").unwrap();
    let refused = |args: &[&str], code: i32, words: &str| {
        let ended = ingot(&[&["eval", &model, "--text", &calib][..], args].concat());
        assert!(ended.code == code && ended.stderr.contains(words), "{args:?}: {}", ended.stderr);
    };
    refused(&["--budget", "bpw=2", "--calib", &calib], 4, "error[IG0506]: a budget of ");
    let token = ["latency=1us@20GB/s", "energy=1uJ@100pJ/B"];
    for (budget, unit) in token.iter().zip(["ms a token", "mJ a token"]) {
        let args = ["--budget", budget, "--calib", &calib];
        refused(&args, 4, "error[IG0506]: a budget of 0.001");
        refused(&args, 4, unit);
    }
    let tight = ["--budget", "bpw=4.3,ppl=+0.01%", "--calib", &calib, "--round", "nearest"];
    refused(&tight, 4, "error[IG0508]: perplexity");
    refused(&["--recipe", &recipe], 1, "the recipe's `l7.*` is the name of no matrix");
    refused(&["--quant", "w4a8", "--round", "gptq,often"], 2, "gptq has no `often`");
}
