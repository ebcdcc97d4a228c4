//! One attempt to hand a mail to the server, and what its end proves.
//!
//! The steps of SMTP are taken one by one and not by lettre's transport, because the same refusal means different things: said
//! to EHLO, AUTH or MAIL it is about us, and every mail must wait; said to RCPT or DATA it is about this mail. And a silence
//! before the content is a mail that was not sent, a silence after it one that may have been.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::Mechanism;
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailCommand, Rcpt, Rset};
use lettre::transport::smtp::extension::{Extension, MailParameter};

use crate::domain::notices::{Notice, Subject};

use super::compose::{Mail, NotMailable};
use super::settings::{MailSettings, Sender, Server, Tls, UnusableMailSettings};

/// Connections kept for the next mail; as many as are usually sent at once.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// Servers end a connection after so many mails, or more; we go first.
const MAILS_PER_CONNECTION: u32 = 50;

/// Sends mails. Cloning shares the connections.
#[derive(Clone)]
pub struct Mailer {
    server: Arc<Server>,
    sender: Sender,
    // A plain mutex: it guards memory only and is never held across an await.
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// Why no mail of ours would be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoMail {
    /// The server answers, and does not want us: our login, our TLS, or our sender.
    Refused(String),
    /// There is no mail server at that address.
    NobodyListens(String),
    /// It gave no answer, or is busy.
    NoAnswer(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailOutcome {
    /// The server has taken it.
    Sent,
    /// The server will never take this mail.
    Refused(String),
    /// This mail was not taken; another time, perhaps.
    NotSent(String),
    /// The content was sent and no answer came: it may have been taken.
    Unknown(String),
    /// The server was not reached, or is busy.
    Unreachable(String),
    /// The server does not want us: no mail can be sent before somebody changes the settings.
    Misconfigured(String),
}

struct Connection {
    smtp: AsyncSmtpConnection,
    mails: u32,
}

/// How an attempt ended that no error ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handed {
    Over,
    /// Nothing was said to the server: it would not understand the address.
    NeedsUtf8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Sender,
    Recipient,
    Content,
}

impl std::fmt::Debug for Mailer {
    /// Without server and password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Mailer {
    /// Connects on first use.
    pub fn new(settings: &MailSettings) -> Result<Self, UnusableMailSettings> {
        let (server, sender) = settings.check()?;
        Ok(Self { server: Arc::new(server), sender, idle: Arc::default() })
    }

    pub fn compose(&self, subject: &Subject, notice: &Notice, at: Timestamp) -> Result<Mail, NotMailable> {
        match subject {
            Subject::Order(order) => self.sender.compose(order, notice, at),
            Subject::Drop { .. } => Err(NotMailable::NoBuyer),
        }
    }

    /// A mail that only says that mails arrive.
    pub fn compose_test(&self, to: &str, at: Timestamp) -> Result<Mail, NotMailable> {
        self.sender.compose_test(to, at)
    }

    /// Hands a mail over once. A future that is dropped half way leaves an unknown outcome behind, like a timeout does.
    pub async fn send(&self, mail: &Mail) -> MailOutcome {
        let mut stage = Stage::Connecting;
        match tokio::time::timeout(self.server.send_timeout, self.attempt(mail, &mut stage)).await {
            Ok(Ok(Handed::Over)) => MailOutcome::Sent,
            Ok(Ok(Handed::NeedsUtf8)) => MailOutcome::Refused(
                "the address has letters beyond ASCII before its @, and the mail server does not take such addresses: it \
                 offers no SMTPUTF8"
                    .to_owned(),
            ),
            Ok(Err(error)) => outcome(stage, &error),
            Err(_) => silence(stage, "the mail server gave no answer in time".to_owned()),
        }
    }

    /// Connects, logs in, names the sender of a mail, and takes it back: everything but a mail.
    pub async fn check_server(&self) -> Result<(), NoMail> {
        let checked = async {
            let mut smtp = self.connect().await?.smtp;
            smtp.command(MailCommand::new(Some(self.sender.from.email.clone()), Vec::new())).await?;
            smtp.command(Rset).await?;
            // It has taken our sender; how it says goodbye is its business.
            let _ = smtp.quit().await;
            Ok(())
        };
        match tokio::time::timeout(self.server.send_timeout, checked).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(no_mail(&error)),
            Err(_) => Err(NoMail::NoAnswer("it gave no answer in time".to_owned())),
        }
    }

    /// How mails leave this machine, and who writes them, for an operator.
    pub fn about(&self) -> String {
        let Server { host, port, tls, credentials, .. } = &*self.server;
        let tls = match tls {
            Tls::None => "without TLS",
            Tls::Opportunistic(_) => "with STARTTLS if it has that",
            Tls::Required(_) => "with STARTTLS",
            Tls::FromTheStart(_) => "over TLS",
        };
        let login = if credentials.is_some() { ", logged in" } else { "" };
        format!("{host}:{port} {tls}{login}, as {}", self.sender.from.email)
    }

    async fn attempt(&self, mail: &Mail, stage: &mut Stage) -> Result<Handed, Error> {
        while let Some(connection) = self.take_idle() {
            match self.exchange(connection, mail, stage).await {
                // Servers close what is idle. Nothing has been said on it yet, so the next connection repeats nothing.
                Err(error) if *stage == Stage::Sender && is_closed(&error) => {}
                ended => return ended,
            }
        }
        *stage = Stage::Connecting;
        let connection = self.connect().await?;
        self.exchange(connection, mail, stage).await
    }

    async fn exchange(&self, mut connection: Connection, mail: &Mail, stage: &mut Stage) -> Result<Handed, Error> {
        let smtp = &mut connection.smtp;
        *stage = Stage::Sender;
        let mut parameters = Vec::new();
        // A buyer's address may have letters before its @ that only some servers take; ours, and the content, are ASCII.
        if !mail.envelope.to().iter().all(|address| address.to_string().is_ascii()) {
            if !smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
                self.give_back(connection);
                return Ok(Handed::NeedsUtf8);
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        smtp.command(MailCommand::new(mail.envelope.from().cloned(), parameters)).await?;
        *stage = Stage::Recipient;
        for recipient in mail.envelope.to() {
            smtp.command(Rcpt::new(recipient.clone(), Vec::new())).await?;
        }
        smtp.command(Data).await?;
        *stage = Stage::Content;
        smtp.message(&mail.bytes).await?;
        connection.mails += 1;
        self.give_back(connection);
        Ok(Handed::Over)
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let Server { host, port, tls, hello, credentials, send_timeout } = &*self.server;
        let from_the_start = if let Tls::FromTheStart(parameters) = tls { Some(parameters.clone()) } else { None };
        let address = (host.as_str(), *port);
        let mut smtp =
            AsyncSmtpConnection::connect_tokio1(address, Some(*send_timeout), hello, from_the_start, None).await?;
        let upgrade: Option<&TlsParameters> = match tls {
            Tls::Required(parameters) => Some(parameters),
            Tls::Opportunistic(parameters) if smtp.can_starttls() => Some(parameters),
            _ => None,
        };
        if let Some(parameters) = upgrade {
            smtp.starttls(parameters.clone(), hello).await?;
        }
        if let Some(credentials) = credentials {
            smtp.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await?;
        }
        Ok(Connection { smtp, mails: 0 })
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.mails < MAILS_PER_CONNECTION && idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
    }
}

fn outcome(stage: Stage, error: &Error) -> MailOutcome {
    let text = text(error);
    match stage {
        // 5xx, no STARTTLS where TLS is required, no way to log in: about us.
        Stage::Connecting | Stage::Sender if error.is_permanent() || error.is_client() => {
            MailOutcome::Misconfigured(text)
        }
        Stage::Recipient | Stage::Content if error.is_permanent() || error.is_client() => MailOutcome::Refused(text),
        Stage::Connecting => MailOutcome::Unreachable(text),
        Stage::Sender | Stage::Recipient => MailOutcome::NotSent(text),
        Stage::Content if error.is_transient() => MailOutcome::NotSent(text),
        Stage::Content => MailOutcome::Unknown(text),
    }
}

fn no_mail(error: &Error) -> NoMail {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let refused = inner.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if refused == Some(std::io::ErrorKind::ConnectionRefused) {
            return NoMail::NobodyListens(text(error));
        }
        cause = inner.source();
    }
    match outcome(Stage::Connecting, error) {
        MailOutcome::Misconfigured(text) => NoMail::Refused(text),
        _ if error.is_tls() => NoMail::Refused(text(error)),
        _ => NoMail::NoAnswer(text(error)),
    }
}

fn silence(stage: Stage, text: String) -> MailOutcome {
    match stage {
        Stage::Connecting => MailOutcome::Unreachable(text),
        Stage::Sender | Stage::Recipient => MailOutcome::NotSent(text),
        Stage::Content => MailOutcome::Unknown(text),
    }
}

/// The connection is gone, or 421: "closing transmission channel".
fn is_closed(error: &Error) -> bool {
    error.status().map_or(!error.is_client(), |code| code.to_string() == "421")
}

/// Without line breaks: a server's answer can have several lines.
fn text(error: &Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
