//! Which node owns which clean row: rendezvous hashing over the nodes that are there. Decides only; says nothing about what a row is.
//!
//! Each node weighs each row; the heaviest owns it. A node that comes takes rows from the others and moves none between them; one that goes leaves its rows to those that
//! are next. Nodes may see different nodes for a while: then a row has two owners, which costs a load and nothing else.

use crate::change::RowId;
use ripen_pg::ids::TableOid;

/// The nodes that own rows, as one node sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    me: u64,
    nodes: Vec<u64>,
    elders: Vec<u64>,
}

impl Owners {
    /// Of a node that sees no other.
    pub fn alone(me: u64) -> Owners {
        Owners::new(me, Vec::new(), Vec::new())
    }

    /// Of a node that sees these others. `elders`: those of them that had rows before this one was there.
    pub fn new(me: u64, mut others: Vec<u64>, elders: Vec<u64>) -> Owners {
        others.push(me);
        others.sort_unstable();
        others.dedup();
        Owners {
            me,
            nodes: others,
            elders,
        }
    }

    /// Who owns the row. A node that sees itself as the only one owns everything.
    pub fn owner(&self, row: &RowId) -> u64 {
        if self.nodes.len() == 1 {
            return self.me;
        }
        heaviest(&self.nodes, row).unwrap_or(self.me)
    }

    /// Whether the row is this node's.
    pub fn is_mine(&self, row: &RowId) -> bool {
        self.owner(row) == self.me
    }

    /// Who owned the row before this node was there. `None`: nobody, or that is long ago.
    pub fn former(&self, row: &RowId) -> Option<u64> {
        heaviest(&self.elders, row)
    }

    /// All of them, this one included, ascending.
    pub fn nodes(&self) -> &[u64] {
        &self.nodes
    }
}

fn heaviest(nodes: &[u64], row: &RowId) -> Option<u64> {
    let place = place(row.table, row.key.as_bytes());
    let weighed = nodes.iter().map(|node| (weight(place, *node), *node));
    weighed.max().map(|(_, node)| node)
}

fn weight(place: u64, node: u64) -> u64 {
    mix(place ^ mix(node))
}

/// A row's number. All nodes, of all versions, must come to the same.
pub(crate) fn place(table: TableOid, key: &[u8]) -> u64 {
    let mut place = Mixer::new(u64::from(table.0));
    place.bytes(key);
    place.0
}

/// A hash that stays the same for ever: nodes of different versions compare what it says.
pub(crate) struct Mixer(pub u64);

impl Mixer {
    pub fn new(seed: u64) -> Mixer {
        Mixer(mix(seed))
    }

    pub fn number(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
        self.number(bytes.len() as u64);
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): each bit of the input changes half of the output.
fn mix(number: u64) -> u64 {
    let mut number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ripen_pg::key::Key;
    use std::collections::BTreeMap;

    fn row(table: u32, key: u32) -> RowId {
        RowId {
            table: TableOid(table),
            key: Key::from_bytes(&key.to_be_bytes()),
        }
    }

    fn owners(nodes: &[u64]) -> Owners {
        Owners::new(nodes[0], nodes.to_vec(), Vec::new())
    }

    #[test]
    fn all_versions_come_to_the_same() {
        let nodes = [11, 22, 33];
        let of = |key| owners(&nodes).owner(&row(16_384, key));
        let said: Vec<u64> = (0..12).map(of).collect();
        assert_eq!(said, PINNED);
    }

    /// What the first version said.
    const PINNED: [u64; 12] = [33, 22, 11, 22, 11, 11, 22, 11, 11, 22, 22, 33];

    #[test]
    fn each_node_owns_its_share() {
        let nodes = [1, 2, 3, 4, 5];
        let owners = owners(&nodes);
        let mut shares = BTreeMap::<u64, u32>::new();
        for key in 0..50_000 {
            *shares.entry(owners.owner(&row(7, key))).or_default() += 1;
        }
        let even = |share: &u32| (9_400..10_600).contains(share);
        assert!(shares.len() == 5 && shares.values().all(even), "{shares:?}");
    }

    proptest! {
        #[test]
        fn a_node_that_comes_takes_rows_and_moves_no_other(
            nodes in prop::collection::btree_set(any::<u64>(), 2..8),
            table in any::<u32>(),
            keys in prop::collection::vec(any::<u32>(), 1..200),
        ) {
            let nodes: Vec<u64> = nodes.into_iter().collect();
            let (newcomer, before) = nodes.split_last().unwrap();
            let (before, after) = (owners(before), owners(&nodes));
            let here = Owners::new(*newcomer, nodes.clone(), before.nodes().to_vec());
            for key in keys {
                let row = row(table, key);
                let owner = after.owner(&row);
                prop_assert!(owner == *newcomer || owner == before.owner(&row));
                prop_assert_eq!(here.former(&row), Some(before.owner(&row)));
                prop_assert_eq!(here.owner(&row), owner);
            }
        }

        #[test]
        fn all_who_see_the_same_nodes_agree(
            nodes in prop::collection::vec(any::<u64>(), 1..8),
            key in any::<u32>(),
        ) {
            let mut reversed = nodes.clone();
            reversed.reverse();
            prop_assert_eq!(owners(&nodes).owner(&row(1, key)), owners(&reversed).owner(&row(1, key)));
        }
    }
}
