//! Hadamard matrices of every width that Sylvester and Paley can build, and the fast transform.
//!
//! `H = A ⊗ S` of order `outer · inner`: `S` is Sylvester's of the largest power of two that leaves
//! an order which Paley's constructions have. Orders are `q + 1` for a prime power `q ≡ 3 mod 4`
//! (first construction) and `2 (q + 1)` for `q ≡ 1 mod 4` (second), with `q` a prime, its square or
//! its cube: 576 = 36 · 16, 1536 = 12 · 128. Paley, "On orthogonal matrices", 1933.

use crate::random::signs;

/// Largest order that is built.
pub const ORDER_MAX: u64 = 1 << 16;

/// A Hadamard matrix `A ⊗ S`, applied to rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Hadamard {
    /// Order of `A`: 1, or one of Paley's.
    pub outer: usize,
    /// Order of `S`, a power of two.
    pub inner: usize,
    /// `A`, row-major: -1 or 1.
    pub signs: Vec<i8>,
}

impl Hadamard {
    /// The matrix of that order; `None` if these constructions have none.
    pub fn new(order: u64) -> Option<Hadamard> {
        let (outer, inner) = factors(order)?;
        let signs = if outer == 1 { vec![1] } else { paley(outer)? };
        Some(Hadamard { outer: outer as usize, inner: inner as usize, signs })
    }

    /// Whether there is one of that order.
    pub fn exists(order: u64) -> bool {
        factors(order).is_some()
    }

    /// Rows and columns.
    pub fn order(&self) -> usize {
        self.outer * self.inner
    }

    /// `row ← row · H / √order`: `row` seen as `outer × inner` becomes `Aᵀ · row · S`.
    pub fn apply(&self, row: &mut [f64]) {
        row.chunks_mut(self.inner).for_each(sylvester);
        let scale = 1.0 / (self.order() as f64).sqrt();
        let mut mixed = vec![0.0; row.len()];
        for (a, from) in row.chunks(self.inner).enumerate() {
            for (b, to) in mixed.chunks_mut(self.inner).enumerate() {
                let sign = f64::from(self.signs[a * self.outer + b]) * scale;
                to.iter_mut().zip(from).for_each(|(to, from)| *to += sign * from);
            }
        }
        row.copy_from_slice(&mixed);
    }
}

/// An orthonormal matrix `R = D · H / √n` that rows are multiplied with: `D` are random signs, or
/// none without a seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    signs: Option<Vec<f64>>,
    hadamard: Hadamard,
}

impl Signed {
    /// The matrix of that order and seed; `None` if there is no Hadamard matrix of that order.
    pub fn new(order: u64, seed: Option<u64>) -> Option<Signed> {
        let hadamard = Hadamard::new(order)?;
        Some(Signed { signs: seed.map(|seed| signs(seed, hadamard.order())), hadamard })
    }

    /// `row ← row · R`.
    pub fn apply(&self, row: &mut [f64]) {
        if let Some(signs) = &self.signs {
            row.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
        }
        self.hadamard.apply(row);
    }
}

/// `x ← x · S`, not scaled.
fn sylvester(x: &mut [f64]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// Orders of `A` and `S`.
fn factors(order: u64) -> Option<(u64, u64)> {
    if order == 0 || order > ORDER_MAX {
        return None;
    }
    let powers = (0..=order.trailing_zeros()).rev().map(|p| (order >> p, 1 << p));
    powers.into_iter().find(|&(outer, _)| outer == 1 || constructions(outer).is_some())
}

/// The field that Paley's matrix of that order is made of, and which construction.
fn constructions(order: u64) -> Option<(Field, Construction)> {
    if !order.is_multiple_of(4) {
        return None;
    }
    let first = Field::of(order - 1).filter(|f| f.order() % 4 == 3);
    let second = || Field::of(order / 2 - 1).filter(|f| f.order() % 4 == 1);
    first
        .map(|field| (field, Construction::First))
        .or_else(|| second().map(|field| (field, Construction::Second)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Construction {
    First,
    Second,
}

/// Paley's matrix of that order, row-major.
fn paley(order: u64) -> Option<Vec<i8>> {
    let (field, construction) = constructions(order)?;
    let core = field.bordered();
    let n = field.order() as usize + 1;
    let order = order as usize;
    let mut matrix = vec![0; order * order];
    for i in 0..n {
        for j in 0..n {
            let (s, diagonal) = (core[i * n + j], i8::from(i == j));
            match construction {
                // I + S, where S is skew.
                Construction::First => {
                    let skew = if j == 0 && i > 0 { -s } else { s };
                    matrix[i * order + j] = skew + diagonal;
                }
                // S ⊗ [1 1; 1 -1] + I ⊗ [1 -1; -1 -1], where S is symmetric.
                Construction::Second => {
                    let block = [s + diagonal, s - diagonal, s - diagonal, -s - diagonal];
                    for (at, x) in block.into_iter().enumerate() {
                        matrix[(2 * i + at / 2) * order + 2 * j + at % 2] = x;
                    }
                }
            }
        }
    }
    Some(matrix)
}

/// The finite field of `prime^degree` elements, polynomials of degree below `degree` written as
/// numbers in base `prime`.
struct Field {
    prime: u64,
    degree: u32,
    /// What `x^degree` is, as an element.
    reduced: u64,
}

impl Field {
    /// The field of that many elements, if `order` is an odd prime, its square or its cube.
    fn of(order: u64) -> Option<Field> {
        (1..=3).find_map(|degree| {
            let prime = (order as f64).powf(1.0 / f64::from(degree)).round() as u64;
            if prime < 3 || prime.checked_pow(degree) != Some(order) || !is_prime(prime) {
                return None;
            }
            let plain = |reduced| Field { prime, degree, reduced };
            // Of degree 2 and 3, a polynomial without roots has no factors.
            (0..order).map(plain).find(|f| degree == 1 || !f.has_root())
        })
    }

    fn order(&self) -> u64 {
        self.prime.pow(self.degree)
    }

    fn digits(&self, element: u64) -> Vec<u64> {
        (0..self.degree).map(|i| element / self.prime.pow(i) % self.prime).collect()
    }

    fn element(&self, digits: &[u64]) -> u64 {
        digits.iter().rev().fold(0, |e, digit| e * self.prime + digit)
    }

    /// Whether `x^degree - reduced` is zero somewhere in the prime field.
    fn has_root(&self) -> bool {
        let reduced = self.digits(self.reduced);
        let power = |x: u64, n: u32| (0..n).fold(1, |p, _| p * x % self.prime);
        (0..self.prime).any(|x| {
            let sum: u64 = reduced.iter().zip(0..).map(|(c, i)| c * power(x, i)).sum();
            sum % self.prime == power(x, self.degree)
        })
    }

    fn subtract(&self, a: u64, b: u64) -> u64 {
        let pairs = self.digits(a).into_iter().zip(self.digits(b));
        self.element(&pairs.map(|(a, b)| (a + self.prime - b) % self.prime).collect::<Vec<_>>())
    }

    fn square(&self, a: u64) -> u64 {
        let (a, reduced, degree) =
            (self.digits(a), self.digits(self.reduced), self.degree as usize);
        let mut product = vec![0; 2 * degree];
        for (i, x) in a.iter().enumerate() {
            for (j, y) in a.iter().enumerate() {
                product[i + j] = (product[i + j] + x * y) % self.prime;
            }
        }
        for top in (degree..2 * degree).rev() {
            for (i, r) in reduced.iter().enumerate() {
                product[top - degree + i] =
                    (product[top - degree + i] + product[top] * r) % self.prime;
            }
            product[top] = 0;
        }
        self.element(&product[..degree])
    }

    /// `[0 1…; 1… Q]` with `Q[i][j]` 1 where `i - j` is a square, -1 where it is none, 0 at `i = j`.
    fn bordered(&self) -> Vec<i8> {
        let q = self.order();
        let mut character = vec![-1i8; q as usize];
        (1..q).for_each(|x| character[self.square(x) as usize] = 1);
        character[0] = 0;
        let n = q as usize + 1;
        let mut matrix = vec![1; n * n];
        matrix[0] = 0;
        for i in 0..q {
            for j in 0..q {
                matrix[(i as usize + 1) * n + j as usize + 1] =
                    character[self.subtract(i, j) as usize];
            }
        }
        matrix
    }
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Widths of models, and orders of every construction: 28 needs the field of 27 elements, 100
    /// that of 49, 344 that of 343.
    const ORDERS: &[u64] = &[
        1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 40, 44, 52, 60, 64, 68, 76, 100, 128, 148, 344, 576,
        960, 1152, 1536, 1600,
    ];

    #[test]
    fn rows_are_orthogonal() {
        for &order in ORDERS {
            let h = Hadamard::new(order).unwrap_or_else(|| panic!("no Hadamard of {order}"));
            assert_eq!(h.order() as u64, order);
            let n = h.outer;
            for i in 0..n {
                for j in 0..n {
                    let row = |i: usize| h.signs[i * n..][..n].iter().map(|&s| i32::from(s));
                    let dot: i32 = row(i).zip(row(j)).map(|(a, b)| a * b).sum();
                    assert_eq!(dot, if i == j { n as i32 } else { 0 }, "{order}: {i} {j}");
                }
            }
        }
    }

    #[test]
    fn the_largest_power_of_two_is_taken_out() {
        for (order, outer) in [(576, 36), (1536, 12), (64, 1), (960, 60), (2560, 20), (4864, 76)] {
            assert_eq!(factors(order).map(|f| f.0), Some(outer), "{order}");
        }
        for order in [0, 3, 6, 9, 18, 92, 172, ORDER_MAX * 2] {
            assert!(!Hadamard::exists(order), "{order}");
        }
    }

    #[test]
    fn the_fast_transform_keeps_lengths_and_is_the_matrix() {
        for order in [1u64, 2, 12, 36, 48, 64] {
            for seed in [None, Some(3)] {
                let r = Signed::new(order, seed).unwrap();
                let n = order as usize;
                let rows: Vec<Vec<f64>> = (0..n)
                    .map(|i| {
                        let mut row = vec![0.0; n];
                        row[i] = 1.0;
                        r.apply(&mut row);
                        row
                    })
                    .collect();
                for (i, a) in rows.iter().enumerate() {
                    for (j, b) in rows.iter().enumerate() {
                        let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                        assert!((dot - f64::from(i == j)).abs() < 1e-12, "{order} {seed:?}");
                    }
                }
                let x: Vec<f64> = (0..n).map(|i| (i as f64).sin()).collect();
                let mut fast = x.clone();
                r.apply(&mut fast);
                for (j, found) in fast.iter().enumerate() {
                    let expected: f64 = x.iter().zip(&rows).map(|(x, row)| x * row[j]).sum();
                    assert!((found - expected).abs() < 1e-12, "{order} {seed:?}");
                }
            }
        }
    }

    #[test]
    fn seeds_differ() {
        let apply = |seed| {
            let mut row: Vec<f64> = (0..12).map(f64::from).collect();
            Signed::new(12, seed).unwrap().apply(&mut row);
            row
        };
        assert_ne!(apply(Some(0)), apply(Some(1)));
        assert_ne!(apply(None), apply(Some(0)));
        assert_eq!(apply(Some(5)), apply(Some(5)));
    }
}
