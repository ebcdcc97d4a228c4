//! Names of a warehouse's keys: one hash tag, so that a script may touch all of them on a cluster too.

use crate::domain::ids::{DropName, VariantNumber, WarehouseNumber};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarehouseKeys {
    tag: String,
}

impl WarehouseKeys {
    pub fn new(drop: &DropName, warehouse: WarehouseNumber) -> Self {
        Self { tag: format!("{{{drop}:{}}}", warehouse.0) }
    }

    pub fn fixed(&self, name: &str) -> String {
        format!("{}:{name}", self.tag)
    }

    pub fn of_variant(&self, name: &str, variant: VariantNumber) -> String {
        format!("{}:{name}:{}", self.tag, variant.0)
    }
}
