//! The only user of the public beacon: asks for one round, and believes nobody. An answer counts once its signature has been
//! checked (`domain/line/beacon.rs`); where it comes from does not matter.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use url::Url;

use crate::domain::line::beacon::{Chain, Pulse};

/// A round is two hundred bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// Where drand's rounds are to be had, unless the configuration says otherwise.
pub const DRAND: [&str; 3] = ["https://api.drand.sh", "https://drand.cloudflare.com", "https://api2.drand.sh"];

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct BeaconClient {
    addresses: Vec<Url>,
    /// `None`: there is no address, so no draw of drand's is ever decided.
    http: Option<Client>,
}

/// Why a round could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no beacon has given round {round}: {}", .reasons.join("; "))]
pub struct NoPulse {
    pub round: u64,
    /// One for each address.
    pub reasons: Vec<String>,
}

impl BeaconClient {
    pub fn new(addresses: Vec<Url>) -> Result<Self, reqwest::Error> {
        let http = Client::builder().timeout(ASK_WITHIN).redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { addresses, http: Some(http) })
    }

    /// A round of a chain, checked. Each address is asked in turn until one has it.
    pub async fn pulse(&self, chain: &Chain, round: u64) -> Result<Pulse, NoPulse> {
        let mut reasons = Vec::new();
        for (address, http) in self.addresses.iter().zip(self.http.iter().cycle()) {
            let asked = ask(http, address, chain, round).await;
            match asked.and_then(|text| check(chain, round, &text)) {
                Ok(pulse) => return Ok(pulse),
                Err(reason) => reasons.push(format!("{}: {reason}", address.host_str().unwrap_or("?"))),
            }
        }
        if self.addresses.is_empty() {
            reasons.push("no address of a beacon is configured".to_owned());
        }
        Err(NoPulse { round, reasons })
    }
}

async fn ask(http: &Client, address: &Url, chain: &Chain, round: u64) -> Result<String, String> {
    let base = address.as_str().trim_end_matches('/');
    let address = format!("{base}/{}/public/{round}", chain.chain_hash);
    let mut answer = http.get(address).send().await.map_err(|error| error.without_url().to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    let mut text = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        text.extend_from_slice(&part);
        if text.len() > ANSWER_BYTES_MAX {
            return Err("its answer is too long for a round".to_owned());
        }
    }
    String::from_utf8(text).map_err(|_| "its answer is no text".to_owned())
}

/// What somebody says of a round, checked.
pub fn check(chain: &Chain, round: u64, text: &str) -> Result<Pulse, String> {
    let pulse = Pulse::from_json(text).map_err(|error| error.to_string())?;
    if pulse.round != round {
        return Err(format!("it answers with round {}", pulse.round));
    }
    chain.verify(&pulse).map_err(|error| error.to_string())?;
    Ok(pulse)
}
