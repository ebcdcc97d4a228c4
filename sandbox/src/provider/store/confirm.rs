//! How money is taken: at once, after the buyer or the bank has answered, later, or not at all.

use serde_json::{Value, json};

use super::super::answer::{Answer, Refusal};
use super::super::cards::{Authentication, Card, Charging};
use super::super::form::Form;
use super::super::parameters::ApiVersion;
use super::intents::check_played;
use super::list::Listed as _;
use super::{Capture, Charge, End, Later, Store, Twist};

/// What becomes of a confirm.
enum Fate {
    Captured,
    Declined { decline_code: &'static str, succeeds_late: bool },
    AsksOwner,
    Processing,
}

impl Store {
    pub(super) fn confirm(
        &mut self,
        position: usize,
        form: &Form,
        version: ApiVersion,
        twist: Twist,
    ) -> Result<Answer, Answer> {
        check_played(form)?;
        let intent = &self.intents[position];
        if !matches!(intent.status, "requires_payment_method" | "requires_confirmation" | "requires_action") {
            return Err(self.unexpected_state(position, "confirm"));
        }
        let (customer, current) = (intent.customer.clone(), intent.payment_method.clone());
        let Some(named) = form.owned("payment_method").or_else(|| current.clone()) else {
            let message = "You cannot confirm this PaymentIntent because it's missing a payment method. You can either \
                update the PaymentIntent with a payment method and then confirm it again, or confirm it again directly \
                with a payment method.";
            return Err(self.state_error(position, message));
        };
        let is_off_session = form.get("off_session").is_some_and(|word| word != "false");
        if intent.details.may_redirect && !is_off_session && form.text("return_url").is_none() {
            let message = "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. \
                Because some of these payment methods might redirect your customer off of your page, you must provide \
                a `return_url`. If you don't want to accept redirect-based payment methods, set \
                `automatic_payment_methods[enabled]` to `true` and `automatic_payment_methods[allow_redirects]` to \
                `never`.";
            return Err(Refusal::without_param(message).into());
        }
        let method = self.method_for_payment(&named, customer.as_deref(), current.as_deref())?;
        let card = self.methods[method].card;
        let fate = self.fate_of(card, self.methods[method].is_set_up, twist);
        if matches!(fate, Fate::Captured) && twist.capture_after_500 {
            self.intents[position].lands_late = Some(card);
            self.later.push(Later::Intent { intent_id: self.intents[position].intent_id.clone() });
            return Ok(Answer::error_500());
        }
        self.methods[method].is_used = true;
        let method_id = self.methods[method].method_id.clone();
        let intent = &mut self.intents[position];
        intent.details.take(form);
        intent.action_url = None;
        intent.return_url = form.owned("return_url");
        intent.payment_method = Some(method_id);
        match fate {
            Fate::Declined { decline_code, succeeds_late } => {
                if succeeds_late {
                    self.later.push(Later::LateSuccess { intent_id: self.intents[position].intent_id.clone() });
                }
                let error = self.decline(position, card, "card_declined", Some(decline_code));
                return Err(self.declined(position, error, version, twist));
            }
            // Its owner is not there, so nobody is asked: there is no link.
            Fate::AsksOwner if is_off_session => {
                let code = "authentication_required";
                let error = self.decline(position, card, code, Some(code));
                return Err(self.declined(position, error, version, twist));
            }
            Fate::AsksOwner => self.require_action(position),
            Fate::Processing => self.process(position),
            Fate::Captured => drop(self.capture(position, card)),
        }
        Ok(Answer::ok(&self.intents[position].wire(version)))
    }

    /// What chance says comes first, then what the card does.
    fn fate_of(&self, card: &Card, is_set_up: bool, twist: Twist) -> Fate {
        let asks_owner = match card.authentication {
            Authentication::Never => false,
            Authentication::UnlessSetUp => !is_set_up,
            Authentication::Always => true,
        };
        let declined = |decline_code, succeeds_late| Fate::Declined { decline_code, succeeds_late };
        match card.charge {
            _ if twist.decline => declined("generic_decline", twist.late_success),
            _ if asks_owner => Fate::AsksOwner,
            Charging::Declined(code) => declined(code, twist.late_success),
            Charging::DeclinedThenSucceeds => declined("generic_decline", true),
            _ if twist.requires_action => Fate::AsksOwner,
            Charging::Processing => Fate::Processing,
            _ if twist.processing => Fate::Processing,
            Charging::Succeeds | Charging::Disputed => Fate::Captured,
        }
    }

    /// The buyer's answer. False if the intent does not wait for it.
    pub(crate) fn finish_action(&mut self, intent_id: &str, end: End) -> bool {
        self.finish_waiting(intent_id, "requires_action", "payment_intent_authentication_failure", end)
    }

    /// The bank's answer. False if the intent does not wait for it.
    pub(crate) fn finish_processing(&mut self, intent_id: &str, end: End) -> bool {
        self.finish_waiting(intent_id, "processing", "payment_intent_payment_attempt_failed", end)
    }

    fn finish_waiting(&mut self, intent_id: &str, waiting: &str, failure: &'static str, end: End) -> bool {
        let Some(&position) = self.positions.get(intent_id) else { return false };
        if self.intents[position].status != waiting {
            return false;
        }
        let Some(card) = self.card_of(position) else { return false };
        match (end, card.charge) {
            (End::Succeeded, Charging::Declined(code)) => {
                drop(self.decline(position, card, "card_declined", Some(code)))
            }
            (End::Succeeded, _) => drop(self.capture(position, card)),
            (End::Failed, _) => drop(self.decline(position, card, failure, None)),
        }
        true
    }

    /// What happens by itself to an intent that was left open: its bank answers, or its money lands.
    pub(crate) fn end_by_itself(&mut self, intent_id: &str) {
        if !self.finish_processing(intent_id, End::Succeeded) {
            let position = self.positions.get(intent_id).copied();
            if let Some(position) = position.filter(|position| self.intents[*position].lands_late.is_some()) {
                self.succeed(position);
            }
        }
    }

    /// Takes the money after all: of a declined, waiting or processing intent, or of one whose confirm was answered by
    /// a 500. False if nothing was ever tried, or if the intent has come to an end.
    pub(crate) fn succeed_late(&mut self, intent_id: &str) -> bool {
        self.positions.get(intent_id).copied().is_some_and(|position| self.succeed(position))
    }

    pub(super) fn succeed(&mut self, position: usize) -> bool {
        let intent = &self.intents[position];
        let can = intent.was_tried() && !matches!(intent.status, "succeeded" | "canceled");
        if can {
            let card = intent.lands_late.or_else(|| self.card_of(position)).unwrap_or(&Card::all()[0]);
            self.capture(position, card);
        }
        can
    }

    /// The card of its payment method, or of its newest charge.
    pub(super) fn card_of(&self, position: usize) -> Option<&'static Card> {
        let intent = &self.intents[position];
        let by_method = intent.payment_method.as_ref().and_then(|id| self.method_positions.get(id));
        let by_charge =
            || self.charges.iter().rev().find(|charge| Some(&charge.charge_id) == intent.latest_charge.as_ref());
        by_method.map(|method| self.methods[*method].card).or_else(|| by_charge().map(|charge| charge.card))
    }

    fn require_action(&mut self, position: usize) {
        let is_sdk_only = self.rules.links_need_return_url;
        let intent = &mut self.intents[position];
        intent.status = "requires_action";
        intent.action_url =
            Some(format!("{}/authenticate/{}?client_secret={}", self.url, intent.intent_id, intent.client_secret()));
        intent.has_link = intent.return_url.is_some() || !is_sdk_only;
        self.emit_intent(position, "payment_intent.requires_action");
    }

    fn process(&mut self, position: usize) {
        self.intents[position].status = "processing";
        self.later.push(Later::Intent { intent_id: self.intents[position].intent_id.clone() });
        self.emit_intent(position, "payment_intent.processing");
    }

    /// Takes the money, once: every caller has just seen that the intent is not captured.
    pub(super) fn capture(&mut self, position: usize, card: &'static Card) -> Capture {
        let charge_id = self.new_id("ch");
        let intent = &mut self.intents[position];
        intent.status = "succeeded";
        intent.latest_charge = Some(charge_id.clone());
        intent.last_payment_error = None;
        intent.action_url = None;
        intent.lands_late = None;
        let capture = Capture {
            intent_id: intent.intent_id.clone(),
            charge_id,
            order_id: intent.order_id().map(str::to_owned),
            amount_minor: intent.amount_minor,
            currency: intent.currency.clone(),
        };
        self.captures.push(capture.clone());
        let balance_transaction = self.book_charge(&capture);
        self.push_charge(position, &capture.charge_id, card, Some(balance_transaction), None);
        self.save_for_later(position);
        self.emit_intent(position, "payment_intent.succeeded");
        if card.charge == Charging::Disputed {
            self.open_dispute(&capture.intent_id);
        }
        capture
    }

    /// What was said about later payments holds once a first one has succeeded.
    fn save_for_later(&mut self, position: usize) {
        let intent = &self.intents[position];
        if let (Some(_), Some(customer), Some(method)) =
            (&intent.details.setup_future_usage, &intent.customer, &intent.payment_method)
        {
            let (customer, method) = (customer.clone(), self.method_positions[method]);
            self.methods[method].is_set_up = true;
            self.attach(method, &customer);
        }
    }

    /// The bank has said no. An authentication that nobody was there for leaves no charge behind.
    fn decline(
        &mut self,
        position: usize,
        card: &'static Card,
        code: &'static str,
        decline_code: Option<&'static str>,
    ) -> Value {
        let charge_id = (code != "authentication_required").then(|| self.new_id("ch"));
        if let Some(charge_id) = &charge_id {
            self.push_charge(position, charge_id, card, None, Some((code, decline_code)));
        }
        let method = self.intents[position].payment_method.as_ref().and_then(|id| self.method_positions.get(id));
        let method = method.map(|method| self.methods[*method].to_json(ApiVersion::OF_ACCOUNT));
        let message = match code {
            "authentication_required" => "Your card was declined. This transaction requires authentication.",
            _ if decline_code == Some("insufficient_funds") => "Your card has insufficient funds.",
            _ => "Your card was declined.",
        };
        let mut error = json!({ "type": "card_error", "code": code, "decline_code": decline_code, "message": message,
            "payment_method": method });
        if let Some(charge_id) = &charge_id {
            error["charge"] = charge_id.as_str().into();
        }
        let intent = &mut self.intents[position];
        intent.status = "requires_payment_method";
        intent.payment_method = None;
        intent.latest_charge = charge_id;
        intent.last_payment_error = Some(error.clone());
        intent.action_url = None;
        self.emit_intent(position, "payment_intent.payment_failed");
        error
    }

    fn declined(&self, position: usize, mut error: Value, version: ApiVersion, twist: Twist) -> Answer {
        if !twist.bare_decline {
            error["payment_intent"] = self.intents[position].to_json(version);
        }
        Answer::error(402, &error).executed()
    }

    fn push_charge(
        &mut self,
        position: usize,
        charge_id: &str,
        card: &'static Card,
        balance_transaction: Option<String>,
        failure: Option<(&'static str, Option<&'static str>)>,
    ) {
        let intent = &self.intents[position];
        self.charges.push(Charge {
            charge_id: charge_id.to_owned(),
            intent_id: intent.intent_id.clone(),
            payment_method: intent.payment_method.clone(),
            card,
            amount_minor: intent.amount_minor,
            created: self.clock.now(),
            balance_transaction,
            failure,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{call, get, post, store};
    use super::*;

    const INTENTS: &str = "/v1/payment_intents";

    fn with_intent(more: &str) -> (Store, String) {
        let mut store = store();
        let path = new_intent(&mut store, more);
        (store, path)
    }

    fn new_intent(store: &mut Store, more: &str) -> String {
        let parameters = format!("amount=100&currency=eur&payment_method_types[]=card{more}");
        let id = post(store, INTENTS, &parameters).id();
        format!("{INTENTS}/{id}")
    }

    #[test]
    fn an_intent_moves_as_its_table_says_and_captures_once() {
        let (visa, declined) = ("payment_method=pm_card_visa", "payment_method=pm_card_chargeDeclined");
        let action = "payment_method=pm_card_authenticationRequired";
        // (verb, parameters, answer, status of the intent, captures) one after the other on the same intent.
        type Step = (&'static str, &'static str, &'static str, &'static str, usize);
        let paid: &[Step] = &[
            ("/confirm", "", "400 payment_intent_unexpected_state", "requires_payment_method", 0),
            ("/confirm", "payment_method=visa", "400 resource_missing", "requires_payment_method", 0),
            ("/confirm", "payment_method=pm_card_gold", "400 resource_missing", "requires_payment_method", 0),
            ("/confirm", declined, "402 card_declined", "requires_payment_method", 0),
            ("/confirm", action, "200 requires_action", "requires_action", 0),
            ("/confirm", visa, "200 succeeded", "succeeded", 1),
            ("/confirm", visa, "400 payment_intent_unexpected_state", "succeeded", 1),
            ("/confirm", declined, "400 payment_intent_unexpected_state", "succeeded", 1),
            ("/cancel", "", "400 payment_intent_unexpected_state", "succeeded", 1),
            ("", "amount=200", "400 payment_intent_unexpected_state", "succeeded", 1),
            ("", "description=Shoes", "200 succeeded", "succeeded", 1),
        ];
        let canceled: &[Step] = &[
            ("", visa, "200 requires_confirmation", "requires_confirmation", 0),
            ("/confirm", action, "200 requires_action", "requires_action", 0),
            ("/cancel", "cancellation_reason=duplicate", "200 canceled", "canceled", 0),
            ("/confirm", visa, "400 payment_intent_unexpected_state", "canceled", 0),
            ("/cancel", "", "400 payment_intent_unexpected_state", "canceled", 0),
        ];
        for steps in [paid, canceled] {
            let (mut store, path) = with_intent("&metadata[order_id]=o-1");
            for (verb, parameters, answer, status, captures) in steps {
                let got = post(&mut store, &format!("{path}{verb}"), parameters);
                assert_eq!(got.short(), *answer, "{verb} {parameters}: {}", got.body);
                assert_eq!(store.intents()[0].status, *status, "{verb} {parameters}");
                assert_eq!(store.captures().len(), *captures, "{verb} {parameters}");
            }
        }
    }

    #[test]
    fn an_amount_outside_its_bounds_makes_no_intent_and_changes_none() {
        let (mut store, path) = with_intent("");
        for (parameters, expected) in [
            ("amount=49&currency=eur", "400 amount_too_small"),
            ("amount=100000000&currency=eur", "400 amount_too_large"),
            ("amount=5124&currency=kwd", "400 parameter_invalid_integer"),
            ("amount=100&currency=xxx", "400 -"),
            ("amount=100&currency=eur&customer=cus_0", "400 resource_missing"),
            ("amount=100&currency=eur&payment_method=pm_0", "400 resource_missing"),
            ("amount=100&currency=eur&off_session=true", "400 -"),
            ("amount=100&currency=eur&return_url=https://shop.example", "400 -"),
            ("amount=100&currency=eur&capture_method=manual", "400 not_played"),
            ("amount=100&currency=eur&payment_method_types[]=ideal", "400 not_played"),
        ] {
            assert_eq!(post(&mut store, INTENTS, parameters).short(), expected, "{parameters}");
        }
        assert_eq!(store.intents().len(), 1);
        assert_eq!(post(&mut store, &path, "amount=49").short(), "400 amount_too_small");
        assert_eq!(post(&mut store, &path, "currency=gbp&amount=30").short(), "200 requires_payment_method");
        assert_eq!(post(&mut store, "/v1/payment_intents/pi_x/confirm", "").short(), "404 resource_missing");
    }

    #[test]
    fn away_from_the_shop_an_owner_is_asked_by_nobody_and_a_way_back_makes_the_link() {
        let (mut store, path) = with_intent("");
        let confirm = format!("{path}/confirm");
        let card = "payment_method=pm_card_authenticationRequired";
        let away = post(&mut store, &confirm, &format!("{card}&off_session=true"));
        assert_eq!(away.short(), "402 authentication_required");
        let (error, read) = (&away.json()["error"], get(&mut store, &path, "").json());
        assert_eq!(error["decline_code"], "authentication_required");
        for intent in [&error["payment_intent"], &read] {
            assert_eq!(intent["status"], "requires_payment_method");
            assert!(intent["next_action"].is_null() && intent["latest_charge"].is_null(), "{intent}");
        }
        let back = post(&mut store, &confirm, &format!("{card}&return_url=https://shop.example/back")).json();
        assert_eq!(back["status"], "requires_action");
        assert_eq!(back["next_action"]["type"], "redirect_to_url");
        assert_eq!(back["next_action"]["redirect_to_url"]["return_url"], "https://shop.example/back");
        // Without a way back there is only the script in the browser, unless today's leniency is wanted.
        assert_eq!(post(&mut store, &confirm, card).json()["next_action"]["type"], "use_stripe_sdk");
        store.rules.links_need_return_url = false;
        assert_eq!(post(&mut store, &confirm, card).json()["next_action"]["type"], "redirect_to_url");
        let intent_id = store.intents()[0].intent_id.clone();
        assert!(store.finish_action(&intent_id, End::Succeeded));
        assert_eq!(store.captures().len(), 1);
    }

    #[test]
    fn authenticating_does_not_fill_an_empty_account() {
        let (mut store, path) = with_intent("");
        let card = "payment_method=pm_card_authenticationRequiredChargeDeclinedInsufficientFunds";
        assert_eq!(post(&mut store, &format!("{path}/confirm"), card).short(), "200 requires_action");
        let intent_id = store.intents()[0].intent_id.clone();
        assert!(store.finish_action(&intent_id, End::Succeeded));
        let intent = &store.intents()[0];
        assert_eq!((intent.status, store.captures().len()), ("requires_payment_method", 0));
        assert_eq!(intent.last_payment_error.as_ref().unwrap()["decline_code"], "insufficient_funds");
    }

    #[test]
    fn types_left_to_the_provider_may_lead_away_so_they_need_a_way_back() {
        let mut store = store();
        let confirmed = "amount=100&currency=eur&payment_method=pm_card_visa&confirm=true";
        for (more, expected) in [
            ("", "400 -"),
            ("&return_url=https://shop.example", "200 succeeded"),
            (
                "&automatic_payment_methods[enabled]=true&automatic_payment_methods[allow_redirects]=never",
                "200 succeeded",
            ),
            ("&allowed_payment_method_types[]=card", "200 succeeded"),
        ] {
            assert_eq!(post(&mut store, INTENTS, &format!("{confirmed}{more}")).short(), expected, "{more}");
        }
        assert_eq!(store.intents().len(), 3, "what was refused made none");
    }

    #[test]
    fn a_capture_lands_after_its_500_unless_the_intent_has_ended() {
        let twist = Twist { capture_after_500: true, ..Twist::default() };
        let visa = "payment_method=pm_card_visa";
        // (what is done in between, status in the end, captures)
        for (between, status, captures) in [
            (None, "succeeded", 1),
            (Some(("confirm", visa)), "succeeded", 1),
            (Some(("confirm", "payment_method=pm_card_chargeDeclined")), "succeeded", 1),
            (Some(("cancel", "")), "canceled", 0),
        ] {
            let (mut store, path) = with_intent("");
            assert_eq!(call(&mut store, "POST", &format!("{path}/confirm"), visa, twist).status, 500);
            assert_eq!(store.intents()[0].status, "requires_payment_method", "nothing shows yet");
            let later = store.take_later();
            let [Later::Intent { intent_id }] = later.as_slice() else { panic!("{later:?}") };
            if let Some((verb, parameters)) = between {
                post(&mut store, &format!("{path}/{verb}"), parameters);
            }
            store.end_by_itself(intent_id);
            assert_eq!((store.intents()[0].status, store.captures().len()), (status, captures), "{between:?}");
            store.end_by_itself(intent_id);
            assert_eq!(store.captures().len(), captures, "it lands once");
        }
    }

    #[test]
    fn a_bare_decline_keeps_its_intent_to_itself() {
        let (mut store, path) = with_intent("");
        let (confirm, card) = (format!("{path}/confirm"), "payment_method=pm_card_chargeDeclined");
        let twist = Twist { bare_decline: true, ..Twist::default() };
        let bare = call(&mut store, "POST", &confirm, card, twist).json();
        assert!(bare["error"]["payment_intent"].is_null() && bare["error"]["code"] == "card_declined", "{bare}");
        assert!(post(&mut store, &confirm, card).json()["error"]["payment_intent"]["id"].is_string());
    }

    #[test]
    fn a_lagging_list_leaves_out_what_is_young() {
        let (mut store, _) = with_intent("&metadata[order_id]=o-1");
        let query = serde_urlencoded::to_string([("query", "metadata['order_id']:'o-1'")]).unwrap();
        let twist = Twist { lagging_list: true, ..Twist::default() };
        for (path, parameters) in [(INTENTS, ""), ("/v1/payment_intents/search", query.as_str())] {
            let found = |answer: Answer| answer.json()["data"].as_array().unwrap().len();
            assert_eq!(found(get(&mut store, path, parameters)), 1, "{path}");
            assert_eq!(found(call(&mut store, "GET", path, parameters, twist)), 0, "{path}");
        }
        store.rules.lists_lag_by = 0;
        assert_eq!(call(&mut store, "GET", INTENTS, "", twist).json()["data"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn capturing_twice_shows_in_the_ledger_and_in_the_list() {
        let (mut store, path) = with_intent("&metadata[order_id]=o-1");
        assert_eq!(store.capture_twice("o-1"), None);
        post(&mut store, &format!("{path}/confirm"), "payment_method=pm_card_visa");
        let second = store.capture_twice("o-1").unwrap();
        assert_eq!(store.captures().len(), 2);
        assert_ne!(second.charge_id, store.captures()[0].charge_id);
        let succeeded = store.intents().iter().filter(|intent| intent.status == "succeeded");
        assert_eq!(succeeded.filter(|intent| intent.order_id() == Some("o-1")).count(), 2);
    }

    #[test]
    fn charges_of_both_ends_are_listed_and_read() {
        let mut store = store();
        let customer = post(&mut store, "/v1/customers", "").id();
        let path = new_intent(&mut store, &format!("&customer={customer}"));
        post(&mut store, &format!("{path}/confirm"), "payment_method=pm_card_chargeDeclined");
        post(&mut store, &format!("{path}/confirm"), "payment_method=pm_card_visa");
        let list = get(&mut store, "/v1/charges", &format!("customer={customer}")).json();
        let status: Vec<_> = list["data"].as_array().unwrap().iter().map(|charge| charge["status"].clone()).collect();
        assert_eq!(status, ["succeeded", "failed"]);
        let id = list["data"][1]["id"].as_str().unwrap();
        assert_eq!(get(&mut store, &format!("/v1/charges/{id}"), "").json()["failure_code"], "card_declined");
        assert_eq!(get(&mut store, "/v1/charges/ch_0", "").short(), "404 resource_missing");
    }
}
