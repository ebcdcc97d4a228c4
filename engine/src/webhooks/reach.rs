//! Whether somebody is there who would take events: a connection and a handshake, and no request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::Verifier;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bounds name lookup, TCP and TLS, as it does for an event.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no event would arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReached {
    /// The machine is there, and nobody listens.
    NobodyListens,
    /// Somebody answers whom we must not believe, or who speaks no TLS.
    Untrusted(String),
    NoAnswer(String),
}

pub(super) async fn reach(url: &Url) -> Result<(), NotReached> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(url)).await;
    connected.unwrap_or_else(|_| Err(NotReached::NoAnswer("no answer in time".to_owned())))
}

async fn connect(url: &Url) -> Result<(), NotReached> {
    let no_answer = |what: &str| NotReached::NoAnswer(what.to_owned());
    let host = url.host_str().ok_or_else(|| no_answer("the address names no host"))?;
    // An address of IPv6 stands in brackets, which belong to the URL.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().ok_or_else(|| no_answer("the address names no port"))?;
    let mut stream = TcpStream::connect((host, port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => NotReached::NobodyListens,
        _ => NotReached::NoAnswer(error.to_string()),
    })?;
    if url.scheme() == "http" {
        let _ = stream.shutdown().await;
        return Ok(());
    }
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| no_answer("the host has a name that TLS cannot use"))?;
    let connector = TlsConnector::from(Arc::new(client().map_err(NotReached::NoAnswer)?));
    let mut stream = connector.connect(name, stream).await.map_err(|error| match error.kind() {
        // What rustls has to say of the other side's words.
        io::ErrorKind::InvalidData => NotReached::Untrusted(error.to_string()),
        _ => NotReached::NoAnswer(error.to_string()),
    })?;
    let _ = stream.shutdown().await;
    Ok(())
}

/// Trusts whom the client of events trusts: the authorities of this machine.
fn client() -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(Arc::clone(&provider)).map_err(|error| error.to_string())?;
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.map_err(|error| error.to_string())?.dangerous();
    Ok(client.with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}
