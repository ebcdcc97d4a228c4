//! PAYMENT STATE MACHINE: one payment an order, many attempts a payment.
//!
//! ```text
//! REQUIRED --MethodGiven--> IN_FLIGHT --Succeeded--> SUCCEEDED
//!     |                      |  |'--MethodNeeded--> METHOD_REQUIRED --MethodGiven--> IN_FLIGHT    (declined; another card may come)
//!     |                      |  |                   METHOD_REQUIRED --Expired, Cancel--> CANCEL_REQUESTED
//!     |                      |  '--Declined--> CANCEL_REQUESTED --IntentCanceled--> FAILED        (declined for good)
//!     |                      '--WentDark--> UNKNOWN --(as IN_FLIGHT, once the provider has been asked)
//!     |--NothingToPay--> SUCCEEDED                                          (the order costs nothing: no call is made)
//!     '--Expired--> FAILED      (nothing was ever sent, so nothing can be captured)
//! ACTION_REQUIRED --Expired--> CANCEL_REQUESTED     (the buyer had minutes to act, or until pay_by)
//! any of IN_FLIGHT, UNKNOWN, CANCEL_REQUESTED --Contradiction--> MANUAL_REVIEW
//!
//! The order is cancelled before it ships:
//! REQUIRED, IN_FLIGHT, UNKNOWN --CancelUnsent--> CANCELED                (no confirm was ever dispatched)
//! IN_FLIGHT, UNKNOWN, ACTION_REQUIRED, PROCESSING --Cancel--> CANCEL_REQUESTED --CancelConfirmed--> CANCELED
//! SUCCEEDED --CancelFree--> CANCELED                                     (the order costs nothing: nothing goes back)
//!
//! Money goes back:
//! SUCCEEDED, PARTIALLY_REFUNDED --RefundAsked--> REFUND_PENDING --(refunds settled)--> PARTIALLY_REFUNDED | REFUNDED
//! FAILED, CANCELED --LateMoney--> REFUND_PENDING                     (captured after the order had ended)
//!
//! A person looked, and said so in the order's history:
//! MANUAL_REVIEW --Reopened--> UNKNOWN | --ReviewCancel--> CANCEL_REQUESTED | --ReviewPaid--> SUCCEEDED | --ReviewFailed--> FAILED
//! ```
//!
//! Unknown never becomes failed by age: only the provider's word ends it. A decline gives units back only after the
//! provider has confirmed that the intent is canceled, because until then it could still be captured.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::ids::{IntentId, OrderId, ProviderRefundId};
use super::money::Money;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PaymentState {
    /// It waits for a payment method, and nothing was ever sent to the provider.
    Required,
    /// Its card was declined, and it waits for another one. The provider has its intent.
    MethodRequired,
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
    /// The order costs nothing.
    NothingToPay,
    Succeeded,
    /// The card was declined, and its order ends.
    Declined,
    /// The card was declined, and its buyer may give another one.
    MethodNeeded,
    /// The provider wants the buyer to act, or works on it itself: wait, the units stay.
    ActionRequired,
    Processing,
    WentDark,
    /// The provider confirmed that this intent can never be captured.
    IntentCanceled,
    Expired,
    /// The provider says something that cannot be true of this order.
    Contradiction,
    /// The order was cancelled before the call that could take money was dispatched.
    CancelUnsent,
    /// The order was cancelled, and had cost nothing.
    CancelFree,
    /// The order was cancelled, and money may have been taken: the provider must say.
    Cancel,
    /// The provider confirmed the end of the intent of an order that was cancelled.
    CancelConfirmed,
    RefundAsked,
    /// Money was taken for an order that had ended: it goes back.
    LateMoney,
    /// A person wants the provider asked again.
    Reopened,
    /// A person wants the intent ended at the provider, and the order with it.
    ReviewCancel,
    /// A person vouches for the money.
    ReviewPaid,
    /// A person vouches that there is none and will be none.
    ReviewFailed,
}

/// How long the units of an order are kept whose buyer's bank wants them to act.
pub const BANK_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// How long an order of goods waits for another card after a decline. A drop says so itself.
pub const DECLINE_GRACE: SignedDuration = SignedDuration::from_mins(5);

/// Cards are tried so often on one order: each try is a question to a bank, and somebody who tries stolen numbers asks many.
pub const CONFIRMS_MAX: u32 = 5;

/// What becomes of an order whose card was declined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDecline {
    /// Its buyer may give another card until then.
    WaitUntil(Timestamp),
    End,
}

/// `grace`: how long its units wait for another card; it never prolongs `pay_by`. `confirms`: cards that were tried.
pub fn after_decline(
    grace: SignedDuration,
    pay_by: Option<Timestamp>,
    confirms: u32,
    is_cancel_asked: bool,
    now: Timestamp,
) -> AfterDecline {
    let until = now.checked_add(grace).unwrap_or(Timestamp::MAX);
    let until = pay_by.map_or(until, |pay_by| until.min(pay_by));
    if is_cancel_asked || until <= now || confirms >= CONFIRMS_MAX {
        return AfterDecline::End;
    }
    AfterDecline::WaitUntil(until)
}

/// How long a payment that is not decided waits before the provider is asked the next time, after so many times: seconds
/// at first, every minute, then every 5 minutes for an hour, every hour for a day, and daily from then on. However old it
/// is, it is never taken for failed.
pub fn ask_again(tries: i32) -> SignedDuration {
    match tries {
        ..=6 => SignedDuration::from_secs(1 << (tries.max(1) - 1)),
        7..=11 => SignedDuration::from_mins(1),
        12..=23 => SignedDuration::from_mins(5),
        24..=47 => SignedDuration::from_hours(1),
        _ => SignedDuration::from_hours(24),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payment that is {from:?} cannot take the event {event:?}")]
pub struct InvalidPaymentTransition {
    pub from: PaymentState,
    pub event: PaymentEvent,
}

impl PaymentState {
    pub const ALL: [Self; 14] = [
        Self::Required,
        Self::MethodRequired,
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
            Self::MethodRequired => "METHOD_REQUIRED",
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

    /// Nothing is under way: no call that moves money, and nobody who has to act.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled | Self::PartiallyRefunded | Self::Refunded)
    }

    /// The money was taken, whatever has gone back since.
    pub fn was_paid(self) -> bool {
        matches!(self, Self::Succeeded | Self::RefundPending | Self::PartiallyRefunded | Self::Refunded)
    }

    /// Something has still to happen to it.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Succeeded | Self::Failed | Self::Canceled | Self::PartiallyRefunded | Self::Refunded)
    }

    /// The provider's word may still move it, and its order waits for that.
    pub fn is_chargeable(self) -> bool {
        matches!(
            self,
            Self::MethodRequired
                | Self::InFlight
                | Self::Unknown
                | Self::ActionRequired
                | Self::Processing
                | Self::CancelRequested
        )
    }

    /// A worker has something to do about it once it is due.
    pub fn is_for_workers(self) -> bool {
        (self.is_chargeable() && self != Self::MethodRequired) || self == Self::RefundPending
    }

    /// Whether a call may be made for it: the named states and no others, so that what would take money is sent only
    /// while its order waits for that.
    pub fn may_send(self, operation: &str) -> bool {
        match operation {
            "create" | "confirm" => matches!(self, Self::InFlight | Self::Unknown),
            "cancel" => self == Self::CancelRequested,
            "refund" => self == Self::RefundPending,
            _ => false,
        }
    }

    /// Where a paid payment stands, by what has gone back and what is on its way.
    pub fn after_refunds(refunded: Money, is_pending: bool, paid: Money) -> Self {
        match refunded.amount_minor {
            _ if is_pending => Self::RefundPending,
            0 => Self::Succeeded,
            refunded if refunded >= paid.amount_minor => Self::Refunded,
            _ => Self::PartiallyRefunded,
        }
    }

    pub fn apply(self, event: PaymentEvent) -> Result<Self, InvalidPaymentTransition> {
        use PaymentEvent as E;
        match (self, event) {
            (Self::Required | Self::MethodRequired, E::MethodGiven) => Ok(Self::InFlight),
            (Self::Required, E::NothingToPay) => Ok(Self::Succeeded),
            (Self::Required, E::Expired) => Ok(Self::Failed),
            // The buyer did not act in time; the intent must be canceled first, for he still may.
            (Self::ActionRequired | Self::MethodRequired, E::Expired) => Ok(Self::CancelRequested),
            // A success counts whatever we thought before, save where the money was already dealt with.
            (
                Self::MethodRequired
                | Self::InFlight
                | Self::Unknown
                | Self::ActionRequired
                | Self::Processing
                | Self::CancelRequested,
                E::Succeeded,
            ) => Ok(Self::Succeeded),
            (Self::InFlight | Self::Unknown | Self::ActionRequired | Self::Processing, E::Declined) => {
                Ok(Self::CancelRequested)
            }
            (Self::InFlight | Self::Unknown | Self::ActionRequired | Self::Processing, E::MethodNeeded) => {
                Ok(Self::MethodRequired)
            }
            (Self::MethodRequired | Self::InFlight | Self::Unknown | Self::Processing, E::ActionRequired) => {
                Ok(Self::ActionRequired)
            }
            (Self::MethodRequired | Self::InFlight | Self::Unknown | Self::ActionRequired, E::Processing) => {
                Ok(Self::Processing)
            }
            (Self::InFlight | Self::Unknown, E::WentDark) => Ok(Self::Unknown),
            // A cancel whose answer was lost is asked again; it is still a cancel.
            (Self::CancelRequested, E::WentDark) => Ok(Self::CancelRequested),
            (
                Self::MethodRequired
                | Self::CancelRequested
                | Self::InFlight
                | Self::Unknown
                | Self::ActionRequired
                | Self::Processing,
                E::IntentCanceled,
            ) => Ok(Self::Failed),
            (
                Self::MethodRequired
                | Self::InFlight
                | Self::Unknown
                | Self::ActionRequired
                | Self::Processing
                | Self::CancelRequested,
                E::Contradiction,
            ) => Ok(Self::ManualReview),
            (Self::Required | Self::InFlight | Self::Unknown, E::CancelUnsent) => Ok(Self::Canceled),
            (Self::Succeeded, E::CancelFree) => Ok(Self::Canceled),
            (
                Self::MethodRequired
                | Self::InFlight
                | Self::Unknown
                | Self::ActionRequired
                | Self::Processing
                | Self::CancelRequested,
                E::Cancel,
            ) => Ok(Self::CancelRequested),
            (
                Self::MethodRequired
                | Self::CancelRequested
                | Self::InFlight
                | Self::Unknown
                | Self::ActionRequired
                | Self::Processing,
                E::CancelConfirmed,
            ) => Ok(Self::Canceled),
            (Self::Succeeded | Self::PartiallyRefunded | Self::RefundPending, E::RefundAsked) => {
                Ok(Self::RefundPending)
            }
            (Self::Failed | Self::Canceled, E::LateMoney) => Ok(Self::RefundPending),
            (Self::ManualReview, E::Reopened) => Ok(Self::Unknown),
            (Self::ManualReview, E::ReviewCancel) => Ok(Self::CancelRequested),
            (Self::ManualReview, E::ReviewPaid) => Ok(Self::Succeeded),
            (Self::ManualReview, E::ReviewFailed) => Ok(Self::Failed),
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

/// A refund, as we hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RefundState {
    /// Asked for; the provider has not said that it is done.
    Pending,
    Succeeded,
    /// It never arrived, or came back: a person must find another way.
    Failed,
}

impl RefundState {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Succeeded, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        }
    }

    /// Where the provider's word takes it; `None`: nowhere, it says nothing new.
    pub fn apply(self, verdict: &RefundVerdict) -> Option<Self> {
        match (self, verdict) {
            (Self::Pending, RefundVerdict::Succeeded) => Some(Self::Succeeded),
            (Self::Pending | Self::Succeeded, RefundVerdict::Failed { .. }) => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What the provider says of one refund, in our words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundReport {
    /// `None`: the provider refused it, and made none.
    pub provider_refund: Option<ProviderRefundId>,
    pub amount: Money,
    pub verdict: RefundVerdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundVerdict {
    /// On its way; banks take days.
    Pending,
    Succeeded,
    /// It will never arrive, or came back. May follow a success.
    Failed {
        reason: String,
    },
}

/// Whether a list of a charge's refunds has all of them: they add up to what the charge says has gone back. What failed
/// has not.
pub fn is_list_whole(listed: &[RefundReport], refunded: Money) -> bool {
    let given = listed.iter().filter(|refund| !matches!(refund.verdict, RefundVerdict::Failed { .. }));
    let sum = given.map(|refund| i128::from(refund.amount.amount_minor)).sum::<i128>();
    sum == i128::from(refunded.amount_minor)
}

/// One call to the provider, append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AttemptState {
    /// Key and bytes are committed; nothing was sent.
    Prepared,
    /// Given up before it was sent: the order was cancelled.
    Withdrawn,
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
    pub const ALL: [Self; 10] = [
        Self::Prepared,
        Self::Withdrawn,
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
            Self::Withdrawn => "WITHDRAWN",
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
            E::NothingToPay,
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
    fn a_declined_order_waits_for_another_card_within_its_time() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let minutes = SignedDuration::from_mins;
        let until = |seconds| AfterDecline::WaitUntil(at(seconds));
        for (grace, pay_by, confirms, is_cancel_asked, expected) in [
            (minutes(5), None, 1, false, until(1_300)),
            (minutes(5), Some(at(9_000)), 1, false, until(1_300)),
            (minutes(5), Some(at(1_060)), 1, false, until(1_060)),
            (minutes(5), Some(at(1_000)), 1, false, AfterDecline::End),
            (minutes(0), Some(at(9_000)), 1, false, AfterDecline::End),
            (minutes(5), Some(at(9_000)), 1, true, AfterDecline::End),
            (minutes(5), Some(at(9_000)), CONFIRMS_MAX - 1, false, until(1_300)),
            (minutes(5), Some(at(9_000)), CONFIRMS_MAX, false, AfterDecline::End),
        ] {
            let after = after_decline(grace, pay_by, confirms, is_cancel_asked, at(1_000));
            assert_eq!(after, expected, "{grace:?} {pay_by:?} {confirms} {is_cancel_asked}");
        }
    }

    #[test]
    fn a_payment_that_waits_for_another_card_is_moved_by_its_buyer_its_time_and_the_provider() {
        use PaymentEvent as E;
        use PaymentState as S;
        for (event, to) in [
            (E::MethodGiven, Some(S::InFlight)),
            (E::Expired, Some(S::CancelRequested)),
            (E::Cancel, Some(S::CancelRequested)),
            (E::Succeeded, Some(S::Succeeded)),
            (E::ActionRequired, Some(S::ActionRequired)),
            (E::Processing, Some(S::Processing)),
            (E::IntentCanceled, Some(S::Failed)),
            (E::CancelConfirmed, Some(S::Canceled)),
            (E::Contradiction, Some(S::ManualReview)),
            // What is known already, and what only holds where nothing was sent.
            (E::Declined, None),
            (E::MethodNeeded, None),
            (E::WentDark, None),
            (E::CancelUnsent, None),
            (E::RefundAsked, None),
        ] {
            assert_eq!(S::MethodRequired.apply(event).ok(), to, "{event:?}");
        }
        assert!(
            !S::MethodRequired.is_for_workers() && S::MethodRequired.is_chargeable() && S::MethodRequired.is_open()
        );
    }

    #[test]
    fn what_takes_money_is_sent_only_while_its_order_waits_for_it() {
        use PaymentState as S;
        for state in S::ALL {
            let charges = matches!(state, S::InFlight | S::Unknown);
            let may = ["create", "confirm", "cancel", "refund", "capture"].map(|operation| state.may_send(operation));
            let expected = [charges, charges, state == S::CancelRequested, state == S::RefundPending, false];
            assert_eq!(may, expected, "{state:?}");
        }
    }

    #[test]
    fn a_list_of_refunds_counts_only_if_it_has_all_of_them() {
        let eur = |minor| Money::new(minor, "EUR".parse().unwrap());
        let failed = || RefundVerdict::Failed { reason: "no such account".to_owned() };
        let refund = |minor, verdict| RefundReport { provider_refund: None, amount: eur(minor), verdict };
        let pending = || RefundVerdict::Pending;
        for (listed, refunded, is_whole) in [
            (vec![], 0, true),
            (vec![], 500, false),
            (vec![refund(500, RefundVerdict::Succeeded)], 500, true),
            (vec![refund(500, RefundVerdict::Succeeded)], 1_000, false),
            (vec![refund(500, RefundVerdict::Succeeded), refund(500, pending())], 1_000, true),
            (vec![refund(500, failed())], 0, true),
            (vec![refund(500, failed())], 500, false),
            // The list is ahead: one more look costs nothing.
            (vec![refund(500, pending())], 0, false),
        ] {
            assert_eq!(is_list_whole(&listed, eur(refunded)), is_whole, "{listed:?} {refunded}");
        }
    }

    #[test]
    fn a_cancelled_order_waits_for_the_provider_only_if_money_may_have_moved() {
        use PaymentEvent as E;
        for state in [PaymentState::Required, PaymentState::InFlight] {
            assert_eq!(state.apply(E::CancelUnsent), Ok(PaymentState::Canceled));
        }
        let asked = PaymentState::InFlight.apply(E::Cancel).unwrap();
        assert_eq!(asked, PaymentState::CancelRequested);
        assert_eq!(asked.apply(E::CancelConfirmed), Ok(PaymentState::Canceled));
        assert_eq!(asked.apply(E::Succeeded), Ok(PaymentState::Succeeded), "the charge was faster: it goes back");
        for state in [PaymentState::Succeeded, PaymentState::Failed, PaymentState::ManualReview] {
            assert!(state.apply(E::Cancel).is_err() && state.apply(E::CancelUnsent).is_err(), "{state:?}");
        }
        for state in [PaymentState::Failed, PaymentState::Canceled] {
            assert_eq!(state.apply(E::LateMoney), Ok(PaymentState::RefundPending));
        }
    }

    #[test]
    fn refunds_add_up_to_where_a_payment_stands() {
        let euro = |amount_minor| Money::new(amount_minor, "EUR".parse().unwrap());
        let after = |refunded, is_pending| PaymentState::after_refunds(euro(refunded), is_pending, euro(10));
        assert_eq!(after(0, true), PaymentState::RefundPending);
        assert_eq!(after(4, true), PaymentState::RefundPending);
        assert_eq!(after(4, false), PaymentState::PartiallyRefunded);
        assert_eq!(after(10, false), PaymentState::Refunded);
        assert_eq!(after(0, false), PaymentState::Succeeded, "every refund failed");
    }

    #[test]
    fn the_provider_is_asked_ever_more_rarely_but_for_ever() {
        let waits = (1..200).map(ask_again).collect::<Vec<_>>();
        assert!(waits.is_sorted());
        let after = |wait: SignedDuration| waits.iter().filter(|each| **each == wait).count();
        assert_eq!(after(SignedDuration::from_mins(1)), 5);
        assert_eq!(after(SignedDuration::from_mins(5)), 12);
        assert_eq!(after(SignedDuration::from_hours(1)), 24);
        assert_eq!(ask_again(i32::MAX), SignedDuration::from_hours(24));
        assert_eq!(ask_again(0), SignedDuration::from_secs(1));
    }

    #[test]
    fn only_a_person_ends_a_review() {
        use PaymentEvent as E;
        let review = PaymentState::ManualReview;
        assert_eq!(review.apply(E::Reopened), Ok(PaymentState::Unknown));
        for event in [E::Reopened, E::ReviewCancel, E::ReviewPaid, E::ReviewFailed] {
            assert!(review.apply(event).is_ok());
            for state in PaymentState::ALL.into_iter().filter(|state| *state != review) {
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
