//! Where the mail server is and who writes. Read once, refused with a sentence that does not repeat the password.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// Replaced by the order's id in the link that mails carry.
const ORDER_PLACEHOLDER: &str = "{order}";

/// How to send mail.
#[derive(Clone)]
pub struct MailSettings {
    /// `smtp://user:password@host:587`, `smtps://…` for TLS from the first byte. With `smtp://` TLS is required unless the host is
    /// this machine; `?tls=none`, `?tls=opportunistic` and `?tls=required` say otherwise, and so does `?ca=`. `?ca=/etc/ssl/shop-ca.pem` is a
    /// certificate to trust beside the system's, for a server that has one of an authority of your own.
    pub url: String,
    /// `Shop <orders@shop.example>`
    pub from: String,
    /// Where a buyer sees his order: `https://shop.example/orders/{order}`.
    pub order_link: Option<String>,
    /// Where a buyer sees the invoice of their order: `https://shop.example/orders/{order}/invoice`.
    pub invoice_link: Option<String>,
    /// Bounds one attempt, from the connection to the server's last word. Below the time a worker has to stop.
    pub send_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnusableMailSettings(pub(super) &'static str);

/// The settings, checked.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Tls,
    pub(super) credentials: Option<Credentials>,
    pub(super) hello: ClientId,
    pub(super) send_timeout: Duration,
}

pub(super) enum Tls {
    None,
    Opportunistic(TlsParameters),
    Required(TlsParameters),
    FromTheStart(TlsParameters),
}

/// Who writes.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) from: Mailbox,
    pub(super) order_link: Option<String>,
    pub(super) invoice_link: Option<String>,
}

impl fmt::Debug for MailSettings {
    /// The address holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailSettings").field("from", &self.from).finish_non_exhaustive()
    }
}

impl MailSettings {
    pub(super) fn check(&self) -> Result<(Server, Sender), UnusableMailSettings> {
        let from = self.from.parse::<Mailbox>();
        let from =
            from.map_err(|_| UnusableMailSettings("the sender is not an address such as Shop <orders@shop.example>"))?;
        if has_control(&self.from) {
            return Err(UnusableMailSettings("the sender has a line break or another control character"));
        }
        if self.order_link.as_deref().is_some_and(|link| !is_link(link)) {
            return Err(UnusableMailSettings(
                "the order link is not an address such as https://shop.example/orders/{order}",
            ));
        }
        if self.invoice_link.as_deref().is_some_and(|link| !is_link(link)) {
            return Err(UnusableMailSettings(
                "the invoice link is not an address such as https://shop.example/orders/{order}/invoice",
            ));
        }
        let server = self.server(from.email.domain())?;
        let (order_link, invoice_link) = (self.order_link.clone(), self.invoice_link.clone());
        Ok((server, Sender { from, order_link, invoice_link }))
    }

    fn server(&self, own_domain: &str) -> Result<Server, UnusableMailSettings> {
        let url = Url::parse(&self.url).map_err(|_| UnusableMailSettings("the mail server's address is not a URL"))?;
        let host = url.host().filter(|host| !matches!(host, Host::Domain("")));
        let host = host.ok_or(UnusableMailSettings("the mail server's address names no host"))?;
        let is_local = match &host {
            // In an address that is not the web's, numbers are a name too.
            Host::Domain(name) => {
                *name == "localhost" || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
            }
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        let host = match host {
            Host::Ipv6(address) => address.to_string(),
            other => other.to_string(),
        };
        let asked =
            |wanted: &str| url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned());
        if url.query_pairs().any(|(name, _)| !matches!(&*name, "tls" | "ca")) {
            return Err(UnusableMailSettings("the mail server's address can be followed by ?tls= and ?ca= only"));
        }
        let (wanted, authority) = (asked("tls"), asked("ca"));
        let parameters = || tls_parameters(&host, authority.as_deref());
        let (tls, port) = match (url.scheme(), wanted.as_deref()) {
            ("smtps", None) => (Tls::FromTheStart(parameters()?), 465),
            ("smtp", Some("none")) if authority.is_some() => {
                return Err(UnusableMailSettings(
                    "tls=none leaves nothing for ca= to prove: take tls=required, or no ca=",
                ));
            }
            ("smtp", Some("none")) => (Tls::None, 25),
            // Whoever names an authority wants TLS, also on this machine.
            ("smtp", None) if is_local && authority.is_none() => (Tls::None, 25),
            ("smtp", Some("opportunistic")) => (Tls::Opportunistic(parameters()?), 587),
            ("smtp", None | Some("required")) => (Tls::Required(parameters()?), 587),
            ("smtp", Some(_)) => return Err(UnusableMailSettings("tls= is none, opportunistic or required")),
            ("smtps", Some(_)) => {
                return Err(UnusableMailSettings("smtps:// is TLS from the first byte: leave tls= out"));
            }
            _ => return Err(UnusableMailSettings("the mail server's address must begin with smtp:// or smtps://")),
        };
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
            text.map_err(|_| UnusableMailSettings("the mail server's user or password is not UTF-8"))
        };
        let credentials = match url.password() {
            Some(password) => Some(Credentials::new(decoded(url.username())?, decoded(password)?)),
            None if !url.username().is_empty() => {
                return Err(UnusableMailSettings("the mail server's address has a user without a password"));
            }
            None => None,
        };
        if credentials.is_some() && !is_local && matches!(tls, Tls::None | Tls::Opportunistic(_)) {
            return Err(UnusableMailSettings(
                "a password goes to another machine only with TLS: leave tls= out, or use smtps://",
            ));
        }
        // The name of EHLO: the path of the address, as lettre's own addresses have it.
        let hello = url.path().trim_matches('/');
        let hello = if hello.is_empty() { own_domain } else { hello };
        Ok(Server {
            host,
            port: url.port().unwrap_or(port),
            tls,
            credentials,
            hello: ClientId::Domain(hello.to_owned()),
            send_timeout: self.send_timeout,
        })
    }
}

impl Sender {
    pub(super) fn link_to(&self, order: &str) -> Option<String> {
        self.order_link.as_ref().map(|link| link.replace(ORDER_PLACEHOLDER, order))
    }

    pub(super) fn invoice_of(&self, order: &str) -> Option<String> {
        self.invoice_link.as_ref().map(|link| link.replace(ORDER_PLACEHOLDER, order))
    }
}

fn is_link(link: &str) -> bool {
    let is_web = Url::parse(link).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    is_web && link.contains(ORDER_PLACEHOLDER) && !has_control(link)
}

/// With the system's authorities, and one of the shop's own.
fn tls_parameters(host: &str, authority: Option<&str>) -> Result<TlsParameters, UnusableMailSettings> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(path) = authority {
        let pem = std::fs::read_to_string(path);
        let pem = pem.map_err(|_| UnusableMailSettings("the file of ca= cannot be read"))?;
        // A file without any would be taken for one that adds nothing.
        let certificate = pem.contains("-----BEGIN CERTIFICATE-----").then(|| Certificate::from_pem(pem.as_bytes()));
        let Some(Ok(certificate)) = certificate else {
            return Err(UnusableMailSettings("the file of ca= is not a certificate in PEM form"));
        };
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|_| UnusableMailSettings("TLS cannot be used with the mail server's name"))
}

/// Line breaks would end a header, and nothing else that cannot be seen belongs into one.
pub(super) fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> MailSettings {
        MailSettings {
            url: url.to_owned(),
            from: "Shop <orders@shop.example>".to_owned(),
            order_link: Some("https://shop.example/orders/{order}".to_owned()),
            invoice_link: Some("https://shop.example/orders/{order}/invoice".to_owned()),
            send_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_password_leaves_this_machine_only_with_tls() {
        for good in [
            "smtp://127.0.0.1:2525",
            "smtp://u:p@localhost",
            "smtp://u:p%40@mail.example",
            "smtps://u:p@mail.example",
            "smtp://mail.example?tls=none",
            "smtp://mail.example:25?tls=opportunistic",
            "smtp://u:p@[::1]:25/shop.example",
        ] {
            assert!(settings(good).check().is_ok(), "{good}: {:?}", settings(good).check().err());
        }
        let plain = |url: &str| matches!(settings(url).check().unwrap().0.tls, Tls::None);
        assert!(plain("smtp://127.0.0.1") && !plain("smtp://mail.example"));
        for bad in [
            "",
            "mail.example",
            "http://mail.example",
            "smtp://u:p@mail.example?tls=none",
            "smtp://u:p@mail.example?tls=opportunistic",
            "smtp://u:secret@mail.example?tls=maybe",
            "smtps://u:secret@mail.example?tls=none",
            "smtps://u:secret@mail.example?ca=/nowhere.pem",
            "smtps://u:secret@mail.example?ca=/dev/null",
            "smtp://u:secret@127.0.0.1?ca=/nowhere.pem",
            "smtp://mail.example?tls=none&ca=/etc/ssl/certs/ca-certificates.crt",
            "smtps://u:secret@mail.example?verify=no",
            "smtp://u@mail.example",
            "smtp://",
        ] {
            let error = settings(bad).check().err().unwrap_or_else(|| panic!("{bad}"));
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(!format!("{:?}", settings("smtps://u:secret@mail.example")).contains("secret"));
    }

    #[test]
    fn sender_and_link_are_checked() {
        let good = settings("smtp://127.0.0.1");
        for from in ["", "Shop", "a@b@c", "Shop\r\nBcc: x@y.example <orders@shop.example>"] {
            assert!(MailSettings { from: from.to_owned(), ..good.clone() }.check().is_err(), "{from:?}");
        }
        for link in ["https://shop.example/orders", "javascript:{order}", "https://shop.example/{order}\nX: y"] {
            assert!(MailSettings { order_link: Some(link.to_owned()), ..good.clone() }.check().is_err(), "{link:?}");
            assert!(MailSettings { invoice_link: Some(link.to_owned()), ..good.clone() }.check().is_err(), "{link:?}");
        }
    }
}
