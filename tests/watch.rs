//! What is seen of a running model: rows of values, statistics of them.

use ingot::calib::observe::observe;
use ingot::watch::Watched;
use ingot_tests::machine::Machine;
use ir::sample::{Sample, Seeded};
use ir::weights::materialise;
use ir::{DType, GraphId, Interpreter, Module};
use passes::stats::{Site, inputs_of, sites};
use std::ops::ControlFlow;
use targets::Target;

fn sample() -> Sample {
    Sample { head: 8, width: 36, inner: 44, vocab: 77, layers: 3, ..Sample::default() }
}

fn target() -> Target {
    Machine::host().target("native")
}

fn site(module: &Module, graph: &str, value: &str, call: u32) -> Site {
    let id = module.graph_named(graph).expect("a graph of the sample");
    let values = &module.graph(id).values;
    let at = values.iter().position(|v| v.name == value).expect("a value of the graph");
    Site { graph: id, value: ir::ValueId(at as u32), call }
}

fn tokens(n: i32) -> Vec<i32> {
    (0..n).map(|i| (i * 29 + 5) % 77).collect()
}

#[test]
fn rows_of_the_head_are_the_logits_of_every_token() {
    let module = sample().module().expect("a valid sample");
    let blobs = Seeded::new(&module, 7);
    let logits = site(&module, "head", "logits", 0);
    for threads in [1, 3] {
        let mut watched =
            Watched::new(&module, &blobs, &target(), &[logits], threads).expect("compiles");
        watched.reset().expect("starts");
        let seen = watched.run(&tokens(9)).expect("fits").remove(&logits).expect("was watched");
        let mut interpreter = Interpreter::new(&module, &blobs).expect("valid");
        for (t, row) in tokens(9).iter().zip(seen.chunks(77)) {
            let expected = interpreter.run(&[*t as u32]).expect("fits");
            let off = row.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "{off} at token {t}");
        }
    }
}

#[test]
fn calls_of_one_graph_are_told_apart() {
    let module = sample().module().expect("a valid sample");
    let blobs = Seeded::new(&module, 7);
    let watched: Vec<Site> = (0..3).map(|call| site(&module, "block", "x", call)).collect();
    let mut host = Watched::new(&module, &blobs, &target(), &watched, 2).expect("compiles");
    host.reset().expect("starts");
    let seen = host.run(&tokens(20)).expect("fits");
    let table = materialise(&module, ir::WeightId(0), &blobs).expect("loads");
    let embedded: Vec<f32> =
        tokens(20).iter().flat_map(|&t| table.data[t as usize * 36..][..36].to_vec()).collect();
    assert_eq!(seen[&watched[0]], embedded);
    assert_ne!(seen[&watched[1]], seen[&watched[2]]);
}

#[test]
fn statistics_look_through_what_is_rounded() {
    let float = Sample { dtype: DType::F32, cache: DType::F32, width: 64, inner: 64, ..sample() };
    let module = float.module().expect("a valid sample");
    let context = passes::Context {
        weights: DType::from_name("i4g32"),
        activation_group: Some(32),
        cache: Some(DType::F32),
        ..passes::Context::default()
    };
    let mut quantised = module.clone();
    let wanted: Vec<&passes::Pass> =
        passes::PASSES.iter().filter(|pass| pass.is_wanted(&context)).collect();
    passes::run(&mut quantised, &wanted, &context, &mut |_| ControlFlow::Continue(()))
        .expect("runs");
    let blobs = Seeded::new(&module, 7);
    let windows = [tokens(40), tokens(11)];
    let of = |module: &Module| {
        let sites = sites(module);
        let stats = observe(module, &blobs, &target(), &windows, &sites, true, 2).expect("runs");
        stats.sites.into_values().collect::<Vec<_>>()
    };
    let (plain, through) = (of(&module), of(&quantised));
    // Three layers of four products' inputs, and the head's.
    assert_eq!(plain.len(), 3 * 4 + 1);
    assert_eq!(plain, through);
    assert!(plain.iter().all(|moments| moments.rows == 51));
}

#[test]
fn a_shared_weight_has_a_site_for_every_call() {
    let module = Sample { shared: 3, ..sample() }.module().expect("a valid sample");
    let weight = module.weight_named("l0.down").expect("a weight of the sample");
    let calls: Vec<u32> = inputs_of(&module, weight).iter().map(|site| site.call).collect();
    assert_eq!(calls, [0, 1, 2]);
    assert!(inputs_of(&module, weight).iter().all(|site| site.graph == GraphId(0)));
}
