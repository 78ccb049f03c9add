//! The same functions in objects: nothing undefined, and the same results on another machine.

mod support;

use ir::DType;
use runtime::errors::OK;
use runtime::sample::reference::Sampling;
use runtime::sample::scratch_bytes;
use runtime::state::{StateLayout, fnv1a};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use support::{Conversation, Runtime, hosts, layout, object};
use targets::Target;

const VOCAB: u64 = 1003;
const TOKENS: u64 = 40;
/// Calls per set of options.
const CALLS: usize = 50;

/// The program's parts that do not depend on the layout. Logits and tokens are integers at first,
/// so that both machines start from the same bits.
const PROGRAM: &str = r#"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct { uint32_t size, workers; const void *weights; void *scratch; size_t scratch_bytes;
  void *user, *parallel, *poll; } env_t;
typedef struct { uint32_t size, top_k; uint64_t seed; float temperature, top_p, min_p,
  repeat_penalty, frequency_penalty, presence_penalty; uint32_t penalty_window; } sampling_t;

int32_t smol_sample(const env_t *, void *, const sampling_t *);
uint32_t smol_position(const void *);
int32_t smol_truncate(void *, uint32_t);
int64_t smol_save(const void *, void *, size_t);
int32_t smol_load(void *, const void *, size_t);
int32_t smol_piece(int32_t, char *, size_t);
const char *smol_error(int32_t);

static unsigned char state[STATE_BYTES] __attribute__((aligned(64)));
static unsigned char other[STATE_BYTES] __attribute__((aligned(64)));
static unsigned char scratch[SCRATCH_BYTES] __attribute__((aligned(64)));
static unsigned char blob[2 * STATE_BYTES];

static uint32_t number(uint32_t i) { i = i * 2654435761u; i ^= i >> 15; i *= 2246822519u; return i >> 8; }

int main(void) {
  uint64_t magic = IDENTITY, hash = 0xcbf29ce484222325u;
  uint32_t position = TOKENS, valid = 1;
  env_t env = {sizeof env, 0, 0, scratch, sizeof scratch, 0, 0, 0};
  char piece[8] = {0};
  memcpy(state, &magic, 8); memcpy(state + 8, &position, 4); memcpy(state + 12, &valid, 4);
  for (uint32_t i = 0; i < TOKENS; i++) {
    int32_t token = (int32_t)(number(i) % VOCAB);
    memcpy(state + HISTORY + 4 * i, &token, 4);
  }
  for (uint32_t i = 0; i < VOCAB; i++) {
    float logit = (float)(number(i + 1000) % 4096) / 256.0f;
    memcpy(state + LOGITS + 4 * i, &logit, 4);
  }
  for (size_t i = 0; i < sizeof how / sizeof *how; i++)
    for (int n = 0; n < CALLS; n++) printf("%d ", smol_sample(&env, state, &how[i]));
  int64_t bytes = smol_save(state, blob, sizeof blob);
  for (int64_t i = 0; i < bytes; i++) hash = (hash ^ blob[i]) * 0x100000001b3u;
  int32_t loaded = smol_load(other, blob, (size_t)bytes), cut = smol_truncate(other, 3);
  int32_t n = smol_piece(0, piece, sizeof piece);
  printf("%lld %016llx %d %d %u %d %s %s", (long long)bytes, (unsigned long long)hash, loaded, cut,
         smol_position(other), n, piece, smol_error(-1));
  return 0;
}
"#;

fn number(i: u32) -> u32 {
    let i = i.wrapping_mul(2_654_435_761);
    (i ^ (i >> 15)).wrapping_mul(2_246_822_519) >> 8
}

fn options() -> Vec<Sampling> {
    let base = Sampling { size: 48, seed: 11, temperature: 1.0, ..Default::default() };
    vec![
        Sampling { temperature: 0.0, ..base },
        base,
        Sampling { temperature: 0.6, top_k: 40, ..base },
        Sampling { temperature: 1.3, top_p: 0.9, ..base },
        Sampling { min_p: 0.05, ..base },
        Sampling { top_k: 500, top_p: 0.95, min_p: 0.01, repeat_penalty: 1.1, ..base },
        Sampling { frequency_penalty: 0.3, presence_penalty: 0.7, penalty_window: 20, ..base },
    ]
}

/// What the program prints, computed here.
fn expected(layout: &StateLayout) -> String {
    let pieces = [b"piece".to_vec()];
    let runtime = Runtime::new(&hosts()[0], layout.clone(), Some(&pieces));
    let mut c = Conversation::new(&runtime);
    c.state.bytes_mut()[64..].fill(0);
    let history: Vec<i32> = (0..TOKENS as u32).map(|i| (number(i) % VOCAB as u32) as i32).collect();
    let logits: Vec<f32> =
        (0..VOCAB as u32).map(|i| (number(i + 1000) % 4096) as f32 / 256.0).collect();
    c.set_history(&history);
    c.set_logits(&logits);
    let mut text = String::new();
    for how in options() {
        for _ in 0..CALLS {
            _ = write!(text, "{} ", c.sample(Some(&how)));
        }
    }
    let blob = c.save().unwrap();
    let hash = fnv1a(runtime::state::FNV_OFFSET, &blob);
    let (bytes, error) = (blob.len(), runtime.error(-1));
    _ = write!(text, "{bytes} {hash:016x} {OK} {OK} 3 5 piece {error}");
    text
}

/// The program for one layout.
fn program(layout: &StateLayout) -> String {
    let mut text = String::new();
    for (name, value) in [
        ("STATE_BYTES", layout.bytes),
        ("SCRATCH_BYTES", scratch_bytes(VOCAB)),
        ("HISTORY", layout.tokens.into()),
        ("LOGITS", layout.logits.into()),
        ("VOCAB", VOCAB),
        ("TOKENS", TOKENS),
        ("CALLS", CALLS as u64),
        ("IDENTITY", layout.identity),
    ] {
        let suffix = if name == "CALLS" { "" } else { "u" };
        _ = writeln!(text, "#define {name} {value}{suffix}");
    }
    let mut rows = String::from("static const sampling_t how[] = {\n");
    for h in options() {
        let Sampling { size, top_k, seed, temperature, top_p, min_p, .. } = h;
        let (repeat, window) = (h.repeat_penalty, h.penalty_window);
        let (frequency, presence) = (h.frequency_penalty, h.presence_penalty);
        let floats = [temperature, top_p, min_p, repeat, frequency, presence];
        let floats = floats.map(|x| format!("{x:e}f")).join(", ");
        _ = writeln!(rows, "  {{{size}, {top_k}, {seed}, {floats}, {window}}},");
    }
    text + &PROGRAM.replace("static uint32_t number", &(rows + "};\nstatic uint32_t number"))
}

#[test]
fn objects_need_nothing_from_outside() {
    let layout = layout(100, VOCAB, DType::F16);
    for (triple, cpu) in [
        ("x86_64-unknown-linux-gnu", "x86-64"),
        ("x86_64-unknown-linux-gnu", "x86-64-v2"),
        ("x86_64-unknown-linux-gnu", "x86-64-v3"),
        ("x86_64-unknown-linux-gnu", "x86-64-v4"),
        ("x86_64-unknown-none", "x86-64"),
        ("aarch64-unknown-linux-gnu", "generic"),
        ("aarch64-unknown-linux-gnu", "cortex-a76"),
        ("aarch64-unknown-none", "generic"),
    ] {
        let target = Target::new(triple, Some(cpu), "").unwrap();
        assert!(object(&target, &layout) == object(&target, &layout), "{triple} {cpu}: the same");
    }
}

#[test]
fn other_machines_choose_the_same_tokens() {
    let layout = layout(100, VOCAB, DType::F16);
    let expected = expected(&layout);
    for (triple, cpu, compiler, emulator) in [
        ("x86_64-unknown-linux-gnu", "x86-64", "x86_64-linux-gnu-gcc", None),
        (
            "aarch64-unknown-linux-gnu",
            "generic",
            "aarch64-linux-gnu-gcc",
            Some("qemu-aarch64-static"),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::new(triple, Some(cpu), "").unwrap();
        std::fs::write(dir.path().join("smol.o"), object(&target, &layout)).unwrap();
        std::fs::write(dir.path().join("main.c"), program(&layout)).unwrap();
        let mut command = Command::new(compiler);
        command.args(["-std=gnu99", "-O1", "-static", "main.c", "smol.o", "-o", "main"]);
        let Ok(built) = command.current_dir(&dir).output() else {
            println!("skipped: {compiler} is not installed");
            continue;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let Some(printed) = run(&dir.path().join("main"), emulator) else {
            println!("skipped: {triple} cannot be run here");
            continue;
        };
        assert_eq!(printed, expected, "{triple}");
    }
}

/// What a program prints; `None` if this machine cannot run it.
fn run(program: &Path, emulator: Option<&str>) -> Option<String> {
    let mut command = match emulator {
        Some(emulator) => Command::new(emulator),
        None if cfg!(target_arch = "x86_64") => return output(&mut Command::new(program)),
        None => return None,
    };
    output(command.arg(program))
}

fn output(command: &mut Command) -> Option<String> {
    let out = command.output().ok()?;
    assert!(out.status.success(), "{out:?}");
    Some(String::from_utf8(out.stdout).unwrap())
}
