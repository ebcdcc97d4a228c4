//! The shuffle of a sealed list: swap-or-not, as `compute_shuffled_index` in Ethereum's consensus specification, with
//! 90 rounds and SHA-256. The entry with index `i` has the rank `shuffled_index(i)`. It is a permutation for every seed
//! and every count, it can be computed for one index alone, and it can be turned round.

use sha2::{Digest, Sha256};

const ROUNDS: u8 = 90;
/// Positions that one hash decides: a bit each.
const POSITIONS: u32 = 256;

pub type Seed = [u8; 32];

/// The rank of one index. `None`: there is no such index.
pub fn shuffled_index(index: u32, count: u32, seed: &Seed) -> Option<u32> {
    (index < count).then(|| (0..ROUNDS).fold(index, |index, round| step(index, count, seed, round)))
}

/// The index that has this rank.
pub fn index_of(rank: u32, count: u32, seed: &Seed) -> Option<u32> {
    // Every round is its own inverse, so the rounds backwards are the inverse of all of them.
    (rank < count).then(|| (0..ROUNDS).rev().fold(rank, |index, round| step(index, count, seed, round)))
}

/// The ranks of all indices. Each hash is made once, for all the positions that it decides: a million takes as many
/// hashes as 3,907 single indices do.
pub fn ranks(count: u32, seed: &Seed) -> Vec<u32> {
    let mut at = (0..count).collect::<Vec<_>>();
    // What is moved is where an index stands, so the rounds go backwards: the first round moves what the others have
    // moved.
    for round in (0..ROUNDS).rev() {
        swap_all(&mut at, seed, round);
    }
    at
}

/// The index at each rank: the list in its new order.
pub fn order(count: u32, seed: &Seed) -> Vec<u32> {
    let mut at = (0..count).collect::<Vec<_>>();
    for round in 0..ROUNDS {
        swap_all(&mut at, seed, round);
    }
    at
}

fn step(index: u32, count: u32, seed: &Seed, round: u8) -> u32 {
    let flip = flip_of(index, count, pivot(count, seed, round));
    let position = index.max(flip);
    if bit(&bits(seed, round, position / POSITIONS), position) { flip } else { index }
}

/// One round for a whole list: every pair that is each other's flip is swapped, or not, by the bit of the greater
/// position.
fn swap_all(list: &mut [u32], seed: &Seed, round: u8) {
    let count = list.len() as u32;
    if count == 0 {
        return;
    }
    let pivot = pivot(count, seed, round);
    // Pairs add up to the pivot, or to the pivot and the count. Either way the greater positions come in their order.
    let below = pivot / 2 + 1..=pivot;
    let above = (pivot + count) / 2 + 1..=count - 1;
    for greater in [below, above] {
        let mut block = None;
        for position in greater {
            let number = position / POSITIONS;
            let source = match block {
                Some((of, source)) if of == number => source,
                _ => bits(seed, round, number),
            };
            block = Some((number, source));
            if bit(&source, position) {
                list.swap(position as usize, flip_of(position, count, pivot) as usize);
            }
        }
    }
}

fn flip_of(index: u32, count: u32, pivot: u32) -> u32 {
    if index <= pivot { pivot - index } else { pivot + count - index }
}

fn pivot(count: u32, seed: &Seed, round: u8) -> u32 {
    let hash = Sha256::new().chain_update(seed).chain_update([round]).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    (u64::from_le_bytes(first) % u64::from(count)) as u32
}

fn bits(seed: &Seed, round: u8, block: u32) -> [u8; 32] {
    Sha256::new().chain_update(seed).chain_update([round]).chain_update(block.to_le_bytes()).finalize().into()
}

fn bit(source: &[u8; 32], position: u32) -> bool {
    source[(position % POSITIONS / 8) as usize] >> (position % 8) & 1 == 1
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::domain::line::hex;

    const SEED: &str = "01b4f6bd5d6a06a7b74a8565ceb4f845afe0ae96a0ac05cf5e86066bf7b538ec";

    fn seed() -> Seed {
        hex::decode_array(SEED).unwrap()
    }

    /// The file `mapping.yaml` of a test vector. It goes on in the next line after 80 columns.
    fn file(mapping: &[u32]) -> String {
        let mut lines = vec!["mapping: [".to_owned()];
        for (at, rank) in mapping.iter().enumerate() {
            let line = lines.last_mut().unwrap();
            if at > 0 {
                line.push(',');
            }
            if line.len() > 80 {
                lines.push(format!("  {rank}"));
            } else {
                write!(line, "{}{rank}", if at > 0 { " " } else { "" }).unwrap();
            }
        }
        format!("seed: '0x{SEED}'\ncount: {}\n{}]\n", mapping.len(), lines.join("\n"))
    }

    /// Published are the files' SHA-256 (their names in the store of large files of consensus-spec-tests, mainnet,
    /// phase 0).
    #[test]
    fn it_is_the_shuffle_that_the_specification_publishes() {
        let published = [
            (5, "caba198838550fbc0368c0ee922d5dad8cb510fe6d156fb0a3fa76b3d7e281ae"),
            (33, "a014701e692faf6390f43a5b32470689ffdec35891f58bcd7572eb8226b19488"),
            (100, "76856e7b9132ba539787cc0563014a8c43e83f1052a814757e43258eda616a4f"),
            (1000, "1fe4a03c481ce317d63640d1caf23d3466c0583a194998a66d8a3be818a5932a"),
            (9999, "c3577795cf7bbe42bcca0c97e2d97b8caf8bf3defa8d1b3cffd6ce7813a06575"),
        ];
        for (count, hash) in published {
            assert_eq!(hex::encode(&Sha256::digest(file(&ranks(count, &seed())))), hash, "{count}");
        }
    }

    #[test]
    fn one_index_alone_has_the_rank_that_it_has_in_the_whole_list() {
        for count in [0, 1, 2, 3, 7, 8, 256, 257] {
            let (ranks, order) = (ranks(count, &seed()), order(count, &seed()));
            assert_eq!(ranks.len(), count as usize);
            for index in 0..count {
                let rank = ranks[index as usize];
                assert_eq!(shuffled_index(index, count, &seed()), Some(rank), "{index} of {count}");
                assert_eq!(index_of(rank, count, &seed()), Some(index), "{rank} of {count}");
                assert_eq!(order[rank as usize], index, "{rank} of {count}");
            }
            assert_eq!(shuffled_index(count, count, &seed()), None);
            assert_eq!(index_of(count, count, &seed()), None);
        }
    }

    #[test]
    fn another_seed_is_another_order() {
        assert_ne!(ranks(100, &seed()), ranks(100, &[0; 32]));
    }
}
