//! What must hold in every state of a line, and what must be seen in some.

use stateright::Property;

use super::state::{EntryState, LineModel, Phase, State, Told, Worker};

pub(crate) const IN_LINE: &str = "nobody who was told that they are in line is missing from it";
pub(crate) const ONE_PLACE: &str = "nobody is in line twice";
pub(crate) const LEFT: &str = "nobody who was told that they left has a place or a unit";
pub(crate) const WISH: &str = "a wish is as its buyer was told last";
pub(crate) const LIST: &str = "the sealed list and its count never change";
pub(crate) const NO_WAY_BACK: &str = "nobody comes back to a sealed draw";
pub(crate) const ROOT_FIRST: &str = "a draw had its root written down in time and seen before the beacon spoke";
pub(crate) const ROOT_STAYS: &str = "a root that was seen is never replaced, nor its round";
pub(crate) const POSTPONED: &str = "a round is postponed only before it is out";
pub(crate) const VOID: &str = "a round is void only when it is out";
pub(crate) const CLOSED: &str = "nobody joins a closed line or is given anything by it, and it stays closed";
pub(crate) const ONE_AWARD: &str = "nobody is awarded twice";
pub(crate) const ONE_ORDER: &str = "a unit backs at most one live award, and is free otherwise";
pub(crate) const IN_ORDER: &str = "no later rank is given what an earlier one would have taken";
pub(crate) const BOUND: &str = "the round in which a rank is decided at the latest never becomes later";
pub(crate) const PAUSE: &str = "no round begins in a pause";
pub(crate) const WHOLE: &str = "no round is cut";
pub(crate) const IN_VAIN: &str = "nobody stands by at the end for what came back in time";
pub(crate) const ENDS: &str = "undisturbed workers bring every line to its end";

pub(crate) const AWARDED: &str = "somebody is awarded a unit";
pub(crate) const SERVED_STANDING_BY: &str = "somebody who was passed over is awarded a unit";
pub(crate) const GIVEN_AT_LAST: &str = "the last round gives a unit";
pub(crate) const IS_CLOSED: &str = "the line is closed";
pub(crate) const IS_DRAWN: &str = "the line is drawn";
pub(crate) const WAS_VOID: &str = "a line is drawn behind a void round";
pub(crate) const WAS_POSTPONED: &str = "a line is drawn behind a postponement";
pub(crate) const IS_MERGED: &str = "an entry is merged";
pub(crate) const COMES_BACK: &str = "somebody leaves and joins again";

pub(crate) fn all() -> Vec<Property<LineModel>> {
    vec![
        Property::always(IN_LINE, |_: &LineModel, state: &State| {
            state.buyers.iter().enumerate().all(|(buyer, known)| match known.told {
                Told::InLine { number, .. } => state.entries.get(number).is_some_and(|entry| {
                    entry.buyer == buyer && !matches!(entry.state, EntryState::Left | EntryState::Withdrawn)
                }),
                Told::Nothing | Told::Left => true,
            })
        }),
        Property::always(ONE_PLACE, |_: &LineModel, state: &State| {
            (0..state.buyers.len())
                .all(|buyer| (0..state.entries.len()).filter(|at| holds(state, *at, buyer)).count() <= 1)
        }),
        Property::always(LEFT, |_: &LineModel, state: &State| {
            (0..state.buyers.len()).filter(|buyer| state.buyers[*buyer].told == Told::Left).all(|buyer| {
                let has_place = (0..state.entries.len()).any(|at| holds(state, at, buyer));
                let is_buyers = |number: usize| state.entries[number].buyer == buyer;
                !has_place && !state.units.iter().any(|unit| unit.holder.is_some_and(is_buyers))
            })
        }),
        Property::always(WISH, |_: &LineModel, state: &State| {
            state.buyers.iter().all(|known| match known.told {
                Told::InLine { number, wish: Some(wish) } => state.entries[number].wish == wish,
                _ => true,
            })
        }),
        Property::always(LIST, |_: &LineModel, state: &State| {
            let is_same = |sealed: &Vec<(usize, u8)>| *sealed == state.sealed_list();
            let count = state.line.sealed.map(|sealed| sealed.count);
            state.seen.list.as_ref().is_none_or(is_same) && count == state.seen.list.as_ref().map(Vec::len)
        }),
        Property::always(NO_WAY_BACK, |_: &LineModel, state: &State| !state.seen.came_back_to_a_draw),
        Property::always(ROOT_FIRST, |_: &LineModel, state: &State| !state.seen.drawn_too_early),
        Property::always(ROOT_STAYS, |_: &LineModel, state: &State| !state.seen.root_replaced),
        Property::always(POSTPONED, |_: &LineModel, state: &State| !state.seen.postponed_late),
        Property::always(VOID, |_: &LineModel, state: &State| !state.seen.void_early),
        Property::always(CLOSED, |_: &LineModel, state: &State| !state.seen.behind_the_close),
        Property::always(ONE_AWARD, |_: &LineModel, state: &State| !state.seen.awarded_twice),
        Property::always(ONE_ORDER, |_: &LineModel, state: &State| {
            let backs = |unit: usize, entry: EntryState| entry == EntryState::Awarded { unit, is_live: true };
            state.units.iter().enumerate().all(|(at, unit)| {
                let live = state.entries.iter().filter(|entry| backs(at, entry.state)).count();
                live == usize::from(unit.holder.is_some())
            })
        }),
        Property::always(IN_ORDER, |_: &LineModel, state: &State| !state.seen.inverted),
        Property::always(BOUND, |model: &LineModel, state: &State| {
            !state.seen.later_than_shown && is_within_bound(model, state)
        }),
        Property::always(PAUSE, |_: &LineModel, state: &State| !state.seen.begun_in_pause),
        Property::always(WHOLE, |_: &LineModel, state: &State| !state.seen.cut),
        Property::always(IN_VAIN, |_: &LineModel, state: &State| !state.seen.in_vain),
        Property::always(ENDS, |model: &LineModel, state: &State| {
            !state.workers.iter().all(|worker| *worker == Worker::default()) || ends(model, state)
        }),
        Property::sometimes(AWARDED, |_: &LineModel, state: &State| {
            state.units.iter().any(|unit| unit.holder.is_some())
        }),
        Property::sometimes(SERVED_STANDING_BY, |_: &LineModel, state: &State| state.seen.served_standing_by),
        Property::sometimes(GIVEN_AT_LAST, |_: &LineModel, state: &State| state.seen.given_at_last),
        Property::sometimes(IS_CLOSED, |_: &LineModel, state: &State| state.line.phase == Phase::Closed),
        Property::sometimes(IS_DRAWN, |_: &LineModel, state: &State| state.line.phase == Phase::Drawn),
        Property::sometimes(WAS_VOID, |_: &LineModel, state: &State| {
            state.seen.was_void && state.line.phase == Phase::Drawn
        }),
        Property::sometimes(WAS_POSTPONED, |_: &LineModel, state: &State| {
            state.seen.was_postponed && state.line.phase == Phase::Drawn
        }),
        Property::sometimes(IS_MERGED, |_: &LineModel, state: &State| {
            state.entries.iter().any(|entry| entry.state == EntryState::Merged)
        }),
        Property::sometimes(COMES_BACK, |_: &LineModel, state: &State| {
            let has_both = |buyer: usize| state.entries.iter().filter(|entry| entry.buyer == buyer).count() > 1;
            (0..state.buyers.len()).any(has_both)
        }),
    ]
}

/// Whether this is the place of that buyer, and they are in line or hold its unit.
fn holds(state: &State, at: usize, buyer: usize) -> bool {
    let is_there = match state.entries[at].state {
        EntryState::Waiting | EntryState::Merged => true,
        EntryState::Awarded { is_live, .. } => is_live,
        EntryState::Left | EntryState::Withdrawn => false,
    };
    state.entries[at].buyer == buyer && is_there
}

/// Of the sealed list, so many rounds have decided so many ranks.
fn is_within_bound(model: &LineModel, state: &State) -> bool {
    let line = &state.line;
    let (Some(sealed), Some(round)) = (line.sealed, line.round) else { return true };
    let rounds = usize::from(round) + 1;
    let is_due = line.phase == Phase::Drawn && !line.position.is_in_round() && !line.last_round_begun;
    !is_due || line.position.served >= sealed.count.min(rounds * usize::from(model.scope.per_round))
}

/// Steps, ticks included, in which undisturbed workers are through with any line of these worlds.
const STEPS_MAX: usize = 120;

fn ends(model: &LineModel, state: &State) -> bool {
    let mut state = state.clone();
    // The shop goes on with its rounds.
    state.pause(model, false);
    for _ in 0..STEPS_MAX {
        if state.line.phase == Phase::Closed {
            return true;
        }
        match state.look(model, 0) {
            Some(()) => state.commit(model, 0).unwrap_or_default(),
            None => state.now += 1,
        }
    }
    false
}
