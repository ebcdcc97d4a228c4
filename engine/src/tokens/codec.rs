//! Bytes on the way to and from the scripts: cmsgpack arguments, packed outcomes, records of buyers, the claim log.

use rmp::{decode, encode};

use super::contract::status;
use super::error::TokenError;
use crate::domain::claims::{Claim, Quantity, ToldTotal};
use crate::domain::ids::{BuyerId, ClaimId, DropId, Serial, VariantNumber, WarehouseNumber};

const WRITING: &str = "a Vec takes every write";

/// A growing cmsgpack value.
#[derive(Default)]
pub(super) struct Packed(pub(super) Vec<u8>);

impl Packed {
    pub(super) fn array(mut self, len: usize) -> Self {
        encode::write_array_len(&mut self.0, len as u32).expect(WRITING);
        self
    }

    pub(super) fn text(&mut self, bytes: &[u8]) {
        encode::write_str_len(&mut self.0, bytes.len() as u32).expect(WRITING);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, number: u32) {
        encode::write_uint(&mut self.0, u64::from(number)).expect(WRITING);
    }

    pub(super) fn serials(&mut self, serials: &[Serial]) {
        encode::write_array_len(&mut self.0, serials.len() as u32).expect(WRITING);
        for serial in serials {
            self.text(serial.0.to_string().as_bytes());
        }
    }
}

/// The batch of `claim`.
#[derive(Default)]
pub(super) struct Batch {
    /// In the order of their first use.
    pub(super) variants: Vec<VariantNumber>,
    pub(super) names: Vec<u8>,
    pub(super) requests: Vec<u8>,
    /// Empty, if nobody was told anything.
    pub(super) told: Vec<u8>,
}

pub(super) fn pack_claims(claims: &[Claim]) -> Batch {
    let mut batch = Batch::default();
    let mut names = Packed(Vec::with_capacity(claims.len() * 24));
    for claim in claims {
        if !batch.variants.contains(&claim.variant) {
            batch.variants.push(claim.variant);
        }
        names.text(claim.buyer.as_str().as_bytes());
        batch.requests.extend(pack_request(claim));
    }
    if claims.iter().any(|claim| claim.told.is_some()) {
        batch.told = claims.iter().flat_map(|claim| pack_told(claim.told)).collect();
    }
    Batch { names: names.0, ..batch }
}

/// Tail of the claim id, variant, quantity.
pub(super) fn pack_request(claim: &Claim) -> [u8; 14] {
    let mut request = [0; 14];
    request[..ClaimId::TAIL_BYTES].copy_from_slice(&claim.id.tail());
    request[12..].copy_from_slice(&[claim.variant.0, claim.quantity.as_byte()]);
    request
}

/// Bytes of one claim that say what its buyer was told: country and total, or zeros.
const TOLD_BYTES: usize = 10;

fn pack_told(told: Option<ToldTotal>) -> [u8; TOLD_BYTES] {
    let mut packed = [0; TOLD_BYTES];
    if let Some(told) = told {
        packed[..2].copy_from_slice(&told.country.bytes());
        packed[2..].copy_from_slice(&told.total_minor.to_be_bytes());
    }
    packed
}

fn unpack_told(reader: &mut Reader<'_>) -> Result<Option<ToldTotal>, TokenError> {
    let packed = reader.take(TOLD_BYTES)?;
    if packed == [0; TOLD_BYTES] {
        return Ok(None);
    }
    let (country, total) = packed.split_at(2);
    let known = std::str::from_utf8(country).ok().and_then(|country| country.parse().ok());
    let total_minor = i64::from_be_bytes(total.try_into().expect("eight bytes are left of ten"));
    match known {
        Some(country) if total_minor >= 0 => Ok(Some(ToldTotal { country, total_minor })),
        _ => Err(reader.bad(format!("{total_minor} was told for {country:?}"))),
    }
}

pub(super) fn variant_bytes(variants: &[VariantNumber]) -> Vec<u8> {
    variants.iter().map(|variant| variant.0).collect()
}

/// How one claim of a batch ended in its warehouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchOutcome {
    Taken(Vec<Serial>),
    Replayed(Vec<Serial>),
    Released,
    KeyReused,
    OverLimit {
        held: u32,
    },
    /// Fewer free here than asked for. Other warehouses may have more.
    Short {
        free: u32,
    },
    NotOpen,
    Closed,
    TooManyReleased,
}

/// Reads bytes one field at a time; running out of them is an error with the script's name.
struct Reader<'a> {
    script: &'static str,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], TokenError> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or_else(|| self.bad("the bytes end too early"))?;
        self.bytes = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, TokenError> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u32, TokenError> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    fn serials(&mut self, count: u8) -> Result<Vec<Serial>, TokenError> {
        (0..count).map(|_| Ok(Serial(self.number()?))).collect()
    }

    fn bad(&self, what: impl Into<String>) -> TokenError {
        TokenError::BadReply { script: self.script, what: what.into() }
    }
}

pub(super) fn unpack_outcomes(
    statuses: &[u8],
    details: &[u8],
    claims: &[Claim],
) -> Result<Vec<BatchOutcome>, TokenError> {
    let mut reader = Reader { script: "claim", bytes: details };
    if statuses.len() != claims.len() {
        return Err(reader.bad(format!("{} statuses for {} claims", statuses.len(), claims.len())));
    }
    let outcomes = claims
        .iter()
        .zip(statuses)
        .map(|(claim, status)| match *status {
            status::TAKEN => Ok(BatchOutcome::Taken(reader.serials(claim.quantity.as_byte())?)),
            status::REPLAYED => Ok(BatchOutcome::Replayed(reader.serials(claim.quantity.as_byte())?)),
            status::RELEASED => Ok(BatchOutcome::Released),
            status::KEY_REUSED => Ok(BatchOutcome::KeyReused),
            status::OVER_LIMIT => Ok(BatchOutcome::OverLimit { held: u32::from(reader.byte()?) }),
            status::SHORT => Ok(BatchOutcome::Short { free: reader.number()? }),
            status::NOT_OPEN => Ok(BatchOutcome::NotOpen),
            status::CLOSED => Ok(BatchOutcome::Closed),
            status::TOO_MANY_RELEASED => Ok(BatchOutcome::TooManyReleased),
            other => Err(reader.bad(format!("status {other}"))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    match reader.bytes.len() {
        0 => Ok(outcomes),
        left => Err(reader.bad(format!("{left} bytes are left over"))),
    }
}

/// A claim as the log has it: taken in Redis, to be settled in Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedClaim {
    pub claim: Claim,
    pub serials: Vec<Serial>,
}

fn claim_and_units(reader: &mut Reader<'_>, drop: DropId) -> Result<(ClaimId, VariantNumber, u8), TokenError> {
    let tail = reader.take(ClaimId::TAIL_BYTES)?.try_into().expect("as many bytes as a tail has were taken");
    Ok((ClaimId::from_tail(drop, tail), VariantNumber(reader.byte()?), reader.byte()?))
}

fn quantity(reader: &Reader<'_>, units: u8) -> Result<Quantity, TokenError> {
    Quantity::new(i64::from(units)).map_err(|_| reader.bad(format!("quantity {units}")))
}

/// The claims of one entry of the claim stream: their buyers and requests as `claim` takes them, and their serials.
/// `told` is `None` in an entry of an older program, and in one of which nobody was told anything.
pub(super) fn unpack_log(
    drop: DropId,
    mut names: &[u8],
    requests: &[u8],
    serials: &[u8],
    told: Option<&[u8]>,
) -> Result<Vec<LoggedClaim>, TokenError> {
    const SCRIPT: &str = "claim log";
    let mut told = told.map(|bytes| Reader { script: SCRIPT, bytes });
    let mut requests = Reader { script: SCRIPT, bytes: requests };
    let mut serials = Reader { script: SCRIPT, bytes: serials };
    let mut claims = Vec::new();
    while !requests.bytes.is_empty() {
        let (id, variant, units) = claim_and_units(&mut requests, drop)?;
        let quantity = quantity(&requests, units)?;
        let (name, rest) = decode::read_str_from_slice(names).map_err(|_| requests.bad("a buyer is missing"))?;
        names = rest;
        let told = told.as_mut().map_or(Ok(None), unpack_told)?;
        let claim = Claim { id, buyer: buyer(name.as_bytes())?, variant, quantity, told };
        claims.push(LoggedClaim { claim, serials: serials.serials(units)? });
    }
    match (names.len(), serials.bytes.len(), told.map_or(0, |told| told.bytes.len())) {
        (0, 0, 0) => Ok(claims),
        left => Err(requests.bad(format!("bytes are left over: {left:?}"))),
    }
}

/// A buyer's id as Redis holds it.
pub(super) fn buyer(bytes: &[u8]) -> Result<BuyerId, TokenError> {
    let found = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    found.ok_or_else(|| TokenError::BadReply { script: "buyers", what: "a buyer's id of another form".to_owned() })
}

/// One claim in a buyer's record. No serials: it has been released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedClaim {
    pub id: ClaimId,
    pub variant: VariantNumber,
    pub quantity: Quantity,
    pub serials: Option<Vec<Serial>>,
}

impl RecordedClaim {
    /// The claim as its log entry had it. `None`: it has been released.
    pub fn into_claim(self, buyer: BuyerId) -> Option<LoggedClaim> {
        let Self { id, variant, quantity, serials } = self;
        // What its buyer was told stood in the log alone.
        Some(LoggedClaim { claim: Claim { id, buyer, variant, quantity, told: None }, serials: serials? })
    }
}

const RELEASED_BIT: u8 = 128;

pub(super) fn unpack_record(drop: DropId, bytes: &[u8]) -> Result<Vec<RecordedClaim>, TokenError> {
    let mut reader = Reader { script: "buyers", bytes };
    let mut claims = Vec::new();
    while !reader.bytes.is_empty() {
        let (id, variant, units) = claim_and_units(&mut reader, drop)?;
        let quantity = quantity(&reader, units & !RELEASED_BIT)?;
        let serials = if units & RELEASED_BIT == 0 { Some(reader.serials(units)?) } else { None };
        claims.push(RecordedClaim { id, variant, quantity, serials });
    }
    Ok(claims)
}

pub(super) fn pack_record(claims: &[RecordedClaim]) -> Vec<u8> {
    let mut record = Vec::new();
    for claim in claims {
        record.extend_from_slice(&claim.id.tail());
        record.push(claim.variant.0);
        match &claim.serials {
            Some(serials) => {
                record.push(claim.quantity.as_byte());
                serials.iter().for_each(|serial| record.extend_from_slice(&serial.0.to_be_bytes()));
            }
            None => record.push(claim.quantity.as_byte() | RELEASED_BIT),
        }
    }
    record
}

/// Tokens set aside in `out`, on their way to another warehouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    pub transfer: crate::domain::ids::TransferId,
    pub variant: VariantNumber,
    pub destination: WarehouseNumber,
    pub serials: Vec<Serial>,
}

pub(super) fn unpack_leaving(transfer: &[u8], packed: &[u8]) -> Result<Leaving, TokenError> {
    let bad = |what: &str| TokenError::BadReply { script: "look", what: what.to_owned() };
    let transfer = std::str::from_utf8(transfer).ok().and_then(|text| uuid::Uuid::parse_str(text).ok());
    let transfer = crate::domain::ids::TransferId(transfer.ok_or_else(|| bad("a transfer id that is no UUID"))?);
    let mut rest = packed;
    let number = |rest: &mut &[u8]| decode::read_int::<u32, _>(rest).map_err(|_| bad("a number is missing"));
    let length = |rest: &mut &[u8]| decode::read_array_len(rest).map_err(|_| bad("an array is missing"));
    if length(&mut rest)? != 3 {
        return Err(bad("not three values"));
    }
    let variant = VariantNumber(u8::try_from(number(&mut rest)?).map_err(|_| bad("variant"))?);
    let destination = WarehouseNumber(u16::try_from(number(&mut rest)?).map_err(|_| bad("destination"))?);
    let mut serials = Vec::new();
    for _ in 0..length(&mut rest)? {
        let (text, tail) = decode::read_str_from_slice(rest).map_err(|_| bad("a serial is missing"))?;
        rest = tail;
        serials.push(Serial(text.parse().map_err(|_| bad("a serial that is no number"))?));
    }
    Ok(Leaving { transfer, variant, destination, serials })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_packing() {
        let id = ClaimId::new(DropId(3), &"b".parse().unwrap(), &"k".parse().unwrap());
        let claims = vec![
            RecordedClaim {
                id,
                variant: VariantNumber(2),
                quantity: Quantity::new(2).unwrap(),
                serials: Some(vec![Serial(7), Serial(4_000_000_000)]),
            },
            RecordedClaim { id, variant: VariantNumber(0), quantity: Quantity::new(100).unwrap(), serials: None },
        ];
        assert_eq!(unpack_record(DropId(3), &pack_record(&claims)).unwrap(), claims);
    }

    #[test]
    fn cut_or_foreign_replies_are_errors_and_never_outcomes() {
        let quantity = Quantity::new(2).unwrap();
        let (buyer, key) = ("ada".parse::<crate::domain::ids::BuyerId>().unwrap(), "k".parse().unwrap());
        let claim = Claim::new(DropId(1), buyer, &key, VariantNumber(0), quantity);
        let one = std::slice::from_ref(&claim);
        assert!(unpack_outcomes(&[0], &[0, 0, 0, 1], one).is_err(), "one serial for two units");
        assert!(unpack_outcomes(&[0], &[0; 12], one).is_err(), "three serials for two units");
        assert!(unpack_outcomes(&[9], &[], one).is_err());
        assert!(unpack_outcomes(&[2, 2], &[], one).is_err());
        assert!(unpack_outcomes(&[], &[], one).is_err());
        assert_eq!(unpack_outcomes(&[5], &[0, 0, 0, 9], one).unwrap(), [BatchOutcome::Short { free: 9 }]);

        let batch = pack_claims(one);
        let log = |names: &[u8], requests: &[u8], serials: &[u8]| unpack_log(DropId(1), names, requests, serials, None);
        let logged = LoggedClaim { claim: claim.clone(), serials: vec![Serial(7), Serial(8)] };
        let serials = [0, 0, 0, 7, 0, 0, 0, 8];
        assert_eq!(log(&batch.names, &batch.requests, &serials).unwrap(), [logged]);
        assert!(log(&batch.names, &batch.requests, &serials[1..]).is_err());
        assert!(log(&batch.names, &batch.requests, &[0; 12]).is_err());
        assert!(log(&batch.names, &batch.requests[1..], &serials).is_err());
        assert!(log(&batch.names[1..], &batch.requests, &serials).is_err());
        assert!(log(&batch.names.repeat(2), &batch.requests, &serials).is_err());
    }

    #[test]
    fn what_buyers_were_told_travels_with_their_claims() {
        let key = "k".parse().unwrap();
        let claim = |buyer: &str| {
            let quantity = Quantity::new(1).unwrap();
            Claim::new(DropId(1), buyer.parse().unwrap(), &key, VariantNumber(0), quantity)
        };
        let most = crate::domain::money::Money::new(i64::MAX, "EUR".parse().unwrap());
        let claims = [claim("ada"), claim("bob").told("DE".parse().unwrap(), most), claim("eve")];
        let batch = pack_claims(&claims);
        let serials = [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        let read = |told: Option<&[u8]>| {
            let read = unpack_log(DropId(1), &batch.names, &batch.requests, &serials, told);
            read.map(|read| read.into_iter().map(|logged| logged.claim).collect::<Vec<_>>())
        };
        assert_eq!(batch.told.len(), 30);
        assert_eq!(read(Some(&batch.told)).unwrap(), claims);
        let untold = claims.clone().map(|claim| Claim { told: None, ..claim });
        assert_eq!(read(None).unwrap(), untold, "an entry of an older program");
        assert_eq!(pack_claims(&untold).told, [0; 0], "and one that an older program understands");
        assert!(read(Some(&batch.told[1..])).is_err());
        assert!(read(Some(&batch.told.repeat(2))).is_err());
        assert!(read(Some(&[b'x'; 30])).is_err(), "no country");
        let negative = [&b"DE"[..], &(-1_i64).to_be_bytes(), &[0; 20]].concat();
        assert!(read(Some(&negative)).is_err(), "no total");
    }
}
