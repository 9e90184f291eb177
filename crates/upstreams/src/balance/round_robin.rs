//! Smooth weighted rotation: weights 5, 1, 1 give a a b a c a a, not a a a a a b c.

/// Longest precomputed rotation. Weights that need more are rounded to fit.
const MAX_LEN: u64 = 4096;

/// Whole rotation, computed when members change, so that a pick is one atomic addition and one
/// lookup.
#[derive(Debug)]
pub(crate) struct Sequence(Box<[u16]>);

impl Sequence {
    pub(crate) fn new(weights: &[u16]) -> Self {
        let weights = reduced(weights);
        let total: i64 = weights.iter().sum();
        // As in nginx: each gains its weight, the highest goes next and pays the total.
        let mut current = vec![0i64; weights.len()];
        let mut order = Vec::new();
        for _ in 0..total {
            for (credit, weight) in current.iter_mut().zip(&weights) {
                *credit += weight;
            }
            let mut best = 0;
            for (index, credit) in current.iter().enumerate() {
                if *credit > current[best] {
                    best = index;
                }
            }
            current[best] -= total;
            order.push(u16::try_from(best).unwrap_or(u16::MAX));
        }
        Self(order.into_boxed_slice())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the index at `turn`; beyond every list if there are no members.
    pub(crate) fn at(&self, turn: usize) -> usize {
        match self.0.len() {
            0 => usize::MAX,
            length => usize::from(self.0[turn % length]),
        }
    }
}

/// Returns the same proportions in smaller numbers, none of them 0.
fn reduced(weights: &[u16]) -> Vec<i64> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, u64::from(*b))).max(1);
    let total: u64 = weights.iter().map(|w| u64::from(*w) / divisor).sum();
    weights
        .iter()
        .map(|weight| {
            let weight = u64::from(*weight) / divisor;
            let fitted = if total > MAX_LEN {
                weight * MAX_LEN / total
            } else {
                weight
            };
            i64::try_from(fitted.max(1)).unwrap_or(1)
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(weights: &[u16]) -> Vec<usize> {
        let sequence = Sequence::new(weights);
        (0..sequence.len()).map(|turn| sequence.at(turn)).collect()
    }

    #[test]
    fn weights_interleave() {
        assert_eq!(order(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(order(&[2, 1]), [0, 1, 0]);
        assert_eq!(order(&[10, 10]), [0, 1]);
        assert!(order(&[]).is_empty());
    }

    #[test]
    fn far_apart_weights_still_give_everyone_a_turn() {
        let order = order(&[65535, 1, 30000]);
        assert!(order.len() <= 4096 + 3, "{}", order.len());
        for index in 0..3 {
            assert!(order.contains(&index));
        }
    }
}
