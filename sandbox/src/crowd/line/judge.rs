//! The judge of a line: what waiters were told, against what the stores hold. It knows nothing of how units are given.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{LineLog, LineVisit, Place, Told};

/// What the stores hold of a line when all is over.
#[derive(Debug, Clone, Default)]
pub struct LineFacts {
    pub places: Vec<PlaceFact>,
    /// Buyers with an order, whatever became of it.
    pub orders: Vec<(String, String)>,
    /// How often a gateway read a board from a store.
    pub board_reads: u64,
    /// How often it may have, had nobody but the clock asked: once a second for each gateway.
    pub board_reads_due: u64,
}

/// A place as the stores have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceFact {
    pub buyer: String,
    pub entry_id: String,
    pub status: String,
    pub wish: Vec<String>,
    pub rank: Option<u32>,
    pub order_id: Option<String>,
}

/// The figures. All but the first five should be 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LineVerdict {
    /// Buyers who were told that they are in line.
    pub joined: u64,
    pub left: u64,
    pub changed: u64,
    /// Buyers who watched the board, and how often they looked.
    pub watchers: u64,
    pub looks: u64,
    /// Buyers who wanted to join and do not know that they have.
    pub not_joined: u64,
    /// Board reads beyond one a second for each gateway: looks that a store has felt.
    pub looks_that_reached_a_store: u64,
    /// Looks at which a page said of a rank that it waits longer than it had said before.
    pub waits_that_rose: u64,
    /// Places that buyers were told of, and that are not there.
    pub places_lost: u64,
    /// Buyers who were told two places, or who have two.
    pub places_doubled: u64,
    /// Wishes that are not those which a buyer was told.
    pub wishes_lost: u64,
    /// Buyers who were told that they had left, and have an order.
    pub given_after_leaving: u64,
    /// Buyers who were told something of their place at the end that is not so.
    pub told_otherwise: u64,
    /// What is wrong, one sentence each, at most a few of a kind.
    pub line_findings: Vec<String>,
}

/// Sentences of a kind.
const SENTENCES_MAX: usize = 3;

impl LineVerdict {
    pub fn is_clean(&self) -> bool {
        let zeros = [
            self.not_joined,
            self.looks_that_reached_a_store,
            self.waits_that_rose,
            self.places_lost,
            self.places_doubled,
            self.wishes_lost,
            self.given_after_leaving,
            self.told_otherwise,
        ];
        zeros.iter().all(|count| *count == 0)
    }
}

#[derive(Default)]
struct Findings(BTreeMap<&'static str, Vec<String>>);

impl Findings {
    /// Counts it, and keeps the first sentences.
    fn tell(&mut self, count: &mut u64, kind: &'static str, sentence: impl FnOnce() -> String) {
        *count += 1;
        let sentences = self.0.entry(kind).or_default();
        if sentences.len() < SENTENCES_MAX {
            sentences.push(sentence());
        }
    }
}

pub fn judge_line(log: &LineLog, facts: &LineFacts) -> LineVerdict {
    let mut findings = Findings::default();
    let mut verdict = LineVerdict {
        looks: log.visits.iter().map(|visit| visit.looks).sum(),
        watchers: log.visits.iter().filter(|visit| visit.looks > 0).count() as u64,
        looks_that_reached_a_store: facts.board_reads.saturating_sub(facts.board_reads_due),
        ..LineVerdict::default()
    };
    let mut places: HashMap<&str, Vec<&PlaceFact>> = HashMap::new();
    for place in &facts.places {
        places.entry(&place.buyer).or_default().push(place);
    }
    let orders = facts.orders.iter().map(|(buyer, order)| (buyer.as_str(), order.as_str())).collect::<HashMap<_, _>>();
    for visit in &log.visits {
        let places = places.get(visit.buyer.as_str()).map(Vec::as_slice).unwrap_or_default();
        weigh_place(visit, places, &mut verdict, &mut findings);
        weigh_waits(visit, &mut verdict, &mut findings);
        let left = visit.left == Some(Told::Done);
        verdict.left += u64::from(left);
        if left && let Some(order) = orders.get(visit.buyer.as_str()) {
            findings.tell(&mut verdict.given_after_leaving, "left", || {
                format!("Buyer {} left the line and has the order {order}.", visit.buyer)
            });
        }
    }
    verdict.line_findings = findings.0.into_values().flatten().collect();
    verdict
}

fn weigh_place(visit: &LineVisit, places: &[&PlaceFact], verdict: &mut LineVerdict, findings: &mut Findings) {
    let buyer = &visit.buyer;
    let Some(told) = visit.entry_id() else {
        findings.tell(&mut verdict.not_joined, "join", || format!("Buyer {buyer} did not get into the line."));
        return;
    };
    verdict.joined += 1;
    verdict.changed += u64::from(visit.changed == Some(Told::Done));
    let is_told_another = visit.joins.iter().filter_map(|call| call.outcome.entry_id()).any(|other| other != told);
    if is_told_another || places.len() > 1 {
        findings.tell(&mut verdict.places_doubled, "doubled", || format!("Buyer {buyer} has two places."));
    }
    let Some(place) = places.iter().find(|place| place.entry_id == told) else {
        findings.tell(&mut verdict.places_lost, "lost", || format!("Buyer {buyer} has no place {told} any more."));
        return;
    };
    // Of a change that was not answered nobody knows.
    let is_sure = !matches!(visit.changed, Some(Told::Unknown(_)));
    if is_sure && place.wish != visit.wish {
        findings.tell(&mut verdict.wishes_lost, "wish", || {
            format!("Buyer {buyer} wants {:?}, and the shop has {:?}.", visit.wish, place.wish)
        });
    }
    if let Some(last) = &visit.place
        && !last.is_as(place)
    {
        findings.tell(&mut verdict.told_otherwise, "told", || {
            format!("Buyer {buyer} was told {last:?}, and the shop has {place:?}.")
        });
    }
}

fn weigh_waits(visit: &LineVisit, verdict: &mut LineVerdict, findings: &mut Findings) {
    for pair in visit.waits.windows(2).filter(|pair| pair[1].rose_since(&pair[0])) {
        findings.tell(&mut verdict.waits_that_rose, "wait", || {
            format!("The wait of buyer {} rose: {:?}, then {:?}.", visit.buyer, pair[0], pair[1])
        });
    }
}

impl Place {
    fn is_as(&self, fact: &PlaceFact) -> bool {
        let Place { entry_id, status, wish, rank, order_id } = self;
        (entry_id, status, wish, rank, order_id)
            == (&fact.entry_id, &fact.status, &fact.wish, &fact.rank, &fact.order_id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{JoinCall, JoinOutcome, Wait};
    use super::*;

    fn visit() -> LineVisit {
        let joined = |replayed| JoinOutcome::Joined { entry_id: "e1".to_owned(), replayed };
        let call = |outcome| JoinCall { started_us: 1, ended_us: 2, outcome };
        let wait = |rounds: u32| Wait { rounds, decided_by_ms: Some(i64::from(rounds) * 1_000), every_ms: 1_000 };
        LineVisit {
            buyer: "ada".to_owned(),
            joins: vec![call(JoinOutcome::Unknown("cut".to_owned())), call(joined(false)), call(joined(true))],
            wish: vec!["shoe".to_owned()],
            waits: vec![wait(3), wait(2), wait(2), wait(0)],
            looks: 4,
            place: Some(Place {
                entry_id: "e1".to_owned(),
                status: "awarded".to_owned(),
                wish: vec!["shoe".to_owned()],
                rank: Some(7),
                order_id: Some("o1".to_owned()),
            }),
            ..LineVisit::default()
        }
    }

    fn facts() -> LineFacts {
        let place = PlaceFact {
            buyer: "ada".to_owned(),
            entry_id: "e1".to_owned(),
            status: "awarded".to_owned(),
            wish: vec!["shoe".to_owned()],
            rank: Some(7),
            order_id: Some("o1".to_owned()),
        };
        let orders = vec![("ada".to_owned(), "o1".to_owned())];
        LineFacts { places: vec![place], orders, board_reads: 10, board_reads_due: 10 }
    }

    #[test]
    fn an_honest_line_is_clean_and_every_lie_about_it_is_found() {
        type Change = fn(&mut LineVisit, &mut LineFacts);
        type Count = fn(&LineVerdict) -> u64;
        let judged = |change: Change| {
            let (mut visit, mut facts) = (visit(), facts());
            change(&mut visit, &mut facts);
            judge_line(&LineLog { visits: vec![visit] }, &facts)
        };
        let honest = judged(|_, _| {});
        assert!(honest.is_clean(), "{honest:?}");
        assert_eq!((honest.joined, honest.looks, honest.watchers), (1, 4, 1));
        let lies: [(&str, Change, Count); 12] = [
            ("nobody let them in", |visit, _| visit.joins.truncate(1), |found| found.not_joined),
            ("a look too many", |_, facts| facts.board_reads = 11, |found| found.looks_that_reached_a_store),
            ("more rounds", |visit, _| visit.waits[2].rounds = 3, |found| found.waits_that_rose),
            (
                "later by more than a round",
                |visit, _| visit.waits[1].decided_by_ms = Some(4_001),
                |found| found.waits_that_rose,
            ),
            ("the place is gone", |_, facts| facts.places.clear(), |found| found.places_lost),
            (
                "another place is told",
                |visit, _| visit.joins[2].outcome = JoinOutcome::InLine { entry_id: "e2".to_owned() },
                |found| found.places_doubled,
            ),
            (
                "two places",
                |_, facts| facts.places.push(PlaceFact { entry_id: "e2".to_owned(), ..facts.places[0].clone() }),
                |found| found.places_doubled,
            ),
            ("another wish", |_, facts| facts.places[0].wish.push("sock".to_owned()), |found| found.wishes_lost),
            ("given after leaving", |visit, _| visit.left = Some(Told::Done), |found| found.given_after_leaving),
            ("another rank", |_, facts| facts.places[0].rank = Some(8), |found| found.told_otherwise),
            ("another order", |_, facts| facts.places[0].order_id = None, |found| found.told_otherwise),
            ("another status", |_, facts| facts.places[0].status = "waiting".to_owned(), |found| found.told_otherwise),
        ];
        for (what, lie, count) in lies {
            let verdict = judged(lie);
            assert_eq!((count(&verdict), verdict.is_clean()), (1, false), "{what}: {verdict:?}");
        }
    }

    #[test]
    fn a_look_into_the_middle_of_a_round_may_be_wrong_by_one_round() {
        let wait = |decided_by_ms| Wait { rounds: 1, decided_by_ms: Some(decided_by_ms), every_ms: 1_000 };
        assert!(!wait(2_000).rose_since(&wait(1_000)));
        assert!(wait(2_001).rose_since(&wait(1_000)));
    }
}
