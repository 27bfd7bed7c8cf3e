//! The replication client's task: connects, streams, acknowledges, connects again. Does; what messages mean is decided in `stream`, what becomes of the slot in `slot`.
//!
//! An acknowledgement never runs ahead of what was handed over: the sink returns before the position it belongs to is sent.

use crate::backoff::Backoff;
use crate::connection::{Connection, Message};
use crate::error::{Error, Unavailable};
use crate::event::Event;
use crate::limits::{
    DROP_TIMEOUT, MESSAGES_IN_A_ROW, SINK_WAIT, SLOT_FREE_POLL, SLOT_FREE_WAIT,
    SLOT_IN_USE_PATIENCE, STATUS_INTERVAL, UNAVAILABLE_PAUSE,
};
use crate::relay::Claim;
use crate::slot::{self, Identity, Plan, Slot, Told};
use crate::stream::Stream;
use ripen_cachestore::Upstream;
use ripen_cachestore::catalog::Catalog;
use ripen_cachestore::progress::LogKey;
use ripen_pg::ids::{Lsn, TableOid};
use ripen_pg::replication::pgoutput::PgOutput;
use ripen_pg::replication::{Envelope, PgMicros, StandbyStatus};
use ripen_pg::sqlstate::SqlState;
use ripen_pg::wire::backend;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Where to listen, and to what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The system of record. The role needs REPLICATION.
    pub upstream: Upstream,
    /// Name of the slot: lower-case letters, digits, underscores. `None`: by the database, `ripen_` and its OID; or `ripen`, if it has a slot of that name.
    pub slot: Option<String>,
    /// Name of the publication; it must exist before the slot is made (`publication::ensure`).
    pub publication: String,
    /// The logs whose flushes are confirmed.
    pub logs: Vec<LogKey>,
    /// Drop the slot when stopped while this is true, so that Postgres keeps no WAL for a Ripen that is gone. The next start then begins with an empty
    /// memory. False when another Ripen may use the slot by now.
    pub drop_slot_on_stop: Arc<AtomicBool>,
}

/// The hot cache of one database, to be [run](HotCache::run).
pub struct HotCache {
    options: Options,
    /// The slot's name, as it was when it was opened last.
    slot: String,
    probe: Arc<Notify>,
    stream: Stream,
    told: Option<Told>,
    shared: Option<Shared>,
    /// What was told was told by another node, so that others may lack some of it.
    inherited: bool,
    /// What Postgres was last told, or knew itself, to be done with. Never goes back while a connection lasts.
    acknowledged: Lsn,
    /// Postgres waits to hear more than that.
    owed: bool,
    /// How often the slot was found in use.
    in_use: u32,
}

/// The slot is read by whichever node leads, for all.
#[derive(Clone)]
pub struct Shared {
    /// Up to where all who are told by this node have taken what it has told. Asked for whenever Postgres is told something.
    pub taken_by_all: Arc<dyn Fn() -> Lsn + Send + Sync>,
    /// Told when that has risen.
    pub risen: Arc<Notify>,
    /// Whether it is certain that this node leads: then an earlier leader's connection is ended.
    pub surely_leads: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Asks the stream for its position.
#[derive(Clone, Debug, Default)]
pub struct Prober(Arc<Notify>);

impl Prober {
    /// Asks Postgres for a sign of life at once; the answer is an [`Event::Position`]. Several calls may be answered by one.
    pub fn probe(&self) {
        self.0.notify_one();
    }
}

/// Takes what the stream tells.
pub trait Sink: Send + Sync {
    /// Takes one event. Must be cancel safe only where stopping is.
    fn take(&self, event: Event) -> impl Future<Output = ()> + Send;
}

impl<F: Fn(Event) + Send + Sync> Sink for F {
    fn take(&self, event: Event) -> impl Future<Output = ()> + Send {
        self(event);
        std::future::ready(())
    }
}

/// How a session ended.
enum Ended {
    /// The stop token.
    Stopped,
    /// The stream could not be opened, or broke.
    Broken(Error),
}

impl HotCache {
    /// A client that has not connected yet.
    pub fn new(options: Options) -> HotCache {
        let stream = Stream::new(&options.logs);
        HotCache {
            options,
            slot: String::new(),
            probe: Arc::new(Notify::new()),
            stream,
            told: None,
            shared: None,
            inherited: false,
            acknowledged: Lsn(0),
            owed: false,
            in_use: 0,
        }
    }

    /// One that reads the slot for other nodes too, and goes on where an earlier reader has told `claim`.
    pub fn of_cluster(options: Options, shared: Shared, claim: Option<Claim>) -> HotCache {
        let told = claim.map(|claim| Told {
            identity: Identity {
                system_id: claim.system_id,
                timeline: claim.timeline,
            },
            position: claim.complete,
        });
        HotCache {
            shared: Some(shared),
            inherited: told.is_some(),
            told,
            ..HotCache::new(options)
        }
    }

    /// Lets it be asked for the position by that.
    pub fn probed_by(self, prober: &Prober) -> HotCache {
        HotCache {
            probe: prober.0.clone(),
            ..self
        }
    }

    /// For asking for the position.
    pub fn prober(&self) -> Prober {
        Prober(self.probe.clone())
    }

    /// Follows the stream until `stop`. `sink` is called in the order of the WAL, and counts as done when it returns: while it waits, nothing more is read, and Postgres hears nothing.
    /// Dropping the future instead of stopping it loses nothing: what was not acknowledged comes again.
    pub async fn run(
        mut self,
        catalog: impl Fn() -> Arc<Catalog> + Send,
        sink: impl Sink,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::default();
        loop {
            let pause = match self.session(&catalog, &sink, &stop, &mut backoff).await {
                Ended::Stopped => break,
                Ended::Broken(Error::Unavailable(unavailable)) => {
                    tracing::error!(%unavailable, "hot cache is not available");
                    sink.take(Event::Unavailable(unavailable)).await;
                    UNAVAILABLE_PAUSE
                }
                Ended::Broken(error) => {
                    tracing::warn!(%error, "replication stream is away");
                    let reason = error.to_string();
                    sink.take(Event::Disconnected { reason }).await;
                    backoff.failed(rand::random())
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        if self.options.drop_slot_on_stop.load(Ordering::SeqCst) {
            drop_slot(&self.options).await;
        }
    }

    async fn session(
        &mut self,
        catalog: &(impl Fn() -> Arc<Catalog> + Send),
        sink: &impl Sink,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Ended {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ended::Stopped,
            opened = self.open() => opened,
        };
        let (mut connection, connected) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ended::Broken(error),
        };
        backoff.reset();
        self.in_use = 0;
        tracing::info!(event = ?connected, "replication stream stands");
        sink.take(connected).await;
        let stuck = async {
            stop.cancelled().await;
            sleep(SINK_WAIT).await;
        };
        let followed = tokio::select! {
            followed = self.follow(&mut connection, catalog, sink, stop) => followed,
            () = stuck => return Ended::Stopped,
        };
        match followed {
            Ok(()) => {
                // Best effort: what Postgres does not hear now it hears at the next start.
                let status = self.status(false);
                let _ = connection.send_status(&status).await;
                connection.close().await;
                Ended::Stopped
            }
            Err(error) => Ended::Broken(error),
        }
    }

    /// Connects and starts the stream; answers the event that says so.
    async fn open(&mut self) -> Result<(Connection, Event), Error> {
        let mut connection = Connection::open(&self.options.upstream).await?;
        let (identity, written) = slot::identify(&mut connection).await?;
        slot::check_wal_level(&mut connection).await?;
        self.slot = slot::name(&mut connection, self.options.slot.as_deref()).await?;
        let (name, publication) = (&self.slot.clone(), &self.options.publication.clone());
        if !slot::publication_exists(&mut connection, publication).await? {
            return Err(Error::Unavailable(Unavailable::publication(publication)));
        }
        let found = slot::find(&mut connection, name).await?;
        let found = self.free(&mut connection, found).await?;
        let (mut start, resumed) = match slot::plan(found.as_ref(), identity, written, self.told) {
            Plan::Use { start, resumed } => (start, resumed),
            Plan::Make { drop_first } => {
                let made = self.make_slot(&mut connection, drop_first).await?;
                (made, false)
            }
            Plan::Refuse(owner) => {
                let foreign = Unavailable::foreign_slot(name, &owner);
                return Err(Error::Unavailable(foreign));
            }
        };
        let confirmed = found.map_or(start, |slot| slot.confirmed);
        if self.inherited && resumed {
            // Others may lack some of what this node has: all of it is told again.
            start = confirmed;
        }
        connection
            .start(&slot::start_command(name, publication, start))
            .await?;
        self.check_start(start).await?;
        self.inherited = false;
        (self.acknowledged, self.owed) = (confirmed.min(start), false);
        let same_history = self
            .told
            .is_none_or(|told| told.continues(identity, written));
        self.stream.restart(start);
        self.remember(identity);
        let connected = Event::Connected {
            resumed,
            same_history,
            system_id: identity.system_id,
            timeline: identity.timeline,
            position: start,
        };
        Ok((connection, connected))
    }

    /// Waits for the reader of a shared slot to go, and ends it if it does not go by itself and this node leads for certain.
    async fn free(
        &mut self,
        connection: &mut Connection,
        found: Option<Slot>,
    ) -> Result<Option<Slot>, Error> {
        let reader = found.as_ref().and_then(|slot| slot.reader);
        let (Some(shared), Some(pid)) = (&self.shared, reader) else {
            return Ok(found);
        };
        self.in_use += 1;
        if self.in_use <= SLOT_IN_USE_PATIENCE || !(shared.surely_leads)() {
            return Err(Error::InUse);
        }
        if slot::end_reader(connection, pid).await? {
            let slot = &self.slot;
            tracing::warn!(slot, pid, "an earlier leader's replication stream is ended");
        }
        let freeing = async {
            loop {
                let found = slot::find(connection, &self.slot).await?;
                if found.as_ref().is_none_or(|slot| slot.reader.is_none()) {
                    return Ok(found);
                }
                sleep(SLOT_FREE_POLL).await;
            }
        };
        timeout(SLOT_FREE_WAIT, freeing)
            .await
            .unwrap_or(Err(Error::InUse))
    }

    /// Postgres starts a stream where the slot is, if that is further than asked for: an earlier reader may have moved it since it was looked at. From now on nobody else can.
    async fn check_start(&self, start: Lsn) -> Result<(), Error> {
        if self.shared.is_none() {
            return Ok(());
        }
        let mut beside = Connection::open(&self.options.upstream).await?;
        let found = slot::find(&mut beside, &self.slot).await?;
        beside.close().await;
        match found {
            Some(slot) if slot.confirmed <= start => Ok(()),
            _ => Err(Error::InUse),
        }
    }

    async fn make_slot(&self, connection: &mut Connection, drop_first: bool) -> Result<Lsn, Error> {
        let name = &self.slot;
        if drop_first {
            tracing::warn!(slot = name, "replication slot is lost and made anew");
            slot::drop(connection, name).await?;
        }
        let made = slot::create(connection, name).await;
        made.map_err(|error| match error {
            Error::Server(fields) => match Unavailable::of(&fields, &self.options.upstream.user) {
                Some(unavailable) => Error::Unavailable(unavailable),
                None => Error::Server(fields),
            },
            other => other,
        })
    }

    fn remember(&mut self, identity: Identity) {
        self.told = Some(Told {
            identity,
            position: self.stream.passed(),
        });
    }

    async fn follow(
        &mut self,
        connection: &mut Connection,
        catalog: &(impl Fn() -> Arc<Catalog> + Send),
        sink: &impl Sink,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut ticks = interval(STATUS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                message = connection.next() => {
                    silent = false;
                    let asked = self.take_all(message?, connection, &catalog(), sink).await;
                    if self.check_publication(asked).await? {
                        let status = self.status(false);
                        self.owed = status.flushed < status.written;
                        connection.send_status(&status).await?;
                    }
                }
                _ = ticks.tick() => {
                    let status = self.status(silent);
                    connection.send_status(&status).await?;
                    silent = true;
                }
                () = self.probe.notified() => {
                    let status = self.status(true);
                    connection.send_status(&status).await?;
                }
                () = risen(&self.shared), if self.owed => {
                    let status = self.status(false);
                    self.owed = status.flushed < status.written;
                    connection.send_status(&status).await?;
                }
            }
        }
    }

    /// Handles a message and those that arrived with it; answers whether Postgres wants a status at once.
    async fn take_all(
        &mut self,
        first: Message,
        connection: &mut Connection,
        catalog: &Catalog,
        sink: &impl Sink,
    ) -> Result<bool, Error> {
        let mut asked = self.take(first, catalog, sink).await?;
        for _ in 0..MESSAGES_IN_A_ROW {
            match connection.buffered()? {
                Some(message) => asked |= self.take(message, catalog, sink).await?,
                None => break,
            }
        }
        if let Some(told) = &mut self.told {
            told.position = self.stream.passed();
        }
        Ok(asked)
    }

    async fn take(
        &mut self,
        message: Message,
        catalog: &Catalog,
        sink: &impl Sink,
    ) -> Result<bool, Error> {
        match message.tag {
            b'd' => {}
            b'E' => return Err(Error::Server(backend::decode_error(&message.body)?)),
            b'c' => return Err(Error::Closed),
            _ => return Ok(false),
        }
        let mut told = Vec::new();
        let asked = self.read(message, catalog, |event| told.push(event));
        for event in told {
            sink.take(event).await;
        }
        asked
    }

    /// Answers whether Postgres wants a status at once.
    fn read(
        &mut self,
        message: Message,
        catalog: &Catalog,
        mut tell: impl FnMut(Event),
    ) -> Result<bool, Error> {
        match Envelope::decode(&message.body)? {
            Envelope::XLogData { data, .. } if message.oversized => {
                if let Some(table) = oversized_table(data) {
                    self.stream.oversized(table)?;
                }
                Ok(false)
            }
            Envelope::XLogData { data, .. } => {
                let output = PgOutput::decode(data)?;
                self.stream.handle(output, catalog, &mut tell)?;
                Ok(false)
            }
            Envelope::Keepalive {
                wal_end,
                reply_requested,
                ..
            } => {
                self.stream.keepalive(wal_end, &mut tell);
                Ok(reply_requested)
            }
        }
    }

    /// A slot older than the publication can never be decoded past that point ("publication does not exist", though it does now): it must be made anew.
    async fn check_publication(&mut self, taken: Result<bool, Error>) -> Result<bool, Error> {
        if let Err(Error::Server(fields)) = &taken
            && fields.state() == SqlState::UNDEFINED_OBJECT
        {
            tracing::warn!(error = %fields, "replication slot cannot be decoded and is made anew");
            drop_slot(&self.options).await;
            self.told = None;
        }
        taken
    }

    /// What Postgres may forget is what was handed over here, and taken by all others who are told by this node.
    fn status(&mut self, reply_requested: bool) -> StandbyStatus {
        let passed = self.stream.passed();
        let mut done = passed;
        if let Some(shared) = &self.shared {
            let taken = (shared.taken_by_all)();
            done = passed.min(taken).max(self.acknowledged);
            self.acknowledged = done;
        }
        StandbyStatus {
            written: passed.max(done),
            flushed: done,
            applied: done,
            sent_at: now(),
            reply_requested,
        }
    }
}

async fn risen(shared: &Option<Shared>) {
    match shared {
        Some(shared) => shared.risen.notified().await,
        None => std::future::pending().await,
    }
}

/// Drops the slot when nobody reads it any more, unless it is somebody else's; says in the log whether that was done. Takes [`DROP_TIMEOUT`] at most.
pub async fn drop_slot(options: &Options) {
    let given = options.slot.as_deref();
    let dropping = async {
        let mut connection = Connection::open(&options.upstream).await?;
        let name = slot::name(&mut connection, given).await?;
        match slot::find(&mut connection, &name).await? {
            Some(slot) if slot.foreign.is_none() => slot::drop(&mut connection, &name).await?,
            _ => return Ok(None),
        }
        Ok::<_, Error>(Some(name))
    };
    match timeout(DROP_TIMEOUT, dropping).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(slot))) => tracing::info!(slot, "replication slot dropped"),
        Ok(Err(error)) => tracing::warn!(slot = given, %error, "replication slot not dropped"),
        Err(_) => tracing::warn!(slot = given, "replication slot not dropped in time"),
    }
}

/// The table of a change too large to be read: tag, then OID.
fn oversized_table(data: &[u8]) -> Option<TableOid> {
    match data {
        [b'I' | b'U' | b'D', a, b, c, d, ..] => {
            Some(TableOid(u32::from_be_bytes([*a, *b, *c, *d])))
        }
        _ => None,
    }
}

fn now() -> PgMicros {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    PgMicros::from_unix_us(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}
