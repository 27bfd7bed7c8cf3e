//! What a session asks of whatever stands beside Postgres: plans, answers from memory, queued writes, barriers. The engine is one; [`Transparent`], which
//! knows nothing and lets everything pass, is the other.

use super::Route;
pub use super::given::Given;
pub use super::snapshots::Snapshot;
use crate::eval::{CommandTag, Formats, Params};
use crate::plan::{LocalPlan, PassPlan, Plan, ReadPlan, Reason, SessionFacts, WritePlan};
use crate::registry::{Registered, SessionId};
use bytes::BytesMut;
use ripen_cachestore::backends::BackendPid;
use ripen_cachestore::catalog::{Epoch, Sequence};
use ripen_cachestore::flush::redo::Redo;
use ripen_cachestore::home::Server;
use ripen_grid::grid::transaction::Patience;
use ripen_pg::ids::TypeOid;
use ripen_pg::sqlstate::ErrorFields;
use ripen_pg::value::Settings;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A plan and what it holds for.
#[derive(Debug)]
pub struct Planned {
    /// What is to be done.
    pub plan: Plan,
    /// The catalog it was made under.
    pub epoch: Epoch,
}

/// Why an answer was not given.
#[derive(Debug)]
pub enum Refusal {
    /// Postgres is to answer; nothing has been done.
    PassThrough(Reason),
    /// The client is to be told this.
    Error(ErrorFields),
}

/// How a transaction ended in Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It may have changed what it could touch.
    Committed,
    /// It has changed nothing.
    RolledBack,
    /// The connection was lost: either of the two, perhaps not even ended yet. In which backend, if that is known.
    Unknown(Option<BackendPid>),
}

/// Who asks, and under which settings.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The session.
    pub session: SessionId,
    /// What its plans depend on.
    pub facts: &'a SessionFacts,
    /// `current_user`, while nothing may have changed it unseen.
    pub role: Option<&'a str>,
    /// How its values read and print.
    pub settings: &'a Settings,
    /// The way that its last statement took.
    pub route: &'a Route,
    /// Where its transaction in Postgres runs, if that is known.
    pub backend: Option<BackendPid>,
    /// What it was given from sequences here.
    pub given: &'a Given,
    /// How long its statements wait for rows that others have locked.
    pub patience: Patience,
    /// The session, to whom cancel requests come.
    pub me: &'a Registered,
}

impl Asker<'_> {
    /// Awaits something that a cancel request may interrupt; `None` then. For futures that may be dropped.
    pub async fn unless_cancelled<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        super::forward::unless_cancelled(self.me, future).await
    }
}

/// See the module. None of the futures may be assumed to have done nothing when dropped, except those of `read`.
pub trait Answerer: Send + Sync + 'static {
    /// What a session's transaction in Postgres holds here. Its default holds nothing.
    type Holds: Default + Send;

    /// What a transaction block has done that Postgres knows nothing of. Its default has done nothing; dropping it undoes everything.
    type Block: Default + Send + Sync;

    /// Whether sessions should find out their settings and plan at all.
    fn plans(&self) -> bool;

    /// What to do with a text. `declared`: the parameter types that a Parse message names.
    fn plan(&self, facts: &SessionFacts, sql: &[u8], declared: &[TypeOid]) -> Arc<Planned>;

    /// Whether the catalog that plans are made under is the newest that any node knows of.
    fn is_fresh(&self) -> bool {
        true
    }

    /// Waits until it is. Cancel safe.
    fn until_fresh(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Whether it matters to which server a connection leads: sessions ask each.
    fn guards(&self) -> bool {
        false
    }

    /// Whether that server is the system of record, and has everything that was flushed. `None`: the connection has not said.
    fn is_home(&self, _: Option<Server>) -> bool {
        true
    }

    /// Waits until it is, so long at most. Cancel safe.
    ///
    /// # Errors
    /// What the client is to be told when it is not.
    fn until_home(
        &self,
        _: Option<Server>,
        _: Duration,
    ) -> impl Future<Output = Result<(), ErrorFields>> + Send {
        std::future::ready(Ok(()))
    }

    /// How long a statement waits for that.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// The version of the catalog that plans are made under. When it changes, names may mean other things to every session.
    fn epoch(&self) -> Epoch;

    /// Whether a plan still holds for facts it was made for.
    fn is_current(&self, planned: &Planned) -> bool;

    /// Appends the DataRows to `out` and answers how many. On refusal `out` may hold a part of them: the caller cuts it off.
    fn read(
        &self,
        asker: Asker<'_>,
        plan: &ReadPlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> impl Future<Output = Result<u64, Refusal>> + Send;

    /// Queues a write; it is durable when this returns. RETURNING's DataRows are appended to `out`.
    fn write(
        &self,
        asker: Asker<'_>,
        plan: &WritePlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> impl Future<Output = Result<CommandTag, Refusal>> + Send;

    /// The next value of a sequence, given to the session. `None`: Postgres is to draw it.
    fn next_value(
        &self,
        _: Asker<'_>,
        _: &Arc<Sequence>,
    ) -> impl Future<Output = Option<i64>> + Send {
        std::future::ready(None)
    }

    /// Whether blocks that write are kept here.
    fn keeps_blocks(&self) -> bool {
        false
    }

    /// A block begins.
    fn begin(&self) -> Self::Block {
        Self::Block::default()
    }

    /// Whether the block has done something that Postgres would have to be told.
    fn has_done(&self, _: &Self::Block) -> bool {
        false
    }

    /// [`Answerer::read`] in a block, which sees its own writes; rows that the statement locks stay locked. May be dropped.
    fn read_in(
        &self,
        asker: Asker<'_>,
        _: &mut Self::Block,
        plan: &ReadPlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> impl Future<Output = Result<u64, Refusal>> + Send {
        async move {
            match plan.lock {
                None => self.read(asker, plan, params, formats, out).await,
                Some(_) => Err(Refusal::PassThrough(Reason::new("row-locks", "locks rows"))),
            }
        }
    }

    /// Carries out a write in a block, for whose COMMIT it waits. May be dropped.
    fn write_in(
        &self,
        _: Asker<'_>,
        _: &mut Self::Block,
        _: &WritePlan,
        _: &Params<'_>,
        _: Formats<'_>,
        _: &mut BytesMut,
    ) -> impl Future<Output = Result<CommandTag, Refusal>> + Send {
        let reason = Reason::new("transaction", "is part of a transaction");
        std::future::ready(Err(Refusal::PassThrough(reason)))
    }

    /// SAVEPOINT, RELEASE, ROLLBACK TO. False: nothing was done, Postgres is to do it. May be dropped.
    fn savepoint(
        &self,
        _: &mut Self::Block,
        _: &LocalPlan,
    ) -> impl Future<Output = Result<bool, Refusal>> + Send {
        std::future::ready(Ok(false))
    }

    /// Ends a block; what it has written is durable when this returns. After [`Refusal::PassThrough`] it stands as before, after [`Refusal::Error`] it is over.
    fn commit(
        &self,
        _: Asker<'_>,
        _: &mut Self::Block,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        std::future::ready(Ok(()))
    }

    /// ROLLBACK: the block is about to be dropped, and the rows that it has locked are to be free before its client is told. Waits for a moment only.
    fn roll_back(&self, _: &mut Self::Block) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// A statement of the block has failed: what nobody can come back to is undone.
    fn fail(&self, block: &mut Self::Block) {
        *block = Self::Block::default();
    }

    /// Resolves when somebody in Postgres wants rows that the block has locked. Cancel safe.
    fn nudged(&self, _: &Self::Block) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Gives what the block has locked to the database, as [`Answerer::enter`] does, and says what is to be done again there. The block is dropped when that
    /// is done. May be dropped.
    ///
    /// # Errors
    /// The block cannot go on; what it has done is to be forgotten.
    fn promote(
        &self,
        _: Asker<'_>,
        _: &mut Self::Block,
        _: &mut Self::Holds,
        _: &Reason,
    ) -> impl Future<Output = Result<Vec<Redo>, ErrorFields>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Postgres has done again what the block has done, and has its own locks: those that it had here end. Waits for a moment only.
    ///
    /// # Errors
    /// They had ended before, and others may have been at the rows: what was done again must not stay.
    fn moved(&self, _: &mut Self::Block) -> impl Future<Output = Result<(), ErrorFields>> + Send {
        std::future::ready(Ok(()))
    }

    /// Brings everything acknowledged to Postgres, before a snapshot is taken there that will be kept.
    fn catch_up(&self) -> impl Future<Output = Result<(), ErrorFields>> + Send;

    /// Makes Postgres fit for a statement: everything it could see by that snapshot is there, everything it may change is left to it until
    /// [`Answerer::leave`]. `params`: `None` when they are not known.
    fn enter(
        &self,
        asker: Asker<'_>,
        plan: &PassPlan,
        params: Option<&Params<'_>>,
        snapshot: Snapshot,
        holds: &mut Self::Holds,
    ) -> impl Future<Output = Result<(), ErrorFields>> + Send;

    /// Whether something that the statement reads, and does not own, could be queued while it waits for its turn.
    fn may_lag(&self, plan: &PassPlan) -> bool;

    /// The transaction has ended in Postgres; its client is told when this returns.
    fn leave(&self, holds: Self::Holds, outcome: Outcome) -> impl Future<Output = ()> + Send;

    /// Answers one of our own statements with everything between ParseComplete and ReadyForQuery: RowDescription (if `describe`), DataRows, CommandComplete.
    fn local(
        &self,
        asker: Asker<'_>,
        plan: &LocalPlan,
        describe: bool,
        out: &mut BytesMut,
    ) -> impl Future<Output = Result<(), ErrorFields>> + Send;

    /// Appends the RowDescription or NoData of one of our own statements.
    fn describe_local(&self, plan: &LocalPlan, formats: Formats<'_>, out: &mut BytesMut);
}

/// Lets everything pass and fences nothing: for upstreams of which nothing is cached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transparent;

impl Answerer for Transparent {
    type Holds = ();
    type Block = ();

    fn plans(&self) -> bool {
        false
    }

    fn plan(&self, _: &SessionFacts, _: &[u8], _: &[TypeOid]) -> Arc<Planned> {
        let reason = Reason::new("transparent", "nothing is cached");
        Arc::new(Planned {
            plan: Plan::PassThrough(Arc::new(PassPlan::unknown(reason))),
            epoch: Epoch(0),
        })
    }

    fn epoch(&self) -> Epoch {
        Epoch(0)
    }

    fn is_current(&self, _: &Planned) -> bool {
        true
    }

    async fn read(
        &self,
        _: Asker<'_>,
        _: &ReadPlan,
        _: &Params<'_>,
        _: Formats<'_>,
        _: &mut BytesMut,
    ) -> Result<u64, Refusal> {
        Err(Refusal::PassThrough(Reason::new(
            "transparent",
            "nothing is cached",
        )))
    }

    async fn write(
        &self,
        _: Asker<'_>,
        _: &WritePlan,
        _: &Params<'_>,
        _: Formats<'_>,
        _: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        Err(Refusal::PassThrough(Reason::new(
            "transparent",
            "nothing is cached",
        )))
    }

    async fn catch_up(&self) -> Result<(), ErrorFields> {
        Ok(())
    }

    async fn enter(
        &self,
        _: Asker<'_>,
        _: &PassPlan,
        _: Option<&Params<'_>>,
        _: Snapshot,
        (): &mut (),
    ) -> Result<(), ErrorFields> {
        Ok(())
    }

    fn may_lag(&self, _: &PassPlan) -> bool {
        false
    }

    async fn leave(&self, (): (), _: Outcome) {}

    async fn local(
        &self,
        _: Asker<'_>,
        _: &LocalPlan,
        _: bool,
        _: &mut BytesMut,
    ) -> Result<(), ErrorFields> {
        Ok(())
    }

    fn describe_local(&self, _: &LocalPlan, _: Formats<'_>, _: &mut BytesMut) {}
}
