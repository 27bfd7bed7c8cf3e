//! One node of a cluster reads Postgres's WAL for all: the leader of the log, which tells the others. Whoever leads next goes on with the same slot. Does; what is told to
//! whom, and what must be dropped, `ripen_hotcache::relay` decides.
//!
//! ```text
//!            elected                              another is elected
//! waits ──────────────► leads: slot → memory, post ◄───────────► hears: asks the leader's post → memory
//! ```
//! Never ends what memory holds only because nobody reads the stream for a while: lag is judged as on a node alone.

use crate::limits::{LAST_NODE_ASKS, LAST_NODE_WAIT, RELAY_PATIENCE, RELAY_RETRY, RELAY_WAIT};
use crate::server::follow::Follower;
use crate::server::steady_ms;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use ripen_cachestore::home::Home;
use ripen_grid::cluster::Handle;
use ripen_grid::log::{Leadership, Role};
use ripen_hotcache::relay::{
    Claim, Hub, Reply, Taken, Taker, Trace, decode_ask, decode_reply, encode_ask, encode_reply,
    hear,
};
use ripen_hotcache::{Event, HotCache, Options, Prober, Shared, Sink, client};
use ripen_pg::ids::Lsn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What other nodes are told of this node's stream, while it leads.
#[derive(Default)]
pub struct Post {
    hub: Mutex<Option<Hub>>,
    /// Counts what is told.
    news: watch::Sender<u64>,
    /// Told when somebody may have taken more.
    risen: Arc<Notify>,
}

impl Post {
    /// Whether this node reads the slot, and how many others it tells.
    pub fn readers(&self) -> Option<usize> {
        self.hub.lock().as_ref().map(Hub::readers)
    }

    /// Answers another node; waits for something to tell, if that is wanted. Cancel safe.
    pub async fn answer(&self, question: Bytes) -> Result<Bytes, String> {
        let ask = decode_ask(&question).map_err(|error| error.to_string())?;
        let mut news = self.news.subscribe();
        let patience = if ask.wait { RELAY_WAIT } else { Duration::ZERO };
        let mut waited = std::pin::pin!(sleep(patience));
        loop {
            news.borrow_and_update();
            let reply = match &mut *self.hub.lock() {
                Some(hub) => hub.ask(&ask, steady_ms()),
                None => Some(Reply::Away),
            };
            self.risen.notify_one();
            if let Some(reply) = reply {
                return Ok(encode_reply(&reply));
            }
            tokio::select! {
                // The sender is ours.
                _ = news.changed() => {}
                () = &mut waited => return Ok(encode_reply(&Reply::nothing(&ask))),
            }
        }
    }

    fn put(&self, hub: Option<Hub>) {
        *self.hub.lock() = hub;
        self.news.send_modify(|count| *count += 1);
    }

    /// Answers what may be claimed by who has taken it.
    fn tell(&self, event: &Event, others: impl FnOnce() -> Vec<u64>) -> Option<Claim> {
        let mut hub = self.hub.lock();
        let hub = hub.as_mut()?;
        hub.tell(event, rand::random);
        if matches!(event, Event::Connected { .. }) {
            hub.expect(others(), steady_ms());
        }
        self.news.send_modify(|count| *count += 1);
        hub.claim()
    }

    fn taken_by_all(&self) -> Lsn {
        let mut hub = self.hub.lock();
        hub.as_mut()
            .map_or(Lsn(u64::MAX), |hub| hub.taken_by_all(steady_ms()))
    }
}

/// See the module.
pub struct Relaying {
    member: Handle,
    /// Takes events, whoever tells them.
    follower: Arc<Follower>,
    options: Options,
    /// Asks the stream for its position, where it is read.
    prober: Prober,
    post: Arc<Post>,
    /// Told when this node was without a lease.
    returned: Arc<Notify>,
    /// Lag above which cached reads go to Postgres.
    max_staleness: Duration,
    /// Whether the slot is dropped at the end, as nobody is left to read it.
    drops_slot: Arc<AtomicBool>,
}

/// Whether any other member says that it is there. Takes [`LAST_NODE_WAIT`] at most; not long where nobody listens.
pub async fn anybody_else(member: &Handle) -> bool {
    let found = async {
        // A connection that was made long ago may fail the first time.
        for _ in 0..LAST_NODE_ASKS {
            let others = member.members().into_iter();
            let others = others.filter(|node| *node != member.node());
            let mut asked: FuturesUnordered<_> =
                others.map(|node| member.process_of(node)).collect();
            while let Some(told) = asked.next().await {
                if told.is_some() {
                    return true;
                }
            }
        }
        false
    };
    timeout(LAST_NODE_WAIT, found).await.unwrap_or(false)
}

impl Relaying {
    /// Answers other nodes from now on. Once.
    pub fn new(
        member: Handle,
        options: Options,
        follower: Follower,
        post: Arc<Post>,
        prober: Prober,
        max_staleness: Duration,
    ) -> Relaying {
        let (runtime, told) = (runtime::Handle::current(), post.clone());
        member.serve_relay(Arc::new(move |question| {
            // Not on the log's thread, which others wait for.
            let (post, serving) = (told.clone(), runtime.clone());
            Box::pin(async move {
                let answering = serving.spawn(async move { post.answer(question).await });
                let answer = answering.await;
                answer.unwrap_or_else(|error| Err(error.to_string()))
            })
        }));
        let returned: Arc<Notify> = Arc::default();
        let (feed, notify) = (follower.grid.feed.clone(), returned.clone());
        member.watch_returns(Arc::new(move || {
            feed.come_back();
            notify.notify_one();
        }));
        Relaying {
            member,
            follower: Arc::new(follower),
            drops_slot: options.drop_slot_on_stop.clone(),
            options: Options {
                // Here the slot is nobody's own.
                drop_slot_on_stop: Arc::new(AtomicBool::new(false)),
                ..options
            },
            prober,
            post,
            returned,
            max_staleness,
        }
    }

    /// Runs until stopped.
    pub async fn run(self, home: &Home, stop: CancellationToken) {
        let mut moves = home.moves();
        let (mut leadership, node) = (self.member.leadership(), self.member.node());
        let mut taken = Taken::default();
        while !stop.is_cancelled() {
            let role = leadership.borrow_and_update().role(node);
            tracing::debug!(?role, "the stream's role of this node");
            let over = stop.child_token();
            let changed = async {
                let other = |now: &Leadership| now.role(node) != role;
                if leadership.wait_for(other).await.is_err() {
                    // The log has ended, and so will this node.
                    std::future::pending::<()>().await;
                }
            };
            let mut playing = std::pin::pin!(self.play(role, taken, home, &over));
            taken = tokio::select! {
                taken = &mut playing => taken,
                () = changed => {
                    over.cancel();
                    playing.await
                }
                // What was told may be of the server that was the system of record before.
                Ok(()) = moves.changed(), if home.guarded() => {
                    over.cancel();
                    playing.await;
                    self.follower.keeper.look_soon();
                    Taken::default()
                }
            };
        }
        if self.drops_slot.load(Ordering::SeqCst) {
            client::drop_slot(&self.options).await;
        }
    }

    /// Until it is over. Answers what has been taken by then.
    async fn play(&self, role: Role, taken: Taken, home: &Home, over: &CancellationToken) -> Taken {
        let feed = &self.follower.grid.feed;
        let mut taker = Taker::new(taken, feed.live());
        if let Some(event) = taker.away("another node is to read the stream") {
            Sink::take(&*self.follower, event).await;
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

    async fn lead(&self, taken: Taken, over: &CancellationToken) -> Taken {
        let (post, member) = (self.post.clone(), self.member.clone());
        let surely_leads = move || member.leadership().borrow().here && member.may_read();
        let surely_leads: Arc<dyn Fn() -> bool + Send + Sync> = Arc::new(surely_leads);
        let sure = surely_leads.clone();
        let shared = Shared {
            // Who may have been replaced must not move the slot: the next leader needs it where it is.
            taken_by_all: Arc::new(move || match sure() {
                true => post.taken_by_all(),
                false => Lsn(0),
            }),
            risen: self.post.risen.clone(),
            surely_leads,
        };
        // 0 is no stream.
        let stream = rand::random::<u64>().max(1);
        self.post.put(Some(Hub::new(stream, taken.claim())));
        let telling = Telling {
            follower: self.follower.clone(),
            post: self.post.clone(),
            member: self.member.clone(),
            taken: Arc::new(Mutex::new(taken)),
        };
        let (keeper, taken) = (self.follower.keeper.clone(), telling.taken.clone());
        let hot_cache = HotCache::of_cluster(self.options.clone(), shared, taken.lock().claim());
        let hot_cache = hot_cache.probed_by(&self.prober);
        tokio::select! {
            () = hot_cache.run(move || keeper.catalog(), telling, over.clone()) => {}
            () = self.never_behind() => {}
        }
        self.post.put(None);
        *taken.lock()
    }

    /// Who reads the stream itself needs to hear of it from nobody. Never ends.
    async fn never_behind(&self) {
        let feed = &self.follower.grid.feed;
        loop {
            feed.catch_up(feed.returns());
            self.returned.notified().await;
        }
    }

    async fn hear(&self, mut taker: Taker, home: &Home, over: &CancellationToken) -> Taken {
        let mut wait = true;
        loop {
            let returns = self.follower.grid.feed.returns();
            let ask = taker.ask(self.member.node(), wait);
            let asking = self.member.ask_relay(encode_ask(&ask), RELAY_PATIENCE);
            let told = tokio::select! {
                () = over.cancelled() => return taker.progress(),
                () = self.returned.notified() => {
                    wait = false;
                    continue;
                }
                told = asking => told.map_err(|error| error.to_string()),
            };
            wait = true;
            let reply = told
                .and_then(|bytes| decode_reply(&bytes).map_err(|malformed| malformed.to_string()));
            let reply = reply.and_then(|reply| reply.of_home(home));
            let away = !matches!(reply, Ok(Reply::Begin(_) | Reply::Events { .. }));
            let catalog = || self.follower.keeper.catalog();
            let taking = hear(&mut taker, reply, catalog, &*self.follower);
            let heard = tokio::select! {
                () = over.cancelled() => return taker.progress(),
                heard = taking => heard,
            };
            if heard {
                let max_ms = self.max_staleness.as_millis() as u64;
                let feed = &self.follower.grid.feed;
                feed.judge(steady_ms(), max_ms);
                feed.catch_up(returns);
            }
            if away {
                over.run_until_cancelled(sleep(RELAY_RETRY)).await;
            }
        }
    }
}

/// The leader's sink: what the stream tells is told to the others first, so that none of them waits for this node.
struct Telling {
    follower: Arc<Follower>,
    post: Arc<Post>,
    member: Handle,
    taken: Arc<Mutex<Taken>>,
}

impl Telling {
    fn others(&self) -> Vec<u64> {
        let own = self.member.node();
        let members = self.member.members().into_iter();
        members.filter(|node| *node != own).collect()
    }
}

impl Sink for Telling {
    async fn take(&self, event: Event) {
        let trace = Trace::of(&event);
        let begins = matches!(
            event,
            Event::Connected { resumed: false, .. } | Event::Unavailable(_)
        );
        let claim = self.post.tell(&event, || self.others());
        Sink::take(&*self.follower, event).await;
        let mut taken = self.taken.lock();
        match claim {
            Some(claim) if begins => taken.begin(claim),
            None if begins => taken.forget(),
            _ => taken.take(trace),
        }
    }
}
