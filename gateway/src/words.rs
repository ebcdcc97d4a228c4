//! Words that stand in answers and requests, for the descriptions. The engine lists its own and knows nothing of OpenAPI, so
//! each list has a type here that stands for it: `#[schema(value_type = words::OrderState)]`.

use doorbuster_engine::domain::{claims, drops, line, orders, payments, stock};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! words {
    ($($about:literal $name:ident: $words:expr;)+) => {
        $(
            #[derive(Debug)]
            pub struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let words = ObjectBuilder::new().schema_type(Type::String).description(Some($about));
                    words.enum_values(Some($words)).into()
                }
            }

            impl ToSchema for $name {}
        )+
    };
}

words! {
    "How far an order has got"
        OrderState: orders::OrderState::ALL.map(orders::OrderState::as_str);
    "How far the payment of an order has got"
        PaymentState: payments::PaymentState::ALL.map(payments::PaymentState::as_str);
    "How far a refund has got: `PENDING` is on its way, and banks take days"
        RefundState: payments::RefundState::ALL.map(payments::RefundState::as_str);
    "How far a call to the payment provider has got"
        AttemptState: payments::AttemptState::ALL.map(payments::AttemptState::as_str);
    "What a call to the payment provider is for"
        AttemptOperation: ["create", "confirm", "cancel", "refund"];
    "How far a drop has got"
        DropState: drops::DropState::ALL.map(drops::DropState::as_str);
    "How far a line has got: who joins while it is `open` is in the list; behind `sealed` they stand behind it; with `drawn` \
    every rank is known"
        LineState: line::state::LineState::ALL.map(line::state::LineState::word);
    "How safe a claim is: `accepted` is on Redis' disk, `replicated` on those of its replicas too, `settled` is an order in Postgres"
        Acknowledgement: claims::Acknowledgement::ALL.map(claims::Acknowledgement::as_str);
    "How units are taken at checkout; `tokens` is for what only drops sell"
        StockWay: stock::StockWay::ALL.map(stock::StockWay::as_str);
    "How far a mail or webhook has got: `skipped` had no address, `dead` was given up"
        DeliveryState: ["queued", "sent", "refused", "skipped", "dead"];
}
