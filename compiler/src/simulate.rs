//! `--simulate`: which numbers are rounded as if they were stored in fewer bits.

use crate::Error;
use clap::Args;
use passes::Context;
use std::str::FromStr;

/// Flags of everything that is simulated.
#[derive(Args, Clone, Debug, Default)]
pub struct SimulateFlags {
    /// Round as formats would that no kernel stores yet, to measure what they lose: aN rows that
    /// matrices of layers read to N bits (sN: with fixed ranges, needs --calib), kvN keys and values
    #[arg(help_heading = "Model and code", long, value_name = "LIST", value_delimiter = ',')]
    pub simulate: Vec<Simulated>,
}

/// One word of `--simulate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulated {
    /// `aN`, `sN`: rows, with ranges of their own or fixed ones.
    Rows {
        /// Of each element.
        bits: u8,
        /// Whether ranges are fixed.
        fixed: bool,
    },
    /// `kvN`: keys and values.
    Cache {
        /// Of each element.
        bits: u8,
    },
}

impl FromStr for Simulated {
    type Err = String;

    fn from_str(word: &str) -> Result<Simulated, String> {
        let bits = |prefix| {
            let bits = word.strip_prefix(prefix)?.parse().ok();
            bits.filter(|bits| (2..=8).contains(bits))
        };
        let cache = bits("kv").map(|bits| Simulated::Cache { bits });
        let rows = |(prefix, fixed)| bits(prefix).map(|bits| Simulated::Rows { bits, fixed });
        cache
            .or_else(|| rows(("a", false)))
            .or_else(|| rows(("s", true)))
            .ok_or_else(|| "expected aN, sN or kvN with N from 2 to 8".into())
    }
}

impl SimulateFlags {
    /// Refuses two words about the same numbers.
    pub fn check(&self) -> Result<(), Error> {
        let is_cache = |word: &&Simulated| matches!(word, Simulated::Cache { .. });
        let caches = self.simulate.iter().filter(is_cache).count();
        match caches.max(self.simulate.len() - caches) {
            0 | 1 => Ok(()),
            _ => Err(Error::new("IG0401", "--simulate rounds the same numbers twice")
                .help("at most one of aN and sN for rows, and one kvN for keys and values")),
        }
    }

    /// The flag, where it asks for fixed ranges.
    pub fn fixed(&self) -> Option<&'static str> {
        let fixed = |word: &Simulated| matches!(word, Simulated::Rows { fixed: true, .. });
        self.simulate.iter().any(fixed).then_some("--simulate sN")
    }

    /// Puts what the flags say into the context.
    pub fn apply(&self, context: &mut Context<'_>) {
        for word in &self.simulate {
            let simulation = context.simulate.get_or_insert_default();
            match *word {
                Simulated::Rows { bits, fixed } => {
                    (simulation.rows, simulation.fixed) = (Some(bits), fixed);
                }
                Simulated::Cache { bits } => simulation.cache = Some(bits),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_and_how_many_bits() {
        let of = |text: &str| text.parse::<Simulated>().ok();
        assert_eq!(of("a4"), Some(Simulated::Rows { bits: 4, fixed: false }));
        assert_eq!(of("s8"), Some(Simulated::Rows { bits: 8, fixed: true }));
        assert_eq!(of("kv4"), Some(Simulated::Cache { bits: 4 }));
        for wrong in ["a", "a9", "kv1", "w4", "4"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
