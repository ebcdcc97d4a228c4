//! The events that the shop's own systems get, as OpenAPI's `webhooks`. What they look like is the engine's: each example is an
//! event that it made, and the types here only describe it. A test holds one against the other.

use doorbuster_engine::domain::ids::{DropId, OrderId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::notices::{ItemFacts, Notice, OrderFacts, Subject};
use doorbuster_engine::domain::pricing::Totals;
use doorbuster_engine::webhooks::Event;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem, Paths, PathsBuilder,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required};
use uuid::Uuid;

use super::examples::ORDER;
use crate::routes::Amount;

/// An event of an order
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct WebhookEvent {
    /// As `webhook-id` has it: the same for every delivery of this event
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened. Events may come out of order: go by this
    pub timestamp: Timestamp,
    pub data: WebhookData,
}

/// The order that an event is about
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct WebhookData {
    /// The order's id. For `claim.lost` the id that it would have had
    pub order_id: Uuid,
    pub buyer: String,
    pub drop: Option<String>,
    pub items: Vec<WebhookItem>,
    pub total: Amount,
    /// What only this type of event has to say; each type has its own fields here, or none
    #[schema(value_type = Option<Object>)]
    pub detail: Option<Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct WebhookItem {
    pub sku: String,
    pub quantity: u32,
    pub unit_price: Amount,
}

/// Why a payment failed
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct PaymentFailedDetail {
    /// The payment provider's code, or one of ours
    pub reason: String,
}

/// Why another card is needed
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct PaymentMethodRequiredDetail {
    /// The payment provider's code
    pub reason: String,
    /// Which try of the order's it was
    pub attempt: u32,
}

/// Whether a cancelled order was paid
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct OrderCancelledDetail {
    /// Money was taken, and comes back in a refund of its own
    pub is_refunded: bool,
}

/// A refund
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct RefundIssuedDetail {
    /// The refund's id
    pub refund: Uuid,
    pub amount: Amount,
    pub is_full: bool,
}

/// A refund that did not arrive
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct RefundFailedDetail {
    /// The refund's id
    pub refund: Uuid,
    pub amount: Amount,
    /// It had arrived, its buyer was told so, and it came back
    pub was_issued: bool,
}

/// How an order travels
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct OrderShippedDetail {
    pub carrier: String,
    pub tracking_number: String,
}

/// What came back
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct OrderReturnedDetail {
    /// The return's id
    #[serde(rename = "return")]
    pub id: Uuid,
    pub units: u32,
    /// Money goes back with it, in a refund of its own
    pub is_refunded: bool,
}

/// An event of a whole drop
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct WebhookDropEvent {
    /// As `webhook-id` has it: the same for every delivery of this event
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened. Events may come out of order: go by this
    pub timestamp: Timestamp,
    pub data: WebhookDropData,
}

/// The drop that an event is about
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct WebhookDropData {
    pub drop: String,
    /// What only this type of event has to say; each type has its own fields here
    #[schema(value_type = Object)]
    pub detail: Value,
}

/// A list that is complete
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct DropSealedDetail {
    /// Entries in the list
    pub count: u32,
    /// Of the tree over the list, in hex: written down before anybody can know the result. Keep it, to compare later
    pub root: String,
    /// The beacon's round that decides; null where the chance comes from somewhere else
    pub beacon_round: Option<u64>,
}

/// A draw
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct DropDrawnDetail {
    pub count: u32,
    /// In hex: everybody's rank follows from it
    pub seed: String,
    pub beacon_round: Option<u64>,
}

/// What a round came to
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct LineRoundDetail {
    /// From 0
    pub round: u32,
    /// The first rank that had its turn in it, from 0
    pub ranks_from: u32,
    /// The first rank behind it
    pub ranks_to: u32,
    /// Buyers who got units
    pub awarded: u32,
    pub units: u32,
    /// Of these ranks and of those who stood by: who was given nothing
    pub passed_over: u32,
}

/// The end of a line
#[derive(Debug, Deserialize, ToSchema)]
#[cfg_attr(test, serde(deny_unknown_fields))]
pub struct LineClosedDetail {
    /// Ranks that have had their turn
    pub served: u32,
    /// What the line has left is sold to who claims first
    pub goes_on_sale: bool,
}

/// What an event says, and the name of the schema of what only it has to say.
fn about(notice: &Notice) -> (&'static str, Option<&'static str>) {
    match notice {
        Notice::OrderCreated => ("A claim was settled, or a cart was ordered", None),
        Notice::PaymentRequired => ("The order waits for a payment method", None),
        Notice::PaymentMethodRequired { .. } => {
            ("The card was declined, and the order waits for another one", Some("PaymentMethodRequiredDetail"))
        }
        Notice::TotalChanged => ("The order costs more than its buyer agreed to, and waits for them to agree", None),
        Notice::PaymentActionRequired => ("The buyer's bank wants them to act", None),
        Notice::OrderConfirmed => ("The order is paid", None),
        Notice::PaymentFailed { .. } => ("The payment failed", Some("PaymentFailedDetail")),
        Notice::OrderCancelled { .. } => ("The order was cancelled", Some("OrderCancelledDetail")),
        Notice::RefundIssued { .. } => ("Money goes back to the buyer", Some("RefundIssuedDetail")),
        Notice::RefundFailed { .. } => ("A refund did not go through, or came back", Some("RefundFailedDetail")),
        Notice::OrderProcessing => ("The order is being packed", None),
        Notice::OrderShipped { .. } => ("The order was handed to its carrier", Some("OrderShippedDetail")),
        Notice::OrderDelivered => ("The order has been delivered", None),
        Notice::OrderReturned { .. } => ("Goods came back", Some("OrderReturnedDetail")),
        Notice::StandbyAwarded => ("A unit that came back is set aside for a buyer who waited", None),
        Notice::LineAwarded => ("A round gave a buyer who stood in line what they wanted", None),
        Notice::ClaimLost => ("A claim was answered and then lost in a failure; its buyer is first in line", None),
        Notice::DropSealed { .. } => (
            "A line's list is complete, and its root is written down before anybody can know the result",
            Some("DropSealedDetail"),
        ),
        Notice::DropDrawn { .. } => ("A line is drawn: everybody's rank is known", Some("DropDrawnDetail")),
        Notice::LineRound { .. } => ("A round of a line is over", Some("LineRoundDetail")),
        Notice::LineClosed { .. } => ("A line is over", Some("LineClosedDetail")),
        Notice::LineJoined { .. } | Notice::LineMerged { .. } | Notice::LineEnded { .. } => {
            ("The buyer alone is told, by mail", None)
        }
    }
}

pub(super) fn all() -> Paths {
    let samples = samples();
    let mut paths = PathsBuilder::new();
    for (position, (notice, _)) in samples.iter().enumerate() {
        let of_type = |other: &&(Notice, Event)| other.0.event_type() == notice.event_type();
        if samples.iter().position(|other| of_type(&other)) != Some(position) {
            continue;
        }
        let events = samples.iter().filter(of_type).map(|(_, event)| event).collect::<Vec<_>>();
        let (summary, detail) = about(notice);
        let operation = OperationBuilder::new()
            .tag("webhooks")
            .operation_id(Some(notice.kind()))
            .summary(Some(summary))
            .parameters(Some(headers()))
            .request_body(Some(body(notice, detail, &events)))
            .security(utoipa::openapi::security::SecurityRequirement::default())
            .response("2XX", Response::new("Taken: this event is not sent again, but for a replay"))
            .response("410", Response::new("No more events for this endpoint, until `doorbuster outbox enable`"))
            .response("default", Response::new("Not taken: it comes again, for three days"));
        paths = paths.path(notice.event_type(), PathItem::new(HttpMethod::Post, operation));
    }
    paths.build()
}

fn headers() -> Vec<Parameter> {
    let header = |name: &str, about: &str, kind, example: Value| {
        let schema = ObjectBuilder::new().schema_type(kind);
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).required(Required::True);
        parameter.description(Some(about)).schema(Some(schema)).example(Some(example)).build()
    };
    vec![
        header("webhook-id", "The event's id: keep those that you have handled", Type::String, event_id().into()),
        header("webhook-timestamp", "When it was sent, in seconds since 1970", Type::Integer, 1_795_773_605.into()),
        header(
            "webhook-signature",
            "`v1,` and the HMAC-SHA256 of id, timestamp and body in base64; one for each secret, with a space between",
            Type::String,
            "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=".into(),
        ),
    ]
}

fn event_id() -> String {
    Notice::OrderConfirmed.event_id(OrderId(ORDER)).to_string()
}

fn body(notice: &Notice, detail: Option<&str>, events: &[&Event]) -> RequestBody {
    let kind = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([notice.event_type()]));
    let mut these = ObjectBuilder::new().property("type", kind);
    if let Some(detail) = detail {
        these = these.property(
            "data",
            ObjectBuilder::new().property("detail", Ref::from_schema_name(detail)).required("detail"),
        );
    }
    let event = if notice.is_of_drop() { "WebhookDropEvent" } else { "WebhookEvent" };
    let schema = AllOfBuilder::new().item(Ref::from_schema_name(event)).item(these).build();
    let examples = events.iter().enumerate().map(|(position, event)| {
        let value = serde_json::from_str(&event.body).expect("an event's body is JSON");
        let example: RefOr<Example> = ExampleBuilder::new().value(Some(value)).build().into();
        (format!("{}_{}", notice.kind(), position + 1), example)
    });
    let content = ContentBuilder::new().schema(Some(Schema::AllOf(schema))).examples_from_iter(examples);
    RequestBodyBuilder::new().content("application/json", content.build()).required(Some(Required::True)).build()
}

/// An event of each kind, as the engine makes it.
fn samples() -> Vec<(Notice, Event)> {
    let euros = |minor| Money::new(minor, "EUR".parse().expect("three capital letters"));
    let item = ItemFacts {
        sku: "shoe-42".to_owned(),
        product: "Doorbuster One".to_owned(),
        variant: "Size 42".to_owned(),
        quantity: 1,
        unit_price: euros(14_900),
    };
    let order = OrderFacts {
        id: OrderId(ORDER),
        buyer: "ada".parse().expect("a buyer's id"),
        drop_name: Some("shoe".to_owned()),
        buyer_name: Some("Ada Lovelace".to_owned()),
        email: Some("ada@example.com".to_owned()),
        items: vec![item],
        totals: Totals { subtotal: euros(14_900), tax: euros(2_924), shipping: euros(490), total: euros(18_314) },
        pay_by: None,
    };
    let at: Timestamp = "2026-11-23T10:00:05Z".parse().expect("a time of RFC 3339");
    let notices = Notice::samples(RefundId(Uuid::from_u128(0x01ab_3f2c_9d41_7c02_9b10_5d8e_7f90_a1b2)), euros(18_314));
    let (order, drop) = (Subject::Order(order), Subject::Drop { id: DropId(1), name: "shoe".to_owned() });
    let event = |notice: Notice| {
        let event = Event::new(if notice.is_of_drop() { &drop } else { &order }, &notice, at);
        (notice, event)
    };
    notices.into_iter().chain(Notice::samples_of_drop()).map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_the_engine_is_what_is_described() {
        fn reads<T: for<'de> Deserialize<'de>>(detail: Option<Value>) -> bool {
            serde_json::from_value::<T>(detail.unwrap_or_default()).is_ok()
        }
        for (notice, event) in samples() {
            let (kind, id, detail) = if notice.is_of_drop() {
                let read =
                    serde_json::from_str::<WebhookDropEvent>(&event.body).unwrap_or_else(|error| panic!("{error}"));
                (read.kind, read.id, Some(read.data.detail))
            } else {
                let read = serde_json::from_str::<WebhookEvent>(&event.body).unwrap_or_else(|error| panic!("{error}"));
                (read.kind, read.id, read.data.detail)
            };
            assert_eq!((kind.as_str(), id.as_str()), (notice.event_type(), event.id.as_str()));
            let is_read = match notice {
                Notice::PaymentFailed { .. } => reads::<PaymentFailedDetail>(detail),
                Notice::PaymentMethodRequired { .. } => reads::<PaymentMethodRequiredDetail>(detail),
                Notice::OrderCancelled { .. } => reads::<OrderCancelledDetail>(detail),
                Notice::RefundIssued { .. } => reads::<RefundIssuedDetail>(detail),
                Notice::RefundFailed { .. } => reads::<RefundFailedDetail>(detail),
                Notice::OrderShipped { .. } => reads::<OrderShippedDetail>(detail),
                Notice::OrderReturned { .. } => reads::<OrderReturnedDetail>(detail),
                Notice::DropSealed { .. } => reads::<DropSealedDetail>(detail),
                Notice::DropDrawn { .. } => reads::<DropDrawnDetail>(detail),
                Notice::LineRound { .. } => reads::<LineRoundDetail>(detail),
                Notice::LineClosed { .. } => reads::<LineClosedDetail>(detail),
                _ => detail.is_none(),
            };
            assert!(is_read, "{}", event.body);
        }
        assert_eq!(all().paths.len(), 21);
    }
}
