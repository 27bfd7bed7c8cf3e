//! One client's session: takes its messages one by one, answers what can be answered here, relays the rest, in order.
//!
//! ```text
//!              every message answerable          Sync: ReadyForQuery from here
//!            ┌──────────────────────────┐
//!            ▼                          │
//!          Here ──────────────────────► Here
//!            │ the first message that needs Postgres
//!            ▼                  Sync, Query, FunctionCall
//!         Upstream ─────────────────────────────────────► Sent ──ReadyForQuery from Postgres──► Here
//! ```
//!
//! Invariants: nothing is answered here while an answer of Postgres is awaited; nothing is sent to Postgres that is not secured first
//! ([`answerer::Answerer::enter`]); ReadyForQuery after a transaction is released only when its holds are given back.

pub(crate) mod abroad;
mod ahead;
pub mod answerer;
mod attach;
mod block;
mod extended;
mod facts;
mod forward;
mod given;
mod implicit;
mod intake;
pub(crate) mod io;
mod literals;
mod local;
mod recall;
mod several;
mod simple;
mod snapshots;
mod transaction;

use crate::accept::Front;
use crate::limits;
use crate::login::{Identity, LoggedIn, Secret};
use crate::logins::Remembered;
use crate::plan::PassPlan;
use crate::portals::Names;
use crate::registry::{Ending, Registered};
use crate::relay::{OwnAnswer, Relay, Said};
use answerer::{Answerer, Asker, Outcome};
use attach::Parking;
use bytes::Bytes;
use facts::Known;
use intake::Passing;
use io::{ClientGone, Io};
use ripen_cachestore::home::Server;
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::wire::startup::Startup;
use ripen_pg::wire::{backend, frontend};
use snapshots::Snapshots;
use std::sync::Arc;
use std::task::Poll;
use tokio::time::timeout;
use tracing::{debug, error};
use transaction::{Tx, tx_status};

/// See the module.
pub(crate) struct Session<A: Answerer> {
    front: Arc<Front<A>>,
    me: Registered,
    io: Io,
    identity: Identity,
    relay: Relay,
    names: Names,
    known: Known,
    segment: Segment,
    /// An error was sent: everything up to Sync is ignored.
    skipping: bool,
    copies: Copies,
    /// A message of the client's of which only the head is handled.
    passing: Option<Passing>,
    /// How many bytes of the client's may be held.
    client_room: usize,
    tx: Tx,
    snapshots: Snapshots,
    holds: A::Holds,
    holding: bool,
    /// Of a transaction block that began here: what it has written.
    block: A::Block,
    /// It has read or written something.
    spoken: bool,
    /// The transaction block was begun for a pipeline, and ends with its Sync.
    implicit: bool,
    /// Somebody in Postgres wants rows that the block has locked.
    nudged: bool,
    /// The ErrorResponse for what comes next in the transaction: it could not be moved to Postgres.
    doomed: Option<Bytes>,
    /// Postgres has the statement that [`Session::bind_in_vain`] binds.
    anchored: bool,
    /// A statement that may wait for other sessions was sent, and Postgres has perhaps not answered it yet.
    may_wait: bool,
    /// The answer to the session's own query, and whether it is waited for.
    own: Option<OwnAnswer>,
    wants_own: bool,
    /// Whether a new connection to Postgres would lack something that this session has left there.
    pinned: bool,
    /// What is handled now was planned by settings that are not those of the connection.
    unsure: bool,
    /// Where its connection leads, where that matters and is known.
    server: Option<Server>,
    parking: Option<Parking>,
    /// The ParameterStatus messages that came with the connection.
    parameters: Bytes,
    /// Postgres has been asked for the replies that it keeps back.
    asked: bool,
    route: Route,
    /// Until its settings are known.
    startup: Option<Startup>,
    /// The settings of a session that has never had a connection to Postgres, as they were in the one before it.
    remembered: Option<Remembered>,
}

/// Where the messages since the last ReadyForQuery go. See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Here,
    Upstream,
    Sent,
}

/// COPY IN since the last ReadyForQuery.
#[derive(Clone, Copy, Debug, Default)]
struct Copies {
    /// CopyInResponses that came.
    begun: u64,
    /// CopyDones and CopyFails that were sent.
    ended: u64,
}

/// The way that the session's last statement took, for `SHOW ripen.route`.
#[derive(Clone, Debug)]
pub enum Route {
    /// There was none yet.
    None,
    /// From memory.
    Read,
    /// Into the queue.
    Write,
    /// To Postgres; the plan says why.
    Passed(Arc<PassPlan>),
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client said Terminate.
    Quit,
    /// The client will send no more, but may still read.
    ClientEnded,
    /// The client can no longer be written to.
    ClientGone,
    /// Postgres has closed the connection.
    UpstreamClosed,
    /// Ripen shuts down.
    Shutdown,
    /// A message that cannot be followed: what comes is copied until Postgres closes.
    Raw,
    /// Postgres said something that cannot be an answer to what it was asked.
    Nonsense(u8),
}

impl From<ClientGone> for End {
    fn from(_: ClientGone) -> End {
        End::ClientGone
    }
}

impl<A: Answerer> Session<A> {
    pub(crate) fn new(front: Arc<Front<A>>, me: Registered, logged_in: LoggedIn) -> Session<A> {
        let repeatable = logged_in.identity.secret != Secret::Unrepeatable;
        let park_after = front.park_after.filter(|_| repeatable);
        Session {
            front,
            me,
            io: logged_in.io,
            identity: logged_in.identity,
            relay: Relay::default(),
            names: Names::default(),
            known: Known::default(),
            segment: Segment::Here,
            skipping: false,
            copies: Copies::default(),
            passing: None,
            client_room: limits::BUFFER_HIGH_BYTES,
            tx: Tx::Idle,
            snapshots: Snapshots::default(),
            holds: A::Holds::default(),
            holding: false,
            block: A::Block::default(),
            implicit: false,
            nudged: false,
            doomed: None,
            anchored: false,
            spoken: false,
            may_wait: false,
            own: None,
            wants_own: false,
            pinned: false,
            unsure: false,
            server: None,
            parking: park_after.map(Parking::new),
            parameters: logged_in.parameters,
            asked: false,
            route: Route::None,
            startup: logged_in.startup,
            remembered: logged_in.remembered,
        }
    }

    /// Serves the client until one side ends. Must be awaited to its end: dropped earlier, holds are never given back.
    pub(crate) async fn run(mut self) {
        let end = match self.begin().await {
            Ok(()) => self.serve().await,
            Err(end) => end,
        };
        debug!(?end, "the session ends");
        self.finish(end).await;
    }

    /// Finds out the session's settings, then tells the client that it may begin.
    async fn begin(&mut self) -> Result<(), End> {
        self.refresh().await?;
        self.put_ready();
        Ok(())
    }

    async fn serve(&mut self) -> End {
        loop {
            match self.serve_some().await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    /// Handles all that is there, then waits for more.
    async fn serve_some(&mut self) -> Result<(), End> {
        self.hear().await?;
        while self.take().await? {
            self.hear().await?;
        }
        if std::mem::take(&mut self.nudged) {
            self.step_aside().await?;
            // What the client has said meanwhile is there already: nothing would wake us for it.
            return Ok(());
        }
        if self.io.upstream_ended() && !self.survives().await {
            return Err(End::UpstreamClosed);
        }
        if self.io.client.ended() && !self.has_work() {
            return Err(End::ClientEnded);
        }
        self.wait().await
    }

    /// Whether there is something to be done for a client that will send no more.
    fn has_work(&self) -> bool {
        let answering = self.segment == Segment::Sent && !self.in_copy();
        answering || self.asked || self.io.client.output_full() || self.io.upstream_full()
    }

    /// What Postgres said before it closed.
    fn say_farewell(&mut self) {
        if let Some(farewell) = self.relay.farewell.take() {
            self.io.client.output.extend_from_slice(&farewell);
        }
    }

    async fn wait(&mut self) -> Result<(), End> {
        let parks = self.parking.is_some() && self.may_park();
        let yields = self.may_step_aside();
        let idle = self.segment == Segment::Here && matches!(self.tx, Tx::Idle);
        let me = &self.me;
        let ending = std::future::poll_fn(|cx| match me.poll_ending(cx) {
            Ending::Never => Poll::Pending,
            Ending::WhenIdle if !idle => Poll::Pending,
            Ending::WhenIdle | Ending::Now => Poll::Ready(()),
        });
        tokio::select! {
            biased;
            turned = self.io.turn(self.client_room) => Ok(turned?),
            () = ending => Err(End::Shutdown),
            () = self.front.answerer.nudged(&self.block), if yields => {
                self.nudged = true;
                Ok(())
            }
            () = due(&mut self.parking), if parks => {
                self.park().await;
                Ok(())
            }
        }
    }

    /// Handles what Postgres said.
    async fn hear(&mut self) -> Result<(), End> {
        while let Some(upstream) = self.io.upstream.as_deref_mut() {
            if upstream.input.is_empty() {
                break;
            }
            match self.relay.step(
                &mut upstream.input,
                &mut self.io.client.output,
                &mut self.names,
            ) {
                Said::Nothing => break,
                Said::Ready(status) => self.transaction_status(status).await,
                Said::OwnDone(answer) => self.own_done(answer)?,
                Said::Setting(name, value) => self.known.reported(&name, &value),
                Said::CopyIn => self.copy_in_begun(),
                Said::Failed => self.skip_to_sync(),
                Said::Nonsense(tag) => return Err(End::Nonsense(tag)),
            }
        }
        Ok(())
    }

    /// An extended message failed upstream. What follows it is ignored there, so it need not be sent.
    fn skip_to_sync(&mut self) {
        // That ends a COPY, too; Postgres reads no more of it.
        self.copies = Copies::default();
        let sync_sent = !self.relay.awaited.is_empty();
        self.segment = if sync_sent {
            Segment::Sent
        } else {
            Segment::Upstream
        };
        self.skipping = !sync_sent;
    }

    /// The Sync behind a COPY's Execute is ignored by Postgres, which reads COPY data by then: the pipeline is open again.
    fn copy_in_begun(&mut self) {
        self.copies.begun += 1;
        if self.relay.awaited.drop_syncs() {
            self.segment = Segment::Upstream;
        }
    }

    fn in_copy(&self) -> bool {
        self.copies.begun > self.copies.ended
    }

    fn own_done(&mut self, answer: OwnAnswer) -> Result<(), End> {
        // What is waited for was sent last.
        if self.wants_own && self.relay.awaited.is_empty() {
            self.own = Some(answer);
            return Ok(());
        }
        // The BEGIN of a transaction that had begun here. Its statements must not run outside of it.
        match answer.error {
            Some(frame) => {
                self.io.client.output.extend_from_slice(&frame);
                Err(End::UpstreamClosed)
            }
            None => Ok(()),
        }
    }

    fn put_ready(&mut self) {
        backend::ready_for_query(&mut self.io.client.output, self.tx.status());
    }

    /// Ends both connections as Postgres would have ended the client's, and gives back what is held.
    async fn finish(mut self, end: End) {
        // Others may be waiting for its rows.
        self.block = A::Block::default();
        let outcome = match end {
            End::ClientGone if !self.holding => Outcome::Committed,
            End::Quit | End::ClientGone => {
                self.terminate_upstream();
                self.drain().await
            }
            End::ClientEnded | End::Raw => self.follow_to_the_end(end).await,
            End::UpstreamClosed => self.unknown(),
            End::Shutdown => {
                let what = "terminating connection due to administrator command";
                self.say_fatal(&ErrorFields::fatal(SqlState::ADMIN_SHUTDOWN, what));
                self.terminate_upstream();
                self.drain().await
            }
            End::Nonsense(tag) => {
                error!(peer = self.me.peer(), tag = %tag.escape_ascii(), "the system of record sent an unexpected message");
                let what = "unexpected message from the system of record";
                self.say_fatal(&ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, what));
                self.unknown()
            }
        };
        self.say_farewell();
        let client = &mut self.io.client;
        // Whoever is gone need not be told.
        let _ = timeout(limits::DRAIN_TIMEOUT, client.write_all()).await;
        let _ = timeout(limits::DRAIN_TIMEOUT, client.shutdown()).await;
        self.io.upstream = None;
        if self.holding {
            let holds = std::mem::take(&mut self.holds);
            self.front.answerer.leave(holds, outcome).await;
        }
    }

    /// Nobody has heard how the transaction ended; its backend may still be at it.
    fn unknown(&self) -> Outcome {
        Outcome::Unknown(self.me.backend())
    }

    /// Says it if the client can tell it from what came before.
    fn say_fatal(&mut self, error: &ErrorFields) {
        if !self.relay.between_messages() {
            return;
        }
        backend::error_response(&mut self.io.client.output, error);
    }

    fn terminate_upstream(&mut self) {
        if let Some(upstream) = self.io.upstream.as_deref_mut()
            && self.passing.is_none()
        {
            frontend::terminate(&mut upstream.output);
        }
    }

    /// Waits until Postgres has ended the session, hence its transaction, without listening to what it says.
    async fn drain(&mut self) -> Outcome {
        let Some(upstream) = self.io.upstream.as_deref_mut() else {
            return Outcome::Committed;
        };
        let drained = timeout(limits::DRAIN_TIMEOUT, async {
            let _ = upstream.write_all().await;
            let _ = upstream.shutdown().await;
            while upstream.read_more().await {
                upstream.input.clear();
            }
        });
        match drained.await {
            Ok(()) => Outcome::Committed,
            Err(_) => self.unknown(),
        }
    }

    /// Passes the client's end on to Postgres, and what Postgres still says to the client.
    async fn follow_to_the_end(&mut self, end: End) -> Outcome {
        if end == End::ClientEnded && self.segment == Segment::Here && self.passing.is_none() {
            self.terminate_upstream();
        }
        let Some(upstream) = self.io.upstream.as_deref_mut() else {
            return Outcome::Committed;
        };
        let followed = timeout(limits::DRAIN_TIMEOUT, async {
            upstream.output.extend_from_slice(&self.io.client.input);
            self.io.client.input.clear();
            let _ = upstream.write_all().await;
            if end == End::ClientEnded {
                let _ = upstream.shutdown().await;
            }
            while upstream.read_more().await {
                let output = &mut self.io.client.output;
                loop {
                    match self
                        .relay
                        .step(&mut upstream.input, output, &mut self.names)
                    {
                        Said::Nothing | Said::Nonsense(_) => break,
                        Said::Ready(status) => backend::ready_for_query(output, tx_status(status)),
                        _ => {}
                    }
                }
                if self.io.client.write_all().await.is_err() {
                    break;
                }
            }
        });
        match followed.await {
            Ok(()) => Outcome::Committed,
            Err(_) => self.unknown(),
        }
    }
}

async fn due(parking: &mut Option<Parking>) {
    match parking {
        Some(parking) => parking.due().await,
        None => std::future::pending().await,
    }
}

fn asker<'a>(me: &'a Registered, known: &'a Known, route: &'a Route) -> Asker<'a> {
    Asker {
        session: me.id(),
        facts: known.facts(),
        role: known.role(),
        settings: &known.settings,
        route,
        backend: me.backend(),
        given: &known.given,
        patience: known.patience,
        me,
    }
}
