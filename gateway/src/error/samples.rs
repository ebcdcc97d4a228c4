//! One problem of every kind: what /docs and docs/API.md list, and what tests hold answers against.

use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::PaymentState;
use uuid::Uuid;

use super::{FieldProblem, LineProblem, Problem};
use crate::routes::Amount;

/// A list of problems that does not compile while a kind is missing.
macro_rules! every_problem {
    ($($kind:ident $(($of:expr))? $({ $($field:ident: $value:expr),+ })?),+ $(,)?) => {{
        let _ = |problem: &Problem| match problem {
            $(Problem::$kind { .. } => ()),+
        };
        vec![$(Problem::$kind $(($of))? $({ $($field: $value),+ })?),+]
    }};
}

impl Problem {
    /// One of every kind, in the order of their declaration. What they carry is made up.
    pub fn samples() -> Vec<Self> {
        let currency = "EUR".parse().expect("three capital letters");
        let total = || Amount { amount_minor: 14_900, currency: "EUR".to_owned() };
        let line = |code| vec![LineProblem::new(1, code)];
        let orders = || vec![Uuid::nil()];
        every_problem![
            NotFound,
            MethodNotAllowed,
            TokenMissing,
            TokenInvalid,
            IdempotencyKeyMissing,
            IdempotencyKeyInvalid,
            UnsupportedMediaType { wanted: "application/json" },
            BodyTooLarge { limit_bytes: 4096 },
            BodyTooSlow,
            MalformedJson,
            Invalid(vec![FieldProblem::new("quantity", "must be 1 to 100")]),
            PreconditionRequired,
            PreconditionFailed,
            OperatorsOff,
            ProductNotFound,
            SkuTaken { sku: "shoe-42".to_owned() },
            SkuNotFound,
            WarehouseNotFound,
            StockOfDrop { drop: "shoe".to_owned() },
            BelowReserved { available: 10, reserved: 7 },
            ImportRefused(vec![FieldProblem::new("line 7, sku", "there is no SKU shoe-42")]),
            DropNotFound,
            VariantNotFound,
            NotForSale,
            CartSessionInvalid,
            CartLineNotFound,
            CartFull { limit: 50 },
            QuantityLimit { limit: 999 },
            CartEmpty,
            CartChanged,
            CartOrdered { orders: orders() },
            LinesRefused(line("not_for_sale")),
            PriceChanged { lines: line("price_changed"), total: total() },
            OutOfStock(line("out_of_stock")),
            NotServed,
            NotChargeable,
            ClaimNotFound,
            OrderNotFound,
            ProfileNotFound,
            DeliveryRefused,
            WebhooksOff,
            SoldOut,
            NotEnough { available: 1 },
            LimitExceeded { held: 2, limit: 2 },
            NotOpen,
            Closed,
            KeyReused,
            ClaimReleased,
            ClaimRejected,
            AlreadyInLine,
            LineFull,
            UnitsOnTheirWay,
            ClaimNotLost,
            PaymentNotRequired,
            NotCancellable,
            ProfileMissing,
            WrongOrderState { state: OrderState::Confirmed },
            CancelRequested,
            PaymentNotSettled { payment: PaymentState::InFlight },
            ShippedOtherwise { carrier: "DHL".to_owned(), number: "00340434161094015902".to_owned() },
            ReturnExceedsOrder { line: 1, left: 1 },
            UnitNotOut { line: 1, serial: 7 },
            RefundExceedsPayment { left: Money::new(14_900, currency) },
            NotPaid,
            OrdersOpen { orders: orders() },
            Overloaded,
            WarehouseRebuilding,
            UnitsMoving,
            Unavailable,
            TimedOut,
            Internal,
        ]
    }
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
}
