//! Which snapshot the next statement in Postgres will read by, hence what must be there before it. Decides; whatever is not sure counts as the
//! first of a transaction that keeps its snapshot, which waits for everything.

use super::Tx;
use crate::plan::{Isolation, PassPlan, StatementKind, TxControl};

/// By what a statement in Postgres reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// A snapshot of its own: READ COMMITTED.
    OfStatement,
    /// One that it may take for its whole transaction.
    First,
    /// The one that its transaction has taken: what has come since is not seen, and need not be, but for constraints.
    Taken,
}

/// What is known of the transaction in Postgres. Follows the texts that are sent there.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// `None`: not known.
    level: Option<Isolation>,
    taken: bool,
    /// Whether the level may have been moved since the last ReadyForQuery.
    moved: bool,
}

impl Snapshots {
    /// By what a text will read. `default`: the level of transactions that do not say, if known.
    pub(super) fn of(&self, tx: &Tx, plan: &PassPlan, default: Option<Isolation>) -> Snapshot {
        let mut level = self.before(tx, default);
        let controls = &plan.effects.transaction;
        if controls.is_empty() {
            return self.of_analysis(tx, default);
        }
        let mut kept = level.is_none_or(keeps);
        for control in controls {
            level = after(control, level, default);
            kept |= level.is_none_or(keeps);
        }
        if kept {
            Snapshot::First
        } else {
            Snapshot::OfStatement
        }
    }

    /// By what the analysis of a text will read, which comes before it is carried out.
    pub(super) fn of_analysis(&self, tx: &Tx, default: Option<Isolation>) -> Snapshot {
        match self.before(tx, default) {
            Some(level) if !keeps(level) => Snapshot::OfStatement,
            Some(_) if self.taken => Snapshot::Taken,
            _ => Snapshot::First,
        }
    }

    /// Postgres is told to analyse or bind a statement, after what was asked for was done.
    pub(super) fn told(&mut self, plan: &PassPlan) {
        self.taken |= surely_takes(plan) && plan.effects.transaction.is_empty();
    }

    /// Postgres is told to carry it out.
    pub(super) fn executed(&mut self, tx: &Tx, plan: &PassPlan, default: Option<Isolation>) {
        let controls = &plan.effects.transaction;
        if plan.kind == StatementKind::Unknown {
            (self.level, self.taken, self.moved) = (None, false, true);
        } else if !controls.is_empty() {
            let before = self.before(tx, default);
            self.level = controls
                .iter()
                .fold(before, |level, control| after(control, level, default));
            (self.taken, self.moved) = (false, true);
        }
    }

    /// A READ COMMITTED block begins in Postgres.
    pub(super) fn begun(&mut self) {
        self.level = Some(Isolation::ReadCommitted);
        self.taken = false;
    }

    /// Postgres is ready for the next pipeline. After an error nobody knows how far it came.
    pub(super) fn ready(&mut self, status: u8) {
        let moved = std::mem::take(&mut self.moved);
        if status != b'T' {
            self.taken = false;
            if moved {
                self.level = None;
            }
        }
    }

    fn before(&self, tx: &Tx, default: Option<Isolation>) -> Option<Isolation> {
        match tx {
            Tx::Upstream(_) => self.level,
            Tx::Here(_) => Some(Isolation::ReadCommitted),
            Tx::Idle if self.moved => self.level,
            Tx::Idle => default,
        }
    }
}

/// Whether a statement may take a snapshot at all.
pub(super) fn may_take(plan: &PassPlan) -> bool {
    let none = matches!(
        plan.kind,
        StatementKind::Empty
            | StatementKind::Transaction
            | StatementKind::Setting
            | StatementKind::Notify
    );
    !none || plan.effects.multi
}

fn surely_takes(plan: &PassPlan) -> bool {
    matches!(
        plan.kind,
        StatementKind::Select
            | StatementKind::Insert
            | StatementKind::Update
            | StatementKind::Delete
            | StatementKind::Merge
    )
}

fn keeps(level: Isolation) -> bool {
    matches!(level, Isolation::RepeatableRead | Isolation::Serializable)
}

fn after(
    control: &TxControl,
    level: Option<Isolation>,
    default: Option<Isolation>,
) -> Option<Isolation> {
    match control {
        TxControl::Begin(modes) | TxControl::Set(modes) if modes.other => None,
        // In a block it only warns, but for the level that it names; whether it is in one is not followed.
        TxControl::Begin(modes) if level.map(keeps) == default.map(keeps) => {
            modes.isolation.or(default)
        }
        TxControl::Begin(modes) => modes.isolation,
        TxControl::Set(modes) => modes.isolation.or(level),
        TxControl::Commit { chain: false }
        | TxControl::Rollback { chain: false }
        | TxControl::Prepare(_) => default,
        TxControl::Commit { chain: true }
        | TxControl::Rollback { chain: true }
        | TxControl::Savepoint
        | TxControl::RollbackTo
        | TxControl::EndPrepared => level,
    }
}
