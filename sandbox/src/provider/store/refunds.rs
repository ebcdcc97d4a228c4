//! Refunds: money back, never more than was taken, at once, later or in the end not at all.

use serde_json::{Map, Value, json};

use super::super::answer::{Answer, Refusal, missing, refused};
use super::super::cards::Refunding;
use super::super::form::Form;
use super::super::parameters::ApiVersion;
use super::intents::End;
use super::list::Listed;
use super::{Capture, Later, Store, Twist};

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
    customer: Option<String>,
    payment_method: Option<String>,
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

    fn to_json(&self, _version: ApiVersion) -> Value {
        let mut object = json!({ "id": self.refund_id, "object": "refund", "status": self.status,
            "amount": self.amount_minor, "balance_transaction": self.balance_transaction, "charge": self.charge_id,
            "created": self.created, "currency": self.currency, "customer": self.customer, "customer_account": null,
            "destination_details": { "type": "card", "card": { "type": "refund" } }, "metadata": self.metadata,
            "payment_intent": self.intent_id, "payment_method": self.payment_method, "reason": self.reason,
            "receipt_number": null, "source_transfer_reversal": null, "transfer_reversal": null });
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

    pub(super) fn create_refund(&mut self, form: &Form, twist: Twist) -> Result<Answer, Answer> {
        let (intent_id, charge_id) = (form.text("payment_intent"), form.text("charge"));
        if intent_id.is_none() && charge_id.is_none() {
            let message = "One of the following params should be provided for this request: payment_intent or charge.";
            return Err(refused("parameter_missing", "payment_intent", message));
        }
        if form.integer("amount").is_some_and(|amount| amount <= 0) {
            let message = "This value must be greater than or equal to 1.";
            return Err(refused("parameter_invalid_integer", "amount", message));
        }
        if let Some(id) = intent_id.filter(|id| !self.positions.contains_key(*id)) {
            return Err(missing("payment_intent", id, "payment_intent"));
        }
        let is_meant = |capture: &&Capture| {
            intent_id.is_none_or(|id| capture.intent_id == id) && charge_id.is_none_or(|id| capture.charge_id == id)
        };
        let Some(capture) = self.captures.iter().find(is_meant).cloned() else {
            return Err(match charge_id {
                Some(id) => missing("charge", id, "charge"),
                None => {
                    let message = "This PaymentIntent does not have a successful charge to refund.";
                    Answer::from(Refusal::new(None, "payment_intent", message)).executed()
                }
            });
        };
        let executed = |code, param, message: String| Err(refused(code, param, message).executed());
        if self.is_disputed(&capture.charge_id) {
            return executed("charge_disputed", "charge", format!("Charge {} is disputed.", capture.charge_id));
        }
        let left = capture.amount_minor - self.refunded_minor(&capture.charge_id);
        if left == 0 {
            let message = format!("Charge {} has already been refunded.", capture.charge_id);
            return executed("charge_already_refunded", "charge", message);
        }
        let amount_minor = form.integer("amount").unwrap_or(left);
        if amount_minor > left {
            let message =
                format!("Refund amount ({amount_minor}) is greater than unrefunded amount on charge ({left}).");
            return executed("amount_too_large", "amount", message);
        }
        let (status, later) = self.fate_of_refund(&capture.charge_id, twist);
        let payment_method = self.charge(&capture.charge_id).and_then(|charge| charge.payment_method.clone());
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
            currency: capture.currency,
            metadata: form.map("metadata"),
            reason: form.owned("reason"),
            failure_reason: None,
            created: self.clock.now(),
            customer: self.intents[self.positions[&capture.intent_id]].customer.clone(),
            payment_method,
            balance_transaction,
            failure_balance_transaction: None,
        };
        let answer = Answer::ok(&refund.to_json(ApiVersion::OF_ACCOUNT));
        self.refunds.push(refund);
        self.emit("charge.refunded", &capture.intent_id, |store| {
            store.charge(&capture.charge_id).map_or(Value::Null, |charge| store.charge_json(charge))
        });
        Ok(answer)
    }

    /// How it begins, and how it ends if it has not ended yet.
    fn fate_of_refund(&self, charge_id: &str, twist: Twist) -> (&'static str, Option<End>) {
        match self.charge(charge_id).map(|charge| charge.card.refund) {
            Some(Refunding::Pending) => ("pending", Some(End::Succeeded)),
            Some(Refunding::SucceedsThenFails) => ("succeeded", Some(End::Failed)),
            _ if twist.refund_fails => ("pending", Some(End::Failed)),
            _ if twist.refund_pending => ("pending", Some(End::Succeeded)),
            _ => ("succeeded", None),
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
        let intent_id = self.refunds[position].intent_id.clone();
        let object = |store: &Self| store.refunds[position].to_json(ApiVersion::OF_ACCOUNT);
        self.emit("refund.updated", &intent_id, object);
        if end == End::Failed {
            self.emit("refund.failed", &intent_id, object);
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
    use super::super::testing::{post, store};
    use super::*;

    const REFUNDS: &str = "/v1/refunds";

    /// A store with 100 taken from this card.
    fn paid(method: &str) -> (Store, Capture) {
        let mut store = store();
        let intent = "amount=100&currency=eur&metadata[order_id]=o-1&payment_method_types[]=card";
        post(&mut store, "/v1/payment_intents", intent);
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
            ("payment_intent=pi_0".to_owned(), 400, "resource_missing", 0),
            ("charge=ch_0".to_owned(), 400, "resource_missing", 0),
            (format!("{by_intent}&amount=0"), 400, "parameter_invalid_integer", 0),
            (format!("{by_intent}&amount=-1"), 400, "parameter_invalid_integer", 0),
            (format!("{by_intent}&amount=101"), 400, "greater than unrefunded", 0),
            (format!("{by_intent}&colour=red"), 400, "parameter_unknown", 0),
            (format!("{by_intent}&reason=whim"), 400, "must be one of", 0),
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
