//! The statements and portals that a session's client has named, and where each of them lives: here, in Postgres, or both.
//!
//! Invariant: what is noted as living upstream was acknowledged by Postgres, or its acknowledgement is awaited in order before any use of it.
//! Never sends anything; `session/` does.

use crate::limits;
use crate::session::answerer::Planned;
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use ripen_pg::ids::TypeOid;
use smallvec::SmallVec;
use std::sync::Arc;

/// A prepared statement as the client gave it.
#[derive(Debug)]
pub(crate) struct Statement {
    /// The whole Parse message, to be said again upstream.
    pub(crate) frame: Bytes,
    /// Its name; empty: unnamed.
    pub(crate) name: Bytes,
    /// Its text.
    pub(crate) sql: Bytes,
    /// Parameter types it declared.
    pub(crate) declared: SmallVec<[TypeOid; 4]>,
}

/// A statement's place under its name.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) statement: Arc<Statement>,
    /// What is to be done with it, as last planned.
    pub(crate) planned: Arc<Planned>,
    /// As first planned: what the client may have been told about its columns.
    pub(crate) first: Arc<Planned>,
    /// The version of the session's facts that it was planned for.
    pub(crate) version: u64,
    /// Whether Postgres has it (or has been sent it).
    pub(crate) upstream: bool,
}

/// A bound statement.
#[derive(Clone, Debug)]
pub(crate) struct Portal {
    pub(crate) statement: Arc<Statement>,
    pub(crate) planned: Arc<Planned>,
    /// The whole Bind message; `None` when it was too large to keep.
    pub(crate) bind: Option<Bytes>,
    pub(crate) state: PortalState,
}

/// How far a portal has come, and where.
#[derive(Clone, Debug)]
pub(crate) enum PortalState {
    /// Bound here, not executed.
    Fresh,
    /// Executed here with a row limit; these DataRows are still to be fetched.
    Suspended(Bytes),
    /// Executed here to its end.
    Done,
    /// Bound in Postgres. What it may touch was secured when the client's bytes had been read this many times.
    Upstream {
        /// [`crate::relay::link::Link::reads`] then.
        secured_at: u64,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Names {
    unnamed: Option<Slot>,
    /// Postgres has an unnamed statement that is not (or no longer) the client's.
    stale_unnamed: bool,
    named: HashMap<Bytes, Slot>,
    /// Bytes of the named statements.
    bytes: usize,
    unnamed_portal: Option<Portal>,
    portals: HashMap<Bytes, Portal>,
    /// Names that SQL has prepared, executed or deallocated: whether they exist is not known here.
    foreign: HashSet<Bytes>,
    /// The same of any name.
    all_foreign: bool,
}

impl Names {
    pub(crate) fn statement(&self, name: &[u8]) -> Option<&Slot> {
        if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name)
        }
    }

    pub(crate) fn statement_mut(&mut self, name: &[u8]) -> Option<&mut Slot> {
        if name.is_empty() {
            self.unnamed.as_mut()
        } else {
            self.named.get_mut(name)
        }
    }

    /// Whether one more named statement may be remembered.
    pub(crate) fn has_room(&self) -> bool {
        self.named.len() < limits::STATEMENTS_MAX && self.bytes < limits::STATEMENT_BYTES_MAX
    }

    /// Puts a statement under its name and gives back what was there.
    pub(crate) fn put(&mut self, slot: Slot) -> Option<Slot> {
        let name = slot.statement.name.clone();
        if !name.is_empty() {
            self.bytes += slot.statement.frame.len();
            let before = self.named.insert(name, slot);
            self.bytes -= weight(before.as_ref());
            return before;
        }
        // Preparing the unnamed statement upstream replaces whatever Postgres had there.
        let upstream = slot.upstream;
        let before = self.unnamed.replace(slot);
        let had = before.as_ref().is_some_and(|slot| slot.upstream);
        self.stale_unnamed = !upstream && (self.stale_unnamed || had);
        before
    }

    /// Notes that the statement was sent upstream just now.
    pub(crate) fn sent_upstream(&mut self, name: &[u8]) {
        if let Some(slot) = self.statement_mut(name) {
            slot.upstream = true;
        }
        if name.is_empty() {
            self.stale_unnamed = false;
        }
    }

    /// Notes that Postgres has no statement of this name after all.
    pub(crate) fn not_upstream(&mut self, name: &[u8]) {
        if let Some(slot) = self.statement_mut(name) {
            slot.upstream = false;
        }
    }

    /// Forgets a statement and gives it back. `upstream`: Postgres forgets it too.
    pub(crate) fn remove(&mut self, name: &[u8], upstream: bool) -> Option<Slot> {
        if !name.is_empty() {
            let before = self.named.remove(name);
            self.bytes -= weight(before.as_ref());
            return before;
        }
        let slot = self.unnamed.take();
        let had = slot.as_ref().is_some_and(|slot| slot.upstream);
        self.stale_unnamed = !upstream && (self.stale_unnamed || had);
        slot
    }

    /// Puts back what a message that Postgres skipped had changed.
    pub(crate) fn restore(&mut self, name: &[u8], before: Option<Slot>) {
        match before {
            Some(slot) => drop(self.put(slot)),
            // Postgres may still have what it had before: it counts as stale.
            None => drop(self.remove(name, false)),
        }
    }

    /// Whether Postgres has an unnamed statement that the client must not reach.
    pub(crate) fn stale_unnamed(&self) -> bool {
        self.stale_unnamed
    }

    /// The named statements that live only here.
    pub(crate) fn only_here(&self) -> Vec<Arc<Statement>> {
        let here = self.named.values().filter(|slot| !slot.upstream);
        here.map(|slot| Arc::clone(&slot.statement)).collect()
    }

    /// Forgets all statements: SQL may have deallocated any of them. Uses of their names go to Postgres from now on.
    pub(crate) fn forget_statements(&mut self) {
        self.named = HashMap::new();
        self.bytes = 0;
        self.foreign = HashSet::new();
        self.all_foreign = true;
    }

    /// Forgets one statement for the same reason.
    pub(crate) fn cede(&mut self, name: &[u8]) {
        self.remove(name, true);
        if self.foreign.len() < limits::STATEMENTS_MAX {
            self.foreign.insert(Bytes::copy_from_slice(name));
        } else {
            self.forget_statements();
        }
    }

    /// Whether Postgres may have a statement of this name that is not known here.
    pub(crate) fn is_foreign(&self, name: &[u8]) -> bool {
        self.all_foreign || self.foreign.contains(name)
    }

    /// The session has put a statement of its own in place of the unnamed one.
    pub(crate) fn unnamed_taken(&mut self) {
        self.not_upstream(b"");
        self.stale_unnamed = true;
    }

    /// Whether Postgres may have statements that are not known here.
    pub(crate) fn any_foreign(&self) -> bool {
        self.all_foreign || !self.foreign.is_empty()
    }

    /// The upstream connection is gone, with all that lived there.
    pub(crate) fn detach(&mut self) {
        self.stale_unnamed = false;
        for slot in self.named.values_mut().chain(&mut self.unnamed) {
            slot.upstream = false;
        }
    }

    pub(crate) fn portal(&self, name: &[u8]) -> Option<&Portal> {
        if name.is_empty() {
            self.unnamed_portal.as_ref()
        } else {
            self.portals.get(name)
        }
    }

    pub(crate) fn portal_mut(&mut self, name: &[u8]) -> Option<&mut Portal> {
        if name.is_empty() {
            self.unnamed_portal.as_mut()
        } else {
            self.portals.get_mut(name)
        }
    }

    /// Puts a portal under a name and gives back what was there. Beyond the bound it is not remembered.
    pub(crate) fn put_portal(&mut self, name: Bytes, portal: Portal) -> Option<Portal> {
        if name.is_empty() {
            return self.unnamed_portal.replace(portal);
        }
        if self.portals.len() >= limits::PORTALS_MAX && !self.portals.contains_key(&name) {
            return None;
        }
        self.portals.insert(name, portal)
    }

    pub(crate) fn remove_portal(&mut self, name: &[u8]) -> Option<Portal> {
        if name.is_empty() {
            self.unnamed_portal.take()
        } else {
            self.portals.remove(name)
        }
    }

    /// Puts back what a message that Postgres skipped had changed.
    pub(crate) fn restore_portal(&mut self, name: &Bytes, before: Option<Portal>) {
        match before {
            Some(portal) => drop(self.put_portal(name.clone(), portal)),
            None => drop(self.remove_portal(name)),
        }
    }

    /// The transaction has ended: so have its portals.
    pub(crate) fn clear_portals(&mut self) {
        self.unnamed_portal = None;
        if self.portals.capacity() > 16 {
            self.portals = HashMap::new();
        } else {
            self.portals.clear();
        }
    }
}

fn weight(slot: Option<&Slot>) -> usize {
    slot.map_or(0, |slot| slot.statement.frame.len())
}
