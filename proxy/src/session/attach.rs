//! The session's connection to Postgres comes and goes: parked after a while without use, opened again when needed, missed without harm while Postgres
//! is away. Only sessions that have left no state in Postgres can do without it.

use super::answerer::Answerer;
use super::{End, Segment, Session, Tx};
use crate::limits;
use crate::login::Secret;
use crate::plan::{PassPlan, StatementKind};
use crate::upstream::{self, Reopened};
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::wire::{backend, frontend};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep, timeout};
use tracing::{debug, info};

/// When the connection is to be parked.
#[derive(Debug)]
pub(crate) struct Parking {
    /// How long a pause must be. Shorter before the first use: many clients log in and need only memory.
    after: Duration,
    after_use: Duration,
    last_used: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Parking {
    pub(super) fn new(after: Duration) -> Parking {
        let now = Instant::now();
        let after_use = after;
        let after = after.min(limits::PARK_UNUSED_AFTER);
        Parking {
            after,
            after_use,
            last_used: now,
            alarm: Box::pin(tokio::time::sleep_until(now + after)),
        }
    }

    /// Postgres is used now.
    pub(super) fn used(&mut self) {
        self.after = self.after_use;
        self.last_used = Instant::now();
    }

    /// Resolves when Postgres has not been used for long enough. Cancel safe.
    pub(super) async fn due(&mut self) {
        loop {
            self.alarm.as_mut().await;
            let due = self.last_used + self.after;
            if due <= Instant::now() {
                return;
            }
            self.alarm.as_mut().reset(due);
        }
    }
}

/// Whether a statement may leave something in the session that a new connection would not have: settings, temporary tables, cursors, locks,
/// sequence values, seeds.
pub(super) fn pins(plan: &PassPlan) -> bool {
    let known = matches!(
        plan.kind,
        StatementKind::Select
            | StatementKind::Update
            | StatementKind::Delete
            | StatementKind::Transaction
            | StatementKind::Empty
    );
    !known || plan.effects.multi || !plan.effects.end_with_transaction()
}

impl<A: Answerer> Session<A> {
    /// Whether the session could go on over another connection as if nothing had happened.
    fn detachable(&self) -> bool {
        self.segment == Segment::Here
            && !matches!(self.tx, Tx::Upstream(_))
            && self.relay.awaited.is_empty()
            && self.front.answerer.plans()
            && !self.pinned
            && !self.holding
            && !self.names.any_foreign()
    }

    /// Whether its connection may be closed until it is needed again.
    pub(super) fn may_park(&self) -> bool {
        self.io.upstream.is_some()
            && self.identity.secret != Secret::Unrepeatable
            && self.detachable()
    }

    /// Closes the connection.
    pub(super) async fn park(&mut self) {
        let Some(mut upstream) = self.io.upstream.take() else {
            return;
        };
        debug!("the upstream connection is parked");
        frontend::terminate(&mut upstream.output);
        // Should it not take even this, it is closed all the same.
        let _ = timeout(Duration::from_secs(1), upstream.write_all()).await;
        self.detached();
    }

    fn detached(&mut self) {
        self.names.detach();
        self.anchored = false;
        self.me.set_upstream_key(None);
    }

    /// Postgres has closed the connection. True: the session can go on without it, for Postgres is away as a whole.
    pub(super) async fn survives(&mut self) -> bool {
        if !self.detachable()
            || upstream::is_up(&self.front, &self.identity, self.front.dial_timeout).await
        {
            return false;
        }
        info!(
            peer = self.me.peer(),
            "the session goes on without the system of record"
        );
        self.io.upstream = None;
        self.relay.farewell = None;
        self.detached();
        true
    }

    /// Opens the connection again if there is none. False: it cannot be had, and the client's statement is refused.
    pub(super) async fn attach(&mut self) -> Result<bool, End> {
        if self.io.upstream.is_some() {
            return Ok(true);
        }
        let reopened = if self.identity.secret == Secret::Unrepeatable {
            Err(lost())
        } else {
            let reopening = upstream::reopen(&self.front, &self.identity);
            self.io.while_waiting(reopening).await
        };
        if reopened.is_err() && self.implicit_here() {
            self.end_here();
        }
        match reopened {
            Ok(reopened) => {
                self.attached(reopened);
                self.ask_server().await?;
                self.compare().await?;
                Ok(true)
            }
            Err(error) if self.tx == Tx::Idle && self.identity.secret != Secret::Unrepeatable => {
                let error = ErrorFields::error(error.state(), error.message());
                let error = error.hint("Retry the statement later.");
                Ok(self.refuse_here(&error).await)
            }
            Err(error) => {
                let error = ErrorFields::fatal(error.state(), error.message());
                backend::error_response(&mut self.io.client.output, &error);
                Err(End::UpstreamClosed)
            }
        }
    }

    /// The same for the session's own purposes: nothing is said to the client.
    pub(super) async fn attach_quietly(&mut self) -> bool {
        if self.identity.secret == Secret::Unrepeatable {
            return false;
        }
        let reopening = upstream::reopen(&self.front, &self.identity);
        match self.io.while_waiting(reopening).await {
            Ok(reopened) => {
                self.attached(reopened);
                true
            }
            Err(_) => false,
        }
    }

    fn attached(&mut self, reopened: Reopened) {
        self.me.set_upstream_key(reopened.key);
        self.io.upstream = Some(Box::new(reopened.link));
        self.remembered = None;
        self.server = None;
        // Defaults may have changed meanwhile; the client is told as if they had changed while it was connected.
        if self.parameters != reopened.parameters {
            self.io
                .client
                .output
                .extend_from_slice(&reopened.parameters);
            self.parameters = reopened.parameters;
            self.known.changed();
        }
    }
}

fn lost() -> ErrorFields {
    let what = "the connection to the system of record was lost";
    ErrorFields::error(SqlState::CONNECTION_FAILURE, what)
}
