//! The play that every run of the matrix gives: twelve buyers with twelve fates, three with carts and five who stand in line for
//! another drop where that is what the run is about, so that each step of the workers is passed.

use std::sync::Arc;

use doorbuster_engine::domain::carts::{Addition, CartOwner, LineQuantity};
use doorbuster_engine::domain::claims::{Claim, Quantity};
use doorbuster_engine::domain::ids::{BuyerId, OrderId, VariantId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::flows::LiveDrop;
use futures_util::future::{try_join, try_join_all};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::line::stand_in_line;
use super::stage::Stage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pays,
    /// His card is declined.
    Declined,
    /// His card is declined, and he gives another one.
    OtherCard,
    /// His bank asks him, and he answers.
    Acts,
    /// His bank asks him, and he does not answer.
    Silent,
    /// He never says how he pays.
    NoMethod,
    /// He says so later.
    LateMethod,
    /// He pays, and cancels.
    Cancels,
    /// He cancels, and answers his bank in the same moment.
    CancelsAndActs,
    /// He pays, and gets everything back.
    Refunded,
    /// He pays, and gets something back, twice.
    RefundedTwice,
    /// Postgres refuses his order at first.
    Poisoned,
}

pub(super) const FATES: [Fate; 12] = [
    Fate::Pays,
    Fate::Declined,
    Fate::OtherCard,
    Fate::Acts,
    Fate::Silent,
    Fate::NoMethod,
    Fate::LateMethod,
    Fate::Cancels,
    Fate::CancelsAndActs,
    Fate::Refunded,
    Fate::RefundedTwice,
    Fate::Poisoned,
];

/// Units of the drop: of two warehouses, each has fewer than there are buyers.
pub(super) const STOCK: u32 = 18;

impl Fate {
    fn card(self) -> Option<&'static str> {
        match self {
            Self::NoMethod | Self::LateMethod => None,
            Self::Declined | Self::OtherCard => Some("pm_card_chargeDeclined"),
            Self::Acts | Self::Silent | Self::CancelsAndActs => Some("pm_card_authenticationRequired"),
            _ => Some("pm_card_visa"),
        }
    }

    /// How his order and its payment end.
    fn ends(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Pays | Self::OtherCard | Self::Acts | Self::LateMethod | Self::Poisoned => {
                ("CONFIRMED", &["SUCCEEDED"])
            }
            Self::Declined | Self::Silent | Self::NoMethod => ("PAYMENT_FAILED", &["FAILED"]),
            Self::Cancels => ("CANCELLED", &["REFUNDED"]),
            // Whoever was faster.
            Self::CancelsAndActs => ("CANCELLED", &["CANCELED", "REFUNDED"]),
            Self::Refunded => ("CONFIRMED", &["REFUNDED"]),
            Self::RefundedTwice => ("CONFIRMED", &["PARTIALLY_REFUNDED"]),
        }
    }
}

struct Person {
    fate: Fate,
    buyer: BuyerId,
    order: OrderId,
}

/// Gives the play to its end. `commands_die_at`: so does the first refund that is asked for.
pub(super) async fn play(stage: &Arc<Stage>, commands_die_at: Option<&str>, has_line: bool) -> Result<(), String> {
    let live = stage.engine.live_drop(&stage.drop.parse().unwrap()).await.unwrap().unwrap();
    let people = cast(&live);
    for person in &people {
        if let Some(card) = person.fate.card() {
            stage.save_profile(&person.buyer, card).await;
        }
    }
    let mallory = people.iter().find(|person| person.fate == Fate::Poisoned).expect("he is cast").buyer.clone();
    stage.execute(&format!("alter table orders add constraint refused check (buyer <> '{mallory}')")).await;

    let (first, second) = people.split_at(people.len() / 2);
    try_join_all(first.iter().map(|person| click(stage, person))).await?;
    // As if the server had forgotten something: the home of all of them is fenced, among claims that nobody has settled.
    let live = stage.engine.refresh(&stage.drop.parse().unwrap()).await.unwrap().unwrap();
    let home = live.drop.warehouses[0];
    let fenced = live.store(&home).fence().await;
    try_join_all(second.iter().map(|person| click(stage, person))).await?;
    // Its load may have been under way just then; then it is fenced by that.
    drop(fenced);
    let shoppers = shoppers(stage, &live).await;
    try_join_all(shoppers.iter().map(|shopper| check_out(stage, shopper))).await?;

    let in_time = people.iter().filter(|person| !matches!(person.fate, Fate::Silent | Fate::NoMethod));
    let lives = try_join_all(in_time.map(|person| live_on(stage, person, commands_die_at)));
    let line = async { if has_line { stand_in_line(stage).await } else { Ok(()) } };
    try_join(lives, line).await?;
    // Time is up for the others.
    stage.time_is_up().await?;
    stage.execute("update sweeps set started_at = null").await;
    for person in &people {
        let (status, payments) = person.fate.ends();
        let payments = payments.join("', '");
        let sql = format!(
            "select count(*) from orders o join payments p using (order_id)
             where order_id = '{}' and o.status = '{status}' and p.state in ('{payments}')",
            person.order
        );
        let what = format!("{:?} ends as {status} with {payments}", person.fate);
        stage.until(&what, async || stage.count(&sql).await == 1).await?;
    }
    for shopper in &shoppers {
        shopper.ends(stage).await?;
    }
    let swept = "select count(*) from sweeps where swept_to is not null and started_at is not null";
    stage.until("the provider's list was compared", async || stage.count(swept).await == 1).await?;
    stage.quiet().await
}

/// Buyers who all have the same home, so that its units do not suffice.
fn cast(live: &LiveDrop) -> Vec<Person> {
    let names = (0..).map(|number| format!("buyer-{number}").parse::<BuyerId>().unwrap());
    let mut at_home = names.filter(|buyer| live.home_of(buyer).number.0 == 0);
    let person = |fate| {
        let buyer = at_home.next().expect("one of two names is");
        let variant = live.drop.variants[0].number;
        let claim =
            Claim::new(live.drop.id, buyer.clone(), &"once".parse().unwrap(), variant, Quantity::new(1).unwrap());
        Person { fate, buyer, order: claim.id.order_id() }
    };
    FATES.map(person).into()
}

/// Somebody who orders what is in his cart.
struct Shopper {
    buyer: BuyerId,
    /// How many orders come of it; none, if the drop refuses him.
    orders: i64,
}

/// One has mugs in his cart, one a unit of the drop too, and one more units of it than he may have.
async fn shoppers(stage: &Stage, live: &LiveDrop) -> Vec<Shopper> {
    let mug = stage.put_mugs_on_shelves().await;
    let shoe = VariantId(live.drop.variants[0].variant_id);
    let mut shoppers = Vec::new();
    for (name, shoes, orders) in [("goods", 0, 1), ("both", 1, 2), ("greedy", 3, 0)] {
        // All runs share one Redis.
        let buyer: BuyerId = format!("{name}-{}", stage.drop).parse().unwrap();
        stage.save_profile(&buyer, "pm_card_visa").await;
        for (variant_id, units, price) in [(mug, 2, 900), (shoe, shoes, 14_900)] {
            let Ok(quantity) = LineQuantity::new(units) else { continue };
            let price = Money::new(price, "EUR".parse().unwrap());
            let addition = Addition {
                variant_id,
                quantity,
                price,
                key: format!("{name}-{price}").replace(' ', "-").parse().unwrap(),
            };
            stage.engine.carts.add(&CartOwner::Buyer(buyer.clone()), &addition).await.unwrap();
        }
        shoppers.push(Shopper { buyer, orders });
    }
    shoppers
}

async fn check_out(stage: &Stage, shopper: &Shopper) -> Result<(), String> {
    let answer = stage.ask(&shopper.buyer, Method::POST, "/v1/checkout", &json!({})).await?;
    let is_good = answer.status.is_success()
        || (shopper.orders == 0 && ["limit_exceeded", "claim_rejected"].iter().any(|code| answer.text.contains(code)));
    if is_good { Ok(()) } else { Err(format!("{} ordered: {answer:?}", shopper.buyer)) }
}

impl Shopper {
    /// His orders are paid and his cart is empty; or nothing was sold, and it is as it was.
    async fn ends(&self, stage: &Stage) -> Result<(), String> {
        let buyer = &self.buyer;
        let paid = format!("select count(*) from orders where buyer = '{buyer}' and status = 'CONFIRMED'");
        let open =
            format!("select count(*) from orders where buyer = '{buyer}' and status not in ('CONFIRMED', 'CANCELLED')");
        let what = format!("{buyer} has {} paid orders and no open one", self.orders);
        stage.until(&what, async || stage.count(&paid).await == self.orders && stage.count(&open).await == 0).await?;
        let left = if self.orders == 0 { 2 } else { 0 };
        stage
            .until(&format!("{buyer} has {left} lines left in his cart"), async || {
                let cart = stage.engine.carts.read(&CartOwner::Buyer(buyer.clone())).await.unwrap();
                cart.map_or(0, |cart| cart.lines.len()) == left
            })
            .await
    }
}

async fn click(stage: &Stage, person: &Person) -> Result<(), String> {
    let path = format!("/v1/drops/{}/claims", stage.drop);
    let answer = stage.ask(&person.buyer, Method::POST, &path, &json!({})).await?;
    if answer.status == 201 { Ok(()) } else { Err(format!("{:?} claimed: {answer:?}", person.fate)) }
}

async fn live_on(stage: &Stage, person: &Person, commands_die_at: Option<&str>) -> Result<(), String> {
    let order = person.order;
    let is = async |column: &str, value: &str| {
        let sql = format!(
            "select count(*) from orders o join payments p using (order_id) where order_id = '{order}' and {column} = '{value}'"
        );
        let what = format!("{:?}: {column} is {value}", person.fate);
        stage.until(&what, async || stage.count(&sql).await == 1).await
    };
    let refund = async |number: u128, minor: &str| {
        let id = Uuid::from_u128(order.0.as_u128() ^ number).to_string();
        let order = order.to_string();
        let mut arguments = vec!["order", "refund", &*order, "--reason", "a scratch", "--id", &*id];
        if !minor.is_empty() {
            arguments.extend(["--amount-minor", minor]);
        }
        // Whoever is told nothing does it again, under the same id.
        if !stage.command(&arguments, commands_die_at).await && !stage.command(&arguments, None).await {
            return Err(format!("{:?}: the refund was not taken", person.fate));
        }
        Ok(())
    };
    let cancel = async || {
        let path = format!("/v1/orders/{order}/cancel");
        let answer = stage.ask(&person.buyer, Method::POST, &path, &json!({})).await?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("{:?} cancelled: {answer:?}", person.fate)) }
    };
    match person.fate {
        Fate::Pays | Fate::Declined | Fate::Silent | Fate::NoMethod => Ok(()),
        Fate::Acts => {
            is("p.state", "ACTION_REQUIRED").await?;
            answer_bank(stage, order);
            Ok(())
        }
        Fate::LateMethod | Fate::OtherCard => {
            is("p.state", if person.fate == Fate::LateMethod { "REQUIRED" } else { "METHOD_REQUIRED" }).await?;
            stage.save_profile(&person.buyer, "pm_card_visa").await;
            let path = format!("/v1/orders/{order}/payment");
            let answer = stage.ask(&person.buyer, Method::POST, &path, &json!({})).await?;
            if answer.status == 202 { Ok(()) } else { Err(format!("{:?} gave a method: {answer:?}", person.fate)) }
        }
        Fate::Cancels => {
            is("o.status", "CONFIRMED").await?;
            cancel().await
        }
        Fate::CancelsAndActs => {
            is("p.state", "ACTION_REQUIRED").await?;
            let cancelled = cancel().await;
            answer_bank(stage, order);
            cancelled
        }
        Fate::Refunded => {
            is("o.status", "CONFIRMED").await?;
            refund(1, "").await
        }
        Fate::RefundedTwice => {
            is("o.status", "CONFIRMED").await?;
            refund(1, "500").await?;
            refund(2, "700").await
        }
        Fate::Poisoned => {
            let aside = "select count(*) from poisoned_claims where resolved_at is null";
            stage.until("his claim is set aside", async || stage.count(aside).await == 1).await?;
            stage.execute("alter table orders drop constraint refused").await;
            let report = stage.engine.retry_poisoned(None).await.map_err(|error| error.to_string())?;
            if report.settled == 1 { Ok(()) } else { Err(format!("his claim was not settled: {report:?}")) }
        }
    }
}

/// The buyer says yes to his bank.
fn answer_bank(stage: &Stage, order: OrderId) {
    let order = order.to_string();
    let intents = stage.provider.intents();
    for intent in intents.iter().filter(|intent| intent.order_id() == Some(&order)) {
        stage.provider.complete_action(&intent.intent_id);
    }
}
