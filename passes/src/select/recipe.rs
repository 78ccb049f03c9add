//! Recipes: formats of weights by name.

use ir::{DType, Module};

/// Rules in order; of those that match a weight the last one holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// Pattern of names, where `*` stands for any characters, and a format; or several, of which each
    /// matrix has the one that loses least.
    pub rules: Vec<(String, Vec<DType>)>,
}

impl Recipe {
    /// The formats of a weight, if a rule matches.
    pub fn formats(&self, name: &str) -> Option<&[DType]> {
        let rule = self.rules.iter().rev().find(|(pattern, _)| matches(pattern, name));
        rule.map(|(_, formats)| &formats[..])
    }

    /// The format of a weight, if a rule matches: the first while several are open.
    pub fn format(&self, name: &str) -> Option<DType> {
        self.formats(name).and_then(|formats| formats.first().copied())
    }

    /// Whether a rule has the whole name of a weight, without a star.
    pub fn names(&self, name: &str) -> bool {
        self.rules.iter().any(|(pattern, _)| pattern == name)
    }

    /// The first pattern that no matrix of the module has.
    pub fn unmatched(&self, module: &Module) -> Option<&str> {
        let matrices = || module.weights.iter().filter(|w| w.dims.len() == 2);
        let unused =
            |(pattern, _): &&(String, Vec<DType>)| !matrices().any(|w| matches(pattern, &w.name));
        self.rules.iter().find(unused).map(|(pattern, _)| pattern.as_str())
    }

    /// The formats that the matrices of a module have, one rule each.
    pub fn resolved(module: &Module) -> Recipe {
        let read = ir::uses::read_by_graphs(module);
        let matrices =
            module.weights.iter().zip(read).filter(|(w, read)| *read && w.dims.len() == 2);
        Recipe { rules: matrices.map(|(w, _)| (w.name.clone(), vec![w.dtype])).collect() }
    }
}

/// Whether a name is as a pattern says; `*` is any number of any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::sample::Sample;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, expected) in [
            ("embed", "embed", true),
            ("embed", "embed2", false),
            ("*", "l0.wq", true),
            ("*.down", "l12.down", true),
            ("l1.*", "l12.down", false),
            ("l*.w*", "l3.wq", true),
            ("l*.w*", "l3.gate", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_last_rule_holds_and_every_rule_must_match_something() {
        let format = |name: &str| DType::from_name(name).expect("a format");
        let rules = [("*", "i4g32"), ("*.down", "i8row"), ("l0.*", "f16")];
        let recipe =
            Recipe { rules: rules.map(|(p, f)| (p.to_string(), vec![format(f)])).to_vec() };
        assert_eq!(recipe.format("l1.down"), Some(format("i8row")));
        assert_eq!(recipe.format("l0.down"), Some(format("f16")));
        assert!(!recipe.names("l1.down"));
        let module = Sample::default().module().expect("a valid sample");
        assert_eq!(recipe.unmatched(&module), None);
        let wrong = Recipe { rules: vec![("l9.*".into(), vec![format("f16")])] };
        assert_eq!(wrong.unmatched(&module), Some("l9.*"));
        // Gains are not matrices.
        let gains = Recipe { rules: vec![("*.norm1".into(), vec![format("f16")])] };
        assert_eq!(gains.unmatched(&module), Some("*.norm1"));
    }
}
