//! The claim log of a warehouse: what was taken and is not settled yet.
//!
//! An entry that cannot be read is an entry all the same: it must never hide those behind it.

use redis::Value;

use super::codec::{self, LoggedClaim};
use super::contract;
use super::error::TokenError;
use super::store::{Pairs, WarehouseStore, dump_error, text, value};
use crate::domain::ids::{Epoch, StreamId};

/// One entry of the claim log: the claims of one batch.
#[derive(Debug, Clone)]
pub struct LogEntry {
    pub id: StreamId,
    /// Of an entry that does not say it: the store's.
    pub epoch: Epoch,
    /// Of an entry that does not say it: what Redis made its id of.
    pub taken_at_ms: i64,
    /// All of them, or none if any part of the entry cannot be read.
    pub claims: Vec<LoggedClaim>,
    pub unreadable: Option<Unreadable>,
}

/// What an entry that cannot be read holds instead of claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The packed claims; of an entry that has none, everything it has.
    pub raw: Vec<u8>,
    pub error: String,
}

impl WarehouseStore {
    /// Up to `count` entries of the claim log that Postgres has not committed yet.
    pub async fn unsettled(&self, count: usize) -> Result<Vec<LogEntry>, TokenError> {
        self.log_after(self.settled_mark().await?, count).await
    }

    /// Up to which entry the claim log has been settled.
    pub async fn settled_mark(&self) -> Result<StreamId, TokenError> {
        let mut connection = self.connection.clone();
        let settled: Option<String> =
            connection.ask(redis::cmd("HGET").arg(self.keys.fixed("meta")).arg("settled")).await?;
        settled.as_deref().and_then(StreamId::parse).ok_or(TokenError::NotLoaded)
    }

    /// Up to `count` entries of the claim log behind `mark`.
    pub async fn log_after(&self, mark: StreamId, count: usize) -> Result<Vec<LogEntry>, TokenError> {
        let mut connection = self.connection.clone();
        let (key, after) = (self.keys.fixed("claims"), format!("({mark}"));
        let entries: Value =
            connection.ask(redis::cmd("XRANGE").arg(key).arg(after).arg("+").arg("COUNT").arg(count)).await?;
        self.log_entries(entries)
    }

    /// When the oldest claim was taken that Postgres has not committed yet. `None`: there is none.
    pub async fn oldest_unsettled_ms(&self) -> Result<Option<i64>, TokenError> {
        let entries = self.unsettled(1).await?;
        Ok(entries.first().map(|entry| entry.taken_at_ms))
    }

    /// Moves the settlement mark to `settled` and trims what is older than `trim_before` and behind the mark.
    pub async fn settled(&self, settled: StreamId, trim_before: StreamId) -> Result<(), TokenError> {
        let args: [Vec<u8>; 3] = [text(self.epoch.0), text(settled), text(trim_before)];
        self.call(&contract::SETTLED, &[], &args).await.map(|_| ())
    }

    pub(super) fn log_entries(&self, reply: Value) -> Result<Vec<LogEntry>, TokenError> {
        let entries: Vec<(String, Pairs)> = value(reply)?;
        entries
            .into_iter()
            .map(|(id, fields)| {
                let id = StreamId::parse(&id).ok_or_else(|| dump_error(format!("{id} is no stream id")))?;
                let get = |name: &str| {
                    let found = fields.iter().find(|(field, _)| field == name.as_bytes());
                    found.map(|(_, value)| value.as_slice()).ok_or_else(|| format!("it has no field {name}"))
                };
                let number = |name: &str| {
                    let text = std::str::from_utf8(get(name)?).ok().and_then(|text| text.parse::<i64>().ok());
                    text.ok_or_else(|| format!("{name} is no number"))
                };
                let (epoch, taken_at) = (number("e"), number("t"));
                let parts = || Ok::<_, String>([get("n")?, get("r")?, get("s")?]);
                let told = get("a").ok();
                let claims = parts().and_then(|[names, requests, serials]| {
                    codec::unpack_log(self.drop, names, requests, serials, told).map_err(|error| error.to_string())
                });
                let mut entry = LogEntry {
                    id,
                    epoch: epoch.as_ref().map_or(self.epoch, |epoch| Epoch(*epoch)),
                    taken_at_ms: *taken_at.as_ref().unwrap_or(&id.ms.cast_signed()),
                    claims: Vec::new(),
                    unreadable: None,
                };
                match epoch.and(taken_at).and(claims) {
                    Ok(claims) => entry.claims = claims,
                    Err(error) => {
                        let everything = || {
                            fields
                                .iter()
                                .flat_map(|(name, value)| [name.as_slice(), value])
                                .collect::<Vec<_>>()
                                .concat()
                        };
                        let all = |parts: [_; 3]| join(parts.into_iter().chain(told));
                        let raw = parts().map_or_else(|_| everything(), all);
                        entry.unreadable = Some(Unreadable { raw, error });
                    }
                }
                Ok(entry)
            })
            .collect()
    }

    /// The claims of an entry's bytes, as [`Unreadable::raw`] has them.
    pub fn unpack_log(&self, packed: &[u8]) -> Result<Vec<LoggedClaim>, TokenError> {
        let parts = split(packed).unwrap_or_default();
        let (names, requests, serials, told) = match *parts {
            [names, requests, serials] => (names, requests, serials, None),
            [names, requests, serials, told] => (names, requests, serials, Some(told)),
            _ => return Err(dump_error("an entry without all of its parts")),
        };
        codec::unpack_log(self.drop, names, requests, serials, told)
    }
}

/// The parts of an entry's claims in one piece, each behind its length (4 bytes, big endian): three, or four where
/// buyers were told what they pay.
fn join<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let each = |part: &[u8]| [&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes(), part].concat();
    parts.flat_map(each).collect()
}

fn split(mut packed: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        parts.push(part);
        packed = rest;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::{join, split};

    #[test]
    fn the_parts_of_an_entry_are_kept_in_one_piece() {
        let parts: [&[u8]; 4] = [b"names", b"", b"serials", b"told"];
        for parts in [&parts[..3], &parts] {
            assert_eq!(split(&join(parts.iter().copied())).as_deref(), Some(parts));
        }
        assert_eq!(split(b"nonsense"), None);
    }
}
