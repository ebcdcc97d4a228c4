//! The beacon: where the chance of a draw comes from. drand signs the number of a round at the time that belongs to it,
//! so nobody knows its signature before, and nobody can choose it. Where a shop has another source, its own secret is
//! in the seed too, and the page says what that means.

use blst::BLST_ERROR;
use blst::min_sig::{PublicKey, Signature};
use jiff::Timestamp;
use regex::Regex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::hex::{self, Digest, Hex};

/// Scheme `bls-unchained-g1-rfc9380`: signatures on G1, keys on G2.
pub const SCHEME: &str = "bls-unchained-g1-rfc9380";
const DOMAIN: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

/// A chain of drand's, and all that is needed to check its rounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    pub chain_hash: Digest,
    pub public_key: Hex<96>,
    pub period_seconds: u32,
    /// The time of round 1, in seconds since 1970.
    pub genesis: i64,
}

impl Chain {
    /// The network of the League of Entropy without chaining: a round every 3 seconds.
    pub fn quicknet() -> Self {
        const KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d10\
            64510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
        const HASH: &str = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971";
        Self {
            chain_hash: HASH.parse().expect("64 digits"),
            public_key: KEY.parse().expect("192 digits"),
            period_seconds: 3,
            genesis: 1_692_803_367,
        }
    }

    /// The first round at or after this time.
    pub fn round_at(&self, time: Timestamp) -> u64 {
        // Part of a second counts as a whole one: the round must not be earlier.
        let seconds = time.as_nanosecond().div_euclid(1_000_000_000) + i128::from(time.subsec_nanosecond() != 0);
        let elapsed = (seconds - i128::from(self.genesis)).max(0) as u64;
        elapsed.div_ceil(u64::from(self.period_seconds.max(1))) + 1
    }

    /// When a round is due. `None`: it is no round, or lies behind the end of time.
    pub fn time_of(&self, round: u64) -> Option<Timestamp> {
        let elapsed = round.checked_sub(1)?.checked_mul(u64::from(self.period_seconds))?;
        Timestamp::from_second(self.genesis.checked_add_unsigned(elapsed)?).ok()
    }

    /// Whether the beacon has signed this round, and nothing else was made of it.
    pub fn verify(&self, pulse: &Pulse) -> Result<(), BadPulse> {
        let key = PublicKey::key_validate(&self.public_key.0).map_err(|_| BadPulse::Key)?;
        let signature = Signature::from_bytes(&pulse.signature.0).map_err(|_| BadPulse::Signature)?;
        if signature.verify(true, &message(pulse.round), DOMAIN, &[], &key, false) != BLST_ERROR::BLST_SUCCESS {
            return Err(BadPulse::Signature);
        }
        if pulse.randomness != Hex(Sha256::digest(pulse.signature.0).into()) {
            return Err(BadPulse::Randomness);
        }
        Ok(())
    }

    /// Reads drand's description of a chain (`/{chain hash}/info`), and checks that the hash is the hash of it.
    pub fn from_info(text: &str) -> Result<Self, BadChain> {
        let info: Info = serde_json::from_str(text).map_err(|_| BadChain::NotInfo)?;
        if info.scheme_id != SCHEME {
            return Err(BadChain::Scheme(info.scheme_id));
        }
        let mut hash = Sha256::new();
        hash.update(info.period.to_be_bytes());
        hash.update(info.genesis_time.to_be_bytes());
        hash.update(info.public_key.0);
        hash.update(info.group_hash.0);
        if info.metadata.beacon_id != "default" {
            hash.update(&info.metadata.beacon_id);
        }
        if info.hash != Hex(hash.finalize().into()) {
            return Err(BadChain::Hash);
        }
        PublicKey::key_validate(&info.public_key.0).map_err(|_| BadChain::Key)?;
        Ok(Self {
            chain_hash: info.hash,
            public_key: info.public_key,
            period_seconds: info.period,
            genesis: info.genesis_time,
        })
    }
}

fn message(round: u64) -> [u8; 32] {
    Sha256::digest(round.to_be_bytes()).into()
}

/// Fields that other versions add are of no consequence: the hash covers what is used.
#[derive(Deserialize)]
struct Info {
    public_key: Hex<96>,
    period: u32,
    genesis_time: i64,
    hash: Digest,
    #[serde(rename = "groupHash")]
    group_hash: Digest,
    #[serde(rename = "schemeID")]
    scheme_id: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "beaconID")]
    beacon_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChain {
    #[error("this is not the description of a drand chain")]
    NotInfo,
    #[error("the chain's scheme is {0}; only {SCHEME} can be verified")]
    Scheme(String),
    #[error("the chain's hash is not the hash of its description")]
    Hash,
    #[error("the chain's public key is no key")]
    Key,
}

/// One round, as drand answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pulse {
    pub round: u64,
    pub randomness: Digest,
    pub signature: Hex<48>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPulse {
    #[error("this is not a round of the beacon: round, randomness and signature are needed, and nothing else")]
    NotARound,
    #[error("the chain's public key is no key")]
    Key,
    #[error("the beacon has not signed this round")]
    Signature,
    #[error("the randomness is not the hash of the signature")]
    Randomness,
}

impl Pulse {
    pub fn from_json(text: &str) -> Result<Self, BadPulse> {
        serde_json::from_str(text).map_err(|_| BadPulse::NotARound)
    }
}

/// What a shop's secret is bound to before anybody can know the result; it stands in the rules.
pub fn commitment(secret: &[u8]) -> Digest {
    Hex(Sha256::new().chain_update(b"doorbuster/draw/2/secret").chain_update(secret).finalize().into())
}

/// The form that a result typed by hand must have, the whole of it: visible ASCII, so that it has one spelling.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pattern must be a regular expression of at most 200 visible ASCII characters that spells a result in one way: {0}"
)]
pub struct InvalidPattern(String);

const PATTERN_BYTES_MAX: usize = 200;

impl Pattern {
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX || !is_printable(text) {
            return Err(InvalidPattern("too long, or other characters".to_owned()));
        }
        // By itself as well: brackets of its own must not end those around it.
        let checked = Regex::new(text).and_then(|_| Regex::new(&format!(r"\A(?:{text})\z")));
        checked.map(Self).map_err(|error| InvalidPattern(error.to_string()))
    }

    pub fn matches(&self, result: &str) -> bool {
        is_printable(result) && self.0.is_match(result)
    }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// A secret as it is published once the draw stands: 16 bytes at least, or it could be guessed.
pub fn secret_of(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).filter(|secret| secret.len() >= 16)
}

#[cfg(test)]
pub(crate) mod tests {
    use blst::min_sig::SecretKey;

    use super::*;

    /// A round of quicknet, as everybody has had it since August 2023.
    fn round_1000() -> Pulse {
        Pulse::from_json(
            r#"{"round":1000,"randomness":"fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd",
            "signature":
            "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"}"#,
        )
        .unwrap()
    }

    fn info() -> String {
        let chain = Chain::quicknet();
        format!(
            r#"{{"public_key":"{}","period":3,"genesis_time":1692803367,"hash":"{}",
            "groupHash":"f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e",
            "schemeID":"{SCHEME}","metadata":{{"beaconID":"quicknet"}}}}"#,
            chain.public_key, chain.chain_hash
        )
    }

    /// A chain whose key this test has.
    pub(crate) fn chain_of(key: &SecretKey) -> Chain {
        Chain {
            chain_hash: Hex([9; 32]),
            public_key: Hex(key.sk_to_pk().to_bytes()),
            period_seconds: 3,
            genesis: 1_700_000_000,
        }
    }

    pub(crate) fn pulse_of(key: &SecretKey, round: u64) -> Pulse {
        let signature = key.sign(&message(round), DOMAIN, &[]).to_bytes();
        Pulse { round, randomness: Hex(Sha256::digest(signature).into()), signature: Hex(signature) }
    }

    #[test]
    fn a_real_round_of_quicknet_is_good_and_no_other_is() {
        let (chain, pulse) = (Chain::quicknet(), round_1000());
        assert_eq!(chain.verify(&pulse), Ok(()));
        assert_eq!(chain.verify(&Pulse { round: 1001, ..pulse }), Err(BadPulse::Signature));
        let mut forged = pulse;
        forged.randomness.0[0] ^= 1;
        assert_eq!(chain.verify(&forged), Err(BadPulse::Randomness));
        // A point of the curve, and a good signature, with another key.
        let foreign = pulse_of(&SecretKey::key_gen(&[3; 32], &[]).unwrap(), 1000);
        assert_eq!(chain.verify(&foreign), Err(BadPulse::Signature));
        for no_point in [[0; 48], [0xff; 48]] {
            let signature = Hex(no_point);
            let randomness = Hex(Sha256::digest(no_point).into());
            assert_eq!(chain.verify(&Pulse { signature, randomness, ..pulse }), Err(BadPulse::Signature));
        }
        assert_eq!(Chain { public_key: Hex([0; 96]), ..chain }.verify(&pulse), Err(BadPulse::Key));
    }

    #[test]
    fn the_point_at_infinity_is_neither_key_nor_signature() {
        let mut infinity = ([0; 48], [0; 96]);
        (infinity.0[0], infinity.1[0]) = (0xc0, 0xc0);
        let signature = Hex(infinity.0);
        let pulse = Pulse { round: 1, signature, randomness: Hex(Sha256::digest(infinity.0).into()) };
        assert_eq!(Chain::quicknet().verify(&pulse), Err(BadPulse::Signature));
        let chain = Chain { public_key: Hex(infinity.1), ..Chain::quicknet() };
        assert_eq!(chain.verify(&pulse), Err(BadPulse::Key));
    }

    /// The real signature and a point of small order, added up: a pairing takes the sum for the signature. Whoever
    /// could add such points could choose among many random numbers.
    #[test]
    fn a_signature_outside_of_the_group_is_none() {
        let sum = "94385d48ab9d338824a523ff7d310fbeeac0184598d56b49f27857bcd3ef91f6ead1c7ef99c9beee47784ebba5c635de";
        let signature: Hex<48> = sum.parse().unwrap();
        let randomness = Hex(Sha256::digest(signature.0).into());
        let pulse = Pulse { signature, randomness, ..round_1000() };
        assert_eq!(Chain::quicknet().verify(&pulse), Err(BadPulse::Signature));
    }

    #[test]
    fn the_hash_of_a_chain_is_checked() {
        assert_eq!(Chain::from_info(&info()), Ok(Chain::quicknet()));
        // The default chain of a network has a hash without its name.
        let unnamed = "bb53bd3c1f404463b224d27e22872c4754f7d4f5549693d349f616c3ac27d4a9";
        let default = info().replace("\"quicknet\"", "\"default\"");
        let default = default.replace(&Chain::quicknet().chain_hash.to_string(), unnamed);
        assert_eq!(Chain::from_info(&default).map(|chain| chain.chain_hash.to_string()), Ok(unnamed.to_owned()));
        let cases = [
            ("\"period\":3", "\"period\":30", BadChain::Hash),
            ("1692803367", "1692803366", BadChain::Hash),
            ("\"quicknet\"", "\"default\"", BadChain::Hash),
            ("f477", "f478", BadChain::Hash),
            ("bls-un", "bls-", BadChain::Scheme("bls-chained-g1-rfc9380".to_owned())),
            ("\"hash\"", "\"hush\"", BadChain::NotInfo),
        ];
        for (from, to, expected) in cases {
            assert_eq!(Chain::from_info(&info().replacen(from, to, 1)), Err(expected), "{from}");
        }
    }

    #[test]
    fn a_round_has_a_time_and_a_time_has_a_first_round() {
        let chain = Chain::quicknet();
        let at = |millis: i64| Timestamp::from_millisecond(1_692_803_367_000 + millis).unwrap();
        for (millis, round) in [(-9_000_000, 1), (0, 1), (1, 2), (3_000, 2), (3_001, 3), (6_000, 3), (2_997_000, 1000)]
        {
            assert_eq!(chain.round_at(at(millis)), round, "{millis}");
        }
        assert_eq!(chain.time_of(1), Some(at(0)));
        assert_eq!(chain.time_of(1000), Some(at(2_997_000)));
        for no_round in [0, u64::MAX, u64::MAX / 4] {
            assert_eq!(chain.time_of(no_round), None, "{no_round}");
        }
    }

    #[test]
    fn an_answer_of_the_beacon_is_read_strictly() {
        let text = serde_json::to_string(&round_1000()).unwrap();
        assert_eq!(Pulse::from_json(&text), Ok(round_1000()));
        for bad in [
            text.replace("1000", "-1"),
            text.replace("fe290", "FE290"),
            text.replace("fe290", "fe29"),
            text.replace("\"round\"", "\"rund\""),
            text.replace('}', ",\"more\":1}"),
            format!("{text}{text}"),
        ] {
            assert_eq!(Pulse::from_json(&bad), Err(BadPulse::NotARound), "{bad}");
        }
    }

    #[test]
    fn a_typed_result_is_the_whole_of_its_pattern() {
        let pattern = Pattern::new(r"\d{2}(-\d{2}){2}|none").unwrap();
        for (result, matches) in [
            ("04-11-23", true),
            ("none", true),
            ("04-11-23 ", false),
            (" 04-11-23", false),
            ("04-11-23\n", false),
            ("٠٤-11-23", false),
        ] {
            assert_eq!(pattern.matches(result), matches, "{result:?}");
        }
        for bad in ["", "(", "a)|(b", "é", &"a".repeat(201)] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }

    /// `printf 'doorbuster/draw/2/secretsecret' | sha256sum`
    #[test]
    fn a_commitment_is_a_hash_of_the_secret() {
        assert_eq!(
            commitment(b"secret").to_string(),
            "6201542a0d2790407e667a537544c3954b81e1bf4bacb8fc70d1838f311789d5"
        );
        assert_eq!(secret_of(&"ab".repeat(16)), Some(vec![0xab; 16]));
        assert_eq!(secret_of(&"ab".repeat(15)), None);
    }
}
