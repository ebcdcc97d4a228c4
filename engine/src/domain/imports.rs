//! A file of products or of stock, taken as a whole or not at all: its rows, and what is wrong with them by line.

use serde::{Deserialize, Serialize};

use super::money::Currency;
use super::stock::{StockWay, WarehouseCode};

/// Rows of one file: one transaction writes them, within some seconds.
pub const ROWS_MAX: usize = 10_000;
/// So many faults are told; whoever has more mends these first.
pub const FAULTS_TOLD: usize = 100;

/// A variant as a file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProductRow {
    pub line: u64,
    pub product: String,
    pub sku: String,
    pub title: String,
    pub price_minor: i64,
    pub currency: Currency,
    /// What is not said stays, or is `true` for a new one.
    pub is_active: Option<bool>,
    pub reservation: Option<StockWay>,
}

/// What a file says of one variant in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StockRow {
    pub line: u64,
    pub sku: String,
    pub warehouse: WarehouseCode,
    pub quantity: i64,
    pub reason: String,
}

/// What the quantities of a file of stock are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StockImport {
    /// Units that came or, below zero, are gone.
    Add,
    /// Units that were counted: they are what is available afterwards.
    Count,
}

/// What becomes of a file whose quantities were added before, under another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameFile {
    /// It is told: whoever sends a file twice by mistake would have its units twice.
    Refused,
    Again,
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFault {
    /// In the file, the header being the first.
    pub line: u64,
    pub column: &'static str,
    pub what: String,
}

impl LineFault {
    pub fn new(line: u64, column: &'static str, what: impl ToString) -> Self {
        Self { line, column, what: what.to_string() }
    }
}

/// What a file did: of products, variants; of stock, places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    pub created: usize,
    pub changed: usize,
    pub unchanged: usize,
}

/// How an import ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportEnd {
    Done(super::requests::Done<Imported>),
    /// Only tried: this is what it would do.
    Tried(Imported),
    /// Nothing was changed.
    Refused(Vec<LineFault>),
    /// The request's id was used for another file.
    IdReused,
}
