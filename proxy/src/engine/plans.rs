//! Remembers the plan of each text, so that parsing and planning happen once per text, facts and catalog epoch. Never plans; the caller gives the function.

use crate::limits;
use crate::plan::{Plan, SessionFacts};
use crate::session::answerer::Planned;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;
use ripen_cachestore::catalog::Epoch;
use ripen_pg::ids::TypeOid;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

/// A plan and what it was made for.
struct Remembered {
    hash: u64,
    sql: Box<str>,
    declared: Box<[TypeOid]>,
    facts: SessionFacts,
    planned: Arc<Planned>,
}

impl Remembered {
    fn is_for(&self, sql: &str, declared: &[TypeOid], facts: &SessionFacts) -> bool {
        *self.sql == *sql && *self.declared == *declared && self.facts == *facts
    }
}

/// The cache. Shared by all sessions.
pub struct PlanCache {
    hasher: RandomState,
    shards: Vec<Mutex<HashTable<Remembered>>>,
}

impl Default for PlanCache {
    fn default() -> PlanCache {
        let shards = (0..limits::PLAN_CACHE_SHARDS)
            .map(|_| Mutex::default())
            .collect();
        PlanCache {
            hasher: RandomState::default(),
            shards,
        }
    }
}

impl PlanCache {
    /// The remembered plan, if it is of this epoch.
    pub fn get(
        &self,
        sql: &str,
        declared: &[TypeOid],
        facts: &SessionFacts,
        epoch: Epoch,
    ) -> Option<Arc<Planned>> {
        let hash = self.hash(sql, declared, facts);
        let shard = self.shard(hash).lock();
        let found = shard.find(hash, |entry| entry.is_for(sql, declared, facts))?;
        (found.planned.epoch == epoch).then(|| found.planned.clone())
    }

    /// The remembered plan, or the one that `make` makes, which is then remembered. Two sessions may make the same plan at once; one is kept.
    pub fn get_or_make(
        &self,
        sql: &str,
        declared: &[TypeOid],
        facts: &SessionFacts,
        epoch: Epoch,
        make: impl FnOnce() -> Plan,
    ) -> Arc<Planned> {
        if let Some(planned) = self.get(sql, declared, facts, epoch) {
            return planned;
        }
        let planned = Arc::new(Planned {
            plan: make(),
            epoch,
        });
        if sql.len() > limits::PLAN_CACHE_TEXT_MAX {
            return planned;
        }
        let hash = self.hash(sql, declared, facts);
        let mut shard = self.shard(hash).lock();
        if let Ok(old) = shard.find_entry(hash, |entry| entry.is_for(sql, declared, facts)) {
            old.remove();
        }
        if shard.len() >= limits::PLAN_CACHE_SHARD_MAX {
            // Texts with literals that nobody repeats fill it; starting anew costs one planning for each text that is still in use.
            shard.clear();
        }
        let entry = Remembered {
            hash,
            sql: sql.into(),
            declared: declared.into(),
            facts: facts.clone(),
            planned: planned.clone(),
        };
        shard.insert_unique(hash, entry, |entry| entry.hash);
        planned
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<Remembered>> {
        &self.shards[(hash >> 48) as usize % self.shards.len()]
    }

    fn hash(&self, sql: &str, declared: &[TypeOid], facts: &SessionFacts) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        sql.hash(&mut hasher);
        declared.hash(&mut hasher);
        facts.user.hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{PassPlan, Reason};

    fn facts(user: &str) -> SessionFacts {
        SessionFacts {
            user: user.to_owned(),
            search_path: vec!["public".to_owned()],
            temp_possible: false,
            temp_opaque: false,
            row_security: true,
            standard_conforming_strings: true,
            plain_settings: true,
        }
    }

    fn plan() -> Plan {
        Plan::PassThrough(Arc::new(PassPlan::unknown(Reason::new("test", "test"))))
    }

    #[test]
    fn a_plan_is_made_once_for_each_text_user_and_epoch() {
        let cache = PlanCache::default();
        let made = std::cell::Cell::new(0);
        let ask = |sql, user, epoch| {
            cache.get_or_make(sql, &[], &facts(user), Epoch(epoch), || {
                made.set(made.get() + 1);
                plan()
            });
            made.get()
        };
        assert_eq!(ask("a", "u", 1), 1);
        assert_eq!(ask("a", "u", 1), 1);
        assert_eq!(ask("b", "u", 1), 2);
        assert_eq!(ask("a", "v", 1), 3);
        assert_eq!(ask("a", "u", 2), 4);
        assert_eq!(ask("a", "u", 2), 4);
    }
}
