//! One choice for each weight, so that the cost stays within a budget and little is lost.
//!
//! Only choices on the lower hull of loss over cost can be best for some price of a byte. A price is
//! found by bisection at which the best choices just fit; what room is left is spent greedily, and
//! pairs of choices are exchanged as long as that helps.

/// One way to store a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Bytes, or whatever the budget is of.
    pub cost: u64,
    /// What is lost, in nats or whatever else adds up.
    pub loss: f64,
}

/// The index of the choice for each weight; `None` if even the cheapest of all do not fit.
pub fn choose(weights: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let hulls: Vec<Vec<usize>> = weights.iter().map(|choices| hull(choices)).collect();
    let cost = |chosen: &[usize]| -> u64 {
        chosen.iter().zip(weights).map(|(&i, choices)| choices[i].cost).sum()
    };
    let cheapest: Vec<usize> =
        hulls.iter().map(|hull| hull.first().copied()).collect::<Option<_>>()?;
    if cost(&cheapest) > budget {
        return None;
    }
    let at_price = |price: f64| -> Vec<usize> {
        let best = |(hull, choices): (&Vec<usize>, &Vec<Choice>)| {
            let total = |i: usize| choices[i].loss + price * choices[i].cost as f64;
            *hull.iter().min_by(|&&a, &&b| total(a).total_cmp(&total(b))).expect("not empty")
        };
        hulls.iter().zip(weights).map(best).collect()
    };
    // Prices are positive and span many octaves: bisect their logarithm.
    let (mut low, mut high) = (-200f64, 200f64);
    let mut chosen = cheapest;
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        let candidate = at_price(middle.exp2());
        if cost(&candidate) <= budget {
            (chosen, high) = (candidate, middle);
        } else {
            low = middle;
        }
    }
    spend(weights, budget, &mut chosen);
    while exchange(weights, budget, &mut chosen) {
        spend(weights, budget, &mut chosen);
    }
    Some(chosen)
}

/// Indices on the lower convex hull, from the cheapest to the best.
fn hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    let key = |i: usize| (choices[i].cost, choices[i].loss);
    order.sort_by(|&a, &b| key(a).0.cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1)));
    let slope = |a: usize, b: usize| {
        (choices[b].loss - choices[a].loss) / (choices[b].cost - choices[a].cost).max(1) as f64
    };
    let mut hull: Vec<usize> = vec![];
    for i in order {
        if hull.last().is_some_and(|&last| choices[i].loss >= choices[last].loss) {
            continue;
        }
        while let [.., a, b] = hull[..]
            && slope(a, b) >= slope(b, i)
        {
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

/// Takes, as long as it fits, the change that gains most for what it costs; off the hull too.
fn spend(weights: &[Vec<Choice>], budget: u64, chosen: &mut [usize]) {
    let mut left =
        budget - chosen.iter().zip(weights).map(|(&i, choices)| choices[i].cost).sum::<u64>();
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (w, choices) in weights.iter().enumerate() {
            let now = choices[chosen[w]];
            for (i, choice) in choices.iter().enumerate() {
                let more = choice.cost.saturating_sub(now.cost);
                let gain = now.loss - choice.loss;
                let rate = gain / more.max(1) as f64;
                if gain > 0.0 && more <= left && best.is_none_or(|(r, ..)| rate > r) {
                    best = Some((rate, w, i));
                }
            }
        }
        let Some((_, w, i)) = best else { return };
        left = left + weights[w][chosen[w]].cost - weights[w][i].cost;
        chosen[w] = i;
    }
}

/// Changes two choices at once where that loses less and fits; of all such pairs the best.
fn exchange(weights: &[Vec<Choice>], budget: u64, chosen: &mut [usize]) -> bool {
    let spent: u64 = chosen.iter().zip(weights).map(|(&i, choices)| choices[i].cost).sum();
    let changes: Vec<(usize, usize, i64, f64)> = weights
        .iter()
        .enumerate()
        .flat_map(|(w, choices)| {
            let now = choices[chosen[w]];
            let change = move |(i, c): (usize, &Choice)| {
                (w, i, c.cost as i64 - now.cost as i64, c.loss - now.loss)
            };
            choices.iter().enumerate().map(change)
        })
        .collect();
    let room = (budget - spent) as i64;
    let mut best = (-1e-12, None);
    for more in changes.iter().filter(|c| c.3 < 0.0 && c.2 > room) {
        for less in changes.iter().filter(|c| c.2 < 0 && c.0 != more.0) {
            let loss = more.3 + less.3;
            if more.2 + less.2 <= room && loss < best.0 {
                best = (loss, Some((*more, *less)));
            }
        }
    }
    let Some((more, less)) = best.1 else { return false };
    chosen[more.0] = more.1;
    chosen[less.0] = less.1;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::random::mix;

    /// Weights of different sizes and sensitivities with a few formats each.
    fn weights(seed: u64, count: usize) -> Vec<Vec<Choice>> {
        let weight = |w: usize| {
            let random = |n: u64| mix(seed * 1000 + w as u64 * 10 + n);
            let (size, sensitivity) = (random(1) % 50 + 1, (random(2) % 1000) as f64 / 100.0);
            let bits = [2u64, 3, 4, 6, 8];
            let choice = |&b: &u64| Choice {
                cost: size * b,
                loss: sensitivity
                    * size as f64
                    * (-2.0 * b as f64).exp2()
                    * (1.0 + (random(b) % 8) as f64 / 16.0),
            };
            bits.iter().map(choice).collect()
        };
        (0..count).map(weight).collect()
    }

    fn totals(weights: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let picked = chosen.iter().zip(weights).map(|(&i, choices)| choices[i]);
        picked.fold((0, 0.0), |(cost, loss), c| (cost + c.cost, loss + c.loss))
    }

    /// Every combination.
    fn exact(weights: &[Vec<Choice>], budget: u64) -> f64 {
        let Some((first, rest)) = weights.split_first() else { return 0.0 };
        let with = |c: &Choice| match c.cost <= budget {
            true => c.loss + exact(rest, budget - c.cost),
            false => f64::INFINITY,
        };
        first.iter().map(with).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn it_is_near_the_best_of_all_combinations_and_within_the_budget() {
        let (mut total, mut count) = (0.0, 0);
        for seed in 0..20 {
            let weights = weights(seed, 7);
            let most: u64 = weights.iter().map(|w| w[4].cost).sum();
            // One weight's whole range is more than what a price can leave unspent.
            let step = weights.iter().map(|w| w[4].cost - w[0].cost).max().expect("weights");
            for part in 1..8 {
                let budget = most / 4 + (most - most / 4) * part / 8;
                let chosen = choose(&weights, budget).expect("two bits fit");
                let (cost, loss) = totals(&weights, &chosen);
                assert!(cost <= budget, "{cost} of {budget}");
                assert!(loss <= exact(&weights, budget - step.min(budget)) + 1e-12);
                (total, count) = (total + loss / exact(&weights, budget), count + 1);
            }
        }
        let mean = total / f64::from(count);
        assert!(mean < 1.05, "{mean} times the best loss on average");
    }

    #[test]
    fn more_room_never_loses_more_and_mixed_beats_uniform() {
        let weights = weights(3, 40);
        let mut before = f64::INFINITY;
        for uniform in 0..5 {
            let (budget, same) = totals(&weights, &vec![uniform; weights.len()]);
            let chosen = choose(&weights, budget).expect("fits");
            let (cost, loss) = totals(&weights, &chosen);
            assert!(cost <= budget && loss <= same && loss <= before);
            before = loss;
        }
    }

    #[test]
    fn what_cannot_fit_is_said() {
        let weights = weights(1, 3);
        let least: u64 = weights.iter().map(|w| w[0].cost).sum();
        assert_eq!(choose(&weights, least - 1), None);
        assert_eq!(choose(&weights, least), Some(vec![0; 3]));
    }
}
