//! The stream as the nodes of a cluster have it: who leads reads the slot and tells the others. What is told to whom, and what must be dropped, the hot cache's own `relay` decides; done is
//! here what the proxy's `server/relay.rs` and the hot cache's `client.rs` do, of which nothing runs here.

use crate::chance::Chance;
use crate::client::CATALOG;
use crate::data::row_shapes;
use crate::follow::{STALENESS_MS, SYSTEM, take};
use crate::postgres::{Commit, Entry};
use crate::record::Way;
use bytes::Bytes;
use parking_lot::Mutex;
use ripen_cachestore::home::Home;
use ripen_grid::cluster::Handle;
use ripen_grid::grid::Grid;
use ripen_grid::log::{Leadership, Role};
use ripen_hotcache::event::RowOutcome;
use ripen_hotcache::relay::{
    Claim, Hub, Reply, Taken, Taker, Trace, decode_ask, decode_reply, encode_ask, encode_reply,
    hear,
};
use ripen_hotcache::{Event, Outcome, OwnFlush, Sink, Transaction};
use ripen_pg::ids::Lsn;
use ripen_pg::replication::PgMicros;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// As in the proxy's limits.
const RELAY_WAIT: Duration = Duration::from_secs(1);
const RELAY_PATIENCE: Duration = Duration::from_secs(3);
const RELAY_RETRY: Duration = Duration::from_millis(50);

/// After how long a stream that broke is opened again, at the most.
const REOPEN_MS: u64 = 100;

/// How often a leader finds the slot read by another connection before it ends that one.
const IN_USE_PATIENCE: u32 = 1;

/// Of how many looks for more that find nothing one is answered by a position.
const POSITION_EVERY: u64 = 20;

/// What other nodes are told of this node's stream, while it leads.
struct Post {
    way: Way,
    hub: Mutex<Option<Hub>>,
    news: watch::Sender<u64>,
}

impl Post {
    async fn answer(&self, question: Bytes) -> Result<Bytes, String> {
        let ask = decode_ask(&question).map_err(|error| error.to_string())?;
        let mut news = self.news.subscribe();
        let patience = if ask.wait { RELAY_WAIT } else { Duration::ZERO };
        let mut waited = std::pin::pin!(sleep(patience));
        loop {
            news.borrow_and_update();
            let reply = match &mut *self.hub.lock() {
                Some(hub) => hub.ask(&ask, self.way.now_ms()),
                None => Some(Reply::Away),
            };
            if let Some(reply) = reply {
                return Ok(encode_reply(&reply));
            }
            tokio::select! {
                biased;
                _ = news.changed() => {}
                () = &mut waited => return Ok(encode_reply(&Reply::nothing(&ask))),
            }
        }
    }

    fn put(&self, hub: Option<Hub>) {
        *self.hub.lock() = hub;
        self.news.send_modify(|count| *count += 1);
    }
}

/// How far a leader has read, as it needs it to open the stream again.
#[derive(Clone, Copy)]
struct Told {
    timeline: u32,
    position: Lsn,
}

/// A connection that reads the slot.
struct Reader {
    way: Way,
    backend: i32,
    life: u64,
    start: Lsn,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let noticed = self.way.reachable();
        let mut pg = self.way.world.pg.lock();
        pg.disconnect(self.backend, if noticed { 1 } else { 5000 });
    }
}

/// See the module.
pub struct Relaying {
    way: Way,
    grid: Arc<Grid>,
    member: Handle,
    post: Arc<Post>,
    returned: Arc<Notify>,
    chance: Mutex<Chance>,
}

impl Relaying {
    /// Answers other nodes from now on.
    pub fn new(way: Way, grid: Arc<Grid>, chance: Chance) -> Relaying {
        let member = grid.member().cloned().expect("all are members");
        let post = Arc::new(Post {
            way: way.clone(),
            hub: Mutex::default(),
            news: watch::Sender::new(0),
        });
        let told = post.clone();
        member.serve_relay(Arc::new(move |question| {
            let post = told.clone();
            Box::pin(async move { post.answer(question).await })
        }));
        let returned: Arc<Notify> = Arc::default();
        let (feed, notify) = (grid.feed.clone(), returned.clone());
        member.watch_returns(Arc::new(move || {
            feed.come_back();
            notify.notify_one();
        }));
        Relaying {
            way,
            grid,
            member,
            post,
            returned,
            chance: Mutex::new(chance),
        }
    }

    /// For as long as the process lives.
    pub async fn run(self) {
        let home = self.way.home.clone();
        let mut moves = home.moves();
        let (mut leadership, node) = (self.member.leadership(), self.member.node());
        let mut taken = Taken::default();
        loop {
            let role = leadership.borrow_and_update().role(node);
            let over = CancellationToken::new();
            let changed = async {
                let other = |now: &Leadership| now.role(node) != role;
                if leadership.wait_for(other).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let mut playing = std::pin::pin!(self.play(role, taken, &home, &over));
            taken = tokio::select! {
                biased;
                taken = &mut playing => taken,
                () = changed => {
                    over.cancel();
                    playing.await
                }
                Ok(()) = moves.changed(), if home.guarded() => {
                    over.cancel();
                    playing.await;
                    Taken::default()
                }
            };
        }
    }

    async fn play(&self, role: Role, taken: Taken, home: &Home, over: &CancellationToken) -> Taken {
        let mut taker = Taker::new(taken, self.grid.feed.live());
        if let Some(event) = taker.away("another node is to read the stream") {
            self.take(event).await;
        }
        match role {
            Role::Leads => self.lead(taken, over).await,
            Role::Hears(_) => self.hear(taker, home, over).await,
            Role::Waits => {
                over.cancelled().await;
                taken
            }
        }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut self.chance.lock())
    }

    async fn lead(&self, taken: Taken, over: &CancellationToken) -> Taken {
        let stream = self.draw(Chance::number).max(1);
        self.post.put(Some(Hub::new(stream, taken.claim())));
        let taken = Mutex::new(taken);
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            () = self.read(&taken) => {}
            () = self.never_behind() => {}
        }
        self.post.put(None);
        taken.into_inner()
    }

    async fn never_behind(&self) {
        loop {
            self.grid.feed.catch_up(self.grid.feed.returns());
            self.returned.notified().await;
        }
    }

    /// Reads the slot, opens the stream again when it breaks. Never ends.
    async fn read(&self, taken: &Mutex<Taken>) {
        let claim = taken.lock().claim();
        let mut told = claim.map(|claim| Told {
            timeline: claim.timeline,
            position: claim.complete,
        });
        let (mut inherited, mut in_use) = (told.is_some(), 0);
        loop {
            let opened = self.open(&mut told, &mut inherited, &mut in_use).await;
            if let Some((reader, event)) = opened {
                self.tell(event, taken).await;
                self.follow(&reader, &mut told, taken).await;
            }
            let reason = "the stream is away".to_owned();
            self.tell(Event::Disconnected { reason }, taken).await;
            let pause = self.draw(|chance| chance.range(REOPEN_MS / 2..REOPEN_MS));
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// As `HotCache::open`.
    async fn open(
        &self,
        told: &mut Option<Told>,
        inherited: &mut bool,
        in_use: &mut u32,
    ) -> Option<(Reader, Event)> {
        self.way.trip().await.ok()?;
        let mut pg = self.way.world.pg.lock();
        let (timeline, written) = (pg.server.timeline, pg.position());
        if let Some(reader) = pg.slot_reader() {
            *in_use += 1;
            let surely_leads = self.member.leadership().borrow().here && self.member.may_read();
            if *in_use <= IN_USE_PATIENCE || !surely_leads {
                return None;
            }
            pg.end_backend(reader);
        }
        *in_use = 0;
        let continues = |told: &Told| told.timeline == timeline && told.position <= written;
        let (mut start, resumed) = match (pg.slot(), told.filter(continues)) {
            (None, _) => (written, false),
            (Some(confirmed), Some(told)) if confirmed <= told.position => (told.position, true),
            (Some(confirmed), _) => (confirmed, false),
        };
        let confirmed = pg.slot().unwrap_or(start);
        if *inherited && resumed {
            // Others may lack some of what this node has: all of it is told again.
            start = confirmed;
        }
        let backend = pg.connect();
        pg.read_slot(confirmed, backend);
        let reader = Reader {
            way: self.way.clone(),
            backend,
            life: pg.life,
            start,
        };
        *inherited = false;
        let same_history = told.as_ref().is_none_or(continues);
        *told = Some(Told {
            timeline,
            position: start,
        });
        let event = Event::Connected {
            resumed,
            same_history,
            system_id: SYSTEM,
            timeline,
            position: start,
        };
        Some((reader, event))
    }

    /// Until the connection is lost.
    async fn follow(&self, reader: &Reader, told: &mut Option<Told>, taken: &Mutex<Taken>) {
        let mut at = (reader.start.0 / 100) as usize;
        let mut looks = 0;
        loop {
            let entry = {
                let pg = self.way.world.pg.lock();
                if !pg.reads_slot(reader.backend) || pg.life != reader.life {
                    return;
                }
                pg.wal.get(at).cloned()
            };
            if !self.way.reachable() {
                return;
            }
            let Some(entry) = entry else {
                sleep(Duration::from_millis(2)).await;
                looks += 1;
                if looks == POSITION_EVERY {
                    let position = Lsn(100 * at as u64);
                    self.tell(Event::Position(position), taken).await;
                }
                self.acknowledge(reader, told);
                continue;
            };
            let late = self.draw(|chance| chance.pick(&[0, 0, 0, 1, 3, 40]));
            sleep(Duration::from_millis(late)).await;
            looks = 0;
            self.tell(event(&entry), taken).await;
            at += 1;
            if let Some(told) = told {
                told.position = Lsn(100 * at as u64);
            }
            self.acknowledge(reader, told);
        }
    }

    /// Who may have been replaced must not move the slot: the next leader needs it where it is.
    fn acknowledge(&self, reader: &Reader, told: &Option<Told>) {
        let surely_leads = self.member.leadership().borrow().here && self.member.may_read();
        let by_all = self
            .post
            .hub
            .lock()
            .as_mut()
            .map(|hub| hub.taken_by_all(self.way.now_ms()));
        if let (true, Some(told), Some(by_all)) = (surely_leads, told, by_all) {
            let mut pg = self.way.world.pg.lock();
            if pg.life == reader.life {
                pg.read_slot(told.position.min(by_all), reader.backend);
            }
        }
    }

    /// The others first, so that none of them waits for this node.
    async fn tell(&self, event: Event, taken: &Mutex<Taken>) {
        let trace = Trace::of(&event);
        let begins = matches!(event, Event::Connected { resumed: false, .. });
        let claim = self.tell_others(&event);
        self.take(event).await;
        let mut taken = taken.lock();
        match claim {
            Some(claim) if begins => taken.begin(claim),
            None if begins => taken.forget(),
            _ => taken.take(trace),
        }
    }

    fn tell_others(&self, event: &Event) -> Option<Claim> {
        let mut hub = self.post.hub.lock();
        let hub = hub.as_mut()?;
        hub.tell(event, || self.draw(Chance::number));
        if matches!(event, Event::Connected { .. }) {
            let own = self.member.node();
            let others = self.member.members().into_iter();
            hub.expect(others.filter(|node| *node != own), self.way.now_ms());
        }
        self.post.news.send_modify(|count| *count += 1);
        hub.claim()
    }

    async fn hear(&self, mut taker: Taker, home: &Home, over: &CancellationToken) -> Taken {
        let feed = &self.grid.feed;
        let mut wait = true;
        loop {
            let returns = feed.returns();
            let ask = taker.ask(self.member.node(), wait);
            let asking = self.member.ask_relay(encode_ask(&ask), RELAY_PATIENCE);
            let told = tokio::select! {
                biased;
                () = over.cancelled() => return taker.progress(),
                () = self.returned.notified() => {
                    wait = false;
                    continue;
                }
                told = asking => told.map_err(|error| error.to_string()),
            };
            wait = true;
            let reply = told
                .and_then(|bytes| decode_reply(&bytes).map_err(|malformed| malformed.to_string()))
                .and_then(|reply| reply.of_home(home));
            let away = !matches!(reply, Ok(Reply::Begin(_) | Reply::Events { .. }));
            let heard = tokio::select! {
                biased;
                () = over.cancelled() => return taker.progress(),
                heard = hear(&mut taker, reply, || &*CATALOG, self) => heard,
            };
            if heard {
                feed.judge(self.way.now_ms(), STALENESS_MS);
                feed.catch_up(returns);
            }
            if away {
                over.run_until_cancelled(sleep(RELAY_RETRY)).await;
            }
        }
    }
}

impl Sink for Relaying {
    async fn take(&self, event: Event) {
        take(&self.way, &self.grid, event, &self.chance).await;
    }
}

/// What the WAL tells.
fn event(entry: &Entry) -> Event {
    match entry {
        Entry::Commit(commit) => Event::Transaction(transaction(commit)),
        Entry::Mark(id, position) => Event::Mark {
            id: *id,
            position: *position,
        },
    }
}

fn transaction(commit: &Commit) -> Transaction {
    let told = commit.written.iter().filter(|_| commit.flush.is_none());
    let rows: Vec<RowOutcome> = told
        .map(|(row, new)| RowOutcome {
            row: row.clone(),
            outcome: Outcome::Put(new.tuple(row)),
        })
        .collect();
    Transaction {
        xid: commit.xid.low(),
        commit: commit.lsn,
        commit_time: PgMicros(0),
        own_flush: commit.flush.map(|seq| OwnFlush { log: 1, seq }),
        shapes: row_shapes(&CATALOG, rows.iter().map(|told| &told.row)),
        rows,
        truncated: Vec::new(),
        invalidated: Vec::new(),
        schema_changed: Vec::new(),
    }
}
