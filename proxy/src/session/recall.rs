//! Makes a session's backend know what was given to it from sequences here, before a text asks for it there. Does; `given.rs` decides when.
//!
//! What `currval` tells is the session's own and no part of a transaction. So the sequence is restarted at the value, drawn from, and all of that rolled back: the sequence is
//! as before for everybody, and the backend remembers what it has drawn. That needs the client's role to own the sequence, and a lock on it for that moment.

use super::answerer::Answerer;
use super::given::MayPass;
use super::snapshots::Snapshot;
use super::{End, Session, Tx};
use crate::limits::RECALL_LOCK_WAIT;
use crate::plan::{PassPlan, SequenceUse};
use ripen_pg::ids::TableOid;

impl<A: Answerer> Session<A> {
    /// A text is about to be analysed in Postgres, perhaps with the question in the same pipeline: then it would be too late.
    pub(super) async fn recall_ahead(&mut self, plan: &PassPlan) -> Result<(), End> {
        if plan.sequence_use() == SequenceUse::Asks
            && let MayPass::Recalled(values) = self.known.given.may_pass(SequenceUse::Asks)
        {
            let snapshot = self
                .snapshots
                .of(&self.tx, plan, self.known.default_isolation);
            // Nothing has been waited for that a transaction's snapshot must show.
            if !self.inside() || snapshot != Snapshot::First {
                Box::pin(self.recall(&values)).await?;
            }
        }
        Ok(())
    }

    /// A text is about to go to Postgres, and has been secured. False: it must not, as the backend would tell older values than the session has.
    pub(super) async fn may_ask(&mut self, plan: &PassPlan) -> Result<bool, End> {
        match self.known.given.may_pass(plan.sequence_use()) {
            MayPass::Yes => Ok(true),
            MayPass::Recalled(values) => Box::pin(self.recall(&values)).await,
            MayPass::No => Ok(false),
        }
    }

    /// Whether a transaction has begun in Postgres.
    fn inside(&self) -> bool {
        matches!(self.tx, Tx::Upstream(_))
    }

    /// False: it cannot be done now, or not at all.
    async fn recall(&mut self, values: &[(TableOid, i64)]) -> Result<bool, End> {
        let inside = self.inside();
        // Must not end a portal of the client's; and in a failed transaction nothing can be done.
        let disturbs = inside && self.names.portal(b"").is_some();
        if disturbs || self.tx == Tx::Upstream(b'E') || self.relay.awaited.begun() {
            return Ok(false);
        }
        if !self.settle().await? {
            return Ok(false);
        }
        let (begin, end) = match inside {
            true => (
                "SAVEPOINT ripen",
                "ROLLBACK TO SAVEPOINT ripen; RELEASE SAVEPOINT ripen",
            ),
            false => ("BEGIN READ WRITE", "ROLLBACK"),
        };
        self.pinned = true;
        for (sequence, value) in values {
            let Some(name) = self.ask_one(&name_of(*sequence)).await? else {
                return Ok(false);
            };
            let drawing = drawing(*sequence, &name, *value);
            let drawn = self.ask_one(&format!("{begin}; {drawing}; {end}")).await?;
            if drawn.is_none() {
                self.ask(end).await?;
            }
            // Another one has that name by now, and what it gave was rolled back.
            if drawn.and_then(|drawn| drawn.parse().ok()) != Some(*value) {
                return Ok(false);
            }
        }
        self.known.given.recalled();
        Ok(true)
    }

    /// The one value of a question of the session's own. `None`: an error, or no value.
    async fn ask_one(&mut self, sql: &str) -> Result<Option<String>, End> {
        let row = self.ask(sql).await?;
        Ok(row.and_then(|row| row.into_iter().next().flatten()))
    }
}

/// Its name as an identifier, under any search_path.
fn name_of(sequence: TableOid) -> String {
    format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace WHERE c.oid OPERATOR(pg_catalog.=) {}",
        sequence.0
    )
}

fn drawing(sequence: TableOid, name: &str, value: i64) -> String {
    format!(
        "SET LOCAL lock_timeout = {}; ALTER SEQUENCE {name} RESTART WITH {value}; SELECT pg_catalog.nextval({}::pg_catalog.regclass)",
        RECALL_LOCK_WAIT.as_millis(),
        sequence.0
    )
}
