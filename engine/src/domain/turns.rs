//! Turns: what is charged next, when more waits than the payment provider takes.
//!
//! A payment has a turn, written with its order: 0 for a drop's order, n for the n-th unpaid order of goods of its
//! buyer. So somebody with fifty orders has fifty turns, and everybody else's first order comes before their second.
//! Once the provider has made a payment's intent, or a call is made again, its turn is -1: refunds, open questions and
//! repeats are work that has begun. A payment whose intent is to be canceled has the turn -2, whatever was written before: its units are on
//! sale again as soon as the provider has confirmed that.
//!
//! Turns alone would let a drop's ten thousand orders keep goods waiting for minutes, and all of them keep a unit that
//! a declined buyer gives back. So each kind of work is a lane of its own, and [`ROUND`] gives each lane its share of
//! the places that become free. A lane with nothing to do leaves its share to the others: no place stays empty while
//! anything is due.
//!
//! A share of the places that become free is nothing while none becomes free: the provider may make every charge wait
//! for a minute (a 429 rests all calls of a kind), and then all places are held by charges. So a worker has two
//! [`Desk`]s: cancels have places that no charge can take, and charges have places that no cancel can take.

/// The place of a payment among those that are due: the lowest first, and of one turn what fell due first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(i16);

/// What a payment waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The provider is to end its intent: its card was declined, its time is over, or its order was cancelled.
    Cancel,
    /// The provider was asked about it before: a refund, an open question, a call that is made again.
    Begun,
    /// The first charge of a drop's order.
    ChargeOfDrop,
    /// The first charge of an order of goods, whose buyer had so many unpaid ones when it was written.
    ChargeOfGoods { unpaid_before: u32 },
}

/// Payments that wait for each other and for nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Cancels,
    Begun,
    Drops,
    Goods,
}

/// For whom a place is: the first lane that has anything due.
pub type Preference = [Lane; 4];

/// Places that serve some lanes and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desk {
    /// Whatever takes money, gives it back, or asks about it.
    Charges,
    Cancels,
    /// For who has only one: everything, one place after the other.
    All,
}

impl Lane {
    /// In the order of their turns.
    pub const ALL: Preference = [Self::Cancels, Self::Begun, Self::Drops, Self::Goods];
}

const CANCEL: Preference = Lane::ALL;
const BEGUN_OR_DROP: Preference = [Lane::Begun, Lane::Cancels, Lane::Drops, Lane::Goods];
const BEGUN_OR_GOODS: Preference = [Lane::Begun, Lane::Cancels, Lane::Goods, Lane::Drops];
const DROP: Preference = [Lane::Drops, Lane::Goods, Lane::Cancels, Lane::Begun];
const GOODS: Preference = [Lane::Goods, Lane::Drops, Lane::Cancels, Lane::Begun];

/// Eight places, one after the other; a desk passes over the lanes that it does not serve.
///
/// Half of them are for cancels and for what has begun: both use other limits of the provider's than charges do
/// (cancel, refund, read), and there is never more of them than was charged before. While there are many of both, each
/// has its half of that half: after a provider was away, hundreds of repeats may be due. Of charges three in four are a
/// drop's: a drop is what everybody waits for, and with 25 calls a second its orders lose a quarter of their speed to
/// goods, while goods have 6 a second in the middle of the largest sale.
pub const ROUND: [Preference; 8] = [CANCEL, DROP, BEGUN_OR_DROP, DROP, CANCEL, DROP, BEGUN_OR_GOODS, GOODS];

impl Desk {
    /// How many payments it has under way at most, where so many calls are made at the same time for charges.
    ///
    /// A cancel is one call and a charge is two (create, confirm): half as many places keep up with the charges, even
    /// were every card declined. They come on top, so that charges lose none.
    pub fn places(self, concurrency: usize) -> usize {
        match self {
            Self::Charges | Self::All => concurrency,
            Self::Cancels => concurrency.div_ceil(2),
        }
    }

    fn serves(self, lane: Lane) -> bool {
        match self {
            Self::Charges => lane != Lane::Cancels,
            Self::Cancels => lane == Lane::Cancels,
            Self::All => true,
        }
    }
}

impl Turn {
    pub fn of(work: Work) -> Self {
        match work {
            Work::Cancel => Self(-2),
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

/// How a desk shares out its next places: so many for each list of lanes, the first of which that has anything due
/// gets them. `taken`: places that were taken before, which says where in the round we are.
pub fn shares(desk: Desk, taken: usize, places: usize) -> Vec<(Vec<Lane>, usize)> {
    let mut shares = Vec::<(Vec<Lane>, usize)>::new();
    for place in 0..places {
        let preference = ROUND[taken.wrapping_add(place) % ROUND.len()];
        let lanes = preference.into_iter().filter(|lane| desk.serves(*lane)).collect::<Vec<_>>();
        match shares.iter_mut().find(|(known, _)| *known == lanes) {
            Some((_, count)) => *count += 1,
            None => shares.push((lanes, 1)),
        }
    }
    shares
}

/// Whether a buyer with so many unpaid orders of goods may order more.
pub fn may_order(unpaid_before: u32, unpaid_max: u32) -> bool {
    unpaid_before < unpaid_max
}

/// Whether a buyer whose unpaid orders of goods hold so many units may have more of them reserved.
pub fn may_reserve(units_before: u64, more: u64, units_max: u32) -> bool {
    units_before.saturating_add(more) <= u64::from(units_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancels_come_first_then_begun_work_then_drops_and_a_buyers_orders_come_one_behind_the_other() {
        let of_goods = |unpaid_before| Work::ChargeOfGoods { unpaid_before };
        for (work, turn) in [
            (Work::Cancel, -2),
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

    /// Who gets each of the next places of a desk while these lanes have work without end.
    fn served(desk: Desk, taken: usize, places: usize, busy: &[Lane]) -> [usize; 4] {
        let mut served = [0; 4];
        for (lanes, count) in shares(desk, taken, places) {
            if let Some(lane) = lanes.iter().find(|lane| busy.contains(lane)) {
                served[*lane as usize] += count;
            }
        }
        served
    }

    #[test]
    fn every_lane_has_its_share_and_none_leaves_a_place_empty() {
        use Desk::{All, Charges};
        use Lane::{Begun, Cancels, Drops, Goods};
        for (desk, busy, of_eight) in [
            (All, &[Cancels, Begun, Drops, Goods][..], [2, 2, 3, 1]),
            (All, &[Cancels, Drops, Goods], [4, 0, 3, 1]),
            (All, &[Begun, Drops, Goods], [0, 4, 3, 1]),
            (All, &[Cancels, Begun, Drops], [2, 2, 4, 0]),
            (All, &[Cancels, Begun], [6, 2, 0, 0]),
            (All, &[Cancels, Drops], [4, 0, 4, 0]),
            (All, &[Cancels, Goods], [4, 0, 0, 4]),
            (All, &[Begun, Drops], [0, 4, 4, 0]),
            (All, &[Begun, Goods], [0, 4, 0, 4]),
            (All, &[Drops, Goods], [0, 0, 6, 2]),
            (All, &[Cancels], [8, 0, 0, 0]),
            (All, &[Begun], [0, 8, 0, 0]),
            (All, &[Drops], [0, 0, 8, 0]),
            (All, &[Goods], [0, 0, 0, 8]),
            (All, &[], [0, 0, 0, 0]),
            (Charges, &[Cancels, Begun, Drops, Goods], [0, 4, 3, 1]),
            (Charges, &[Cancels, Drops, Goods], [0, 0, 6, 2]),
            (Charges, &[Cancels], [0, 0, 0, 0]),
            (Desk::Cancels, &[Cancels, Begun, Drops, Goods], [8, 0, 0, 0]),
            (Desk::Cancels, &[Begun, Drops, Goods], [0, 0, 0, 0]),
        ] {
            for taken in 0..ROUND.len() {
                assert_eq!(served(desk, taken, ROUND.len(), busy), of_eight, "{desk:?}, {busy:?} from {taken} on");
            }
            // Place by place as well as all at once, also where the count runs over.
            let start = usize::MAX - 3;
            let one_by_one = (0..800).map(|place| served(desk, start.wrapping_add(place), 1, busy));
            let one_by_one = one_by_one.fold([0; 4], |sum, one| std::array::from_fn(|lane| sum[lane] + one[lane]));
            assert_eq!(one_by_one, of_eight.map(|count| count * 100), "{desk:?}, {busy:?}");
        }
        assert!(shares(All, 0, 0).is_empty());
    }

    #[test]
    fn a_cancel_waits_for_three_places_at_most_and_for_one_while_nothing_else_has_begun() {
        use Lane::{Begun, Cancels, Drops, Goods};
        for taken in 0..ROUND.len() {
            for (lane, busy, places) in [
                (Cancels, &[Cancels, Begun, Drops, Goods][..], 4),
                (Begun, &[Cancels, Begun, Drops, Goods], 4),
                (Cancels, &[Cancels, Drops, Goods], 2),
                (Begun, &[Begun, Drops, Goods], 2),
            ] {
                let served = served(Desk::All, taken, places, busy);
                assert!(served[lane as usize] >= 1, "{lane:?} from {taken} on: {served:?}");
            }
        }
    }

    #[test]
    fn cancels_have_places_that_no_charge_can_take_and_charges_lose_none() {
        for (concurrency, charges, cancels) in [(1, 1, 1), (2, 2, 1), (3, 3, 2), (16, 16, 8), (256, 256, 128)] {
            let places = [Desk::Charges, Desk::Cancels, Desk::All].map(|desk| desk.places(concurrency));
            assert_eq!(places, [charges, cancels, concurrency]);
        }
        for lane in Lane::ALL {
            let desks = [Desk::Charges, Desk::Cancels].into_iter().filter(|desk| desk.serves(lane));
            assert_eq!(desks.count(), 1, "{lane:?} is served by one of a worker's desks");
        }
    }

    #[test]
    fn a_buyer_has_so_many_unpaid_orders_and_no_more() {
        for (before, at_most, may) in [(0, 1, true), (1, 1, false), (9, 10, true), (10, 10, false), (11, 10, false)] {
            assert_eq!(may_order(before, at_most), may, "{before} of {at_most}");
        }
        for (before, more, at_most, may) in
            [(0, 100, 100, true), (0, 101, 100, false), (99, 1, 100, true), (100, 1, 100, false)]
        {
            assert_eq!(may_reserve(before, more, at_most), may, "{before} and {more} of {at_most}");
        }
    }
}
