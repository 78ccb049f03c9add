//! Random modules, random damage: what is valid survives print and parse, and nothing panics.

use ir::sample::{Sample, Seeded};
use ir::*;
use proptest::prelude::*;

fn scalings() -> impl Strategy<Value = RopeScaling> {
    prop_oneof![
        Just(RopeScaling::None),
        (1.0..64.0f64).prop_map(|factor| RopeScaling::Linear { factor }),
        (1.0..64.0f64, 0.1..1.0f64, 1.1..9.0f64, 1..9999u64).prop_map(
            |(factor, low, high, original)| RopeScaling::Llama3 { factor, low, high, original }
        ),
    ]
}

fn samples() -> impl Strategy<Value = Sample> {
    let sizes = (3..99u64, 1..99u64, 1..40u64, 1..40u64);
    let heads = (1..4u64, 1..4u64, 1..5u64);
    let layers = (0..4u64, 1..3u64);
    let dtypes = proptest::sample::select(vec![DType::F32, DType::F16, DType::BF16]);
    let caches = proptest::sample::select(vec![DType::F32, DType::F16]);
    let flags = any::<(bool, bool, bool, bool)>();
    let gates = proptest::sample::select(Gate::ALL.to_vec());
    let windows = proptest::option::of(1..20u64);
    let caps = proptest::option::of((0.1..9.0f64, 0.1..90.0f64));
    let gemma = (gates, any::<bool>(), proptest::option::of(0.1..9.0f64), windows, caps);
    (sizes, heads, layers, dtypes, caches, flags, scalings(), gemma).prop_map(
        |(sizes, heads, layers, dtype, cache, flags, scaling, gemma)| Sample {
            vocab: sizes.0,
            context: sizes.1,
            width: sizes.2,
            inner: sizes.3,
            heads: heads.0 * heads.1,
            kv_heads: heads.0,
            head: 2 * heads.2,
            layers: layers.0,
            shared: layers.1,
            repeated: flags.0,
            bias: flags.1,
            qk_norm: flags.2,
            tied: flags.3,
            dtype,
            cache,
            scaling,
            gate: gemma.0,
            sandwich: gemma.1,
            embed_scale: gemma.2,
            window: gemma.3,
            score_cap: gemma.4.map(|caps| caps.0),
            logit_cap: gemma.4.map(|caps| caps.1),
        },
    )
}

fn sound(module: &Module) {
    let text = module.to_string();
    let parsed = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(parsed, *module);
    assert_eq!(parsed.to_string(), text);
}

/// Everything that must take any module whatever.
fn nothing_panics(module: &Module) -> bool {
    let valid = verify(module).is_ok();
    let _ = module.to_string();
    let _ = def_use::dot(module);
    for graph in &module.graphs {
        let _ = (def_use::dead(graph), def_use::is_ordered(graph));
        def_use::renumber(&mut graph.clone());
    }
    if valid {
        sound(module);
    }
    valid
}

/// One random handle, type or number of a module is replaced.
fn damage(module: &mut Module, which: u32, place: usize, value: u32) {
    let value = if value & 1 == 0 { value >> 1 } else { (value >> 1) % 24 };
    let count = module.graphs.len();
    let graph = &mut module.graphs[place % count];
    let inst = place / count % graph.insts.len().max(1);
    match which % 12 {
        0 => graph.result = ValueId(value),
        1 => graph.params.push(Param::Cache(value)),
        2 => graph.params.insert(0, Param::Value(ValueId(value))),
        3 => drop(graph.values.pop()),
        4 => drop(graph.weights.pop()),
        5 => graph.name = "model".to_string(),
        6 => module.caches.truncate(value as usize % 2),
        7 => module.weights.truncate(value as usize % 8),
        8 => module.weights[0].dims[0] = u64::from(value).wrapping_mul(u64::from(value) << 33),
        _ if graph.insts.is_empty() => {}
        9 => graph.insts[inst].result = ValueId(value),
        10 => graph.insts[inst].op = Op::Call(GraphId(value)),
        _ => {
            let args = &mut graph.insts[inst].args;
            let arg = match value % 5 {
                0 => Arg::Value(ValueId(value / 5)),
                1 => Arg::Weight(WeightId(value / 5)),
                2 => Arg::FormalWeight(value / 5),
                3 => Arg::Cache(CacheId(value / 5)),
                _ => Arg::FormalCache(value / 5),
            };
            let i = value as usize % (args.len() + 1);
            if i == args.len() { args.push(arg) } else { args[i] = arg }
        }
    }
}

/// A source or a step with random numbers in it; most do not fit where they are put.
fn sources() -> impl Strategy<Value = Source> {
    prop_oneof![
        any::<Option<u64>>().prop_map(|seed| Source::Hadamard { seed }),
        Just(Source::Eye),
        Just(Source::Ones),
        any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(Source::Full),
        proptest::collection::vec(-47..=46i8, 0..5).prop_map(Source::Factors),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let side = proptest::sample::select(vec![Side::In, Side::Out]);
    prop_oneof![
        (side.clone(), 0..30u32, any::<bool>()).prop_map(|(side, by, inverse)| Step::Scale {
            side,
            by: WeightId(by),
            inverse
        }),
        (side, 0..30u32).prop_map(|(side, by)| Step::Rotate { side, by: WeightId(by) }),
        (0..5u64, 0..4u64).prop_map(|(block, times)| Step::Repeat { block, times }),
        (0..4u64).prop_map(|heads| Step::Unpermute { heads }),
        (0..3u64).prop_map(|by| Step::Plus { by }),
        Just(Step::Cast(DType::F32)),
    ]
}

proptest! {
    #[test]
    fn random_histories_do_not_panic(
        made in proptest::collection::vec((sources(), 1..3usize), 0..6),
        steps in proptest::collection::vec((0..30usize, steps()), 0..6),
    ) {
        let sample = Sample { width: 4, head: 2, heads: 2, dtype: DType::F32, ..Sample::default() };
        let mut module = sample.module().unwrap();
        for (i, (source, rank)) in made.into_iter().enumerate() {
            let (name, dims) = (format!("made{i}"), vec![4; rank]);
            module.add_weight(Weight { name, dtype: DType::F32, dims, source, via: vec![] });
        }
        for (at, step) in steps {
            let count = module.weights.len();
            module.weights[at % count].via.push(step);
        }
        if nothing_panics(&module) {
            uses::sweep(&mut module);
            sound(&module);
            let blobs = Seeded::new(&module, 1);
            if let Ok(mut interpreter) = Interpreter::new(&module, &blobs) {
                interpreter.run(&[0]).unwrap();
            }
        }
    }

    #[test]
    fn valid_modules_print_parse_and_verify(sample in samples()) {
        let module = sample.module().unwrap();
        verify(&module).unwrap_or_else(|v| panic!("{v:?}\n{module}"));
        sound(&module);
    }

    #[test]
    fn valid_modules_evaluate(sample in samples(), seed in any::<u64>()) {
        let module = sample.module().unwrap();
        let blobs = Seeded::new(&module, seed);
        let logits = Interpreter::new(&module, &blobs).unwrap().run(&[1]).unwrap();
        prop_assert!(logits.len() == module.meta.vocab as usize);
        prop_assert!(logits.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn floats_keep_their_bits(bits in any::<u64>()) {
        let eps = f64::from_bits(bits);
        prop_assume!(eps.is_finite());
        let mut module = Sample::default().module().unwrap();
        module.graphs[0].insts[0].op = Op::RmsNorm { eps, group: None };
        let parsed = parse(&module.to_string()).unwrap();
        let Op::RmsNorm { eps: found, .. } = parsed.graphs[0].insts[0].op else { panic!() };
        prop_assert_eq!(found.to_bits(), bits);
    }

    #[test]
    fn strings_keep_their_characters(
        blob in any::<String>(),
        arch in "\\PC*|[\\x00-\\x20\"\\\\]*",
    ) {
        let mut module = Sample::default().module().unwrap();
        module.weights[0].source = Source::Blob(blob);
        module.meta.arch = arch;
        sound(&module);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_tokens_do_not_panic(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "weight", "cache", "graph", "return", "blob", "via", "call", "rope", "linear",
                "f32", "kv.f16", "T", "[", "]", "(", ")", "{", "}", ":", ",", "=", "->", "\"s\"",
                "%x", "$w", "^c", "@g", "1", "1e-5", "-", "\"", "\n", ";",
            ]),
            0..60,
        )
    ) {
        let text = words.join(" ");
        let head = "ingot 1 model \"t\" {vocab = 8, context = 4, eos = []} ";
        if let Ok(module) = parse(&format!("{head}{text}")) {
            nothing_panics(&module);
        }
    }

    #[test]
    fn damaged_text_does_not_panic(
        sample in samples(),
        edits in proptest::collection::vec((any::<u32>(), any::<char>(), 0..4u32), 1..6),
    ) {
        let mut text: Vec<char> = sample.module().unwrap().to_string().chars().collect();
        for (place, c, kind) in edits {
            let i = place as usize % text.len();
            let other = text[place.reverse_bits() as usize % text.len()];
            match kind {
                0 => text[i] = c,
                1 => text[i] = other,
                2 => drop(text.remove(i)),
                _ => text.insert(i, other),
            }
        }
        if let Ok(module) = parse(&text.into_iter().collect::<String>()) {
            nothing_panics(&module);
        }
    }

    #[test]
    fn damaged_modules_do_not_panic(
        sample in samples(),
        damages in proptest::collection::vec(any::<(u32, u32, u32)>(), 1..4),
    ) {
        let mut module = sample.module().unwrap();
        for (which, place, value) in damages {
            damage(&mut module, which, place as usize, value);
            if module.weights.is_empty() {
                break;
            }
        }
        if nothing_panics(&module) {
            let blobs = Seeded::new(&module, 1);
            if let Ok(mut interpreter) = Interpreter::new(&module, &blobs) {
                interpreter.run(&[0]).unwrap();
            }
        }
    }
}
