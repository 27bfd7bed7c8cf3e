//! What Postgres still has to answer, in order, and what its answers mean for the session. Never reads or writes a stream.

use crate::portals::{Names, Portal, Slot};
use bytes::Bytes;
use std::collections::VecDeque;

/// One awaited reply. `quiet` ones were asked by the session itself: the client does not see them.
#[derive(Debug)]
pub(crate) enum Expect {
    /// ParseComplete.
    Parse {
        name: Bytes,
        /// What stood under the name; `None` for statements that the session only sends again.
        before: Option<Option<Box<Slot>>>,
        quiet: bool,
    },
    /// BindComplete.
    Bind {
        name: Bytes,
        before: Option<Box<Portal>>,
        quiet: bool,
    },
    /// CloseComplete.
    CloseStatement {
        name: Bytes,
        before: Option<Box<Slot>>,
        quiet: bool,
    },
    /// CloseComplete.
    ClosePortal {
        name: Bytes,
        before: Option<Box<Portal>>,
    },
    /// RowDescription or NoData, a ParameterDescription before it for statements.
    Describe,
    /// CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// ReadyForQuery for a Sync.
    Sync,
    /// Everything up to ReadyForQuery, for a simple query or a function call; the unnamed statement that it ended.
    Query { before: Option<Box<Slot>> },
    /// The same for the COMMIT of a pipeline's block: the client sees no tag of it, but errors.
    End,
    /// The same for a query of the session's own; its rows are kept.
    Own,
    /// The same for a pipeline of the session's own up to ReadyForQuery; the numbers of rows are kept.
    Redo,
    /// An error, in place of which the client gets this one.
    Refused { error: Bytes },
}

/// The awaited replies, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    queue: VecDeque<Expect>,
    /// Syncs that Postgres ignored if it read them during COPY IN. A COPY that fails before it reads anything leaves them to be answered.
    ignored_syncs: usize,
    /// Postgres was sent something of the client's pipeline since it was ready last, answered or not.
    begun: bool,
}

impl Awaited {
    pub(crate) fn push(&mut self, expect: Expect) {
        self.begun |= !matches!(expect, Expect::Own | Expect::Redo);
        self.queue.push_back(expect);
    }

    /// Whether Postgres has anything of a pipeline, which would have to fail with what comes next.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Postgres is ready for the next pipeline.
    pub(crate) fn ready(&mut self) {
        self.begun = false;
    }

    pub(crate) fn front(&self) -> Option<&Expect> {
        self.queue.front()
    }

    pub(crate) fn pop(&mut self) -> Option<Expect> {
        let expect = self.queue.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > 32 {
            self.queue = VecDeque::new();
        }
        expect
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// COPY IN has begun: the Sync sent after its Execute was, or will be, ignored by Postgres. False: there was none.
    pub(crate) fn drop_syncs(&mut self) -> bool {
        let before = self.queue.len();
        self.queue.retain(|expect| !matches!(expect, Expect::Sync));
        self.ignored_syncs = before - self.queue.len();
        self.ignored_syncs > 0
    }

    /// A ReadyForQuery came that nothing awaits: whether it answers a Sync that was taken for ignored.
    pub(crate) fn was_not_ignored(&mut self) -> bool {
        let any = self.queue.is_empty() && self.ignored_syncs > 0;
        self.ignored_syncs -= usize::from(any);
        any
    }

    /// The oldest of an extended pipeline failed: Postgres skips the rest up to Sync. Undoes in `names` what will not happen.
    pub(crate) fn skip_to_sync(&mut self, names: &mut Names) {
        let sync = self
            .queue
            .iter()
            .position(|expect| matches!(expect, Expect::Sync));
        let mut skipped: Vec<Expect> = self
            .queue
            .drain(..sync.unwrap_or(self.queue.len()))
            .collect();
        while let Some(expect) = skipped.pop() {
            expect.undo(names, skipped.is_empty());
        }
    }
}

impl Expect {
    pub(crate) fn quiet(&self) -> bool {
        matches!(
            self,
            Expect::Parse { quiet: true, .. }
                | Expect::Bind { quiet: true, .. }
                | Expect::CloseStatement { quiet: true, .. }
                | Expect::End
                | Expect::Own
                | Expect::Redo
        )
    }

    /// Whether an error ends it at once and makes Postgres skip to the next Sync.
    pub(crate) fn extended(&self) -> bool {
        !matches!(
            self,
            Expect::Sync | Expect::Query { .. } | Expect::End | Expect::Own | Expect::Redo
        )
    }

    /// `failed`: this one was tried and failed; otherwise Postgres never looked at it.
    fn undo(self, names: &mut Names, failed: bool) {
        match self {
            // A failed Parse of the unnamed statement has dropped the one before.
            Expect::Parse { name, .. } if failed && name.is_empty() => {
                drop(names.remove(&name, true))
            }
            Expect::Parse {
                name,
                before: Some(before),
                ..
            } => names.restore(&name, before.map(|slot| *slot)),
            Expect::Parse {
                name, before: None, ..
            } => names.not_upstream(&name),
            Expect::Bind { name, before, .. } | Expect::ClosePortal { name, before } => {
                names.restore_portal(&name, before.map(|portal| *portal));
            }
            Expect::CloseStatement { name, before, .. } => {
                if let Some(slot) = before {
                    names.restore(&name, Some(*slot));
                }
            }
            Expect::Query { before: Some(slot) } => names.restore(b"", Some(*slot)),
            Expect::Query { before: None }
            | Expect::Describe
            | Expect::Execute
            | Expect::Sync
            | Expect::End
            | Expect::Own
            | Expect::Redo
            | Expect::Refused { .. } => {}
        }
    }
}
