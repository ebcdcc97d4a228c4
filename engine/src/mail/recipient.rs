//! Whom a mail is to: their name as a header has it, and their address as a server takes it.

use lettre::message::Mailbox;
use lettre::message::header::{self, Header, HeaderName, HeaderValue};

/// The header `To`. The library leaves names unquoted that are no words of RFC 5322, such as `.` and `J. Smith`.
#[derive(Clone)]
pub(super) struct Recipient(pub(super) Mailbox);

impl Header for Recipient {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("To")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Err("it is only written".into())
    }

    fn display(&self) -> HeaderValue {
        let Self(mailbox) = self;
        let written = header::To::from(header_mailboxes(mailbox)).display();
        match mailbox.name.as_deref().and_then(quoted) {
            // A line of its own for the address: a name may have 128 characters.
            Some(name) => {
                let value = format!("{name}\r\n <{}>", mailbox.email);
                HeaderValue::dangerous_new_pre_encoded(Self::name(), mailbox.to_string(), value)
            }
            None => written,
        }
    }
}

fn header_mailboxes(mailbox: &Mailbox) -> lettre::message::Mailboxes {
    lettre::message::Mailboxes::from(mailbox.clone())
}

/// The name in quotes, if it needs them. `None`: it is made of words, or is encoded as a whole for its letters.
fn quoted(name: &str) -> Option<String> {
    let is_word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    if !name.is_ascii() || name.split(' ').all(is_word) {
        return None;
    }
    Some(format!("\"{}\"", name.replace('\\', r"\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_row_of_words_stands_in_quotes() {
        for (name, written) in [
            ("Ada Lovelace", None),
            ("O'Neill", None),
            (".", Some(r#"".""#)),
            ("..", Some(r#""..""#)),
            ("J. R. Smith", Some(r#""J. R. Smith""#)),
            ("Smith, J", Some(r#""Smith, J""#)),
            ("Ada  Lovelace", Some(r#""Ada  Lovelace""#)),
            (r#"a "b" \c"#, Some(r#""a \"b\" \\c""#)),
            ("a@b", Some(r#""a@b""#)),
            ("Zoë", None),
        ] {
            assert_eq!(quoted(name).as_deref(), written, "{name}");
        }
    }
}
