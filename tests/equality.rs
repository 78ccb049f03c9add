//! Results that must be equal bit for bit: whatever the number of workers, the cutting of a prompt,
//! the CPU, a detour through save, load or truncate, and whether layers share weights.

use ingot::model::{Model, prepare};
use ingot::session::Session;
use ingot_tests::folder;
use ingot_tests::machine::Machine;
use ingot_tests::model::{SHIPPED, flags, shipped};
use ir::sample::{Sample, Seeded};
use ir::{Arg, Module, Op, verify};
use runtime::Options;
use std::path::Path;

/// Tokens of the prompt: more than a chunk, a panel of keys, and a block of attention.
const PROMPT: u32 = 290;
/// Tokens decoded after it.
const MORE: u32 = 4;

/// Bits of logits.
type Bits = Vec<u32>;

fn model(path: &Path, line: &str) -> Model {
    prepare(&flags(path, Path::new("unused"), line).model).expect("a model that ships")
}

fn session(model: &Model, cpu: &str, chunk: u64, workers: u32) -> Session {
    let options = Options { chunk, max_workers: 4, ..Options::default() };
    let (module, blobs) = (&model.module, &model.blobs);
    let session =
        Session::new(module, blobs, &Machine::host().target(cpu), &options, workers, &|_| {});
    session.expect("compiles")
}

fn tokens(from: u32, to: u32) -> Vec<i32> {
    (from..to).map(|i| ((i * 37 + 11) % 1000) as i32).collect()
}

fn bits(session: &Session) -> Bits {
    session.logits().expect("there are logits").iter().map(|x| x.to_bits()).collect()
}

/// Feeds the prompt to a new conversation, `at_once` tokens at a time.
fn feed(session: &mut Session, at_once: usize) {
    session.reset().expect("starts");
    for part in tokens(0, PROMPT).chunks(at_once) {
        session.prefill(part).expect("fits");
    }
}

/// Logits after the prompt and after each token decoded.
fn logits(session: &mut Session, at_once: usize) -> Vec<Bits> {
    feed(session, at_once);
    follow(session)
}

fn follow(session: &mut Session) -> Vec<Bits> {
    let mut all = vec![bits(session)];
    for token in tokens(PROMPT, PROMPT + MORE) {
        session.decode(token).expect("fits");
        all.push(bits(session));
    }
    all
}

/// Integers of 2, 3, 5 and 6 bits, and tables.
const NARROW: &str =
    concat!("--kv f16 --recipe ", env!("CARGO_MANIFEST_DIR"), "/recipes/narrow.toml");

const FORMATS: [&str; 14] = [
    "--quant f16 --kv f16",
    "--quant f32 --kv f32",
    "--quant bf16 --kv f16",
    "--quant w8a8 --kv f16",
    "--quant w4a8 --kv f16",
    "--quant w4a8 --kv i8",
    "--quant w8a8 --kv i4",
    "--quant w8a8 --kv f16 --activations token",
    "--quant w3a8 --kv f16 --activations token",
    "--quant w4a8 --kv i8 --activations static --calib self --calib-tokens 256 --round mse",
    "--quant w4a16 --kv f16",
    "--quant w4a8 --kv f32 --rotate hadamard --rotations r1,r2,r3,r4",
    "--quant w8a8 --simulate a4,kv4",
    NARROW,
];

/// The best CPU that code can be made for here.
fn best() -> &'static str {
    Machine::host_cpus().last().expect("there is one")
}

#[test]
fn chunks_change_nothing() {
    for (name, line) in SHIPPED.into_iter().cycle().zip(FORMATS) {
        let model = model(&shipped(name), line);
        for cpu in Machine::host_cpus() {
            let session_of = |chunk| session(&model, cpu, chunk, 1);
            let mut usual = session_of(64);
            let expected = logits(&mut usual, PROMPT as usize);
            for at_once in [1, 7, 64] {
                assert!(logits(&mut usual, at_once) == expected, "{name} {cpu}: {at_once} at once");
            }
            for chunk in [1, 7, 512] {
                let found = logits(&mut session_of(chunk), PROMPT as usize);
                assert!(found == expected, "{name} {cpu}: chunk {chunk}");
            }
        }
    }
}

#[test]
fn workers_change_nothing() {
    for (name, line) in SHIPPED.into_iter().cycle().zip(FORMATS) {
        let model = model(&shipped(name), line);
        let expected = logits(&mut session(&model, best(), 64, 1), 290);
        for (workers, chunk, at_once) in [(2, 64, 290), (2, 16, 250), (3, 64, 290), (3, 50, 290)] {
            let found = logits(&mut session(&model, best(), chunk, workers), at_once);
            assert!(found == expected, "{name}: {workers} workers, chunk {chunk}");
        }
    }
}

/// Models of other shapes: where values lie in scratch, and so which steps must wait for which,
/// depends on widths.
fn shapes() -> Vec<(&'static str, Sample)> {
    let base = Sample { head: 8, width: 36, inner: 44, vocab: 77, ..Sample::default() };
    vec![
        ("plain", base.clone()),
        ("bias", Sample { bias: true, ..base.clone() }),
        ("norm of heads", Sample { qk_norm: true, ..base.clone() }),
        ("bias and norm of heads", Sample { bias: true, qk_norm: true, ..base.clone() }),
        ("wide heads", Sample { head: 40, heads: 6, kv_heads: 3, ..base.clone() }),
        ("one head for all", Sample { heads: 5, kv_heads: 1, qk_norm: true, ..base.clone() }),
        ("no groups", Sample { heads: 4, kv_heads: 4, bias: true, ..base.clone() }),
        ("narrow inside", Sample { width: 160, inner: 32, ..base.clone() }),
        ("wide inside", Sample { width: 32, inner: 300, tied: false, ..base.clone() }),
        ("shared", Sample { layers: 4, shared: 2, ..base.clone() }),
        ("gemma", Sample { head: 8, width: 36, inner: 44, vocab: 77, ..Sample::gemma() }),
        ("gemma 2", Sample { head: 8, width: 36, inner: 44, vocab: 77, ..Sample::gemma2() }),
    ]
}

#[test]
fn workers_and_chunks_change_nothing_whatever_the_shape() {
    for (name, sample) in shapes() {
        let module = sample.module().expect("a valid sample");
        let blobs = Seeded::new(&module, 7);
        let tokens: Vec<i32> = (0..45).map(|i| (i * 37 + 11) % 77).collect();
        let run = |chunk: u64, workers: u32| -> Bits {
            let options = Options { chunk, max_workers: 4, ..Options::default() };
            let target = Machine::host().target(best());
            let session = Session::new(&module, &blobs, &target, &options, workers, &|_| {});
            let mut session = session.expect("compiles");
            session.reset().expect("starts");
            session.prefill(&tokens).expect("fits");
            session.decode(5).expect("fits");
            bits(&session)
        };
        let expected = run(16, 1);
        for (chunk, workers) in [(1, 1), (45, 1), (16, 2), (45, 2), (45, 3)] {
            assert!(run(chunk, workers) == expected, "{name}: {workers} workers, chunk {chunk}");
        }
    }
}

#[test]
fn log_probabilities_do_not_depend_on_workers_and_chunks() {
    let model = model(&shipped(SHIPPED[0]), FORMATS[0]);
    let score = |chunk, workers| -> Vec<u32> {
        let mut session = session(&model, best(), chunk, workers);
        session.reset().expect("starts");
        let scored = session.score(&tokens(0, PROMPT));
        scored.expect("fits").iter().map(|x| x.to_bits()).collect()
    };
    let expected = score(64, 1);
    for (chunk, workers) in [(1, 1), (7, 1), (512, 1), (64, 2), (50, 3)] {
        assert!(score(chunk, workers) == expected, "chunk {chunk}, {workers} workers");
    }
}

#[test]
fn cpus_that_round_alike_agree() {
    for line in FORMATS {
        let model = model(&shipped(SHIPPED[0]), line);
        let all: Vec<(&str, Vec<Bits>)> = Machine::host_cpus()
            .into_iter()
            .map(|cpu| (cpu, logits(&mut session(&model, cpu, 64, 1), 290)))
            .collect();
        let (fused, plain): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(cpu, _)| Machine::host().fuses(cpu));
        for group in [fused, plain] {
            for pair in group.windows(2) {
                assert!(pair[0].1 == pair[1].1, "{line}: {} and {}", pair[0].0, pair[1].0);
            }
        }
    }
}

#[test]
fn a_conversation_goes_on_as_if_it_had_not_been_saved_or_cut() {
    for (name, line) in SHIPPED.into_iter().cycle().zip(FORMATS) {
        let model = model(&shipped(name), line);
        let mut session = session(&model, best(), 64, 1);
        feed(&mut session, 290);
        let saved = session.save().expect("there is a conversation");
        let expected = follow(&mut session);

        session.reset().expect("starts");
        session.prefill(&tokens(500, 600)).expect("another conversation fits");
        session.load(&saved).expect("it is ours");
        assert_eq!(session.position(), PROMPT);
        assert!(follow(&mut session) == expected, "{name}: through save and load");

        // Cut within a block of attention, at the end of a panel of keys, within one, at the start.
        for cut in [270, 96, 45, 0] {
            session.load(&saved).expect("it is ours");
            session.truncate(cut).expect("it is long enough");
            assert!(session.logits().is_none(), "logits of a token that is forgotten");
            session.prefill(&tokens(cut, PROMPT)).expect("fits");
            assert!(follow(&mut session) == expected, "{name}: cut at {cut}");
        }
    }
}

/// The module with every weight of a called graph declared again for each call that binds it, under
/// another name.
fn unrolled(module: &Module) -> Module {
    let mut unrolled = module.clone();
    let root = module.graph_named("model").expect("every module has it").0 as usize;
    let mut seen = vec![];
    for (call, inst) in module.graphs[root].insts.iter().enumerate() {
        if !matches!(inst.op, Op::Call(_)) {
            continue;
        }
        for (at, arg) in inst.args.iter().enumerate() {
            let Arg::Weight(id) = *arg else { continue };
            if !seen.contains(&id) {
                seen.push(id);
                continue;
            }
            let mut copy = module.weight(id).clone();
            copy.name = format!("call{call}.{}", copy.name);
            unrolled.graphs[root].insts[call].args[at] = unrolled.add_weight(copy).into();
        }
    }
    verify(&unrolled).expect("the copy is a module too");
    unrolled
}

#[test]
fn shared_layers_are_stored_once_and_compute_what_unrolled_ones_do() {
    let shared = shipped(SHIPPED[1]);
    let dir = folder();
    let text = dir.path().join("unrolled.ingot");
    let line = "--quant f16 --kv f16";
    let once = model(&shared, line);
    std::fs::write(&text, unrolled(&once.module).to_string()).expect("text can be written");
    let blobs = format!("--blobs {}", shared.display());
    // Without passes nothing finds the layers that are equal.
    let twice = model(&text, &format!("{line} {blobs} --pass-limit 0"));
    let found = model(&text, &format!("{line} {blobs}"));

    let (mut one, mut two) = (session(&once, best(), 64, 1), session(&twice, best(), 64, 1));
    let expected = logits(&mut one, 290);
    assert!(logits(&mut two, 290) == expected);
    assert!(logits(&mut session(&found, best(), 64, 1), 290) == expected);

    let elements = |m: &Module| -> u64 { m.weights.iter().map(|w| w.elements()).sum() };
    assert!(
        elements(&twice.module) > elements(&once.module) * 3 / 2,
        "there is something to share"
    );
    assert_eq!(elements(&found.module), elements(&once.module));
    let checkpoint = std::fs::metadata(shared.join("model.safetensors")).expect("it ships").len();
    let stored = one.weights_bytes();
    // Beside the tensors, a checkpoint has a header of some kilobytes; a blob has gains in f32.
    assert!(stored < checkpoint + 8192, "{stored} bytes, {checkpoint} in the checkpoint");
    assert!(two.weights_bytes() > stored * 3 / 2);
    let files = |path: &Path, name: &str, more: &str| {
        let line = format!("--name {name} --weights external {line} {more}");
        ingot_tests::model::build(path, dir.path(), &line);
        std::fs::metadata(dir.path().join(format!("{name}.weights"))).expect("written").len()
    };
    assert_eq!(files(&shared, "once", ""), stored);
    let twice = files(&text, "twice", &format!("{blobs} --pass-limit 0"));
    assert_eq!(twice, two.weights_bytes());
    assert_eq!(files(&text, "found", &blobs), stored);
}
