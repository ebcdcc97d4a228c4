//! ORDER STATE MACHINE.
//!
//! ```text
//! PENDING_PAYMENT --Paid--> CONFIRMED --Process--> PROCESSING --Ship--> SHIPPED --Deliver--> DELIVERED
//!        |--PaymentFailed--> PAYMENT_FAILED
//!        '--Cancel--> CANCELLED <--Cancel-- CONFIRMED | PROCESSING      (before shipment only)
//! ```
//!
//! An order stays PENDING_PAYMENT while its payment is unknown.

use std::str::FromStr;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OrderState {
    PendingPayment,
    Confirmed,
    Processing,
    Shipped,
    Delivered,
    PaymentFailed,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderEvent {
    Paid,
    PaymentFailed,
    Cancel,
    Process,
    Ship,
    Deliver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an order that is {from:?} cannot take the event {event:?}")]
pub struct InvalidOrderTransition {
    pub from: OrderState,
    pub event: OrderEvent,
}

/// A text that is not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state of an order: {names}", names = OrderState::ALL.map(OrderState::as_str).join(", "))]
pub struct NotAnOrderState(pub String);

impl FromStr for OrderState {
    type Err = NotAnOrderState;

    fn from_str(text: &str) -> Result<Self, NotAnOrderState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| NotAnOrderState(text.to_owned()))
    }
}

impl OrderState {
    pub const ALL: [Self; 7] = [
        Self::PendingPayment,
        Self::Confirmed,
        Self::Processing,
        Self::Shipped,
        Self::Delivered,
        Self::PaymentFailed,
        Self::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::PendingPayment => "PENDING_PAYMENT",
            Self::Confirmed => "CONFIRMED",
            Self::Processing => "PROCESSING",
            Self::Shipped => "SHIPPED",
            Self::Delivered => "DELIVERED",
            Self::PaymentFailed => "PAYMENT_FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Nothing will happen to it any more, but for what comes back of it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Delivered | Self::PaymentFailed | Self::Cancelled)
    }

    /// On its way to the buyer, or there: what a return is made from.
    pub fn has_shipped(self) -> bool {
        matches!(self, Self::Shipped | Self::Delivered)
    }

    /// A live order holds its units.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::PaymentFailed | Self::Cancelled)
    }

    /// Paid and not given back: what is counted as sold.
    pub fn is_sold(self) -> bool {
        matches!(self, Self::Confirmed | Self::Processing | Self::Shipped | Self::Delivered)
    }

    pub fn apply(self, event: OrderEvent) -> Result<Self, InvalidOrderTransition> {
        use OrderEvent as E;
        match (self, event) {
            (Self::PendingPayment, E::Paid) => Ok(Self::Confirmed),
            (Self::PendingPayment, E::PaymentFailed) => Ok(Self::PaymentFailed),
            (Self::PendingPayment | Self::Confirmed | Self::Processing, E::Cancel) => Ok(Self::Cancelled),
            (Self::Confirmed, E::Process) => Ok(Self::Processing),
            (Self::Processing, E::Ship) => Ok(Self::Shipped),
            (Self::Shipped, E::Deliver) => Ok(Self::Delivered),
            (from, event) => Err(InvalidOrderTransition { from, event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transition_is_in_the_table_and_no_other() {
        use OrderEvent as E;
        use OrderState as S;
        let table = [
            (S::PendingPayment, E::Paid, S::Confirmed),
            (S::PendingPayment, E::PaymentFailed, S::PaymentFailed),
            (S::PendingPayment, E::Cancel, S::Cancelled),
            (S::Confirmed, E::Cancel, S::Cancelled),
            (S::Confirmed, E::Process, S::Processing),
            (S::Processing, E::Cancel, S::Cancelled),
            (S::Processing, E::Ship, S::Shipped),
            (S::Shipped, E::Deliver, S::Delivered),
        ];
        for from in S::ALL {
            for event in [E::Paid, E::PaymentFailed, E::Cancel, E::Process, E::Ship, E::Deliver] {
                let expected = table.iter().find(|row| row.0 == from && row.1 == event).map(|row| row.2);
                assert_eq!(from.apply(event).ok(), expected, "{from:?} {event:?}");
            }
        }
    }
}
