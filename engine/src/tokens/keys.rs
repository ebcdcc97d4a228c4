//! Names of a warehouse's keys: one hash tag, so that a script may touch all of them on a cluster too.
//!
//! The hash of `{drop:0}`, `{drop:1}` … would leave some primaries of a cluster with many warehouses and others with none. So
//! a tag ends with a number, the smallest that brings the warehouse to its place: warehouse w of W into the middle of the
//! w-th of W equal parts of all slots. On primaries that have one range of slots each, all of the same length, every one
//! then has as many warehouses as any other, or one more. It follows from the drop's name and its number of warehouses,
//! which never change, so every process knows it.

use crate::domain::ids::{DropName, VariantNumber, WarehouseNumber};

/// Hash slots of a Redis Cluster.
const SLOTS: usize = 16_384;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WarehouseKeys {
    tag: String,
    slot: u16,
}

impl WarehouseKeys {
    /// The keys of one of the `warehouses` warehouses of a drop.
    pub fn new(drop: &DropName, warehouse: WarehouseNumber, warehouses: usize) -> Self {
        let name = format!("{drop}:{}:", warehouse.0);
        let middle = (2 * usize::from(warehouse.0) + 1) * SLOTS / (2 * warehouses);
        // A 32nd of the part: less than the distance from the middle to the border between two of up to 16 primaries,
        // unless the border is the middle. About 16 tries for each warehouse, some nanoseconds each.
        let off_by = SLOTS / (32 * warehouses);
        let hashed = crc16(0, name.as_bytes());
        let placed = (0_u32..).find_map(|salt| {
            let slot = crc16(hashed, decimal(salt, &mut [0; 10])) % SLOTS as u16;
            (usize::from(slot).abs_diff(middle) <= off_by).then_some((salt, slot))
        });
        let (salt, slot) = placed.expect("every slot is the hash of some number");
        Self { tag: format!("{{{name}{salt}}}"), slot }
    }

    pub fn fixed(&self, name: &str) -> String {
        format!("{}:{name}", self.tag)
    }

    pub fn of_variant(&self, name: &str, variant: VariantNumber) -> String {
        format!("{}:{name}:{}", self.tag, variant.0)
    }

    /// Where a cluster has these keys.
    pub(super) fn slot(&self) -> u16 {
        self.slot
    }
}

/// CRC-16/XMODEM (polynomial 0x1021, no reflection), which the Redis Cluster Specification, appendix A, names as the hash of
/// its slots; continued from the hash of what came before.
fn crc16(hashed: u16, bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = (byte as u16) << 8;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(hashed, |crc, byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// As `to_string`, without the allocation: 1,024 warehouses take 17 million tries, and are named once a second.
fn decimal(mut number: u32, text: &mut [u8; 10]) -> &[u8] {
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &text[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::cluster_routing::Slot;

    use super::*;

    fn keys(warehouse: u16, warehouses: usize) -> WarehouseKeys {
        WarehouseKeys::new(&"shoe".parse().unwrap(), WarehouseNumber(warehouse), warehouses)
    }

    #[test]
    fn the_hash_is_that_of_the_specification() {
        assert_eq!(crc16(0, b"123456789"), 0x31c3, "the check value of the specification");
        assert_eq!(crc16(crc16(0, b"12345"), b"6789"), 0x31c3);
    }

    #[test]
    fn all_keys_of_a_warehouse_lie_in_the_slot_that_its_tag_says() {
        for warehouse in 0..10 {
            let keys = keys(warehouse, 10);
            for key in [keys.fixed("meta"), keys.fixed("buyers"), keys.of_variant("tokens", VariantNumber(31))] {
                assert_eq!(Some(Slot::for_key(&key)), Slot::new(keys.slot()), "{key}");
            }
        }
    }

    #[test]
    fn a_number_is_hashed_as_it_is_written() {
        for number in [0, 7, 10, 99, 12_345, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn tags_stay_what_they_are() {
        // A drop that is open when a new version starts has its keys under these names.
        assert_eq!(keys(0, 1).fixed("meta"), "{shoe:0:22}:meta");
        assert_eq!(keys(6, 10).of_variant("spare", VariantNumber(2)), "{shoe:6:73}:spare:2");
    }

    #[test]
    fn warehouses_spread_evenly_over_any_number_of_primaries() {
        for warehouses in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 31, 64, 100, 1024] {
            let slots = (0..warehouses).map(|warehouse| usize::from(keys(warehouse as u16, warehouses).slot()));
            let slots = slots.collect::<Vec<_>>();
            for primaries in 1..=16 {
                let mut counts = vec![0; primaries];
                // As redis-cli and our sandbox share the slots out.
                slots.iter().for_each(|slot| counts[slot * primaries / SLOTS] += 1);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "{warehouses} warehouses on {primaries} primaries: {counts:?}");
            }
        }
    }
}
