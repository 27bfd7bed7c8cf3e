//! How far the hot cache has followed Postgres, and which tables may therefore be served from memory. Decides only; `ripen-hotcache` follows.
//!
//! A table is served when nobody else writes it (`exclusive`), or when the WAL stream carries it and is not more than `max_staleness` behind.
//! While Postgres cannot be reached nobody can change it through the front door, so what was fresh stays served. A stream that is away while Postgres
//! answers is lag like any other: its clock runs from the first sample that shows WAL which the stream has not passed.
//!
//! All times here are milliseconds of a clock that never goes back.

use crate::hashing::Seeded;
use crate::rows::slot::Confirms;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ripen_pg::ids::{Lsn, TableOid};
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Tables by the reason for which they may be served.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Carried by the publication, and every transaction that was running when it was added has ended.
    pub followed: HashSet<TableOid, Seeded>,
    /// Declared `exclusive`: no outside writers.
    pub exclusive: HashSet<TableOid, Seeded>,
    /// Declared `conflict = "database"`: a change made by others beats a pending one.
    pub guarded: HashSet<TableOid, Seeded>,
}

/// What the readers ask and the hot cache tells.
#[derive(Debug, Default)]
pub struct Feed {
    served: ArcSwap<Served>,
    /// How often the stream has begun anew. Locked while `served` changes, so that nothing decided before a beginning counts after it.
    beginnings: Mutex<u64>,
    /// Tables that other nodes have had taken out of the publication, until who looks after it here has taken note.
    withdrawn: Mutex<BTreeSet<TableOid>>,
    live: AtomicBool,
    given_up: AtomicBool,
    bypass: AtomicBool,
    stranded: AtomicBool,
    /// How often this node has come back from where it heard nothing, and of which time it has heard the stream since.
    returns: AtomicU64,
    caught_up: AtomicU64,
    caught: Notify,
    position: Arc<AtomicU64>,
    /// Which past of Postgres positions are of; 0: none, or about to change.
    history: AtomicU64,
    sampled: AtomicU64,
    freshness: Mutex<Freshness>,
}

/// Samples of Postgres's WAL position, waiting to be passed by the stream.
#[derive(Debug, Default)]
struct Freshness {
    samples: VecDeque<(u64, Lsn)>,
    fresh_as_of_ms: Option<u64>,
}

impl Freshness {
    fn sample(&mut self, now_ms: u64, lsn: Lsn) {
        if self.samples.len() == crate::limits::LSN_SAMPLES_MAX {
            // The newest are dropped, not the oldest: the oldest is the one that proves staleness.
            self.samples.pop_back();
        }
        self.samples.push_back((now_ms, lsn));
    }

    /// When the stream was first known to lack something that it lacks still.
    fn behind_since_ms(&self) -> Option<u64> {
        self.samples.front().map(|(at_ms, _)| *at_ms)
    }

    fn pass(&mut self, position: Lsn) {
        while let Some((at_ms, lsn)) = self.samples.front().copied() {
            if lsn > position {
                break;
            }
            self.fresh_as_of_ms = Some(at_ms);
            self.samples.pop_front();
        }
    }
}

impl Feed {
    /// Whether rows of the table may be answered from memory now.
    pub fn serves(&self, table: TableOid) -> bool {
        let served = self.served.load();
        served.exclusive.contains(&table)
            || (served.followed.contains(&table) && !self.bypass.load(Ordering::SeqCst))
            || self.stranded()
    }

    /// This process has not reached Postgres yet: what is pending is all that can be known, and is served. Nothing can be loaded.
    pub fn set_stranded(&self, stranded: bool) {
        self.stranded.store(stranded, Ordering::SeqCst);
    }

    /// Whether Postgres has not been reached yet.
    pub fn stranded(&self) -> bool {
        self.stranded.load(Ordering::SeqCst)
    }

    /// Whether changes of the table arrive by the stream: then the stream confirms flushes and ends fences.
    pub fn follows(&self, table: TableOid) -> bool {
        self.served.load().followed.contains(&table)
    }

    /// Who tells where a flush of the table was committed.
    pub fn confirms(&self, table: TableOid) -> Confirms {
        let served = self.served.load();
        match (
            served.followed.contains(&table),
            served.exclusive.contains(&table),
        ) {
            (true, _) => Confirms::Stream,
            (false, true) => Confirms::Nobody,
            (false, false) => Confirms::Unknown,
        }
    }

    /// Whether the table is served on the word of the configuration alone.
    pub fn is_exclusive(&self, table: TableOid) -> bool {
        self.served.load().exclusive.contains(&table)
    }

    /// Which of these rows' tables let changes of others win.
    pub fn guards(&self, table: TableOid) -> bool {
        let served = self.served.load();
        !served.guarded.is_empty() && served.guarded.contains(&table)
    }

    /// All tables served, by reason.
    pub fn served(&self) -> Arc<Served> {
        self.served.load_full()
    }

    /// How often the stream has begun anew: what is decided about it now counts until this changes.
    pub fn beginnings(&self) -> u64 {
        *self.beginnings.lock()
    }

    /// Replaces the set of tables, as decided when the stream had begun so often. Has it begun again since, none of them is followed; nor is one that has been withdrawn since
    /// [`Feed::take_withdrawn`].
    pub fn serve(&self, mut served: Served, beginnings: u64) {
        let now = self.beginnings.lock();
        if *now != beginnings {
            served.followed.clear();
        }
        let withdrawn = self.withdrawn.lock();
        served.followed.retain(|table| !withdrawn.contains(table));
        self.served.store(Arc::new(served));
    }

    /// These tables are not followed any more.
    pub fn unfollow(&self, is_one: impl Fn(&TableOid) -> bool) {
        let _changing = self.beginnings.lock();
        let mut served = Served::clone(&self.served.load());
        served.followed.retain(|table| !is_one(table));
        self.served.store(Arc::new(served));
    }

    /// A node takes these tables out of the publication: they are not followed any more, and that is remembered, for they may be back there before anybody here looks.
    pub fn withdraw(&self, tables: &BTreeSet<TableOid>) {
        // First this: who decides at the same time leaves them out, or is put right below.
        self.withdrawn.lock().extend(tables);
        self.unfollow(|table| tables.contains(table));
    }

    /// What has been withdrawn since this was last asked. Who asks sees to it that none of it is followed before it was put back and waited for.
    pub fn take_withdrawn(&self) -> BTreeSet<TableOid> {
        std::mem::take(&mut *self.withdrawn.lock())
    }

    /// What left the publication meanwhile is not known: nothing is followed until that is decided anew for all tables.
    pub fn doubt(&self) {
        self.begin_anew();
    }

    /// There is no stream: only exclusive tables are served.
    pub fn follow_nothing(&self) {
        self.given_up.store(true, Ordering::SeqCst);
        self.begin_anew();
    }

    fn begin_anew(&self) {
        *self.beginnings.lock() += 1;
        self.unfollow(|_| true);
    }

    /// The stream stands (or fell). A stream that could not resume must have its rows dropped before this says `true`.
    pub fn set_live(&self, live: bool, now_ms: u64) {
        let was = self.live.swap(live, Ordering::SeqCst);
        if live {
            self.given_up.store(false, Ordering::SeqCst);
        }
        let mut freshness = self.freshness.lock();
        match (was, live) {
            (false, true) => {
                let behind = freshness.behind_since_ms();
                freshness.fresh_as_of_ms = Some(behind.unwrap_or(now_ms));
            }
            // Postgres may be away with the stream, and that does not count.
            (true, false) => freshness.samples.clear(),
            _ => {}
        }
    }

    /// Whether it is known that no stream can stand, as Postgres and its rights are now.
    pub fn given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    /// Whether the stream stands.
    pub fn live(&self) -> bool {
        self.live.load(Ordering::SeqCst)
    }

    /// Postgres's WAL had come to `lsn` at `now_ms` (asked of Postgres itself, not of the stream).
    pub fn sample(&self, now_ms: u64, lsn: Lsn) {
        self.sampled.store(lsn.0, Ordering::Relaxed);
        let mut freshness = self.freshness.lock();
        freshness.sample(now_ms, lsn);
        freshness.pass(self.position());
    }

    /// The stream has handed over everything up to `lsn`.
    pub fn pass(&self, lsn: Lsn) {
        self.position.fetch_max(lsn.0, Ordering::SeqCst);
        self.freshness.lock().pass(lsn);
    }

    /// A new process, timeline or slot: positions may go back, and transactions that run may be told in part only. So nothing is followed until that is decided anew.
    pub fn restart_at(&self, lsn: Lsn) {
        self.begin_anew();
        self.position.store(lsn.0, Ordering::SeqCst);
        self.freshness.lock().samples.clear();
    }

    /// The stream is of this past of Postgres from now on: nodes compare positions of one past only. `None`: nobody can say, until what memory has of another one is gone.
    pub fn set_history(&self, cluster_and_timeline: Option<(u64, u32)>) {
        let number = cluster_and_timeline.map_or(0, |(system_id, timeline)| {
            system_id
                .rotate_left(32)
                .wrapping_add(u64::from(timeline))
                .max(1)
        });
        self.history.store(number, Ordering::SeqCst);
    }

    /// See [`Feed::set_history`]; 0: nobody can say.
    pub fn history(&self) -> u64 {
        self.history.load(Ordering::SeqCst)
    }

    /// Up to where memory has been told of outside changes of the table; everything, where nobody else writes it.
    pub fn followed(&self, table: TableOid) -> Lsn {
        if self.is_exclusive(table) {
            Lsn(u64::MAX)
        } else {
            self.position()
        }
    }

    /// Where [`Feed::position`] is kept.
    pub fn position_cell(&self) -> Arc<AtomicU64> {
        self.position.clone()
    }

    /// Up to where the stream has handed over.
    pub fn position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::SeqCst))
    }

    /// WAL that Postgres had written when it was last asked and that the stream has not handed over.
    pub fn lag_bytes(&self) -> u64 {
        let sampled = self.sampled.load(Ordering::Relaxed);
        sampled.saturating_sub(self.position().0)
    }

    /// Whether it is worth while to sample Postgres's position: something is served that the stream must keep fresh.
    pub fn wants_samples(&self) -> bool {
        self.live() || !self.served.load().followed.is_empty()
    }

    /// How old the newest state is that memory surely contains, in milliseconds; `None` while no stream stands and Postgres does not say that it is missed.
    pub fn staleness_ms(&self, now_ms: u64) -> Option<u64> {
        let freshness = self.freshness.lock();
        let fresh_as_of = match self.live() {
            true => freshness.fresh_as_of_ms,
            false => freshness.behind_since_ms(),
        };
        fresh_as_of.map(|fresh| now_ms.saturating_sub(fresh))
    }

    /// Compares the lag with its bound and switches cached reads off or on. Answers the new state when it changed.
    pub fn judge(&self, now_ms: u64, max_staleness_ms: u64) -> Option<bool> {
        let bypass = self
            .staleness_ms(now_ms)
            .is_some_and(|stale| stale > max_staleness_ms);
        (self.bypass.swap(bypass, Ordering::SeqCst) != bypass).then_some(bypass)
    }

    /// Whether cached reads go to Postgres because of lag.
    pub fn bypassed(&self) -> bool {
        self.bypass.load(Ordering::SeqCst)
    }

    /// This node, which is told the stream by another, had lost touch, and may have stood still: its clocks say nothing of what it lacks. Nothing that others may have changed is
    /// answered from memory until [`Feed::catch_up`].
    pub fn come_back(&self) {
        self.returns.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether it has come back and not caught up yet. To be asked under the lease, of which it did not know before.
    pub fn behind(&self) -> bool {
        self.caught_up.load(Ordering::SeqCst) != self.returns.load(Ordering::SeqCst)
    }

    /// Waits until it has caught up. Cancel safe.
    pub async fn until_caught_up(&self) {
        loop {
            let mut caught_up = std::pin::pin!(self.caught.notified());
            caught_up.as_mut().enable();
            if !self.behind() {
                return;
            }
            caught_up.await;
        }
    }

    /// How often it has come back so far: asked before the stream is.
    pub fn returns(&self) -> u64 {
        self.returns.load(Ordering::SeqCst)
    }

    /// Everything has been handed over that there was when [`Feed::returns`] was this, or nobody can tell: then lag is judged as ever.
    pub fn catch_up(&self, returns: u64) {
        self.caught_up.fetch_max(returns, Ordering::SeqCst);
        self.caught.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn following(table: TableOid) -> Feed {
        let feed = Feed::default();
        feed.serve(
            Served {
                followed: [table].into_iter().collect(),
                ..Served::default()
            },
            0,
        );
        feed.set_live(true, 0);
        feed
    }

    #[test]
    fn lag_above_the_bound_sends_reads_to_postgres_and_catching_up_brings_them_back() {
        let table = TableOid(1);
        let feed = following(table);
        feed.sample(100, Lsn(10));
        assert_eq!(feed.judge(1_000, 5_000), None);
        assert!(feed.serves(table));
        assert_eq!(feed.judge(5_101, 5_000), Some(true));
        assert!(!feed.serves(table));
        feed.sample(5_101, Lsn(11));
        feed.pass(Lsn(11));
        assert_eq!(feed.judge(5_102, 5_000), Some(false));
        assert!(feed.serves(table));
    }

    #[test]
    fn staleness_counts_from_the_newest_sample_that_the_stream_passed() {
        let feed = following(TableOid(1));
        feed.sample(100, Lsn(10));
        feed.sample(300, Lsn(20));
        feed.pass(Lsn(12));
        assert_eq!(feed.staleness_ms(350), Some(250));
        feed.pass(Lsn(20));
        assert_eq!(feed.staleness_ms(350), Some(50));
    }

    #[tokio::test]
    async fn who_comes_back_has_caught_up_when_it_has_heard_the_stream_since() {
        let feed = following(TableOid(1));
        assert!(!feed.behind());
        feed.come_back();
        let before = feed.returns();
        assert!(feed.behind());
        feed.come_back();
        feed.catch_up(before);
        assert!(feed.behind(), "it was away again");
        feed.catch_up(feed.returns());
        assert!(!feed.behind());
        feed.until_caught_up().await;
    }

    #[test]
    fn an_outage_does_not_count_as_lag() {
        let table = TableOid(1);
        let feed = following(table);
        feed.sample(100, Lsn(10));
        feed.set_live(false, 200);
        assert_eq!(feed.judge(100_000, 5_000), None);
        assert!(feed.serves(table));
    }

    #[test]
    fn a_stream_that_is_away_while_postgres_answers_is_lag() {
        let table = TableOid(1);
        let feed = following(table);
        feed.pass(Lsn(10));
        feed.set_live(false, 200);
        feed.sample(300, Lsn(10));
        assert_eq!(feed.judge(100_000, 5_000), None, "nothing is missed");
        feed.sample(100_000, Lsn(11));
        // Told of every attempt that fails.
        feed.set_live(false, 100_100);
        feed.sample(100_200, Lsn(12));
        assert_eq!(feed.judge(105_000, 5_000), None);
        assert_eq!(feed.judge(105_001, 5_000), Some(true));
        assert!(!feed.serves(table));
        feed.set_live(true, 106_000);
        assert_eq!(feed.judge(106_000, 5_000), None, "nothing is caught up yet");
        feed.pass(Lsn(12));
        feed.judge(106_000, 5_000);
        assert_eq!(feed.staleness_ms(106_000), Some(5_800));
        feed.sample(106_250, Lsn(12));
        assert_eq!(feed.judge(106_250, 5_000), Some(false));
        assert!(feed.serves(table));
    }

    #[test]
    fn what_was_withdrawn_is_not_followed_by_what_was_decided_before() {
        let (table, other) = (TableOid(1), TableOid(2));
        let feed = following(table);
        let mut decided = Served::clone(&feed.served());
        decided.followed.insert(other);
        feed.withdraw(&BTreeSet::from([table]));
        assert!(!feed.follows(table));
        feed.serve(decided.clone(), feed.beginnings());
        assert!(!feed.follows(table) && feed.follows(other));
        assert_eq!(feed.take_withdrawn(), BTreeSet::from([table]));
        assert_eq!(feed.take_withdrawn(), BTreeSet::new());
        feed.serve(decided, feed.beginnings());
        assert!(feed.follows(table));
        feed.doubt();
        assert!(!feed.follows(table) && !feed.follows(other));
    }

    #[test]
    fn what_was_decided_before_the_stream_began_anew_counts_no_more() {
        let table = TableOid(1);
        let feed = following(table);
        let decided = (Served::clone(&feed.served()), feed.beginnings());
        feed.restart_at(Lsn(5));
        assert!(!feed.serves(table));
        feed.serve(decided.0.clone(), decided.1);
        assert!(!feed.serves(table));
        feed.serve(decided.0, feed.beginnings());
        assert!(feed.serves(table));
        feed.unfollow(|followed| *followed == table);
        assert!(!feed.serves(table));
    }
}
