//! Turns: what is charged next, when more waits than the payment provider takes.
//!
//! A payment has a turn, written with its order: 0 for a drop's order, n for the n-th unpaid order of goods of its
//! buyer. So somebody with fifty orders has fifty turns, and everybody else's first order comes before their second.
//! Once the provider has been asked about a payment, its turn is -1: cancels, refunds, open questions and repeats are
//! work that has begun.
//!
//! Turns alone would let a drop's ten thousand orders keep goods waiting for minutes, and both of them keep a unit that
//! a declined buyer gives back. So each kind of work is a lane of its own, and [`ROUND`] gives each lane its share of
//! the places that become free. A lane with nothing to do leaves its share to the others: no place stays empty while
//! anything is due.

/// The place of a payment among those that are due: the lowest first, and of one turn what fell due first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(i16);

/// What a payment waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The provider was asked about it before: a cancel, a refund, an open question, a call that is made again.
    Begun,
    /// The first charge of a drop's order.
    ChargeOfDrop,
    /// The first charge of an order of goods, whose buyer had so many unpaid ones when it was written.
    ChargeOfGoods { unpaid_before: u32 },
}

/// Payments that wait for each other and for nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Begun,
    Drops,
    Goods,
}

/// For whom a place is: the first lane that has anything due.
pub type Preference = [Lane; 3];

impl Lane {
    /// In the order of their turns.
    pub const ALL: Preference = [Self::Begun, Self::Drops, Self::Goods];
}

const BEGUN_OR_DROP: Preference = Lane::ALL;
const BEGUN_OR_GOODS: Preference = [Lane::Begun, Lane::Goods, Lane::Drops];
const DROP: Preference = [Lane::Drops, Lane::Goods, Lane::Begun];
const GOODS: Preference = [Lane::Goods, Lane::Drops, Lane::Begun];

/// Eight places, one after the other.
///
/// Half of them are for what has begun: it uses other limits of the provider's than charges do (cancel, refund, read),
/// and there is never more of it than was charged before. A cancel waits for one charge at most before its own turn,
/// however many are due. Of charges three in four are a drop's: a drop is what everybody waits for, and with 25 calls a
/// second its orders lose a quarter of their speed to goods, while goods have 6 a second in the middle of the largest
/// sale.
pub const ROUND: [Preference; 8] =
    [BEGUN_OR_DROP, DROP, BEGUN_OR_DROP, DROP, BEGUN_OR_DROP, DROP, BEGUN_OR_GOODS, GOODS];

impl Turn {
    pub fn of(work: Work) -> Self {
        match work {
            Work::Begun => Self(-1),
            Work::ChargeOfDrop => Self(0),
            Work::ChargeOfGoods { unpaid_before } => {
                Self(i16::try_from(unpaid_before).unwrap_or(i16::MAX).saturating_add(1))
            }
        }
    }

    pub fn number(self) -> i16 {
        self.0
    }
}

/// How the next places are shared out: so many for each preference. `taken`: places that were taken before, which says
/// where in the round we are.
pub fn shares(taken: usize, places: usize) -> Vec<(Preference, usize)> {
    let mut shares = Vec::<(Preference, usize)>::new();
    for place in 0..places {
        let preference = ROUND[taken.wrapping_add(place) % ROUND.len()];
        match shares.iter_mut().find(|(known, _)| *known == preference) {
            Some((_, count)) => *count += 1,
            None => shares.push((preference, 1)),
        }
    }
    shares
}

/// Whether a buyer with so many unpaid orders of goods may order more.
pub fn may_order(unpaid_before: u32, unpaid_max: u32) -> bool {
    unpaid_before < unpaid_max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begun_work_comes_before_drops_and_a_buyers_orders_come_one_behind_the_other() {
        let of_goods = |unpaid_before| Work::ChargeOfGoods { unpaid_before };
        for (work, turn) in [
            (Work::Begun, -1),
            (Work::ChargeOfDrop, 0),
            (of_goods(0), 1),
            (of_goods(1), 2),
            (of_goods(499), 500),
            (of_goods(32_766), 32_767),
            (of_goods(32_767), 32_767),
            (of_goods(u32::MAX), 32_767),
        ] {
            assert_eq!(Turn::of(work).number(), turn, "{work:?}");
        }
    }

    /// Who gets each of the next places while these lanes have work without end.
    fn served(taken: usize, places: usize, busy: &[Lane]) -> [usize; 3] {
        let mut served = [0; 3];
        for (preference, count) in shares(taken, places) {
            if let Some(lane) = preference.iter().find(|lane| busy.contains(lane)) {
                served[*lane as usize] += count;
            }
        }
        served
    }

    #[test]
    fn every_lane_has_its_share_and_none_leaves_a_place_empty() {
        use Lane::{Begun, Drops, Goods};
        for (busy, of_eight) in [
            (&[Begun, Drops, Goods][..], [4, 3, 1]),
            (&[Begun, Drops], [4, 4, 0]),
            (&[Begun, Goods], [4, 0, 4]),
            (&[Drops, Goods], [0, 6, 2]),
            (&[Begun], [8, 0, 0]),
            (&[Drops], [0, 8, 0]),
            (&[Goods], [0, 0, 8]),
            (&[], [0, 0, 0]),
        ] {
            for taken in 0..ROUND.len() {
                assert_eq!(served(taken, ROUND.len(), busy), of_eight, "{busy:?} from {taken} on");
            }
            // Place by place as well as all at once, also where the count runs over.
            let start = usize::MAX - 3;
            let one_by_one = (0..800).map(|place| served(start.wrapping_add(place), 1, busy));
            let one_by_one = one_by_one.fold([0; 3], |sum, one| [sum[0] + one[0], sum[1] + one[1], sum[2] + one[2]]);
            assert_eq!(one_by_one, of_eight.map(|count| count * 100), "{busy:?}");
        }
        assert!(shares(0, 0).is_empty());
    }

    #[test]
    fn what_has_begun_waits_for_one_charge_at_most() {
        for taken in 0..ROUND.len() {
            assert!(served(taken, 2, &[Lane::Begun, Lane::Drops, Lane::Goods])[0] >= 1);
        }
    }

    #[test]
    fn a_buyer_has_so_many_unpaid_orders_and_no_more() {
        for (before, at_most, may) in [(0, 1, true), (1, 1, false), (9, 10, true), (10, 10, false), (11, 10, false)] {
            assert_eq!(may_order(before, at_most), may, "{before} of {at_most}");
        }
    }
}
