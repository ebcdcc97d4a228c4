//! Everybody in a line is told by mail that their place is recorded, and how it ended if they got nothing.

use crate::flows::engine::{Engine, EngineError};

impl Engine {
    /// Writes a page of the mails of each line that has some to write. Answers how many mails that are.
    pub async fn write_line_mails(&self) -> Result<usize, EngineError> {
        let mut mails = 0;
        for (drop, mail) in self.ledger.lines_to_tell().await? {
            mails += self.ledger.write_line_mails(drop, mail, self.clock.now()).await?;
        }
        Ok(mails)
    }
}
