//! Turns by weight.

use crate::tables::region::BackendRef;

/// Turns of a weighted rotation at most; weights are scaled down beyond that.
const TURNS_MAX: usize = 4096;

/// Spreads weighted backends over a rotation: each as often as its weight, as evenly as can be (smooth weighted round
/// robin). Equal weights give each one turn.
pub(super) fn rotation(members: &[(BackendRef, u8)]) -> Vec<BackendRef> {
    let mut divisor = members
        .iter()
        .fold(0u32, |d, (_, w)| gcd(d, u32::from((*w).max(1))))
        .max(1);
    let total: u32 = members.iter().map(|(_, w)| u32::from((*w).max(1))).sum();
    while (total / divisor) as usize > TURNS_MAX.max(members.len()) {
        divisor += 1;
    }
    let mut queue: Vec<(BackendRef, i64, i64)> = members
        .iter()
        .map(|(r, w)| (*r, i64::from((u32::from((*w).max(1)) / divisor).max(1)), 0))
        .collect();
    let sum: i64 = queue.iter().map(|m| m.1).sum();
    if queue.iter().all(|m| m.1 == 1) {
        return queue.into_iter().map(|m| m.0).collect();
    }
    let mut turns = Vec::new();
    for _ in 0..sum {
        for member in &mut queue {
            member.2 += member.1;
        }
        // The first of the highest, so that the order is the same each time.
        let Some(next) = queue.iter_mut().rev().max_by_key(|m| m.2) else {
            break;
        };
        next.2 -= sum;
        turns.push(next.0);
    }
    turns
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(id: u32) -> BackendRef {
        BackendRef { id, generation: 1 }
    }

    #[test]
    fn equal_weights_give_one_turn_each() {
        let members: Vec<_> = (0..300).map(|id| (reference(id), 9)).collect();
        assert_eq!(rotation(&members).len(), 300);
    }

    #[test]
    fn weights_are_kept_and_spread() {
        let turns = rotation(&[(reference(0), 4), (reference(1), 2), (reference(2), 2)]);
        let ids: Vec<_> = turns.iter().map(|r| r.id).collect();
        assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 2);
        assert_eq!(ids.len(), 4);
        assert!(ids.windows(2).all(|w| w[0] != w[1]), "{ids:?}");
    }

    #[test]
    fn a_rotation_is_bounded() {
        let members: Vec<_> = (0..200u32)
            .map(|id| (reference(id), u8::try_from(id % 255 + 1).unwrap()))
            .collect();
        let turns = rotation(&members);
        assert!(turns.len() <= TURNS_MAX && (0..200).all(|id| turns.iter().any(|t| t.id == id)));
    }
}
