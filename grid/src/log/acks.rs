//! Commands that are committed and applied here, until they may be acknowledged. Decides nothing; where other nodes answer from memory, the cluster's leases say how far.

use super::batcher::Waiter;
use super::command::LogIndex;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::watch;

/// See the module.
pub(crate) struct Acks {
    upto: watch::Sender<LogIndex>,
    waiters: Mutex<Waiters>,
}

/// Those who wait, until the log ends.
#[derive(Default)]
struct Waiters {
    waiting: BTreeMap<LogIndex, Vec<Waiter>>,
    ended: bool,
}

impl Acks {
    /// `at_once`: there is nobody else to wait for.
    pub(crate) fn new(at_once: bool) -> Acks {
        let upto = LogIndex(if at_once { u64::MAX } else { 0 });
        Acks {
            upto: watch::Sender::new(upto),
            waiters: Mutex::default(),
        }
    }

    /// An entry has been applied here. Its waiters hear of it now or later.
    pub(crate) fn applied(&self, index: LogIndex, waiters: Vec<Waiter>) {
        let mut waiting = self.waiters.lock();
        if index > self.upto() {
            if !waiting.ended {
                waiting.waiting.insert(index, waiters);
            }
            return;
        }
        drop(waiting);
        tell(index, waiters);
    }

    /// Whether there is nobody else to wait for.
    pub(crate) fn at_once(&self) -> bool {
        self.upto() == LogIndex(u64::MAX)
    }

    /// Up to where.
    pub(crate) fn upto(&self) -> LogIndex {
        *self.upto.borrow()
    }

    /// [`Acks::upto`], and every change of it.
    pub(crate) fn watch(&self) -> watch::Receiver<LogIndex> {
        self.upto.subscribe()
    }

    /// Everything up to here may be acknowledged.
    pub(crate) fn advance(&self, upto: LogIndex) {
        let mut waiting = self.waiters.lock();
        if upto <= self.upto() {
            return;
        }
        self.upto.send_replace(upto);
        let later = waiting.waiting.split_off(&LogIndex(upto.0 + 1));
        let told = std::mem::replace(&mut waiting.waiting, later);
        drop(waiting);
        told.into_iter()
            .for_each(|(index, waiters)| tell(index, waiters));
    }

    /// Nothing is acknowledged any more: who waits is not told anything, and hears so.
    pub(crate) fn end(&self) {
        let mut waiters = self.waiters.lock();
        waiters.ended = true;
        waiters.waiting.clear();
    }
}

fn tell(index: LogIndex, waiters: Vec<Waiter>) {
    for waiter in waiters {
        // Nobody may be waiting any more.
        let _ = waiter.send(Ok(index));
    }
}
