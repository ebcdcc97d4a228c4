//! The catalog: products, each in one or several variants, which are what is bought. A SKU names a variant for ever.

use serde::{Deserialize, Serialize};

use super::charges;
use super::ids::ProductId;
use super::money::{Currency, Money};
use super::stock::StockWay;
use super::texts::is_unseen;
use super::versions::Version;

/// As in a drop, a cart and a file.
pub const SKU_BYTES_MAX: usize = 64;
pub const NAME_CHARACTERS_MAX: usize = 200;
/// Of a product, and of a drop.
pub const VARIANTS_MAX: usize = 100;

/// Whether a text can be a SKU: 1 to 64 visible ASCII characters.
pub fn is_sku(text: &str) -> bool {
    (1..=SKU_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A product, with everything that is sold of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    pub id: ProductId,
    pub name: String,
    /// Shown and sold. What was ordered of it stays ordered.
    pub is_active: bool,
    /// How its units are taken at checkout.
    #[serde(default = "row_lock")]
    pub reservation: StockWay,
    /// Counts the edits of the product and of its variants.
    pub version: Version,
    /// By SKU.
    pub variants: Vec<Variant>,
}

/// Of products in answers that were stored before there was a choice.
fn row_lock() -> StockWay {
    StockWay::RowLock
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    pub sku: String,
    pub title: String,
    /// Outside of drops, which have prices of their own.
    pub price: Money,
    pub is_active: bool,
}

/// A product to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewProduct {
    pub name: String,
    pub variants: Vec<NewVariant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewVariant {
    pub sku: String,
    pub title: String,
    pub price_minor: i64,
    pub currency: Currency,
}

/// What is to be different; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProductEdit {
    pub name: Option<String>,
    pub is_active: Option<bool>,
    pub reservation: Option<StockWay>,
    pub variants: Vec<VariantEdit>,
}

/// An edit of the variant that has this SKU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantEdit {
    pub sku: String,
    pub title: Option<String>,
    pub price_minor: Option<i64>,
    pub is_active: Option<bool>,
}

/// Why a product was not made or changed; each is a sentence for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogRefused {
    #[error("the id was used for another request")]
    IdReused,
    #[error("the SKU {0} names a variant already")]
    SkuTaken(String),
    #[error("the product has no variant {0}")]
    UnknownSku(String),
    #[error("there is no such product")]
    Unknown,
    #[error("somebody else has changed it: it is at version {}", .0.0)]
    Changed(Version),
    #[error("{0}: {1}")]
    Field(&'static str, String),
}

impl NewProduct {
    pub fn check(&self) -> Result<(), CatalogRefused> {
        check_name("name", &self.name)?;
        if !(1..=VARIANTS_MAX).contains(&self.variants.len()) {
            return Err(CatalogRefused::Field("variants", format!("must be 1 to {VARIANTS_MAX}")));
        }
        for (position, variant) in self.variants.iter().enumerate() {
            if !is_sku(&variant.sku) {
                return Err(CatalogRefused::Field(
                    "variants.sku",
                    format!("must be 1 to {SKU_BYTES_MAX} visible ASCII characters"),
                ));
            }
            if self.variants[..position].iter().any(|other| other.sku == variant.sku) {
                return Err(CatalogRefused::Field("variants.sku", format!("{} is there twice", variant.sku)));
            }
            check_name("variants.title", &variant.title)?;
            check_price(Money::new(variant.price_minor, variant.currency))?;
        }
        Ok(())
    }
}

impl ProductEdit {
    pub fn check(&self) -> Result<(), CatalogRefused> {
        self.name.iter().try_for_each(|name| check_name("name", name))?;
        self.variants
            .iter()
            .try_for_each(|variant| variant.title.iter().try_for_each(|title| check_name("variants.title", title)))
    }

    /// Whether its prices can be asked for, in the currencies that the product's variants have.
    pub fn check_prices(&self, currency_of: impl Fn(&str) -> Option<Currency>) -> Result<(), CatalogRefused> {
        self.variants.iter().try_for_each(|variant| {
            let currency = currency_of(&variant.sku).ok_or_else(|| CatalogRefused::UnknownSku(variant.sku.clone()))?;
            variant.price_minor.map_or(Ok(()), |minor| check_price(Money::new(minor, currency)))
        })
    }
}

/// Whether a product or a variant may be called so: names stand in mails, and in their subjects.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_CHARACTERS_MAX).contains(&text.chars().count()) && !text.trim().is_empty() && !text.chars().any(is_unseen)
}

/// What [`is_name`] asks for.
pub fn name_rule() -> String {
    format!("must be 1 to {NAME_CHARACTERS_MAX} characters, without line breaks or others that nobody sees")
}

fn check_name(field: &'static str, text: &str) -> Result<(), CatalogRefused> {
    is_name(text).then_some(()).ok_or_else(|| CatalogRefused::Field(field, name_rule()))
}

pub fn check_price(price: Money) -> Result<(), CatalogRefused> {
    charges::check_price(price).map_err(|why| CatalogRefused::Field("variants.price_minor", why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sold_is_refused_by_field() {
        let variant = |sku: &str, price_minor| NewVariant {
            sku: sku.to_owned(),
            title: "42".to_owned(),
            price_minor,
            currency: "EUR".parse().unwrap(),
        };
        let product = |name: &str, variants: Vec<NewVariant>| NewProduct { name: name.to_owned(), variants }.check();
        assert_eq!(product("Shoe", vec![variant("a", 0), variant("b", 99_999_999)]), Ok(()));
        for (wrong, field) in [
            (product("", vec![variant("a", 1)]), "name"),
            (product("Shoe\nBcc: x", vec![variant("a", 1)]), "name"),
            (product(&"x".repeat(201), vec![variant("a", 1)]), "name"),
            (product("Shoe", vec![]), "variants"),
            (product("Shoe", (0..101).map(|n| variant(&n.to_string(), 1)).collect()), "variants"),
            (product("Shoe", vec![variant("a b", 1)]), "variants.sku"),
            (product("Shoe", vec![variant("a", 1), variant("a", 1)]), "variants.sku"),
            (product("Shoe", vec![variant("a", -1)]), "variants.price_minor"),
            (product("Shoe", vec![variant("a", 100_000_000)]), "variants.price_minor"),
        ] {
            assert!(matches!(wrong, Err(CatalogRefused::Field(found, _)) if found == field), "{wrong:?}, not {field}");
        }
    }
}
