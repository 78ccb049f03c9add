//! What byte-pair merging comes to, so that it need not be carried out.
//!
//! A text has been merged to its end exactly if each two neighbours among its tokens are what
//! merging makes of their own bytes (the theorem behind GitHub's `bpe` crate, 2024; merges of one
//! segment go their way until a merge crosses its border). So a tokenizer may guess, longest token
//! first, and only has to know whether two tokens can stand side by side.
//!
//! That is found by undoing, step by step, the later of the last merges of both sides, and looking
//! whether the two symbols that then touch would have merged before it. The merges of a segment
//! happen in the order of the *running maximum* of their ranks, those of the left segment first
//! among equals; a merge between segments overtakes what is undone if its rank is below the largest
//! rank since those two symbols touched. Where ranks only grow from a token's parts to the token,
//! as in vocabularies that were trained, both numbers are the rank of the token's last merge; merges
//! that were derived from scores have exceptions, for which both are kept.

use std::collections::HashMap;

/// A merge: two neighbours become one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The token before.
    pub left: u32,
    /// The token after.
    pub right: u32,
    /// What they become.
    pub result: u32,
}

/// How a token comes about when nothing but its own bytes is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its bytes become other tokens: it never occurs.
    Never,
    /// It is there from the start.
    Symbol,
    /// The last merge.
    Merge(Last),
}

/// The last merge of a token. Ranks start from 1, on a scale of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The left part.
    pub left: u32,
    /// The right part.
    pub right: u32,
    /// Largest rank of all merges.
    pub order: u32,
    /// Largest rank since the left part was whole.
    pub since_left: u32,
    /// Largest rank since the right part was whole.
    pub since_right: u32,
}

/// A vocabulary's merges, looked through.
#[derive(Debug)]
pub struct Merges {
    /// Of each token.
    pub origins: Vec<Origin>,
    /// Pairs of tokens that occur and merge, with their ranks.
    pub pairs: Vec<(u32, u32, u32)>,
    /// Whether some token's merges are not in the order of their ranks.
    pub uneven: bool,
}

/// Rank and result of each pair that merges.
type Ranks = HashMap<(u32, u32), (u32, u32)>;

/// Steps of one token's merging.
struct History {
    /// Where the last merge cut it, and its two parts.
    cut: usize,
    parts: (u32, u32),
    /// Of each merge: where its result starts, and its rank.
    steps: Vec<(usize, u32)>,
}

/// Looks through the merges of a vocabulary: `tokens` are the bytes of each token that text can
/// lead to, `symbol` how many of the first bytes of a text are one symbol.
pub fn analyse(tokens: &[Option<Vec<u8>>], merges: &[Merge], symbol: fn(&[u8]) -> usize) -> Merges {
    let symbols: HashMap<&[u8], u32> = tokens
        .iter()
        .enumerate()
        .filter_map(|(id, bytes)| Some((bytes.as_deref()?, id as u32)))
        .filter(|(bytes, _)| !bytes.is_empty() && symbol(bytes) == bytes.len())
        .collect();
    let mut ranks = Ranks::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        // Of equal pairs the last one counts, as in the `tokenizers` crate.
        ranks.insert((merge.left, merge.right), (rank as u32, merge.result));
    }
    let split = |bytes: &[u8]| -> Option<Vec<u32>> {
        let (mut rest, mut found) = (bytes, vec![]);
        while !rest.is_empty() {
            let (one, after) = rest.split_at(symbol(rest));
            found.push(*symbols.get(one)?);
            rest = after;
        }
        Some(found)
    };
    let origin = |(id, bytes): (usize, &Option<Vec<u8>>)| {
        let bytes = bytes.as_deref().filter(|bytes| !bytes.is_empty());
        match bytes.and_then(split) {
            Some(symbols) => origin(symbols, id as u32, &ranks),
            None => Origin::Never,
        }
    };
    scaled(tokens.iter().enumerate().map(origin).collect(), &ranks)
}

/// The origin of a token with these symbols, ranks as they are.
fn origin(symbols: Vec<u32>, token: u32, ranks: &Ranks) -> Origin {
    if symbols.len() == 1 {
        return if symbols[0] == token { Origin::Symbol } else { Origin::Never };
    }
    let Some(history) = merged(symbols, token, ranks) else { return Origin::Never };
    let largest = |steps: &[(usize, u32)]| steps.iter().map(|step| step.1).max().unwrap_or(0);
    let since = |left: bool| {
        let parts = &history.steps[..history.steps.len() - 1];
        let whole = parts.iter().rposition(|step| (step.0 < history.cut) == left);
        largest(&history.steps[whole.map_or(0, |at| at + 1)..])
    };
    Origin::Merge(Last {
        left: history.parts.0,
        right: history.parts.1,
        order: largest(&history.steps),
        since_left: since(true),
        since_right: since(false),
    })
}

/// Merges symbols, lowest rank first and leftmost among equals; `None` unless `token` is the end.
fn merged(symbols: Vec<u32>, token: u32, ranks: &Ranks) -> Option<History> {
    let mut at: Vec<(usize, u32)> = symbols.into_iter().enumerate().collect();
    let pair = |at: &[(usize, u32)], i: usize| {
        let (left, right) = (at.get(i)?.1, at.get(i + 1)?.1);
        ranks.get(&(left, right)).copied()
    };
    let mut pairs: Vec<Option<(u32, u32)>> = (0..at.len() - 1).map(|i| pair(&at, i)).collect();
    let (mut steps, mut last) = (vec![], None);
    while let Some((i, (rank, result))) = pairs
        .iter()
        .enumerate()
        .filter_map(|(i, pair)| Some((i, (*pair)?)))
        .min_by_key(|(i, (rank, _))| (*rank, *i))
    {
        steps.push((at[i].0, rank));
        last = Some((at[i + 1].0, (at[i].1, at[i + 1].1)));
        at[i].1 = result;
        at.remove(i + 1);
        pairs.remove(i);
        for i in [i.wrapping_sub(1), i] {
            if let Some(slot) = pairs.get_mut(i) {
                *slot = pair(&at, i);
            }
        }
    }
    let (cut, parts) = last?;
    (at.len() == 1 && at[0].1 == token).then_some(History { cut, parts, steps })
}

/// Brings ranks to a dense scale from 1 that keeps every comparison of a pair with a limit.
fn scaled(mut origins: Vec<Origin>, ranks: &Ranks) -> Merges {
    let lasts = origins.iter().filter_map(|origin| match origin {
        Origin::Merge(last) => Some(last),
        _ => None,
    });
    let uneven = lasts.clone().any(|l| l.order != l.since_left || l.order != l.since_right);
    let mut limits: Vec<u32> =
        lasts.flat_map(|last| [last.order, last.since_left, last.since_right]).collect();
    limits.sort_unstable();
    limits.dedup();
    let occurs = |id: u32| origins.get(id as usize).is_some_and(|o| *o != Origin::Never);
    let mut pairs: Vec<(u32, u32, u32)> = ranks
        .iter()
        .filter(|((left, right), _)| occurs(*left) && occurs(*right))
        .map(|(&(left, right), &(rank, _))| (left, right, rank))
        .collect();
    pairs.sort_unstable();
    let between = pairs.iter().any(|pair| limits.binary_search(&pair.2).is_err());
    let scale = |rank: &mut u32| {
        *rank = match (limits.binary_search(rank), between) {
            (Ok(at), false) => at as u32 + 1,
            (Ok(at), true) => 2 * at as u32 + 2,
            (Err(at), _) => 2 * at as u32 + 1,
        }
    };
    for origin in &mut origins {
        if let Origin::Merge(last) = origin {
            [&mut last.order, &mut last.since_left, &mut last.since_right]
                .into_iter()
                .for_each(scale);
        }
    }
    pairs.iter_mut().for_each(|pair| scale(&mut pair.2));
    Merges { origins, pairs, uneven }
}
