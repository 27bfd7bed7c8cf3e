//! What a session asks of whatever stands beside Postgres: plans, answers from memory, queued writes, barriers. The engine is one; [`Transparent`], which
//! knows nothing and lets everything pass, is the other.

use super::Route;
pub use super::snapshots::Snapshot;
use crate::eval::{CommandTag, Formats, Params};
use crate::plan::{LocalPlan, PassPlan, Plan, ReadPlan, Reason, SessionFacts, WritePlan};
use crate::registry::SessionId;
use bytes::BytesMut;
use ripen_cachestore::backends::BackendPid;
use ripen_cachestore::catalog::Epoch;
use ripen_cachestore::home::Server;
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
}

/// See the module. None of the futures may be assumed to have done nothing when dropped, except those of `read`.
pub trait Answerer: Send + Sync + 'static {
    /// What a session's transaction in Postgres holds here. Its default holds nothing.
    type Holds: Default + Send;

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
