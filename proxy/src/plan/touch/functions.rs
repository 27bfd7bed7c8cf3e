//! What calling a function by this name may touch. Never resolves overloads: the worst of all that the name may mean counts.

use super::Touch;
use crate::plan::sequences::SequenceUse;
use crate::plan::types;
use ripen_cachestore::catalog::Volatility;

/// Built-in functions that run SQL given to them as text, or over tables named by text or OID.
const RUN_SQL: &[&str] = &[
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "pg_import_system_collations",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "ts_rewrite",
    "ts_stat",
];

/// Built-in functions that change settings or the role of replication in this session.
const CHANGE_SETTINGS: &[&str] = &[
    "pg_reload_conf",
    "pg_replication_origin_session_reset",
    "pg_replication_origin_session_setup",
    "set_config",
];

/// Built-in functions that leave something in the backend which outlives the transaction: locks, `currval`, a seed.
const SESSION_LOCKS: &[&str] = &[
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "nextval",
    "setval",
    "setseed",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
];

impl Touch<'_> {
    /// A call of this (possibly qualified) name.
    pub fn function(&mut self, name: &[&str]) {
        self.unresolved += 1;
        let candidates = self.names.functions(name);
        let last = name.last().copied().unwrap_or_default();
        if candidates.is_empty() && !self.is_type_name(last) {
            self.user_code("calls a function that is not known");
        }
        for function in candidates {
            if function.builtin {
                self.builtin(last);
            } else {
                self.foreign(function.volatility);
            }
        }
    }

    /// `x.name` and `(x).name` call a function when there is no such column.
    pub fn attribute(&mut self, name: &str) {
        for function in self.names.functions(&[name]) {
            if !function.builtin {
                self.foreign(function.volatility);
            }
        }
    }

    fn builtin(&mut self, name: &str) {
        if RUN_SQL.contains(&name) || name.starts_with("binary_upgrade_") {
            self.user_code("calls a function that runs SQL");
        }
        if name == "setval" {
            self.everything("changes a sequence");
        }
        if name == "setval" || name == "nextval" {
            self.effects.sequences = self.effects.sequences.max(SequenceUse::Moves);
        }
        if name == "pg_export_snapshot" {
            self.read_everything("others may read by its snapshot");
        }
        self.effects.settings |= CHANGE_SETTINGS.contains(&name);
        self.effects.locks |= name.contains("_advisory_") && !name.contains("unlock");
        self.effects.session_locks |= SESSION_LOCKS.contains(&name);
    }

    fn foreign(&mut self, volatility: Volatility) {
        self.effects.code = true;
        match volatility {
            Volatility::Volatile => self.user_code("calls a volatile function"),
            // It cannot write, but it may read, and may create nothing.
            Volatility::Stable | Volatility::Immutable => {
                self.read_everything("calls a function that may read tables");
            }
        }
    }

    fn is_type_name(&self, name: &str) -> bool {
        types::builtin(name).is_some() || types::of_name(self.names.catalog, name).next().is_some()
    }
}
