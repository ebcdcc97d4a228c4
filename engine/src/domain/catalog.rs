//! The catalog: products, each in one or several variants, which are what is bought. A SKU names a variant for ever.

/// As in a drop, a cart and a file.
pub const SKU_BYTES_MAX: usize = 64;

/// Whether a text can be a SKU: 1 to 64 visible ASCII characters.
pub fn is_sku(text: &str) -> bool {
    (1..=SKU_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
