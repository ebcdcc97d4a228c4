//! The way back of what settlement set aside: an operator, who has mended the cause, has it settled after all.
//!
//! One transaction each, so that one that still cannot be settled keeps nothing else from it.

use crate::domain::drops::SaleDrop;
use crate::domain::ids::{DropName, PoisonId};
use crate::ledger::poison::{PoisonRow, Poisoned};
use crate::ledger::settlements::ClaimToSettle;

use super::engine::{Engine, EngineError};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryReport {
    /// Claims that are orders now.
    pub settled: usize,
    /// Claims that were rejected; units that nobody else holds are granted back.
    pub rejected: usize,
    /// Claims that turned out to be settled or rejected already, under another entry.
    pub known: usize,
    /// What still cannot be settled, and why.
    pub left: Vec<(PoisonId, String)>,
}

impl Engine {
    /// Tries to settle everything that was set aside, of one drop or of all.
    pub async fn retry_poisoned(&self, name: Option<&DropName>) -> Result<RetryReport, EngineError> {
        let mut report = RetryReport::default();
        for poison in self.ledger.poisoned(name).await? {
            let claims = match self.refresh(&poison.drop).await? {
                Some(live) => self.claims_of(&live.drop, &poison).map(|claims| (live, claims)),
                None => Err("its drop does not exist".to_owned()),
            };
            let outcome = match &claims {
                Ok((live, claims)) => {
                    match self.ledger.settle_poisoned(&live.drop, &poison, claims, self.clock.now()).await {
                        Err(error) if error.is_about_the_rows() => Err(error.to_string()),
                        other => Ok(other?),
                    }
                }
                Err(cause) => Err(cause.clone()),
            };
            match outcome {
                Ok(settlement) => {
                    let settlement = settlement.unwrap_or_default();
                    report.settled += settlement.settled.len();
                    report.rejected += settlement.rejected.len();
                    report.known += settlement.duplicates;
                    metrics::counter!("doorbuster_settled_claims_total").increment(settlement.settled.len() as u64);
                    metrics::counter!("doorbuster_rejected_claims_total").increment(settlement.rejected.len() as u64);
                }
                Err(cause) => {
                    self.ledger.still_poisoned(poison.id, &cause).await?;
                    report.left.push((poison.id, cause));
                }
            }
        }
        Ok(report)
    }

    /// An entry that could not be read then may be readable now: by a newer program.
    fn claims_of(&self, drop: &SaleDrop, poison: &PoisonRow) -> Result<Vec<ClaimToSettle>, String> {
        let Some(warehouse) = drop.warehouse_by_id(poison.warehouse) else {
            return Err(format!("the drop has no warehouse {}", poison.warehouse.0));
        };
        let logged = match &poison.what {
            Poisoned::Claim { claim, serials, .. } => vec![(claim.clone(), serials.clone())],
            Poisoned::Entry { raw } => {
                let read = self.tokens.warehouse(drop, warehouse).unpack_log(raw);
                let read = read.map_err(|error| format!("the log entry cannot be read: {error}"))?;
                read.into_iter().map(|logged| (logged.claim, logged.serials)).collect()
            }
        };
        let to_settle = |(claim, serials)| ClaimToSettle {
            claim,
            serials,
            warehouse: *warehouse,
            epoch: poison.epoch,
            taken_at: poison.taken_at,
            entry: poison.entry,
        };
        Ok(logged.into_iter().map(to_settle).collect())
    }
}
