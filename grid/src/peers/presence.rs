//! Which nodes are there to own rows. Decides only; times are arguments, in milliseconds of this node's clock.
//!
//! A node is there if it is a member and has lately said so in a version of these questions that this node speaks. Being wrong costs a detour or a load, never a wrong row.

use super::limits::{PRESENT_MS, YOUNG_MS};
use super::owners::Owners;
use std::collections::{BTreeMap, BTreeSet};

/// What this node has heard of the others.
#[derive(Debug, Default)]
pub struct Presence {
    heard: BTreeMap<u64, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at_ms: u64,
    /// When it began, by this node's clock; before the clock's own beginning, if it is older.
    begun_ms: i64,
}

impl Presence {
    /// A node has said that it is there, and has been for so long.
    pub fn heard(&mut self, node: u64, up_ms: u64, now_ms: u64) {
        let heard = Heard {
            at_ms: now_ms,
            begun_ms: now_ms as i64 - up_ms as i64,
        };
        self.heard.insert(node, heard);
    }

    /// Nobody is at a node's address, or one that does not speak of rows.
    pub fn gone(&mut self, node: u64) {
        self.heard.remove(&node);
    }

    /// Who owns rows now. This node began at 0.
    pub fn owners(&self, me: u64, members: &BTreeSet<u64>, now_ms: u64) -> Owners {
        let there = |node: &u64| {
            let heard = self.heard.get(node).filter(|_| members.contains(node));
            heard.is_some_and(|heard| now_ms <= heard.at_ms + PRESENT_MS)
        };
        let others = self.heard.keys().copied();
        let others: Vec<u64> = others.filter(|node| *node != me && there(node)).collect();
        let elder = |node: &u64| now_ms < YOUNG_MS && self.heard[node].begun_ms < 0;
        let elders = others.iter().copied().filter(elder).collect();
        Owners::new(me, others, elders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::RowId;
    use ripen_pg::ids::TableOid;
    use ripen_pg::key::Key;

    fn members() -> BTreeSet<u64> {
        BTreeSet::from([1, 2, 3])
    }

    fn has_former(owners: &Owners) -> bool {
        let key = Key::from_bytes(b"k");
        let table = TableOid(1);
        owners.former(&RowId { table, key }).is_some()
    }

    #[test]
    fn a_silent_node_owns_nothing_and_one_that_is_back_owns_again() {
        let mut presence = Presence::default();
        assert_eq!(presence.owners(1, &members(), 0), Owners::alone(1));
        presence.heard(2, 10, 100);
        presence.heard(9, 10, 100);
        let nodes = |presence: &Presence, now| presence.owners(1, &members(), now).nodes().to_vec();
        assert_eq!(nodes(&presence, 100), [1, 2], "9 is no member");
        assert_eq!(nodes(&presence, 100 + PRESENT_MS), [1, 2]);
        assert_eq!(nodes(&presence, 101 + PRESENT_MS), [1]);
        presence.heard(2, 1_500, 1_600);
        presence.heard(3, 1_500, 1_600);
        assert_eq!(nodes(&presence, 1_601), [1, 2, 3]);
        presence.gone(3);
        assert_eq!(nodes(&presence, 1_601), [1, 2]);
    }

    #[test]
    fn only_the_young_ask_their_elders() {
        let mut presence = Presence::default();
        presence.heard(2, 50, 100);
        assert!(!has_former(&presence.owners(1, &members(), 100)));
        presence.heard(2, 5_000, 100);
        assert!(has_former(&presence.owners(1, &members(), 100)));
        presence.heard(2, YOUNG_MS, YOUNG_MS - 100);
        assert!(has_former(&presence.owners(1, &members(), YOUNG_MS - 50)));
        assert!(!has_former(&presence.owners(1, &members(), YOUNG_MS)));
    }
}
