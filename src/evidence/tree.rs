//! The Merkle tree of RFC 6962 section 2.1 (SHA-256), as RFC 9162 verifies it.
//!
//! Pure: hashes in, hashes and verdicts out. Where leaves and nodes are kept is the business of the tiles.

use std::fmt;

use aws_lc_rs::digest;
use smallvec::SmallVec;

use super::entry::hex;

/// A SHA-256 hash: of a leaf, of a node, of a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of plain bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    let made = digest::digest(&digest::SHA256, bytes);
    for (to, from) in out.iter_mut().zip(made.as_ref()) {
        *to = *from;
    }
    out
}

/// The hash of a leaf: `SHA-256(0x00 || entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    // In one piece: to begin a digest that takes several costs more than a node's hash.
    let mut leaf = SmallVec::<[u8; 2048]>::new();
    leaf.push(0);
    leaf.extend_from_slice(entry);
    Hash(sha256(&leaf))
}

/// The hash of a node: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut node = [1; 65];
    for (to, from) in node.iter_mut().skip(1).zip(left.0.iter().chain(&right.0)) {
        *to = *from;
    }
    Hash(sha256(&node))
}

/// The root of the tree with no leaves: `SHA-256("")`.
pub fn empty_root() -> Hash {
    Hash(sha256(b""))
}

/// The right edge of a growing tree: the roots of its perfect subtrees, largest first.
///
/// Enough to append and to tell the root, in 64 hashes at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactRange {
    size: u64,
    peaks: Vec<Hash>,
}

impl CompactRange {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash.
    pub fn append(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each trailing one of the size is a perfect subtree that the new leaf completes.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            node = node_hash(&left, &node);
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The roots of its perfect subtrees, largest first.
    pub(crate) fn into_peaks(self) -> Vec<Hash> {
        self.peaks
    }

    /// The root over all leaves so far.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// The root over leaves or equally large perfect subtrees.
pub fn root_of(hashes: &[Hash]) -> Hash {
    let mut range = CompactRange::new();
    for hash in hashes {
        range.append(*hash);
    }
    range.root()
}

/// Whether `proof` shows that `leaf` is leaf `index` of the tree with `size` leaves and `root` (RFC 9162 2.1.3.2).
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at % 2 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// A tree as its size and root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of leaves.
    pub size: u64,
    /// Root hash.
    pub root: Hash,
}

/// Whether `proof` shows that `old` is a prefix of `new` (RFC 9162 2.1.4.2). The empty tree is a prefix of each.
pub fn verify_consistency(old: &TreeHead, new: &TreeHead, proof: &[Hash]) -> bool {
    if old.size == new.size {
        return proof.is_empty() && old.root == new.root;
    }
    if old.size > new.size {
        return false;
    }
    if old.size == 0 {
        return proof.is_empty();
    }
    let (first, rest) = if old.size.is_power_of_two() {
        (old.root, proof)
    } else {
        let Some((first, rest)) = proof.split_first() else { return false };
        (*first, rest)
    };
    if rest.is_empty() {
        return false;
    }
    let shift = (old.size - 1).trailing_ones();
    let (mut at, mut last) = ((old.size - 1) >> shift, (new.size - 1) >> shift);
    let (mut from_old, mut from_new) = (first, first);
    for hash in rest {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            from_old = node_hash(hash, &from_old);
            from_new = node_hash(hash, &from_new);
            while at % 2 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, hash);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == old.root && from_new == new.root
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
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

    fn bytes(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn hash(text: &str) -> Hash {
        Hash(bytes(text).try_into().unwrap())
    }

    fn leaves() -> Vec<Hash> {
        ENTRIES.iter().map(|entry| leaf_hash(&bytes(entry))).collect()
    }

    /// The definition of RFC 6962 section 2.1, to the letter.
    fn slow_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let split = many.len().next_power_of_two() / 2;
                node_hash(&slow_root(&many[..split]), &slow_root(&many[split..]))
            }
        }
    }

    fn inclusion(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return vec![];
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (mut proof, other) = if index < split {
            (inclusion(index, &leaves[..split]), &leaves[split..])
        } else {
            (inclusion(index - split, &leaves[split..]), &leaves[..split])
        };
        proof.push(slow_root(other));
        proof
    }

    fn consistency(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if old == leaves.len() {
            return if whole { vec![] } else { vec![slow_root(leaves)] };
        }
        let split = leaves.len().next_power_of_two() / 2;
        if old <= split {
            let mut proof = consistency(old, &leaves[..split], whole);
            proof.push(slow_root(&leaves[split..]));
            proof
        } else {
            let mut proof = consistency(old - split, &leaves[split..], false);
            proof.push(slow_root(&leaves[..split]));
            proof
        }
    }

    #[test]
    fn roots_are_those_of_the_known_trees() {
        let mut range = CompactRange::new();
        assert_eq!(range.root(), hash(ROOTS[0]));
        for (leaf, root) in leaves().into_iter().zip(&ROOTS[1..]) {
            range.append(leaf);
            assert_eq!(range.root(), hash(root));
        }
    }

    #[test]
    fn known_proofs_verify() {
        let proof = [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            ROOTS[4],
        ]
        .map(hash);
        assert!(verify_inclusion(leaves()[5], 5, 8, &proof, &hash(ROOTS[8])));
        assert!(!verify_inclusion(leaves()[4], 5, 8, &proof, &hash(ROOTS[8])));
        let proof = [
            "0298d122906dcfc10892cb53a73992fc5b9f493ea4c9badb27b791b4127a7fe7",
            "07506a85fd9dd2f120eb694f86011e5bb4662e5c415a62917033d4a9624487e7",
            ROOTS[2],
            "837dbb152e9b079010717e84e865da4ebc0fa198a806d59d31bf15accef22d0e",
        ]
        .map(hash);
        let head = |size: usize| TreeHead { size: size as u64, root: hash(ROOTS[size]) };
        assert!(verify_consistency(&head(3), &head(7), &proof));
        assert!(!verify_consistency(&head(2), &head(7), &proof));
    }

    #[test]
    fn every_proof_of_small_trees_verifies_and_no_altered_one() {
        let all: Vec<Hash> = (0u32..70).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        for size in (1..=33).chain([64, 65, 70]) {
            let tree = &all[..size];
            let root = root_of(tree);
            assert_eq!(root, slow_root(tree));
            for index in 0..size {
                let mut proof = inclusion(index, tree);
                assert!(verify_inclusion(tree[index], index as u64, size as u64, &proof, &root));
                assert!(!verify_inclusion(tree[index], index as u64 + 1, size as u64, &proof, &root));
                if let Some(first) = proof.first_mut() {
                    first.0[0] ^= 1;
                    assert!(!verify_inclusion(tree[index], index as u64, size as u64, &proof, &root));
                }
            }
            for old in 1..=size {
                let heads = [old, size].map(|n| TreeHead { size: n as u64, root: slow_root(&all[..n]) });
                let mut proof = consistency(old, tree, true);
                assert!(verify_consistency(&heads[0], &heads[1], &proof), "{old} {size}");
                proof.push(root);
                assert!(!verify_consistency(&heads[0], &heads[1], &proof));
            }
        }
    }
}
