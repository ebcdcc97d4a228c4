//! Setup intents: how a card is saved without a payment, its owner's authentication included.

use serde_json::{Map, Value, json};

use super::super::answer::{Answer, Refusal, not_found};
use super::super::cards::Authentication;
use super::super::form::Form;
use super::super::parameters::ApiVersion;
use super::intents::check_played;
use super::list::Listed;
use super::{End, Store, secret_of};

/// A setup intent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setup {
    pub(super) setup_id: String,
    pub(super) status: &'static str,
    pub(super) customer: Option<String>,
    pub(super) payment_method: Option<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) description: Option<String>,
    usage: String,
    is_automatic: bool,
    last_error: Option<Value>,
    pub(super) action_url: Option<String>,
    pub(super) return_url: Option<String>,
    created: i64,
}

impl Listed for Setup {
    fn id(&self) -> &str {
        &self.setup_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn has(&self, field: &str, value: &str) -> bool {
        let found = if field == "customer" { &self.customer } else { &self.payment_method };
        found.as_deref() == Some(value)
    }

    fn to_json(&self, version: ApiVersion) -> Value {
        let next_action = self.action_url.as_ref().map(|url| match &self.return_url {
            Some(back) => json!({ "type": "redirect_to_url", "redirect_to_url": { "url": url, "return_url": back } }),
            None => json!({ "type": "use_stripe_sdk", "use_stripe_sdk": {} }),
        });
        let automatic = self.is_automatic.then(|| json!({ "enabled": true, "allow_redirects": "always" }));
        let mut object = json!({ "id": self.setup_id, "object": "setup_intent", "status": self.status,
            "livemode": false, "application": null, "automatic_payment_methods": automatic,
            "cancellation_reason": null, "client_secret": secret_of(&self.setup_id), "created": self.created,
            "customer": self.customer, "customer_account": null, "description": self.description,
            "excluded_payment_method_types": null, "flow_directions": null, "last_setup_error": self.last_error,
            "latest_attempt": null, "managed_payments": null, "mandate": null, "metadata": self.metadata,
            "next_action": next_action, "on_behalf_of": null, "payment_method": self.payment_method,
            "payment_method_configuration_details": null, "payment_method_options": {},
            "payment_method_types": ["card"], "single_use_mandate": null, "usage": self.usage });
        if version >= ApiVersion::V2026_10_28 {
            object["allowed_payment_method_types"] = (!self.is_automatic).then_some(json!(["card"])).into();
        }
        object
    }
}

impl Store {
    pub(super) fn create_setup(&mut self, form: &Form, version: ApiVersion) -> Result<Answer, Answer> {
        check_played(form)?;
        let is_confirmed = form.is_true("confirm");
        if !is_confirmed && form.text("return_url").is_some() {
            let message = "You can only use return_url together with confirm=true.";
            return Err(Refusal::new(None, "return_url", message).into());
        }
        let customer = self.customer_of(form)?;
        let types = form.list("payment_method_types").chain(form.list("allowed_payment_method_types")).count();
        let method = self.method_for_setup(form, customer.as_deref(), None)?;
        let mut setup = self.new_setup(customer);
        setup.is_automatic = types == 0;
        setup.metadata = form.map("metadata");
        setup.description = form.owned("description");
        setup.usage = form.text("usage").unwrap_or("off_session").to_owned();
        if let Some(position) = method {
            setup.payment_method = Some(self.methods[position].method_id.clone());
            setup.status = "requires_confirmation";
        }
        let id = setup.setup_id.clone();
        self.setups.push(setup);
        if !is_confirmed {
            return Ok(Answer::ok(&self.setups[self.setups.len() - 1].to_json(version)));
        }
        let answer = self.confirm_setup(&id, form, version);
        if answer.as_ref().is_err_and(|refused| refused.status == 400) {
            // Refused, not declined: there is no setup then.
            self.setups.pop();
        }
        answer
    }

    pub(super) fn new_setup(&mut self, customer: Option<String>) -> Setup {
        Setup {
            setup_id: self.new_id("seti"),
            status: "requires_payment_method",
            customer,
            payment_method: None,
            metadata: Map::new(),
            description: None,
            usage: "off_session".to_owned(),
            is_automatic: false,
            last_error: None,
            action_url: None,
            return_url: None,
            created: self.clock.now(),
        }
    }

    pub(super) fn confirm_setup(&mut self, id: &str, form: &Form, version: ApiVersion) -> Result<Answer, Answer> {
        let position = self.setup_at(id).ok_or_else(|| not_found("setupintent", id, "intent"))?;
        let setup = &self.setups[position];
        if !matches!(setup.status, "requires_payment_method" | "requires_confirmation" | "requires_action") {
            return Err(self.setup_state_error(
                position,
                &format!("You cannot confirm this SetupIntent because it has a status of {}.", setup.status),
            ));
        }
        let (customer, current) = (setup.customer.clone(), setup.payment_method.clone());
        let named = self.method_for_setup(form, customer.as_deref(), current.as_deref())?;
        let known = current.as_ref().and_then(|id| self.method_positions.get(id).copied());
        let Some(method) = named.or(known) else {
            return Err(self.setup_state_error(
                position,
                "You cannot confirm this SetupIntent because it's missing a payment method. Update the SetupIntent \
                 with a payment method and then confirm it again.",
            ));
        };
        if self.setups[position].is_automatic
            && form.text("return_url").is_none()
            && form.get("automatic_payment_methods[allow_redirects]") != Some("never")
        {
            let message = "This SetupIntent is configured to accept payment methods enabled in your Dashboard. Because \
                some of these payment methods might redirect your customer off of your page, you must provide a \
                `return_url`.";
            return Err(Refusal::without_param(message).into());
        }
        self.setups[position].return_url = form.owned("return_url");
        self.try_setup(position, method)?;
        Ok(Answer::ok(&self.setups[position].to_json(version)))
    }

    /// Saves the card, or leads its owner to their bank first. The error is a decline.
    pub(super) fn try_setup(&mut self, position: usize, method: usize) -> Result<(), Answer> {
        let method_id = self.methods[method].method_id.clone();
        if !self.methods[method].card.can_be_saved {
            return Err(self.decline_setup(position, method, "card_declined"));
        }
        let asks_owner = self.methods[method].card.authentication != Authentication::Never;
        let setup = &mut self.setups[position];
        setup.payment_method = Some(method_id);
        setup.last_error = None;
        if asks_owner {
            setup.status = "requires_action";
            setup.action_url = Some(format!(
                "{}/authenticate/{}?client_secret={}",
                self.url,
                setup.setup_id,
                secret_of(&setup.setup_id)
            ));
            self.emit_setup(position, "setup_intent.requires_action");
        } else {
            self.succeed_setup(position, method);
        }
        Ok(())
    }

    fn succeed_setup(&mut self, position: usize, method: usize) {
        let setup = &mut self.setups[position];
        (setup.status, setup.action_url) = ("succeeded", None);
        let customer = setup.customer.clone();
        self.methods[method].is_set_up = true;
        if let Some(customer) = customer {
            self.attach(method, &customer);
        }
        self.emit_setup(position, "setup_intent.succeeded");
        self.complete_session_of(&self.setups[position].setup_id.clone());
    }

    /// The owner's answer to their bank. False if the setup does not wait for it.
    pub(crate) fn finish_setup(&mut self, setup_id: &str, end: End) -> bool {
        let Some(position) = self.setup_at(setup_id) else { return false };
        let setup = &self.setups[position];
        let method = setup.payment_method.as_ref().and_then(|id| self.method_positions.get(id).copied());
        let (Some(method), "requires_action") = (method, setup.status) else { return false };
        match end {
            End::Succeeded => self.succeed_setup(position, method),
            End::Failed => drop(self.decline_setup(position, method, "setup_intent_authentication_failure")),
        }
        true
    }

    /// Whether there is one, and this is its secret.
    pub(crate) fn is_setup_secret(&self, setup_id: &str, secret: &str) -> bool {
        self.setup_at(setup_id).is_some() && secret_of(setup_id) == secret
    }

    fn decline_setup(&mut self, position: usize, method: usize, code: &str) -> Answer {
        let mut error = json!({ "type": "card_error", "code": code,
            "message": "Your card was declined.",
            "payment_method": self.methods[method].to_json(ApiVersion::OF_ACCOUNT) });
        if code == "card_declined" {
            error["decline_code"] = "generic_decline".into();
        }
        let setup = &mut self.setups[position];
        (setup.status, setup.payment_method, setup.action_url) = ("requires_payment_method", None, None);
        setup.last_error = Some(error.clone());
        error["setup_intent"] = setup.to_json(ApiVersion::OF_ACCOUNT);
        self.emit_setup(position, "setup_intent.setup_failed");
        Answer::error(402, &error).executed()
    }

    fn method_for_setup(
        &mut self,
        form: &Form,
        customer: Option<&str>,
        current: Option<&str>,
    ) -> Result<Option<usize>, Answer> {
        let Some(id) = form.text("payment_method").filter(|id| Some(*id) != current) else { return Ok(None) };
        let position = self.named_method(id)?;
        match (&self.methods[position].customer, customer) {
            (Some(owner), None) => {
                let message = format!(
                    "The payment method supplied ({id}) belongs to the Customer {owner}. Please include the Customer \
                     in the `customer` parameter on the SetupIntent."
                );
                Err(Answer::from(Refusal::new(None, "payment_method", message)).executed())
            }
            (_, Some(customer)) => self.check_setup_owner(position, customer).map(|()| Some(position)),
            (None, None) => Ok(Some(position)),
        }
    }

    /// As for attaching, only that its bank has not been asked yet.
    fn check_setup_owner(&self, position: usize, customer: &str) -> Result<(), Answer> {
        match self.methods[position].card.can_be_saved {
            true => self.check_attachable(position, customer),
            false => Ok(()),
        }
    }

    pub(super) fn setup_at(&self, id: &str) -> Option<usize> {
        self.setups.iter().position(|setup| setup.setup_id == id)
    }

    fn setup_state_error(&self, position: usize, message: &str) -> Answer {
        let error = json!({ "type": "invalid_request_error", "code": "setup_intent_unexpected_state",
            "message": message, "setup_intent": self.setups[position].to_json(ApiVersion::OF_ACCOUNT) });
        Answer::error(400, &error).executed()
    }

    fn emit_setup(&mut self, position: usize, kind: &'static str) {
        let object = self.setups[position].to_json(ApiVersion::OF_ACCOUNT);
        self.emit_other(kind, object);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{get, post, store};

    const SETUPS: &str = "/v1/setup_intents";

    #[test]
    fn a_setup_moves_as_its_table_says() {
        let mut store = store();
        let customer = post(&mut store, "/v1/customers", "").id();
        let other = post(&mut store, "/v1/customers", "").id();
        let theirs = post(&mut store, "/v1/payment_methods/pm_card_visa/attach", &format!("customer={other}")).id();
        let cards = "&allowed_payment_method_types[]=card";
        for (parameters, expected) in [
            (format!("customer={customer}"), "200 requires_payment_method"),
            (format!("customer={customer}&payment_method=pm_card_visa"), "200 requires_confirmation"),
            (format!("customer={customer}&payment_method=pm_card_visa&confirm=true{cards}"), "200 succeeded"),
            (format!("customer={customer}&payment_method=pm_card_visa&confirm=true"), "400 -"),
            (format!("customer={customer}&payment_method={theirs}"), "400 -"),
            (format!("payment_method={theirs}"), "400 -"),
            ("customer=cus_0".to_owned(), "400 resource_missing"),
            ("payment_method=pm_0".to_owned(), "400 resource_missing"),
            ("return_url=https://shop.example".to_owned(), "400 -"),
            (format!("payment_method=pm_card_chargeDeclined&confirm=true{cards}"), "402 card_declined"),
            (format!("payment_method=pm_card_authenticationRequired&confirm=true{cards}"), "200 requires_action"),
            ("confirm=true".to_owned() + cards, "400 setup_intent_unexpected_state"),
        ] {
            assert_eq!(post(&mut store, SETUPS, &parameters).short(), expected, "{parameters}");
        }
        let list = get(&mut store, SETUPS, &format!("customer={customer}&limit=1")).json();
        assert_eq!(list["data"][0]["status"], "succeeded", "what was refused made none");
        let id = list["data"][0]["id"].as_str().unwrap();
        let again = post(&mut store, &format!("{SETUPS}/{id}/confirm"), "payment_method=pm_card_visa");
        assert_eq!(again.short(), "400 setup_intent_unexpected_state");
        assert_eq!(post(&mut store, &format!("{SETUPS}/seti_0/confirm"), "").short(), "404 resource_missing");
    }
}
