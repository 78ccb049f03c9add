//! Passes that claim to be exact: each alone and every pair, in the interpreter and in emitted code.

use ingot::frontend;
use ingot::model::prepare;
use ingot::session::Session;
use ingot_tests::folder;
use ingot_tests::lab::MadeUp;
use ingot_tests::machine::Machine;
use ingot_tests::model::{SHIPPED, distance, flags, shipped, tokens};
use ir::random::mix;
use ir::sample::{Sample, Seeded};
use ir::{Blobs, DType, Interpreter, Module};
use passes::factors::{Smoothing, Strength};
use passes::rotate::{Matrices, Rotations};
use passes::{Context, PASSES, Pass};
use runtime::Options;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use targets::pack::WeightLayout;

/// A transform: the pass, and what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Transform {
    Share,
    FoldNorms,
    Inner,
    Values,
    R1,
    R2,
    R3,
    R4,
    Norms,
}

use Transform::{FoldNorms, Inner, Norms, R1, R2, R3, R4, Share, Values};

const ALL: [Transform; 9] = [Share, FoldNorms, Inner, Values, R1, R2, R3, R4, Norms];

/// The passes that some transforms need, and the context that asks for no others.
fn asked(transforms: &BTreeSet<Transform>) -> (Vec<&'static Pass>, Context<'static>) {
    let has = |t| transforms.contains(&t);
    let names = transforms.iter().flat_map(|t| match t {
        Share => vec!["share"],
        FoldNorms => vec!["fold_norms"],
        Inner | Values => vec!["local_scales"],
        R1 => vec!["fold_norms", "rotate"],
        R2 => vec!["rotate"],
        R3 | R4 => vec!["hadamards"],
        Norms => vec!["smooth"],
    });
    let names: BTreeSet<&str> = names.collect();
    let context = Context {
        rotate: Some(Rotations {
            matrices: Matrices::Hadamard { seed: 5 },
            residual: has(R1),
            values: has(R2),
            keys: has(R3),
            inner: has(R4),
        }),
        smooth: Some(Smoothing {
            strength: Strength::Alpha(0.5),
            norms: has(Norms),
            inner: has(Inner),
            values: has(Values),
        }),
        ..Context::default()
    };
    (PASSES.iter().filter(|pass| names.contains(pass.name)).collect(), context)
}

fn transformed(module: &Module, blobs: &dyn Blobs, transforms: &BTreeSet<Transform>) -> Module {
    let lab = MadeUp { blobs };
    let (chosen, context) = asked(transforms);
    let context = Context { blobs: Some(blobs), lab: Some(&lab), ..context };
    let mut module = module.clone();
    passes::run(&mut module, &chosen, &context, &mut |_| ControlFlow::Continue(()))
        .unwrap_or_else(|e| panic!("{transforms:?}: {e}"));
    module
}

/// Sets of one and of two transforms.
fn sets() -> Vec<BTreeSet<Transform>> {
    let pairs = ALL.iter().flat_map(|&a| ALL.iter().map(move |&b| BTreeSet::from([a, b])));
    pairs.collect::<BTreeSet<_>>().into_iter().collect()
}

fn samples() -> Vec<(&'static str, Sample)> {
    let base = Sample {
        head: 8,
        width: 36,
        inner: 44,
        vocab: 77,
        dtype: DType::F32,
        cache: DType::F32,
        ..Sample::default()
    };
    let shared = Sample { layers: 4, shared: 2, ..base.clone() };
    let (dtype, cache) = (base.dtype, base.cache);
    let [gemma, gemma2] = [Sample::gemma(), Sample::gemma2()].map(|sample| Sample {
        head: 8,
        width: 36,
        inner: 44,
        vocab: 77,
        dtype,
        cache,
        ..sample
    });
    vec![
        ("plain", base.clone()),
        ("bias", Sample { bias: true, ..base.clone() }),
        ("qk norm", Sample { qk_norm: true, ..base.clone() }),
        ("untied", Sample { tied: false, ..base.clone() }),
        ("repeated", Sample { repeated: true, ..shared.clone() }),
        ("shared", shared),
        ("gemma", gemma),
        ("gemma 2", gemma2),
    ]
}

fn interpreted(module: &Module, blobs: &dyn Blobs) -> Vec<f32> {
    let mut interpreter = Interpreter::new(module, blobs).expect("runs");
    let all = interpreter.run(&tokens(module, 21)).expect("fits");
    all[all.len() - module.meta.vocab as usize..].to_vec()
}

fn emitted(module: &Module, blobs: &dyn Blobs) -> Vec<f32> {
    let options = Options { chunk: 8, max_workers: 4, ..Options::default() };
    let target = Machine::host().target("native");
    let mut session = Session::new(module, blobs, &target, &options, 2, &|_| {}).expect("compiles");
    session.reset().expect("starts");
    let prompt: Vec<i32> = tokens(module, 21).iter().map(|&t| t as i32).collect();
    session.prefill(&prompt).expect("fits");
    session.logits().expect("there are logits").to_vec()
}

#[test]
fn alone_and_in_pairs_the_interpreter_gives_the_same_logits() {
    for (name, sample) in samples() {
        let module = sample.module().expect("a valid sample");
        let blobs = Seeded::new(&module, 7);
        let expected = interpreted(&module, &blobs);
        // Norms after sub-layers leave no place for R1, which is refused.
        for set in sets().into_iter().filter(|set| !sample.sandwich || !set.contains(&R1)) {
            let after = transformed(&module, &blobs, &set);
            let moved = distance(&interpreted(&after, &blobs), &expected);
            assert!(moved < 1e-4, "{name} {set:?}: {moved}");
            // What should change something did.
            let same = set.iter().all(|t| *t == Share) && name != "repeated";
            assert_eq!(after == module, same, "{name} {set:?}");
        }
    }
}

#[test]
fn alone_and_in_pairs_emitted_code_gives_the_same_logits() {
    for (name, sample) in
        samples().into_iter().filter(|(name, _)| ["bias", "shared", "gemma"].contains(name))
    {
        let module = sample.module().expect("a valid sample");
        let blobs = Seeded::new(&module, 7);
        let expected = interpreted(&module, &blobs);
        for set in sets().into_iter().filter(|set| !sample.sandwich || !set.contains(&R1)) {
            let after = transformed(&module, &blobs, &set);
            let moved = distance(&emitted(&after, &blobs), &expected);
            assert!(moved < 1e-4, "{name} {set:?}: {moved}");
        }
    }
}

#[test]
fn all_at_once_on_models_that_ship() {
    for path in SHIPPED.map(shipped) {
        let checkpoint = frontend::open(&path).expect("a model that ships");
        let (module, blobs) = (checkpoint.module, checkpoint.blobs);
        let expected = interpreted(&module, &blobs);
        let after = transformed(&module, &blobs, &ALL.into());
        for found in [interpreted(&after, &blobs), emitted(&after, &blobs)] {
            let moved = distance(&found, &expected);
            assert!(moved < 1e-4, "{}: {moved}", path.display());
        }
    }
}

/// Writes f32 tensors as a safetensors file.
fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<u8>)]) {
    let view = |(name, shape, bytes): &'_ (String, Vec<usize>, Vec<u8>)| {
        (name.clone(), shape.clone(), bytes.clone())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views = owned.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    serialize_to_file(views, None, path).expect("a file can be written");
}

/// A product of reflections.
fn orthogonal(n: usize, seed: u64) -> Vec<u8> {
    let mut matrix: Vec<f64> = (0..n * n).map(|i| f64::from(i / n == i % n)).collect();
    for reflection in 0..3 {
        let random = |i: usize| mix(seed ^ (reflection * 1000 + i as u64)) as f64 / 2f64.powi(64);
        let v: Vec<f64> = (0..n).map(|i| random(i) - 0.5).collect();
        let length: f64 = v.iter().map(|x| x * x).sum();
        for row in matrix.chunks_mut(n) {
            let dot: f64 = row.iter().zip(&v).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(&v).for_each(|(x, v)| *x -= 2.0 * dot / length * v);
        }
    }
    matrix.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()
}

#[test]
fn rotations_come_from_a_file() {
    let dir = folder();
    let file = dir.path().join("rotations.safetensors");
    let model = shipped(SHIPPED[0]);
    let plain = "--quant f32 --kv f32";
    let before = prepare(&flags(&model, dir.path(), plain).model).expect("a model that ships");
    let expected = interpreted(&before.module, &before.blobs);
    let values = (0..3)
        .map(|l| (format!("model.layers.{l}.self_attn.R2"), vec![32, 32], orthogonal(32, 10 + l)));
    let tensors: Vec<_> =
        values.chain([("R1".to_string(), vec![192, 192], orthogonal(192, 1))]).collect();
    let line = format!("{plain} --rotate {}", file.display());
    let open = |tensors: &[(String, Vec<usize>, Vec<u8>)]| {
        write(&file, tensors);
        prepare(&flags(&model, dir.path(), &line).model)
    };
    let after = open(&tensors).expect("a rotation");
    assert!(after.module.to_string().contains("= blob \"R1\""));
    let moved = distance(&interpreted(&after.module, &after.blobs), &expected);
    assert!(moved < 1e-4, "{moved}");

    let refused = |tensors: &[(String, Vec<usize>, Vec<u8>)]| {
        open(tensors).map(|_| ()).expect_err("no rotation").to_string()
    };
    let error = refused(&tensors[..2]);
    assert!(error.contains("the file of rotations has none for the residual stream"), "{error}");
    let mut bent = tensors.clone();
    bent[3].2[0] ^= 1;
    bent[3].2[2] = 0x80;
    let error = refused(&bent);
    assert!(error.contains("IG0212") && error.contains("from the identity"), "{error}");
    let error = refused(&[("R1".into(), vec![96, 384], orthogonal(192, 1))]);
    assert!(error.contains("expected a square"), "{error}");
    let error = refused(&[("x".into(), vec![4, 4], orthogonal(4, 1))]);
    assert!(error.contains("the file holds no rotation"), "{error}");
    let error = refused(&[("R1".into(), vec![64, 64], orthogonal(64, 1))]);
    assert!(error.contains("R1 is of order 64, the residual stream is 192 wide"), "{error}");
}

/// The model with shared layers as a checkpoint without sharing: each layer twice, a head of its own.
fn unrolled(dir: &Path) -> PathBuf {
    let from = shipped(SHIPPED[1]);
    let text = std::fs::read_to_string(from.join("config.json")).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (key, value) in [("layer_sharing", false), ("share_embedding", false)] {
        config[key] = value.into();
    }
    config["num_hidden_layers"] = 4.into();
    std::fs::write(dir.join("config.json"), config.to_string()).expect("it can be written");
    std::fs::copy(from.join("tokenizer.json"), dir.join("tokenizer.json")).expect("a copy");
    let source = frontend::open(&from).expect("a model that ships").blobs;
    let mut tensors = vec![];
    for (name, _) in source.tensors() {
        let tensor = source.load(name).expect("a tensor");
        let shape: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
        let bytes: Vec<u8> = tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        let names = match name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => {
                let layer: u64 = layer.parse().expect("a number");
                [0, 1].map(|call| format!("model.layers.{}.{rest}", 2 * layer + call)).to_vec()
            }
            None if name.contains("embed_tokens") => vec![name.into(), "lm_head.weight".into()],
            None => vec![name.into()],
        };
        tensors.extend(names.into_iter().map(|name| (name, shape.clone(), bytes.clone())));
    }
    write(&dir.join("model.safetensors"), &tensors);
    dir.to_path_buf()
}

#[test]
fn unrolled_layers_are_found_to_be_shared() {
    let dir = folder();
    let checkpoint = frontend::open(&unrolled(dir.path())).expect("a checkpoint");
    let (module, blobs) = (checkpoint.module, checkpoint.blobs);
    let after = transformed(&module, &blobs, &[Share].into());
    let known = frontend::open(&shipped(SHIPPED[1])).expect("a model that ships").module;
    let bytes = |m: &Module| WeightLayout::new(m, targets::Arch::HOST).bytes;
    let layers = |m: &Module| m.weights.iter().filter(|w| w.name.starts_with('l')).count();
    assert_eq!((bytes(&after), layers(&after)), (bytes(&known), layers(&known)));
    assert_eq!(2 * layers(&after), layers(&module));
    assert!(2 * bytes(&after) - bytes(&module) < 8192, "{} {}", bytes(&after), bytes(&module));
    let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    assert_eq!(bits(interpreted(&after, &blobs)), bits(interpreted(&module, &blobs)));
    assert_eq!(bits(emitted(&after, &blobs)), bits(emitted(&module, &blobs)));
    // Both turn as one.
    let turned = transformed(&module, &blobs, &[Share, R1, R2].into());
    let moved = distance(&interpreted(&turned, &blobs), &interpreted(&module, &blobs));
    assert!(moved < 1e-4, "{moved}");
}
