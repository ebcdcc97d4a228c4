//! The sealed list as one hash: a Merkle tree as in RFC 6962, with SHA-256. Of one entry, anybody can check with a few
//! hashes that it stands in the list.

use sha2::{Digest as _, Sha256};

use super::entries::Entry;
use super::hex::{Digest, Hex};

/// An entry of the sealed list, which is sorted by entry id.
pub fn leaf(index: u32, entry: &Entry) -> Digest {
    let choices = entry.wish.choices.as_bytes();
    let mut data = Vec::with_capacity(32);
    data.extend(index.to_be_bytes());
    data.extend(entry.id.0.0);
    data.extend([entry.wish.quantity.as_byte(), choices.len() as u8]);
    data.extend(choices);
    leaf_of(&data)
}

/// The leaves of a sealed list, in its order.
pub fn leaves(list: &[Entry]) -> Vec<Digest> {
    (0..).zip(list).map(|(index, entry)| leaf(index, entry)).collect()
}

fn leaf_of(data: &[u8]) -> Digest {
    Hex(Sha256::new().chain_update([0]).chain_update(data).finalize().into())
}

fn node(left: &Digest, right: &Digest) -> Digest {
    Hex(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The hash of the whole list. That of an empty one is the hash of nothing, as in the RFC.
pub fn root(mut level: Vec<Digest>) -> Digest {
    while level.len() > 1 {
        level = parents(&level);
    }
    level.pop().unwrap_or_else(|| Hex(Sha256::digest([]).into()))
}

/// What [`is_included`] needs of the others to come from one leaf to the root. `None`: there is no such leaf.
pub fn proof(mut level: Vec<Digest>, index: u32) -> Option<Vec<Digest>> {
    let mut at = index as usize;
    level.get(at)?;
    let mut path = Vec::new();
    while level.len() > 1 {
        path.extend(level.get(at ^ 1));
        level = parents(&level);
        at /= 2;
    }
    Some(path)
}

/// Whether this leaf stands at this index of the list of `count` that has this root.
pub fn is_included(leaf: Digest, index: u32, count: u32, proof: &[Digest], root: Digest) -> bool {
    if index >= count {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, count - 1, leaf);
    let mut path = proof.iter();
    while last > 0 {
        // The last one of a level has no neighbour if it stands at an even place: it goes up as it is.
        if at % 2 == 1 || at < last {
            let Some(other) = path.next() else { return false };
            hash = if at % 2 == 1 { node(other, &hash) } else { node(&hash, other) };
        }
        (at, last) = (at / 2, last / 2);
    }
    path.next().is_none() && hash == root
}

fn parents(level: &[Digest]) -> Vec<Digest> {
    let parent = |pair: &[Digest]| match pair {
        [left, right] => node(left, right),
        alone => alone[0],
    };
    level.chunks(2).map(parent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::line::hex;

    fn digest(text: &str) -> Digest {
        text.parse().unwrap()
    }

    /// The tree with which Certificate Transparency's own code is tested.
    fn reference() -> Vec<Digest> {
        let data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        data.map(|data| leaf_of(&hex::decode(data).unwrap())).to_vec()
    }

    #[test]
    fn roots_are_those_of_the_reference_tree() {
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (count, expected) in roots.into_iter().enumerate() {
            assert_eq!(root(reference()[..count].to_vec()), digest(expected), "{count}");
        }
        let path = [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ];
        assert_eq!(proof(reference(), 0).unwrap(), path.map(digest));
    }

    #[test]
    fn a_proof_holds_for_its_leaf_index_count_and_root_only() {
        for count in 1..=20_u32 {
            let leaves = (0..count).map(|number| leaf_of(&number.to_be_bytes())).collect::<Vec<_>>();
            let root = root(leaves.clone());
            for index in 0..count {
                let path = proof(leaves.clone(), index).unwrap();
                let leaf = leaves[index as usize];
                assert!(is_included(leaf, index, count, &path, root), "{index} of {count}");
                assert!(!is_included(leaf_of(b"?"), index, count, &path, root));
                assert!(!is_included(leaf, index, count, &path, leaf_of(b"?")));
                assert!(!is_included(leaf, count, count, &path, root));
                let others = (0..count).filter(|other| *other != index);
                assert!(
                    others.into_iter().all(|other| !is_included(leaf, other, count, &path, root)),
                    "{index} of {count}"
                );
                let mut longer = path.clone();
                longer.push(leaf);
                assert!(!is_included(leaf, index, count, &longer, root));
                assert!(path.is_empty() || !is_included(leaf, index, count, &path[1..], root));
            }
            assert_eq!(proof(leaves, count), None);
        }
    }

    #[test]
    fn a_leaf_covers_all_of_its_entry() {
        let entry: Entry = serde_json::from_str(r#"["000102030405060708090a0b0c0d0e0f",2,[1,0]]"#).unwrap();
        let data = hex::decode("00000007000102030405060708090a0b0c0d0e0f02020100").unwrap();
        assert_eq!(leaf(7, &entry), leaf_of(&data));
    }
}
