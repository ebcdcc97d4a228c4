//! A notice as a message: text and HTML from the templates in `engine/templates/`, which are checked when this is compiled.

use std::time::SystemTime;

use askama::Template;
use jiff::Timestamp;
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart, SinglePart};
use lettre::{Address, address::Envelope};
use uuid::Uuid;

use crate::domain::emails::Email;
use crate::domain::notices::{Notice, OrderFacts};

use super::letter::{Letter, line, may_greet, words};
use super::recipient::Recipient;
use super::settings::{Sender, has_control};

/// A message that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Mail {
    pub(super) envelope: Envelope,
    pub(super) bytes: Vec<u8>,
}

/// Why a notice cannot be a mail to this buyer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMailable {
    #[error("the buyer has given no e-mail address")]
    NoAddress,
    #[error("it is about a whole drop, and for no buyer")]
    NoBuyer,
    #[error("the e-mail address cannot be written to")]
    BadAddress,
    #[error("{0} has a line break or another control character")]
    ControlCharacter(&'static str),
    #[error("the message could not be built: {0}")]
    Unwritable(String),
}

#[derive(Template)]
#[template(path = "mail.txt")]
struct Text<'a> {
    letter: &'a Letter,
}

#[derive(Template)]
#[template(path = "mail.html")]
struct Html<'a> {
    letter: &'a Letter,
}

/// RFC 3834: no out-of-office answer, please.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

impl Sender {
    /// The same bytes each time: `at` is when it happened, and not when it is sent.
    pub(super) fn compose(&self, order: &OrderFacts, notice: &Notice, at: Timestamp) -> Result<Mail, NotMailable> {
        let email = order.email.as_deref().filter(|email| !email.is_empty()).ok_or(NotMailable::NoAddress)?;
        let letter = self.letter(order, notice)?;
        for (what, text) in [
            ("the e-mail address", Some(email)),
            ("the buyer's name", order.buyer_name.as_deref()),
            ("the product's name", Some(letter.subject.as_str())),
        ] {
            if text.is_some_and(has_control) {
                return Err(NotMailable::ControlCharacter(what));
            }
        }
        let email = email.parse::<Email>().map_err(|_| NotMailable::BadAddress)?;
        let address = Address::new(email.local(), email.domain()).map_err(|_| NotMailable::BadAddress)?;
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![address.clone()]);
        let envelope = envelope.map_err(|error| NotMailable::Unwritable(error.to_string()))?;
        let written = |error: askama::Error| NotMailable::Unwritable(error.to_string());
        let text = Text { letter: &letter }.render().map_err(written)?;
        let html = Html { letter: &letter }.render().map_err(written)?;
        let event = notice.event_id(order.id);
        // A boundary is a line of its own, and no text of a buyer's begins a line.
        let body = MultiPart::alternative().boundary(format!("=_{}", order.id.0.simple()));
        let message = Message::builder()
            .message_id(Some(format!("<{event}@{}>", self.from.email.domain())))
            .date(SystemTime::from(at))
            .from(self.from.clone())
            .header(Recipient(Mailbox::new(letter.name.clone(), address)))
            .envelope(envelope)
            .subject(letter.subject.as_str())
            .header(AutoSubmitted)
            .multipart(body.singlepart(SinglePart::plain(text)).singlepart(SinglePart::html(html)))
            .map_err(|error| NotMailable::Unwritable(error.to_string()))?;
        Ok(Mail { envelope: message.envelope().clone(), bytes: message.formatted() })
    }

    /// Names no order and no buyer.
    pub(super) fn compose_test(&self, to: &str, at: Timestamp) -> Result<Mail, NotMailable> {
        let address = to.parse::<Address>().map_err(|_| NotMailable::BadAddress)?;
        let text = format!(
            "This is a test, sent with `doorbuster check-config --send-test`.\n\n\
             Mails to buyers leave in the same way, from {}.\n",
            self.from.email
        );
        let message = Message::builder()
            .message_id(Some(format!("<test-{}@{}>", Uuid::new_v4().simple(), self.from.email.domain())))
            .date(SystemTime::from(at))
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject("Test of the mails to buyers")
            .header(AutoSubmitted)
            .singlepart(SinglePart::plain(text))
            .map_err(|error| NotMailable::Unwritable(error.to_string()))?;
        Ok(Mail { envelope: message.envelope().clone(), bytes: message.formatted() })
    }

    fn letter(&self, order: &OrderFacts, notice: &Notice) -> Result<Letter, NotMailable> {
        let (subject, paragraphs) = words(order, notice);
        let (order_id, place) = (order.id.to_string(), notice.place());
        let lines = order.items.iter().map(line).collect::<Result<_, _>>();
        let is_order = *notice != Notice::ClaimLost && place.is_none();
        let about = match place {
            Some(place) => ("Entry", place.entry_id.0.to_string()),
            None => (if is_order { "Order" } else { "Claim" }, order_id.clone()),
        };
        Ok(Letter {
            about,
            subject,
            name: order.buyer_name.clone().filter(|name| !name.is_empty() && may_greet(name)),
            paragraphs,
            lines: lines.map_err(|error| NotMailable::Unwritable(error.to_string()))?,
            totals: place.is_none().then_some(order.totals),
            link: if is_order { self.link_to(&order_id) } else { None },
            // Its number may still be about to come; the page that the link leads to has it.
            invoice: if *notice == Notice::OrderConfirmed { self.invoice_of(&order_id) } else { None },
            shop: self.from.name.clone().unwrap_or_else(|| self.from.email.domain().to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::ids::OrderId;
    use crate::domain::money::Money;
    use crate::domain::notices::ItemFacts;
    use crate::domain::pricing::Totals;
    use crate::mail::MailSettings;

    fn yen(amount_minor: i64) -> Money {
        Money::new(amount_minor, "JPY".parse().unwrap())
    }

    fn order() -> OrderFacts {
        OrderFacts {
            id: OrderId(uuid::Uuid::from_u128(7)),
            buyer: "b".parse().unwrap(),
            drop_name: None,
            buyer_name: Some("Zoë <b>".to_owned()),
            email: Some("zoe@example.test".to_owned()),
            items: vec![ItemFacts {
                sku: "S".to_owned(),
                product: "Shoe & <script>alert(1)</script>".to_owned(),
                variant: "42".to_owned(),
                quantity: 2,
                unit_price: yen(1_490),
            }],
            totals: Totals { subtotal: yen(2_980), tax: yen(298), shipping: yen(0), total: yen(3_278) },
            pay_by: None,
        }
    }

    fn sender() -> Sender {
        let settings = MailSettings {
            url: "smtp://127.0.0.1".to_owned(),
            from: "orders@shop.example".to_owned(),
            order_link: None,
            invoice_link: Some("https://shop.example/orders/{order}/invoice".to_owned()),
            send_timeout: Duration::from_secs(1),
        };
        settings.check().unwrap().1
    }

    #[test]
    fn html_is_escaped_text_is_not_and_yen_have_no_decimals() {
        let letter = sender().letter(&order(), &Notice::OrderConfirmed).unwrap();
        let html = Html { letter: &letter }.render().unwrap();
        assert!(!html.contains("<script>") && html.contains("&#60;script&#62;"), "{html}");
        let text = Text { letter: &letter }.render().unwrap();
        assert!(text.contains("2 x Shoe & <script>alert(1)</script>, 42 (S): 2980 JPY\n"), "{text}");
        assert!(
            text.contains("\nInvoice: https://shop.example/orders/00000000-0000-0000-0000-000000000007/invoice\n"),
            "{text}"
        );
        assert!(html.contains("/invoice\">Your invoice</a>"), "{html}");
        let other = sender().letter(&order(), &Notice::OrderDelivered).unwrap();
        assert_eq!(other.invoice, None, "the confirmation alone has it");
        assert!(text.contains("Total: 3278 JPY\n") && text.starts_with("Hello Zoë <b>,\n"), "{text}");
    }

    #[test]
    fn a_name_that_would_be_a_link_is_not_greeted() {
        for (name, is_greeted) in [
            ("Zoë", true),
            ("J. R. Smith", true),
            ("J.R. Smith Jr.", true),
            ("Martin Luther King, Jr.", true),
            ("O'Neill-Nuñez", true),
            ("3.14", true),
            ("You won http://evil.example/x", false),
            ("HTTPS://evil", false),
            ("see www.evil", false),
            ("WWW.EVIL.EXAMPLE", false),
            ("evil.example", false),
            ("Claim it: evil.example/now", false),
            ("(evil-1.example)", false),
            ("ada@evil", false),
            ("дом.рф", false),
        ] {
            let named = OrderFacts { buyer_name: Some(name.to_owned()), ..order() };
            let letter = sender().letter(&named, &Notice::OrderConfirmed).unwrap();
            assert_eq!(letter.name.is_some(), is_greeted, "{name}");
            let mail = sender().compose(&named, &Notice::OrderConfirmed, Timestamp::UNIX_EPOCH).unwrap();
            let text = String::from_utf8(mail.bytes).unwrap();
            assert!(is_greeted || !text.contains("evil") && text.contains("Hello,"), "{text}");
        }
    }

    #[test]
    fn every_address_that_is_taken_can_be_written_to() {
        for (given, written) in crate::domain::emails::tests::GOOD {
            let order = OrderFacts { email: Some(given.to_owned()), buyer_name: Some("J. R.".to_owned()), ..order() };
            let mail = sender().compose(&order, &Notice::OrderConfirmed, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(mail.envelope.to().iter().map(ToString::to_string).collect::<Vec<_>>(), [written]);
            let text = String::from_utf8(mail.bytes).unwrap();
            assert!(text.contains(&format!("To: \"J. R.\"\r\n <{written}>\r\n")), "{text}");
        }
    }

    #[test]
    fn the_same_notice_is_the_same_message_and_no_line_break_reaches_a_header() {
        let compose = |order: &OrderFacts| sender().compose(order, &Notice::OrderConfirmed, Timestamp::UNIX_EPOCH);
        let mail = compose(&order()).unwrap();
        assert_eq!(mail.bytes, compose(&order()).unwrap().bytes);
        assert!(mail.bytes.is_ascii(), "no server has to know 8BITMIME");
        for text in ["a\r\nBcc: x@y.example", "a\nb", "a\rb", "a\0b"] {
            let named = OrderFacts { buyer_name: Some(text.to_owned()), ..order() };
            assert_eq!(compose(&named).unwrap_err(), NotMailable::ControlCharacter("the buyer's name"));
            let mailed = OrderFacts { email: Some(format!("{text}@example.test")), ..order() };
            assert_eq!(compose(&mailed).unwrap_err(), NotMailable::ControlCharacter("the e-mail address"));
            let mut sold = order();
            sold.items[0].product = text.to_owned();
            assert_eq!(compose(&sold).unwrap_err(), NotMailable::ControlCharacter("the product's name"));
        }
        let nobody = OrderFacts { email: None, ..order() };
        assert_eq!(compose(&nobody).unwrap_err(), NotMailable::NoAddress);
    }
}
