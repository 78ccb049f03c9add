//! A text as windows: what is fed, and from where on it counts.

use super::Scheme;

/// Tokens that are fed to a fresh conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens.
    pub tokens: Vec<i32>,
    /// The first position whose prediction counts.
    pub first: usize,
}

/// Cuts tokens into windows of `length`. Each begins with `bos` if there is one, in the place of
/// the token that was there.
pub fn windows(tokens: &[u32], length: usize, bos: Option<u32>, scheme: Scheme) -> Vec<Window> {
    let (shortest, first) = match scheme {
        Scheme::LlamaCpp => (length, length / 2),
        Scheme::Full => (2, 0),
    };
    let chunks = tokens.chunks(length).filter(|chunk| chunk.len() >= shortest);
    // A window of two has one prediction, which counts.
    let first = first.min(length - 2);
    let window = |chunk: &[u32]| {
        let mut tokens: Vec<i32> = chunk.iter().map(|&t| t as i32).collect();
        if let Some(bos) = bos {
            tokens[0] = bos as i32;
        }
        Window { tokens, first }
    };
    chunks.map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_cpp_scores_the_second_half_of_whole_windows() {
        let tokens: Vec<u32> = (0..19).collect();
        let found = windows(&tokens, 8, Some(99), Scheme::LlamaCpp);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].tokens, [99, 9, 10, 11, 12, 13, 14, 15]);
        // Predictions of positions 4, 5 and 6: n - n/2 - 1 of them.
        assert_eq!(found[1].first, 4);
    }

    #[test]
    fn full_scores_everything_that_has_a_past() {
        let tokens: Vec<u32> = (0..10).collect();
        let found = windows(&tokens, 4, None, Scheme::Full);
        let lengths: Vec<usize> = found.iter().map(|w| w.tokens.len()).collect();
        assert_eq!((lengths, found[0].first), (vec![4, 4, 2], 0));
        assert_eq!(windows(&tokens[..9], 4, None, Scheme::Full).len(), 2);
    }
}
