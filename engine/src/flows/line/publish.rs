//! What is published about a drawn line: everything that anybody needs to decide it again.

use sha2::{Digest as _, Sha256};

use super::steps::SECRET_BYTES;
use crate::domain::ids::{DropName, VariantNumber};
use crate::domain::line::beacon::Pulse;
use crate::domain::line::bundle::{Against, Bundle, Chunk, Join, Revealed, VERSION};
use crate::domain::line::hex::{self, Hex};
use crate::domain::line::rounds::{Free, Wish};
use crate::domain::line::rules::{Beacon, Rules, hash_of};
use crate::domain::line::shuffle;
use crate::domain::line::state::Line;
use crate::flows::engine::{Engine, EngineError};
use crate::ledger::line::{ChunkRow, Restocked};

/// Why there is no bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBundle {
    NoSuchDrop,
    NoLine,
    /// Nobody's rank is known yet.
    NotDrawn,
}

impl Engine {
    /// Everything about a line, as one document. A line that runs is in it as far as it has come.
    pub async fn line_bundle(&self, name: &DropName) -> Result<Result<Bundle, NoBundle>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else { return Ok(Err(NoBundle::NoSuchDrop)) };
        let Some(line) = self.ledger.line(drop.id).await? else { return Ok(Err(NoBundle::NoLine)) };
        let (Some(sealed), Some(root), Some(rules)) = (line.sealed, line.root, &line.rules) else {
            return Ok(Err(NoBundle::NotDrawn));
        };
        let (Some(drawn), Some(beacon)) = (&line.drawn, revealed(&line)) else {
            return Ok(Err(NoBundle::NotDrawn));
        };
        // Chunks first: who joins meanwhile is in the list behind them.
        let chunks = self.ledger.line_chunks(drop.id).await?;
        let restocked = self.ledger.line_restocks(drop.id).await?;
        let steps = self.ledger.line_steps(drop.id).await?.into_iter().map(|(step, _)| step).collect();
        let list = self.ledger.line_list(drop.id, 0).await?;
        let (mut leaves, later): (Vec<_>, Vec<_>) = list.into_iter().partition(|entry| entry.number <= sealed.number);
        leaves.sort_unstable_by_key(|entry| entry.entry.id);
        // A list of another length is published as it is: whoever checks it finds that out.
        let by_rank = shuffle::order(sealed.count, &drawn.seed.0);
        let by_rank = by_rank.into_iter().filter_map(|index| leaves.get(index as usize).copied());
        let wishes = by_rank.chain(later.iter().copied()).map(|entry| entry.entry.wish).collect::<Vec<_>>();
        let stock = Rules::parse(rules).map(|rules| {
            let units = rules.variants.iter().map(|variant| (VariantNumber(variant.number), variant.stock));
            units.collect::<Free>()
        });
        Ok(Ok(Bundle {
            version: VERSION,
            rules_hash: hash_of(rules),
            rules: rules.clone(),
            count: sealed.count,
            leaves: leaves.into_iter().map(|entry| entry.entry).collect(),
            root,
            steps,
            beacon,
            seed: drawn.seed,
            joins: later.into_iter().map(|entry| Join { number: entry.number, entry: entry.entry }).collect(),
            chunks: published(&chunks, &restocked, &wishes, stock.unwrap_or_default()),
            tickets: Vec::new(),
        }))
    }
}

/// What decided a draw: from then on the shop's own part of it is no secret any more.
fn revealed(line: &Line) -> Option<Revealed> {
    let drawn = line.drawn.as_ref()?;
    match &line.terms.beacon {
        Beacon::Drand(_) => {
            let signature = <[u8; 48]>::try_from(drawn.answer.as_slice()).ok();
            signature.zip(line.beacon_round).map(|(signature, round)| {
                let randomness = Hex(Sha256::digest(signature).into());
                Revealed::Drand(Pulse { round, randomness, signature: Hex(signature) })
            })
        }
        Beacon::Manual { .. } => {
            let (secret, result) = drawn.answer.split_at_checked(SECRET_BYTES)?;
            let result = String::from_utf8_lossy(result).into_owned();
            Some(Revealed::Manual { result, secret: hex::encode(secret) })
        }
        Beacon::None { .. } => Some(Revealed::None { secret: hex::encode(&drawn.answer) }),
    }
}

/// The chunks with what came between their rounds: units that were added, as far as those go, and what came back.
fn published(rows: &[ChunkRow], restocked: &[Restocked], wishes: &[Wish], stock: Free) -> Vec<Chunk> {
    let (mut left, mut accounted, mut last_round) = (stock, Free::default(), None);
    let mut chunks = Vec::with_capacity(rows.len());
    for row in rows {
        let (mut returned, mut added) = (Free::default(), Free::default());
        if last_round != Some(row.round) {
            let came = row.free.without(&left).unwrap_or_default();
            let until_now = restocked.iter().filter(|restocked| restocked.at <= row.at);
            let all = until_now.map(|restocked| (restocked.variant, restocked.units)).collect::<Free>();
            let new = all.without(&accounted).unwrap_or_default();
            let numbers = (0..).map(VariantNumber).take(came.units().len());
            added = numbers.map(|variant| (variant, new.of(variant).min(came.of(variant)))).collect();
            returned = came.without(&added).unwrap_or_default();
            accounted = accounted.with(&added);
            last_round = Some(row.round);
        }
        left = row.free;
        for (rank, choice) in &row.awards {
            let given = wishes.get(*rank as usize).and_then(|wish| {
                let variant = wish.choices.iter().nth(usize::from(*choice))?;
                Some((variant, wish.quantity.units()))
            });
            left = left.without(&given.into_iter().collect()).unwrap_or_default();
        }
        let of_bar = row.bars.iter().map(|(rank, bar)| (*rank, Some(bar.clone()), 0));
        let of_price = row.dearer.iter().map(|(rank, bits)| (*rank, None, *bits));
        let mut against: Vec<Against> = Vec::new();
        for (rank, bar, bits) in of_bar.chain(of_price) {
            match against.iter_mut().find(|against| against.0 == rank) {
                Some(known) => known.2 |= bits,
                None => against.push(Against(rank, bar, bits)),
            }
        }
        against.sort_unstable_by_key(|against| against.0);
        chunks.push(Chunk {
            round: row.round,
            at: row.at,
            per_round: row.per_round,
            count: row.ranks,
            returned,
            added,
            free: row.free,
            decided: row.decided,
            against,
            awards: row.awards.clone(),
            served: row.served_to,
        });
    }
    chunks
}
