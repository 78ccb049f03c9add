//! Formats of all matrices within a budget.

use super::budget::{Choice, choose};
use super::sensitivity::{self, Row};
use super::traffic::{Reads, reads};
use super::{BUDGET, PASS, Recipe, made_by_a_pass};
use crate::{Context, PassError};
use ir::uses::read_by_graphs;
use ir::{DType, Module, WeightId};

/// What all weights may take together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bytes of everything that is stored.
    Bytes(u64),
    /// Bits by parameter.
    Bits(f64),
    /// What one decoded token may cost.
    Token(Token),
}

/// A limit for what a decoded token reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    /// Seconds or joules.
    pub limit: f64,
    /// What a byte from memory costs.
    pub price: Price,
    /// Bytes that stay in a cache between two reads.
    pub cache_bytes: u64,
}

/// What one byte from memory costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Price {
    /// Seconds.
    Seconds(f64),
    /// Joules.
    Joules(f64),
}

impl Price {
    fn of_a_byte(self) -> f64 {
        match self {
            Price::Seconds(x) | Price::Joules(x) => x,
        }
    }
}

impl Budget {
    /// The limit in bytes: stored ones, or those from memory that cost as much.
    fn limit(self, elements: u64) -> u64 {
        match self {
            Budget::Bytes(bytes) => bytes,
            Budget::Bits(bits) => (bits / 8.0 * elements as f64) as u64,
            Budget::Token(token) => (token.limit / token.price.of_a_byte()) as u64,
        }
    }

    /// What so many bytes are, in words.
    fn words(self, bytes: u64) -> String {
        match self {
            Budget::Bytes(_) | Budget::Bits(_) => format!("{bytes} bytes"),
            Budget::Token(token) => {
                let (unit, price) = match token.price {
                    Price::Seconds(x) => ("ms", x),
                    Price::Joules(x) => ("mJ", x),
                };
                format!("{:.3} {unit} a token", bytes as f64 * price * 1e3)
            }
        }
    }
}

/// What a weight costs that is stored in so many bytes.
struct Costs<'m> {
    module: &'m Module,
    reads: Vec<Reads>,
    budget: Budget,
}

impl Costs<'_> {
    fn of(&self, id: WeightId, dtype: DType) -> u64 {
        let weight = self.module.weight(id);
        let bytes = sensitivity::bytes(&weight.dims, dtype);
        match self.budget {
            Budget::Bytes(_) | Budget::Bits(_) => bytes,
            Budget::Token(token) => {
                self.reads[id.0 as usize].cost(weight, bytes, token.cache_bytes)
            }
        }
    }
}

/// Weights that are stored.
fn stored(module: &Module) -> Vec<WeightId> {
    let read = read_by_graphs(module);
    (0..module.weights.len() as u32).map(WeightId).filter(|id| read[id.0 as usize]).collect()
}

fn elements(module: &Module, ids: &[WeightId]) -> u64 {
    ids.iter().map(|&id| module.weight(id).elements()).sum()
}

/// Formats that the budget allows for all matrices together, the largest first.
pub fn uniform_within(module: &Module, budget: Budget) -> Vec<DType> {
    let costs = Costs { module, reads: reads(module), budget };
    let ids = stored(module);
    let limit = budget.limit(elements(module, &ids));
    let cost = |&dtype: &DType| {
        let format = |id| match module.weight(id).dims.len() {
            2 => dtype,
            _ => DType::F32,
        };
        ids.iter().map(|&id| costs.of(id, format(id))).sum::<u64>()
    };
    let all = sensitivity::CANDIDATES.iter().filter_map(|name| DType::from_name(name));
    let mut all: Vec<DType> = all.filter(|dtype| cost(dtype) <= limit).collect();
    all.sort_by_key(|dtype| std::cmp::Reverse(cost(dtype)));
    all
}

/// Formats within a budget; a table of what was chosen.
pub fn within(
    module: &Module,
    context: &Context<'_>,
    pinned: &Recipe,
    budget: Budget,
) -> Result<(Recipe, Vec<String>), PassError> {
    let Some(lab) = context.lab else {
        let why = "a budget is spent by what activations say: a calibration text is needed".into();
        return Err(PassError { pass: PASS, why });
    };
    let costs = Costs { module, reads: reads(module), budget };
    let mut rows = sensitivity::table(module, lab, context.round)?;
    rows.iter_mut().for_each(|row| leave_open(row, module, pinned, context.uniform, &costs));
    let stored = stored(module);
    let limit = budget.limit(elements(module, &stored));
    let others = stored.into_iter().filter(|id| rows.iter().all(|row| row.weight != *id));
    let (mut recipe, rest) = fixed(module, others, &costs);
    let choices: Vec<Vec<Choice>> =
        rows.iter().map(|row| row.choices.iter().map(|(_, choice)| *choice).collect()).collect();
    let Some(chosen) = choose(&choices, limit.saturating_sub(rest)) else {
        let least = choices.iter().filter_map(|row| row.iter().map(|c| c.cost).min());
        let least = budget.words(least.sum::<u64>() + rest);
        let why =
            format!("a budget of {}, but no formats need less than {least}", budget.words(limit));
        return Err(PassError { pass: BUDGET, why });
    };
    let mut log = vec![];
    let (mut spent, mut loss) = (rest, 0.0);
    for (row, &at) in rows.iter().zip(&chosen) {
        let (dtype, choice) = row.choices[at];
        let weight = module.weight(row.weight);
        let bytes = sensitivity::bytes(&weight.dims, dtype);
        log.push(format!(
            "${:<12} {dtype:<6} {bytes:>10} bytes  loss {:.6}",
            weight.name, choice.loss
        ));
        recipe.rules.push((weight.name.clone(), vec![dtype]));
        (spent, loss) = (spent + choice.cost, loss + choice.loss);
    }
    let (spent, limit) = (budget.words(spent), budget.words(limit));
    log.push(format!("{spent} of {limit}, predicted loss {loss:.6} nats"));
    Ok((recipe, log))
}

/// Leaves a matrix the formats that the recipe, or one format for all, allows it, and says what each
/// costs.
fn leave_open(
    row: &mut Row,
    module: &Module,
    pinned: &Recipe,
    uniform: Option<DType>,
    costs: &Costs<'_>,
) {
    let Row { weight, choices } = row;
    if let Some(pinned) = pinned.format(&module.weight(*weight).name) {
        *choices = vec![(pinned, Choice { cost: 0, loss: 0.0 })];
    }
    if let Some(uniform) = uniform
        && choices.iter().any(|(dtype, _)| *dtype == uniform)
    {
        choices.retain(|(dtype, _)| *dtype == uniform);
    }
    for (dtype, choice) in choices {
        choice.cost = costs.of(*weight, *dtype);
    }
}

/// Rules for what the table does not list, matrices that passes made and vectors, and what all of these
/// cost.
fn fixed(
    module: &Module,
    others: impl Iterator<Item = WeightId>,
    costs: &Costs<'_>,
) -> (Recipe, u64) {
    let (mut recipe, mut cost) = (Recipe::default(), 0);
    for id in others {
        let format = made_by_a_pass(module.weight(id)).unwrap_or(DType::F32);
        cost += costs.of(id, format);
        if module.weight(id).dims.len() == 2 {
            recipe.rules.push((module.weight(id).name.clone(), vec![format]));
        }
    }
    (recipe, cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_bytes_and_words_are_what_was_asked() {
        let token = |limit, price| Budget::Token(Token { limit, price, cache_bytes: 0 });
        let latency = token(4e-3, Price::Seconds(1.0 / 20e9));
        assert_eq!(latency.limit(7), 80_000_000);
        assert_eq!(latency.words(40_000_000), "2.000 ms a token");
        let energy = token(2e-3, Price::Joules(100e-12));
        assert_eq!(energy.limit(7), 20_000_000);
        assert_eq!(energy.words(1_000_000), "0.100 mJ a token");
        assert_eq!(Budget::Bits(4.0).limit(100), 50);
        assert_eq!(Budget::Bytes(9).words(9), "9 bytes");
    }
}
