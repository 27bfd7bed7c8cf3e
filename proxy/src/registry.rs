//! Who is connected, and which cancel key belongs to whom. Holds no connection; sessions own theirs.

use crate::limits;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::task::AtomicWaker;
use hashbrown::HashMap;
use parking_lot::Mutex;
use ripen_cachestore::backends::BackendPid;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// A session's number, unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// All sessions of this process.
#[derive(Debug, Default)]
pub struct Registry {
    next: AtomicU64,
    connections: AtomicUsize,
    admitted: AtomicU64,
    refused: AtomicU64,
    /// An [`Ending`] as a number; only grows: the process ends.
    ending: AtomicU8,
    /// The same while clients are sent away, see [`Registry::send_away`].
    away: AtomicU8,
    /// Told when the last session has ended.
    emptied: Notify,
    sessions: Mutex<HashMap<SessionId, Arc<Entry>>>,
    keys: Mutex<HashMap<Bytes, Arc<Entry>>>,
}

/// Whether sessions are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// No.
    Never,
    /// As soon as they are in no transaction.
    WhenIdle,
    /// At once.
    Now,
}

/// What others may know of a session.
#[derive(Debug)]
pub struct Entry {
    /// Its number.
    pub id: SessionId,
    /// The client's address as text.
    pub peer: String,
    /// When it came.
    pub since: Instant,
    state: Mutex<State>,
    cancelled: Notify,
    /// Of the session's task, while it waits.
    waker: AtomicWaker,
}

/// What of it changes.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// User as said in the startup packet.
    pub user: String,
    /// Database as said in the startup packet.
    pub database: String,
    /// `application_name` as said in the startup packet.
    pub application: String,
    /// The backend process id that the client was told; 0 before.
    pub pid: u32,
    /// Body of the BackendKeyData of the upstream connection; `None` while there is no such connection.
    pub upstream_key: Option<Bytes>,
    /// Whether it waits for the grid, not for Postgres: a cancel request is answered here then.
    pub waits_here: bool,
}

/// What a cancel request is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Ask Postgres, with this key.
    Upstream(Bytes),
    /// It was done here, or there is nothing to cancel.
    Done,
    /// No session of this process: Postgres may know the key.
    Unknown,
}

impl Registry {
    /// Counts a connection in; `None` when there are too many.
    pub fn admit(self: &Arc<Self>, clients_max: usize) -> Option<Admission> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let admission = Admission(Arc::clone(self));
        let admitted = before < clients_max.min(limits::CLIENTS_MAX);
        let counter = if admitted {
            &self.admitted
        } else {
            &self.refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
        admitted.then_some(admission)
    }

    /// How many connections were ever admitted, and how many refused.
    pub fn admissions(&self) -> (u64, u64) {
        (
            self.admitted.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }

    /// How many sessions have a connection to Postgres.
    pub fn upstream_connections(&self) -> usize {
        let sessions = self.sessions.lock();
        let attached = |entry: &&Arc<Entry>| entry.state.lock().upstream_key.is_some();
        sessions.values().filter(attached).count()
    }

    /// How many connections there are, those in login included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Enters a session. It leaves when the guard is dropped.
    pub fn enter(self: &Arc<Self>, peer: String) -> Registered {
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let entry = Arc::new(Entry {
            id,
            peer,
            since: Instant::now(),
            state: Mutex::default(),
            cancelled: Notify::new(),
            waker: AtomicWaker::new(),
        });
        self.sessions.lock().insert(id, Arc::clone(&entry));
        Registered {
            registry: Arc::clone(self),
            entry,
            key: None,
        }
    }

    /// What to do about a cancel request with this key.
    pub fn cancel(&self, key: &[u8]) -> Cancel {
        let Some(entry) = self.keys.lock().get(key).cloned() else {
            return Cancel::Unknown;
        };
        let state = entry.state.lock();
        if state.waits_here {
            entry.cancelled.notify_one();
            return Cancel::Done;
        }
        state
            .upstream_key
            .clone()
            .map_or(Cancel::Done, Cancel::Upstream)
    }

    /// Asks all sessions to end, those that are entered later, too.
    pub fn end(&self, ending: Ending) {
        self.ending.fetch_max(ending as u8, Ordering::SeqCst);
        for entry in self.list() {
            entry.waker.wake();
        }
    }

    /// Asks all sessions to end, and lets nobody in, until what it answers is dropped.
    pub fn send_away(self: &Arc<Self>) -> Away {
        self.set_away(Ending::WhenIdle);
        Away(Some(Arc::clone(self)))
    }

    fn set_away(&self, ending: Ending) {
        self.away.store(ending as u8, Ordering::SeqCst);
        for entry in self.list() {
            entry.waker.wake();
        }
    }

    /// Whether clients that come now are sent away.
    pub fn is_closed(&self) -> bool {
        self.away.load(Ordering::SeqCst) != Ending::Never as u8
    }

    async fn emptied(&self) {
        loop {
            let told = self.emptied.notified();
            if self.sessions.lock().is_empty() {
                return;
            }
            told.await;
        }
    }

    fn ending(&self) -> Ending {
        let ending = self.ending.load(Ordering::SeqCst);
        match ending.max(self.away.load(Ordering::SeqCst)) {
            0 => Ending::Never,
            1 => Ending::WhenIdle,
            _ => Ending::Now,
        }
    }

    /// Everyone, by number.
    pub fn list(&self) -> Vec<Arc<Entry>> {
        let mut list: Vec<_> = self.sessions.lock().values().cloned().collect();
        list.sort_by_key(|entry| entry.id);
        list
    }
}

impl Entry {
    /// The changing part, as it is now.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }
}

/// One counted connection.
#[derive(Debug)]
pub struct Admission(Arc<Registry>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Clients are sent away. Dropped, they may come again, unless [`Away::for_good`].
#[derive(Debug)]
pub struct Away(Option<Arc<Registry>>);

impl Away {
    /// Waits until no session is left: for so long until their transactions have ended, then they end at once. Cancel safe.
    pub async fn complete(&self, patience: Duration) {
        let Some(registry) = &self.0 else { return };
        if timeout(patience, registry.emptied()).await.is_err() {
            registry.set_away(Ending::Now);
            registry.emptied().await;
        }
    }

    /// Nobody comes back.
    pub fn for_good(mut self) {
        self.0 = None;
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if let Some(registry) = &self.0 {
            registry.set_away(Ending::Never);
        }
    }
}

/// A session's own hold on its entry.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    key: Option<Bytes>,
}

impl Registered {
    /// The session's number.
    pub fn id(&self) -> SessionId {
        self.entry.id
    }

    /// The client's address.
    pub fn peer(&self) -> &str {
        &self.entry.peer
    }

    /// Notes who logs in.
    pub fn set_identity(&self, user: &str, database: &str, application: &str) {
        let mut state = self.entry.state.lock();
        (state.user, state.database) = (user.to_owned(), database.to_owned());
        state.application = application.to_owned();
    }

    /// Notes the key that the client was told. It stays the client's for the whole session.
    pub fn set_client_key(&mut self, key: Bytes) {
        let pid = key.first_chunk().map(|pid| u32::from_be_bytes(*pid));
        self.entry.state.lock().pid = pid.unwrap_or_default();
        let mut keys = self.registry.keys.lock();
        if let Some(old) = self.key.replace(key.clone()) {
            keys.remove(&old);
        }
        keys.insert(key, Arc::clone(&self.entry));
    }

    /// Notes the key of the upstream connection as it is now.
    pub fn set_upstream_key(&self, key: Option<Bytes>) {
        self.entry.state.lock().upstream_key = key;
    }

    /// The backend behind the upstream connection, as its key tells.
    pub fn backend(&self) -> Option<BackendPid> {
        let state = self.entry.state.lock();
        let pid = state.upstream_key.as_ref()?.first_chunk()?;
        Some(BackendPid(i32::from_be_bytes(*pid)))
    }

    /// Says that from now on a cancel request is answered here (true) or by Postgres. A request left over from before is forgotten.
    pub fn set_waits_here(&self, here: bool) {
        if here {
            let _ = self.cancelled().now_or_never();
        }
        self.entry.state.lock().waits_here = here;
    }

    /// Whether the session is to end; the task is woken when that changes. Costs a session that waits next to nothing: it asks at each turn.
    pub fn poll_ending(&self, cx: &Context<'_>) -> Ending {
        self.entry.waker.register(cx.waker());
        self.registry.ending()
    }

    /// Resolves when a cancel request came while waiting here. Cancel safe.
    pub async fn cancelled(&self) {
        self.entry.cancelled.notified().await;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut sessions = self.registry.sessions.lock();
        sessions.remove(&self.entry.id);
        if sessions.is_empty() {
            self.registry.emptied.notify_waiters();
        }
        drop(sessions);
        if let Some(key) = self.key.take() {
            self.registry.keys.lock().remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_key_leads_to_its_session_until_it_ends() {
        let registry = Arc::new(Registry::default());
        let mut session = registry.enter("here".to_owned());
        let (told, now) = (Bytes::from_static(b"told"), Bytes::from_static(b"now"));
        session.set_client_key(told.clone());
        session.set_upstream_key(Some(now.clone()));
        assert_eq!(registry.cancel(&told), Cancel::Upstream(now));
        session.set_waits_here(true);
        assert_eq!(registry.cancel(&told), Cancel::Done);
        drop(session);
        assert_eq!(registry.cancel(&told), Cancel::Unknown);
        assert!(registry.list().is_empty());
    }

    #[tokio::test]
    async fn clients_are_sent_away_until_it_is_given_up() {
        let registry = Arc::new(Registry::default());
        let session = registry.enter("here".to_owned());
        let ending = |session: &Registered| {
            session.poll_ending(&Context::from_waker(std::task::Waker::noop()))
        };
        let told = || (ending(&session), registry.is_closed());
        let away = registry.send_away();
        assert_eq!(told(), (Ending::WhenIdle, true));
        drop(away);
        assert_eq!(told(), (Ending::Never, false));
        let away = registry.send_away();
        let leaving = async {
            while ending(&session) != Ending::Now {
                tokio::task::yield_now().await;
            }
            drop(session);
        };
        tokio::join!(away.complete(Duration::ZERO), leaving);
        away.for_good();
        assert!(registry.is_closed());
    }

    #[test]
    fn connections_beyond_the_bound_are_refused_and_not_counted() {
        let registry = Arc::new(Registry::default());
        let first = registry.admit(1);
        assert!(first.is_some() && registry.admit(1).is_none());
        assert_eq!(registry.connections(), 1);
        drop(first);
        assert!(registry.admit(1).is_some());
    }
}
