//! Changing and deleting a draft: a drop that nobody has begun to open.

use super::engine::{Engine, EngineError};
use super::open_drop::{DropRefused, Moved};
use crate::domain::drafts::{DraftChange, DraftKept, terms};
use crate::domain::ids::DropName;
use crate::ledger::LedgerError;
use crate::ledger::drafts::DraftDeleted;

/// Each try but the last was lost to somebody else's change of the same draft: more of these at once are no people.
const TRIES: usize = 5;

impl Engine {
    /// Changes a draft. Decided on the draft as it was read, and written only if it is still that: two changes at
    /// once are one after the other, and what is being opened is not changed any more.
    pub async fn update_draft(&self, name: &DropName, change: &DraftChange) -> Result<Moved, EngineError> {
        for _ in 0..TRIES {
            let Some(draft) = self.ledger.drop_by_name(name).await? else {
                return Ok(Err(DropRefused::Unknown));
            };
            let changed = match change.of(&draft) {
                Ok(changed) => changed,
                Err(kept) => return Ok(Err(kept.into())),
            };
            if let Err(invalid) = self.check_tax(&terms(&changed)).await? {
                return Ok(Err(DropRefused::Invalid(invalid)));
            }
            if self.ledger.write_draft(&draft, &changed).await? {
                return Ok(self.refresh(name).await?.map(|live| live.drop.clone()).ok_or(DropRefused::Unknown));
            }
        }
        Err(LedgerError::RowCount { statement: "drafts.write_draft", expected: 1, changed: 0 }.into())
    }

    /// Deletes a draft, as if it had never been made. Its name is free again.
    pub async fn delete_draft(&self, name: &DropName) -> Result<Result<(), DropRefused>, EngineError> {
        let deleted = match self.ledger.delete_draft(name).await? {
            DraftDeleted::Deleted => Ok(()),
            DraftDeleted::Kept(kept) => Err(kept.into()),
            DraftDeleted::NoSuchDrop => Err(DropRefused::Unknown),
        };
        // Forgets it here too; other processes do when they look next.
        self.refresh(name).await?;
        Ok(deleted)
    }
}

impl From<DraftKept> for DropRefused {
    fn from(kept: DraftKept) -> Self {
        match kept {
            DraftKept::State(state) => Self::NoDraft(state),
            DraftKept::InUse => Self::InUse,
            DraftKept::UnknownSku(sku) => Self::UnknownSku(sku),
            DraftKept::Invalid(invalid) => Self::Invalid(invalid),
        }
    }
}
