//! What this process knows of the publication, and which tables may count as followed here. Decides only; `publisher` asks Postgres.
//!
//! Other nodes change the publication too. What they take out is told twice, in no order: by the log, before their DDL, and by the stream, with the change. Neither
//! may be visible yet to who asks Postgres, so what is told while it is asked outdoes the answer, and the next look waits for its turn.

use ripen_hotcache::publication::{Others, Published, Wish};
use ripen_pg::ids::TableOid;
use std::collections::{BTreeMap, BTreeSet};

/// Tables that transactions now running have had taken out, and how many of these there are.
#[derive(Debug, Default)]
struct Withdrawals(BTreeMap<TableOid, usize>);

impl Withdrawals {
    fn add(&mut self, tables: &BTreeSet<TableOid>) {
        for table in tables {
            *self.0.entry(*table).or_default() += 1;
        }
    }

    fn remove(&mut self, tables: &BTreeSet<TableOid>) {
        for table in tables {
            if let Some(count) = self.0.get_mut(table) {
                *count -= 1;
            }
        }
        self.0.retain(|_, count| *count > 0);
    }

    fn have(&self, table: &TableOid) -> bool {
        self.0.contains_key(table)
    }
}

/// How the publication is to be asked for.
pub(super) struct Asked<'a> {
    /// Tables that shall be followed.
    pub wanted: &'a BTreeSet<TableOid>,
    /// Known tables that shall not.
    pub unwanted: &'a BTreeSet<TableOid>,
    /// Whether this node leads, if there are others.
    pub leads: Option<bool>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What is in the publication, as far as this process has seen to it. `None`: whatever an earlier one has left there.
    published: Option<BTreeSet<TableOid>>,
    here: Withdrawals,
    /// What others took out since the publication was last asked for.
    told: BTreeSet<TableOid>,
    /// Others took something out before, and nobody has looked in turn since.
    doubtful: bool,
}

impl Standing {
    pub fn is_published(&self, table: &TableOid) -> bool {
        self.published
            .as_ref()
            .is_none_or(|published| published.contains(table))
    }

    pub fn may_be_served(&self, table: &TableOid) -> bool {
        self.is_published(table) && !self.here.have(table)
    }

    /// A session of this process has them out of the publication: they stay out until they are given back.
    pub fn withdraw(&mut self, tables: &BTreeSet<TableOid>) {
        self.here.add(tables);
    }

    pub fn give_back(&mut self, tables: &BTreeSet<TableOid>) {
        self.here.remove(tables);
    }

    /// Others have taken them out of the publication, or are about to.
    pub fn lose(&mut self, tables: &BTreeSet<TableOid>) {
        self.forget(tables);
        self.told.extend(tables);
    }

    /// They are not in the publication any more.
    pub fn forget(&mut self, tables: &BTreeSet<TableOid>) {
        if let Some(published) = &mut self.published {
            published.retain(|table| !tables.contains(table));
        }
    }

    /// What to ask Postgres for, now.
    pub fn wish(&mut self, asked: &Asked<'_>) -> Wish {
        self.doubtful |= !self.told.is_empty();
        self.told.clear();
        let wanted = asked.wanted.iter().copied();
        let others = match asked.leads {
            None => Others::Go,
            // One decides for all, and only about what it knows: another may know newer tables.
            Some(leads) => {
                let unwanted = asked.unwanted.iter().filter(|_| leads);
                let but = unwanted.chain(self.here.0.keys()).copied().collect();
                Others::Stay { but }
            }
        };
        Wish {
            tables: wanted.filter(|table| !self.here.have(table)).collect(),
            others,
            in_turn: self.doubtful,
        }
    }

    /// What Postgres answered. Answers the tables that are in the publication, and which of them were not until now, as far as this process knows.
    pub fn note(&mut self, published: &Published) -> (BTreeSet<TableOid>, BTreeSet<TableOid>) {
        self.doubtful = !self.told.is_empty();
        let mut now = &published.followed | &published.added;
        now.retain(|table| !self.told.contains(table));
        let before = self.published.replace(now.clone()).unwrap_or_default();
        let kept = &before & &published.followed;
        let fresh = &now - &kept;
        (now, fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(tables: &[u32]) -> BTreeSet<TableOid> {
        tables.iter().copied().map(TableOid).collect()
    }

    fn published(followed: &[u32], added: &[u32]) -> Published {
        Published {
            followed: set(followed),
            added: set(added),
            ..Published::default()
        }
    }

    fn wish(standing: &mut Standing, leads: Option<bool>) -> Wish {
        standing.wish(&Asked {
            wanted: &set(&[1, 2]),
            unwanted: &set(&[8, 9]),
            leads,
        })
    }

    #[test]
    fn a_table_is_withdrawn_until_the_last_transaction_has_given_it_back() {
        let (mut standing, tables) = (Standing::default(), set(&[1]));
        standing.withdraw(&tables);
        standing.withdraw(&tables);
        standing.give_back(&tables);
        assert!(!standing.may_be_served(&TableOid(1)));
        assert_eq!(wish(&mut standing, None).tables, set(&[2]));
        standing.give_back(&tables);
        assert!(standing.may_be_served(&TableOid(1)));
        assert_eq!(wish(&mut standing, None).tables, set(&[1, 2]));
    }

    #[test]
    fn what_an_earlier_process_published_may_be_anything() {
        let mut standing = Standing::default();
        assert!(standing.is_published(&TableOid(1)));
        let (now, fresh) = standing.note(&published(&[1], &[]));
        assert_eq!((now, fresh), (set(&[1]), set(&[1])));
        assert!(!standing.is_published(&TableOid(2)));
    }

    #[test]
    fn what_another_node_has_published_is_new_here_once() {
        let mut standing = Standing::default();
        standing.note(&published(&[1], &[]));
        assert_eq!(standing.note(&published(&[1, 2], &[])).1, set(&[2]));
        assert_eq!(standing.note(&published(&[1, 2], &[])).1, set(&[]));
        assert_eq!(standing.note(&published(&[1], &[2, 3])).1, set(&[2, 3]));
    }

    #[test]
    fn what_another_node_took_out_and_put_back_is_new_here() {
        let mut standing = Standing::default();
        standing.note(&published(&[1, 2], &[]));
        standing.lose(&set(&[2]));
        assert!(!standing.may_be_served(&TableOid(2)));
        assert!(wish(&mut standing, Some(false)).in_turn);
        assert_eq!(standing.note(&published(&[1, 2], &[])).1, set(&[2]));
        assert!(!wish(&mut standing, Some(false)).in_turn);
    }

    #[test]
    fn what_is_told_while_postgres_is_asked_outdoes_its_answer() {
        let mut standing = Standing::default();
        standing.note(&published(&[1, 2], &[]));
        assert!(!wish(&mut standing, Some(false)).in_turn);
        standing.lose(&set(&[2]));
        let (now, _) = standing.note(&published(&[1, 2], &[]));
        assert_eq!(now, set(&[1]));
        assert!(!standing.may_be_served(&TableOid(2)));
        // Not settled by an attempt that fails.
        assert!(wish(&mut standing, Some(false)).in_turn);
        assert!(wish(&mut standing, Some(false)).in_turn);
        assert_eq!(standing.note(&published(&[1, 2], &[])).1, set(&[2]));
        assert!(!wish(&mut standing, Some(false)).in_turn);
    }

    #[test]
    fn a_node_that_does_not_lead_takes_out_only_what_its_own_sessions_need() {
        let mut standing = Standing::default();
        standing.withdraw(&set(&[1]));
        let but = |leads, standing: &mut Standing| match wish(standing, leads).others {
            Others::Go => None,
            Others::Stay { but } => Some(but),
        };
        assert_eq!(but(None, &mut standing), None);
        assert_eq!(but(Some(false), &mut standing), Some(set(&[1])));
        assert_eq!(but(Some(true), &mut standing), Some(set(&[1, 8, 9])));
    }
}
