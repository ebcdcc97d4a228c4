//! What a mail says, as data: the templates only lay it out, so that text and HTML cannot tell different things.

use jiff::Timestamp;

use crate::domain::money::{Money, MoneyError};
use crate::domain::notices::{ItemFacts, Notice, OrderFacts};
use crate::domain::pricing::Totals;

pub(super) struct Letter {
    pub(super) subject: String,
    pub(super) name: Option<String>,
    pub(super) paragraphs: Vec<String>,
    /// An order, a claim or an entry in a line, with its id.
    pub(super) about: (&'static str, String),
    pub(super) lines: Vec<Line>,
    /// None of a wish: the first of its lines that is left is given.
    pub(super) totals: Option<Totals>,
    pub(super) link: Option<String>,
    pub(super) invoice: Option<String>,
    pub(super) shop: String,
}

pub(super) struct Line {
    pub(super) quantity: u32,
    pub(super) title: String,
    pub(super) total: Money,
}

/// Subject and paragraphs.
pub(super) fn words(order: &OrderFacts, notice: &Notice) -> (String, Vec<String>) {
    let what = order.items.first().map_or("your order", |item| item.product.as_str());
    let total = order.totals.total;
    let deadline = order.pay_by.map(moment);
    let until = |sentence: &str| match &deadline {
        Some(deadline) => format!("{sentence} until {deadline}; after that it goes to somebody else."),
        None => format!("{sentence} for a while."),
    };
    let (subject, paragraphs) = match notice {
        Notice::OrderCreated => ("We have your order", vec!["We have your order and will charge it soon.".to_owned()]),
        Notice::PaymentRequired => (
            "Payment needed",
            vec![
                format!("You got it: {what} is set aside for you. Please tell us how you want to pay {total}."),
                until("We keep it for you"),
            ],
        ),
        Notice::PaymentMethodRequired { reason, .. } => (
            "Another card needed",
            vec![
                why_failed(reason).to_owned(),
                format!("Nothing has been charged. Please give us another card for {what}, or try this one again."),
                until("We keep it for you"),
            ],
        ),
        Notice::TotalChanged => (
            "Please look at the new total",
            vec![
                format!("You got it: {what} is set aside for you. Sent to your address it costs {total}."),
                "That is more than you agreed to, so we charge nothing before you tell us that you take it.".to_owned(),
                until("We keep it for you"),
            ],
        ),
        Notice::PaymentActionRequired => (
            "Please confirm your payment",
            vec![
                format!("Your bank wants you to confirm the payment of {total} for {what}."),
                until("We keep it for you"),
            ],
        ),
        Notice::OrderConfirmed if total.amount_minor == 0 => {
            ("Order confirmed", vec![format!("Thank you: {what} is yours, and there is nothing to pay.")])
        }
        Notice::OrderConfirmed => {
            ("Order confirmed", vec![format!("Thank you: your payment of {total} has arrived, and {what} is yours.")])
        }
        Notice::PaymentFailed { reason } => (
            "Payment failed",
            vec![why_failed(reason).to_owned(), "Nothing has been charged, and the order has ended.".to_owned()],
        ),
        Notice::OrderCancelled { is_refunded } => (
            "Order cancelled",
            vec![
                "Your order has been cancelled.".to_owned(),
                if *is_refunded {
                    "You get back what you have paid: another mail tells you once it has been sent.".to_owned()
                } else {
                    "Nothing has been charged.".to_owned()
                },
            ],
        ),
        Notice::OrderProcessing => ("We are packing your order", vec![format!("{what} is being packed for you.")]),
        Notice::OrderShipped { tracking } => (
            "Your order is on its way",
            vec![
                format!("We have handed {what} over to {}.", tracking.carrier),
                format!("Its tracking number is {}.", tracking.number),
            ],
        ),
        Notice::OrderDelivered => ("Delivered", vec![format!("{what} has been delivered. We hope you like it.")]),
        Notice::OrderReturned { units, is_refunded, .. } => (
            "Your return has arrived",
            vec![
                match units {
                    1 => "We have got 1 unit back from you.".to_owned(),
                    units => format!("We have got {units} units back from you."),
                },
                if *is_refunded {
                    "You get your money back: another mail tells you how much, once it has been sent.".to_owned()
                } else {
                    "No refund goes with it.".to_owned()
                },
            ],
        ),
        Notice::RefundIssued { amount, is_full: true, .. } => {
            ("Refund", vec![format!("We have refunded your order in full: {amount}."), REFUND_TAKES.to_owned()])
        }
        Notice::RefundIssued { amount, is_full: false, .. } => {
            ("Partial refund", vec![format!("We have refunded {amount} of your order."), REFUND_TAKES.to_owned()])
        }
        Notice::RefundFailed { amount, .. } => (
            "Your refund came back",
            vec![
                format!("We had refunded {amount} to you, and your bank has sent it back to us."),
                "We look for another way, and tell you once the money has been sent again.".to_owned(),
            ],
        ),
        Notice::StandbyAwarded => (
            "Your wait has paid off",
            vec![
                format!("You have waited in standby, and {what} has come back: it is set aside for you now."),
                "If we know how you pay, you will be charged and need to do nothing. If not, please tell us.".to_owned(),
                until("We keep it for you"),
            ],
        ),
        Notice::LineAwarded => (
            "Your turn has come",
            vec![
                format!("You have waited in line, and {what} is set aside for you now."),
                "If we know how you pay, you will be charged and need to do nothing. If not, please tell us.".to_owned(),
                until("We keep it for you"),
            ],
        ),
        Notice::LineJoined { .. } => (
            "You are in line",
            vec![
                format!("You stand in line for {what}, and your place is recorded."),
                "Nobody has to be present: when your turn comes, we set aside the first of these for you that is left, and \
                 write to you."
                    .to_owned(),
            ],
        ),
        Notice::LineMerged { .. } => (
            "Your place in line",
            vec![format!(
                "Another place in the line for {what} has the same card. One card has one place: the earlier one stands for \
                 both."
            )],
        ),
        Notice::LineEnded { goes_on_sale, .. } => (
            "Not this time",
            vec![
                format!("The line for {what} is over, and we are sorry: there was nothing left of what you wanted."),
                "Nothing has been charged.".to_owned(),
            ]
            .into_iter()
            .chain(goes_on_sale.then(|| "What the line has left is on sale now, for who comes first. Should what you like best come back, you are among the \
                 first in standby.".to_owned()))
            .collect(),
        ),
        Notice::DropSealed { .. } | Notice::DropDrawn { .. } | Notice::LineRound { .. } | Notice::LineClosed { .. } => {
            ("The line has moved on", vec![format!("The line for {what} has moved on.")])
        }
        Notice::ClaimLost => (
            "We could not keep our word",
            vec![
                format!("We told you that {what} was yours. A failure of ours has lost your claim, and we are sorry."),
                "Nothing has been charged. Should a unit come back while the sale goes on, it is offered to you before anybody \
                 else: you are first in line, and need to do nothing."
                    .to_owned(),
            ],
        ),
    };
    (format!("{subject}: {what}"), paragraphs)
}

/// Whether a mail may begin with this name. Not with one that mail programs make a link of: a buyer chooses their name and
/// whom we write to, and must not choose where a click in our mail leads.
pub(super) fn may_greet(name: &str) -> bool {
    let lower = name.to_lowercase();
    let is_host = |word: &str| {
        let (front, last) = word.trim_end_matches('.').rsplit_once('.').unwrap_or_default();
        let ends_in_letter_or_digit = front.ends_with(char::is_alphanumeric);
        ends_in_letter_or_digit && last.chars().take_while(|character| character.is_alphabetic()).count() >= 2
    };
    let separators = |character: char| !character.is_alphanumeric() && !matches!(character, '.' | '-');
    !lower.contains("://") && !lower.contains("www.") && !lower.contains('@') && !lower.split(separators).any(is_host)
}

const REFUND_TAKES: &str = "It can take some days until your bank shows it.";

/// The provider's codes are many and say more than a buyer should be told in a mail; ours are few.
fn why_failed(reason: &str) -> &'static str {
    match reason {
        "no_payment_method" => "We have not learned in time how you want to pay.",
        "total_not_accepted" => {
            "It cost more than you had agreed to, and you have not told us in time that you take it."
        }
        "action_not_taken" => "The payment was not confirmed in time.",
        _ => "Your payment was declined.",
    }
}

pub(super) fn line(item: &ItemFacts) -> Result<Line, MoneyError> {
    Ok(Line {
        quantity: item.quantity,
        title: format!("{}, {} ({})", item.product, item.variant, item.sku),
        total: item.unit_price.times(item.quantity)?,
    })
}

/// `24 November 2026, 09:15 UTC`: nobody mistakes the month for the day.
fn moment(at: Timestamp) -> String {
    at.strftime("%-d %B %Y, %H:%M UTC").to_string()
}
