//! The plan of everything that goes to Postgres: what it may read and write, and what else it does. Widening a scope is always allowed, narrowing never.

use super::effects::Effects;
use super::names::Names;
use super::narrow::Narrow;
use super::parse::NodeEnum;
use super::reason::Reason;
use super::scope::ScopeTemplate;
use super::sequences::{self, SequenceUse};
use super::touch::{Reach, Touch};
use ripen_cachestore::catalog::Epoch;

/// A text for Postgres.
#[derive(Clone, Debug)]
pub struct PassPlan {
    /// What it may see: barrier on it.
    pub reads: ScopeTemplate,
    /// What it may change or lock: ownership of it until the transaction ends.
    pub writes: ScopeTemplate,
    /// What else it does.
    pub effects: Effects,
    /// Why it is not answered here.
    pub reason: Reason,
    /// What made a scope everything, if something did.
    pub widened: Option<&'static str>,
    /// What it is (of several statements: the first).
    pub kind: StatementKind,
    /// Of the catalog by which it is so.
    pub epoch: Epoch,
}

impl PassPlan {
    /// A text of which nothing is known.
    pub fn unknown(reason: Reason) -> PassPlan {
        PassPlan {
            reads: ScopeTemplate::Everything,
            writes: ScopeTemplate::Everything,
            effects: Effects {
                ddl: true,
                meanings: true,
                rewires: true,
                grants: true,
                settings: true,
                temp_tables: true,
                temp_opaque: true,
                code: true,
                ..Effects::default()
            },
            reason,
            widened: Some("the statement is not understood"),
            kind: StatementKind::Unknown,
            epoch: Epoch::default(),
        }
    }

    /// The same, with what can only be told of its text.
    #[must_use]
    pub fn with_text(mut self, sql: &str) -> PassPlan {
        if sequences::asks(sql) {
            self.effects.sequences = SequenceUse::Asks;
        }
        self
    }

    /// What it has to do with what the session has drawn from sequences.
    pub fn sequence_use(&self) -> SequenceUse {
        let unseen = self.effects.code || self.kind == StatementKind::Unknown;
        match unseen {
            true => self.effects.sequences.max(SequenceUse::Moves),
            false => self.effects.sequences,
        }
    }

    /// Whether it may have to wait for other sessions: what comes after it in Postgres may rely on what they have done meanwhile.
    pub fn may_wait(&self) -> bool {
        !self.writes.is_nothing() || self.effects.may_wait()
    }

    /// What these statements may touch. `narrow` narrows the scopes where the statement touches nothing but that table, once.
    pub fn of(
        names: Names<'_>,
        statements: &[NodeEnum],
        narrow: Option<Narrow>,
        reason: impl FnOnce(StatementKind) -> Reason,
    ) -> PassPlan {
        let mut touch = Touch::new(names);
        let kinds: Vec<StatementKind> = statements
            .iter()
            .map(|statement| walk(&mut touch, statement))
            .collect();
        touch.effects.multi = statements.len() > 1;
        if !names.facts.plain_settings && (touch.reads != Reach::default() || touch.unresolved > 0)
        {
            touch.everything("a setting changes how statements are read");
        }
        let narrow = narrow.filter(|_| touch.references == 1 && !touch.beyond_keys);
        let kind = kinds.first().copied().unwrap_or(StatementKind::Empty);
        PassPlan {
            reads: narrowed(touch.reads, narrow.as_ref().filter(|narrow| narrow.reads)),
            writes: narrowed(touch.writes, narrow.as_ref().filter(|narrow| narrow.writes)),
            effects: touch.effects,
            reason: reason(kind),
            widened: touch.widened,
            kind,
            epoch: names.catalog.epoch,
        }
    }
}

/// Walks one statement of several. After one that changes what names mean, the others may mean anything. After one that may wait, others may have changed
/// what is read: it is owned from the beginning.
fn walk(touch: &mut Touch<'_>, statement: &NodeEnum) -> StatementKind {
    let effects = &touch.effects;
    let unsure = effects.ddl || effects.settings || effects.temp_tables || effects.code;
    let before = touch.references + touch.unresolved;
    let waited = touch.may_wait();
    let read_before = std::mem::take(&mut touch.reads);
    let kind = touch.any_statement(statement);
    if waited {
        touch.writes.extend(&touch.reads);
    }
    touch.reads.extend(&read_before);
    if unsure && before != touch.references + touch.unresolved {
        touch.everything("an earlier statement of the text changes what names mean");
    }
    kind
}

fn narrowed(reach: Reach, narrow: Option<&Narrow>) -> ScopeTemplate {
    match narrow {
        Some(narrow) if !reach.everything && reach.tables.iter().eq([&narrow.table]) => {
            ScopeTemplate::Keys(narrow.table, narrow.keys.clone())
        }
        _ => reach.scope(),
    }
}

/// What a statement is, for counting and for the session's care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatementKind {
    /// Unparsable, or newer than our grammar.
    Unknown,
    /// No statement at all.
    Empty,
    /// SELECT, VALUES, TABLE.
    Select,
    /// INSERT.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// MERGE.
    Merge,
    /// COPY.
    Copy,
    /// TRUNCATE.
    Truncate,
    /// BEGIN and its kin.
    Transaction,
    /// SET, RESET, SHOW, DISCARD.
    Setting,
    /// DECLARE, FETCH, MOVE, CLOSE.
    Cursor,
    /// PREPARE, EXECUTE, DEALLOCATE.
    Prepared,
    /// EXPLAIN.
    Explain,
    /// LISTEN, NOTIFY, UNLISTEN.
    Notify,
    /// LOCK TABLE.
    Lock,
    /// CALL, DO.
    Code,
    /// VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT.
    Maintenance,
    /// CREATE, ALTER, DROP, GRANT, COMMENT and so on.
    Ddl,
}
