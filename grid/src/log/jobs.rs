//! Jobs for the log's writer: what is to be written, who waits for it, and whose turn it is to write. Never reports success before what was asked is true.

use super::disk::Pace;
use super::error::LogError;
use super::raft::{Id, Types, Vote};
use super::wal::{Kind, Record};
use super::writer::Writer;
use bytes::Bytes;
use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

/// A record to be written.
pub(crate) struct NewRecord {
    pub kind: Kind,
    pub id: Id,
    pub payload: Bytes,
}

impl NewRecord {
    pub(crate) fn vote(vote: &Vote) -> NewRecord {
        NewRecord {
            kind: Kind::Vote,
            id: Id {
                term: vote.leader_id.term,
                index: vote.leader_id.voted_for,
            },
            payload: Bytes::copy_from_slice(&[u8::from(vote.committed)]),
        }
    }

    /// A record that says something about an entry, or (`None`) about all of them.
    pub(crate) fn mark(kind: Kind, id: Option<Id>) -> NewRecord {
        let all: &'static [u8] = if id.is_none() { &[1] } else { &[] };
        NewRecord {
            kind,
            id: id.unwrap_or(Id { term: 0, index: 0 }),
            payload: Bytes::from_static(all),
        }
    }

    pub(crate) fn record(&self) -> Record<'_> {
        Record {
            kind: self.kind,
            term: self.id.term,
            index: self.id.index,
            payload: &self.payload,
        }
    }
}

/// Records to be written together, and who waits for them.
pub(crate) struct Job {
    pub records: Vec<NewRecord>,
    /// Synced even where durability does not ask for it: the files must not contradict each other.
    pub must_sync: bool,
    pub done: Done,
}

impl Job {
    pub(crate) fn purges(&self) -> bool {
        self.records
            .iter()
            .any(|record| record.kind == Kind::Purged)
    }
}

/// Who waits.
pub(crate) enum Done {
    Raft(IOFlushed<Types>),
    Task(oneshot::Sender<Result<(), LogError>>),
}

impl Done {
    fn tell(self, result: Result<(), LogError>) {
        match self {
            Done::Raft(flushed) => flushed.io_completed(result.map_err(std::io::Error::other)),
            // Whoever stopped waiting does not want to know.
            Done::Task(waiting) => drop(waiting.send(result)),
        }
    }
}

/// Where jobs are handed in. Whoever hands in may do them at once, so that no other thread need be woken; else the thread of [`Queue::run`] does. Unbounded:
/// Raft itself waits, and [`super::limits::ENTRIES_IN_FLIGHT`] bounds what it is given.
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    writer: Mutex<Writer>,
    at_once: bool,
    /// How long a batch takes, where a task does what else a thread does, and how that is woken.
    pace: Option<Pace>,
    woken: Notify,
}

#[derive(Default)]
struct QueueState {
    jobs: Vec<Job>,
    /// Somebody writes what was taken.
    busy: bool,
    closed: bool,
}

impl Queue {
    /// With `at_once`, [`Queue::push`] writes and syncs before it returns, unless somebody else is at it: for a log that nobody but the disk is waited for.
    pub(crate) fn new(writer: Writer, at_once: bool) -> Queue {
        Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
            writer: Mutex::new(writer),
            at_once,
            pace: None,
            woken: Notify::new(),
        }
    }

    /// Nothing is written before so long: for [`Queue::run_as_task`].
    pub(crate) fn paced(self, pace: Pace) -> Queue {
        let (pace, at_once) = (Some(pace), false);
        Queue {
            pace,
            at_once,
            ..self
        }
    }

    /// How long a batch takes, where no thread writes.
    pub(crate) fn pace(&self) -> Option<&Pace> {
        self.pace.as_ref()
    }

    /// Hands a job over; gives it back if the writer has ended or will.
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(job);
        }
        state.jobs.push(job);
        if !self.at_once || state.busy {
            self.wake();
            return Ok(());
        }
        let jobs = state.take();
        drop(state);
        self.write(jobs);
        Ok(())
    }

    /// Lets the thread end when what is queued has been done.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake();
    }

    fn wake(&self) {
        match self.pace {
            Some(_) => self.woken.notify_one(),
            None => drop(self.changed.notify_one()),
        }
    }

    /// The loop of a task, in place of the thread's. Dropped, it leaves undone what it has not begun.
    pub(crate) async fn run_as_task(&self, pace: &Pace) {
        loop {
            let jobs = {
                let mut state = self.state.lock();
                match state.jobs.is_empty() {
                    true if state.closed => break,
                    true => None,
                    false => Some(state.take()),
                }
            };
            match jobs {
                Some(jobs) => {
                    tokio::time::sleep(pace()).await;
                    self.write(jobs);
                }
                None => self.woken.notified().await,
            }
        }
        self.writer.lock().finish();
    }

    /// The thread's loop. Ends when the queue is closed and empty.
    pub(crate) fn run(&self) {
        while let Some(jobs) = self.next() {
            self.write(jobs);
        }
        self.writer.lock().finish();
    }

    /// Waits for jobs that nobody else does and takes them all. `None`: the queue is closed and empty.
    fn next(&self) -> Option<Vec<Job>> {
        let mut state = self.state.lock();
        while state.busy || state.jobs.is_empty() {
            if state.closed && !state.busy {
                return None;
            }
            self.changed.wait(&mut state);
        }
        Some(state.take())
    }

    fn write(&self, jobs: Vec<Job>) {
        let result = self.writer.lock().attempt(|writer| writer.write(&jobs));
        match result {
            Ok(()) => jobs.into_iter().for_each(|job| job.done.tell(Ok(()))),
            Err(error) => self.refuse(jobs, &error),
        }
        if !self.idle() {
            return;
        }
        if let Err(error) = self.writer.lock().attempt(Writer::seal) {
            self.refuse(Vec::new(), &error);
        }
    }

    /// What was taken is done. Whether nothing more waits.
    fn idle(&self) -> bool {
        let mut state = self.state.lock();
        state.busy = false;
        if !state.jobs.is_empty() || state.closed {
            self.wake();
        }
        state.jobs.is_empty()
    }

    /// After a failure: nothing is written any more, everybody is told.
    fn refuse(&self, jobs: Vec<Job>, error: &LogError) {
        let late = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.jobs)
        };
        for job in jobs.into_iter().chain(late) {
            job.done.tell(Err(error.clone()));
        }
    }
}

impl QueueState {
    fn take(&mut self) -> Vec<Job> {
        self.busy = true;
        std::mem::take(&mut self.jobs)
    }
}
