//! `--simulate`: which numbers are rounded as if they were stored in fewer bits.

use crate::Error;
use clap::Args;
use ir::Levels;
use passes::Context;
use std::str::FromStr;

/// Flags of everything that is simulated.
#[derive(Args, Clone, Debug, Default)]
pub struct SimulateFlags {
    /// Round as formats would that no kernel stores yet, to measure what they lose: aN rows that
    /// matrices of layers read to N bits (sN: with fixed ranges, needs --calib), kvN keys and values; ae2m1
    /// and the like to floats
    #[arg(help_heading = "Model and code", long, value_name = "LIST", value_delimiter = ',')]
    pub simulate: Vec<Simulated>,
}

/// One word of `--simulate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulated {
    /// `aN`, `sN`: rows, with ranges of their own or fixed ones.
    Rows {
        /// What elements become.
        levels: Levels,
        /// Whether ranges are fixed.
        fixed: bool,
    },
    /// `kvN`: keys and values.
    Cache {
        /// What elements become.
        levels: Levels,
    },
}

impl FromStr for Simulated {
    type Err = String;

    fn from_str(word: &str) -> Result<Simulated, String> {
        let levels = |prefix| {
            let rest: &str = word.strip_prefix(prefix)?;
            // A number by itself is of bits.
            match rest.starts_with(|c: char| c.is_ascii_digit()) {
                true => Levels::from_name(&format!("i{rest}")),
                false => Levels::from_name(rest).filter(|l| matches!(l, Levels::Float { .. })),
            }
        };
        let cache = levels("kv").map(|levels| Simulated::Cache { levels });
        let rows = |(prefix, fixed)| levels(prefix).map(|levels| Simulated::Rows { levels, fixed });
        cache.or_else(|| rows(("a", false))).or_else(|| rows(("s", true))).ok_or_else(|| {
            "expected aN, sN or kvN with N from 2 to 8, or a float in place of N, as in ae2m1"
                .into()
        })
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
                Simulated::Rows { levels, fixed } => {
                    (simulation.rows, simulation.fixed) = (Some(levels), fixed);
                }
                Simulated::Cache { levels } => simulation.cache = Some(levels),
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
        let even = Levels::Even;
        assert_eq!(of("a4"), Some(Simulated::Rows { levels: even(4), fixed: false }));
        assert_eq!(of("s8"), Some(Simulated::Rows { levels: even(8), fixed: true }));
        assert_eq!(of("kv4"), Some(Simulated::Cache { levels: even(4) }));
        let levels = Levels::Float { exponent: 2, mantissa: 1 };
        assert_eq!(of("se2m1"), Some(Simulated::Rows { levels, fixed: true }));
        for wrong in ["a", "a9", "ai4", "kv1", "w4", "4", "ae9m1"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
