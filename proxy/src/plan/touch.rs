//! Which tables a statement may read and write: a walk over the whole tree (P3). Never narrows: what it does not know is everything.
//!
//! Invariant: every relation, function and type named anywhere in the tree is looked at; a node that the walk does not know makes the scope everything.

mod expression;
mod functions;
mod query;
pub mod relation;

use super::effects::Effects;
use super::names::Names;
use super::parse::NodeEnum;
use super::scope::ScopeTemplate;
use ripen_cachestore::catalog::Relation;
use ripen_pg::ids::TableOid;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Tables so far, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// These tables.
    pub tables: BTreeSet<TableOid>,
    /// Anything at all.
    pub everything: bool,
}

impl Reach {
    /// Takes in another one.
    pub fn extend(&mut self, other: &Reach) {
        self.tables.extend(&other.tables);
        self.everything |= other.everything;
    }

    /// As a scope without keys.
    pub fn scope(self) -> ScopeTemplate {
        if self.everything {
            ScopeTemplate::Everything
        } else if self.tables.is_empty() {
            ScopeTemplate::Nothing
        } else {
            ScopeTemplate::Tables(self.tables)
        }
    }
}

/// The walk and what it has found.
pub struct Touch<'a> {
    pub(super) names: Names<'a>,
    /// What may be read.
    pub reads: Reach,
    /// What may be written or locked.
    pub writes: Reach,
    /// What else happens.
    pub effects: Effects,
    /// The first thing that widened the scope to everything.
    pub widened: Option<&'static str>,
    /// How many times a known relation was named.
    pub references: usize,
    /// How many times something else was named: a relation unknown or temporary, or a function.
    pub unresolved: usize,
    /// More rows of a table than it names by key may change, or decide at COMMIT.
    pub beyond_keys: bool,
    ctes: Vec<String>,
    aliases: HashMap<String, Vec<Option<Arc<Relation>>>>,
}

impl<'a> Touch<'a> {
    /// A walk that has found nothing yet.
    pub fn new(names: Names<'a>) -> Touch<'a> {
        Touch {
            names,
            reads: Reach::default(),
            writes: Reach::default(),
            effects: Effects::default(),
            widened: None,
            references: 0,
            unresolved: 0,
            beyond_keys: false,
            ctes: Vec::new(),
            aliases: HashMap::new(),
        }
    }

    /// May read anything, because of this.
    pub fn read_everything(&mut self, why: &'static str) {
        self.reads.everything = true;
        self.widened.get_or_insert(why);
    }

    /// May read and write anything, because of this.
    pub fn everything(&mut self, why: &'static str) {
        self.read_everything(why);
        self.writes.everything = true;
    }

    /// Runs code of users that may write: anything, with any effect.
    pub fn user_code(&mut self, why: &'static str) {
        self.everything(why);
        self.effects.code = true;
    }

    /// Whether what was walked so far may have to wait for other sessions, or learns what they have done.
    pub fn may_wait(&self) -> bool {
        self.writes != Reach::default() || self.effects.may_wait()
    }

    /// Walks SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES. False when it is none of these.
    pub fn statement(&mut self, node: &NodeEnum) -> bool {
        if self.names.catalog.untrusted_operators {
            self.read_everything("operators or casts run user code");
        }
        match node {
            NodeEnum::SelectStmt(select) => self.select(select),
            NodeEnum::InsertStmt(insert) => self.insert(insert),
            NodeEnum::UpdateStmt(update) => self.update(update),
            NodeEnum::DeleteStmt(delete) => self.delete(delete),
            NodeEnum::MergeStmt(merge) => self.merge(merge),
            _ => return false,
        }
        true
    }
}
