//! Refunds: money back, never more than was taken, at once, later or in the end not at all.

use serde_json::{Map, Value, json};

use super::intents::End;
use super::list::Listed;
use super::{Answer, Capture, Form, Later, Store, Twist, executed_error, invalid, metadata_field, not_found};

/// A refund.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeRefund {
    pub refund_id: String,
    pub status: &'static str,
    pub intent_id: String,
    pub charge_id: String,
    pub amount_minor: i64,
    pub currency: String,
    pub metadata: Map<String, Value>,
    pub reason: Option<String>,
    pub failure_reason: Option<&'static str>,
    /// In seconds since 1970.
    pub created: i64,
    balance_transaction: String,
    failure_balance_transaction: Option<String>,
}

impl FakeRefund {
    /// Whether it counts against what can still be refunded.
    fn holds_money(&self) -> bool {
        !matches!(self.status, "failed" | "canceled")
    }
}

impl Listed for FakeRefund {
    fn id(&self) -> &str {
        &self.refund_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn has(&self, field: &str, value: &str) -> bool {
        match field {
            "payment_intent" => self.intent_id == value,
            _ => self.charge_id == value,
        }
    }

    fn to_json(&self) -> Value {
        let mut object = json!({ "id": self.refund_id, "object": "refund", "status": self.status,
            "amount": self.amount_minor, "currency": self.currency, "charge": self.charge_id,
            "payment_intent": self.intent_id, "metadata": self.metadata, "reason": self.reason,
            "balance_transaction": self.balance_transaction, "receipt_number": null, "created": self.created });
        // The provider writes these two only where there was a failure.
        if let Some(reason) = self.failure_reason {
            object["failure_reason"] = reason.into();
            object["failure_balance_transaction"] = self.failure_balance_transaction.clone().into();
        }
        object
    }
}

impl Store {
    pub(crate) fn refunds(&self) -> &[FakeRefund] {
        &self.refunds
    }

    pub(super) fn create_refund(&mut self, form: Form, twist: Twist) -> Answer {
        let (mut intent_id, mut charge_id, mut amount, mut reason) = (None, None, None, None);
        let mut metadata = Map::new();
        for (name, value) in form {
            match (name.as_str(), value.as_str()) {
                ("payment_intent", _) => intent_id = Some(value),
                ("charge", _) => charge_id = Some(value),
                ("amount", _) => amount = Some(value.parse().unwrap_or(0)),
                ("reason", "duplicate" | "fraudulent" | "requested_by_customer") => reason = Some(value),
                _ => match metadata_field(&name) {
                    Some(field) => drop(metadata.insert(field.to_owned(), value.into())),
                    None => {
                        return invalid("parameter_unknown", &format!("Received unknown parameter: {name}={value}"));
                    }
                },
            }
        }
        if intent_id.is_none() && charge_id.is_none() {
            return invalid("parameter_missing", "One of payment_intent and charge should be provided.");
        }
        if amount.is_some_and(|amount: i64| amount <= 0) {
            return invalid("parameter_invalid_integer", "amount must be a positive integer.");
        }
        if let Some(id) = intent_id.as_ref().filter(|id| !self.positions.contains_key(*id)) {
            return not_found(&format!("No such payment_intent: '{id}'"));
        }
        let is_meant = |capture: &&Capture| {
            intent_id.as_ref().is_none_or(|id| capture.intent_id == *id)
                && charge_id.as_ref().is_none_or(|id| capture.charge_id == *id)
        };
        let Some(capture) = self.captures.iter().find(is_meant).cloned() else {
            return match charge_id {
                Some(id) => not_found(&format!("No such charge: '{id}'")),
                None => executed_error("parameter_invalid", "This PaymentIntent has no successful charge to refund."),
            };
        };
        if self.is_disputed(&capture.charge_id) {
            return executed_error("charge_disputed", &format!("Charge {} is disputed.", capture.charge_id));
        }
        let left = capture.amount_minor - self.refunded_minor(&capture.charge_id);
        if left == 0 {
            let message = format!("Charge {} has already been refunded.", capture.charge_id);
            return executed_error("charge_already_refunded", &message);
        }
        let amount_minor = amount.unwrap_or(left);
        if amount_minor > left {
            let message =
                format!("Refund amount ({amount_minor}) is greater than unrefunded amount on charge ({left}).");
            return executed_error("amount_too_large", &message);
        }
        let (status, later) = self.fate(&capture.intent_id, twist);
        let refund_id = self.new_id("re");
        let balance_transaction = self.book("refund", -amount_minor, 0, &capture.currency, &refund_id);
        if let Some(end) = later {
            self.later.push(Later::Refund { refund_id: refund_id.clone(), end });
        }
        let refund = FakeRefund {
            refund_id,
            status,
            intent_id: capture.intent_id.clone(),
            charge_id: capture.charge_id.clone(),
            amount_minor,
            currency: capture.currency.clone(),
            metadata,
            reason,
            failure_reason: None,
            created: self.clock.now(),
            balance_transaction,
            failure_balance_transaction: None,
        };
        let answer = Answer::ok(&refund.to_json());
        self.refunds.push(refund);
        let charge = self.charge_json(&capture);
        self.emit("charge.refunded", charge, &capture.intent_id);
        answer
    }

    /// How it begins, and how it ends if it has not ended yet. The cards are the provider's own test cards.
    fn fate(&self, intent_id: &str, twist: Twist) -> (&'static str, Option<End>) {
        match self.intents[self.positions[intent_id]].payment_method.as_deref() {
            Some("pm_card_pendingRefund") => ("pending", Some(End::Succeeded)),
            // Success is not the end: this is how a closed account shows.
            Some("pm_card_refundFail") => ("succeeded", Some(End::Failed)),
            _ if twist.refund_fails => ("pending", Some(End::Failed)),
            _ if twist.refund_pending => ("pending", Some(End::Succeeded)),
            _ => ("succeeded", None),
        }
    }

    pub(super) fn read_refund(&self, refund_id: &str) -> Answer {
        match self.refunds.iter().find(|refund| refund.refund_id == refund_id) {
            Some(refund) => Answer::ok(&refund.to_json()),
            None => not_found(&format!("No such refund: '{refund_id}'")),
        }
    }

    /// Ends a pending refund, or fails one that had succeeded. False if there is nothing to change.
    pub(crate) fn settle_refund(&mut self, refund_id: &str, end: End) -> bool {
        let Some(position) = self.refunds.iter().position(|refund| refund.refund_id == refund_id) else { return false };
        let refund = &self.refunds[position];
        match (refund.status, end) {
            ("pending", End::Succeeded) => self.refunds[position].status = "succeeded",
            ("pending" | "succeeded", End::Failed) => {
                let (amount, currency) = (refund.amount_minor, refund.currency.clone());
                let back = self.book("refund_failure", amount, 0, &currency, refund_id);
                let refund = &mut self.refunds[position];
                (refund.status, refund.failure_reason) = ("failed", Some("lost_or_stolen_card"));
                refund.failure_balance_transaction = Some(back);
            }
            _ => return false,
        }
        let (object, intent_id) = (self.refunds[position].to_json(), self.refunds[position].intent_id.clone());
        self.emit("refund.updated", object.clone(), &intent_id);
        if end == End::Failed {
            self.emit("refund.failed", object, &intent_id);
        }
        true
    }

    pub(super) fn refunded_minor(&self, charge_id: &str) -> i64 {
        let holding = self.refunds.iter().filter(|refund| refund.charge_id == charge_id && refund.holds_money());
        holding.map(|refund| refund.amount_minor).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::FakeClock;

    const REFUNDS: &str = "/v1/refunds";

    fn post(store: &mut Store, path: &str, parameters: &str) -> Answer {
        store.execute("POST", path, parameters, Twist::default())
    }

    /// A store with 100 taken from this card.
    fn paid(method: &str) -> (Store, Capture) {
        let mut store = Store::new("0", "http://fake", FakeClock::unix_seconds(|| 1_795_773_600));
        post(&mut store, "/v1/payment_intents", "amount=100&currency=eur&metadata[order_id]=o-1");
        let path = format!("/v1/payment_intents/{}/confirm", store.intents()[0].intent_id);
        assert_eq!(post(&mut store, &path, &format!("payment_method={method}")).status, 200);
        let capture = store.captures()[0].clone();
        (store, capture)
    }

    #[test]
    fn never_more_is_given_back_than_was_taken() {
        let (mut store, capture) = paid("pm_card_visa");
        let (by_intent, by_charge) =
            (format!("payment_intent={}", capture.intent_id), format!("charge={}", capture.charge_id));
        // (parameters, status code, word in the answer, refunded in all) one after the other on the same charge.
        let steps: &[(String, u16, &str, i64)] = &[
            (String::new(), 400, "parameter_missing", 0),
            ("amount=5".to_owned(), 400, "parameter_missing", 0),
            ("payment_intent=pi_0".to_owned(), 404, "resource_missing", 0),
            ("charge=ch_0".to_owned(), 404, "resource_missing", 0),
            (format!("{by_intent}&amount=0"), 400, "parameter_invalid_integer", 0),
            (format!("{by_intent}&amount=-1"), 400, "parameter_invalid_integer", 0),
            (format!("{by_intent}&amount=101"), 400, "greater than unrefunded", 0),
            (format!("{by_intent}&currency=eur"), 400, "parameter_unknown", 0),
            (format!("{by_intent}&reason=whim"), 400, "parameter_unknown", 0),
            (format!("{by_intent}&amount=30&reason=requested_by_customer"), 200, "succeeded", 30),
            (format!("{by_charge}&amount=71"), 400, "greater than unrefunded", 30),
            (by_charge, 200, "succeeded", 100),
            (by_intent, 400, "charge_already_refunded", 100),
        ];
        for (parameters, code, word, refunded) in steps {
            let answer = post(&mut store, REFUNDS, parameters);
            assert_eq!(answer.status, *code, "{parameters}: {}", answer.body);
            assert!(answer.body.contains(word), "{parameters}: {}", answer.body);
            assert_eq!(store.refunded_minor(&capture.charge_id), *refunded, "{parameters}");
        }
    }

    #[test]
    fn an_unpaid_intent_has_nothing_to_give_back() {
        let (mut store, _) = paid("pm_card_visa");
        post(&mut store, "/v1/payment_intents", "amount=100&currency=eur&metadata[order_id]=o-2");
        let intent_id = store.intents()[1].intent_id.clone();
        assert_eq!(post(&mut store, REFUNDS, &format!("payment_intent={intent_id}")).status, 400);
        assert!(store.refunds().is_empty());
    }

    #[test]
    fn a_refund_ends_as_its_card_says_and_a_failed_one_frees_its_money() {
        // (card, status at first, end, whether it takes, status then, refunded then)
        let table = [
            ("pm_card_visa", "succeeded", End::Succeeded, false, "succeeded", 100),
            ("pm_card_pendingRefund", "pending", End::Succeeded, true, "succeeded", 100),
            ("pm_card_pendingRefund", "pending", End::Failed, true, "failed", 0),
            ("pm_card_refundFail", "succeeded", End::Failed, true, "failed", 0),
        ];
        for (card, first, end, takes, then, refunded) in table {
            let (mut store, capture) = paid(card);
            post(&mut store, REFUNDS, &format!("payment_intent={}", capture.intent_id));
            let refund_id = store.refunds()[0].refund_id.clone();
            assert_eq!(store.refunds()[0].status, first, "{card}");
            assert_eq!(store.settle_refund(&refund_id, end), takes, "{card}");
            assert_eq!(store.refunds()[0].status, then, "{card}");
            assert_eq!(store.refunded_minor(&capture.charge_id), refunded, "{card}");
            assert!(!store.settle_refund(&refund_id, End::Succeeded), "{card}: an end is an end");
            // The account book and the refunds say the same.
            let lines = store.balance().iter().filter(|line| line.kind != "charge");
            assert_eq!(lines.map(|line| line.amount_minor).sum::<i64>(), -refunded, "{card}");
        }
    }

    #[test]
    fn a_disputed_charge_is_not_refunded_and_both_are_in_the_account_book() {
        let (mut store, capture) = paid("pm_card_visa");
        assert_eq!(post(&mut store, REFUNDS, &format!("charge={}&amount=40", capture.charge_id)).status, 200);
        let dispute = store.open_dispute(&capture.intent_id).unwrap();
        assert_eq!(dispute.amount_minor, 60);
        assert_eq!(store.open_dispute(&capture.intent_id), None);
        let refused = post(&mut store, REFUNDS, &format!("charge={}", capture.charge_id));
        assert!(refused.body.contains("charge_disputed"), "{}", refused.body);
        store.pay_out();
        let lines: Vec<_> = store.balance().iter().map(|line| (line.kind, line.amount_minor, line.fee_minor)).collect();
        // 1.5 % of 100 and 25 are 27; what is left is below zero, so there is nothing to pay out.
        assert_eq!(lines, [("charge", 100, 27), ("refund", -40, 0), ("adjustment", -60, 2_000)]);
        let kinds: Vec<_> = store.events().iter().map(|event| event.kind).collect();
        assert_eq!(kinds, ["payment_intent.succeeded", "charge.refunded", "charge.dispute.created"]);
    }
}
