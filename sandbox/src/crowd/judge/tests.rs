//! One honest history, doctored in every way that the judge must see, and in those that he must not.

use super::*;
use crate::crowd::Visit;

const TOTAL_MINOR: i64 = 11_900;

struct History {
    log: BuyersLog,
    facts: StoreFacts,
}

impl History {
    fn of(stock: &[(&str, u32)], limit: u32) -> Self {
        let stock = stock.iter().map(|&(sku, units)| (sku.to_owned(), units)).collect();
        Self { log: BuyersLog::default(), facts: StoreFacts { stock, limit, ..StoreFacts::default() } }
    }

    /// Three shoes (1 to 3) and three socks (4 to 6). Carol's card is declined and her shoe goes to Erin, who waited.
    fn honest() -> Self {
        let mut history = Self::of(&[("shoe", 3), ("sock", 3)], 2);
        history.sells("ann", "shoe", &[1], 10..20);
        history.call("ann", "shoe", 1, 21..25, accepted("ann", &[1], true));
        history.sells("bob", "shoe", &[2], 15..30);
        history.call("carol", "shoe", 1, 25..40, accepted("carol", &[3], false));
        history.order("carol", "carol", "shoe", "PAYMENT_FAILED", &[]);
        history.facts.freed.push(FreedFact { sku: "shoe".to_owned(), units: 1, at_us: 100 });
        history.call("dave", "shoe", 1, 22..26, CallOutcome::SoldOut);
        history.call("erin", "shoe", 1, 60..70, CallOutcome::SoldOut);
        history.sells("erin", "shoe", &[3], 120..130);
        history.call("frank", "shoe", 1, 115..125, CallOutcome::SoldOut);
        history.sells("hugo", "sock", &[4, 5], 10..20);
        history.call("gina", "sock", 2, 30..40, CallOutcome::NotEnough { available: 1 });
        history.facts.tokens_free = 1;
        history
    }

    fn call(&mut self, buyer: &str, sku: &str, quantity: u32, us: std::ops::Range<i64>, outcome: CallOutcome) {
        self.log.calls.push(Call {
            buyer: buyer.to_owned(),
            key: format!("key of {buyer}"),
            sku: sku.to_owned(),
            quantity,
            visit: Visit::FirstClick,
            due_us: us.start,
            started_us: us.start,
            ended_us: us.end,
            outcome,
        });
    }

    fn order(&mut self, order_id: &str, buyer: &str, sku: &str, status: &str, serials: &[u32]) {
        self.facts.orders.push(OrderFact {
            order_id: order_id.to_owned(),
            buyer: buyer.to_owned(),
            sku: sku.to_owned(),
            status: status.to_owned(),
            serials: serials.to_vec(),
            total_minor: TOTAL_MINOR,
            currency: "EUR".to_owned(),
        });
    }

    fn capture(&mut self, order_id: Option<&str>) {
        let order_id = order_id.map(str::to_owned);
        self.facts.captures.push(CaptureFact { order_id, amount_minor: TOTAL_MINOR, currency: "EUR".to_owned() });
    }

    /// Claimed, settled and paid.
    fn sells(&mut self, buyer: &str, sku: &str, serials: &[u32], us: std::ops::Range<i64>) {
        self.call(buyer, sku, serials.len() as u32, us, accepted(buyer, serials, false));
        self.order(buyer, buyer, sku, "CONFIRMED", serials);
        self.capture(Some(buyer));
    }

    fn verdict(&self) -> Verdict {
        judge(&self.log, &self.facts)
    }
}

fn accepted(claim_id: &str, serials: &[u32], replayed: bool) -> CallOutcome {
    CallOutcome::Accepted { claim_id: claim_id.to_owned(), serials: serials.to_vec(), replayed }
}

fn red(verdict: &Verdict) -> Vec<(&'static str, u64)> {
    let figures = [
        ("oversold", verdict.oversold),
        ("refused_while_stock_remained", verdict.refused_while_stock_remained),
        ("captures_per_order_max", verdict.captures_per_order_max.saturating_sub(1)),
        ("answers_that_differ", verdict.answers_that_differ),
        ("lost_claims", verdict.lost_claims),
        ("over_limit", verdict.over_limit),
        ("capture_mismatches", verdict.capture_mismatches),
    ];
    figures.into_iter().filter(|figure| figure.1 > 0).collect()
}

/// The honest history with one thing wrong turns these figures red, and no other.
fn check(expected: &[(&str, u64)], doctor: impl FnOnce(&mut History)) {
    let mut history = History::honest();
    doctor(&mut history);
    let verdict = history.verdict();
    assert_eq!(red(&verdict), expected, "{verdict:#?}");
    assert!(!verdict.is_clean() && !verdict.findings.is_empty());
}

/// How many refusals are accused.
#[track_caller]
fn check_accused(expected: u64, history: &History) {
    let verdict = history.verdict();
    assert_eq!(verdict.refused_while_stock_remained, expected, "{verdict:#?}");
}

#[test]
fn an_honest_history_is_clean() {
    let verdict = History::honest().verdict();
    assert!(verdict.is_clean(), "{verdict:#?}");
    let expected = Verdict {
        claims_accepted: 5,
        replayed_clicks: 1,
        sold_out_answers: 3,
        not_enough_answers: 1,
        orders_confirmed: 4,
        units_confirmed: 5,
        orders_payment_failed: 1,
        tokens_free: 1,
        captures_per_order_max: 1,
        ..Verdict::default()
    };
    assert_eq!(verdict, expected);
    assert!(judge(&BuyersLog::default(), &StoreFacts::default()).is_clean());
}

#[test]
fn an_extra_order_is_oversold() {
    // Held twice, and a fourth shoe of three.
    check(&[("oversold", 2)], |h| h.order("extra", "zoe", "shoe", "PENDING_PAYMENT", &[1]));
    // Nobody holds serial 6, but there is no fourth shoe.
    check(&[("oversold", 1)], |h| h.order("extra", "zoe", "shoe", "PENDING_PAYMENT", &[6]));
    // Stock has a third sock, but no serial 7.
    check(&[("oversold", 1)], |h| h.order("extra", "zoe", "sock", "PENDING_PAYMENT", &[7]));
    check(&[("oversold", 1)], |h| h.order("extra", "zoe", "hat", "PENDING_PAYMENT", &[6]));
    check(&[], |h| h.order("extra", "zoe", "sock", "SOMETHING", &[6]));
}

#[test]
fn a_refusal_while_a_unit_was_free_is_accused() {
    let accused = [("refused_while_stock_remained", 1)];
    // Carol, who took the last shoe, had not yet clicked.
    check(&accused, |h| h.call("zoe", "shoe", 1, 16..24, CallOutcome::SoldOut));
    // Her shoe has come back, and Erin has not clicked again.
    check(&accused, |h| h.call("zoe", "shoe", 1, 100..119, CallOutcome::SoldOut));
    check(&accused, |h| h.call("zoe", "sock", 1, 30..40, CallOutcome::NotEnough { available: 0 }));
}

#[test]
fn a_refusal_that_touches_the_sell_out_is_honest() {
    for us in [16..25, 25..26, 39..50, 40..99, 99..101, 110..120, 130..140] {
        let mut history = History::honest();
        history.call("zoe", "shoe", 1, us.clone(), CallOutcome::SoldOut);
        assert!(history.verdict().is_clean(), "{us:?}");
    }
}

#[test]
fn a_second_capture_is_found() {
    check(&[("captures_per_order_max", 1), ("capture_mismatches", 1)], |h| h.capture(Some("ann")));
}

#[test]
fn every_capture_pays_exactly_one_sold_order() {
    check(&[("capture_mismatches", 1)], |h| h.facts.captures[0].amount_minor += 1);
    check(&[("capture_mismatches", 1)], |h| h.facts.captures[0].currency = "USD".to_owned());
    check(&[("capture_mismatches", 1)], |h| drop(h.facts.captures.pop()));
    check(&[("capture_mismatches", 1)], |h| h.capture(None));
    check(&[("capture_mismatches", 1)], |h| h.capture(Some("carol")));
    check(&[("capture_mismatches", 1)], |h| h.capture(Some("nobody")));
}

#[test]
fn an_accepted_claim_that_is_no_order_is_lost() {
    let remove = |history: &mut History| {
        history.facts.orders.retain(|order| order.order_id != "bob");
        history.facts.captures.retain(|capture| capture.order_id.as_deref() != Some("bob"));
    };
    check(&[("lost_claims", 1)], remove);
    check(&[("lost_claims", 1)], |h| h.facts.orders[0].buyer = "zoe".to_owned());
    // Both socks were promised.
    check(&[("lost_claims", 1)], |h| h.facts.orders.last_mut().unwrap().serials.truncate(1));
}

#[test]
fn another_answer_for_the_same_key_is_found() {
    check(&[("answers_that_differ", 1)], |h| h.call("ann", "shoe", 1, 26..28, accepted("ann", &[2], true)));
    check(&[("answers_that_differ", 1)], |h| {
        h.call("hugo", "sock", 1, 50..60, accepted("other", &[6], true));
        h.order("other", "hugo", "sock", "CANCELLED", &[]);
    });
}

#[test]
fn a_buyer_over_the_limit_is_found() {
    check(&[("over_limit", 1)], |h| h.order("third", "hugo", "sock", "PENDING_PAYMENT", &[6]));
}

#[test]
fn a_claim_nobody_answered_may_be_the_reason_of_a_refusal() {
    let mut history = History::of(&[("shoe", 1)], 1);
    history.call("ann", "shoe", 1, 10..20, CallOutcome::Unknown("gone".to_owned()));
    history.call("zoe", "shoe", 1, 30..40, CallOutcome::SoldOut);
    check_accused(0, &history);
    // Before she clicked it was not.
    history.call("bob", "shoe", 1, 5..9, CallOutcome::SoldOut);
    check_accused(1, &history);
    // Told later that her key holds nothing, she had taken nothing, and from then on it is no reason.
    history.call("ann", "shoe", 1, 50..60, CallOutcome::SoldOut);
    check_accused(1, &history);
    history.call("dave", "shoe", 1, 61..70, CallOutcome::SoldOut);
    check_accused(2, &history);
    // Unless the stores know better: her request was executed after all.
    history.order("late", "ann", "shoe", "PENDING_PAYMENT", &[1]);
    check_accused(1, &history);
}

#[test]
fn an_order_that_no_answer_explains_counts_once() {
    let mut history = History::of(&[("shoe", 2)], 1);
    history.call("ann", "shoe", 1, 10..20, CallOutcome::Overloaded);
    history.order("unanswered", "ann", "shoe", "PENDING_PAYMENT", &[1]);
    history.call("zoe", "shoe", 1, 30..40, CallOutcome::SoldOut);
    check_accused(1, &history);
    // Somebody who is not in the log bought the other one; nobody knows when.
    history.order("stranger", "max", "shoe", "PENDING_PAYMENT", &[2]);
    check_accused(0, &history);
}

#[test]
fn a_strangers_failed_order_was_gone_before_it_came_back() {
    let mut history = History::of(&[("shoe", 1)], 1);
    history.order("stranger", "max", "shoe", "PAYMENT_FAILED", &[]);
    history.facts.freed.push(FreedFact { sku: "shoe".to_owned(), units: 1, at_us: 50 });
    history.call("zoe", "shoe", 1, 30..40, CallOutcome::SoldOut);
    history.sells("bob", "shoe", &[1], 60..70);
    history.call("dave", "shoe", 1, 75..80, CallOutcome::SoldOut);
    assert!(history.verdict().is_clean());
}

/// A shop that tells everybody "sold out" for two seconds after it has sold a unit that came back.
#[test]
fn a_shop_that_refuses_everybody_after_a_resale_is_accused_for_every_unit_that_lies_there() {
    const SECOND: i64 = 1_000_000;
    let mut history = History::of(&[("shoe", 3), ("sock", 2)], 1);
    for (buyer, sku) in [("ann", "shoe"), ("bob", "shoe"), ("carol", "sock")] {
        history.call(buyer, sku, 1, 10..20, accepted(buyer, &[1], false));
        history.order(buyer, buyer, sku, "CANCELLED", &[]);
    }
    // A third shoe and a second sock are new: they come at the end of the first second, with those that come back.
    history.facts.added = vec![("shoe".to_owned(), 1), ("sock".to_owned(), 1)];
    for number in 0..50 {
        let us = 20_000 * number + 30..20_000 * number + 40;
        history.call(&format!("before {number}"), "shoe", 1, us.clone(), CallOutcome::SoldOut);
        history.call(&format!("before {number}"), "sock", 1, us, CallOutcome::SoldOut);
    }
    for (sku, units) in [("shoe", 2), ("shoe", 1), ("sock", 1), ("sock", 1)] {
        history.facts.freed.push(FreedFact { sku: sku.to_owned(), units, at_us: SECOND });
    }
    check_accused(0, &history);
    history.sells("erin", "shoe", &[2], SECOND + 100..SECOND + 200);
    for number in 0..20 {
        let us = SECOND + 100_000 * number + 300..SECOND + 100_000 * number + 400;
        history.call(&format!("shoe {number}"), "shoe", 1, us.clone(), CallOutcome::SoldOut);
        history.call(&format!("sock {number}"), "sock", 1, us, CallOutcome::SoldOut);
    }
    check_accused(40, &history);
    // Once the last ones are sold, it is right.
    history.sells("hugo", "shoe", &[1], 3 * SECOND..3 * SECOND + 100);
    history.sells("ida", "shoe", &[3], 3 * SECOND..3 * SECOND + 100);
    history.call("zoe", "shoe", 1, 3 * SECOND + 200..3 * SECOND + 300, CallOutcome::SoldOut);
    history.call("zoe", "sock", 1, 3 * SECOND + 200..3 * SECOND + 300, CallOutcome::SoldOut);
    check_accused(41, &history);
}

#[test]
fn a_patient_buyers_claim_does_not_excuse_refusals_before_he_came_back() {
    let mut history = History::of(&[("shoe", 1)], 1);
    history.call("ann", "shoe", 1, 10..20, CallOutcome::NotOpen);
    history.call("zoe", "shoe", 1, 30..40, CallOutcome::SoldOut);
    history.sells("ann", "shoe", &[1], 50..60);
    check_accused(1, &history);
}

#[test]
fn many_findings_are_counted_but_not_all_told() {
    let mut history = History::of(&[("shoe", 1)], 1);
    for number in 0..100_000 {
        history.call(&format!("buyer {number}"), "shoe", 1, number..number + 5, CallOutcome::SoldOut);
    }
    let verdict = history.verdict();
    assert_eq!(verdict.refused_while_stock_remained, 100_000);
    assert_eq!(verdict.findings.len(), 21);
    assert!(verdict.findings[20].contains("99980 more"), "{}", verdict.findings[20]);
}
