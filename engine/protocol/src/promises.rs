//! What must hold in every state, and what must come true once faults stop.

use stateright::Property;

use crate::state::{
    Fate, Grant, Holder, Line, Protocol, REST, Record, Stage, State, Token, Transfer, WAREHOUSES, Worker, has,
};

pub(crate) const ONE_ORDER: &str = "a unit backs at most one live order";
pub(crate) const LIMIT: &str = "no buyer holds more than the limit";
pub(crate) const ONCE: &str = "a claim id is settled once";
pub(crate) const ONE_PLACE: &str = "a unit is in at most one place";
pub(crate) const NOT_REFUSED: &str = "nobody is refused while a unit is free";
pub(crate) const IS_ANSWERED: &str = "an undisturbed reading answers when no unit is on sale or on its way";
pub(crate) const BECOMES_ORDER: &str = "a claim of the current epoch becomes an order";
pub(crate) const REJECTED_ONLY: &str = "no claim is rejected unless an old primary came back";
pub(crate) const SETTLES_DOWN: &str =
    "when faults stop, every unit is free in one place or backs its claim's order, no award is open";

pub(crate) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(ONE_ORDER, |protocol: &Protocol, state: &State| {
            (0..protocol.scope.tokens.len())
                .all(|serial| state.postgres.claims.iter().filter(|fate| **fate == Fate::Live(serial)).count() <= 1)
        }),
        Property::always(LIMIT, |protocol: &Protocol, state: &State| {
            let live = |claim: &usize| matches!(state.postgres.claims[*claim], Fate::Live(_));
            let claims = protocol.scope.claims.len();
            (0..claims).filter(live).all(|claim| {
                (0..claims).filter(live).filter(|other| protocol.buyer(*other) == protocol.buyer(claim)).count() == 1
            })
        }),
        Property::always(ONCE, |_: &Protocol, state: &State| state.postgres.settled.iter().all(|times| *times <= 1)),
        Property::always(ONE_PLACE, |protocol: &Protocol, state: &State| {
            (0..protocol.scope.tokens.len()).all(|serial| places(state, serial) <= 1)
        }),
        Property::always(NOT_REFUSED, |_: &Protocol, state: &State| {
            !(state.seen.refused_while_free || state.lease > 0 && is_anything_to_be_had(state))
        }),
        Property::always(IS_ANSWERED, |protocol: &Protocol, state: &State| {
            let all_issue = (0..WAREHOUSES).all(|warehouse| state.is_current(warehouse));
            let is_leaving = state.redis.iter().any(|redis| !redis.out.is_empty());
            !all_issue || is_leaving || is_anything_free(state) || state.would_refuse(protocol)
        }),
        Property::always(BECOMES_ORDER, |_: &Protocol, state: &State| !state.seen.rejected_of_this_epoch),
        Property::always(REJECTED_ONLY, |_: &Protocol, state: &State| !state.seen.rejected || state.seen.returned),
        Property::always(SETTLES_DOWN, |protocol: &Protocol, state: &State| {
            !is_idle(state) || settles_down(protocol, state)
        }),
    ]
}

/// Where a unit is or may be sold, as far as the warehouses that are open under Postgres' epoch and Postgres itself say.
fn places(state: &State, serial: usize) -> usize {
    let holder = state.postgres.tokens[serial].holder;
    let mut places = usize::from(holder != Holder::Nobody);
    for warehouse in (0..WAREHOUSES).filter(|warehouse| state.is_current(*warehouse)) {
        let redis = &state.redis[warehouse];
        places += usize::from(has(redis.free, serial));
        let leaving = redis.out.iter().filter(|out| out.serial == serial && !state.is_transferred(out.transfer));
        places += leaving.count();
        // A claim that an award has made is the award still, until it is settled.
        let unseen = |claim: usize| state.postgres.claims[claim] == Fate::Unseen && holder != Holder::Awarded(claim);
        let unsettled = redis.log.iter().skip(redis.mark).filter(|entry| entry.serial == serial && unseen(entry.claim));
        places += unsettled.count();
        let pending = state.postgres.grants[warehouse].iter().skip(usize::from(redis.granted));
        places += pending.filter(|grant| grant.has_units() && has(grant.serials, serial)).count();
    }
    places
}

/// For a reading: free, set aside and not granted yet, granted and not applied yet, or in a warehouse that is being
/// rebuilt.
pub(crate) fn is_anything_free(state: &State) -> bool {
    (0..WAREHOUSES).any(|warehouse| {
        let redis = &state.redis[warehouse];
        if !state.is_current(warehouse) {
            let mut tokens = state.postgres.tokens.iter();
            return tokens.any(|token| (token.at, token.holder) == (warehouse, Holder::Nobody));
        }
        let pending = &state.postgres.grants[warehouse][usize::from(redis.granted)..];
        let is_leaving = redis.out.iter().any(|out| !state.is_transferred(out.transfer));
        redis.free != 0 || is_leaving || pending.iter().any(Grant::has_units)
    })
}

/// For a lease, which warehouses that are rebuilt wait for, and units that an older worker released.
fn is_anything_to_be_had(state: &State) -> bool {
    (0..WAREHOUSES).filter(|warehouse| state.is_current(*warehouse)).any(|warehouse| {
        let redis = &state.redis[warehouse];
        let pending = &state.postgres.grants[warehouse][usize::from(redis.granted)..];
        redis.free != 0 || !redis.out.is_empty() || pending.iter().any(|grant| grant.has_units() && grant.waits == 0)
    })
}

/// Nobody is in the middle of anything. Whoever is, may die: so what holds from here holds from everywhere.
fn is_idle(state: &State) -> bool {
    let no_worker = state.workers.iter().all(|worker| *worker == Worker::Idle);
    no_worker && state.rebuilds.is_empty() && state.transfers.is_empty() && state.proof.is_none()
}

/// Lets the workers do their rounds undisturbed, and looks at what is left.
fn settles_down(protocol: &Protocol, state: &State) -> bool {
    let mut state = state.clone();
    // Nothing is waited for any more.
    (state.lease, state.left.proofs) = (0, 0);
    state.forget_time();
    for _ in 0..12 {
        let before = state.clone();
        round(protocol, &mut state);
        if state == before {
            return is_explained(protocol, &state);
        }
    }
    false
}

fn round(protocol: &Protocol, state: &mut State) {
    for warehouse in 0..WAREHOUSES {
        if !state.is_current(warehouse) {
            state.postgres.epoch[warehouse] += 1;
            let epoch = state.postgres.epoch[warehouse];
            let mut stage = Some(Stage::Begun);
            while let Some(now) = stage {
                stage = state.rebuild(protocol, warehouse, epoch, now);
            }
        }
        let redis = &state.redis[warehouse];
        let (entries, upto) = (redis.log.get(redis.mark..).unwrap_or_default().to_vec(), redis.log.len());
        if !entries.is_empty() && state.settle(protocol, warehouse, &entries, None) {
            state.mark(protocol, warehouse, state.postgres.epoch[warehouse], upto);
        }
        let epoch = state.redis[warehouse].epoch;
        for out in state.redis[warehouse].out.clone() {
            let (id, serial) = (out.transfer, out.serial);
            let transfer = Transfer { id, source: warehouse, epoch, serial, is_committed: true };
            if state.commit_transfer(protocol, &transfer) {
                state.clear(protocol, &transfer);
            }
        }
    }
    state.forget_time();
    for serial in 0..state.postgres.tokens.len() {
        if state.postgres.tokens[serial].holder == Holder::Resting(REST) {
            state.end_rest(protocol, serial);
        }
    }
    for warehouse in 0..WAREHOUSES {
        while state.redis[warehouse].granted < state.last_grant(warehouse) {
            let number = state.redis[warehouse].granted + 1;
            if state.apply_grant(protocol, warehouse, number).is_none() {
                break;
            }
        }
        // An award whose answer nobody has written down is applied once more.
        for number in 1..=state.last_grant(warehouse) {
            if state.postgres.grants[warehouse][usize::from(number) - 1].award.is_some() {
                state.apply_grant(protocol, warehouse, number);
            }
        }
    }
    state.note_award(protocol);
    state.forget_time();
}

fn is_explained(protocol: &Protocol, state: &State) -> bool {
    let at_rest = (0..WAREHOUSES).all(|warehouse| {
        let redis = &state.redis[warehouse];
        let settled = redis.mark >= redis.log.len();
        state.is_current(warehouse) && settled && redis.out.is_empty() && redis.granted == state.last_grant(warehouse)
    });
    let units_explained = (0..protocol.scope.tokens.len()).all(|serial| {
        let Token { at, holder } = state.postgres.tokens[serial];
        let free_in = |warehouse: &usize| has(state.redis[*warehouse].free, serial);
        let free = (0..WAREHOUSES).filter(free_in).collect::<Vec<_>>();
        match holder {
            Holder::Order(claim) => free.is_empty() && state.postgres.claims[claim] == Fate::Live(serial),
            Holder::Nobody => free == [at],
            Holder::Awarded(_) | Holder::Resting(_) => false,
        }
    });
    let claims_explained = (0..protocol.scope.claims.len()).all(|claim| {
        let record = state.redis[protocol.home(claim)].records[claim];
        match state.postgres.claims[claim] {
            Fate::Live(serial) => record == Record::Live(serial),
            _ => !matches!(record, Record::Live(_)),
        }
    });
    let award_explained = state.postgres.line != Line::Over
        || protocol.scope.award.is_none_or(|claim| state.postgres.claims[claim] != Fate::Unseen);
    at_rest && units_explained && claims_explained && award_explained
}
