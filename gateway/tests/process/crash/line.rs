//! The line of the play: a second drop, whose buyers stand in line while the others buy the first one. Three units, five
//! buyers, one of whom leaves: each round of the worker and each step before it is passed.

use doorbuster_engine::domain::drops::{Admission, NewDrop, NewVariant, PayTerms};
use doorbuster_engine::domain::ids::BuyerId;
use doorbuster_engine::domain::line::beacon::commitment;
use doorbuster_engine::domain::line::rules::Beacon;
use doorbuster_engine::domain::line::terms::{LineTerms, NewLine};
use futures_util::future::try_join_all;
use jiff::SignedDuration;
use reqwest::Method;
use serde_json::json;

use super::stage::Stage;

const STOCK: u32 = 3;
const BUYERS: usize = 5;
const SECRET: [u8; 32] = [7; 32];

/// Gives that part of the play to its end.
pub(super) async fn stand_in_line(stage: &Stage) -> Result<(), String> {
    let name = format!("{}-l", stage.drop);
    stage.engine.create_drop(&new_drop(stage, &name), 7).await.unwrap().unwrap();
    let path = format!("/v1/drops/{name}/line");
    let buyers = (0..BUYERS).map(|number| format!("{name}-{number}").parse::<BuyerId>().unwrap()).collect::<Vec<_>>();
    try_join_all(buyers.iter().map(async |buyer| {
        stage.save_profile(buyer, "pm_card_visa").await;
        let wish = json!({ "choices": [{ "sku": format!("{name}-42") }], "country": "DE" });
        let answer = stage.ask(buyer, Method::POST, &path, &wish).await?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("{buyer} joined: {answer:?}")) }
    }))
    .await?;
    let leaver = &buyers[0];
    let answer = stage.ask(leaver, Method::DELETE, &format!("{path}/me"), &json!({})).await?;
    let has_left = answer.status.is_success();
    // Whoever stands in line for so long that their turn has come keeps what they got.
    if !has_left && !answer.text.contains("already_awarded") {
        return Err(format!("{leaver} left: {answer:?}"));
    }
    let paid = format!("select count(*) from orders where buyer like '{name}-%' and status = 'CONFIRMED'");
    stage.until("three who stood in line have paid", async || stage.count(&paid).await == i64::from(STOCK)).await?;
    let theirs = format!("select count(*) from orders where buyer = '{leaver}'");
    if has_left && stage.count(&theirs).await > 0 {
        return Err(format!("{leaver} had left, and was given something"));
    }
    stage.execute("update lines set ends_at = now()").await;
    let over = "select count(*) from lines where state = 'CLOSED'";
    stage.until("the line is over", async || stage.count(over).await == 1).await
}

/// Its line opens at once, is sealed and drawn within seconds, and gives two ranks a round.
fn new_drop(stage: &Stage, name: &str) -> NewDrop {
    let now = stage.engine.clock.now();
    let second = SignedDuration::from_secs(1);
    let terms = LineTerms {
        admission: Admission::Queue,
        line_opens_at: now,
        seal_at: now + second,
        reveal_after: second,
        round_every: second,
        per_round: 2,
        capacity: 100,
        requires_card: false,
        then_open: false,
        beacon: Beacon::None { commitment: commitment(&SECRET) },
    };
    let opens_at = terms.seal_at + terms.timing().seal_before_opening();
    let variant =
        NewVariant { sku: format!("{name}-42"), title: "Size 42".to_owned(), price_minor: 9_900, stock_units: STOCK };
    NewDrop {
        name: name.parse().unwrap(),
        product_name: "Boot".to_owned(),
        currency: "EUR".parse().unwrap(),
        variants: vec![variant],
        buyer_limit: 1,
        warehouses: 2,
        tax_basis_points: 1_900,
        shipping_minor: 490,
        rates_of_shop: false,
        price_includes_tax: false,
        opens_at: Some(opens_at),
        closes_at: Some(now + SignedDuration::from_hours(1)),
        pay_by: now + SignedDuration::from_hours(24),
        pay_terms: PayTerms::default(),
        acknowledgement: doorbuster_engine::domain::claims::Acknowledgement::Accepted,
        replicas: 0,
        line: Some(NewLine { terms, secret: Some(SECRET) }),
    }
}
