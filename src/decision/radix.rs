//! A persistent map from 64-bit keys, made for the snapshot: a copy costs nothing, a change copies one short path, a
//! lookup among a million entries touches about three cold cache lines.
//!
//! The key is mixed to 64 bits; four levels of 16 children lead to small exact-size leaves that are scanned. Batches of
//! changes on a copy nobody else holds work in place.

use std::sync::Arc;

const BITS: u32 = 4;
const FAN: usize = 1 << BITS;
const LEVELS: u32 = 4;

/// The map.
#[derive(Clone, Debug)]
pub struct RadixMap<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node<K, V> {
    Branch([Option<Arc<Node<K, V>>>; FAN]),
    /// The last level points straight at the entries: one cold line less than through a node of their own.
    Twig([Option<Leaf<K, V>>; FAN]),
}

/// Sorted by nothing: a leaf holds about 16 entries at a million keys and is scanned.
type Leaf<K, V> = Arc<[(K, V)]>;

/// Keys: how they spread over the map.
pub trait RadixKey: Copy + Eq {
    /// Well-mixed bits: equal keys give equal bits.
    fn mixed(self) -> u64;
}

fn mix(mut bits: u64) -> u64 {
    // The finaliser of MurmurHash3: every input bit reaches every output bit.
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

impl RadixKey for u64 {
    fn mixed(self) -> u64 {
        mix(self)
    }
}

impl RadixKey for u128 {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    fn mixed(self) -> u64 {
        mix((self as u64) ^ mix((self >> 64) as u64))
    }
}

const fn child(bits: u64, level: u32) -> usize {
    ((bits >> (level * BITS)) & (FAN as u64 - 1)) as usize
}

impl<K, V> Default for RadixMap<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K: RadixKey, V: Clone> RadixMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key.
    pub fn get(&self, key: K) -> Option<&V> {
        let bits = key.mixed();
        let mut node = self.root.as_deref()?;
        let mut level = 0;
        loop {
            match node {
                Node::Branch(children) => {
                    node = children.get(child(bits, level))?.as_deref()?;
                    level += 1;
                }
                Node::Twig(leaves) => {
                    let leaf = leaves.get(child(bits, level))?.as_deref()?;
                    return leaf.iter().find(|(k, _)| *k == key).map(|(_, v)| v);
                }
            }
        }
    }

    /// Sets the value of a key; the old value comes back.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = change(&mut self.root, key, key.mixed(), 0, |_| Some(value));
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes a key; its value comes back.
    pub fn remove(&mut self, key: K) -> Option<V> {
        let old = change(&mut self.root, key, key.mixed(), 0, |_| None);
        self.len -= usize::from(old.is_some());
        old
    }

    /// Changes the value of a key where it is. `false`: there is none.
    pub fn update(&mut self, key: K, with: impl FnOnce(&mut V)) -> bool {
        let bits = key.mixed();
        // Nothing is copied for a key that is not there.
        if self.get(key).is_none() {
            return false;
        }
        let mut slot = self.root.as_mut();
        let mut level = 0;
        while let Some(node) = slot.take() {
            match Arc::make_mut(node) {
                Node::Branch(children) => {
                    slot = children.get_mut(child(bits, level)).and_then(Option::as_mut);
                    level += 1;
                }
                Node::Twig(leaves) => {
                    let leaf = leaves.get_mut(child(bits, level)).and_then(Option::as_mut);
                    let entry = leaf.and_then(|leaf| Arc::make_mut(leaf).iter_mut().find(|(k, _)| *k == key));
                    return entry.map(|(_, value)| with(value)).is_some();
                }
            }
        }
        false
    }

    /// Every entry, in no order.
    pub fn for_each(&self, mut visit: impl FnMut(K, &V)) {
        fn walk<K: Copy, V>(node: &Node<K, V>, visit: &mut impl FnMut(K, &V)) {
            match node {
                Node::Branch(children) => children.iter().flatten().for_each(|c| walk(c, visit)),
                Node::Twig(leaves) => {
                    leaves.iter().flatten().flat_map(|leaf| leaf.iter()).for_each(|(k, v)| visit(*k, v));
                }
            }
        }
        if let Some(root) = &self.root {
            walk(root, &mut visit);
        }
    }
}

/// Replaces what `key` has by `with(old)`. Nodes that others hold are copied, others changed in place.
fn change<K: RadixKey, V: Clone>(
    slot: &mut Option<Arc<Node<K, V>>>,
    key: K,
    bits: u64,
    level: u32,
    with: impl FnOnce(Option<&V>) -> Option<V>,
) -> Option<V> {
    let last = level + 1 == LEVELS;
    let node = slot.get_or_insert_with(|| {
        Arc::new(if last { Node::Twig(Default::default()) } else { Node::Branch(Default::default()) })
    });
    let (old, empty) = match Arc::make_mut(node) {
        Node::Branch(children) => {
            let old = change(children.get_mut(child(bits, level))?, key, bits, level + 1, with);
            (old, children.iter().all(Option::is_none))
        }
        Node::Twig(leaves) => {
            let old = change_leaf(leaves.get_mut(child(bits, level))?, key, with);
            (old, leaves.iter().all(Option::is_none))
        }
    };
    if empty {
        *slot = None;
    }
    old
}

fn change_leaf<K: RadixKey, V: Clone>(
    slot: &mut Option<Leaf<K, V>>,
    key: K,
    with: impl FnOnce(Option<&V>) -> Option<V>,
) -> Option<V> {
    let entries = slot.as_deref().unwrap_or_default();
    let old = entries.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
    let new = with(old.as_ref());
    let others = entries.iter().filter(|(k, _)| *k != key).cloned();
    let next: Leaf<K, V> = others.chain(new.map(|v| (key, v))).collect();
    *slot = (!next.is_empty()).then_some(next);
    old
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    proptest::proptest! {
        #[test]
        fn agrees_with_a_hash_map(steps in proptest::collection::vec((0u64..300, 0u8..4), 0..2_000)) {
            let mut map = RadixMap::default();
            let mut model = HashMap::new();
            let mut kept: Vec<(RadixMap<u64, usize>, HashMap<u64, usize>)> = Vec::new();
            for (at, (key, what)) in steps.into_iter().enumerate() {
                match what {
                    0 => assert_eq!(map.remove(key), model.remove(&key)),
                    1 => {
                        let there = model.get_mut(&key).map(|value| *value += 1).is_some();
                        assert_eq!(map.update(key, |value| *value += 1), there);
                    }
                    _ => assert_eq!(map.insert(key, at), model.insert(key, at)),
                }
                assert_eq!(map.len(), model.len());
                if at % 100 == 0 {
                    kept.push((map.clone(), model.clone()));
                }
            }
            kept.push((map, model));
            // Copies kept from before are what they were.
            for (map, model) in kept {
                let mut seen = HashMap::new();
                map.for_each(|k, v| assert!(seen.insert(k, *v).is_none()));
                assert_eq!(seen, model);
                for key in 0..300 {
                    assert_eq!(map.get(key), model.get(&key));
                }
            }
        }
    }
}
