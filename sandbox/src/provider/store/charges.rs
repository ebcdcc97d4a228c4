//! Charges: each try to take money, and the ledger of those that took it.

use serde_json::{Value, json};

use super::super::answer::{Answer, not_found};
use super::super::cards::Card;
use super::super::parameters::ApiVersion;
use super::list::{self, Listed, Shown};
use super::methods::{fingerprint, nobody};
use super::{Store, with_empty};

/// Money that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    pub intent_id: String,
    pub charge_id: String,
    pub order_id: Option<String>,
    pub amount_minor: i64,
    /// In small letters, as on the wire.
    pub currency: String,
}

/// A charge that succeeded or was declined.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    pub(super) charge_id: String,
    pub(super) intent_id: String,
    pub(super) payment_method: Option<String>,
    pub(super) card: &'static Card,
    pub(super) amount_minor: i64,
    pub(super) created: i64,
    /// `None` where nothing moved.
    pub(super) balance_transaction: Option<String>,
    /// Code and decline code.
    pub(super) failure: Option<(&'static str, Option<&'static str>)>,
}

/// A charge with the customer of its payment, which a list can be asked for.
struct WithIntent<'a> {
    charge: &'a Charge,
    customer: Option<&'a str>,
}

impl Listed for WithIntent<'_> {
    fn id(&self) -> &str {
        &self.charge.charge_id
    }

    fn created(&self) -> i64 {
        self.charge.created
    }

    fn has(&self, field: &str, value: &str) -> bool {
        match field {
            "customer" => self.customer == Some(value),
            _ => self.charge.intent_id == value,
        }
    }

    fn to_json(&self, _version: ApiVersion) -> Value {
        Value::Null
    }
}

impl Store {
    pub(crate) fn captures(&self) -> &[Capture] {
        &self.captures
    }

    pub(super) fn charge(&self, charge_id: &str) -> Option<&Charge> {
        self.charges.iter().find(|charge| charge.charge_id == charge_id)
    }

    pub(super) fn read_charge(&self, id: &str) -> Result<Answer, Answer> {
        let charge = self.charge(id).ok_or_else(|| not_found("charge", id, "id"))?;
        Ok(Answer::ok(&self.charge_json(charge)))
    }

    pub(super) fn list_charges<'a>(&'a self, shown: &Shown<'_>) -> Result<Answer, Answer> {
        let with_intent = |charge: &'a Charge| {
            let intent = &self.intents[self.positions[&charge.intent_id]];
            WithIntent { charge, customer: intent.customer.as_deref() }
        };
        let charges: Vec<WithIntent<'_>> = self.charges.iter().map(with_intent).collect();
        list::page_of(&charges, "/v1/charges", &["customer", "payment_intent"], shown, |one| {
            self.charge_json(one.charge)
        })
    }

    pub(super) fn charge_json(&self, charge: &Charge) -> Value {
        let intent = &self.intents[self.positions[&charge.intent_id]];
        let refunded = self.refunded_minor(&charge.charge_id);
        let refunds = self.refunds.iter().rev().filter(|refund| refund.charge_id == charge.charge_id);
        let refunds: Vec<Value> = refunds.map(|refund| refund.to_json(ApiVersion::OF_ACCOUNT)).collect();
        let paid = charge.failure.is_none();
        let captured = if paid { charge.amount_minor } else { 0 };
        let outcome = match charge.failure {
            None => json!({ "advice_code": null, "network_advice_code": null, "network_decline_code": null,
                "network_status": "approved_by_network", "reason": null, "seller_message": "Payment complete.",
                "type": "authorized" }),
            Some((code, decline_code)) => json!({ "advice_code": null, "network_advice_code": null,
                "network_decline_code": null, "network_status": "declined_by_network",
                "reason": decline_code.unwrap_or(code), "seller_message": "The bank has given no details.",
                "type": "issuer_declined" }),
        };
        const EMPTY: &str = "application application_fee application_fee_amount failure_balance_transaction \
            on_behalf_of receipt_number receipt_url review source source_transfer statement_descriptor \
            statement_descriptor_suffix \
            transfer_data transfer_group";
        let object = json!({ "id": charge.charge_id, "object": "charge", "livemode": false,
            "amount": charge.amount_minor, "amount_captured": captured, "amount_refunded": refunded,
            "balance_transaction": charge.balance_transaction, "billing_details": nobody(),
            "calculated_statement_descriptor": "DOORBUSTER", "captured": paid, "created": charge.created,
            "currency": intent.currency, "customer": intent.customer, "description": intent.details.description,
            "disputed": self.is_disputed(&charge.charge_id), "failure_code": charge.failure.map(|(code, _)| code),
            "failure_message": charge.failure.map(|_| "Your card was declined."), "fraud_details": {},
            "metadata": intent.metadata, "outcome": outcome, "paid": paid, "payment_intent": charge.intent_id,
            "payment_method": charge.payment_method,
            "payment_method_details": { "type": "card", "card": paid_with(charge.card, charge.amount_minor) },
            "receipt_email": intent.details.receipt_email,
            "refunds": { "object": "list", "data": refunds, "has_more": false,
                "url": format!("/v1/charges/{}/refunds", charge.charge_id) },
            "refunded": paid && refunded == charge.amount_minor,
            "shipping": intent.details.shipping, "status": if paid { "succeeded" } else { "failed" } });
        with_empty(object, EMPTY)
    }
}

fn paid_with(card: &Card, amount_minor: i64) -> Value {
    json!({ "amount_authorized": amount_minor, "authorization_code": null, "brand": card.brand,
        "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
        "country": "US", "exp_month": 8, "exp_year": 2030, "extended_authorization": { "status": "disabled" },
        "fingerprint": fingerprint(card), "funding": "credit", "incremental_authorization": { "status": "unavailable" },
        "installments": null, "last4": card.last4(), "mandate": null, "multicapture": { "status": "unavailable" },
        "network": card.brand, "network_token": { "used": false }, "network_transaction_id": null,
        "overcapture": { "maximum_amount_capturable": amount_minor, "status": "unavailable" },
        "regulated_status": "unregulated", "three_d_secure": null, "transaction_link_id": null, "wallet": null })
}
