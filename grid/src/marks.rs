//! Marks in Postgres's WAL: "tell me when the stream has passed everything committed by now". Decides which mark answers whom; the keeper of the
//! connection emits them (`pg_logical_emit_message`) and the hot cache reports them.
//!
//! One mark serves all who asked before it was emitted. While the stream is away nothing is answered, so fences stay up; a stream that starts anew after
//! all clean rows were dropped answers everybody ([`Marks::reset`]).

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What to do when the mark has passed.
pub type Then = Box<dyn FnOnce() + Send>;

/// Those who wait, in two generations: for a mark not yet emitted, and for marks on their way.
pub struct Marks {
    inner: Mutex<Inner>,
    wanted: Notify,
}

#[derive(Default)]
struct Inner {
    last: u64,
    waiting: Vec<Then>,
    emitted: Vec<(u64, Vec<Then>)>,
}

impl Marks {
    /// Marks whose numbers begin with `process`. It must be another one (by chance) for each process on the same database: the WAL still holds marks of
    /// earlier ones, which say nothing about ours.
    pub fn new(process: u32) -> Marks {
        let last = u64::from(process) << 32;
        let inner = Inner {
            last,
            ..Inner::default()
        };
        Marks {
            inner: Mutex::new(inner),
            wanted: Notify::new(),
        }
    }

    /// Calls `then` when the stream has passed a mark that is emitted after this call.
    pub fn after_next(&self, then: Then) {
        self.inner.lock().waiting.push(then);
        self.wanted.notify_one();
    }

    /// Waits until somebody wants a mark. Cancel safe.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Takes the number of the next mark to emit, if anybody waits. Whoever asked before this call is answered by it.
    pub fn next(&self) -> Option<u64> {
        let mut inner = self.inner.lock();
        if inner.waiting.is_empty() {
            return None;
        }
        inner.last += 1;
        let (id, waiting) = (inner.last, std::mem::take(&mut inner.waiting));
        inner.emitted.push((id, waiting));
        Some(id)
    }

    /// The mark could not be emitted (or nobody knows): its waiters wait for another.
    pub fn failed(&self, id: u64) {
        let mut inner = self.inner.lock();
        let at = inner.emitted.iter().position(|(emitted, _)| *emitted == id);
        if let Some(at) = at {
            let (_, waiting) = inner.emitted.remove(at);
            inner.waiting.extend(waiting);
        }
        drop(inner);
        self.wanted.notify_one();
    }

    /// The stream has passed the mark. Marks of other processes are ignored; later ones of ours imply earlier ones.
    pub fn passed(&self, id: u64) {
        let passed: Vec<_> = {
            let mut inner = self.inner.lock();
            let (passed, left) = std::mem::take(&mut inner.emitted)
                .into_iter()
                .partition(|(emitted, _)| emitted >> 32 == id >> 32 && *emitted <= id);
            inner.emitted = left;
            passed
        };
        passed
            .into_iter()
            .flat_map(|(_, waiting)| waiting)
            .for_each(|then| then());
    }

    /// All clean rows were dropped and loads poisoned: nothing older than now can be read, so nobody needs to wait.
    pub fn reset(&self) {
        let (waiting, emitted) = {
            let mut inner = self.inner.lock();
            (
                std::mem::take(&mut inner.waiting),
                std::mem::take(&mut inner.emitted),
            )
        };
        waiting.into_iter().for_each(|then| then());
        emitted
            .into_iter()
            .flat_map(|(_, waiting)| waiting)
            .for_each(|then| then());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_mark_answers_those_who_asked_before_it() {
        let marks = Marks::new(1);
        let answered = Arc::new(AtomicU32::new(0));
        let ask = |weight| {
            let answered = answered.clone();
            marks.after_next(Box::new(move || {
                answered.fetch_add(weight, Ordering::SeqCst);
            }));
        };
        ask(1);
        let first = marks.next().unwrap();
        ask(10);
        assert_eq!(marks.next(), Some(first + 1));
        assert_eq!(marks.next(), None);
        marks.passed(first);
        assert_eq!(answered.load(Ordering::SeqCst), 1);
        marks.failed(first + 1);
        let again = marks.next().unwrap();
        marks.passed(again);
        assert_eq!(answered.load(Ordering::SeqCst), 11);
    }

    #[test]
    fn marks_of_another_process_answer_nobody() {
        let (earlier, marks) = (Marks::new(2), Marks::new(1));
        let answered = Arc::new(AtomicU32::new(0));
        let asked = answered.clone();
        marks.after_next(Box::new(move || asked.store(1, Ordering::SeqCst)));
        let ours = marks.next().unwrap();
        for _ in 0..50 {
            earlier.after_next(Box::new(|| ()));
            marks.passed(earlier.next().unwrap());
        }
        assert_eq!(answered.load(Ordering::SeqCst), 0);
        marks.passed(ours);
        assert_eq!(answered.load(Ordering::SeqCst), 1);
    }
}
