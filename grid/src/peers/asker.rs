//! Gathers loads by the node that is to be asked, asks, and hands on to Postgres what was not answered. Does; decides nothing.

use super::limits::{ASKED_ROWS_MAX, OWNER_PATIENCE, QUESTIONS_AT_ONCE_MAX};
use super::wire::Kind;
use super::{Asked, Peers, count, left};
use crate::loader::Request;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// See the module.
pub(super) struct Asker {
    peers: Arc<Peers>,
    waiting: HashMap<(u64, Kind), VecDeque<Request>>,
    ready: VecDeque<(u64, Kind)>,
    running: JoinSet<(u64, Kind)>,
    at_once: HashMap<(u64, Kind), usize>,
}

impl Asker {
    pub fn new(peers: Arc<Peers>) -> Asker {
        Asker {
            peers,
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            running: JoinSet::new(),
            at_once: HashMap::new(),
        }
    }

    /// Until nobody can ask any more.
    pub async fn run(mut self, mut asked: mpsc::Receiver<Asked>) {
        loop {
            tokio::select! {
                asked = asked.recv() => match asked {
                    Some(asked) => self.gather(asked),
                    None => return,
                },
                Some(ended) = self.running.join_next() => match ended {
                    Ok(to) => {
                        *self.at_once.entry(to).or_default() -= 1;
                        self.ready.push_back(to);
                    }
                    // What a panic left half changed must not be served: it ends the process.
                    Err(error) => if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    },
                },
            }
            while let Ok(more) = asked.try_recv() {
                self.gather(more);
            }
            self.start();
        }
    }

    fn gather(&mut self, asked: Asked) {
        let to = (asked.node, asked.kind);
        self.waiting.entry(to).or_default().push_back(asked.request);
        self.ready.push_back(to);
    }

    /// While enough questions to a node are on their way, loads gather: the next question takes all that wait.
    fn start(&mut self) {
        while let Some(to) = self.ready.pop_front() {
            let at_once = self.at_once.entry(to).or_default();
            if *at_once >= QUESTIONS_AT_ONCE_MAX {
                continue;
            }
            let batch = next_batch(self.waiting.entry(to).or_default());
            if batch.is_empty() {
                continue;
            }
            *at_once += 1;
            let peers = self.peers.clone();
            self.running.spawn(async move {
                peers.carry_out(to, batch).await;
                to
            });
            self.ready.push_back(to);
        }
    }
}

fn next_batch(waiting: &mut VecDeque<Request>) -> Vec<Request> {
    let (mut batch, mut rows) = (Vec::new(), 0);
    while let Some(request) = waiting.front() {
        rows += request.ticket.rows().len();
        if rows > ASKED_ROWS_MAX && !batch.is_empty() {
            break;
        }
        batch.extend(waiting.pop_front());
    }
    batch
}

impl Peers {
    async fn carry_out(&self, (node, kind): (u64, Kind), mut batch: Vec<Request>) {
        let asked = left(&batch);
        count(&self.stats.asked, asked);
        let borrowing = self.borrow(node, kind, &mut batch);
        // Elapsed: whatever was lent before has been taken in.
        let _ = tokio::time::timeout(OWNER_PATIENCE, borrowing).await;
        let unanswered = left(&batch);
        count(&self.stats.borrowed, asked - unanswered);
        count(&self.stats.fallbacks, unanswered);
        if kind == Kind::Former {
            count(&self.stats.warmed, asked - unanswered);
            match asked == unanswered {
                true => count(&self.vain, asked),
                false => self.vain.store(0, Ordering::Relaxed),
            }
        }
        for request in batch {
            match request.ticket.is_empty() {
                true => request.answer(Ok(())),
                false => self.parts.loader.load_from_postgres(request).await,
            }
        }
    }
}
