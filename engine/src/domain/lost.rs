//! Claims that were answered and that Redis forgot: which are lost, and how the line and settlement share what is done about it.

use super::ids::Epoch;
use super::standby::PlaceState;

/// What is known of a claim that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnsweredFacts {
    /// Of its warehouse, when the claim was answered.
    pub epoch: Epoch,
    /// Of its warehouse now.
    pub present: Epoch,
    /// The rebuild that began the present epoch has not ended: it may still settle what it finds of older ones.
    pub is_rebuilding: bool,
    /// Settlement has seen it: as an order, as rejected, or set aside.
    pub is_seen: bool,
    /// Redis has it in its buyer's record now.
    pub is_in_record: bool,
}

/// What became of a claim that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nobody can say yet.
    Open,
    /// Postgres has it.
    Kept,
    /// It was lost, and its buyer has asked again and was given units: settlement brings it.
    TakenAgain,
    Lost,
}

/// A load ends only once everything is settled that the log held of older epochs, and from then on settlement refuses these. So
/// what a finished epoch has not brought to Postgres, its log does not bring any more.
pub fn fate(facts: AnsweredFacts) -> Fate {
    if facts.is_seen {
        Fate::Kept
    } else if facts.present <= facts.epoch || facts.is_rebuilding {
        Fate::Open
    } else if facts.is_in_record {
        Fate::TakenAgain
    } else {
        Fate::Lost
    }
}

/// The place in line of a claim that was lost, and whether the claim has come back: its buyer asked again, or a log of an
/// earlier hour held it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostPlace {
    pub state: PlaceState,
    /// The claim itself has become an order, whatever became of that since.
    pub has_come_back: bool,
}

/// What a lost claim that comes back means for its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComesBack {
    /// It becomes an order, and nobody waits for it any more.
    EndsPlace,
    /// It becomes an order. Should units be on their way to the place, [`LostPlace::takes_award`] refuses them.
    BesidePlace,
    /// The place has brought its buyer the units already: the claim is rejected.
    TooLate,
}

impl LostPlace {
    /// Of a claim and the award in its place one becomes an order: the one that settlement sees first. Not the award as soon as it is
    /// decided, since the home of a buyer who holds the claim again may refuse it; then they would be left with neither.
    pub fn comes_back(self) -> ComesBack {
        match self.state {
            PlaceState::Waiting => ComesBack::EndsPlace,
            PlaceState::Taken => ComesBack::TooLate,
            PlaceState::Awarded | PlaceState::Refused | PlaceState::Left | PlaceState::Expired => {
                ComesBack::BesidePlace
            }
        }
    }

    /// Whether the award of this place may become an order.
    pub fn takes_award(self) -> bool {
        !self.has_come_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_lost_only_when_nobody_can_have_it_any_more() {
        let of = |epoch, present, is_rebuilding, is_seen, is_in_record| {
            let (epoch, present) = (Epoch(epoch), Epoch(present));
            fate(AnsweredFacts { epoch, present, is_rebuilding, is_seen, is_in_record })
        };
        for (epoch, present, is_rebuilding, is_seen, is_in_record, expected) in [
            // Its epoch goes on: settlement is still to come.
            (3, 3, false, false, true, Fate::Open),
            (3, 3, false, false, false, Fate::Open),
            (3, 3, false, true, true, Fate::Kept),
            // The process that asks has an older view than the one that answered.
            (4, 3, false, false, false, Fate::Open),
            // The rebuild may still settle it.
            (3, 4, true, false, false, Fate::Open),
            (3, 4, true, true, false, Fate::Kept),
            // The rebuild has ended.
            (3, 4, false, true, false, Fate::Kept),
            (3, 4, false, true, true, Fate::Kept),
            (3, 4, false, false, true, Fate::TakenAgain),
            (3, 4, false, false, false, Fate::Lost),
            (3, 9, false, false, false, Fate::Lost),
            (3, 9, true, false, false, Fate::Open),
        ] {
            let case = (epoch, present, is_rebuilding, is_seen, is_in_record);
            assert_eq!(of(epoch, present, is_rebuilding, is_seen, is_in_record), expected, "{case:?}");
        }
    }

    #[test]
    fn of_a_lost_claim_and_the_award_in_its_place_one_becomes_an_order() {
        for state in PlaceState::ALL {
            for has_come_back in [false, true] {
                let place = LostPlace { state, has_come_back };
                let expected = match state {
                    PlaceState::Waiting => ComesBack::EndsPlace,
                    PlaceState::Taken => ComesBack::TooLate,
                    _ => ComesBack::BesidePlace,
                };
                assert_eq!(place.comes_back(), expected, "{place:?}");
                assert_eq!(place.takes_award(), !has_come_back, "{place:?}");
            }
        }
    }
}
