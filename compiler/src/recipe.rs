//! Recipe files: formats of weights by name, as TOML.
//!
//! ```toml
//! [weights]           # later lines win; * is any number of any characters
//! "*" = "i4g32"
//! "l0.*" = "i8row"
//! "embed" = "i8row"
//! ```

use crate::Error;
use ir::{DType, IntFormat};
use passes::select::{Budget, Recipe};
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
    let rule = |(pattern, format): (&String, &toml::Value)| {
        let toml::Value::String(name) = format else {
            return Err(format!("`{pattern}`: expected the name of a format, in quotes"));
        };
        match DType::from_name(name).filter(|dtype| dtype.holds_weights()) {
            Some(dtype) => Ok((pattern.clone(), dtype)),
            None => Err(format!(
                "`{pattern}`: \"{name}\" is no format of weights; f32, f16, bf16, {} are",
                IntFormat::NAMES
            )),
        }
    };
    Ok(Recipe { rules: weights.iter().map(rule).collect::<Result<_, _>>()? })
}

/// A recipe as a file has it.
pub fn write(recipe: &Recipe) -> String {
    let line = |(name, dtype): &(String, DType)| format!("\"{name}\" = \"{dtype}\"\n");
    let lines: String = recipe.rules.iter().map(line).collect();
    format!("# Later lines win; * is any number of any characters.\n[weights]\n{lines}")
}

/// What `--budget` says: `size=80M` or `bpw=4.5`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetFlag(pub Budget);

impl FromStr for BudgetFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<BudgetFlag, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
        match key {
            "bpw" => number(value).map(Budget::Bits),
            "size" => {
                let units = [("k", 1e3), ("M", 1e6), ("G", 1e9), ("", 1.0)];
                let unit = units.iter().find(|(unit, _)| value.ends_with(unit));
                let (unit, factor) = unit.copied().unwrap_or(("", 1.0));
                number(value.strip_suffix(unit).unwrap_or(value))
                    .map(|x| Budget::Bytes((x * factor) as u64))
            }
            _ => None,
        }
        .map(BudgetFlag)
        .ok_or_else(|| "expected size=BYTES, as in size=80M, or bpw=BITS".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_order() {
        let format = |name: &str| DType::from_name(name).expect("a format");
        let rules = [("z*", "i4g32"), ("a", "f16"), ("l0.wq", "i8row")];
        let recipe = Recipe { rules: rules.map(|(p, f)| (p.to_string(), format(f))).to_vec() };
        assert_eq!(parse(&write(&recipe)), Ok(recipe));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, expected) in [
            ("[weights]\nembed = \"i9\"", "`embed`: \"i9\" is no format of weights"),
            ("[weights]\nembed = 4", "`embed`: expected the name of a format, in quotes"),
            ("[weigths]\n", "`weigths` is no part of a recipe; [weights] is"),
            ("", "there is no [weights] in it"),
        ] {
            assert_eq!(parse(text), Err(expected.to_string()));
        }
    }

    #[test]
    fn budgets_have_units() {
        let of = |text: &str| text.parse::<BudgetFlag>().map(|b| b.0);
        assert_eq!(of("size=80M"), Ok(Budget::Bytes(80_000_000)));
        assert_eq!(of("size=1.5k"), Ok(Budget::Bytes(1500)));
        assert_eq!(of("bpw=4.5"), Ok(Budget::Bits(4.5)));
        for wrong in ["80M", "size=", "bpw=-1", "bpw=x", "speed=3"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
