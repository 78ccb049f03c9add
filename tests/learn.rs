//! Rotations that are learned, on a model that was trained.

use ingot::frontend;
use ingot_tests::model::{shipped, tokens};
use passes::learn::{Learning, learn};
use passes::simulate::Simulation;
use passes::{Context, fold_norms, rotate, simulate};

#[test]
fn learning_lowers_what_four_bits_lose() {
    let checkpoint = frontend::open(&shipped("examples/models/shakespeare")).expect("it ships");
    let original = checkpoint.module;
    let mut module = original.clone();
    let simulate = Some(Simulation { rows: Some(4), ..Simulation::default() });
    let context = Context { simulate, blobs: Some(&checkpoint.blobs), ..Context::default() };
    fold_norms::run(&mut module, &context).expect("norms fold");
    rotate::run(&mut module, &context).expect("it turns");
    simulate::run(&mut module, &context).expect("rows are f32");
    let window = tokens(&module, 48).into_iter().map(|t| t as i32).collect();
    let mut losses = vec![];
    let mut seen = |_, loss, _: &_| losses.push(loss);
    let how = Learning { steps: 30, rate: std::env::var("RATE").map_or(0.1, |r| r.parse().unwrap()) };
    learn(&module, &original, &checkpoint.blobs, &[window], how, None, &mut seen)
        .expect("it learns");
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (early, late) = (losses[0], mean(&losses[25..]));
    assert!(late < early * 0.8, "from {early} to {late}: {losses:?}");
}
