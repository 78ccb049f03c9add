//! Passes on IR text: what they make of it, that it means the same, and what they refuse.
//!
//! A file of `passes/` starts with comments: what it shows, `; run:` with the flags of `ingot opt`,
//! and the module. Behind `; ---- after` stands what the passes make of it (`BLESS=1` writes it); the
//! interpreter must give the same logits before and after, within `; tolerance:` (of the largest
//! logit, 1e-4 if not given). With `; refused:` the passes must refuse with these words instead. With
//! `; model:` the module is a checkpoint that ships with the project, and only the result stands there.

use clap::Parser;
use ingot::opt::{OptFlags, context};
use ingot::{frontend, pipeline};
use ingot_tests::lab::MadeUp;
use ingot_tests::model::{distance, shipped, tokens};
use ir::sample::Seeded;
use ir::{Blobs, Interpreter, Module};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const AFTER: &str = "; ---- after\n";

#[derive(Parser)]
struct Opt {
    #[command(flatten)]
    flags: OptFlags,
}

/// A file of `passes/`.
struct Case {
    path: PathBuf,
    text: String,
}

impl Case {
    fn header(&self, key: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(&format!("; {key}: ")))
    }

    fn before(&self) -> &str {
        self.text.split_once(AFTER).map_or(&self.text, |(before, _)| before)
    }

    fn flags(&self) -> OptFlags {
        let line = self.header("run").unwrap_or_else(|| panic!("{}: no run", self.path.display()));
        let words = ["opt", "unused.ingot"].into_iter().chain(line.split_whitespace());
        Opt::try_parse_from(words).unwrap_or_else(|e| panic!("{}: {e}", self.path.display())).flags
    }

    fn run(&self) {
        let name = self.path.display();
        let flags = self.flags();
        let (before, blobs): (Module, Box<dyn Blobs>) = match self.header("model") {
            Some(model) => {
                let checkpoint = frontend::open(&shipped(model)).expect("a model that ships");
                (checkpoint.module, Box::new(checkpoint.blobs))
            }
            None => {
                let module = ir::parse(self.before()).unwrap_or_else(|e| panic!("{name}:{e}"));
                let blobs = Seeded::new(&module, 7);
                (module, Box::new(blobs))
            }
        };
        ir::verify(&before).unwrap_or_else(|v| panic!("{name}: {v:?}"));
        let mut after = before.clone();
        match (transform(&flags, &mut after, blobs.as_ref()), self.header("refused")) {
            (Ok(()), None) => {}
            (Err(error), Some(words)) => {
                assert!(error.contains(words), "{name}\n  found    {error}\n  expected {words}");
                return;
            }
            (found, expected) => panic!("{name}: found {found:?}, expected {expected:?}"),
        }
        self.compare(&after);
        let tolerance = self.header("tolerance").map_or(1e-4, |t| t.parse().expect("a number"));
        let (expected, found) = (logits(&before, blobs.as_ref()), logits(&after, blobs.as_ref()));
        let moved = distance(&found, &expected);
        assert!(moved <= tolerance, "{name}: logits moved by {moved}");
    }

    fn compare(&self, after: &Module) {
        let text = after.to_string();
        assert!(ir::parse(&text).as_ref() == Ok(after), "{}: another module", self.path.display());
        let blessed = format!("{}{AFTER}{text}", self.before());
        if std::env::var("BLESS").is_ok_and(|v| v == "1") {
            std::fs::write(&self.path, blessed).expect("the file can be written");
        } else {
            assert_eq!(self.text, blessed, "{}", self.path.display());
        }
    }
}

fn transform(flags: &OptFlags, module: &mut Module, blobs: &dyn Blobs) -> Result<(), String> {
    let (mut context, lab) = (context(flags), MadeUp { blobs });
    flags.transforms.apply(&mut context, None).map_err(|e| e.to_string())?;
    context.lab = Some(&lab);
    let chosen = pipeline::named(&flags.passes).map_err(|e| e.to_string())?;
    passes::run(module, &chosen, &context, &mut |_| ControlFlow::Continue(()))
        .map_err(|e| e.to_string())
}

fn logits(module: &Module, blobs: &dyn Blobs) -> Vec<f32> {
    let mut interpreter = Interpreter::new(module, blobs).expect("a module that runs");
    interpreter.run(&tokens(module, 12)).expect("tokens that fit")
}

#[test]
fn files_come_out_as_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("passes");
    let entries = std::fs::read_dir(folder).expect("a folder of cases");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a text");
        Case { path, text }.run();
    }
}
