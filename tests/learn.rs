//! Rotations that are learned, on a model that was trained.

use ingot::frontend;
use ingot_tests::model::{shipped, tokens};
use passes::learn::{Learned, Learning, learn};
use passes::simulate::Simulation;
use passes::{Context, fold_norms, rotate, simulate};

fn learned(steps: usize) -> (Learned, Vec<f64>) {
    let checkpoint = frontend::open(&shipped("examples/models/shakespeare")).expect("it ships");
    let original = checkpoint.module;
    let mut module = original.clone();
    let simulate = Some(Simulation { rows: Some(4), cache: Some(4), ..Simulation::default() });
    let context = Context { simulate, blobs: Some(&checkpoint.blobs), ..Context::default() };
    fold_norms::run(&mut module, &context).expect("norms fold");
    rotate::run(&mut module, &context).expect("it turns");
    simulate::run(&mut module, &context).expect("rows are f32");
    let window = tokens(&module, 48).into_iter().map(|t| t as i32).collect();
    let mut losses = vec![];
    let mut seen = |_, loss, _: &Learned| losses.push(loss);
    let how = Learning { steps, rate: 0.1 };
    let end = learn(&module, &original, &checkpoint.blobs, &[window], how, None, &mut seen);
    (end.expect("it learns"), losses)
}

#[test]
fn rotations_stay_rotations_and_move() {
    let ((start, _), (end, losses)) = (learned(0), learned(4));
    assert_eq!(losses.len(), 4);
    assert!(losses.iter().all(|loss| (1e-3..1.0).contains(loss)), "{losses:?}");
    for ((name, before), (_, after)) in start.iter().zip(&end) {
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
