//! What variants are called and cost, as of a second ago: carts change 25,000 times a second, and Postgres is asked a few times.
//!
//! Whoever finds something older than a second asks for everything that anybody waits for; the others take what is known, up
//! to two seconds old. Only while Postgres is away is it older than that.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::carts::CartOwner;
use doorbuster_engine::domain::ids::VariantId;
use doorbuster_engine::ledger::showcase::ShownVariant;
use doorbuster_engine::ledger::{Ledger, LedgerError};
use tokio::sync::Semaphore;

use crate::anonymous::Anonymous;
use crate::error::Problem;

/// How old what is shown may be before somebody asks again.
const FRESH: Duration = Duration::from_secs(1);
/// How old it may be while somebody else is asking.
const USABLE: Duration = Duration::from_secs(2);
/// Variants, and SKUs, that are remembered: some 300 bytes each. The whole memory is dropped when it is full.
const KNOWN: usize = 20_000;
/// Buyers' lookups of SKUs never met, at the same time: a quarter of the default pool of connections. Guests' are among
/// the anonymous statements.
const LOOKUPS: usize = 4;

pub type Shown = HashMap<VariantId, Arc<ShownVariant>>;

pub struct Showcase {
    ledger: Ledger,
    known: Mutex<Known>,
    /// One question at a time: it is for everybody who waits.
    asking: tokio::sync::Mutex<()>,
    lookups: Semaphore,
    anonymous: Arc<Anonymous>,
}

#[derive(Default)]
struct Known {
    variants: HashMap<VariantId, Entry>,
    skus: HashMap<String, VariantId>,
    /// What is to be asked for next. Bounded by the requests under way and the lines of a cart.
    wanted: HashSet<VariantId>,
}

struct Entry {
    /// `None`: there is no such variant.
    shown: Option<Arc<ShownVariant>>,
    at: Instant,
}

enum Look {
    Fresh(Shown),
    Usable(Shown),
    Missing,
}

impl Showcase {
    pub fn new(ledger: Ledger, anonymous: Arc<Anonymous>) -> Self {
        Self {
            ledger,
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            lookups: Semaphore::new(LOOKUPS),
            anonymous,
        }
    }

    /// These variants; one that does not exist is left out.
    pub async fn variants(&self, ids: &[VariantId]) -> Result<Shown, LedgerError> {
        match self.look(ids) {
            Look::Fresh(shown) => return Ok(shown),
            Look::Usable(shown) => {
                let Ok(_turn) = self.asking.try_lock() else { return Ok(shown) };
                if let Err(error) = self.ask().await {
                    tracing::warn!(%error, "variants are shown as they were: {error}");
                    return Ok(shown);
                }
            }
            Look::Missing => {
                let _turn = self.asking.lock().await;
                // Somebody before us in this line may have asked for ours too.
                if let Look::Fresh(shown) | Look::Usable(shown) = self.look(ids) {
                    return Ok(shown);
                }
                self.ask().await?;
            }
        }
        Ok(self.look(ids).into_shown())
    }

    pub async fn variant(&self, id: VariantId) -> Result<Option<Arc<ShownVariant>>, LedgerError> {
        Ok(self.variants(&[id]).await?.remove(&id))
    }

    /// The variant of this SKU, for whoever fills this cart.
    pub async fn variant_of_sku(&self, sku: &str, cart: &CartOwner) -> Result<Option<Arc<ShownVariant>>, Problem> {
        let known = self.known().skus.get(sku).copied();
        if let Some(id) = known
            && let Some(shown) = self.variant(id).await?
            // It may be called otherwise since.
            && shown.sku == sku
        {
            return Ok(Some(shown));
        }
        let found = {
            let _place = match cart {
                CartOwner::Guest(_) => self.anonymous.place().await?,
                CartOwner::Buyer(_) => self.lookups.acquire().await.expect("this semaphore is never closed"),
            };
            self.ledger.variant_of_sku(sku).await?
        };
        let Some(id) = found else { return Ok(None) };
        self.remember(sku, id);
        Ok(self.variant(id).await?)
    }

    fn remember(&self, sku: &str, id: VariantId) {
        let mut known = self.known();
        if known.skus.len() >= KNOWN {
            known.skus.clear();
        }
        known.skus.insert(sku.to_owned(), id);
    }

    fn look(&self, ids: &[VariantId]) -> Look {
        let mut known = self.known();
        let (mut shown, mut oldest, mut is_missing) = (Shown::new(), Duration::ZERO, false);
        for id in ids {
            let age = match known.variants.get(id) {
                None => {
                    is_missing = true;
                    FRESH
                }
                Some(entry) => {
                    if let Some(variant) = &entry.shown {
                        shown.insert(*id, Arc::clone(variant));
                    }
                    entry.at.elapsed()
                }
            };
            oldest = oldest.max(age);
            if age >= FRESH {
                known.wanted.insert(*id);
            }
        }
        match oldest {
            _ if is_missing || oldest >= USABLE => Look::Missing,
            _ if oldest >= FRESH => Look::Usable(shown),
            _ => Look::Fresh(shown),
        }
    }

    /// Asks for everything that is wanted. What is known stays as it was if nobody answers.
    async fn ask(&self) -> Result<(), LedgerError> {
        let wanted = self.known().wanted.drain().collect::<Vec<_>>();
        let answer = self.ledger.shown_variants(&wanted).await;
        let mut known = self.known();
        let at = Instant::now();
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                // For a second nobody else waits for a Postgres that is away.
                wanted.iter().for_each(|id| {
                    if let Some(entry) = known.variants.get_mut(id) {
                        entry.at = at;
                    }
                });
                return if wanted.iter().all(|id| known.variants.contains_key(id)) { Ok(()) } else { Err(error) };
            }
        };
        if known.variants.len() + wanted.len() > KNOWN {
            known.variants.clear();
        }
        known.variants.extend(wanted.into_iter().map(|id| (id, Entry { shown: None, at })));
        known.variants.extend(found.into_iter().map(|shown| (shown.id, Entry { shown: Some(Arc::new(shown)), at })));
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics holding this lock")
    }
}

impl Look {
    /// Just asked: whatever is missing now was dropped by somebody else's full memory, and is asked for next time.
    fn into_shown(self) -> Shown {
        match self {
            Self::Fresh(shown) | Self::Usable(shown) => shown,
            Self::Missing => Shown::new(),
        }
    }
}
