//! Payment methods: cards, and whose they are. Which payment may use which of them is decided here.

use serde_json::{Value, json};

use super::super::answer::{Answer, Refusal, missing, not_found};
use super::super::cards::Card;
use super::super::form::Form;
use super::super::parameters::ApiVersion;
use super::Store;
use super::list::Listed;

/// A card that was typed in once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Method {
    pub(super) method_id: String,
    pub(super) card: &'static Card,
    pub(super) customer: Option<String>,
    /// Sent with a payment at least once.
    pub(super) is_used: bool,
    /// It was a customer's, and is nobody's any more.
    pub(super) is_detached: bool,
    /// Its owner has authenticated it for payments to come.
    pub(super) is_set_up: bool,
    /// Of the card's number, whoever has typed it in.
    fingerprint: String,
    pub(super) created: i64,
}

impl Listed for Method {
    fn id(&self) -> &str {
        &self.method_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn to_json(&self, _version: ApiVersion) -> Value {
        json!({ "id": self.method_id, "object": "payment_method", "type": "card", "livemode": false,
            "allow_redisplay": "unspecified", "billing_details": nobody(),
            "card": card_json(self.card, &self.fingerprint), "created": self.created, "customer": self.customer, "customer_account": null, "metadata": {} })
    }
}

/// Billing details that nobody has given.
pub(super) fn nobody() -> Value {
    json!({ "address": no_address(), "email": null, "name": null, "phone": null, "tax_id": null })
}

pub(super) fn no_address() -> Value {
    json!({ "city": null, "country": null, "line1": null, "line2": null, "postal_code": null, "state": null })
}

fn card_json(card: &Card, fingerprint: &str) -> Value {
    json!({ "brand": card.brand,
        "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
        "country": "US", "display_brand": card.brand, "exp_month": 8, "exp_year": 2030,
        "fingerprint": fingerprint, "funding": "credit", "generated_from": null, "last4": card.last4(),
        "networks": { "available": [card.brand], "preferred": null }, "regulated_status": "unregulated",
        "three_d_secure_usage": { "supported": true }, "wallet": null })
}

/// The same for the same number, whoever has typed it in.
pub(super) fn fingerprint(card: &Card) -> String {
    format!("{:016x}", crate::provider::faults::mix(0, 0, card.number))
}

impl Store {
    /// As the provider's script in a browser makes one. `None` if there is no such card.
    pub(crate) fn new_method(&mut self, token: &str) -> Option<String> {
        let card = Card::of_token(token)?;
        let position = self.insert_method(card);
        Some(self.methods[position].method_id.clone())
    }

    pub(super) fn insert_method(&mut self, card: &'static Card) -> usize {
        let (position, method_id) = (self.methods.len(), self.new_id("pm"));
        self.method_positions.insert(method_id.clone(), position);
        let created = self.clock.now();
        let (is_used, is_detached, is_set_up) = (false, false, false);
        let fingerprint = match self.rules.every_card_is_another {
            true => format!("{:016x}", crate::provider::faults::mix(0, 0, &method_id)),
            false => fingerprint(card),
        };
        self.methods.push(Method {
            method_id,
            card,
            customer: None,
            is_used,
            is_detached,
            is_set_up,
            fingerprint,
            created,
        });
        position
    }

    /// By its id, or a new one by a test card's token.
    fn find_method(&mut self, id: &str) -> Option<usize> {
        match Card::of_token(id) {
            Some(card) => Some(self.insert_method(card)),
            None => self.method_positions.get(id).copied(),
        }
    }

    /// The one that a payment or a setup names, which is there.
    pub(super) fn named_method(&mut self, id: &str) -> Result<usize, Answer> {
        self.find_method(id).ok_or_else(|| missing("PaymentMethod", id, "payment_method"))
    }

    /// The method that a payment of `customer`'s names, if it may use it. `current` is the one that it has already.
    pub(super) fn method_for_payment(
        &mut self,
        id: &str,
        customer: Option<&str>,
        current: Option<&str>,
    ) -> Result<usize, Answer> {
        let position = self.named_method(id)?;
        let method = &self.methods[position];
        let refused =
            |code, message: String| Err(Answer::from(Refusal::new(code, "payment_method", message)).executed());
        match (&method.customer, customer) {
            (None, _) if method.is_detached => refused(None, used_up(false)),
            // A used one may finish the payment that it was used for.
            (None, _) if self.rules.one_off_methods_once && method.is_used && current != Some(id) => {
                refused(None, used_up(false))
            }
            (Some(owner), None) => refused(
                Some("parameter_missing"),
                format!(
                    "The `payment_method` parameter supplied {id} belongs to the Customer {owner}. Please include the \
                     Customer in the `customer` parameter on the PaymentIntent."
                ),
            ),
            (Some(owner), Some(customer)) if owner != customer => refused(
                None,
                format!(
                    "The PaymentMethod {id} does not belong to the Customer you supplied {customer}. Please use this \
                     PaymentMethod with the Customer that it belongs to instead."
                ),
            ),
            _ => Ok(position),
        }
    }

    /// Makes it a customer's own. Nothing changes if it is theirs already.
    pub(super) fn attach(&mut self, position: usize, customer: &str) {
        let method = &mut self.methods[position];
        if method.customer.as_deref() != Some(customer) {
            method.customer = Some(customer.to_owned());
            let object = method.to_json(ApiVersion::OF_ACCOUNT);
            self.emit_other("payment_method.attached", object);
        }
    }

    /// Whether it can become this customer's: it is nobody's, was not used up, and its bank agrees.
    pub(super) fn check_attachable(&self, position: usize, customer: &str) -> Result<(), Answer> {
        let method = &self.methods[position];
        let is_used_up = method.is_detached || (method.is_used && self.rules.one_off_methods_once);
        match &method.customer {
            Some(owner) if owner == customer => Ok(()),
            Some(_) => {
                let message = "The payment method you provided has already been attached to a customer.";
                Err(Answer::from(Refusal::without_param(message)).executed())
            }
            None if is_used_up => Err(Answer::from(Refusal::without_param(used_up(true))).executed()),
            None if !method.card.can_be_saved => Err(self.unsaveable(position)),
            None => Ok(()),
        }
    }

    fn unsaveable(&self, position: usize) -> Answer {
        let method = self.methods[position].to_json(ApiVersion::OF_ACCOUNT);
        let error = json!({ "type": "card_error", "code": "card_declined", "decline_code": "generic_decline",
            "message": "Your card was declined.", "payment_method": method });
        Answer::error(402, &error).executed()
    }

    pub(super) fn read_method(&mut self, id: &str) -> Result<Answer, Answer> {
        let position = self.find_method(id).ok_or_else(|| not_found("PaymentMethod", id, "payment_method"))?;
        Ok(self.method_answer(position))
    }

    pub(super) fn attach_method(&mut self, id: &str, form: &Form) -> Result<Answer, Answer> {
        let customer = self.customer_of(form)?.ok_or_else(|| missing("customer", "", "customer"))?;
        let position = self.find_method(id).ok_or_else(|| not_found("PaymentMethod", id, "payment_method"))?;
        self.check_attachable(position, &customer)?;
        self.attach(position, &customer);
        Ok(self.method_answer(position))
    }

    pub(super) fn detach_method(&mut self, id: &str) -> Result<Answer, Answer> {
        let position = self.find_method(id).ok_or_else(|| not_found("PaymentMethod", id, "payment_method"))?;
        if self.methods[position].customer.is_none() {
            let message = "The payment method you provided is not attached to a customer so detachment is impossible.";
            return Err(Answer::from(Refusal::without_param(message)).executed());
        }
        self.detach(position);
        Ok(self.method_answer(position))
    }

    pub(super) fn detach(&mut self, position: usize) {
        let method = &mut self.methods[position];
        (method.customer, method.is_detached) = (None, true);
        let object = method.to_json(ApiVersion::OF_ACCOUNT);
        self.emit_other("payment_method.detached", object);
    }

    fn method_answer(&self, position: usize) -> Answer {
        Answer::ok(&self.methods[position].to_json(ApiVersion::OF_ACCOUNT))
    }
}

/// The provider has two sentences for it, and a code for neither.
fn used_up(when_attached: bool) -> String {
    match when_attached {
        true => {
            "This PaymentMethod was previously used without being attached to a Customer or was detached from a \
            Customer, and may not be used again."
        }
        false => {
            "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, shared \
            with a connected account without Customer attachment, or was detached from a Customer. It may not be used \
            again. To use a PaymentMethod multiple times, you must attach it to a Customer first."
        }
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Twist;
    use super::super::testing::{call, get, post, store};
    use super::*;

    /// Pays 1.00 EUR with this method; what is answered, in short.
    fn pay(store: &mut Store, method: &str, more: &str) -> String {
        let parameters = format!(
            "amount=100&currency=eur&allowed_payment_method_types[]=card&confirm=true&payment_method={method}{more}"
        );
        post(store, "/v1/payment_intents", &parameters).short()
    }

    fn new_customer(store: &mut Store) -> String {
        post(store, "/v1/customers", "email=ada@example.org").id()
    }

    fn attached(store: &mut Store, customer: &str) -> String {
        post(store, "/v1/payment_methods/pm_card_visa/attach", &format!("customer={customer}")).id()
    }

    #[test]
    fn a_method_of_nobodys_pays_once_and_a_token_as_often_as_it_is_typed_in() {
        let mut store = store();
        let method = store.new_method("pm_card_visa").unwrap();
        assert_eq!(pay(&mut store, &method, ""), "200 succeeded");
        assert_eq!(pay(&mut store, &method, ""), "400 -");
        let customer = new_customer(&mut store);
        assert_eq!(pay(&mut store, &method, &format!("&customer={customer}")), "400 -");
        let attach = format!("/v1/payment_methods/{method}/attach");
        assert_eq!(post(&mut store, &attach, &format!("customer={customer}")).short(), "400 -");
        for _ in 0..2 {
            assert_eq!(pay(&mut store, "pm_card_visa", ""), "200 succeeded");
        }
        store.rules.one_off_methods_once = false;
        assert_eq!(pay(&mut store, &method, ""), "200 succeeded", "as today's program needs it");
        assert_eq!(store.new_method("pm_card_gold"), None);
    }

    #[test]
    fn a_used_method_may_finish_the_payment_that_it_was_used_for() {
        let mut store = store();
        let method = store.new_method("pm_card_authenticationRequired").unwrap();
        let parameters = "amount=100&currency=eur&allowed_payment_method_types[]=card";
        let id = post(&mut store, "/v1/payment_intents", parameters).id();
        let confirm = format!("/v1/payment_intents/{id}/confirm");
        let parameters = format!("payment_method={method}");
        for _ in 0..2 {
            assert_eq!(post(&mut store, &confirm, &parameters).short(), "200 requires_action");
        }
    }

    #[test]
    fn a_customers_method_pays_for_that_customer_only() {
        let mut store = store();
        let (ada, eve) = (new_customer(&mut store), new_customer(&mut store));
        let method = attached(&mut store, &ada);
        for _ in 0..2 {
            assert_eq!(pay(&mut store, &method, &format!("&customer={ada}&off_session=true")), "200 succeeded");
        }
        assert_eq!(pay(&mut store, &method, ""), "400 parameter_missing");
        assert_eq!(pay(&mut store, &method, &format!("&customer={eve}")), "400 -");
        assert_eq!(pay(&mut store, &method, "&customer=cus_0"), "400 resource_missing");
        let intent = post(&mut store, "/v1/payment_intents", "amount=100&currency=eur").id();
        let update = format!("/v1/payment_intents/{intent}");
        for (customer, expected) in
            [(&ada, "200 requires_payment_method"), (&ada, "200 requires_payment_method"), (&eve, "400 -")]
        {
            assert_eq!(post(&mut store, &update, &format!("customer={customer}")).short(), expected, "set once");
        }
        let attach = format!("/v1/payment_methods/{method}/attach");
        assert_eq!(post(&mut store, &attach, &format!("customer={ada}")).short(), "200 -");
        assert_eq!(post(&mut store, &attach, &format!("customer={eve}")).short(), "400 -");
        assert_eq!(post(&mut store, &attach, "").short(), "400 parameter_missing");
        assert_eq!(post(&mut store, &attach, "customer=cus_0").short(), "400 resource_missing");
        assert_eq!(post(&mut store, "/v1/payment_methods/pm_0/attach", &format!("customer={ada}")).status, 404);
    }

    #[test]
    fn a_detached_method_pays_for_nobody_whatever_the_options_say() {
        let mut store = store();
        store.rules.one_off_methods_once = false;
        let customer = new_customer(&mut store);
        let method = attached(&mut store, &customer);
        let path = format!("/v1/payment_methods/{method}");
        assert_eq!(get(&mut store, &path, "").json()["customer"], customer);
        assert_eq!(post(&mut store, &format!("{path}/detach"), "").json()["customer"], Value::Null);
        assert_eq!(post(&mut store, &format!("{path}/detach"), "").short(), "400 -");
        for more in [String::new(), format!("&customer={customer}")] {
            assert_eq!(pay(&mut store, &method, &more), "400 -", "{more}");
        }
        assert_eq!(post(&mut store, &format!("{path}/attach"), &format!("customer={customer}")).short(), "400 -");
        let kinds: Vec<_> = store.events().iter().map(|event| event.kind).collect();
        assert_eq!(kinds, ["customer.created", "payment_method.attached", "payment_method.detached"]);
    }

    #[test]
    fn a_deleted_customer_is_gone_and_their_cards_with_them() {
        let mut store = store();
        let customer = new_customer(&mut store);
        let (method, path) = (attached(&mut store, &customer), format!("/v1/customers/{customer}"));
        let default = format!("invoice_settings[default_payment_method]={method}&name=Ada&metadata[a]=1");
        let updated = post(&mut store, &path, &default).json();
        assert_eq!((&updated["name"], &updated["metadata"]["a"]), (&json!("Ada"), &json!("1")));
        assert_eq!(updated["invoice_settings"]["default_payment_method"], method);
        let foreign = "invoice_settings[default_payment_method]=pm_0";
        assert_eq!(post(&mut store, &path, foreign).short(), "400 resource_missing");
        assert_eq!(post(&mut store, &path, "name=").json()["name"], Value::Null);

        let deleted = call(&mut store, "DELETE", &path, "", Twist::default()).json();
        assert_eq!(deleted, json!({ "id": customer, "object": "customer", "deleted": true }));
        assert_eq!(get(&mut store, &path, "").json(), deleted);
        assert_eq!(get(&mut store, "/v1/customers", "").json()["data"], json!([]));
        assert_eq!(post(&mut store, &path, "name=Eve").short(), "404 resource_missing");
        assert_eq!(pay(&mut store, &method, &format!("&customer={customer}")), "400 resource_missing");
        assert_eq!(pay(&mut store, &method, ""), "400 -");
        assert_eq!(call(&mut store, "DELETE", &path, "", Twist::default()).short(), "404 resource_missing");
    }

    #[test]
    fn a_card_that_its_bank_refuses_is_not_saved() {
        let mut store = store();
        let customer = new_customer(&mut store);
        let attach = "/v1/payment_methods/pm_card_chargeDeclined/attach";
        assert_eq!(post(&mut store, attach, &format!("customer={customer}")).short(), "402 card_declined");
        let created = post(&mut store, "/v1/customers", "payment_method=pm_card_chargeDeclined");
        assert_eq!(created.short(), "402 card_declined");
        assert_eq!(post(&mut store, "/v1/customers", "payment_method=pm_card_visa").status, 200);
        assert_eq!(store.customers().len(), 2);
    }

    #[test]
    fn a_first_payment_can_save_its_card_for_the_next() {
        let mut store = store();
        let customer = new_customer(&mut store);
        let method = store.new_method("pm_card_visa").unwrap();
        let saving = format!("&customer={customer}&setup_future_usage=off_session");
        assert_eq!(pay(&mut store, &method, &saving), "200 succeeded");
        assert_eq!(pay(&mut store, &method, &format!("&customer={customer}&off_session=true")), "200 succeeded");
        assert_eq!(pay(&mut store, &method, ""), "400 parameter_missing");
    }
}
