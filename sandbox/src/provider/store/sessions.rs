//! Checkout sessions in `setup` mode: a page of the provider's on which a buyer saves a card, and the way back to the
//! shop.

use serde_json::{Map, Value, json};

use super::super::answer::{Answer, Refusal, not_found, refused};
use super::super::cards::Card;
use super::super::form::Form;
use super::super::parameters::ApiVersion;
use super::intents::check_played;
use super::list::Listed;
use super::methods::no_address;
use super::{End, Store, with_empty};

/// How long a session lasts if nothing is said, and what may be said.
const LASTS_SECONDS: i64 = 24 * 3_600;
const LASTS_SECONDS_MIN: i64 = 30 * 60;

/// A checkout session.
#[derive(Debug, Clone)]
pub(super) struct Session {
    session_id: String,
    setup_id: String,
    status: &'static str,
    customer: Option<String>,
    creates_customer: bool,
    customer_email: Option<String>,
    client_reference_id: Option<String>,
    metadata: Map<String, Value>,
    locale: Option<String>,
    currency: Option<String>,
    is_embedded: bool,
    success_url: Option<String>,
    cancel_url: Option<String>,
    return_url: Option<String>,
    url: String,
    expires_at: i64,
    created: i64,
}

/// What the provider's page shows of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hosted {
    pub(crate) status: &'static str,
    pub(crate) email: Option<String>,
    pub(crate) cancel_url: Option<String>,
}

/// Where a buyer goes who has chosen a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Completed {
    /// Back to the shop, or to the bank first.
    GoTo(String),
    /// The page again, with this sentence.
    Declined(String),
    /// It has ended, or never was.
    NotOpen,
}

impl Session {
    /// Where its buyer goes in the end; the shop's address may ask for the session's id.
    fn target(&self) -> Option<String> {
        let url = if self.is_embedded { &self.return_url } else { &self.success_url };
        url.as_ref().map(|url| url.replace("{CHECKOUT_SESSION_ID}", &self.session_id))
    }
}

impl Listed for Session {
    fn id(&self) -> &str {
        &self.session_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn has(&self, field: &str, value: &str) -> bool {
        match field {
            "status" => self.status == value,
            _ => self.customer.as_deref() == Some(value),
        }
    }

    fn to_json(&self, version: ApiVersion) -> Value {
        let is_open = self.status == "open";
        let customer_details = (!is_open || self.customer_email.is_some()).then(|| {
            json!({ "address": no_address(), "business_name": null, "email": self.customer_email,
                "individual_name": null, "name": null, "phone": null, "tax_exempt": "none", "tax_ids": null })
        });
        let ui_mode = match (version, self.is_embedded) {
            (ApiVersion::V2024_06_20, false) => "hosted",
            (ApiVersion::V2024_06_20, true) => "embedded",
            (ApiVersion::V2026_10_28, false) => "hosted_page",
            (ApiVersion::V2026_10_28, true) => "embedded_page",
        };
        let creation = if self.creates_customer { "always" } else { "if_required" };
        const EMPTY: &str = "adaptive_pricing after_expiration allow_promotion_codes amount_subtotal amount_total \
            billing_address_collection collected_information consent consent_collection currency_conversion \
            customer_account discounts excluded_payment_method_types integration_identifier invoice invoice_creation \
            managed_payments origin_context payment_intent payment_link payment_method_configuration_details \
            permissions recovered_from saved_payment_method_options shipping_address_collection shipping_cost \
            submit_type subscription total_details wallet_options";
        let mut object = json!({ "id": self.session_id, "object": "checkout.session", "livemode": false,
            "mode": "setup", "status": self.status, "payment_status": "no_payment_required",
            "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
            "cancel_url": self.cancel_url, "client_reference_id": self.client_reference_id,
            "client_secret": self.is_embedded.then(|| super::secret_of(&self.session_id)), "created": self.created,
            "currency": self.currency, "custom_fields": [],
            "custom_text": { "after_submit": null, "shipping_address": null, "submit": null,
                "terms_of_service_acceptance": null },
            "customer": self.customer, "customer_creation": self.customer.is_none().then_some(creation),
            "customer_details": customer_details, "customer_email": self.customer_email, "expires_at": self.expires_at,
            "locale": self.locale, "metadata": self.metadata, "payment_method_collection": "always",
            "payment_method_options": {}, "payment_method_types": ["card"],
            "phone_number_collection": { "enabled": false }, "return_url": self.return_url,
            "setup_intent": self.setup_id, "shipping_options": [], "success_url": self.success_url,
            "ui_mode": ui_mode, "url": (is_open && !self.is_embedded).then_some(&self.url) });
        if version >= ApiVersion::V2026_10_28 {
            object["allowed_payment_method_types"] = json!(["card"]);
        }
        with_empty(object, EMPTY)
    }
}

impl Store {
    pub(super) fn create_session(&mut self, form: &Form, version: ApiVersion) -> Result<Answer, Answer> {
        check_played(form)?;
        if let Some(mode) = form.get("mode").filter(|mode| *mode != "setup") {
            return Err(Refusal::not_played(&format!("mode={mode}")).into());
        }
        let ui_mode = form.text("ui_mode").unwrap_or(match version {
            ApiVersion::V2024_06_20 => "hosted",
            ApiVersion::V2026_10_28 => "hosted_page",
        });
        let is_embedded = match ui_mode {
            "hosted" | "hosted_page" => false,
            "embedded" | "embedded_page" => true,
            _ => return Err(Refusal::not_played(&format!("ui_mode={ui_mode}")).into()),
        };
        check_urls(form, is_embedded)?;
        let types = form.list("payment_method_types").chain(form.list("allowed_payment_method_types")).count();
        if types == 0 && form.text("currency").is_none() {
            return Err(refused("parameter_missing", "currency", "Missing required param: currency."));
        }
        for other in ["customer_email", "customer_creation"] {
            if form.text("customer").is_some() && form.text(other).is_some() {
                let message = format!("You may only specify one of these parameters: customer, {other}.");
                return Err(refused("parameters_exclusive", "customer", message));
            }
        }
        let customer = self.customer_of(form)?;
        let created = self.clock.now();
        let expires_at = form.integer("expires_at").unwrap_or(created + LASTS_SECONDS);
        if !(created + LASTS_SECONDS_MIN..=created + LASTS_SECONDS).contains(&expires_at) {
            let message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from session creation.";
            return Err(Refusal::new(None, "expires_at", message).into());
        }
        let mut setup = self.new_setup(customer.clone());
        setup.metadata = form.map("setup_intent_data[metadata]");
        setup.description = form.owned("setup_intent_data[description]");
        let session_id = self.new_id("cs_test");
        let session = Session {
            setup_id: setup.setup_id.clone(),
            status: "open",
            customer,
            creates_customer: form.get("customer_creation") == Some("always"),
            customer_email: form.owned("customer_email"),
            client_reference_id: form.owned("client_reference_id"),
            metadata: form.map("metadata"),
            locale: form.owned("locale"),
            currency: form.owned("currency"),
            is_embedded,
            success_url: form.owned("success_url"),
            cancel_url: form.owned("cancel_url"),
            return_url: form.owned("return_url"),
            url: format!("{}/c/pay/{session_id}", self.url),
            expires_at,
            created,
            session_id,
        };
        let answer = Answer::ok(&session.to_json(version));
        self.setups.push(setup);
        self.sessions.push(session);
        Ok(answer)
    }

    pub(super) fn read_session(&mut self, id: &str, version: ApiVersion) -> Result<Answer, Answer> {
        self.expire_sessions();
        super::read(&self.sessions, id, "checkout.session", version)
    }

    pub(super) fn expire_session(&mut self, id: &str, version: ApiVersion) -> Result<Answer, Answer> {
        self.expire_sessions();
        let found = self.sessions.iter().position(|session| session.session_id == id);
        let position = found.ok_or_else(|| not_found("checkout.session", id, "session"))?;
        let status = self.sessions[position].status;
        if status != "open" {
            let message = format!(
                "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status \
                 of {status}."
            );
            return Err(Answer::from(Refusal::without_param(message)).executed());
        }
        self.end_session(position, "expired", "checkout.session.expired");
        Ok(Answer::ok(&self.sessions[position].to_json(version)))
    }

    /// Those whose time is up.
    pub(super) fn expire_sessions(&mut self) {
        let now = self.clock.now();
        let is_due = |session: &Session| session.status == "open" && session.expires_at <= now;
        while let Some(position) = self.sessions.iter().position(is_due) {
            self.end_session(position, "expired", "checkout.session.expired");
        }
    }

    fn end_session(&mut self, position: usize, status: &'static str, kind: &'static str) {
        self.sessions[position].status = status;
        let object = self.sessions[position].to_json(ApiVersion::OF_ACCOUNT);
        self.emit_other(kind, object);
    }

    /// What the page of a session shows. `None` if there is no such session.
    pub(crate) fn hosted(&mut self, session_id: &str) -> Option<Hosted> {
        self.expire_sessions();
        let session = self.sessions.iter().find(|session| session.session_id == session_id)?;
        let (email, cancel_url) = (session.customer_email.clone(), session.cancel_url.clone());
        Some(Hosted { status: session.status, email, cancel_url })
    }

    /// Its buyer has typed in a card.
    pub(crate) fn pay_session(&mut self, session_id: &str, token: &str) -> Completed {
        self.expire_sessions();
        let is_meant = |session: &Session| session.session_id == session_id && session.status == "open";
        let Some(position) = self.sessions.iter().position(is_meant) else { return Completed::NotOpen };
        let Some(card) = Card::of_token(token) else {
            return Completed::Declined("Your card number is invalid.".to_owned());
        };
        let Some(setup) = self.setup_at(&self.sessions[position].setup_id) else { return Completed::NotOpen };
        let method = self.insert_method(card);
        if self.sessions[position].creates_customer && self.sessions[position].customer.is_none() {
            let email = self.sessions[position].customer_email.clone();
            let customer = self.new_customer(email);
            self.setups[setup].customer = Some(customer.clone());
            self.sessions[position].customer = Some(customer);
        }
        if self.try_setup(setup, method).is_err() {
            return Completed::Declined("Your card was declined.".to_owned());
        }
        match &self.setups[setup].action_url {
            Some(bank) => Completed::GoTo(bank.clone()),
            None => self.way_back(session_id),
        }
    }

    /// The session of a setup that has just succeeded is complete.
    pub(super) fn complete_session_of(&mut self, setup_id: &str) {
        let is_meant = |session: &Session| session.setup_id == setup_id && session.status == "open";
        if let Some(position) = self.sessions.iter().position(is_meant) {
            self.end_session(position, "complete", "checkout.session.completed");
        }
    }

    fn way_back(&self, session_id: &str) -> Completed {
        let session = self.sessions.iter().find(|session| session.session_id == session_id);
        match session.and_then(Session::target) {
            Some(target) => Completed::GoTo(target),
            None => Completed::NotOpen,
        }
    }

    /// Where an owner goes who has answered their bank about a setup: to the shop, or to the page on which they chose.
    pub(crate) fn way_back_from_bank(&self, setup_id: &str, end: End) -> Option<String> {
        match self.sessions.iter().find(|session| session.setup_id == setup_id) {
            Some(session) if end == End::Succeeded => session.target(),
            Some(session) => Some(session.url.clone()),
            None => self.setups[self.setup_at(setup_id)?].return_url.clone(),
        }
    }
}

fn check_urls(form: &Form, is_embedded: bool) -> Result<(), Answer> {
    let (needed, others): (&str, &[&str]) = match is_embedded {
        false => ("success_url", &["return_url", "redirect_on_completion"]),
        true => ("return_url", &["success_url", "cancel_url"]),
    };
    if let Some(other) = others.iter().find(|other| form.text(other).is_some()) {
        let message = format!("You cannot use {other} with this ui_mode.");
        return Err(Refusal::new(None, other, message).into());
    }
    let stays = form.get("redirect_on_completion") == Some("never");
    if form.text(needed).is_none() && !stays {
        return Err(refused("parameter_missing", needed, format!("Missing required param: {needed}.")));
    }
    for name in ["success_url", "cancel_url", "return_url"] {
        if form.text(name).is_some_and(|url| !is_url(url)) {
            return Err(refused("url_invalid", name, "Not a valid URL"));
        }
    }
    Ok(())
}

pub(super) fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{get, post, store};
    use super::*;

    const SESSIONS: &str = "/v1/checkout/sessions";
    const SETUP: &str = "mode=setup&currency=eur&success_url=https://shop.example/back?s={CHECKOUT_SESSION_ID}";

    #[test]
    fn a_session_saves_a_card_for_its_customer_and_leads_back() {
        let mut store = store();
        let customer = post(&mut store, "/v1/customers", "").id();
        let session = post(&mut store, SESSIONS, &format!("{SETUP}&customer={customer}")).json();
        let id = session["id"].as_str().unwrap();
        assert_eq!(
            (&session["url"], &session["ui_mode"]),
            (&json!(format!("http://fake/c/pay/{id}")), &json!("hosted_page"))
        );
        assert_eq!(store.sessions[0].to_json(ApiVersion::V2024_06_20)["ui_mode"], "hosted");
        assert_eq!(store.hosted(id).unwrap().status, "open");
        let declined = store.pay_session(id, "pm_card_chargeDeclined");
        assert_eq!(declined, Completed::Declined("Your card was declined.".to_owned()));
        assert!(matches!(store.pay_session(id, "pm_card_gold"), Completed::Declined(_)));
        let back = Completed::GoTo(format!("https://shop.example/back?s={id}"));
        assert_eq!(store.pay_session(id, "pm_card_visa"), back);
        assert_eq!(store.pay_session(id, "pm_card_visa"), Completed::NotOpen);

        let path = format!("{SESSIONS}/{id}");
        let done = get(&mut store, &path, "expand[]=setup_intent.payment_method").json();
        assert_eq!((&done["status"], &done["url"]), (&json!("complete"), &Value::Null));
        assert_eq!(done["setup_intent"]["status"], "succeeded");
        assert_eq!(done["setup_intent"]["payment_method"]["customer"], customer);
        let kinds: Vec<_> = store.events().iter().map(|event| event.kind).collect();
        let expected = [
            "customer.created",
            "setup_intent.setup_failed",
            "payment_method.attached",
            "setup_intent.succeeded",
            "checkout.session.completed",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(post(&mut store, &format!("{path}/expire"), "").short(), "400 -");
    }

    #[test]
    fn a_card_that_asks_its_owner_is_saved_when_they_have_answered() {
        for (end, status) in [(End::Failed, "open"), (End::Succeeded, "complete")] {
            let mut store = store();
            let id =
                post(&mut store, SESSIONS, &format!("{SETUP}&customer_creation=always&customer_email=a@x.org")).id();
            let Completed::GoTo(bank) = store.pay_session(&id, "pm_card_authenticationRequiredOnSetup") else {
                panic!()
            };
            let setup_id = store.setups[0].setup_id.clone();
            assert!(bank.starts_with(&format!("http://fake/authenticate/{setup_id}?client_secret=")), "{bank}");
            assert!(store.finish_setup(&setup_id, end));
            assert!(!store.finish_setup(&setup_id, end), "an answer is given once");
            assert_eq!(store.hosted(&id).unwrap().status, status);
            let back = store.way_back_from_bank(&setup_id, end).unwrap();
            assert!(back.contains(if status == "open" { "/c/pay/" } else { "shop.example" }), "{back}");
            let customer = store.customers()[0].customer_id.clone();
            if end == End::Succeeded {
                let setup = get(&mut store, &format!("/v1/setup_intents/{setup_id}"), "").json();
                let method = setup["payment_method"].as_str().unwrap();
                let pay = format!(
                    "amount=100&currency=eur&allowed_payment_method_types[]=card&confirm=true&off_session=true\
                     &customer={customer}&payment_method={method}"
                );
                assert_eq!(post(&mut store, "/v1/payment_intents", &pay).short(), "200 succeeded");
            }
        }
    }

    #[test]
    fn a_session_is_refused_where_the_real_one_is() {
        let mut store = store();
        let customer = post(&mut store, "/v1/customers", "").id();
        for (parameters, expected) in [
            ("mode=setup&currency=eur".to_owned(), "400 parameter_missing"),
            ("currency=eur&success_url=https://shop.example".to_owned(), "400 parameter_missing"),
            ("mode=setup&success_url=https://shop.example".to_owned(), "400 parameter_missing"),
            ("mode=setup&currency=eur&success_url=shop.example".to_owned(), "400 url_invalid"),
            ("mode=setup&currency=eur&success_url=https://".to_owned(), "400 url_invalid"),
            ("mode=payment&currency=eur&success_url=https://shop.example".to_owned(), "400 not_played"),
            (format!("{SETUP}&ui_mode=hosted"), "400 -"),
            (format!("{SETUP}&ui_mode=embedded_page"), "400 -"),
            (format!("{SETUP}&return_url=https://shop.example"), "400 -"),
            (format!("{SETUP}&customer=cus_0"), "400 resource_missing"),
            (format!("{SETUP}&customer={customer}&customer_email=a@x.org"), "400 parameters_exclusive"),
            (format!("{SETUP}&customer={customer}&customer_creation=always"), "400 parameters_exclusive"),
            (format!("{SETUP}&expires_at=1795773601"), "400 -"),
            (format!("{SETUP}&line_items[0][quantity]=1"), "400 not_played"),
            (format!("{SETUP}&ui_mode=hosted_page&expires_at=1795777200"), "200 open"),
            ("mode=setup&currency=eur&ui_mode=embedded_page&return_url=https://shop.example".to_owned(), "200 open"),
        ] {
            assert_eq!(post(&mut store, SESSIONS, &parameters).short(), expected, "{parameters}");
        }
        assert_eq!(get(&mut store, &format!("{SESSIONS}/cs_0"), "").short(), "404 resource_missing");
        assert_eq!(get(&mut store, SESSIONS, "status=open").json()["data"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_session_ends_with_its_time_or_when_the_shop_says_so() {
        let mut store = store();
        let (first, second) = (post(&mut store, SESSIONS, SETUP).id(), post(&mut store, SESSIONS, SETUP).id());
        assert_eq!(post(&mut store, &format!("{SESSIONS}/{first}/expire"), "").short(), "200 expired");
        store.clock = crate::provider::FakeClock::unix_seconds(|| 1_795_773_600 + LASTS_SECONDS);
        assert_eq!(get(&mut store, &format!("{SESSIONS}/{second}"), "").short(), "200 expired");
        assert_eq!(store.pay_session(&second, "pm_card_visa"), Completed::NotOpen);
        assert_eq!(store.hosted("cs_0"), None);
    }
}
