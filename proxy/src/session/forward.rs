//! What it takes to say something to Postgres: a connection, the transaction begun there, barriers and ownership, statements and portals that so far
//! lived only here. Never answers the client, except that it was refused.

use super::answerer::{Answerer, Outcome};
use super::io::Io;
use super::snapshots::{self, Snapshot};
use super::{End, Route, Segment, Session, Tx};
use crate::eval::{Formats, Params};
use crate::plan::{PassPlan, Plan, Reason, TxControl};
use crate::portals::{Portal, PortalState, Statement};
use crate::registry::Registered;
use crate::relay::Relay;
use crate::relay::expect::Expect;
use bytes::{Bytes, BytesMut};
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::wire::backend;
use ripen_pg::wire::frontend::{self, Bind, Frontend, Target};
use smallvec::SmallVec;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::Poll;

/// The plan of a text that was not looked at.
pub(super) static UNKNOWN: LazyLock<Arc<PassPlan>> = LazyLock::new(|| {
    let reason = Reason::new(
        "not-read",
        "the message is too long, malformed, or names nothing known here",
    );
    Arc::new(PassPlan::unknown(reason))
});

/// Postgres refuses this, in any state, so that what it belongs to fails there, too. The client sees the true error in its place.
const REFUSED_SQL: &[u8] = b"refused by ripen";

/// A Bind message's lists, gathered.
pub(super) struct Bound<'a> {
    param_formats: SmallVec<[i16; 4]>,
    values: SmallVec<[Option<&'a [u8]>; 8]>,
    result_formats: SmallVec<[i16; 8]>,
}

impl<'a> Bound<'a> {
    pub(super) fn new(bind: &Bind<'a>) -> Bound<'a> {
        Bound {
            param_formats: bind.param_formats.iter().collect(),
            values: bind.params.iter().collect(),
            result_formats: bind.result_formats.iter().collect(),
        }
    }

    /// From a whole Bind message that was decoded before.
    pub(super) fn of_frame(frame: &'a Bytes) -> Option<Bound<'a>> {
        match frontend::decode(b'B', frame.get(crate::relay::HEADER_BYTES..)?) {
            Ok(Frontend::Bind(bind)) => Some(Bound::new(&bind)),
            _ => None,
        }
    }

    pub(super) fn params(&self) -> Params<'_> {
        Params {
            formats: Formats(&self.param_formats),
            values: &self.values,
        }
    }

    pub(super) fn result_formats(&self) -> Formats<'_> {
        Formats(&self.result_formats)
    }

    /// Whether Postgres would accept the message for a statement with so many parameters and columns.
    pub(super) fn fits(&self, params: usize, columns: usize) -> bool {
        let known = |formats: &[i16]| formats.iter().all(|format| matches!(format, 0 | 1));
        let results = self.result_formats.len();
        self.values.len() == params
            && known(&self.param_formats)
            && known(&self.result_formats)
            && (results <= 1 || results == columns)
    }
}

/// What Postgres is told about a plan that could have been carried out here.
pub(super) fn passing(plan: &Plan) -> Arc<PassPlan> {
    match plan {
        Plan::Read(read) => Arc::clone(&read.fallback),
        Plan::Write(write) => Arc::clone(&write.fallback),
        Plan::PassThrough(pass) => Arc::clone(pass),
        Plan::Local(local) => super::local::passing(local),
    }
}

/// What a client is told that asks its backend for values which were not drawn there.
fn drawn_here() -> ErrorFields {
    let message = "the session's last values of sequences are not known to Postgres";
    ErrorFields::error(SqlState::FEATURE_NOT_SUPPORTED, message)
        .detail("They were given by Ripen, to inserts that are queued. They can be made known to Postgres only where the role owns the sequences, nobody has them locked, and the session has inserted nothing in Postgres since.")
        .hint("Let INSERT … RETURNING return the value.")
}

impl<A: Answerer> Session<A> {
    /// What is to be written to Postgres.
    pub(super) fn upstream(&mut self) -> &mut BytesMut {
        let upstream = self.io.upstream.as_deref_mut();
        &mut upstream
            .expect("a connection is opened before anything is said")
            .output
    }

    /// From now on the pipeline goes to Postgres, and so does the transaction that had begun here.
    /// False: there is no connection to be had, or the transaction cannot go there, and the client's message is refused.
    /// `why`: for whoever counts transactions that have moved there.
    pub(super) async fn go_upstream(&mut self, why: &Reason) -> Result<bool, End> {
        if !self.come_upstream(why).await? {
            return Ok(false);
        }
        match self.doomed.take() {
            Some(error) => Ok(self.refuse_upstream(error)),
            None => Ok(true),
        }
    }

    /// The same for a message that Postgres never refuses, so that clients do not look whether it has: a transaction that cannot go there fails with the next one.
    pub(super) async fn come_upstream(&mut self, why: &Reason) -> Result<bool, End> {
        if !self.attach().await? {
            return Ok(false);
        }
        if let Err(error) = self.move_upstream(why).await? {
            self.doomed = Some(error);
        }
        if self.segment == Segment::Here {
            self.segment = Segment::Upstream;
        }
        Ok(true)
    }

    /// Makes Postgres fit for a statement. False: it is refused, and everything is arranged for the client to see that.
    pub(super) async fn secure(
        &mut self,
        plan: &Arc<PassPlan>,
        params: Option<&Params<'_>>,
    ) -> Result<bool, End> {
        self.route = Route::Passed(Arc::clone(plan));
        if !self.front.answerer.plans() {
            return Ok(true);
        }
        if !self.at_home().await? {
            return Ok(false);
        }
        let text: &PassPlan = plan;
        let plan = if self.unsure { &*UNKNOWN } else { plan };
        self.known.note(&plan.effects);
        self.pinned |= super::attach::pins(plan);
        let snapshot = self
            .snapshots
            .of(&self.tx, plan, self.known.default_isolation);
        let reads = match snapshot {
            Snapshot::OfStatement => !plan.reads.is_nothing(),
            Snapshot::First => snapshots::may_take(plan),
            Snapshot::Taken => !plan.writes.is_nothing() && !plan.reads.is_nothing(),
        };
        let rests = reads && (snapshot == Snapshot::First || self.front.answerer.may_lag(plan));
        if rests && !self.wait_out().await? {
            return Ok(false);
        }
        let reloads = plan.effects.ddl || plan.effects.grants;
        let outlives = self.holding && plan.effects.prepared().next().is_some();
        if reads || !plan.writes.is_nothing() || reloads || outlives {
            self.holding = true;
            let asker = super::asker(&self.me, &self.known, &self.route);
            let answerer = &self.front.answerer;
            let entering = answerer.enter(asker, plan, params, snapshot, &mut self.holds);
            let entered = patiently(&mut self.io, &self.relay, &self.me, entering).await;
            if let Err(error) = entered {
                return self.refuse(&error).await;
            }
            self.still_at_home()?;
        }
        if !self.may_ask(text).await? {
            return self.refuse(&drawn_here()).await;
        }
        self.may_wait |= plan.may_wait();
        self.snapshots.told(plan);
        Ok(true)
    }

    /// Waits until what was sent before and may have to wait has been answered: what others do meanwhile must be seen by what comes next. False: something
    /// failed, and Postgres ignores what comes next.
    async fn wait_out(&mut self) -> Result<bool, End> {
        if !self.may_wait || self.relay.awaited.is_empty() {
            return Ok(true);
        }
        frontend::flush(self.upstream());
        // During COPY IN the client is waited for: Postgres refuses the next statement.
        while !self.relay.awaited.is_empty() && !self.skipping && !self.in_copy() {
            self.wait_upstream().await?;
        }
        self.may_wait = false;
        Ok(!self.skipping)
    }

    /// The same for the analysis of a statement, which takes the snapshot of a transaction that keeps one.
    pub(super) async fn secure_analysis(&mut self, plan: &PassPlan) -> Result<bool, End> {
        let of = self
            .snapshots
            .of_analysis(&self.tx, self.known.default_isolation);
        if of == Snapshot::First && snapshots::may_take(plan) && self.front.answerer.plans() {
            if !self.at_home().await? {
                return Ok(false);
            }
            let catching_up = self.front.answerer.catch_up();
            let caught_up = patiently(&mut self.io, &self.relay, &self.me, catching_up).await;
            if let Err(error) = caught_up {
                return self.refuse(&error).await;
            }
            self.still_at_home()?;
        }
        self.snapshots.told(plan);
        Ok(true)
    }

    /// Postgres is about to be told to carry out what was secured.
    pub(super) fn executed(&mut self, plan: &PassPlan) {
        let control =
            |control: &TxControl| !matches!(control, TxControl::Savepoint | TxControl::RollbackTo);
        // What the client begins or ends itself does not end with its pipeline.
        self.implicit &= !plan.effects.transaction.iter().any(control);
        self.snapshots
            .executed(&self.tx, plan, self.known.default_isolation);
    }

    /// Secures everything, for a message that nobody has read.
    pub(super) async fn secure_unknown(&mut self) -> Result<bool, End> {
        Ok(self.go_upstream(&UNKNOWN.reason).await? && self.secure(&UNKNOWN, None).await?)
    }

    /// Fails the statement at hand with this error, in Postgres, too, if anything there must fail with it. Always false.
    pub(super) async fn refuse(&mut self, error: &ErrorFields) -> Result<bool, End> {
        if self.implicit_here() {
            self.end_here();
        }
        if matches!(self.tx, Tx::Idle)
            && !self.relay.awaited.begun()
            && self.segment != Segment::Sent
        {
            return Ok(self.refuse_here(error).await);
        }
        if matches!(self.tx, Tx::Here(_)) {
            self.front.answerer.fail(&mut self.block);
            if !self.go_upstream(&FAILED).await? {
                return Ok(false);
            }
        }
        if self.segment == Segment::Here {
            self.segment = Segment::Upstream;
        }
        Ok(self.refuse_upstream(error_frame(error)))
    }

    /// Fails what only this side knows of. Always false.
    pub(super) async fn refuse_here(&mut self, error: &ErrorFields) -> bool {
        self.release(Outcome::RolledBack).await;
        backend::error_response(&mut self.io.client.output, error);
        self.segment = Segment::Here;
        self.skipping = true;
        false
    }

    /// Fails what Postgres is at, with an ErrorResponse in the place of its own. Always false.
    pub(super) fn refuse_upstream(&mut self, error: Bytes) -> bool {
        frontend::parse(
            self.upstream(),
            b"ripen_refused",
            REFUSED_SQL,
            std::iter::empty(),
        );
        self.relay.awaited.push(Expect::Refused { error });
        false
    }

    /// Forwards an extended message whose answer is awaited.
    pub(super) fn forward(&mut self, frame: &[u8], expect: Expect) {
        self.upstream().extend_from_slice(frame);
        self.relay.awaited.push(expect);
    }

    /// Sees to it that a name means in Postgres what it means here.
    pub(super) fn ensure_statement(&mut self, name: &[u8]) {
        match self.names.statement(name) {
            Some(slot) if slot.upstream => {}
            Some(slot) => {
                let statement = Arc::clone(&slot.statement);
                self.send_statement(&statement);
            }
            None if name.is_empty() && self.names.stale_unnamed() => {
                frontend::close(self.upstream(), Target::Statement(b""));
                self.relay.awaited.push(Expect::CloseStatement {
                    name: Bytes::new(),
                    before: None,
                    quiet: true,
                });
                self.names.sent_upstream(b"");
            }
            None => {}
        }
    }

    fn send_statement(&mut self, statement: &Statement) {
        let name = statement.name.clone();
        self.names.sent_upstream(&name);
        let expect = Expect::Parse {
            name,
            before: None,
            quiet: true,
        };
        self.forward(&statement.frame, expect);
    }

    /// Sends all statements that live only here: SQL may ask for them by name.
    pub(super) fn ensure_all_statements(&mut self) {
        for statement in self.names.only_here() {
            self.send_statement(&statement);
        }
    }

    /// Binds a portal in Postgres that was bound, but not executed, here. False: refused.
    pub(super) async fn ensure_portal(&mut self, name: &[u8]) -> Result<bool, End> {
        let Some(Portal {
            statement,
            planned,
            bind: Some(bind),
            state: PortalState::Fresh,
        }) = self.names.portal(name)
        else {
            return Ok(true);
        };
        let (statement, planned, bind) = (statement.clone(), planned.clone(), bind.clone());
        let plan = passing(&planned.plan);
        let bound = Bound::of_frame(&bind);
        if !self
            .secure(&plan, bound.as_ref().map(Bound::params).as_ref())
            .await?
        {
            return Ok(false);
        }
        let name = Bytes::copy_from_slice(name);
        let quiet = Expect::Bind {
            name: name.clone(),
            before: None,
            quiet: true,
        };
        let current = self.names.statement(&statement.name);
        if current.is_some_and(|slot| Arc::ptr_eq(&slot.statement, &statement)) {
            self.ensure_statement(&statement.name);
            self.forward(&bind, quiet);
        } else {
            self.bind_replaced(&statement, &bind, quiet);
        }
        let secured_at = self.io.client.reads;
        if let Some(portal) = self.names.portal_mut(&name) {
            portal.state = PortalState::Upstream { secured_at };
        }
        Ok(true)
    }

    /// Binds a statement whose name means another one by now (or none): it goes by no name.
    fn bind_replaced(&mut self, statement: &Statement, bind: &Bytes, expect: Expect) {
        let body = &bind[crate::relay::HEADER_BYTES..];
        let Ok(Frontend::Bind(bind)) = frontend::decode(b'B', body) else {
            unreachable!("a kept Bind message was decoded before");
        };
        let upstream = self.upstream();
        frontend::parse(
            upstream,
            b"",
            &statement.sql,
            statement.declared.iter().copied(),
        );
        frontend::bind(
            upstream,
            bind.portal,
            b"",
            bind.param_formats.iter(),
            bind.params.iter(),
            bind.result_formats.iter(),
        );
        self.names.unnamed_taken();
        let name = Bytes::new();
        self.relay.awaited.push(Expect::Parse {
            name,
            before: None,
            quiet: true,
        });
        self.relay.awaited.push(expect);
    }

    /// Waits until Postgres has answered everything, so that an answer from here comes in its order. False: something failed on the way.
    pub(super) async fn settle(&mut self) -> Result<bool, End> {
        if !self.relay.awaited.is_empty() {
            frontend::flush(self.upstream());
        }
        while !self.relay.awaited.is_empty() && !self.skipping {
            self.wait_upstream().await?;
        }
        Ok(!self.skipping)
    }

    /// Waits for Postgres to say something and handles it.
    pub(super) async fn wait_upstream(&mut self) -> Result<(), End> {
        if self.io.upstream_ended() {
            return Err(End::UpstreamClosed);
        }
        self.wait().await?;
        self.hear().await
    }

    pub(super) fn flush(&mut self) {
        if self.segment == Segment::Upstream {
            frontend::flush(self.upstream());
        }
    }

    /// Asks for the replies that Postgres still keeps back, once.
    pub(super) fn ask_for_replies(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            frontend::flush(self.upstream());
        }
    }

    /// Relays a message as it is, as if it could touch anything.
    pub(super) async fn pass_unknown(&mut self, tag: u8, frame: &Bytes) -> Result<(), End> {
        if !self.secure_unknown().await? {
            return self.end_refused(tag);
        }
        self.expect_unknown(tag);
        self.upstream().extend_from_slice(frame);
        Ok(())
    }

    /// The same for one that goes on byte by byte. False: refused; it is to be dropped.
    pub(super) async fn before_large(&mut self, tag: u8) -> Result<bool, End> {
        if !self.secure_unknown().await? {
            self.end_refused(tag)?;
            return Ok(false);
        }
        // What it names is not known, so nothing may be missing there, and nothing here may be taken for it.
        self.ensure_all_statements();
        self.ensure_statement(b"");
        self.names.forget_statements();
        self.names.clear_portals();
        self.expect_unknown(tag);
        Ok(true)
    }

    fn expect_unknown(&mut self, tag: u8) {
        if matches!(tag, b'Q' | b'E') {
            self.executed(&UNKNOWN);
        }
        let expect = match tag {
            b'Q' => {
                let before = self.names.remove(b"", true).map(Box::new);
                self.segment = Segment::Sent;
                Expect::Query { before }
            }
            b'F' => {
                self.segment = Segment::Sent;
                Expect::Query { before: None }
            }
            b'P' => {
                self.names.remove(b"", true);
                Expect::Parse {
                    name: Bytes::new(),
                    before: None,
                    quiet: false,
                }
            }
            b'B' => Expect::Bind {
                name: Bytes::new(),
                before: None,
                quiet: false,
            },
            _ => Expect::Execute,
        };
        self.relay.awaited.push(expect);
    }

    /// After a refusal: a simple query or function call ends with ReadyForQuery, which only Postgres can say if anything was sent there.
    pub(super) fn end_refused(&mut self, tag: u8) -> Result<(), End> {
        let ignored = self.skipping && self.segment != Segment::Here;
        if !matches!(tag, b'Q' | b'F') || ignored {
            return Ok(());
        }
        if self.segment == Segment::Here {
            self.skipping = false;
            if tag == b'Q' {
                self.names.remove(b"", false);
                self.names.clear_portals();
            }
            self.put_ready();
        } else {
            frontend::sync(self.upstream());
            self.relay.awaited.push(Expect::Sync);
            self.segment = Segment::Sent;
        }
        Ok(())
    }
}

/// Why a block moves to Postgres that has failed here: its end is said there.
static FAILED: LazyLock<Reason> =
    LazyLock::new(|| Reason::new("failed", "a statement of the transaction has failed"));

/// A whole ErrorResponse.
pub(super) fn error_frame(error: &ErrorFields) -> Bytes {
    let mut frame = BytesMut::new();
    backend::error_response(&mut frame, error);
    frame.freeze()
}

/// Awaits what the answerer does for a statement, while both connections go on. An error if it is cancelled.
pub(super) async fn patiently(
    io: &mut Io,
    relay: &Relay,
    me: &Registered,
    work: impl Future<Output = Result<(), ErrorFields>>,
) -> Result<(), ErrorFields> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = futures_util::poll!(work.as_mut()) {
        return done;
    }
    // What was sent so far may be what is waited for: Postgres is to get on with it.
    if !relay.awaited.is_empty()
        && let Some(upstream) = io.upstream.as_deref_mut()
    {
        frontend::flush(&mut upstream.output);
    }
    io.while_waiting(unless_cancelled(me, work))
        .await
        .unwrap_or_else(|| Err(cancelled()))
}

/// Awaits something that a cancel request may interrupt; `None` then. For futures that may be dropped.
pub(super) async fn unless_cancelled<T>(
    me: &Registered,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    if let Poll::Ready(output) = futures_util::poll!(future.as_mut()) {
        return Some(output);
    }
    me.set_waits_here(true);
    let output = tokio::select! {
        biased;
        output = &mut future => Some(output),
        () = me.cancelled() => None,
    };
    me.set_waits_here(false);
    output
}

pub(super) fn cancelled() -> ErrorFields {
    ErrorFields::error(
        SqlState::QUERY_CANCELED,
        "canceling statement due to user request",
    )
}
