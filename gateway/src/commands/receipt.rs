//! `doorbuster receipt`: is this receipt ours, and what does it say?

use clap::Args;

use super::{Failure, print};
use crate::config::{BadConfig, ReceiptSecrets};
use crate::receipt::Receipts;

#[derive(Debug, Args)]
pub struct ReceiptArguments {
    /// The receipt, as the buyer has it
    receipt: String,
    #[command(flatten)]
    secrets: ReceiptSecrets,
}

pub fn run(arguments: &ReceiptArguments) -> Result<(), Failure> {
    let receipts = Receipts::new(&arguments.secrets.check()?).ok_or_else(|| {
        BadConfig("--receipt-keys (DOORBUSTER_RECEIPT_KEYS) must be given: the keys that sign receipts".to_owned())
    })?;
    let receipt = receipts.verify(arguments.receipt.trim()).map_err(anyhow::Error::from)?;
    print(serde_json::to_string_pretty(&receipt).map_err(anyhow::Error::from)?);
    Ok(())
}
