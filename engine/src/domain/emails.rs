//! E-mail addresses: one rule for those that are taken and for those that are written to.

use std::str::FromStr;

use url::Host;

use super::texts::is_unseen;

/// RFC 5321: 256 bytes for a path, two of which are its brackets.
pub const EMAIL_BYTES_MAX: usize = 254;
/// RFC 5321.
const LOCAL_BYTES_MAX: usize = 64;

/// An address that mail can be written to; whether somebody reads it only mail can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    local: String,
    domain: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an e-mail address of at most {EMAIL_BYTES_MAX} bytes, such as ada@example.com")]
pub struct InvalidEmail;

impl Email {
    /// What stands before the @. With letters beyond ASCII only some mail servers take it.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// As the domain name system has it: in ASCII, letters of other scripts in punycode.
    pub fn domain(&self) -> &str {
        &self.domain
    }
}

impl FromStr for Email {
    type Err = InvalidEmail;

    fn from_str(text: &str) -> Result<Self, InvalidEmail> {
        let (local, written) = text.rsplit_once('@').ok_or(InvalidEmail)?;
        let domain = domain(written).ok_or(InvalidEmail)?;
        let fits = local.len() <= LOCAL_BYTES_MAX
            && text.len() <= EMAIL_BYTES_MAX
            && local.len() + 1 + domain.len() <= EMAIL_BYTES_MAX;
        // RFC 5322's dot-atom, with the letters and digits of RFC 6532. Nobody has an address in quotes.
        let is_atom = |atom: &str| !atom.is_empty() && atom.chars().all(is_atom_text);
        if !fits || !local.split('.').all(is_atom) {
            return Err(InvalidEmail);
        }
        Ok(Self { local: local.to_owned(), domain })
    }
}

fn is_atom_text(character: char) -> bool {
    (character.is_alphanumeric() && !is_unseen(character)) || "!#$%&'*+-/=?^_`{|}~".contains(character)
}

/// A name of at least two labels, in ASCII. An address of a machine is none.
fn domain(written: &str) -> Option<String> {
    // Asked before the conversion, which drops what has no width and takes other full stops for ours.
    let is_name =
        |character: char| (character.is_alphanumeric() && !is_unseen(character)) || matches!(character, '-' | '.');
    if !written.chars().all(is_name) {
        return None;
    }
    let Ok(Host::Domain(ascii)) = Host::parse(written) else { return None };
    let is_label = |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    let has_top = ascii.rsplit_once('.').is_some_and(|(_, top)| !top.bytes().all(|byte| byte.is_ascii_digit()));
    (has_top && ascii.len() <= 253 && ascii.split('.').all(is_label)).then_some(ascii)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Addresses that are taken, as they are written to.
    pub(crate) const GOOD: [(&str, &str); 8] = [
        ("ada@example.com", "ada@example.com"),
        ("a.b+c@sub.example.co.uk", "a.b+c@sub.example.co.uk"),
        ("o'neill_1@example-1.com", "o'neill_1@example-1.com"),
        ("Ada@Example.COM", "Ada@example.com"),
        ("jörg@example.de", "jörg@example.de"),
        ("zoe@münchen.example", "zoe@xn--mnchen-3ya.example"),
        ("用户@例子.测试", "用户@xn--fsqu00a.xn--0zwm56d"),
        ("1@1.example", "1@1.example"),
    ];

    #[test]
    fn an_address_is_taken_as_it_can_be_written_to() {
        for (given, written) in GOOD {
            let email = given.parse::<Email>().unwrap_or_else(|_| panic!("{given}"));
            assert_eq!(format!("{}@{}", email.local(), email.domain()), written);
        }
    }

    #[test]
    fn what_no_mail_could_reach_is_refused() {
        let long = format!("{}@example.com", "a".repeat(65));
        let longer = format!("ada@{}.com", "a.".repeat(130));
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@localhost",
            "a b@c.de",
            "a@b..de",
            "a@b@c.de",
            "a@-b.de",
            "a@b-.de",
            "a..b@example.com",
            ".a@example.com",
            "a.@example.com",
            "a@1.1",
            "a@127.0.0.1",
            "a@[127.0.0.1]",
            "a@example.1",
            "a@example.com.",
            "a\u{200b}b@example.com",
            "ab@exam\u{200b}ple.com",
            "a\u{ad}@example.com",
            "a@exam\u{ad}ple.com",
            "\u{3164}@example.com",
            "a\u{200d}b@example.com",
            "a@b\u{3002}de",
            "\"a b\"@example.com",
            "a(b)@example.com",
            "a@b.de\r\nBcc: x@y.z",
            "<a@b.de>",
            "a@b.de,c@d.de",
            "a@b_c.de",
            "a@%62.de",
            "a@xn--.de",
            &long,
            &longer,
        ] {
            assert_eq!(bad.parse::<Email>(), Err(InvalidEmail), "{bad:?}");
        }
    }
}
