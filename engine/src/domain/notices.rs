//! Notices: what happened to an order that somebody outside is told, the buyer by mail and the shop's systems by webhook.
//! One is about a claim that never became an order, or about a place in a line; it bears the id that the order would have
//! had. Some are about a whole drop: the shop's systems alone get them.
//!
//! A notice names one thing that happened once: order or drop, kind and, for refunds and returns, which one. From these
//! three come the mail's Message-ID and the event's id, so that whoever is told twice can see that it was the same.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::fulfilment::Tracking;
use super::ids::{BuyerId, DropId, InvalidId, OrderId, RefundId, ReturnId};
use super::line::entries::EntryId;
use super::line::hex::{Digest, Hex};
use super::money::Money;
use super::pricing::Totals;

/// What happened, with what only this kind of notice has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Notice {
    /// A claim became an order. For the shop only: the buyer has had his answer.
    OrderCreated,
    /// The order waits for a payment method.
    PaymentRequired,
    /// The card was declined, and the order waits for another one.
    PaymentMethodRequired {
        /// The provider's code.
        #[serde(default)]
        reason: String,
        /// Which try of the order's it was.
        #[serde(default)]
        attempt: u32,
    },
    /// It costs more than its buyer agreed to, and waits for them to agree.
    TotalChanged,
    /// The provider wants the buyer to act.
    PaymentActionRequired,
    OrderConfirmed,
    PaymentFailed {
        /// The provider's code, or our own: see `payments.failure`.
        #[serde(default)]
        reason: String,
    },
    OrderCancelled {
        /// Money was taken, and comes back in a refund of its own.
        #[serde(default)]
        is_refunded: bool,
    },
    RefundIssued {
        refund: RefundId,
        amount: Money,
        is_full: bool,
    },
    /// It did not go through, or came back from the buyer's bank; the money is with the shop.
    RefundFailed {
        refund: RefundId,
        amount: Money,
        /// The buyer was told that they have it.
        #[serde(default)]
        was_issued: bool,
    },
    /// It is being packed.
    OrderProcessing,
    OrderShipped {
        #[serde(flatten)]
        tracking: Tracking,
    },
    OrderDelivered,
    /// Goods came back.
    OrderReturned {
        #[serde(rename = "return")]
        id: ReturnId,
        units: u32,
        /// Money goes back with them, in a refund of its own.
        is_refunded: bool,
    },
    /// Its buyer waited in standby, and units came back for him.
    StandbyAwarded,
    /// Its buyer stood in line, and a round gave them what they wanted.
    LineAwarded,
    /// The claim was answered, then forgotten after a failure, and its units went to somebody else. No order exists.
    ClaimLost,
    /// A buyer stands in line. For them only: the shop's systems would get one for everybody who waits.
    LineJoined {
        #[serde(flatten)]
        place: Place,
    },
    /// One card has one place: another one stands for this. For the buyer only.
    LineMerged {
        #[serde(flatten)]
        place: Place,
    },
    /// The line is over, and its buyer got nothing. For them only.
    LineEnded {
        #[serde(flatten)]
        place: Place,
        /// What the line has left goes on sale.
        goes_on_sale: bool,
    },
    /// The list of a line is complete, and its root is written down.
    DropSealed {
        /// Entries in the list.
        count: u32,
        root: Digest,
        /// The beacon's round that decides; none where the chance comes from somewhere else.
        beacon_round: Option<u64>,
    },
    /// Everybody's rank is known.
    DropDrawn {
        count: u32,
        seed: Digest,
        beacon_round: Option<u64>,
    },
    /// A round is over.
    LineRound {
        /// From 0.
        round: u32,
        /// Ranks from 0 that had their turn in it, the second one excluded.
        ranks_from: u32,
        ranks_to: u32,
        awarded: u32,
        units: u32,
        /// Of these ranks and of those who stood by: who was given nothing.
        passed_over: u32,
    },
    /// The line is over.
    LineClosed {
        /// Ranks that have had their turn.
        served: u32,
        goes_on_sale: bool,
    },
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub number: u32,
    pub entry_id: EntryId,
}

/// Mails leave in lanes of their own, so that a hundred thousand of one kind hold up none of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MailLane {
    /// What happens to somebody's order.
    Orders,
    /// Units are set aside for somebody, and their time to pay runs.
    Awards,
    /// What everybody in a line is told.
    Lines,
}

impl MailLane {
    pub const ALL: [Self; 3] = [Self::Orders, Self::Awards, Self::Lines];

    /// As the outbox names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orders => "mail",
            Self::Awards => "mail:awards",
            Self::Lines => "mail:lines",
        }
    }
}

/// What a notice is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// An order, a claim that became none, or a place in a line.
    Order(OrderFacts),
    Drop {
        id: DropId,
        name: String,
    },
}

impl Subject {
    pub fn id(&self) -> OrderId {
        match self {
            Self::Order(order) => order.id,
            Self::Drop { id, .. } => id.event_subject(),
        }
    }

    pub fn email(&self) -> Option<&str> {
        match self {
            Self::Order(order) => order.email.as_deref(),
            Self::Drop { .. } => None,
        }
    }
}

/// A notice's name: which order or drop, what, and which of several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventId {
    pub order: OrderId,
    pub kind: String,
    pub about: String,
}

/// An order as a notice tells of it. What is sold and for how much never changes after settlement.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderFacts {
    pub id: OrderId,
    pub buyer: BuyerId,
    pub drop_name: Option<String>,
    /// As the buyer wrote it into his address.
    pub buyer_name: Option<String>,
    pub email: Option<String>,
    pub items: Vec<ItemFacts>,
    pub totals: Totals,
    /// Until when an unpaid order keeps its units.
    pub pay_by: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ItemFacts {
    pub sku: String,
    pub product: String,
    pub variant: String,
    pub quantity: u32,
    pub unit_price: Money,
}

/// A stored notice that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} with the detail {detail} is not a notice")]
pub struct NotANotice {
    pub kind: String,
    pub detail: Value,
}

impl Notice {
    /// One of each that is about an order, for tests and tables.
    pub fn samples(refund: RefundId, amount: Money) -> [Self; 18] {
        [
            Self::OrderCreated,
            Self::PaymentRequired,
            Self::PaymentMethodRequired { reason: "card_declined".to_owned(), attempt: 1 },
            Self::TotalChanged,
            Self::PaymentActionRequired,
            Self::OrderConfirmed,
            Self::PaymentFailed { reason: "card_declined".to_owned() },
            Self::OrderCancelled { is_refunded: true },
            Self::RefundIssued { refund, amount, is_full: true },
            Self::RefundIssued { refund, amount, is_full: false },
            Self::RefundFailed { refund, amount, was_issued: true },
            Self::OrderProcessing,
            Self::OrderShipped { tracking: Tracking::sample() },
            Self::OrderDelivered,
            Self::OrderReturned { id: ReturnId(refund.0), units: 1, is_refunded: true },
            Self::StandbyAwarded,
            Self::LineAwarded,
            Self::ClaimLost,
        ]
    }

    /// One of each that is about a whole drop.
    pub fn samples_of_drop() -> [Self; 4] {
        let (count, beacon_round) = (9_120, Some(21_345_120));
        [
            Self::DropSealed { count, root: Hex([0x1f; 32]), beacon_round },
            Self::DropDrawn { count, seed: Hex([0x2a; 32]), beacon_round },
            Self::LineRound { round: 3, ranks_from: 300, ranks_to: 400, awarded: 92, units: 92, passed_over: 8 },
            Self::LineClosed { served: 9_120, goes_on_sale: false },
        ]
    }

    /// One of each that is about a place in a line.
    pub fn samples_of_place(place: Place) -> [Self; 3] {
        [Self::LineJoined { place }, Self::LineMerged { place }, Self::LineEnded { place, goes_on_sale: false }]
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::OrderCreated => "order_created",
            Self::PaymentRequired => "payment_required",
            Self::PaymentMethodRequired { .. } => "payment_method_required",
            Self::TotalChanged => "total_changed",
            Self::PaymentActionRequired => "payment_action_required",
            Self::OrderConfirmed => "order_confirmed",
            Self::PaymentFailed { .. } => "payment_failed",
            Self::OrderCancelled { .. } => "order_cancelled",
            Self::RefundIssued { .. } => "refund_issued",
            Self::RefundFailed { .. } => "refund_failed",
            Self::OrderProcessing => "order_processing",
            Self::OrderShipped { .. } => "order_shipped",
            Self::OrderDelivered => "order_delivered",
            Self::OrderReturned { .. } => "order_returned",
            Self::StandbyAwarded => "standby_awarded",
            Self::LineAwarded => "line_awarded",
            Self::ClaimLost => "claim_lost",
            Self::LineJoined { .. } => "line_joined",
            Self::LineMerged { .. } => "line_merged",
            Self::LineEnded { .. } => "line_ended",
            Self::DropSealed { .. } => "drop_sealed",
            Self::DropDrawn { .. } => "drop_drawn",
            Self::LineRound { .. } => "line_round",
            Self::LineClosed { .. } => "line_closed",
        }
    }

    /// The type of the webhook event: full stops between its parts, as Standard Webhooks recommends.
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::OrderCreated => "order.created",
            Self::PaymentRequired => "order.payment_required",
            Self::PaymentMethodRequired { .. } => "order.payment_method_required",
            Self::TotalChanged => "order.total_changed",
            Self::PaymentActionRequired => "order.payment_action_required",
            Self::OrderConfirmed => "order.confirmed",
            Self::PaymentFailed { .. } => "order.payment_failed",
            Self::OrderCancelled { .. } => "order.cancelled",
            Self::RefundIssued { .. } => "order.refund_issued",
            Self::RefundFailed { .. } => "order.refund_failed",
            Self::OrderProcessing => "order.processing",
            Self::OrderShipped { .. } => "order.shipped",
            Self::OrderDelivered => "order.delivered",
            Self::OrderReturned { .. } => "order.returned",
            Self::StandbyAwarded => "standby.awarded",
            Self::LineAwarded => "line.awarded",
            Self::ClaimLost => "claim.lost",
            Self::LineJoined { .. } => "line.joined",
            Self::LineMerged { .. } => "line.merged",
            Self::LineEnded { .. } => "line.ended",
            Self::DropSealed { .. } => "drop.sealed",
            Self::DropDrawn { .. } => "drop.drawn",
            Self::LineRound { .. } => "line.round",
            Self::LineClosed { .. } => "line.closed",
        }
    }

    /// Which one, where an order can have several of this kind.
    pub fn about(&self) -> String {
        match self {
            Self::RefundIssued { refund, .. } | Self::RefundFailed { refund, .. } => refund.to_string(),
            Self::OrderReturned { id, .. } => id.to_string(),
            Self::PaymentMethodRequired { attempt, .. } => attempt.to_string(),
            Self::LineRound { round, .. } => round.to_string(),
            // A list whose root came too late is rooted again, for another round of the beacon.
            Self::DropSealed { beacon_round: Some(round), .. } => round.to_string(),
            _ => String::new(),
        }
    }

    /// The lane in which its buyer gets a mail, if they get one.
    pub fn mail_lane(&self) -> Option<MailLane> {
        match self {
            Self::OrderCreated => None,
            // Of a refund that never arrived the buyer has not been told; a person looks for another way.
            Self::RefundFailed { was_issued: false, .. } => None,
            _ if self.is_of_drop() => None,
            Self::StandbyAwarded | Self::LineAwarded => Some(MailLane::Awards),
            Self::LineJoined { .. } | Self::LineMerged { .. } | Self::LineEnded { .. } => Some(MailLane::Lines),
            _ => Some(MailLane::Orders),
        }
    }

    /// Whether it is about a whole drop.
    pub fn is_of_drop(&self) -> bool {
        matches!(
            self,
            Self::DropSealed { .. } | Self::DropDrawn { .. } | Self::LineRound { .. } | Self::LineClosed { .. }
        )
    }

    /// The place in a line that it is about.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::LineJoined { place } | Self::LineMerged { place } | Self::LineEnded { place, .. } => Some(*place),
            _ => None,
        }
    }

    pub fn event_id(&self, order: OrderId) -> EventId {
        EventId { order, kind: self.kind().to_owned(), about: self.about() }
    }

    /// What is stored beside the kind.
    pub fn detail(&self) -> Value {
        serde_json::to_value(self).expect("a notice is made of texts and numbers")
    }

    /// From what is stored; a detail that is missing is one of which nothing was known.
    pub fn from_stored(kind: &str, detail: Option<Value>) -> Result<Self, NotANotice> {
        let detail = detail.unwrap_or_else(|| json!({ "kind": kind }));
        let wrong = || NotANotice { kind: kind.to_owned(), detail: detail.clone() };
        let notice = serde_json::from_value::<Self>(detail.clone()).map_err(|_| wrong())?;
        if notice.kind() == kind { Ok(notice) } else { Err(wrong()) }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dash = if self.about.is_empty() { "" } else { "-" };
        write!(f, "evt_{}_{}{dash}{}", self.order.0.simple(), self.kind, self.about)
    }
}

impl FromStr for EventId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { what: "an event's id", rule: "evt_{order}_{kind} as `webhook-id` has it" };
        let parts = text.strip_prefix("evt_").and_then(|rest| rest.split_once('_'));
        let Some((order, rest)) = parts else { return Err(invalid) };
        let order = Uuid::try_parse(order).map(OrderId).map_err(|_| invalid)?;
        let (kind, about) = rest.split_once('-').unwrap_or((rest, ""));
        Ok(Self { order, kind: kind.to_owned(), about: about.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [Notice; 18] {
        Notice::samples(RefundId(Uuid::from_u128(1)), Money::new(500, "EUR".parse().unwrap()))
    }

    #[test]
    fn every_notice_is_read_back_as_it_was_stored() {
        let place = Place { number: 7, entry_id: EntryId(Hex([7; 16])) };
        let of_lines = Notice::samples_of_place(place).into_iter().chain(Notice::samples_of_drop());
        for notice in samples().into_iter().chain(of_lines) {
            assert_eq!(Notice::from_stored(notice.kind(), Some(notice.detail())), Ok(notice.clone()));
        }
        let bare = Notice::from_stored("payment_failed", None);
        assert_eq!(bare, Ok(Notice::PaymentFailed { reason: String::new() }), "as an older program has stored it");
        assert!(Notice::from_stored("refund_issued", None).is_err(), "of how much?");
        assert!(Notice::from_stored("order_confirmed", Some(json!({ "kind": "order_created" }))).is_err());
    }

    #[test]
    fn event_ids_have_no_full_stop_and_are_read_back() {
        let order = OrderId(Uuid::from_u128(7));
        for notice in samples() {
            let id = notice.event_id(order);
            assert!(!id.to_string().contains('.'), "{id}");
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert!("evt_7_order_confirmed".parse::<EventId>().is_err());
    }
}
