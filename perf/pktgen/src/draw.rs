//! Random choices that a seed repeats: numbers, and Zipf's law over services.

/// SplitMix64: one addition and three multiplications a number, the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number's bits, mixed so that neighbours have nothing in common.
#[inline]
#[must_use]
pub const fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl Random {
    /// Numbers that follow from the seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[inline]
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `n`, or 0.
    #[inline]
    pub fn below(&mut self, n: u32) -> u32 {
        scale(self.next(), n)
    }
}

/// Maps 32 random bits evenly to what lies below `n`.
#[inline]
#[allow(clippy::cast_possible_truncation)] // The product of two 32-bit numbers, its upper half.
const fn scale(bits: u64, n: u32) -> u32 {
    (((bits >> 32) * n as u64) >> 32) as u32
}

/// Picks one of `n` with probability proportional to 1 / rank^exponent, in constant time (Walker's alias method):
/// exponent 0 is even, 1 is what the popularity of services looks like.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// How much of the cell is its own, of 2^32, and whose the rest is.
    cells: Box<[(u32, u32)]>,
}

impl Zipf {
    /// Over `n` (at least 1) with an exponent from 0 on.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub fn new(n: u32, exponent: f64) -> Self {
        let n = n.max(1);
        let weight = |rank: u32| (f64::from(rank) + 1.0).powf(-exponent);
        let total: f64 = (0..n).map(weight).sum();
        // Shares of an even cell.
        let mut shares: Vec<f64> = (0..n)
            .map(|rank| weight(rank) / total * f64::from(n))
            .collect();
        let mut cells: Vec<(u32, u32)> = (0..n).map(|rank| (u32::MAX, rank)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..n).partition(|rank| shares.get(*rank as usize).is_some_and(|share| *share < 1.0));
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            let (Some(&share), Some(cell)) =
                (shares.get(poor as usize), cells.get_mut(poor as usize))
            else {
                break;
            };
            *cell = ((share * 4_294_967_296.0) as u32, rich);
            if let Some(left) = shares.get_mut(rich as usize) {
                *left -= 1.0 - share;
                if *left < 1.0 {
                    large.pop();
                    small.push(rich);
                }
            }
        }
        Self {
            cells: cells.into_boxed_slice(),
        }
    }

    /// Which one these random bits pick, from 0 on.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // The lower half; and no more cells than 2^32.
    pub fn pick(&self, bits: u64) -> u32 {
        let cell = scale(bits, self.cells.len() as u32);
        match self.cells.get(cell as usize) {
            Some(&(own, _)) if (bits as u32) < own => cell,
            Some(&(_, other)) => other,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chi-squared per degree of freedom is near 1 for what follows the law, and far above for what does not.
    fn distance(n: u32, exponent: f64, drawn_with: f64) -> f64 {
        let zipf = Zipf::new(n, drawn_with);
        let mut random = Random::new(7);
        let draws = 400_000;
        let mut counts = vec![0u32; n as usize];
        for _ in 0..draws {
            counts[zipf.pick(random.next()) as usize] += 1;
        }
        let total: f64 = (1..=n).map(|rank| f64::from(rank).powf(-exponent)).sum();
        let chi: f64 = (1..=n)
            .zip(&counts)
            .map(|(rank, &count)| {
                let expected = f64::from(rank).powf(-exponent) / total * f64::from(draws);
                (f64::from(count) - expected).powi(2) / expected
            })
            .sum();
        chi / f64::from(n.max(2) - 1)
    }

    #[test]
    fn zipf_follows_its_law() {
        for (n, exponent) in [(2, 1.0), (10, 0.0), (100, 0.8), (1000, 1.0), (1000, 1.3)] {
            let good = distance(n, exponent, exponent);
            assert!(good < 2.0, "{n} {exponent}: {good}");
        }
        assert!(
            distance(100, 0.8, 1.0) > 20.0,
            "another exponent is noticed"
        );
        assert_eq!(Zipf::new(1, 1.0).pick(u64::MAX), 0);
    }

    #[test]
    fn a_seed_repeats_its_numbers() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut random = Random::new(3);
        assert!((0..1000).all(|_| random.below(5) < 5));
        assert_eq!(random.below(0), 0);
    }
}
