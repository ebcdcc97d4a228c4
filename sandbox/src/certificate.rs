//! A certificate for 127.0.0.1 that nobody trusts but who is told to, for servers that are spoken to over TLS.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Signed by itself. Its file goes with the last copy.
#[derive(Clone)]
pub struct Certificate(Arc<Parts>);

struct Parts {
    der: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    file: NamedTempFile,
}

impl fmt::Debug for Certificate {
    /// There is a private key in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Certificate {
    /// A new one for `127.0.0.1` and `localhost`.
    pub fn new() -> anyhow::Result<Self> {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        let mut file = NamedTempFile::with_prefix("doorbuster-certificate-")?;
        file.write_all(made.cert.pem().as_bytes())?;
        file.flush()?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Ok(Self(Arc::new(Parts { der: made.cert.der().clone(), key, file })))
    }

    /// The certificate in PEM form, without its key: what a client has to trust.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// Its private key in PEM form, for a server that reads it from a file.
    pub fn key_pem(&self) -> String {
        let lines = STANDARD.encode(self.0.key.secret_pkcs8_der());
        let lines = lines.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
        format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n")
    }

    /// Takes connections in its name.
    pub fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().and_then(|config| {
                let key = PrivateKeyDer::Pkcs8(self.0.key.clone_key());
                config.with_no_client_auth().with_single_cert(vec![self.0.der.clone()], key)
            });
        TlsAcceptor::from(Arc::new(config.expect("a certificate that has just been made, with its key")))
    }
}
