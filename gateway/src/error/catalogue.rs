//! Every problem, once: what it carries, its status, code, title and detail, and the example of it that the descriptions show.
//!
//! A row is `Kind { field: type = example } = STATUS "code", "title", "detail"`. The detail may name the fields; `where` gives
//! it more to name, and `tells` lists the fields that the answer carries as members of their own, under the same name.
//! The row is all that a new problem needs. Its route names it as `kinds::Kind`.

use std::borrow::Cow;

use axum::http::StatusCode;
use doorbuster_engine::domain::countries::Country;
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::PaymentState;
use uuid::Uuid;

use super::sets::Problems;
use super::{FieldProblem, LineCode, LineProblem, Member as _, ProblemBody};
use crate::routes::Amount;

macro_rules! catalogue {
    ($(
        $kind:ident
        $({ $($field:ident: $type:ty = $example:expr),+ })?
        $(($inner:ident: $of:ty = $inner_example:expr))?
        = $status:ident $code:literal, $title:literal, $detail:literal
        $(, where ($($name:ident = $value:expr),+))?
        $(, tells ($($member:ident)+))?;
    )+) => {
        /// One reason why a request was not done.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Problem {
            $($kind $({ $($field: $type),+ })? $(($of))?),+
        }

        /// The name of each problem as a type, for the routes to say which are theirs.
        pub mod kinds {
            $(pub struct $kind;)+
        }

        $(impl Problems for kinds::$kind {
            fn problems() -> Vec<Problem> {
                vec![Problem::$kind $({ $($field: $example),+ })? $(($inner_example))?]
            }
        })+

        impl Problem {
            /// One of every kind, in the order of their declaration. What they carry is made up.
            pub fn samples() -> Vec<Self> {
                let mut samples = Vec::new();
                $(samples.extend(kinds::$kind::problems());)+
                samples
            }

            pub(super) fn status_code(&self) -> StatusCode {
                match self {
                    $(Self::$kind { .. } => StatusCode::$status),+
                }
            }

            /// For metrics and programs.
            pub fn code(&self) -> &'static str {
                match self {
                    $(Self::$kind { .. } => $code),+
                }
            }

            pub fn title(&self) -> &'static str {
                match self {
                    $(Self::$kind { .. } => $title),+
                }
            }

            pub fn detail(&self) -> Cow<'static, str> {
                match self {
                    $(Self::$kind $({ $($field),+ })? $(($inner))? => {
                        // A detail need not name every field.
                        $($(let _ = $field;)+)?
                        $(let _ = $inner;)?
                        $($(let $name = $value;)+)?
                        sentence!($detail $($(, $field)+)? $(, $inner)?)
                    }),+
                }
            }

            /// Puts what this problem carries into its answer.
            pub(super) fn tell(self, body: &mut ProblemBody) {
                match self {
                    $(Self::$kind $({ $($field),+ })? $(($inner))? => {
                        $($(let _ = &$field;)+)?
                        $(let _ = &$inner;)?
                        $($(body.$member = $member.member();)+)?
                    }),+
                }
            }
        }
    };
}

/// A detail without fields is a text as it stands; braces mean something only beside fields.
macro_rules! sentence {
    ($detail:literal) => {
        Cow::Borrowed($detail)
    };
    ($detail:literal $(, $field:ident)+) => {
        Cow::Owned(format!($detail))
    };
}

fn field(field: &str, detail: &str) -> Vec<FieldProblem> {
    vec![FieldProblem::new(field, detail)]
}

fn orders() -> Vec<Uuid> {
    vec![Uuid::from_u128(0x0192_f3a4_7c5b_7d6e_8f90_a1b2_c3d4_e5f6)]
}

fn line(code: LineCode) -> Vec<LineProblem> {
    vec![LineProblem::new(1, code)]
}

fn repriced() -> Vec<LineProblem> {
    let prices = (Some(euros(12_900)), Some(euros(14_900)));
    vec![LineProblem { old_price: prices.0, price: prices.1, ..LineProblem::new(1, LineCode::PriceChanged) }]
}

fn short() -> Vec<LineProblem> {
    vec![LineProblem { available: Some(1), ..LineProblem::new(1, LineCode::OutOfStock) }]
}

fn germany() -> Country {
    "DE".parse().expect("a country of the list")
}

fn euros(amount_minor: i64) -> Amount {
    euro_money(amount_minor).into()
}

fn euro_money(amount_minor: i64) -> Money {
    Money::new(amount_minor, "EUR".parse().expect("three capital letters"))
}

catalogue! {
    // The request itself.
    NotFound = NOT_FOUND "not_found", "There is nothing here",
        "See /docs or /openapi.json for what there is.";
    MethodNotAllowed = METHOD_NOT_ALLOWED "method_not_allowed", "This cannot be done here",
        "The header Allow says what can be done.";
    TokenMissing = UNAUTHORIZED "token_missing", "A bearer token is required",
        "Send the header Authorization: Bearer <token>.";
    TokenInvalid = UNAUTHORIZED "token_invalid", "The bearer token is not valid",
        "It has expired, or was not issued for this service: get a new one.";
    IdempotencyKeyMissing = BAD_REQUEST "idempotency_key_missing", "The header Idempotency-Key is required",
        "Make one up for each purchase or change, and send the same one when you try again.";
    IdempotencyKeyInvalid = BAD_REQUEST "idempotency_key_invalid", "The header Idempotency-Key cannot be used",
        "Send exactly one, of 1 to 255 visible ASCII characters.";
    UnsupportedMediaType { wanted: &'static str = "application/json" } = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type",
        "The body has another media type",
        "Send Content-Type: {wanted}.";
    EncodedBody = UNSUPPORTED_MEDIA_TYPE "unsupported_encoding", "The body is compressed",
        "Send it as it is, without Content-Encoding.";
    BodyTooLarge { limit_bytes: usize = 4096 } = PAYLOAD_TOO_LARGE "body_too_large", "The body is too large",
        "At most {limit_bytes} bytes are read.";
    BodyTooSlow = REQUEST_TIMEOUT "body_too_slow", "The body did not arrive in time",
        "Send the whole body at once.";
    MalformedJson = BAD_REQUEST "malformed_json", "The body is not JSON",
        "The body cannot be parsed.";
    Invalid(errors: Vec<FieldProblem> = field("quantity", "must be 1 to 100")) = UNPROCESSABLE_ENTITY "invalid_request",
        "The request does not fit",
        "See errors for the fields that do not fit.",
        tells (errors);
    PreconditionRequired = PRECONDITION_REQUIRED "precondition_required", "The header If-Match is required",
        "Send the ETag of what you have seen, so that no other change is lost.";
    PreconditionFailed = PRECONDITION_FAILED "precondition_failed", "It has changed since you saw it",
        "GET it again, look at what changed, and send the new ETag in If-Match.";

    // The operators, and what they ask for.
    OperatorsOff = FORBIDDEN "operators_off", "The operators' API is not configured here",
        "Start `doorbuster serve` with DOORBUSTER_OPERATOR_TOKENS=name=secret, at least 32 characters each.";
    ProductNotFound = NOT_FOUND "product_not_found", "There is no such product",
        "GET /v1/products lists what there is.";
    SkuTaken { sku: String = "shoe-42".to_owned() } = CONFLICT "sku_taken", "The SKU names another variant",
        "{sku} names a variant for ever, also one that is not sold any more.";
    SkuNotFound = NOT_FOUND "sku_not_found", "There is no such SKU",
        "Make its product with POST /v1/products, or check the SKU.";
    WarehouseNotFound = NOT_FOUND "warehouse_not_found", "There is no such warehouse",
        "Make it with POST /v1/warehouses, or check its code.";
    StockOfDrop { drop: String = "shoe".to_owned() } = CONFLICT "stock_of_drop", "This is the stock of a drop",
        "{drop} is a drop: its stock is changed by `doorbuster drop restock {drop}` alone.";
    BelowReserved { available: i64 = 10, reserved: i64 = 7 } = CONFLICT "below_reserved", "Unpaid orders hold these units",
        "{available} units are there and {reserved} of them reserved: at most {free} can go.",
        where (free = available - reserved), tells (available reserved);
    ImportRefused(errors: Vec<FieldProblem> = field("line 7, sku", "there is no SKU shoe-42")) =
        UNPROCESSABLE_ENTITY "import_refused", "Some lines of the file do not fit",
        "Nothing was changed: errors names lines and columns; mend them and send all of it again.",
        tells (errors);

    // What a request is about: not there, or not this buyer's, which nobody can tell apart.
    DropNotFound = NOT_FOUND "drop_not_found", "There is no such drop",
        "Check the drop's name.";
    VariantNotFound = NOT_FOUND "variant_not_found", "There is no such variant",
        "Name one that GET /v1/drops/{drop} or GET /v1/products lists.";
    NotForSale = CONFLICT "not_for_sale", "The variant is not for sale",
        "It may be again later; it cannot be put into a cart now.";
    CartSessionInvalid = BAD_REQUEST "cart_session_invalid", "The header Cart-Session cannot be used",
        "Send exactly one, as POST /v1/carts/guest has given it.";
    CartLineNotFound = NOT_FOUND "cart_line_not_found", "The cart has no such line",
        "GET /v1/cart lists the variants that are in it.";
    CartFull { limit: u32 = 50 } = CONFLICT "cart_full", "The cart has no place for another line",
        "It has {limit} lines: take one out first.",
        tells (limit);
    QuantityLimit { limit: u32 = 999 } = CONFLICT "quantity_limit", "A line cannot have so many units",
        "A line has at most {limit} units.",
        tells (limit);

    // A checkout, and why nothing was sold.
    CartEmpty = CONFLICT "cart_empty", "There is nothing in the cart",
        "Put something in with POST /v1/cart/items.";
    CartChanged = CONFLICT "cart_changed", "The cart is not the one that was seen",
        "GET /v1/cart, look at it, and send its version.";
    CartOrdered { orders: Vec<Uuid> = orders() } = CONFLICT "cart_ordered", "This cart was ordered before",
        "Nothing was ordered a second time: see orders for what it has become.",
        tells (orders);
    LinesRefused(lines: Vec<LineProblem> = line(LineCode::NotForSale)) = CONFLICT "lines_refused",
        "Some lines cannot be ordered",
        "Nothing was ordered: take the lines out, or change them.",
        tells (lines);
    PriceChanged { lines: Vec<LineProblem> = repriced(), total: Amount = euros(14_900) } = CONFLICT "price_changed",
        "The price is not the one that was shown",
        "Nothing was ordered or charged. If the buyer agrees, send the request again with this total as \
            accepted_total.",
        tells (lines total);
    OutOfStock(lines: Vec<LineProblem> = short()) = CONFLICT "out_of_stock", "Fewer units are left",
        "Nothing was reserved: lines says what can be had of each.",
        tells (lines);
    TooManyOpen { limit: u32 = 10 } = CONFLICT "too_many_open", "Too many orders are not paid yet",
        "A buyer may have {limit} unpaid orders: let one be paid, or end one with POST /v1/orders/{{order}}/cancel.",
        tells (limit);
    TooManyUnitsOpen { limit: u32 = 100 } = CONFLICT "too_many_units_open", "Too many units are not paid yet",
        "A buyer may have {limit} units in unpaid orders: order fewer at a time, let an order be paid, or end one with \
            POST /v1/orders/{{order}}/cancel.",
        tells (limit);
    NotServed = CONFLICT "region_not_served", "Nothing is sent there in this currency",
        "Change the country in PUT /v1/me/checkout-profile, or what is in the cart.";
    NotChargeable { why: String = "0.10 EUR is less than 0.50 EUR, the least that the payment provider charges".to_owned() } =
        CONFLICT "not_chargeable", "This amount cannot be charged",
        "{why}: order more or less of it.";
    CountryNotServed { country: Country = germany(), served: String = "FR, IT".to_owned() } =
        CONFLICT "country_not_served", "Nothing of this drop is sent there",
        "It is not sent to {country}; it is sent to {served}.";
    ClaimNotFound = NOT_FOUND "claim_not_found", "There is no such claim",
        "Check the id, and whose token you sent.";
    OrderNotFound = NOT_FOUND "order_not_found", "There is no such order",
        "Check the id, and whose token you sent.";
    DocumentNotFound = NOT_FOUND "document_not_found", "There is no such document",
        "An invoice is there once its order is paid, a credit note once its refund has arrived.";
    ProfileNotFound = NOT_FOUND "profile_not_found", "There is no checkout profile yet",
        "Save one with PUT /v1/me/checkout-profile.";
    CardNeededAgain { why: &'static str = "This one is somebody else's" } = UNPROCESSABLE_ENTITY "card_needed_again",
        "The card has to be given again",
        "{why}: let the provider's script in the buyer's browser make a new one of their card, and send that. Nothing was saved.";
    SetupNotFound = NOT_FOUND "setup_not_found", "There is no such page",
        "Check the id, and whose token you sent; only the newest pages of a buyer are kept.";
    SetupsOff = SERVICE_UNAVAILABLE "setups_off", "The shop has no page to come back to",
        "Cards are saved with PUT /v1/me/checkout-profile here: --return-url is not set.";

    // The payment provider.
    DeliveryRefused = BAD_REQUEST "delivery_refused", "The delivery is refused",
        "It is not what the payment provider sends.";
    WebhooksOff = SERVICE_UNAVAILABLE "webhooks_off", "Webhooks are not configured here",
        "Nothing was taken: send it again later.";

    // How a claim ended, when it took nothing.
    SoldOut = CONFLICT "sold_out", "Sold out",
        "No unit is left. Wait in line for one that comes back with POST /v1/drops/{drop}/standby.";
    NotEnough { available: u32 = 1 } = CONFLICT "not_enough", "Fewer units are left",
        "Only {available} can be had: ask for fewer.",
        tells (available);
    LimitExceeded { held: u32 = 2, limit: u32 = 2 } = CONFLICT "limit_exceeded", "The limit per buyer is reached",
        "You hold {held} of at most {limit} units per buyer.",
        tells (held limit);
    NotOpen = CONFLICT "not_open", "The drop is not open yet",
        "GET /v1/drops/{drop} says when it opens.";
    LineOnly = CONFLICT "line_only", "The drop has a line",
        "Nobody claims its units: join with POST /v1/drops/{drop}/line, and a round gives you yours.";
    TooManyReleased = CONFLICT "too_many_released", "Too many claims of this drop came to nothing",
        "Units that you do not pay for, or give back, are kept from others: you get no more of this drop.";
    Paused = CONFLICT "paused", "The drop is paused",
        "It goes on later: try again after Retry-After. What you have claimed stays yours.";
    Closed = GONE "closed", "The drop is closed",
        "No new claims are taken. What you have claimed stays yours.";
    KeyReused = UNPROCESSABLE_ENTITY "key_reused", "The Idempotency-Key was used for another request",
        "It stood for another request before: use a new key for a new one.";
    ClaimReleased = CONFLICT "claim_released", "The claim's units have been given back",
        "It was not paid in time, or was cancelled. To try again use a new key.";
    ClaimRejected = CONFLICT "claim_rejected", "The claim could not become an order",
        "Its units had gone to somebody else, after a failure of ours; nothing was charged. Use a new key.";

    // Standby.
    AlreadyInLine = CONFLICT "already_in_line", "The buyer waits in this line already",
        "GET /v1/drops/{drop}/standby says where; to change the quantity leave the line first.";
    OnSale = CONFLICT "on_sale", "The units are on sale",
        "Claim them with POST /v1/drops/{drop}/claims instead of waiting.";
    LineFull = CONFLICT "line_full", "Too many are waiting",
        "No further place is given: so many units will not come.";
    UnitsOnTheirWay = CONFLICT "units_on_their_way", "Units are on their way to the buyer",
        "They become an order within seconds: cancel that.";
    ClaimNotLost = CONFLICT "claim_not_lost", "The receipt's claim is not lost",
        "GET /v1/claims/{id} says what became of it. Without the receipt you join at the end.";

    // The line of a drop.
    NoLine = NOT_FOUND "no_line", "The drop has no line",
        "Claim its units with POST /v1/drops/{drop}/claims.";
    PlaceNotFound = NOT_FOUND "place_not_found", "The buyer has no place in this line",
        "Join with POST /v1/drops/{drop}/line.";
    NotDrawn = CONFLICT "not_drawn", "The line is not drawn yet",
        "GET /v1/drops/{drop}/line says how far it is. Once everybody's rank is known there is a bundle.";
    BundleTooLong = CONFLICT "bundle_too_long", "The line is too long for its bundle to be sent from here",
        "Ask the shop for the file: `doorbuster draw bundle` writes it.";
    LineLeft = CONFLICT "line_left", "The place of this key was left",
        "To join again, behind everybody, use a new Idempotency-Key.";
    DrawSealed = CONFLICT "draw_sealed", "The draw is sealed, and whoever has left it cannot come back",
        "Everybody who entered has one rank in it, and no second one.";
    LeftTooOften = CONFLICT "left_too_often", "The buyer has left and joined too often",
        "A buyer has at most five places in one line, one after the other.";
    LineSealed = CONFLICT "line_sealed", "The list is sealed",
        "What you want is part of the sealed list and stays as it is. You can still leave.";
    AlreadyAwarded = CONFLICT "already_awarded", "Units are yours already",
        "There is an order: GET …/line/me names it, and you can cancel it.";
    EntryMerged = CONFLICT "entry_merged", "Another place with the same card stands for this one",
        "One card has one place in a line: look at that.";

    // Payments.
    PaymentNotRequired = CONFLICT "payment_not_required", "The order needs no payment method",
        "Its payment is under way, done or over: GET the order to see which.";
    TotalNotAccepted { total: Amount = euros(18_564) } = CONFLICT "total_not_accepted",
        "The order costs more than was agreed to",
        "Nothing is charged. If the buyer agrees, send this total to POST /v1/orders/{{id}}/accept-total.",
        tells (total);
    AcceptanceNotRequired = CONFLICT "acceptance_not_required", "The order's total needs no agreement",
        "It costs no more than was agreed to, or has gone on: GET the order to see how it stands.";
    NotCancellable = CONFLICT "not_cancellable", "The order cannot be cancelled any more",
        "It has shipped, has ended otherwise, or is being looked at by a person: GET the order to see which.";
    ProfileMissing = CONFLICT "checkout_profile_missing", "There is no checkout profile yet",
        "Save one with PUT /v1/me/checkout-profile, then ask again.";
    CardMissing = CONFLICT "checkout_card_missing", "There is no card in the checkout profile",
        "Save the profile with a payment_method, or add a card with POST \
            /v1/me/checkout-profile/setup, then ask again.";

    // Orders on their way, and back.
    WrongOrderState { state: OrderState = OrderState::Confirmed } = CONFLICT "wrong_order_state",
        "The order's state does not allow this",
        "It is {name}: an order is processed, then shipped, then delivered, and comes back after that.",
        where (name = state.as_str());
    CancelRequested = CONFLICT "cancel_requested", "The order is being cancelled",
        "It ends with the word of the payment provider: GET it again in a while.";
    PaymentNotSettled { payment: PaymentState = PaymentState::InFlight } = CONFLICT "payment_not_settled",
        "The order's money is not there, or on its way back",
        "Its payment is {name}: the goods stay here until a refund has ended in part.",
        where (name = payment.as_str());
    ShippedOtherwise { carrier: String = "DHL".to_owned(), number: String = "00340434161094015902".to_owned() } =
        CONFLICT "shipped_otherwise", "The order was shipped with another carrier or number",
        "It went with {carrier} under the number {number}; that is not changed any more.";
    ReturnExceedsOrder { line: u32 = 1, left: u32 = 1 } = CONFLICT "return_exceeds_order",
        "Fewer units are out than would come back",
        "Of line {line} at most {left} can come back.";
    UnitNotOut { line: u32 = 1, serial: u32 = 7 } = CONFLICT "unit_not_out", "This unit is not out",
        "Unit {serial} is not one of line {line}, or has come back before.";
    RefundExceedsPayment { left: Money = euro_money(14_900) } = CONFLICT "refund_exceeds_payment",
        "Less is left of what was paid",
        "At most {left} can go back.";
    NotPaid = CONFLICT "not_paid", "The order has not been paid",
        "There is nothing to give back: cancel it instead.";
    OrdersOpen { orders: Vec<Uuid> = orders() } = CONFLICT "orders_open", "Some orders are still open",
        "Nothing was erased: wait until they are delivered and refunds have arrived, or cancel them, then ask again.",
        tells (orders);

    // Ourselves: nothing was decided, the same request may be made again.
    Overloaded = SERVICE_UNAVAILABLE "overloaded", "Too many are asking at once",
        "Nothing was taken, and it does not mean sold out: send the same request again.";
    WarehouseRebuilding = SERVICE_UNAVAILABLE "warehouse_rebuilding", "Stock is being brought back",
        "Nothing was taken, and it does not mean sold out: send the same request again.";
    UnitsMoving = SERVICE_UNAVAILABLE "units_moving", "The last units are being moved",
        "Nothing was taken, and it does not mean sold out: send the same request again.";
    Unavailable = SERVICE_UNAVAILABLE "unavailable", "This cannot be answered just now",
        "Send the same request again; if it was done, you get its answer.";
    TimedOut = SERVICE_UNAVAILABLE "timed_out", "This took too long",
        "Send the same request again; if it was done, you get its answer.";
    Internal = INTERNAL_SERVER_ERROR "internal", "This is our fault",
        "Send the same request again; if it was done, you get its answer.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_one_word_of_its_own() {
        let samples = Problem::samples();
        let codes = samples.iter().map(Problem::code).collect::<BTreeSet<_>>();
        assert_eq!(codes.len(), samples.len());
        assert!(codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        assert!(samples.iter().all(|problem| !problem.detail().is_empty() && problem.status() >= 400));
    }

    #[test]
    fn a_detail_names_what_the_problem_carries() {
        for (problem, detail) in [
            (
                Problem::BelowReserved { available: 10, reserved: 7 },
                "10 units are there and 7 of them reserved: at most 3 can go.",
            ),
            (Problem::RefundExceedsPayment { left: euro_money(500) }, "At most 5.00 EUR can go back."),
            (Problem::NotOpen, "GET /v1/drops/{drop} says when it opens."),
        ] {
            assert_eq!(problem.detail(), detail);
        }
    }
}
