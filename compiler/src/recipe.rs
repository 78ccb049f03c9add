//! Recipe files: formats of weights by name, as TOML.
//!
//! ```toml
//! [weights]           # later lines win; * is any number of any characters
//! "*" = "i4g32"
//! "l0.*" = "i8row"
//! "embed" = "i8row"
//! "*.down" = ["e3m0g32", "e2m1g32", "e1m2g32"]  # for each the one that loses least
//! ```
//!
//! A star does not mean what a pass made (`middle`, by `rotate`): `passes::select`.

use crate::Error;
use ir::{DType, IntFormat};
use passes::select::{Budget, Price, Recipe, Token};
use std::path::Path;
use std::str::FromStr;

/// Reads a recipe file.
pub fn read(path: &Path) -> Result<Recipe, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::new("IG0101", "cannot read the file").file(path).note(e.to_string()))?;
    parse(&text).map_err(|why| Error::new("IG0401", why).file(path))
}

fn parse(text: &str) -> Result<Recipe, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.message().to_string())?;
    if let Some(key) = table.keys().find(|key| *key != "weights") {
        return Err(format!("`{key}` is no part of a recipe; [weights] is"));
    }
    let Some(toml::Value::Table(weights)) = table.get("weights") else {
        return Err("there is no [weights] in it".into());
    };
    let rule = |(pattern, format): (&String, &toml::Value)| -> Result<_, String> {
        let names = match format {
            toml::Value::Array(names) if !names.is_empty() => &names[..],
            one => std::slice::from_ref(one),
        };
        let formats = names.iter().map(|name| one_format(pattern, name));
        Ok((pattern.clone(), formats.collect::<Result<Vec<DType>, _>>()?))
    };
    Ok(Recipe { rules: weights.iter().map(rule).collect::<Result<_, _>>()? })
}

fn one_format(pattern: &str, name: &toml::Value) -> Result<DType, String> {
    let toml::Value::String(name) = name else {
        return Err(format!("`{pattern}`: expected the name of a format, in quotes, or a list"));
    };
    DType::from_name(name).filter(|dtype| dtype.holds_weights()).ok_or_else(|| {
        let names = IntFormat::NAMES;
        format!("`{pattern}`: \"{name}\" is no format of weights; f32, f16, bf16, {names} are")
    })
}

/// A recipe as a file has it.
pub fn write(recipe: &Recipe) -> String {
    let line = |(name, formats): &(String, Vec<DType>)| {
        let names: Vec<String> = formats.iter().map(|format| format!("\"{format}\"")).collect();
        match &names[..] {
            [name_of_one] => format!("\"{name}\" = {name_of_one}\n"),
            several => format!("\"{name}\" = [{}]\n", several.join(", ")),
        }
    };
    let lines: String = recipe.rules.iter().map(line).collect();
    format!("# Later lines win; * is any number of any characters.\n[weights]\n{lines}")
}

/// What `--budget` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetFlag {
    /// What formats are chosen by.
    pub budget: Budget,
    /// By how much perplexity may rise, as a share.
    pub worse: Option<f64>,
}

/// What stays in a cache between two reads, unless the flag says otherwise.
const CACHE_BYTES: u64 = 2_000_000;
/// Decimal units of bytes.
const BYTES: [(&str, f64); 5] = [("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("", 1.0)];

impl FromStr for BudgetFlag {
    type Err = String;

    /// `size=80M`, `bpw=4.5`, `latency=4ms@20GB/s` or `energy=2mJ@100pJ/B`, then `,ppl=+3%` and for the
    /// last two `,cache=2M`.
    fn from_str(text: &str) -> Result<BudgetFlag, String> {
        let mut parts = text.split(',').map(|part| part.split_once('=').unwrap_or((part, "")));
        let (key, value) = parts.next().unwrap_or_default();
        let budget = match key {
            "bpw" => positive(value).map(Budget::Bits),
            "size" => measured(value, &BYTES).map(|x| Budget::Bytes(x as u64)),
            "latency" | "energy" => token(key, value).map(Budget::Token),
            _ => None,
        };
        let budget = budget.ok_or_else(|| match key {
            "latency" => "expected a time and a bandwidth, as in latency=4ms@20GB/s".to_string(),
            "energy" => {
                "expected an energy and that of a byte, as in energy=2mJ@100pJ/B".to_string()
            }
            _ => "expected size=BYTES, as in size=80M, bpw=BITS, latency=TIME@BANDWIDTH or \
                  energy=ENERGY@ENERGY/B"
                .to_string(),
        })?;
        let mut flag = BudgetFlag { budget, worse: None };
        for (key, value) in parts {
            match (key, &mut flag.budget) {
                ("ppl", _) => {
                    let share = value.strip_prefix('+').and_then(|v| v.strip_suffix('%'));
                    let share = share.and_then(positive);
                    flag.worse = Some(share.ok_or("expected a rise, as in ppl=+3%")? / 100.0);
                }
                ("cache", Budget::Token(token)) => {
                    let bytes = measured(value, &BYTES).ok_or("expected bytes, as in cache=2M")?;
                    token.cache_bytes = bytes as u64;
                }
                _ => return Err(format!("`{key}` does not go with this budget")),
            }
        }
        Ok(flag)
    }
}

/// `4ms@20GB/s`, `2mJ@100pJ/B`.
fn token(key: &str, value: &str) -> Option<Token> {
    let (limit, byte) = value.split_once('@')?;
    let (limit, price) = match key {
        "latency" => {
            let bandwidth = measured(byte, &[("GB/s", 1e9), ("MB/s", 1e6)])?;
            let limit = measured(limit, &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0)])?;
            (limit, Price::Seconds(1.0 / bandwidth))
        }
        _ => {
            let joules = measured(byte, &[("pJ/B", 1e-12), ("nJ/B", 1e-9)])?;
            let limit = measured(limit, &[("mJ", 1e-3), ("uJ", 1e-6), ("J", 1.0)])?;
            (limit, Price::Joules(joules))
        }
    };
    Some(Token { limit, price, cache_bytes: CACHE_BYTES })
}

/// A number with a unit, the first that fits.
fn measured(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (unit, factor) = units.iter().find(|(unit, _)| text.ends_with(unit))?;
    Some(positive(text.strip_suffix(unit)?)? * factor)
}

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_order() {
        let format = |name: &str| DType::from_name(name).expect("a format");
        let rules = [("z*", &["i4g32"][..]), ("a", &["e2m1row", "e1m2row"]), ("l0.wq", &["i8row"])];
        let rule = |(pattern, names): (&str, &[&str])| {
            (pattern.to_string(), names.iter().map(|name| format(name)).collect())
        };
        let recipe = Recipe { rules: rules.map(rule).to_vec() };
        assert_eq!(parse(&write(&recipe)), Ok(recipe));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, expected) in [
            ("[weights]\nembed = \"i9\"", "`embed`: \"i9\" is no format of weights"),
            ("[weights]\nembed = 4", "`embed`: expected the name of a format, in quotes"),
            ("[weights]\nembed = []", "`embed`: expected the name of a format, in quotes"),
            ("[weights]\nembed = [\"f16\", \"i9\"]", "`embed`: \"i9\" is no format of weights"),
            ("[weigths]\n", "`weigths` is no part of a recipe; [weights] is"),
            ("", "there is no [weights] in it"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn budgets_have_units() {
        let of = |text: &str| text.parse::<BudgetFlag>().map(|b| b.budget);
        assert_eq!(of("size=80M"), Ok(Budget::Bytes(80_000_000)));
        assert_eq!(of("size=1.5k"), Ok(Budget::Bytes(1500)));
        assert_eq!(of("bpw=4.5"), Ok(Budget::Bits(4.5)));
        let token =
            |limit, price, cache_bytes| Ok(Budget::Token(Token { limit, price, cache_bytes }));
        let seconds = Price::Seconds(1.0 / 20e9);
        assert_eq!(of("latency=4ms@20GB/s"), token(4.0 * 1e-3, seconds, CACHE_BYTES));
        let joules = Price::Joules(100.0 * 1e-12);
        assert_eq!(of("energy=2mJ@100pJ/B,cache=1M"), token(2.0 * 1e-3, joules, 1_000_000));
    }

    #[test]
    fn budgets_may_bound_the_rise_of_perplexity() {
        let flag: BudgetFlag = "size=80M,ppl=+3%".parse().expect("a budget");
        assert_eq!(flag, BudgetFlag { budget: Budget::Bytes(80_000_000), worse: Some(0.03) });
        for wrong in [
            "80M",
            "size=",
            "bpw=-1",
            "bpw=x",
            "speed=3",
            "latency=4ms",
            "latency=4@20GB/s",
            "energy=2mJ@100GB/s",
            "size=80M,ppl=3",
            "size=80M,cache=1M",
            "size=80M,kl=3",
        ] {
            assert!(wrong.parse::<BudgetFlag>().is_err(), "{wrong}");
        }
    }
}
