//! Disputes: a buyer's bank takes a charge back.

use serde_json::{Value, json};

use super::super::parameters::ApiVersion;
use super::list::Listed;
use super::{Capture, Store, with_empty};

/// A dispute costs this much, won or lost.
const FEE_MINOR: i64 = 2_000;

/// How long the merchant has to answer.
const ANSWER_SECONDS: i64 = 7 * 86_400;

/// A buyer's bank has taken a charge back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeDispute {
    pub dispute_id: String,
    pub charge_id: String,
    pub intent_id: String,
    pub amount_minor: i64,
    pub currency: String,
    /// In seconds since 1970.
    pub created: i64,
}

impl Listed for FakeDispute {
    fn id(&self) -> &str {
        &self.dispute_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn has(&self, field: &str, value: &str) -> bool {
        match field {
            "charge" => self.charge_id == value,
            _ => self.intent_id == value,
        }
    }

    fn to_json(&self, _version: ApiVersion) -> Value {
        const EVIDENCE: &str = "access_activity_log billing_address cancellation_policy cancellation_policy_disclosure \
            cancellation_rebuttal customer_communication customer_email_address customer_name customer_purchase_ip \
            customer_signature duplicate_charge_documentation duplicate_charge_explanation duplicate_charge_id \
            product_description receipt refund_policy refund_policy_disclosure refund_refusal_explanation service_date \
            service_documentation shipping_address shipping_carrier shipping_date shipping_documentation \
            shipping_tracking_number uncategorized_file uncategorized_text";
        let evidence = with_empty(json!({ "enhanced_evidence": {} }), EVIDENCE);
        json!({ "id": self.dispute_id, "object": "dispute", "livemode": false, "amount": self.amount_minor,
            "balance_transactions": [], "charge": self.charge_id, "created": self.created, "currency": self.currency,
            "enhanced_eligibility_types": [], "evidence": evidence,
            "evidence_details": { "due_by": self.created + ANSWER_SECONDS, "enhanced_eligibility": {},
                "has_evidence": false, "past_due": false, "submission_count": 0 },
            "is_charge_refundable": false, "metadata": {}, "payment_intent": self.intent_id,
            "payment_method_details": { "type": "card", "card": { "brand": "visa", "case_type": "chargeback",
                "network": "visa", "network_reason_code": "10.4" } },
            "reason": "fraudulent", "status": "needs_response" })
    }
}

impl Store {
    /// The buyer's bank takes back what an intent captured, as far as it is not refunded. `None` without such a charge,
    /// or if it is disputed already.
    pub(crate) fn open_dispute(&mut self, intent_id: &str) -> Option<FakeDispute> {
        let capture: Capture = self.captures.iter().rev().find(|capture| capture.intent_id == intent_id)?.clone();
        let amount_minor = capture.amount_minor - self.refunded_minor(&capture.charge_id);
        if self.is_disputed(&capture.charge_id) || amount_minor == 0 {
            return None;
        }
        let dispute = FakeDispute {
            dispute_id: self.new_id("dp"),
            charge_id: capture.charge_id,
            intent_id: capture.intent_id,
            amount_minor,
            currency: capture.currency,
            created: self.clock.now(),
        };
        self.book("adjustment", -amount_minor, FEE_MINOR, &dispute.currency, &dispute.dispute_id);
        self.disputes.push(dispute.clone());
        self.emit("charge.dispute.created", intent_id, |_| dispute.to_json(ApiVersion::OF_ACCOUNT));
        Some(dispute)
    }

    pub(super) fn is_disputed(&self, charge_id: &str) -> bool {
        self.disputes.iter().any(|dispute| dispute.charge_id == charge_id)
    }
}
