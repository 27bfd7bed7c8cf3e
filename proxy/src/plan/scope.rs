//! What a statement may touch, before its parameters are known. Resolves to the grid's `Scope`; widens whenever a key cannot be computed.

use crate::eval::keys::KeyTemplate;
use ripen_pg::ids::TableOid;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A scope with parameters still open.
#[derive(Clone, Debug)]
pub enum ScopeTemplate {
    /// Touches nothing that could be cached.
    Nothing,
    /// The rows of one table that the statement names.
    Keys(TableOid, Arc<KeyTemplate>),
    /// Any row of these tables.
    Tables(BTreeSet<TableOid>),
    /// Anything.
    Everything,
}

impl ScopeTemplate {
    /// The smallest template that covers both.
    pub fn union(self, other: ScopeTemplate) -> ScopeTemplate {
        use ScopeTemplate::{Everything, Keys, Nothing, Tables};
        match (self, other) {
            (Everything, _) | (_, Everything) => Everything,
            (Nothing, scope) | (scope, Nothing) => scope,
            (left, right) => {
                let mut tables = BTreeSet::new();
                for side in [left, right] {
                    match side {
                        Keys(table, _) => drop(tables.insert(table)),
                        Tables(more) => tables.extend(more),
                        Nothing | Everything => {}
                    }
                }
                Tables(tables)
            }
        }
    }

    /// Whether there is nothing in it.
    pub fn is_nothing(&self) -> bool {
        matches!(self, ScopeTemplate::Nothing)
    }
}
