//! What a passed-through text does beside reading and writing rows, as far as the session must know. Never what it does to rows; scopes say that.

use super::sequences::SequenceUse;
use ripen_pg::ids::TableOid;
use std::collections::BTreeSet;

/// Effects of a whole query text. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Changes the schema: the catalog must be read again after it.
    pub ddl: bool,
    /// Changes what names mean, or what touching a table leads to, already for the rest of the transaction. Implies `ddl`.
    pub meanings: bool,
    /// Statements of others that meet it may touch more than their plans name, once it is committed. Implies `meanings`.
    pub rewires: bool,
    /// Changes grants or roles: as `ddl`, and privileges may be gone.
    pub grants: bool,
    /// Tables that may lose their replica identity, or that Postgres refuses to change so while they are published.
    pub unpublish: BTreeSet<TableOid>,
    /// Changes settings (SET, RESET, DISCARD, set_config, a function that may): session facts must be probed again, also after a rollback.
    pub settings: bool,
    /// Makes temporary tables: from now on `temp_possible`.
    pub temp_tables: bool,
    /// What it makes temporary may be more than a plain table: from now on `temp_opaque`.
    pub temp_opaque: bool,
    /// Runs code of users (functions, triggers, DO, EXECUTE), which may do any of the above unseen.
    pub code: bool,
    /// Transaction control, in order of appearance.
    pub transaction: Vec<TxControl>,
    /// Opens, uses or closes a cursor by SQL.
    pub cursor: bool,
    /// Switches the connection to COPY mode.
    pub copy: bool,
    /// LISTEN or UNLISTEN (NOTIFY needs nothing).
    pub listen: bool,
    /// Takes or gives back session-level locks (advisory), or leaves other state in the backend (`currval`, a seed).
    pub session_locks: bool,
    /// Takes advisory locks of any kind: what comes after it may rely on what others did under them.
    pub locks: bool,
    /// SQL-level PREPARE, EXECUTE, DEALLOCATE; the names concerned (empty string: ALL).
    pub prepares: Vec<String>,
    /// More than one statement.
    pub multi: bool,
    /// Must run outside a transaction block, or commits by itself (CALL, VACUUM, CREATE DATABASE, …).
    pub own_transaction: bool,
    /// Takes row locks (FOR UPDATE and its kin), which count as writes.
    pub row_locks: bool,
    /// What it has to do with the values that the session has drawn from sequences.
    pub sequences: SequenceUse,
}

impl Effects {
    /// Whether nothing of it outlasts the transaction in the backend, except rows.
    pub fn end_with_transaction(&self) -> bool {
        let Effects {
            ddl,
            meanings,
            rewires,
            grants,
            unpublish,
            settings,
            temp_tables,
            temp_opaque,
            code,
            transaction: _,
            cursor,
            copy,
            listen,
            session_locks,
            locks: _,
            prepares,
            multi: _,
            own_transaction,
            row_locks: _,
            sequences: _,
        } = self;
        let lasting = [
            ddl,
            meanings,
            rewires,
            grants,
            settings,
            temp_tables,
            temp_opaque,
            code,
            cursor,
            copy,
            listen,
            session_locks,
            own_transaction,
        ];
        !lasting.into_iter().any(|lasts| *lasts) && unpublish.is_empty() && prepares.is_empty()
    }

    /// The names under which it may leave transactions open.
    pub fn prepared(&self) -> impl Iterator<Item = &String> {
        self.transaction.iter().filter_map(|control| match control {
            TxControl::Prepare(name) => Some(name),
            _ => None,
        })
    }

    /// Whether they show that it may have to wait for other sessions, beside for what it writes.
    pub fn may_wait(&self) -> bool {
        self.locks || self.row_locks || self.code
    }
}

/// One transaction command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxControl {
    /// BEGIN, START TRANSACTION.
    Begin(TxModes),
    /// COMMIT, END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT, RELEASE.
    Savepoint,
    /// ROLLBACK TO SAVEPOINT.
    RollbackTo,
    /// PREPARE TRANSACTION: its writes stay open beyond the session, under this name.
    Prepare(String),
    /// COMMIT PREPARED, ROLLBACK PREPARED.
    EndPrepared,
    /// SET TRANSACTION.
    Set(TxModes),
}

/// Modes named by BEGIN or SET TRANSACTION; `None` where unsaid (the session's default holds).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxModes {
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// READ ONLY (true) or READ WRITE (false).
    pub read_only: Option<bool>,
    /// DEFERRABLE or NOT DEFERRABLE.
    pub deferrable: Option<bool>,
    /// Something that is not one of these (SET TRANSACTION SNAPSHOT).
    pub other: bool,
}

impl TxModes {
    /// Whether they name READ COMMITTED at most.
    pub fn is_read_committed(&self) -> bool {
        let rest = TxModes {
            isolation: None,
            ..*self
        };
        matches!(self.isolation, None | Some(Isolation::ReadCommitted))
            && rest == TxModes::default()
    }
}

/// An isolation level as Postgres has them (READ UNCOMMITTED behaves as READ COMMITTED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// READ UNCOMMITTED.
    ReadUncommitted,
    /// READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE.
    Serializable,
}
