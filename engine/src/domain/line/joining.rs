//! Joining a line: what an answer is, from what is known of the line and of the buyer's places in it.
//!
//! Joining never changes a place. A request that is repeated gets the answer that it got, and another request of a buyer
//! who is in line gets the place as it is: otherwise a repeated lost request would undo what was changed since on another
//! device. Whoever has left can join again under another key, behind everybody; the old key stays used.

use super::state::{EntryState, LineState};
use crate::domain::drops::Admission;

/// Places that one buyer may have had in a line, whatever became of them.
pub const PLACES_MAX: usize = 5;

/// A buyer's place, as far as it matters to a new request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPlace {
    pub number: u32,
    pub key_hash: [u8; 16],
    pub body_hash: [u8; 16],
    pub state: EntryState,
    /// The order of its award still holds its units.
    pub is_order_live: bool,
}

/// What is known of a line when somebody joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineFacts {
    pub admission: Admission,
    pub state: LineState,
    /// Places that are taken.
    pub in_line: u32,
    pub capacity: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// A new place, behind everybody.
    New,
    /// This very request made this place before.
    Before(u32),
    /// The buyer has this place; it stays as it is.
    InLine(u32),
    Refused(JoinRefused),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinRefused {
    /// The key was used for another wish.
    KeyReused,
    /// The place of this key was left.
    HasLeft,
    NotOpenYet,
    Closed,
    Full,
    /// Whoever left a draw that is sealed cannot come back.
    DrawIsSealed,
    /// They have left and come back as often as they may.
    TooOften,
}

pub fn join(line: LineFacts, places: &[KnownPlace], key_hash: [u8; 16], body_hash: [u8; 16]) -> Joining {
    let refused = Joining::Refused;
    if let Some(place) = places.iter().find(|place| place.key_hash == key_hash) {
        return match place {
            place if place.body_hash != body_hash => refused(JoinRefused::KeyReused),
            place if place.state.has_left() => refused(JoinRefused::HasLeft),
            place => Joining::Before(place.number),
        };
    }
    let is_in_line = |place: &&KnownPlace| match place.state {
        EntryState::Waiting | EntryState::Merged => true,
        EntryState::Awarded => place.is_order_live,
        EntryState::Left | EntryState::Withdrawn => false,
    };
    if let Some(place) = places.iter().find(is_in_line) {
        return Joining::InLine(place.number);
    }
    match line.state {
        LineState::Planned => return refused(JoinRefused::NotOpenYet),
        LineState::Closed => return refused(JoinRefused::Closed),
        LineState::Open => {}
        LineState::Sealed | LineState::Rooted | LineState::Drawn => {
            if line.admission == Admission::Draw && !places.is_empty() {
                return refused(JoinRefused::DrawIsSealed);
            }
        }
    }
    if places.len() >= PLACES_MAX {
        return refused(JoinRefused::TooOften);
    }
    if line.in_line >= line.capacity { refused(JoinRefused::Full) } else { Joining::New }
}

/// Why a place stays as it is, or why nobody can leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKept {
    /// It was changed meanwhile: this is its revision.
    Changed {
        revision: u32,
    },
    /// The list is sealed: wishes are part of it.
    Sealed,
    Closed,
    /// Its order exists.
    Awarded,
    Merged,
    HasLeft,
}

/// Whether a wish may be changed by somebody who has seen this revision. It is a part of the sealed list; and who stands
/// behind that is shown to everybody in their order.
pub fn may_change(line: LineState, state: EntryState, revision: u32, seen: u32) -> Result<(), PlaceKept> {
    is_live(state)?;
    match line {
        LineState::Open if revision == seen => Ok(()),
        LineState::Open => Err(PlaceKept::Changed { revision }),
        LineState::Closed => Err(PlaceKept::Closed),
        LineState::Planned | LineState::Sealed | LineState::Rooted | LineState::Drawn => Err(PlaceKept::Sealed),
    }
}

/// What a place becomes whose buyer leaves, of this revision of it if they name one. Whoever has left stays away, however
/// often they say so.
pub fn leave(line: LineState, state: EntryState, revision: u32, seen: Option<u32>) -> Result<EntryState, PlaceKept> {
    match state {
        EntryState::Left | EntryState::Withdrawn => return Ok(state),
        state => is_live(state)?,
    }
    if seen.is_some_and(|seen| seen != revision) {
        return Err(PlaceKept::Changed { revision });
    }
    Ok(match line {
        LineState::Planned | LineState::Open => EntryState::Left,
        LineState::Sealed | LineState::Rooted | LineState::Drawn | LineState::Closed => EntryState::Withdrawn,
    })
}

fn is_live(state: EntryState) -> Result<(), PlaceKept> {
    match state {
        EntryState::Waiting => Ok(()),
        EntryState::Left | EntryState::Withdrawn => Err(PlaceKept::HasLeft),
        EntryState::Merged => Err(PlaceKept::Merged),
        EntryState::Awarded => Err(PlaceKept::Awarded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [1; 16];
    const BODY: [u8; 16] = [2; 16];

    fn place(state: EntryState) -> KnownPlace {
        KnownPlace { number: 7, key_hash: KEY, body_hash: BODY, state, is_order_live: true }
    }

    fn facts(admission: Admission, state: LineState) -> LineFacts {
        LineFacts { admission, state, in_line: 0, capacity: 1 }
    }

    #[test]
    fn a_request_that_is_repeated_is_answered_as_it_was_and_never_changes_a_place() {
        use EntryState::{Awarded, Left, Merged, Waiting, Withdrawn};
        let open = facts(Admission::Queue, LineState::Open);
        let full = LineFacts { in_line: 1, ..open };
        for (what, line, state, body, expected) in [
            ("the same", open, Waiting, BODY, Joining::Before(7)),
            ("the same, while the line is full", full, Waiting, BODY, Joining::Before(7)),
            (
                "the same, when the line is over",
                facts(Admission::Draw, LineState::Closed),
                Waiting,
                BODY,
                Joining::Before(7),
            ),
            ("another wish", open, Waiting, [9; 16], Joining::Refused(JoinRefused::KeyReused)),
            ("of a place that was left", open, Left, BODY, Joining::Refused(JoinRefused::HasLeft)),
            ("of a place that was left later", open, Withdrawn, BODY, Joining::Refused(JoinRefused::HasLeft)),
            ("of a place that was awarded", open, Awarded, BODY, Joining::Before(7)),
            ("of a place that was merged", open, Merged, BODY, Joining::Before(7)),
        ] {
            assert_eq!(join(line, &[place(state)], KEY, body), expected, "{what}");
        }
    }

    #[test]
    fn a_buyer_has_one_place_and_comes_back_behind_everybody() {
        use EntryState::{Awarded, Left, Merged, Waiting, Withdrawn};
        use JoinRefused::{Closed, DrawIsSealed, Full, NotOpenYet, TooOften};
        let refused = Joining::Refused;
        let over = KnownPlace { is_order_live: false, ..place(Awarded) };
        let queue = |state| facts(Admission::Queue, state);
        let draw = |state| facts(Admission::Draw, state);
        let left = vec![place(Left)];
        for (what, line, places, expected) in [
            ("new", queue(LineState::Open), vec![], Joining::New),
            ("too early", queue(LineState::Planned), vec![], refused(NotOpenYet)),
            ("too late", queue(LineState::Closed), vec![], refused(Closed)),
            ("full", LineFacts { in_line: 1, ..queue(LineState::Open) }, vec![], refused(Full)),
            ("behind the seal of a queue", queue(LineState::Drawn), vec![], Joining::New),
            ("behind the seal of a draw, as one who stands by", draw(LineState::Drawn), vec![], Joining::New),
            ("in line under another key", queue(LineState::Open), vec![place(Waiting)], Joining::InLine(7)),
            ("merged", queue(LineState::Open), vec![place(Merged)], Joining::InLine(7)),
            ("awarded", queue(LineState::Drawn), vec![place(Awarded)], Joining::InLine(7)),
            ("awarded, and the order is over", queue(LineState::Drawn), vec![over.clone()], Joining::New),
            ("awarded in a draw, and the order is over", draw(LineState::Drawn), vec![over], refused(DrawIsSealed)),
            ("back before the seal", draw(LineState::Open), left.clone(), Joining::New),
            ("back after the seal of a draw", draw(LineState::Sealed), left.clone(), refused(DrawIsSealed)),
            ("back after the seal of a queue", queue(LineState::Rooted), left, Joining::New),
            ("left five times", queue(LineState::Open), vec![place(Withdrawn); PLACES_MAX], refused(TooOften)),
        ] {
            assert_eq!(join(line, &places, [8; 16], BODY), expected, "{what}");
        }
    }

    #[test]
    fn a_wish_changes_until_the_seal_under_the_revision_that_was_seen() {
        use EntryState::{Awarded, Left, Waiting};
        for (line, state, seen, expected) in [
            (LineState::Open, Waiting, 3, Ok(())),
            (LineState::Open, Waiting, 2, Err(PlaceKept::Changed { revision: 3 })),
            (LineState::Sealed, Waiting, 3, Err(PlaceKept::Sealed)),
            (LineState::Drawn, Waiting, 3, Err(PlaceKept::Sealed)),
            (LineState::Closed, Waiting, 3, Err(PlaceKept::Closed)),
            (LineState::Open, Left, 3, Err(PlaceKept::HasLeft)),
            (LineState::Drawn, Awarded, 3, Err(PlaceKept::Awarded)),
        ] {
            assert_eq!(may_change(line, state, 3, seen), expected, "{line} {state:?} {seen}");
        }
    }

    #[test]
    fn who_leaves_is_out_of_the_list_before_the_seal_and_keeps_a_rank_without_units_after_it() {
        use EntryState::{Awarded, Left, Merged, Waiting, Withdrawn};
        for (line, state, expected) in [
            (LineState::Open, Waiting, Ok(Left)),
            (LineState::Sealed, Waiting, Ok(Withdrawn)),
            (LineState::Drawn, Waiting, Ok(Withdrawn)),
            (LineState::Closed, Waiting, Ok(Withdrawn)),
            (LineState::Drawn, Left, Ok(Left)),
            (LineState::Open, Withdrawn, Ok(Withdrawn)),
            (LineState::Drawn, Awarded, Err(PlaceKept::Awarded)),
            (LineState::Open, Merged, Err(PlaceKept::Merged)),
        ] {
            assert_eq!(leave(line, state, 3, None), expected, "{line} {state:?}");
            assert_eq!(leave(line, state, 3, Some(3)), expected, "{line} {state:?}");
        }
        // A place that its buyer has taken since is not the one that is meant; one that was left is left all the same.
        let other = Err(PlaceKept::Changed { revision: 3 });
        assert_eq!(leave(LineState::Open, Waiting, 3, Some(2)), other);
        assert_eq!(leave(LineState::Open, Left, 3, Some(2)), Ok(Left));
    }
}
