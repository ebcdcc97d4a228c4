//! A mail server that delivers nothing: it takes mail over SMTP (RFC 5321) on 127.0.0.1 and keeps it in memory.
//!
//! It must never help the sender: it knows nothing of our mails, checks the order of the commands, and what it has taken it has
//! written down before it answers, so that a lost answer is a mail that arrived.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::certificate::Certificate;
use crate::provider::faults::mix;

/// RFC 5321 allows 512 bytes for a command and 1000 for a line of text; nothing we talk to needs more.
const LINE_BYTES_MAX: u64 = 4096;
const MAIL_BYTES_MAX: usize = 1024 * 1024;

/// How the server behaves. The default takes everything at once.
#[derive(Debug, Clone)]
pub struct SmtpSinkOptions {
    /// The same seed fails the same mails: each draw depends on seed, recipient and attempt.
    pub seed: u64,
    /// 421 to RCPT, and the connection is closed.
    pub busy_rate: f64,
    /// 450 to RCPT: try again later.
    pub later_rate: f64,
    /// 550 to RCPT: never.
    pub refused_rate: f64,
    /// The mail is taken, then the connection is closed without an answer.
    pub lost_answer_rate: f64,
    /// Between the last byte of a mail and its answer.
    pub delay: Duration,
    /// User and password without which nothing is taken.
    pub login: Option<(String, String)>,
    /// 550 to every MAIL: our sender may not write from here.
    pub refuses_sender: bool,
    pub tls: SinkTls,
}

/// Whether a connection is encrypted, and from when on.
#[derive(Debug, Clone, Default)]
pub enum SinkTls {
    #[default]
    None,
    /// STARTTLS (RFC 3207); nothing is taken without it.
    Upgrade(Certificate),
    /// From the first byte (RFC 8314), as on port 465.
    FromTheStart(Certificate),
}

impl Default for SmtpSinkOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            busy_rate: 0.0,
            later_rate: 0.0,
            refused_rate: 0.0,
            lost_answer_rate: 0.0,
            delay: Duration::ZERO,
            login: None,
            refuses_sender: false,
            tls: SinkTls::None,
        }
    }
}

/// A mail as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMail {
    pub from: String,
    pub to: Vec<String>,
    /// Header and body, lines ended by CR LF, dots unstuffed.
    pub data: Vec<u8>,
    /// Whether the sender was told that it was taken.
    pub is_answered: bool,
    /// Whether nobody on the way could read it.
    pub is_encrypted: bool,
}

/// A running mail server. Dropping it stops it.
#[derive(Debug)]
pub struct SmtpSink {
    state: Arc<State>,
    address: SocketAddr,
    stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    options: SmtpSinkOptions,
    // Plain mutexes: they guard memory only and are never held across an await.
    mails: Mutex<Vec<ReceivedMail>>,
    attempts: Mutex<HashMap<String, u64>>,
    refused: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Plain,
    ToUpgrade,
    Upgraded,
    Encrypted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Busy,
    Later,
    Refused,
    LostAnswer,
}

impl SmtpSink {
    pub async fn start(options: SmtpSinkOptions) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (mails, attempts) = (Mutex::default(), Mutex::default());
        let state = Arc::new(State { options, mails, attempts, refused: AtomicU64::new(0) });
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&state), stop.clone())));
        Ok(Self { state, address, stop })
    }

    /// `smtp://127.0.0.1:port`, with user and password if it wants them; with TLS, what it takes to trust it.
    pub fn url(&self) -> String {
        let (scheme, query) = match &self.state.options.tls {
            SinkTls::None => ("smtp", String::new()),
            SinkTls::Upgrade(certificate) => ("smtp", format!("?tls=required&ca={}", certificate.path().display())),
            SinkTls::FromTheStart(certificate) => ("smtps", format!("?ca={}", certificate.path().display())),
        };
        let login = self.state.options.login.as_ref();
        let login = login.map(|(user, password)| format!("{user}:{password}@")).unwrap_or_default();
        format!("{scheme}://{login}{}{query}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was taken, in the order in which it came; repeats too.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.state.mails().clone()
    }

    /// How many mails were refused for ever.
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::Relaxed)
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl ReceivedMail {
    /// A header by its name, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.data);
        let head = text.split("\r\n\r\n").next()?.replace("\r\n ", " ").replace("\r\n\t", " ");
        let mut lines = head.split("\r\n");
        lines.find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    pub fn message_id(&self) -> String {
        self.header("message-id").unwrap_or_default()
    }
}

impl State {
    fn mails(&self) -> MutexGuard<'_, Vec<ReceivedMail>> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, recipient: &str) -> Fault {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = attempts.entry(recipient.to_owned()).or_default();
        *attempt += 1;
        let chance = StdRng::seed_from_u64(mix(self.options.seed, *attempt, recipient)).random::<f64>();
        let SmtpSinkOptions { busy_rate, later_rate, refused_rate, lost_answer_rate, .. } = self.options;
        let faults = [
            (Fault::Busy, busy_rate),
            (Fault::Later, later_rate),
            (Fault::Refused, refused_rate),
            (Fault::LostAnswer, lost_answer_rate),
        ];
        let mut above = 0.0;
        for (fault, rate) in faults {
            above += rate;
            if chance < above {
                return fault;
            }
        }
        Fault::None
    }

    fn is_login(&self, argument: &str) -> bool {
        let Some((user, password)) = &self.options.login else { return true };
        let given = argument.split_once(' ').and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok());
        given.is_some_and(|given| given == format!("\0{user}\0{password}").into_bytes())
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            // A sender that hangs up is the sender's business.
            let _ = serve(stream, &state).await;
        }));
    }
}

/// One connection, to its end.
async fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    match &state.options.tls {
        SinkTls::None => converse(stream, state, Channel::Plain).await.map(drop),
        SinkTls::FromTheStart(certificate) => {
            let stream = certificate.acceptor().accept(stream).await?;
            converse(stream, state, Channel::Encrypted).await.map(drop)
        }
        SinkTls::Upgrade(certificate) => {
            let Some(stream) = converse(stream, state, Channel::ToUpgrade).await? else { return Ok(()) };
            let stream = certificate.acceptor().accept(stream).await?;
            converse(stream, state, Channel::Upgraded).await.map(drop)
        }
    }
}

/// The commands and answers of one connection; its stream, if it is to be encrypted now.
async fn converse<S>(stream: S, state: &State, channel: Channel) -> io::Result<Option<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    let mut is_known = state.options.login.is_none();
    let mut from: Option<String> = None;
    let mut to: Vec<String> = Vec::new();
    let mut is_lost = false;
    let is_encrypted = matches!(channel, Channel::Encrypted | Channel::Upgraded);
    // After STARTTLS the client begins anew with EHLO, without a greeting.
    if channel != Channel::Upgraded {
        stream.write_all(b"220 sink.invalid ESMTP\r\n").await?;
    }
    while let Some(line) = read_line(&mut stream).await? {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb.to_ascii_uppercase().as_str() {
            "EHLO" if channel == Channel::ToUpgrade => "250-sink.invalid\r\n250 STARTTLS",
            "STARTTLS" if channel == Channel::ToUpgrade => {
                stream.write_all(b"220 go ahead\r\n").await?;
                // What a client sent before it was told to go on was sent in the clear: never answered (RFC 3207, 5).
                return Ok(stream.buffer().is_empty().then(|| stream.into_inner()));
            }
            "AUTH" | "MAIL" if channel == Channel::ToUpgrade => "530 5.7.0 STARTTLS first",
            "EHLO" if state.options.login.is_some() => "250-sink.invalid\r\n250-AUTH PLAIN\r\n250 8BITMIME",
            "EHLO" => "250-sink.invalid\r\n250-SMTPUTF8\r\n250 8BITMIME",
            "HELO" => "250 sink.invalid",
            "AUTH" if state.is_login(argument) => {
                is_known = true;
                "235 welcome"
            }
            "AUTH" => "535 5.7.8 credentials invalid",
            "MAIL" if !is_known => "530 5.7.0 authentication required",
            "MAIL" if state.options.refuses_sender => "550 5.7.1 sender not allowed",
            "MAIL" if from.is_some() => "503 5.5.1 there is a mail already",
            "MAIL" => match path(argument, "FROM:") {
                Some(path) => {
                    from = Some(path);
                    "250 go on"
                }
                None => "501 5.5.4 whose mail?",
            },
            "RCPT" if from.is_none() => "503 5.5.1 MAIL first",
            "RCPT" => match path(argument, "TO:") {
                Some(recipient) => match state.draw(&recipient) {
                    Fault::Busy => {
                        stream.write_all(b"421 4.3.2 too busy\r\n").await?;
                        return Ok(None);
                    }
                    Fault::Later => "450 4.2.0 try again later",
                    Fault::Refused => {
                        state.refused.fetch_add(1, Ordering::Relaxed);
                        "550 5.1.1 no such mailbox"
                    }
                    fault => {
                        is_lost = fault == Fault::LostAnswer;
                        to.push(recipient);
                        "250 go on"
                    }
                },
                None => "501 5.5.4 to whom?",
            },
            "DATA" if to.is_empty() => "503 5.5.1 RCPT first",
            "DATA" => {
                stream.write_all(b"354 end with a dot\r\n").await?;
                let Some(data) = read_data(&mut stream).await? else { return Ok(None) };
                tokio::time::sleep(state.options.delay).await;
                let (from, to) = (from.take().unwrap_or_default(), std::mem::take(&mut to));
                state.mails().push(ReceivedMail { from, to, data, is_answered: !is_lost, is_encrypted });
                if is_lost {
                    return Ok(None);
                }
                "250 2.0.0 taken"
            }
            "RSET" => {
                (from, to) = (None, Vec::new());
                "250 forgotten"
            }
            "NOOP" => "250 still here",
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(None);
            }
            _ => "502 5.5.1 unknown command",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(None)
}

/// `FROM:<a@b> …` or `TO:<a@b> …`.
fn path(argument: &str, prefix: &str) -> Option<String> {
    let rest = argument.get(..prefix.len())?.eq_ignore_ascii_case(prefix).then(|| argument[prefix.len()..].trim())?;
    let (path, _) = rest.strip_prefix('<')?.split_once('>')?;
    Some(path.to_owned())
}

/// A line with its end; `None` at the end of the connection, or after a line that is too long.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
    Ok(line.ends_with(b"\n").then_some(line))
}

/// A mail up to its dot; `None` if the connection ends before it.
async fn read_data(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut data = Vec::new();
    while let Some(line) = read_line(reader).await? {
        if line == b".\r\n" {
            return Ok(Some(data));
        }
        data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        if data.len() > MAIL_BYTES_MAX {
            return Ok(None);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says these lines, one by one, and gives the codes of the answers.
    async fn talk(sink: &SmtpSink, lines: &[&str]) -> Vec<String> {
        let stream = TcpStream::connect(sink.address()).await.unwrap();
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut codes = Vec::new();
        for line in std::iter::once(&"").chain(lines) {
            if !line.is_empty() {
                writer.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
            }
            loop {
                let Some(answer) = read_line(&mut reader).await.unwrap() else { return codes };
                if answer[3] == b' ' {
                    codes.push(String::from_utf8_lossy(&answer[..3]).into_owned());
                    break;
                }
            }
        }
        codes
    }

    #[tokio::test]
    async fn mail_is_taken_in_the_order_of_the_protocol_and_kept_as_it_came() {
        let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
        let text = "Message-ID: <1@x>\r\nSubject: a\r\n b\r\n\r\n..stuffed\r\n.";
        let lines = [
            "RCPT TO:<b@x>",
            "EHLO me",
            "DATA",
            "MAIL FROM:<a@x>",
            "rcpt to:<b@x>",
            "DATA",
            text,
            "NOOP",
            "BOO",
            "QUIT",
        ];
        assert_eq!(talk(&sink, &lines).await.join(" "), "220 503 250 503 250 250 354 250 250 502 221");
        let mails = sink.mails();
        assert_eq!((mails.len(), mails[0].from.as_str(), mails[0].to.join(" ")), (1, "a@x", "b@x".to_owned()));
        assert_eq!((mails[0].message_id().as_str(), mails[0].header("subject")), ("<1@x>", Some("a b".to_owned())));
        assert!(mails[0].data.ends_with(b"\r\n\r\n.stuffed\r\n"));
    }

    #[tokio::test]
    async fn faults_do_what_they_say() {
        let session = ["MAIL FROM:<a@x>", "RCPT TO:<b@x>", "DATA", "\r\n."];
        let with = |change: fn(&mut SmtpSinkOptions)| {
            let mut options = SmtpSinkOptions::default();
            change(&mut options);
            SmtpSink::start(options)
        };
        for (change, codes, taken) in [
            ((|o| o.busy_rate = 1.0) as fn(&mut SmtpSinkOptions), "220 250 421", 0),
            (|o| o.later_rate = 1.0, "220 250 450 503 502", 0),
            (|o| o.refused_rate = 1.0, "220 250 550 503 502", 0),
            (|o| o.lost_answer_rate = 1.0, "220 250 250 354", 1),
            (|o| o.login = Some(("u".to_owned(), "p".to_owned())), "220 530 503 503 502", 0),
        ] {
            let sink = with(change).await.unwrap();
            assert_eq!(talk(&sink, &session).await.join(" "), codes);
            assert_eq!(sink.mails().iter().filter(|mail| !mail.is_answered).count(), taken);
        }
    }
}
