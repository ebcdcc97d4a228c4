//! The address of Postgres, and whether the way there is encrypted.

use std::str::FromStr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::Verifier;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::LedgerError;

/// Takes `postgres://user:password@host:5432/database` or `host=… user=…`, with libpq's words for TLS: `sslmode=disable` (the
/// default) or `sslmode=verify-full`, of which `require` and `verify-ca` are other names here: a server whose certificate is not
/// trusted, or is another's, gets no password. `sslrootcert=file.pem` is an authority to trust beside the system's.
pub(super) fn parse(address: &str) -> Result<(Config, MakeRustlsConnect), LedgerError> {
    let (before, settings, separator) = match address.split_once('?') {
        Some((before, settings)) if address.starts_with("postgres") => (before, settings, '&'),
        _ if address.starts_with("postgres") => (address, "", '&'),
        _ => ("", address, ' '),
    };
    let (mut ssl_mode, mut authority, mut rest) = (SslMode::Disable, None, Vec::new());
    for setting in settings.split(separator).filter(|setting| !setting.is_empty()) {
        match setting.split_once('=') {
            Some(("sslmode", "disable")) => ssl_mode = SslMode::Disable,
            Some(("sslmode", "require" | "verify-ca" | "verify-full")) => ssl_mode = SslMode::Require,
            Some(("sslmode", _)) => return Err(unusable("sslmode is disable or verify-full")),
            Some(("sslrootcert", file)) => authority = Some(file),
            _ => rest.push(setting),
        }
    }
    let rest = rest.join(&separator.to_string());
    let plain =
        if before.is_empty() || rest.is_empty() { format!("{before}{rest}") } else { format!("{before}?{rest}") };
    let mut config = Config::from_str(&plain).map_err(|error| LedgerError::Address(error.to_string()))?;
    config.ssl_mode(ssl_mode);
    Ok((config, MakeRustlsConnect::new(client(authority)?)))
}

fn client(authority: Option<&str>) -> Result<ClientConfig, LedgerError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = Vec::new();
    if let Some(file) = authority {
        let certificates = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|_| unusable("the file of sslrootcert cannot be read"))?;
        if certificates.is_empty() {
            return Err(unusable("the file of sslrootcert has no certificate in PEM form"));
        }
        roots = certificates;
    }
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider));
    let verifier = verifier.map_err(|_| unusable("the authorities that this machine trusts cannot be read"))?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| LedgerError::Address(error.to_string()))?;
    Ok(client.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

fn unusable(what: &str) -> LedgerError {
    LedgerError::Address(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_asked_for_in_the_words_of_libpq() {
        for (address, is_tls) in [
            ("postgres://u:p@db.example/shop", false),
            ("postgres://u:p@db.example/shop?sslmode=disable", false),
            ("postgresql://u:p@db.example/shop?sslmode=verify-full&connect_timeout=3", true),
            ("postgres://u:p@db.example/shop?connect_timeout=3&sslmode=require", true),
            ("host=db.example user=u sslmode=verify-ca dbname=shop", true),
            ("host=db.example user=u dbname=shop", false),
        ] {
            let (config, _) = parse(address).unwrap();
            assert_eq!(config.get_ssl_mode(), if is_tls { SslMode::Require } else { SslMode::Disable }, "{address}");
            assert_eq!((config.get_user(), config.get_dbname()), (Some("u"), Some("shop")), "{address}");
        }
        for address in [
            "postgres://u:secret@db.example/shop?sslmode=prefer",
            "postgres://u:secret@db.example/shop?sslmode=verify-full&sslrootcert=/nowhere.pem",
            "postgres://u:secret@db.example/shop?sslmode=verify-full&sslrootcert=/dev/null",
            "postgres://u:secret@db.example/shop?unheard=of",
        ] {
            let error = parse(address).err().unwrap_or_else(|| panic!("{address}")).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
