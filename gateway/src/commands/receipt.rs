//! `doorbuster receipt`: is this receipt ours, and what does it say?

use clap::Args;

use jiff::Timestamp;
use serde_json::json;

use super::Failure;
use super::output::Format;
use super::text::{count, time};
use crate::config::{BadConfig, ReceiptSecrets};
use crate::receipt::{Receipt, Receipts};

#[derive(Debug, Args)]
pub struct ReceiptArguments {
    /// The receipt, as the buyer has it
    receipt: String,
    #[command(flatten)]
    secrets: ReceiptSecrets,
    #[command(flatten)]
    format: Format,
}

pub fn run(arguments: &ReceiptArguments) -> Result<(), Failure> {
    let receipts = Receipts::new(&arguments.secrets.check()?).ok_or_else(|| {
        BadConfig("--receipt-keys (DOORBUSTER_RECEIPT_KEYS) must be given: the keys that sign receipts".to_owned())
    })?;
    let receipt = receipts.verify(arguments.receipt.trim()).map_err(anyhow::Error::from)?;
    arguments.format.answer(|| json!(receipt), || as_text(&receipt));
    Ok(())
}

fn as_text(receipt: &Receipt) -> String {
    let serials = receipt.serials.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let at = Timestamp::from_second(receipt.iat).map_or_else(|_| receipt.iat.to_string(), time);
    let units = count(receipt.serials.len() as u64, "unit");
    format!(
        "it is ours: claim {} of {}\n  {units} of {} in {}: {serials}\n  {} at {at}, after {} of the warehouse",
        receipt.jti,
        receipt.sub,
        receipt.sku,
        receipt.drop,
        receipt.acknowledgement.as_str(),
        count(receipt.epoch.unsigned_abs(), "load"),
    )
}
