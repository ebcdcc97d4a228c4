//! One method a script, typed on both sides. A call may be made again: every script answers a repeat without harm.

use std::sync::Arc;

use jiff::Timestamp;
use redis::{FromRedisValue, Value};

use super::codec::{self, BatchOutcome, Leaving, Packed, RecordedClaim};
use super::contract::{self, Code, TokenScript};
use super::error::TokenError;
use super::keys::WarehouseKeys;
use super::replication::ReplicaWaits;
use crate::domain::claims::Claim;
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{
    BuyerId, ClaimId, DropId, Epoch, GrantNumber, Serial, TransferId, VariantNumber, WarehouseNumber,
};
use crate::scripting::{Connection, ReplyCode as _};

pub use super::codec::{
    BatchOutcome as Outcome, Leaving as LeavingTokens, LoggedClaim as LogClaim, RecordedClaim as HeldClaim,
};
pub use super::log::{LogEntry, Unreadable};
pub use crate::domain::ids::StreamId;
pub use crate::scripting::{Reach, Refusal, ServerFacts};

/// The door to Redis. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct TokenStore {
    connection: Connection,
    replicas: ReplicaWaits,
}

impl TokenStore {
    pub async fn connect(url: &str) -> Result<Self, TokenError> {
        Self::over(url, crate::scripting::connect(url).await?)
    }

    /// As [`Self::connect`], but it connects on first use: an error is about the address.
    pub fn open(url: &str) -> Result<Self, TokenError> {
        Self::over(url, crate::scripting::open(url)?)
    }

    fn over(url: &str, connection: Connection) -> Result<Self, TokenError> {
        Ok(Self { replicas: ReplicaWaits::new(url, connection.clone())?, connection })
    }

    /// The connection, for others who keep something in the same Redis.
    pub(crate) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    pub fn warehouse(&self, drop: &SaleDrop, warehouse: &Warehouse) -> WarehouseStore {
        WarehouseStore {
            connection: self.connection.clone(),
            replicas: self.replicas.clone(),
            keys: WarehouseKeys::new(&drop.name, warehouse.number, drop.warehouses.len()),
            drop: drop.id,
            epoch: warehouse.epoch,
            variants: drop.variant_numbers(),
            max_batch: contract::MAX_BATCH.min(contract::MAX_BATCH_RECORDED / drop.buyer_limit.max(1) as usize),
        }
    }

    /// Otherwise it is a cluster.
    pub fn is_one_server(&self) -> bool {
        matches!(self.connection, Connection::Server(_))
    }

    /// Of a cluster; one server is one.
    pub async fn primaries(&self) -> Result<usize, TokenError> {
        Ok(self.connection.clone().primaries().await?.map_or(1, |primaries| primaries.len()))
    }

    /// How much of Redis answers. Of a cluster the parts sell without each other.
    pub async fn reach(&self) -> Result<Reach, TokenError> {
        Ok(self.connection.clone().reach().await?)
    }

    pub async fn version(&self) -> Result<String, TokenError> {
        Ok(self.server_facts().await?.version)
    }

    /// How the server is set up, for the operator's check.
    pub async fn server_facts(&self) -> Result<ServerFacts, TokenError> {
        Ok(self.connection.clone().server_facts().await?)
    }

    /// What its clock says, or that of each primary.
    pub async fn clocks(&self) -> Result<Vec<Timestamp>, TokenError> {
        Ok(self.connection.clocks().await?)
    }

    /// Whether a drop's warehouses lie evenly on the primaries: none has a tenth more than its share. `Err` of the inner
    /// result is a sentence that names what each primary has. One server is always even.
    pub async fn check_spread(&self, drop: &SaleDrop) -> Result<Result<(), String>, TokenError> {
        let Some(primaries) = self.connection.clone().primaries().await? else { return Ok(Ok(())) };
        let slots = drop
            .warehouses
            .iter()
            .map(|warehouse| WarehouseKeys::new(&drop.name, warehouse.number, drop.warehouses.len()).slot());
        let slots = slots.collect::<Vec<_>>();
        let counts = primaries.iter().map(|primary| slots.iter().filter(|slot| primary.owns(**slot)).count());
        let counts = counts.collect::<Vec<_>>();
        let tolerated = slots.len() / primaries.len().max(1) / 10;
        let most = slots.len().div_ceil(primaries.len().max(1)) + tolerated;
        let least = (slots.len() / primaries.len().max(1)).saturating_sub(tolerated);
        let is_served = counts.iter().sum::<usize>() == slots.len();
        if is_served && counts.iter().all(|count| (least..=most).contains(count)) {
            return Ok(Ok(()));
        }
        let each = primaries.iter().zip(counts).map(|(primary, count)| {
            let mark = if (least..=most).contains(&count) { "" } else { " (uneven)" };
            format!("{}:{} has {count}{mark}", primary.host, primary.port)
        });
        let each = each.collect::<Vec<_>>().join(", ");
        Ok(Err(format!(
            "of its {} warehouses each primary of the cluster should have {least} to {most}, but {each}: give each primary \
             one range of slots, all of the same length",
            slots.len()
        )))
    }
}

/// One virtual warehouse in Redis, as of one epoch.
#[derive(Clone)]
pub struct WarehouseStore {
    pub(super) connection: Connection,
    replicas: ReplicaWaits,
    pub(super) keys: WarehouseKeys,
    pub(super) drop: DropId,
    pub(super) epoch: Epoch,
    variants: Vec<VariantNumber>,
    max_batch: usize,
}

/// What a warehouse holds at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub granted: GrantNumber,
    pub state: String,
    pub leaving: Vec<Leaving>,
    /// For each variant of the drop, in order.
    pub free: Vec<u32>,
    /// For each variant of the drop, in order. Grows with every change to it: two equal readings mean that in between
    /// nothing happened to the variant.
    pub seq: Vec<u64>,
}

impl View {
    pub fn leaving_of(&self, variant: VariantNumber) -> impl Iterator<Item = &Leaving> {
        self.leaving.iter().filter(move |leaving| leaving.variant == variant)
    }
}

/// How an award ended, now or when it was applied before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwardApplied {
    /// The claim is its buyer's, and in the log.
    Taken,
    /// He would hold more than he may: nobody has the units, until they are granted anew.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantApplied {
    Now,
    Before,
}

/// The claim that a release ends.
#[derive(Debug, Clone)]
pub struct ReleasedClaim {
    pub id: ClaimId,
    pub buyer: BuyerId,
    pub variant: VariantNumber,
    pub units: u32,
}

/// Everything a warehouse holds, read in one transaction, for the audit.
#[derive(Debug, Clone)]
pub struct Dump {
    pub epoch: Epoch,
    pub granted: GrantNumber,
    /// For each variant of the drop, in order; see [`View`].
    pub seq: Vec<u64>,
    pub state: String,
    pub limit: u32,
    pub settled: StreamId,
    pub free: Vec<(VariantNumber, Vec<Serial>)>,
    pub leaving: Vec<Leaving>,
    pub buyers: Vec<(BuyerId, Vec<RecordedClaim>)>,
    pub log: Vec<LogEntry>,
}

/// What `load` puts into an emptied warehouse, of one variant.
#[derive(Debug, Clone, Default)]
pub struct LoadVariant {
    /// One unbroken run of free serials: first serial and length.
    pub run: Option<(Serial, u32)>,
    pub serials: Vec<Serial>,
}

impl WarehouseStore {
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many claims one call should take at the most: it keeps Redis busy for all of them.
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// Takes tokens for a batch of claims whose buyers live here. The answers come in the order of the claims.
    pub async fn claim(&self, now_ms: i64, claims: &[Claim]) -> Result<Vec<BatchOutcome>, TokenError> {
        let batch = codec::pack_claims(claims);
        let variants = codec::variant_bytes(&batch.variants);
        let args: [Vec<u8>; 6] = [text(self.epoch.0), text(now_ms), variants, batch.names, batch.requests, batch.told];
        let mut reply = self.call(&contract::CLAIM, &batch.variants, &args).await?;
        let (Some(Value::BulkString(details)), Some(Value::BulkString(statuses)), 1) =
            (reply.pop(), reply.pop(), reply.len())
        else {
            return Err(bad(&contract::CLAIM, "no statuses and details"));
        };
        codec::unpack_outcomes(&statuses, &details, claims)
    }

    /// How many replicas, up to `replicas`, have everything that this warehouse has answered so far. Fewer than asked for
    /// after half a second; an error means that nobody knows.
    pub async fn replicated(&self, replicas: u8) -> Result<u32, Arc<TokenError>> {
        self.replicas.wait(&self.keys, self.epoch, replicas).await
    }

    pub async fn grant(
        &self,
        number: GrantNumber,
        serials: &[(VariantNumber, Vec<Serial>)],
        released: Option<&ReleasedClaim>,
    ) -> Result<GrantApplied, TokenError> {
        let variants = serials.iter().map(|(variant, _)| *variant).collect::<Vec<_>>();
        let mut packed = Packed::default().array(serials.len());
        serials.iter().for_each(|(_, serials)| packed.serials(serials));
        let released = released.map_or_else(Vec::new, |claim| {
            let mut packed = Packed::default().array(4);
            packed.text(claim.buyer.as_str().as_bytes());
            packed.text(&claim.id.tail());
            packed.number(u32::from(claim.variant.0));
            packed.number(claim.units);
            packed.0
        });
        let args: [Vec<u8>; 5] =
            [text(self.epoch.0), text(number.0), codec::variant_bytes(&variants), packed.0, released];
        match self.call_for_code(&contract::GRANT, &variants, &args).await?.0 {
            Code::Already => Ok(GrantApplied::Before),
            _ => Ok(GrantApplied::Now),
        }
    }

    /// Makes the units of grant `number` a claim of a buyer who lives here, unless he would hold more than he may.
    pub async fn award(
        &self,
        number: GrantNumber,
        now_ms: i64,
        claim: &Claim,
        serials: &[Serial],
    ) -> Result<AwardApplied, TokenError> {
        let request = codec::pack_request(claim);
        let serials = serials.iter().flat_map(|serial| serial.0.to_be_bytes()).collect();
        let buyer = claim.buyer.as_str().as_bytes().to_vec();
        let args: [Vec<u8>; 6] = [text(self.epoch.0), text(number.0), text(now_ms), buyer, request.to_vec(), serials];
        let (_, reply) = self.call_for_code(&contract::AWARD, &[], &args).await?;
        match field::<i64>(&contract::AWARD, reply, 2)? {
            1 => Ok(AwardApplied::Taken),
            0 => Ok(AwardApplied::Refused),
            other => Err(bad(&contract::AWARD, format!("is_taken is {other}"))),
        }
    }

    /// Sets up to `units` free tokens aside for `destination`.
    pub async fn pull(
        &self,
        variant: VariantNumber,
        transfer: TransferId,
        destination: WarehouseNumber,
        units: u32,
    ) -> Result<Vec<Serial>, TokenError> {
        let args: [Vec<u8>; 5] =
            [text(self.epoch.0), vec![variant.0], text(transfer.0), text(destination.0), text(units)];
        let reply = self.call(&contract::PULL, &[variant], &args).await?;
        let serials: Vec<String> = field(&contract::PULL, reply, 1)?;
        serials
            .iter()
            .map(|text| Ok(Serial(text.parse().map_err(|_| bad(&contract::PULL, "a serial that is no number"))?)))
            .collect()
    }

    pub async fn clear(&self, transfer: TransferId) -> Result<(), TokenError> {
        let args: [Vec<u8>; 2] = [text(self.epoch.0), text(transfer.0)];
        self.call(&contract::CLEAR, &[], &args).await.map(|_| ())
    }

    pub async fn look(&self) -> Result<View, TokenError> {
        let args: [Vec<u8>; 2] = [text(self.epoch.0), codec::variant_bytes(&self.variants)];
        let reply = self.call(&contract::LOOK, &self.variants, &args).await?;
        let script = &contract::LOOK;
        type Reply = (i64, i64, String, Pairs, Vec<u32>, Vec<u64>);
        let (_, granted, state, leaving, free, seq) =
            Reply::from_redis_value(Value::Array(reply)).map_err(|error| bad(script, error.to_string()))?;
        let leaving = leaving.iter().map(|(id, packed)| codec::unpack_leaving(id, packed)).collect::<Result<_, _>>()?;
        Ok(View { granted: GrantNumber(granted), state, leaving, free, seq })
    }

    /// Begins a load: the warehouse issues nothing until [`Self::open`]. Answers the server's replication id.
    pub async fn fence(&self) -> Result<String, TokenError> {
        let reply = self.call(&contract::FENCE, &[], &[text(self.epoch.0)]).await?;
        field(&contract::FENCE, reply, 1)
    }

    /// Loads the free tokens and the buyers' records in chunks, after [`Self::fence`]. Answers the number of chunks.
    pub async fn load(
        &self,
        replid: &str,
        granted: GrantNumber,
        limit: u32,
        variants: &[LoadVariant],
        holders: &[(BuyerId, Vec<RecordedClaim>)],
    ) -> Result<u32, TokenError> {
        let mut ranges = Packed::default().array(variants.len() * 2);
        for variant in variants {
            let (first, length) = variant.run.unwrap_or((Serial(1), 0));
            ranges.number(first.0);
            ranges.number(length);
        }
        let no_serials = vec![Vec::new(); variants.len()];
        self.load_chunk(replid, 0, granted, limit, &ranges.0, &no_serials, &[]).await?;
        let mut chunk = 1;
        for (position, variant) in variants.iter().enumerate() {
            for serials in variant.serials.chunks(contract::MAX_SERIALS) {
                let mut lists = no_serials.clone();
                lists[position] = serials.to_vec();
                self.load_chunk(replid, chunk, granted, limit, &[], &lists, &[]).await?;
                chunk += 1;
            }
        }
        for holders in holders.chunks(contract::MAX_BATCH) {
            self.load_chunk(replid, chunk, granted, limit, &[], &no_serials, holders).await?;
            chunk += 1;
        }
        Ok(chunk)
    }

    #[expect(clippy::too_many_arguments, reason = "the arguments of the script, in its order")]
    async fn load_chunk(
        &self,
        replid: &str,
        chunk: u32,
        granted: GrantNumber,
        limit: u32,
        ranges: &[u8],
        serials: &[Vec<Serial>],
        holders: &[(BuyerId, Vec<RecordedClaim>)],
    ) -> Result<(), TokenError> {
        let mut packed_serials = Packed::default().array(serials.len());
        serials.iter().for_each(|serials| packed_serials.serials(serials));
        let mut packed_holders = Packed::default().array(holders.len() * 2);
        for (buyer, claims) in holders {
            packed_holders.text(buyer.as_str().as_bytes());
            packed_holders.text(&codec::pack_record(claims));
        }
        let args: [Vec<u8>; 9] = [
            text(self.epoch.0),
            text(replid),
            text(chunk),
            text(granted.0),
            text(limit),
            codec::variant_bytes(&self.variants),
            if chunk == 0 { ranges.to_vec() } else { Packed::default().array(0).0 },
            packed_serials.0,
            packed_holders.0,
        ];
        self.call(&contract::LOAD, &self.variants, &args).await.map(|_| ())
    }

    /// Ends a load. `state` is `ready`, `open` or `closed`.
    pub async fn open(&self, replid: &str, chunks: u32, state: &str) -> Result<(), TokenError> {
        let args: [Vec<u8>; 4] = [text(self.epoch.0), text(replid), text(chunks), text(state)];
        self.call(&contract::OPEN, &[], &args).await.map(|_| ())
    }

    pub async fn set_state(&self, state: &str) -> Result<(), TokenError> {
        let args: [Vec<u8>; 2] = [text(self.epoch.0), text(state)];
        self.call(&contract::SET_STATE, &[], &args).await.map(|_| ())
    }

    /// Deletes every key of the warehouse. Only for a drop that is over.
    pub async fn forget(&self) -> Result<(), TokenError> {
        let mut connection = self.connection.clone();
        let mut unlink = redis::cmd("UNLINK");
        for name in ["meta", "buyers", "claims", "out"] {
            unlink.arg(self.keys.fixed(name));
        }
        for variant in &self.variants {
            unlink.arg(self.keys.of_variant("tokens", *variant)).arg(self.keys.of_variant("spare", *variant));
        }
        Ok(connection.ask(&unlink).await?)
    }

    /// What this buyer holds here, as far as Redis knows. Where the records are lost, nobody knows.
    pub async fn record_of(&self, buyer: &BuyerId) -> Result<Vec<RecordedClaim>, TokenError> {
        let mut connection = self.connection.clone();
        let (sentinel, record): (Option<Vec<u8>>, Option<Vec<u8>>) =
            connection.ask(redis::cmd("HMGET").arg(self.keys.fixed("buyers")).arg("").arg(buyer.as_str())).await?;
        sentinel.ok_or(TokenError::NotLoaded)?;
        record.map_or_else(|| Ok(Vec::new()), |record| codec::unpack_record(self.drop, &record))
    }

    /// Every claim that the buyers' records hold, if the claim log is lost; otherwise it has them. Without a log they are all
    /// that is left of claims that were answered and not settled.
    pub async fn recorded_without_log(&self) -> Result<Vec<LogClaim>, TokenError> {
        let mut connection = self.connection.clone();
        let has_log: bool = connection.ask(redis::cmd("EXISTS").arg(self.keys.fixed("claims"))).await?;
        if has_log {
            return Ok(Vec::new());
        }
        let records: Pairs = connection.ask(redis::cmd("HGETALL").arg(self.keys.fixed("buyers"))).await?;
        let mut claims = Vec::new();
        for (name, record) in records.iter().filter(|(name, _)| !name.is_empty()) {
            let (buyer, record) = (codec::buyer(name)?, codec::unpack_record(self.drop, record)?);
            claims.extend(record.into_iter().filter_map(|held| held.into_claim(buyer.clone())));
        }
        Ok(claims)
    }

    /// The keys of the warehouse that are gone, or came back without their sentinel.
    pub async fn lost_keys(&self) -> Result<Vec<String>, TokenError> {
        let (mut pipe, mut keys) = (redis::pipe(), Vec::new());
        for name in ["meta", "claims"] {
            keys.push(self.keys.fixed(name));
            pipe.cmd("EXISTS").arg(self.keys.fixed(name));
        }
        for name in ["buyers", "out"] {
            keys.push(self.keys.fixed(name));
            pipe.cmd("HEXISTS").arg(self.keys.fixed(name)).arg("");
        }
        for variant in &self.variants {
            let (tokens, spare) = (self.keys.of_variant("tokens", *variant), self.keys.of_variant("spare", *variant));
            pipe.cmd("EXISTS").arg(&tokens);
            pipe.cmd("LINDEX").arg(&spare).arg(-1);
            keys.extend([tokens, spare]);
        }
        let mut connection = self.connection.clone();
        let replies: Vec<Value> = pipe.query_async(&mut connection).await?;
        // The sentinel of a list is 0; the keys that are asked for by EXISTS answer 0 when they are not there.
        let is_there = |reply: &Value| *reply == Value::Int(1) || *reply == Value::BulkString(b"0".to_vec());
        let gone = keys.into_iter().zip(replies).filter(|(_, reply)| !is_there(reply));
        Ok(gone.map(|(key, _)| key).collect())
    }

    /// Every buyer who has a record here, live or released. Read in pieces, so that Redis serves others in between; who
    /// gets a record meanwhile may be missed.
    pub async fn holders(&self) -> Result<Vec<BuyerId>, TokenError> {
        const PIECE: usize = 1000;
        let mut connection = self.connection.clone();
        let (mut holders, mut is_whole) = (Vec::new(), false);
        let mut cursor = 0_u64;
        loop {
            let key = self.keys.fixed("buyers");
            let (next, piece): (u64, Vec<Vec<u8>>) =
                connection.ask(redis::cmd("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(PIECE)).await?;
            // Field, value, field, value; the field of no name is the sentinel.
            for name in piece.into_iter().step_by(2) {
                match name.is_empty() {
                    true => is_whole = true,
                    false => holders.push(codec::buyer(&name)?),
                }
            }
            if next == 0 {
                return if is_whole { Ok(holders) } else { Err(TokenError::NotLoaded) };
            }
            cursor = next;
        }
    }

    /// Everything, in one transaction. `None`: the warehouse was never loaded, or some of it is lost.
    pub async fn dump(&self) -> Result<Option<Dump>, TokenError> {
        let mut connection = self.connection.clone();
        let mut pipe = redis::pipe();
        pipe.atomic();
        for name in ["meta", "out", "buyers"] {
            pipe.cmd("HGETALL").arg(self.keys.fixed(name));
        }
        pipe.cmd("XRANGE").arg(self.keys.fixed("claims")).arg("-").arg("+");
        pipe.cmd("EXISTS").arg(self.keys.fixed("claims"));
        for variant in &self.variants {
            pipe.cmd("GET").arg(self.keys.of_variant("tokens", *variant));
            pipe.cmd("LRANGE").arg(self.keys.of_variant("spare", *variant)).arg(0).arg(-1);
        }
        let mut replies: std::vec::IntoIter<Value> = pipe.query_async::<Vec<Value>>(&mut connection).await?.into_iter();
        let mut next = || replies.next().ok_or_else(|| dump_error("a reply is missing"));
        let meta: std::collections::HashMap<String, String> = value(next()?)?;
        if meta.is_empty() {
            return Ok(None);
        }
        // A fence alone holds nothing: the first chunk of the first load has not come.
        if !meta.contains_key("granted") && meta.get("state").is_some_and(|state| state == "loading") {
            return Err(TokenError::Fenced);
        }
        let of_variants =
            self.variants.iter().flat_map(|variant| [format!("first:{}", variant.0), format!("seq:{}", variant.0)]);
        let fields = ["epoch", "fence", "granted", "state", "limit", "settled", "chunks"].map(str::to_owned);
        if fields.into_iter().chain(of_variants).any(|field| !meta.contains_key(&field)) {
            return Ok(None);
        }
        let get = |name: &str| meta.get(name).cloned().ok_or_else(|| dump_error(format!("meta has no {name}")));
        let number = |name: &str| get(name)?.parse::<i64>().map_err(|_| dump_error(format!("{name} is no number")));
        let out: Pairs = value(next()?)?;
        let records: Pairs = value(next()?)?;
        let log = self.log_entries(next()?)?;
        // Until a load has opened for the first time there is no log.
        let has_log = value::<bool>(next()?)? || get("state")? == "loading";
        let has_sentinel = |pairs: &Pairs| pairs.iter().any(|(name, _)| name.is_empty());
        if !has_log || !has_sentinel(&out) || !has_sentinel(&records) {
            return Ok(None);
        }
        let (mut free, mut seq) = (Vec::new(), Vec::new());
        for variant in &self.variants {
            seq.push(number(&format!("seq:{}", variant.0))? as u64);
            let range: Option<u32> = value(next()?)?;
            let first = number(&format!("first:{}", variant.0))? as u32;
            let spare: Vec<u32> = value(next()?)?;
            let (Some(range), Some(0)) = (range, spare.last()) else { return Ok(None) };
            let serials = (first..first + range).chain(spare.into_iter().filter(|serial| *serial != 0));
            free.push((*variant, serials.map(Serial).collect()));
        }
        let leaving = out.iter().filter(|(id, _)| !id.is_empty());
        let mut buyers = Vec::new();
        for (name, record) in records.iter().filter(|(name, _)| !name.is_empty()) {
            buyers.push((codec::buyer(name)?, codec::unpack_record(self.drop, record)?));
        }
        Ok(Some(Dump {
            epoch: Epoch(number("epoch")?),
            granted: GrantNumber(number("granted")?),
            seq,
            state: get("state")?,
            limit: number("limit")? as u32,
            settled: StreamId::parse(&get("settled")?).ok_or_else(|| dump_error("settled is no stream id"))?,
            free,
            leaving: leaving.map(|(id, packed)| codec::unpack_leaving(id, packed)).collect::<Result<_, _>>()?,
            buyers,
            log,
        }))
    }

    async fn call_for_code(
        &self,
        contract: &'static TokenScript,
        variants: &[VariantNumber],
        args: &[Vec<u8>],
    ) -> Result<(Code, Vec<Value>), TokenError> {
        let mut connection = self.connection.clone();
        let reply = connection.call(&contract.call(&self.keys, variants, args)).await?;
        let Some(Value::Int(code)) = reply.first() else {
            return Err(bad(contract, "no code"));
        };
        match Code::from_reply(*code) {
            Some(code) if !contract.codes.contains(&code) => {
                Err(bad(contract, format!("code {} is not its own", code.name())))
            }
            Some(Code::NotLoaded) => Err(TokenError::NotLoaded),
            Some(Code::Fenced) => Err(TokenError::Fenced),
            Some(Code::Stale) => Err(TokenError::Stale),
            Some(Code::Gap) => Err(TokenError::Gap),
            Some(code @ (Code::Ok | Code::Already)) => Ok((code, reply)),
            None => Err(bad(contract, format!("code {code}"))),
        }
    }

    pub(super) async fn call(
        &self,
        contract: &'static TokenScript,
        variants: &[VariantNumber],
        args: &[Vec<u8>],
    ) -> Result<Vec<Value>, TokenError> {
        Ok(self.call_for_code(contract, variants, args).await?.1)
    }
}

/// A hash with keys and values that are not text.
pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Numbers go to the scripts as decimal strings.
pub(super) fn text(value: impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn bad(contract: &TokenScript, what: impl Into<String>) -> TokenError {
    TokenError::BadReply { script: contract.name, what: what.into() }
}

pub(super) fn dump_error(what: impl Into<String>) -> TokenError {
    TokenError::BadReply { script: "a warehouse's keys", what: what.into() }
}

pub(super) fn value<T: FromRedisValue>(value: Value) -> Result<T, TokenError> {
    T::from_redis_value(value).map_err(|error| dump_error(error.to_string()))
}

fn field<T: FromRedisValue>(contract: &TokenScript, reply: Vec<Value>, index: usize) -> Result<T, TokenError> {
    let value = reply.into_iter().nth(index).ok_or_else(|| bad(contract, format!("no element {index}")))?;
    T::from_redis_value(value).map_err(|error| bad(contract, error.to_string()))
}
