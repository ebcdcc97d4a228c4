//! The bytes of a cart: short fields and packed values, so that Redis keeps the whole hash in one listpack.

use xxhash_rust::xxh3::xxh3_64;

use super::error::CartError;
use crate::domain::carts::{Addition, Cart, CartLine, CartOwner, CartSession, CartVersion};
use crate::domain::ids::{BuyerId, CheckoutId, VariantId};
use crate::domain::money::{Currency, Money};
use crate::domain::versions::Expected;

/// Bytes of a price: minor units (5, big endian), currency (3).
pub(super) const PRICE_BYTES: usize = 8;
/// Five bytes: ten times the largest price that the catalogue takes.
const MAX_MINOR: i64 = (1 << 40) - 1;

/// Field and value.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The cart's only key, so that a cart is one slot of a cluster. The letter keeps buyers and guests apart.
pub(super) fn key(owner: &CartOwner) -> String {
    match owner {
        CartOwner::Buyer(buyer) => format!("cart:{{u:{buyer}}}"),
        CartOwner::Guest(session) => format!("cart:{{g:{}}}", session.as_str()),
    }
}

/// Where a guest's lines are on their way to a buyer: in the slot of the guest's cart.
pub(super) fn parcel(guest: &CartSession, buyer: &BuyerId) -> String {
    format!("{}:{:016x}", key(&CartOwner::Guest(guest.clone())), xxh3_64(buyer.as_str().as_bytes()))
}

/// Variants alone, four bytes each.
pub(super) fn variants(variants: &[VariantId]) -> Vec<u8> {
    variants.iter().flat_map(|variant| variant.0.to_be_bytes()).collect()
}

pub(super) fn price(price: Money) -> Result<[u8; PRICE_BYTES], CartError> {
    if !(0..=MAX_MINOR).contains(&price.amount_minor) {
        return Err(CartError::PriceTooLarge(price.amount_minor));
    }
    let mut bytes = [0; PRICE_BYTES];
    bytes[..5].copy_from_slice(&price.amount_minor.to_be_bytes()[3..]);
    bytes[5..].copy_from_slice(price.currency.as_str().as_bytes());
    Ok(bytes)
}

/// What a request is recognised by: six bytes for the key, two for what is asked under it.
pub(super) fn request(addition: &Addition) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&xxh3_64(addition.key.as_str().as_bytes()).to_be_bytes()[..6]);
    let mut asked = addition.variant_id.0.to_be_bytes().to_vec();
    asked.extend(addition.quantity.units().to_be_bytes());
    bytes[6..].copy_from_slice(&xxh3_64(&asked).to_be_bytes()[..2]);
    bytes
}

/// What a merge is recognised by: whose cart it was, and which version of it.
pub(super) fn source(guest: &CartSession, version: CartVersion) -> [u8; 8] {
    let mut asked = guest.as_str().as_bytes().to_vec();
    asked.extend(version.0.to_be_bytes());
    xxh3_64(&asked).to_be_bytes()
}

pub(super) fn checkout(checkout: CheckoutId) -> [u8; 8] {
    xxh3_64(checkout.0.as_bytes()).to_be_bytes()
}

/// `,7,8,` or `*`.
pub(super) fn expected(expected: &Expected) -> Vec<u8> {
    match expected {
        Expected::Any => b"*".to_vec(),
        Expected::OneOf(versions) => {
            let mut text = String::from(",");
            versions.iter().for_each(|version| text += &format!("{},", version.0));
            text.into_bytes()
        }
    }
}

/// The lines of a cart for a merge: variant (4), quantity (2), price (8).
pub(super) fn lines(lines: &[CartLine]) -> Result<Vec<u8>, CartError> {
    let mut bytes = Vec::with_capacity(lines.len() * 14);
    for line in lines {
        bytes.extend(line.variant_id.0.to_be_bytes());
        bytes.extend(units(line.quantity).to_be_bytes());
        bytes.extend(price(line.price_at_add)?);
    }
    Ok(bytes)
}

/// What was ordered, each variant once: variant (4), quantity (2).
pub(super) fn ordered(lines: &[(VariantId, u32)]) -> Vec<u8> {
    let mut sums = std::collections::BTreeMap::<VariantId, u32>::new();
    for (variant, quantity) in lines {
        let sum = sums.entry(*variant).or_default();
        *sum = sum.saturating_add(*quantity);
    }
    sums.into_iter()
        .flat_map(|(variant, sum)| [&variant.0.to_be_bytes()[..], &units(sum).to_be_bytes()].concat())
        .collect()
}

/// No line has more units than two bytes hold, so as many take all of it.
fn units(quantity: u32) -> u16 {
    u16::try_from(quantity).unwrap_or(u16::MAX)
}

/// A cart as HGETALL answers it. `None`: there is none. `Err` names what cannot be read.
pub(super) fn cart(fields: &Fields) -> Result<Option<Cart>, String> {
    let mut cart = Cart::none();
    for (field, value) in fields {
        match field.as_slice() {
            b"v" => cart.version = CartVersion(number(value).ok_or("a version that is no number")?),
            b"k" | b"o" => {}
            variant => cart.lines.push(line(variant, value)?),
        }
    }
    cart.lines.sort_unstable_by_key(|line| line.variant_id);
    match (fields.is_empty(), cart.version) {
        (true, _) => Ok(None),
        (false, CartVersion::NONE) => Err("a cart without a version".to_owned()),
        (false, _) => Ok(Some(cart)),
    }
}

pub(super) fn variant(field: &[u8]) -> Result<VariantId, String> {
    number(field).map(VariantId).ok_or_else(|| format!("a field {:?}", String::from_utf8_lossy(field)))
}

fn line(field: &[u8], value: &[u8]) -> Result<CartLine, String> {
    let variant_id = variant(field)?;
    let wrong = || format!("a line of {} bytes for {}", value.len(), variant_id.0);
    let [high, low, a, b, c, d, e, currency @ ..] = value else { return Err(wrong()) };
    let currency: Currency = std::str::from_utf8(currency).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    let amount_minor = i64::from_be_bytes([0, 0, 0, *a, *b, *c, *d, *e]);
    let quantity = u32::from(u16::from_be_bytes([*high, *low]));
    Ok(CartLine { variant_id, quantity, price_at_add: Money::new(amount_minor, currency) })
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn euros(amount_minor: i64) -> Money {
        Money::new(amount_minor, "EUR".parse().unwrap())
    }

    #[test]
    fn a_line_comes_back_as_it_went_in() {
        for amount in [0, 1, 14_900, 99_999_999_999, MAX_MINOR] {
            let mut value = 999_u16.to_be_bytes().to_vec();
            value.extend(price(euros(amount)).unwrap());
            let read = line(b"2147483647", &value).unwrap();
            assert_eq!(read, CartLine { variant_id: VariantId(i32::MAX), quantity: 999, price_at_add: euros(amount) });
        }
        for amount in [-1, MAX_MINOR + 1] {
            assert!(matches!(price(euros(amount)), Err(CartError::PriceTooLarge(_))), "{amount}");
        }
    }

    #[test]
    fn what_is_no_cart_is_not_read_as_one() {
        let fields = |pairs: &[(&[u8], &[u8])]| pairs.iter().map(|(a, b)| (a.to_vec(), b.to_vec())).collect::<Fields>();
        assert_eq!(cart(&fields(&[])), Ok(None));
        for bad in [
            fields(&[(b"7", b"\0\x01\0\0\0\0\x01EUR")]),
            fields(&[(b"v", b"x")]),
            fields(&[(b"v", b"1"), (b"7", b"\0\x01\0\0\0\0\x01EU")]),
            fields(&[(b"v", b"1"), (b"x", b"\0\x01\0\0\0\0\x01EUR")]),
        ] {
            assert!(cart(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_of_one_variant_are_one_demand() {
        let lines = [(VariantId(7), 2), (VariantId(1), 1), (VariantId(7), 3), (VariantId(9), u32::MAX)];
        assert_eq!(ordered(&lines), b"\0\0\0\x01\0\x01\0\0\0\x07\0\x05\0\0\0\x09\xff\xff");
    }
}
