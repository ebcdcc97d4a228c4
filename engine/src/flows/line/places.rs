//! A buyer's place in a line.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::domain::claims::Quantity;
use crate::domain::countries::Country;
use crate::domain::drops::SaleDrop;
use crate::domain::ids::{BuyerId, DropId, IdempotencyKey};
use crate::domain::line::entries::EntryId;
use crate::domain::line::rounds::Rank;
use crate::domain::line::shuffle::shuffled_index;
use crate::domain::line::state::{EntryState, Line};
use crate::domain::line::terms::LineTerms;
use crate::domain::line::tickets::{Ticket, TicketKey, TicketSigner};
use crate::flows::engine::{Engine, EngineError};
use crate::ledger::line::{Changed, Choice, Joined, LeftPlace, LineEntry, LineKeys, NewEntry};

/// What a process knows of a line for as long as it runs: none of it changes.
pub struct KnownLine {
    pub terms: LineTerms,
    pub keys: LineKeys,
    signer: TicketSigner,
}

/// What somebody asks for who joins, or changes their wish.
#[derive(Debug, Clone)]
pub struct JoinAsked {
    pub buyer: BuyerId,
    pub key: IdempotencyKey,
    pub quantity: Quantity,
    pub choices: Vec<Choice>,
    pub country: Country,
}

/// How joining ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineJoined {
    Answered(Joined),
    /// The line asks for a means of payment first.
    NoCard,
}

/// A place as its buyer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MyPlace {
    pub entry: LineEntry,
    /// Evidence of the place, also against the shop.
    pub ticket: String,
    pub place: Where,
}

/// Where somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// The draw decides.
    Unknown,
    /// Behind everybody who was there at the seal.
    At {
        rank: Rank,
        /// Rounds after which the rank is decided at the latest, from the opening.
        rounds: u32,
    },
    /// Nowhere any more.
    Gone,
}

impl KnownLine {
    /// With which everybody checks tickets.
    pub fn ticket_key(&self) -> TicketKey {
        self.signer.public_key()
    }
}

impl Engine {
    /// What is fixed of a drop's line. `None`: it has none.
    pub(super) async fn known_line(&self, drop: DropId) -> Result<Option<Arc<KnownLine>>, EngineError> {
        if let Some(known) = self.lines.read().expect("nobody panics holding this lock").get(&drop) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(line) = self.ledger.line(drop).await? else { return Ok(None) };
        let Some(keys) = self.ledger.line_keys(drop).await? else { return Ok(None) };
        let signer = TicketSigner::new(&keys.ticket).map_err(|_| EngineError::Keys)?;
        let known = Arc::new(KnownLine { terms: line.terms, keys, signer });
        self.lines.write().expect("nobody panics holding this lock").insert(drop, Arc::clone(&known));
        Ok(Some(known))
    }

    /// Joins a line. The place is committed before this answers: nothing makes it forgotten.
    pub async fn join_line(&self, drop: &SaleDrop, asked: &JoinAsked) -> Result<LineJoined, EngineError> {
        let Some(known) = self.known_line(drop.id).await? else { return Ok(LineJoined::Answered(Joined::NoLine)) };
        if known.terms.requires_card {
            let profile = self.ledger.profile_of(&asked.buyer).await?;
            if profile.and_then(|profile| profile.payment_method).is_none() {
                return Ok(LineJoined::NoCard);
            }
        }
        let new = new_entry(drop, asked, self.clock.now());
        Ok(LineJoined::Answered(self.ledger.join_line(new, known.keys.entry).await?))
    }

    pub async fn change_place(&self, drop: &SaleDrop, asked: &JoinAsked, seen: u32) -> Result<Changed, EngineError> {
        Ok(self.ledger.change_entry(&new_entry(drop, asked, self.clock.now()), seen).await?)
    }

    /// `seen`: the revision of the place that is meant, if the buyer names one.
    pub async fn leave_line(
        &self,
        drop: &SaleDrop,
        buyer: &BuyerId,
        seen: Option<u32>,
    ) -> Result<LeftPlace, EngineError> {
        Ok(self.ledger.leave_line(drop.id, buyer, seen, self.clock.now()).await?)
    }

    /// The place of a buyer. `None`: they never had one.
    pub async fn place_of(&self, drop: &SaleDrop, buyer: &BuyerId) -> Result<Option<MyPlace>, EngineError> {
        let Some(entry) = self.ledger.line_entry(drop.id, buyer).await? else { return Ok(None) };
        self.my_place(drop, entry).await
    }

    /// A place with its ticket, and where it is.
    pub async fn my_place(&self, drop: &SaleDrop, entry: LineEntry) -> Result<Option<MyPlace>, EngineError> {
        let Some(known) = self.known_line(drop.id).await? else { return Ok(None) };
        let ticket = Ticket { drop: drop.id, number: entry.number, entry: entry.id, joined_at: entry.joined_at };
        let ticket = known.signer.sign(&ticket);
        let place = match entry.state {
            EntryState::Waiting | EntryState::Awarded | EntryState::Withdrawn => self.where_is(drop, &entry).await?,
            EntryState::Left | EntryState::Merged => Where::Gone,
        };
        Ok(Some(MyPlace { entry, ticket, place }))
    }

    async fn where_is(&self, drop: &SaleDrop, entry: &LineEntry) -> Result<Where, EngineError> {
        // What the board shows may be a second old: who asks as soon as they are drawn is told all the same.
        let Some(board) = self.board(drop).await? else { return Ok(Where::Unknown) };
        // Before the seal nothing is drawn, and then most people join: they ask no store for it.
        let known = &board.row.line;
        let may_be_drawn = known.state.is_sealed() || self.clock.now() >= known.terms.seal_at;
        let fresh = match &known.drawn {
            None if may_be_drawn => self.ledger.line(drop.id).await?,
            _ => None,
        };
        let line = fresh.as_ref().unwrap_or(known);
        let Some(rank) = self.rank_of(drop, line, entry).await? else { return Ok(Where::Unknown) };
        Ok(Where::At { rank, rounds: line.decided_by(rank) })
    }

    /// The rank of an entry, once it is known: of the list by the draw, behind it by the number.
    async fn rank_of(&self, drop: &SaleDrop, line: &Line, entry: &LineEntry) -> Result<Option<Rank>, EngineError> {
        let (Some(sealed), Some(drawn)) = (line.sealed, &line.drawn) else { return Ok(None) };
        if entry.number > sealed.number {
            return Ok(Some(sealed.count + (entry.number - sealed.number - 1)));
        }
        let list = self.sealed_list(drop.id).await?;
        let index = list.binary_search(&entry.id).ok().and_then(|index| u32::try_from(index).ok());
        Ok(index.and_then(|index| shuffled_index(index, sealed.count, &drawn.seed.0)))
    }

    /// The ids of the sealed list, sorted. Read once in each process: the list never changes.
    pub async fn sealed_list(&self, drop: DropId) -> Result<Arc<Vec<EntryId>>, EngineError> {
        let mut lists = self.sealed_lists.lock().await;
        if let Some(list) = lists.get(&drop) {
            return Ok(Arc::clone(list));
        }
        let last = self.ledger.line(drop).await?.and_then(|line| line.sealed).map_or(0, |sealed| sealed.number);
        let list = self.ledger.line_list(drop, 0).await?;
        let ids = list.into_iter().take_while(|entry| entry.number <= last).map(|entry| entry.entry.id);
        let mut ids = ids.collect::<Vec<_>>();
        ids.sort_unstable();
        let ids = Arc::new(ids);
        lists.insert(drop, Arc::clone(&ids));
        Ok(ids)
    }
}

fn new_entry(drop: &SaleDrop, asked: &JoinAsked, at: jiff::Timestamp) -> NewEntry {
    let mut body = Sha256::new();
    body.update([asked.quantity.as_byte(), asked.choices.len() as u8]);
    for choice in &asked.choices {
        body.update([choice.variant.0]);
        body.update(choice.accepted_minor.unwrap_or(-1).to_be_bytes());
    }
    body.update(asked.country.to_string());
    NewEntry {
        drop: drop.id,
        buyer: asked.buyer.clone(),
        key_hash: half(&Sha256::digest(asked.key.as_str())),
        body_hash: half(&body.finalize()),
        quantity: asked.quantity,
        choices: asked.choices.clone(),
        country: Some(asked.country),
        at,
    }
}

fn half(hash: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}
