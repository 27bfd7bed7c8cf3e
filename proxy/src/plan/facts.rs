//! What of a session's state a plan depends on. Part of the plan cache's key; never holds what only rendering depends on.

/// The session's state as far as it changes what a text means or may do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionFacts {
    /// `current_user` (SET ROLE included).
    pub user: String,
    /// The schemas of the effective search_path that exist, in order; `pg_catalog` only where listed (else it comes first); temporary schemas left out.
    pub search_path: Vec<String>,
    /// Whether the session may have temporary tables: then no unqualified name is sure.
    pub temp_possible: bool,
    /// Whether one of them may be more than a plain table (a view, a table with triggers or rules), so that using it may touch anything. See [`super::Effects::temp_opaque`].
    pub temp_opaque: bool,
    /// The setting `row_security`.
    pub row_security: bool,
    /// The setting `standard_conforming_strings`.
    pub standard_conforming_strings: bool,
    /// False when some other setting makes our reading of SQL unsure (`transform_null_equals`, a client_encoding other than UTF8 or SQL_ASCII on a UTF8 database, `session_replication_role`, …):
    /// then nothing is answered here, and scopes are widened.
    pub plain_settings: bool,
}

/// What the configuration allows for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Never cached.
    Off,
    /// Cached reads, synchronous writes.
    ReadThrough,
    /// Cached reads, queued writes.
    WriteBehind,
}
