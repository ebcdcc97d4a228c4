//! PAYMENT STATE MACHINE: one payment an order, many attempts a payment.
//!
//! ```text
//! REQUIRED --MethodGiven--> IN_FLIGHT --Succeeded--> SUCCEEDED
//!     |                      |  '--Declined--> CANCEL_REQUESTED --CanceledAfterDecline--> FAILED
//!     |                      '--WentDark--> UNKNOWN --(as IN_FLIGHT, once the provider has been asked)
//!     '--Expired--> FAILED      (nothing was ever sent, so nothing can be captured)
//! ACTION_REQUIRED --Expired--> CANCEL_REQUESTED     (the buyer had until the drop's pay_by to act)
//! any of IN_FLIGHT, UNKNOWN, CANCEL_REQUESTED --Contradiction--> MANUAL_REVIEW
//! ```
//!
//! Unknown never becomes failed by age: only the provider's word ends it. A decline gives units back only after the
//! provider has confirmed that the intent is canceled, because until then it could still be captured.

use serde::Serialize;

use super::ids::{IntentId, OrderId};
use super::money::Money;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PaymentState {
    Required,
    InFlight,
    ActionRequired,
    Processing,
    Unknown,
    Succeeded,
    Failed,
    CancelRequested,
    Canceled,
    RefundPending,
    PartiallyRefunded,
    Refunded,
    ManualReview,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentEvent {
    MethodGiven,
    Succeeded,
    Declined,
    /// The provider wants the buyer to act, or works on it itself: wait, the units stay.
    ActionRequired,
    Processing,
    WentDark,
    /// The provider confirmed that this intent can never be captured.
    IntentCanceled,
    Expired,
    /// The provider says something that cannot be true of this order.
    Contradiction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payment that is {from:?} cannot take the event {event:?}")]
pub struct InvalidPaymentTransition {
    pub from: PaymentState,
    pub event: PaymentEvent,
}

impl PaymentState {
    pub const ALL: [Self; 13] = [
        Self::Required,
        Self::InFlight,
        Self::ActionRequired,
        Self::Processing,
        Self::Unknown,
        Self::Succeeded,
        Self::Failed,
        Self::CancelRequested,
        Self::Canceled,
        Self::RefundPending,
        Self::PartiallyRefunded,
        Self::Refunded,
        Self::ManualReview,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "REQUIRED",
            Self::InFlight => "IN_FLIGHT",
            Self::ActionRequired => "ACTION_REQUIRED",
            Self::Processing => "PROCESSING",
            Self::Unknown => "UNKNOWN",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::CancelRequested => "CANCEL_REQUESTED",
            Self::Canceled => "CANCELED",
            Self::RefundPending => "REFUND_PENDING",
            Self::PartiallyRefunded => "PARTIALLY_REFUNDED",
            Self::Refunded => "REFUNDED",
            Self::ManualReview => "MANUAL_REVIEW",
        }
    }

    pub fn apply(self, event: PaymentEvent) -> Result<Self, InvalidPaymentTransition> {
        use PaymentEvent as E;
        match (self, event) {
            (Self::Required, E::MethodGiven) => Ok(Self::InFlight),
            (Self::Required, E::Expired) => Ok(Self::Failed),
            // The buyer did not act in time; the intent must be canceled first, for he still may.
            (Self::ActionRequired, E::Expired) => Ok(Self::CancelRequested),
            // A success counts whatever we thought before, save where the money was already dealt with.
            (
                Self::InFlight | Self::Unknown | Self::ActionRequired | Self::Processing | Self::CancelRequested,
                E::Succeeded,
            ) => Ok(Self::Succeeded),
            (Self::InFlight | Self::Unknown | Self::ActionRequired | Self::Processing, E::Declined) => {
                Ok(Self::CancelRequested)
            }
            (Self::InFlight | Self::Unknown | Self::Processing, E::ActionRequired) => Ok(Self::ActionRequired),
            (Self::InFlight | Self::Unknown | Self::ActionRequired, E::Processing) => Ok(Self::Processing),
            (Self::InFlight | Self::Unknown, E::WentDark) => Ok(Self::Unknown),
            // A cancel whose answer was lost is asked again; it is still a cancel.
            (Self::CancelRequested, E::WentDark) => Ok(Self::CancelRequested),
            (
                Self::CancelRequested | Self::InFlight | Self::Unknown | Self::ActionRequired | Self::Processing,
                E::IntentCanceled,
            ) => Ok(Self::Failed),
            (
                Self::InFlight | Self::Unknown | Self::ActionRequired | Self::Processing | Self::CancelRequested,
                E::Contradiction,
            ) => Ok(Self::ManualReview),
            (from, event) => Err(InvalidPaymentTransition { from, event }),
        }
    }
}

/// What the provider says of one intent, in our words. Whoever brings it (worker, webhook, reconciler) has it settled by
/// the same function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderReport {
    pub intent: IntentId,
    pub amount: Money,
    /// The order named in the intent's metadata.
    pub order: Option<OrderId>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Captured {
        charge: Option<String>,
    },
    Declined {
        code: String,
    },
    ActionRequired,
    Processing,
    /// Can never be captured any more.
    Canceled,
}

/// One call to the provider, append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AttemptState {
    /// Key and bytes are committed; nothing was sent.
    Prepared,
    /// Committed before the socket was written: from here on the provider may have executed it.
    Dispatched,
    Succeeded,
    Declined,
    ActionRequired,
    Processing,
    NotSent,
    Unknown,
    Rejected,
}

impl AttemptState {
    pub const ALL: [Self; 9] = [
        Self::Prepared,
        Self::Dispatched,
        Self::Succeeded,
        Self::Declined,
        Self::ActionRequired,
        Self::Processing,
        Self::NotSent,
        Self::Unknown,
        Self::Rejected,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "PREPARED",
            Self::Dispatched => "DISPATCHED",
            Self::Succeeded => "SUCCEEDED",
            Self::Declined => "DECLINED",
            Self::ActionRequired => "ACTION_REQUIRED",
            Self::Processing => "PROCESSING",
            Self::NotSent => "NOT_SENT",
            Self::Unknown => "UNKNOWN",
            Self::Rejected => "REJECTED",
        }
    }

    /// Open attempts must be brought to an end before another may begin.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Prepared | Self::Dispatched | Self::NotSent | Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_never_undoes_a_success_and_nothing_leaves_a_final_state() {
        use PaymentEvent as E;
        let every = [
            E::MethodGiven,
            E::Succeeded,
            E::Declined,
            E::ActionRequired,
            E::Processing,
            E::WentDark,
            E::IntentCanceled,
            E::Expired,
            E::Contradiction,
        ];
        for state in [PaymentState::Succeeded, PaymentState::Failed, PaymentState::ManualReview] {
            for event in every {
                assert!(state.apply(event).is_err(), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn a_decline_waits_for_the_providers_cancel_and_unknown_for_its_word() {
        let declined = PaymentState::InFlight.apply(PaymentEvent::Declined).unwrap();
        assert_eq!(declined, PaymentState::CancelRequested);
        assert_eq!(declined.apply(PaymentEvent::IntentCanceled), Ok(PaymentState::Failed));
        assert_eq!(declined.apply(PaymentEvent::Succeeded), Ok(PaymentState::Succeeded));
        assert!(PaymentState::Unknown.apply(PaymentEvent::Expired).is_err());
        assert!(PaymentState::InFlight.apply(PaymentEvent::Expired).is_err());
    }
}
