//! An example of every body. What we answer is made of the very types that answer, so it cannot differ from them; what is sent
//! to us is read into its type by a test below. tests/http/described.rs holds both against their schemas.

use doorbuster_engine::domain::cards::CardState;
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::drops::DropState;
use doorbuster_engine::domain::line::state::LineState;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::{PaymentState, RefundState};
use doorbuster_engine::domain::stock::StockWay;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::page::Paged;
use crate::routes::admin::{fulfilment, imports, money_back, orders as operators, products as stocked, stock};
use crate::routes::{
    Amount, carts, checkout, claims, drops, line, me, order_lists, orders, products, profile, setups, standby,
};

/// The body of schema `name`.
pub(super) struct Example {
    pub name: String,
    pub value: Value,
    /// Whether it is what its type takes.
    #[cfg_attr(not(test), expect(dead_code, reason = "asked by the test below"))]
    is_read: fn(&Value) -> Result<(), String>,
}

/// What `POST /v1/products/import` and `POST /v1/stock/import` take.
pub(crate) const PRODUCTS_CSV: &str =
    "product,sku,title,price_minor,currency\nDoorbuster One,one-42,Size 42,14900,EUR\n";
pub(crate) const STOCK_CSV: &str = "sku,warehouse,quantity,reason\none-42,berlin,20,delivery 4711\n";

pub(crate) const ORDER: Uuid = Uuid::from_u128(0x01ab_3f2c_9d40_7e11_8a55_0c2d_4e6f_8091);
const REFUND: Uuid = Uuid::from_u128(0x01ab_3f2c_9d41_7c02_9b10_5d8e_7f90_a1b2);
const RETURN: Uuid = Uuid::from_u128(0x01ab_3f2c_9d42_7d13_8c21_6e9f_80a1_b2c3);
const CURSOR: &str = "WzE3OTU3NzM2MDAsIjAxYWIzZjJjIl0";

pub(super) fn all() -> Vec<Example> {
    let mut all = buyers_requests();
    all.extend(operators_requests());
    all.extend(buyers_answers());
    all.extend(operators_answers());
    all
}

fn buyers_requests() -> Vec<Example> {
    vec![
        sent::<claims::NewClaim>(json!({
            "sku": "shoe-42", "quantity": 1, "country": "DE",
            "accepted_total": { "amount_minor": 18_314, "currency": "EUR" }
        })),
        sent::<orders::NewAgreement>(json!({ "accepted_total": { "amount_minor": 18_564, "currency": "EUR" } })),
        sent::<line::NewPlace>(json!({
            "choices": [
                { "sku": "shoe-42", "accepted_total": { "amount_minor": 18_314, "currency": "EUR" } },
                { "sku": "shoe-43" }
            ],
            "quantity": 1, "country": "DE"
        })),
        sent::<standby::NewStandby>(json!({ "sku": "shoe-42", "quantity": 1 })),
        sent::<carts::NewItem>(json!({ "sku": "mug", "quantity": 2 })),
        sent::<carts::ItemQuantity>(json!({ "quantity": 3 })),
        sent::<profile::Profile>(
            json!({ "payment_method": "pm_card_visa", "email": "ada@example.com", "ship_to": address() }),
        ),
        sent::<checkout::NewCheckout>(
            json!({ "cart_version": 3, "accepted_total": { "amount_minor": 2_870, "currency": "EUR" } }),
        ),
    ]
}

fn operators_requests() -> Vec<Example> {
    let variant = json!({ "sku": "one-42", "title": "Size 42", "price_minor": 14_900, "currency": "EUR" });
    vec![
        sent::<stocked::NewProduct>(json!({ "name": "Doorbuster One", "variants": [variant] })),
        sent::<stocked::NewVariant>(variant),
        sent::<stocked::ProductChange>(
            json!({ "reservation": "warehouses", "variants": [{ "sku": "one-42", "price_minor": 12_900 }] }),
        ),
        sent::<stock::Warehouse>(json!({ "code": "berlin" })),
        sent::<stock::NewStockAdjustment>(
            json!({ "sku": "one-42", "warehouse": "berlin", "delta": -3, "reason": "broken" }),
        ),
        sent::<fulfilment::NewShipment>(json!({ "carrier": "DHL", "tracking_number": "00340434161094015902" })),
        sent::<money_back::NewOrderReturn>(json!({
            "lines": [{ "line": 1, "quantity": 1, "restock": true }], "refund_minor": 14_900, "reason": "too small"
        })),
        sent::<money_back::NewOrderRefund>(json!({ "amount_minor": 500, "reason": "late" })),
        sent::<money_back::NewCancel>(json!({ "reason": "the buyer called" })),
    ]
}

fn buyers_answers() -> Vec<Example> {
    let links = claims::ClaimLinks { claim: format!("/v1/claims/{ORDER}"), order: None };
    let place = standby_place();
    vec![
        answered(claims::ClaimTaken {
            claim_id: ORDER,
            drop: "shoe".to_owned(),
            sku: "shoe-42".to_owned(),
            quantity: 1,
            serials: vec![17],
            acknowledgement: Acknowledgement::Accepted,
            total: Some(euros(18_314)),
            receipt: None,
            links: claims::ClaimLinks { order: Some(format!("/v1/orders/{ORDER}")), ..links.clone() },
        }),
        answered(claims::ClaimPending {
            claim_id: ORDER,
            status: claims::PendingStatus::Pending,
            acknowledgement: Some(Acknowledgement::Accepted),
            receipt: None,
            detail: claims::PENDING,
            links: links.clone(),
        }),
        answered(claims::ClaimFound {
            claim_id: ORDER,
            drop: "shoe".to_owned(),
            sku: "shoe-42".to_owned(),
            quantity: 1,
            serials: vec![17],
            status: claims::ClaimStatus::Accepted,
            links,
        }),
        answered(line_place()),
        answered(line_board()),
        answered(line::Leaves {
            count: 1_234,
            leaves: vec![line::Leaf { index: 621, entry_id: "7e8e089726701a50707b433738a20388".to_owned() }],
        }),
        answered(standby::StandbyPlaces { places: vec![standby_place()] }),
        answered(place),
        answered(drops::DropFound {
            name: "shoe".to_owned(),
            product: "Doorbuster One".to_owned(),
            state: DropState::Open,
            currency: "EUR".to_owned(),
            limit: 1,
            opens_at: Some(at("2026-11-23T10:00:00Z")),
            closes_at: None,
            price_includes_tax: false,
            variants: vec![drops::Variant {
                sku: "shoe-42".to_owned(),
                title: "Size 42".to_owned(),
                price: euros(14_900),
                whole_price: Some(whole_price(14_900, 2_924, 490)),
            }],
        }),
        answered(product_on_sale()),
        page(product_on_sale()),
        answered(carts::GuestSession { cart_session: "kT3vQ9mZ1xW7bR5nL2pY8dFhQ4sV6uX0yA2cE4gI6kM8oQ".to_owned() }),
        answered(cart()),
        answered(carts::CartMergedFound { cart: cart(), clamped: Vec::new(), left_out: Vec::new() }),
        answered(checkout::CheckoutQuote {
            cart_version: 3,
            goods: Some(quoted_order()),
            drop: None,
            total: euros(2_870),
        }),
        answered(checkout::CheckoutMade { total: euros(18_314), order: Some(order()), claim: None }),
        answered(order()),
        page(order()),
        answered(order_lists::OrderHistory { entries: history() }),
        answered(profile::ProfileFound::of(buyer_profile(), Some((CardState::Saved, None)))),
        answered(setups::CardSetup {
            setup_id: "01935a3e-0000-7000-8000-00000000002a".parse().expect("an id"),
            state: setups::CardSetupState::Open,
            url: Some("https://checkout.stripe.com/c/pay/cs_test_a1".to_owned()),
            payment_method: None,
        }),
        answered(me::BuyerExport {
            buyer: "ada".to_owned(),
            checkout_profile: Some(me::ExportedProfile {
                payment_method: Some("pm_card_visa".to_owned()),
                email: "ada@example.com".to_owned(),
                ship_to: address(),
            }),
            cart: None,
            orders: paged(me::OrderExport { order: order(), history: history(), returns: Vec::new() }),
        }),
        answered(me::BuyerErased { orders_made_anonymous: 1, kept_until_archived: vec!["shoe".to_owned()] }),
    ]
}

fn operators_answers() -> Vec<Example> {
    vec![
        answered(crate::routes::admin::OperatorFound { name: "ada".to_owned() }),
        answered(product()),
        page(product()),
        answered(stocked::ProductStock {
            stock: vec![stocked::StockFound {
                sku: "one-42".to_owned(),
                warehouse: Some("berlin".to_owned()),
                drop: None,
                available: 17,
                reserved: 2,
            }],
        }),
        answered(imports::FileImported { created: 1, changed: 0, unchanged: 0, dry_run: false }),
        page(stock::Warehouse { code: "berlin".to_owned() }),
        answered(adjustment()),
        page(adjustment()),
        page(operators_order()),
        answered(order_details()),
    ]
}

fn sent<T: DeserializeOwned + ToSchema>(value: Value) -> Example {
    let is_read = |value: &Value| match serde_json::from_value::<T>(value.clone()) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    Example { name: T::name().into_owned(), value, is_read }
}

fn answered<T: Serialize + ToSchema>(value: T) -> Example {
    let value = serde_json::to_value(value).expect("an answer is made of texts and numbers");
    Example { name: T::name().into_owned(), value, is_read: |_| Ok(()) }
}

fn page<T: Serialize + ToSchema>(item: T) -> Example {
    let Example { value, .. } = answered(paged(item));
    Example { name: format!("Paged_{}", T::name()), value, is_read: |_| Ok(()) }
}

fn paged<T>(item: T) -> Paged<T> {
    Paged { items: vec![item], next_cursor: Some(CURSOR.to_owned()) }
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time of RFC 3339")
}

fn euros(amount_minor: i64) -> Amount {
    Amount { amount_minor, currency: "EUR".to_owned() }
}

fn whole_price(subtotal: i64, tax: i64, shipping: i64) -> drops::WholePrice {
    drops::WholePrice {
        country: "DE".to_owned(),
        subtotal: euros(subtotal),
        tax: euros(tax),
        shipping: euros(shipping),
        total: euros(subtotal + tax + shipping),
    }
}

fn line_place() -> line::LinePlace {
    line::LinePlace {
        drop: "shoe".to_owned(),
        entry_id: "7e8e089726701a50707b433738a20388".to_owned(),
        ticket: "v1.eyJ…".to_owned(),
        status: line::PlaceStatus::Waiting,
        choices: vec![line::PlaceChoice { sku: "shoe-42".to_owned(), accepted_total: Some(euros(18_314)) }],
        quantity: 1,
        country: Some("DE".to_owned()),
        revision: 1,
        joined_at: at("2026-11-23T09:00:07Z"),
        rank: Some(421),
        round: Some(5),
        order_id: None,
    }
}

fn line_board() -> line::LineBoard {
    let hash = "4b1c".repeat(16);
    line::LineBoard {
        state: LineState::Drawn,
        now: at("2026-11-23T10:01:07Z"),
        version: 1_267,
        line_opens_at: at("2026-11-23T09:00:00Z"),
        seal_at: at("2026-11-23T09:57:30Z"),
        opens_at: at("2026-11-23T10:00:00Z"),
        closes_at: Some(at("2026-11-23T12:00:00Z")),
        in_line: 1_234,
        seal: Some(line::BoardSeal {
            count: 1_234,
            rules: hash.clone(),
            root: Some(hash.clone()),
            beacon: Some(34_657_212),
            reveal_at: None,
            seed: Some(hash),
        }),
        rounds: Some(line::BoardRounds {
            over: 3,
            next_at: Some(at("2026-11-23T10:01:30Z")),
            every: 30,
            per_round: 100,
            served: 300,
        }),
        paused: false,
        left: vec!["many", "few"],
        message: None,
        look: [2, 15],
    }
}

fn standby_place() -> standby::StandbyPlace {
    standby::StandbyPlace {
        drop: "shoe".to_owned(),
        sku: "shoe-42".to_owned(),
        quantity: 1,
        status: standby::StandbyStatus::Waiting,
        ahead: Some(4),
        is_first: false,
        order_id: None,
        joined_at: at("2026-11-23T10:00:07Z"),
    }
}

fn product_on_sale() -> products::ProductOnSale {
    let mug = products::VariantOnSale {
        sku: "mug".to_owned(),
        title: "White".to_owned(),
        price: euros(1_000),
        whole_price: Some(whole_price(1_000, 283, 490)),
        in_stock: true,
    };
    products::ProductOnSale { id: 2, name: "Mug".to_owned(), variants: vec![mug] }
}

fn cart() -> carts::CartFound {
    let line = carts::CartFoundLine {
        variant_id: 2,
        quantity: 2,
        price_at_add: euros(1_000),
        status: carts::LineStatus::ForSale,
        sku: Some("mug".to_owned()),
        title: Some("White".to_owned()),
        product: Some("Mug".to_owned()),
        price: Some(euros(1_000)),
        price_changed: false,
    };
    carts::CartFound { version: 3, lines: vec![line], subtotal: Some(euros(2_000)) }
}

fn quoted_order() -> checkout::QuotedOrder {
    let line = checkout::QuotedLine {
        variant_id: 2,
        sku: "mug".to_owned(),
        title: "White".to_owned(),
        quantity: 2,
        unit_price: euros(1_000),
        price_at_add: euros(1_000),
    };
    checkout::QuotedOrder {
        lines: vec![line],
        subtotal: euros(2_000),
        tax: euros(380),
        shipping: euros(490),
        total: euros(2_870),
    }
}

fn buyer_profile() -> profile::Profile {
    profile::Profile {
        payment_method: Some("pm_card_visa".to_owned()),
        email: "ada@example.com".to_owned(),
        ship_to: serde_json::from_value(address()).expect("an address"),
    }
}

fn address() -> Value {
    json!({ "name": "Ada Lovelace", "line1": "Domkloster 4", "city": "Köln", "postal_code": "50667", "country": "DE" })
}

fn items() -> Vec<orders::OrderItem> {
    vec![orders::OrderItem {
        line: 1,
        sku: "shoe-42".to_owned(),
        title: "Doorbuster One, size 42".to_owned(),
        quantity: 1,
        unit_price: euros(14_900),
        serials: vec![17],
        returned: 0,
    }]
}

fn shipment() -> orders::OrderShipment {
    orders::OrderShipment {
        carrier: "DHL".to_owned(),
        tracking_number: "00340434161094015902".to_owned(),
        shipped_at: at("2026-11-24T08:30:00Z"),
    }
}

fn order() -> orders::OrderFound {
    orders::OrderFound {
        order_id: ORDER,
        drop: Some("shoe".to_owned()),
        status: OrderState::Shipped,
        payment: PaymentState::Succeeded,
        items: items(),
        subtotal: euros(14_900),
        tax: euros(2_924),
        shipping: euros(490),
        total: euros(18_314),
        price_includes_tax: false,
        total_to_accept: None,
        ship_to: Some(address()),
        pay_by: None,
        decline: None,
        next_action: None,
        cancel_requested: false,
        refunds: vec![orders::OrderRefund {
            amount: euros(500),
            credit_note: None,
            status: RefundState::Pending,
            created_at: at("2026-11-25T09:00:00Z"),
        }],
        shipment: Some(shipment()),
        created_at: at("2026-11-23T10:00:03Z"),
        updated_at: at("2026-11-25T09:00:00Z"),
        links: orders::OrderLinks {
            order: format!("/v1/orders/{ORDER}"),
            payment: None,
            accept_total: None,
            invoice: Some(format!("/v1/orders/{ORDER}/invoice")),
            cancel: None,
        },
    }
}

fn history() -> Vec<order_lists::OrderStep> {
    let step = |time, status, reason: &str| order_lists::OrderStep { at: at(time), status, reason: reason.to_owned() };
    vec![
        step("2026-11-23T10:00:03Z", OrderState::PendingPayment, "ordered"),
        step("2026-11-23T10:00:05Z", OrderState::Confirmed, "paid"),
    ]
}

fn product() -> stocked::ProductFound {
    let variant = stocked::VariantFound {
        sku: "one-42".to_owned(),
        title: "Size 42".to_owned(),
        price: euros(14_900),
        active: true,
    };
    stocked::ProductFound {
        id: 1,
        name: "Doorbuster One".to_owned(),
        active: true,
        reservation: StockWay::RowLock,
        version: 1,
        variants: vec![variant],
    }
}

fn adjustment() -> stock::StockAdjustment {
    stock::StockAdjustment {
        id: 12,
        sku: "one-42".to_owned(),
        warehouse: "berlin".to_owned(),
        delta: -3,
        reason: "broken".to_owned(),
        actor: "ada".to_owned(),
        available: 17,
        reserved: 2,
        at: at("2026-11-22T16:00:00Z"),
    }
}

fn operators_order() -> operators::OperatorOrder {
    operators::OperatorOrder {
        order_id: ORDER,
        buyer: "ada".to_owned(),
        drop: Some("shoe".to_owned()),
        status: OrderState::Shipped,
        payment: PaymentState::Succeeded,
        items: items(),
        total: euros(18_314),
        shipment: Some(shipment()),
        cancel_requested: false,
        created_at: at("2026-11-23T10:00:03Z"),
        updated_at: at("2026-11-25T09:00:00Z"),
    }
}

fn order_details() -> operators::OperatorOrderDetails {
    let attempt = operators::PaymentAttempt {
        number: 1,
        operation: "create".to_owned(),
        idempotency_key: format!("{ORDER}/create/1"),
        state: "SUCCEEDED".to_owned(),
        detail: None,
        prepared_at: at("2026-11-23T10:00:03Z"),
        dispatched_at: Some(at("2026-11-23T10:00:04Z")),
        finished_at: Some(at("2026-11-23T10:00:05Z")),
    };
    let refund = operators::OperatorRefund {
        refund_id: REFUND,
        amount: euros(500),
        status: RefundState::Pending,
        reason: "late".to_owned(),
        asked_by: "ada".to_owned(),
        failure: None,
        provider_refund_id: None,
        created_at: at("2026-11-25T09:00:00Z"),
        settled_at: None,
    };
    let returned = me::OrderReturnLine { line: 1, quantity: 1, serials: vec![17] };
    operators::OperatorOrderDetails {
        order: operators_order(),
        subtotal: euros(14_900),
        tax: euros(2_924),
        shipping: euros(490),
        accepted_total: None,
        email: Some("ada@example.com".to_owned()),
        ship_to: Some(address()),
        cancel_asked_by: None,
        cancel_reason: None,
        intent_id: Some("pi_3QFakeIntent".to_owned()),
        payment_failure: None,
        history: vec![operators::OperatorStep {
            at: at("2026-11-23T10:00:05Z"),
            from: Some(OrderState::PendingPayment),
            to: OrderState::Confirmed,
            by: "charge".to_owned(),
            reason: "the payment provider has the money".to_owned(),
        }],
        attempts: vec![attempt],
        refunds: vec![refund],
        returns: vec![operators::OperatorReturn {
            return_id: RETURN,
            reason: "too small".to_owned(),
            taken_by: "ada".to_owned(),
            refund_id: Some(REFUND),
            lines: vec![operators::OperatorReturnLine { line: returned, restocked: true }],
            created_at: at("2026-11-25T09:00:00Z"),
        }],
        deliveries: vec![operators::OrderDelivery {
            event: format!("evt_{}_order_confirmed", ORDER.simple()),
            destination: "mail".to_owned(),
            state: "sent".to_owned(),
            attempts: 1,
            last_error: None,
            next_at: None,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import;
    use doorbuster_engine::domain::imports::StockImport;

    #[test]
    fn what_an_example_sends_is_what_its_type_takes() {
        for Example { name, value, is_read } in all() {
            assert_eq!(is_read(&value), Ok(()), "{name}: {value}");
        }
        assert_eq!(import::products(PRODUCTS_CSV).map(|rows| rows.len()), Ok(1));
        assert_eq!(import::stock(STOCK_CSV, StockImport::Add).map(|rows| rows.len()), Ok(1));
    }
}
