//! What the times of `ingot bench` mean.

use super::{BenchFlags, FIRST_PROMPT, Spread, Times};
use crate::host::Host;
use crate::output;
use crate::work::work;
use serde_json::{Value, json};

/// What the times mean.
pub(super) struct Figures {
    at: Vec<AtDepth>,
    /// Milliseconds.
    first: Spread,
    /// Billions of products of bytes and their sums per second that the machine makes.
    int8_gops: f64,
    /// Billions of bytes per second that the machine reads, before and after.
    machine_gb: [f64; 2],
}

/// Speed with so many tokens in the context.
struct AtDepth {
    depth: u32,
    /// Tokens per second.
    prefill: Spread,
    /// Tokens per second.
    decode: Spread,
    /// Billions of operations per second in prefill.
    prefill_gflops: f64,
    /// Weights, keys and values read per decoded token, on average.
    token_bytes: f64,
    /// Billions of bytes per second in decode.
    decode_gb: f64,
    /// Share of the bandwidth that decoding uses.
    share: f64,
}

impl Figures {
    pub(super) fn new(
        flags: &BenchFlags,
        host: &Host,
        times: &Times,
        bandwidth: [f64; 2],
        int8_peak: f64,
    ) -> Figures {
        let work = work(&host.model.module, &host.session.library.weights);
        let machine_gb = bandwidth.map(|bytes| bytes / 1e9);
        let speed = |count: u32| move |seconds: f64| f64::from(count) / seconds;
        let one = |(&depth, [prefill, decode]): (&u32, &[Vec<f64>; 2])| {
            let prefill = Spread::of(prefill, speed(flags.prefill));
            let decode = Spread::of(decode, speed(flags.decode));
            // The token at position p reads p + 1 keys and values.
            let positions = f64::from(depth) + (f64::from(flags.decode) + 1.0) / 2.0;
            let token_bytes = work.weight_bytes as f64 + work.cache_bytes_read(positions);
            let decode_gb = decode.median * token_bytes / 1e9;
            let prefill_gflops = prefill.median * work.prefill_ops as f64 / 1e9;
            let share = decode_gb / ((machine_gb[0] + machine_gb[1]) / 2.0);
            AtDepth { depth, prefill, decode, prefill_gflops, token_bytes, decode_gb, share }
        };
        Figures {
            at: flags.depth.iter().zip(&times.at).map(one).collect(),
            first: Spread::of(&times.first, |seconds| seconds * 1e3),
            int8_gops: int8_peak / 1e9,
            machine_gb,
        }
    }

    pub(super) fn text(&self, flags: &BenchFlags, host: &Host) -> String {
        let header = ["", "median", "min", "max", "", ""].map(String::from).to_vec();
        let mut rows = vec![header];
        for at in &self.at {
            let deep = if at.depth > 0 { format!(" at {}", at.depth) } else { String::new() };
            if flags.prefill > 0 {
                let more = format!("{:.1} GFLOP/s", at.prefill_gflops);
                rows.push(at.prefill.row(
                    format!("prefill {}{deep}", flags.prefill),
                    "tok/s",
                    more,
                ));
            }
            if flags.decode > 0 {
                let more = format!("{:.1} GB/s, {:.0} %", at.decode_gb, at.share * 100.0);
                rows.push(at.decode.row(format!("decode {}{deep}", flags.decode), "tok/s", more));
            }
        }
        let what = format!("first token of {FIRST_PROMPT}");
        rows.push(self.first.row(what, "ms", String::new()));
        let [weights, cache] = flags.host.model.formats(&host.model.module);
        let [before, after] = self.machine_gb;
        format!(
            "{}: weights {} ({:.1} MB), KV cache {}, {}\n{}\
             this machine reads {before:.1} GB/s before, {after:.1} GB/s after, \
             and multiplies {:.0} GOP/s of int8\n\
             started in {:.0} ms\n",
            host.model.path.display(),
            weights,
            host.session.weights_bytes() as f64 / 1e6,
            cache,
            output::counted(host.threads.into(), "thread"),
            output::table(&rows),
            self.int8_gops,
            host.start.as_secs_f64() * 1e3,
        )
    }

    pub(super) fn json(&self, flags: &BenchFlags, host: &Host) -> Value {
        let [before, after] = self.machine_gb;
        json!({
            "model": host.model.path,
            "quant": flags.host.model.formats(&host.model.module)[0],
            "kv": flags.host.model.formats(&host.model.module)[1],
            "context": host.model.module.meta.context,
            "threads": host.threads,
            "repeat": flags.repeat,
            "seed": flags.host.model.transforms.seed,
            "weights_bytes": host.session.weights_bytes(),
            "start_ms": host.start.as_secs_f64() * 1e3,
            "depths": self.at.iter().map(|at| at.json(flags)).collect::<Vec<Value>>(),
            "first_token_ms": self.first.json(),
            "int8_gop_per_second": self.int8_gops,
            "bandwidth_gb_per_second": { "before": before, "after": after },
        })
    }
}

impl AtDepth {
    fn json(&self, flags: &BenchFlags) -> Value {
        let prefill = (flags.prefill > 0).then(|| {
            json!({
                "tokens": flags.prefill,
                "tokens_per_second": self.prefill.json(),
                "gflop_per_second": self.prefill_gflops,
            })
        });
        let decode = (flags.decode > 0).then(|| {
            json!({
                "tokens": flags.decode,
                "tokens_per_second": self.decode.json(),
                "bytes_per_token": self.token_bytes.round() as u64,
                "gb_per_second": self.decode_gb,
                "bandwidth_share": self.share,
            })
        });
        json!({ "depth": self.depth, "prefill": prefill, "decode": decode })
    }
}
