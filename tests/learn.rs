//! Rotations that are learned, on a model that was trained.

use ingot::frontend;
use ingot_tests::model::{shipped, tokens};
use ir::Levels;
use passes::learn::{Learning, Run, Seen, Texts, learn};
use passes::simulate::Simulation;
use passes::{Context, fold_norms, rotate, simulate};

/// The run after each step, and what its window lost before it.
fn learned(steps: usize) -> Vec<(Run, f64)> {
    let checkpoint = frontend::open(&shipped("examples/models/shakespeare")).expect("it ships");
    let original = checkpoint.module;
    let mut module = original.clone();
    let four = Some(Levels::Even(4));
    let simulate = Some(Simulation { rows: four, cache: four, fixed: false });
    let context = Context { simulate, blobs: Some(&checkpoint.blobs), ..Context::default() };
    fold_norms::run(&mut module, &context).expect("norms fold");
    rotate::run(&mut module, &context).expect("it turns");
    simulate::run(&mut module, &context).expect("rows are f32");
    let windows = [tokens(&module, 48).into_iter().map(|t| t as i32).collect()];
    let texts = Texts { fitted: &windows, held: &windows };
    let mut runs = vec![];
    let mut seen = |seen: Seen<'_>| runs.push((seen.run.clone(), seen.loss));
    let how = Learning { steps, rate: 0.02 };
    let end = learn(&module, &original, &checkpoint.blobs, texts, how, None, &mut seen);
    assert_eq!(end.expect("it learns"), runs.last().expect("there are steps").0.best);
    runs
}

#[test]
fn learning_loses_less_than_where_it_starts() {
    let runs = learned(12);
    let (start, end) = (runs[0].1, runs.last().expect("twelve").0.least);
    assert!(end < 0.9 * start, "{end} nats, {start} before");
}

#[test]
fn rotations_stay_rotations_and_move() {
    let runs = learned(4);
    assert_eq!(runs.len(), 4);
    assert!(runs.iter().all(|(_, loss)| (1e-3..1.0).contains(loss)), "{runs:?}");
    for ((name, before), (_, after)) in runs[0].0.now.iter().zip(&runs[3].0.now) {
        let n = after.dims[0] as usize;
        let rows: Vec<&[f32]> = after.data.chunks(n).collect();
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let dot: f32 = a.iter().zip(*b).map(|(a, b)| a * b).sum();
                let off = (dot - f32::from(u8::from(i == j))).abs();
                assert!(off < 1e-5, "{name}: rows {i} and {j} are {off} off");
            }
        }
        let moved = before.data.iter().zip(&after.data).map(|(a, b)| (a - b).abs());
        assert!(moved.fold(0.0, f32::max) > 1e-3, "{name} stays where it was");
    }
}

#[test]
fn threads_change_no_bit() {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads").install(|| learned(3))
    };
    assert_eq!(with(1), with(3));
}
