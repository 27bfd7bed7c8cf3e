//! What is known of the session's state in Postgres, found out by a query of the session's own. Unknown means: nothing is answered here.

use super::answerer::{Answerer, Planned};
use super::given::Given;
use super::{End, Segment, Session, Tx};
use crate::limits;
use crate::login::Secret;
use crate::plan::{Effects, Isolation, SessionFacts};
use crate::relay::OwnAnswer;
use crate::relay::expect::Expect;
use ripen_cachestore::catalog::Epoch;
use ripen_grid::grid::transaction::Patience;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::Settings;
use ripen_pg::wire::frontend;
use ripen_pg::wire::startup::Startup;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(crate) struct Known {
    facts: SessionFacts,
    /// Of the row that told them.
    digest: u64,
    /// Counts the changes of `facts`: plans of another version must be made anew.
    pub(crate) version: u64,
    /// Something may have changed since.
    pub(crate) stale: bool,
    /// The catalog's epoch when they were found out: schemas of the search_path may have come or gone with another.
    epoch: Epoch,
    /// How values read and print.
    pub(crate) settings: Settings,
    /// Of transactions that do not say, if known.
    pub(crate) default_isolation: Option<Isolation>,
    /// Whether transactions that do not say are READ WRITE.
    pub(crate) writes_allowed: bool,
    /// How long its statements wait for rows.
    pub(crate) patience: Patience,
    /// Whether a block may begin here: nothing watches how long it stays idle, and it is READ COMMITTED.
    pub(crate) may_begin_here: bool,
    /// What it was given from sequences here.
    pub(crate) given: Given,
}

impl Default for Known {
    fn default() -> Known {
        Known {
            facts: nothing_known(),
            digest: 0,
            version: 0,
            stale: true,
            epoch: Epoch::default(),
            settings: Settings::default(),
            default_isolation: None,
            writes_allowed: false,
            patience: Patience::default(),
            may_begin_here: false,
            given: Given::default(),
        }
    }
}

/// Facts under which nothing is answered here and scopes are wide.
fn nothing_known() -> SessionFacts {
    SessionFacts {
        user: String::new(),
        search_path: Vec::new(),
        temp_possible: true,
        temp_opaque: true,
        row_security: true,
        standard_conforming_strings: true,
        plain_settings: false,
    }
}

/// One row. Everything is qualified: the client's search_path must not change what is asked. `current_schemas` would make the schema of temporary tables where
/// the path names it, and a transaction of the client's would find it there; such a path is not found out.
const PROBE: &str = "SELECT current_user::pg_catalog.text, \
    CASE WHEN pg_catalog.strpos(pg_catalog.lower(pg_catalog.current_setting('search_path')), 'pg_temp') OPERATOR(pg_catalog.=) 0 \
    THEN pg_catalog.array_to_json(pg_catalog.current_schemas(false))::pg_catalog.text END, \
    pg_catalog.pg_my_temp_schema()::pg_catalog.int8::pg_catalog.text, \
    pg_catalog.current_setting('row_security'), \
    pg_catalog.current_setting('standard_conforming_strings'), \
    pg_catalog.current_setting('transform_null_equals'), \
    pg_catalog.current_setting('session_replication_role'), \
    pg_catalog.current_setting('client_encoding'), \
    pg_catalog.current_setting('server_encoding'), \
    pg_catalog.current_setting('DateStyle'), \
    pg_catalog.current_setting('IntervalStyle'), \
    pg_catalog.current_setting('TimeZone'), \
    pg_catalog.current_setting('bytea_output'), \
    pg_catalog.current_setting('extra_float_digits'), \
    pg_catalog.current_setting('default_transaction_isolation'), \
    pg_catalog.current_setting('default_transaction_read_only'), \
    pg_catalog.current_setting('idle_in_transaction_session_timeout'), \
    pg_catalog.current_setting('transaction_timeout', true), \
    pg_catalog.current_setting('backslash_quote'), \
    pg_catalog.current_setting('array_nulls'), \
    pg_catalog.current_setting('xmlbinary'), \
    pg_catalog.pg_is_in_recovery()::pg_catalog.text, \
    pg_catalog.current_setting('lock_timeout'), \
    pg_catalog.current_setting('statement_timeout')";

impl Known {
    /// The facts, for planning. While they may have changed, none.
    pub(crate) fn facts(&self) -> &SessionFacts {
        &self.facts
    }

    /// `current_user`, while it is known for certain.
    pub(crate) fn role(&self) -> Option<&str> {
        let known = !self.stale && !self.facts.user.is_empty();
        known.then_some(self.facts.user.as_str())
    }

    /// What a text does to them.
    pub(crate) fn note(&mut self, effects: &Effects) {
        if effects.settings || effects.code || effects.meanings {
            self.forget();
        }
        let possible = self.facts.temp_possible || effects.temp_tables || effects.code;
        let opaque = self.facts.temp_opaque || effects.temp_opaque || effects.code;
        if (possible, opaque) != (self.facts.temp_possible, self.facts.temp_opaque) {
            (self.facts.temp_possible, self.facts.temp_opaque) = (possible, opaque);
            self.version += 1;
        }
    }

    /// Postgres reports a setting.
    pub(crate) fn reported(&mut self, name: &[u8], _value: &[u8]) {
        if name != b"application_name" {
            self.forget();
        }
    }

    /// Whether single statements run at READ COMMITTED, hence may be answered from memory.
    pub(crate) fn is_committed(&self) -> bool {
        matches!(
            self.default_isolation,
            Some(Isolation::ReadCommitted | Isolation::ReadUncommitted)
        )
    }

    /// Something may have changed.
    pub(crate) fn changed(&mut self) {
        self.forget();
    }

    fn forget(&mut self) {
        if !self.stale {
            self.stale = true;
            self.facts.plain_settings = false;
            self.version += 1;
        }
        self.default_isolation = None;
    }

    /// [`PROBE`] was not answered. Not to be asked again before something changes; until then all passes through.
    fn learn_nothing(&mut self) {
        self.facts.user.clear();
        self.stale = false;
    }

    /// Takes in the answer to [`PROBE`].
    fn learn(&mut self, row: &[Option<String>]) {
        let mut columns = row
            .iter()
            .map(|column| column.as_deref().unwrap_or_default());
        let mut next = || columns.next().unwrap_or_default();
        let user = next().to_owned();
        let search_path: Option<Vec<String>> = serde_json::from_str(next()).ok();
        let temp_possible = next() != "0";
        let row_security = next() == "on";
        let standard_conforming_strings = next() == "on";
        let mut plain = next() == "off" && next() == "origin";
        let (client_encoding, server_encoding) = (next(), next());
        plain &= matches!(client_encoding, "UTF8" | "SQL_ASCII") && server_encoding == "UTF8";
        let names = [
            "DateStyle",
            "IntervalStyle",
            "TimeZone",
            "bytea_output",
            "extra_float_digits",
        ];
        let values = names.map(|name| (name, next().to_owned()));
        self.settings = Settings::from_parameters(|wanted| {
            let found = values.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.clone())
        });
        self.default_isolation = Some(match next() {
            "read committed" => Isolation::ReadCommitted,
            "read uncommitted" => Isolation::ReadUncommitted,
            "repeatable read" => Isolation::RepeatableRead,
            _ => Isolation::Serializable,
        });
        let read_only = next() != "off";
        // Both are read in any case: each has its column.
        let (idle_timeout, transaction_timeout) = (next(), next());
        let watched = idle_timeout != "0" || !matches!(transaction_timeout, "" | "0");
        plain &= next() == "safe_encoding";
        plain &= next() == "on";
        plain &= next() == "base64";
        let recovery = next() != "false";
        self.patience = Patience {
            lock: timeout(next()),
            statement: timeout(next()),
        };
        self.writes_allowed = !read_only && !recovery;
        self.may_begin_here = self.is_committed() && self.writes_allowed && !watched;
        self.facts = SessionFacts {
            user,
            temp_possible,
            temp_opaque: temp_possible && (self.facts.temp_opaque || self.version == 0),
            row_security,
            standard_conforming_strings,
            plain_settings: plain && search_path.is_some(),
            search_path: without_temporary(search_path.unwrap_or_default()),
        };
        self.digest = digest(row);
        self.version += 1;
        self.stale = false;
    }
}

/// A time as SHOW prints it; `None`: it does not count. One that is not understood is short, so that nobody waits too long.
fn timeout(shown: &str) -> Option<Duration> {
    let digits = shown.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = shown.split_at(digits);
    let unit_ms = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Some(Duration::from_millis(1)),
    };
    let ms = number.parse::<u64>().unwrap_or(0).saturating_mul(unit_ms);
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn digest(row: &[Option<String>]) -> u64 {
    foldhash::fast::FixedState::default().hash_one(row)
}

fn without_temporary(mut path: Vec<String>) -> Vec<String> {
    path.retain(|schema| !schema.starts_with("pg_temp_"));
    path
}

impl<A: Answerer> Session<A> {
    /// Finds out anew what may have changed, if this can be done without touching the client's transaction.
    pub(super) async fn refresh(&mut self) -> Result<(), End> {
        if !self.front.answerer.is_fresh() {
            let fresh = self.front.answerer.until_fresh();
            // Until then everything passes through, and may touch everything.
            let _ = tokio::time::timeout(limits::CATALOG_WAIT, fresh).await;
        }
        let epoch = self.front.answerer.epoch();
        if epoch != self.known.epoch {
            self.known.changed();
        }
        let quiet = self.segment == Segment::Here && self.tx == Tx::Idle && !self.skipping;
        if !self.known.stale || !quiet || !self.front.answerer.plans() {
            return Ok(());
        }
        if self.io.upstream.is_none() && !self.attach_quietly().await {
            if let Some(remembered) = &self.remembered {
                self.known.learn(&remembered.facts);
                self.known.epoch = epoch;
            }
            return Ok(());
        }
        if self.server.is_none() {
            self.ask_server().await?;
        }
        let startup = self.startup.take();
        let row = self.ask(PROBE).await?;
        self.known.epoch = epoch;
        match row {
            Some(row) => {
                self.known.learn(&row);
                self.remember_login(startup, &row);
            }
            None => self.known.learn_nothing(),
        }
        Ok(())
    }

    /// Asks Postgres something for the session's own purposes, on the connection that it has. `None`: it gives no row.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<Option<Vec<Option<String>>>, End> {
        frontend::query(self.upstream(), sql.as_bytes());
        self.relay.awaited.push(Expect::Own);
        Ok(self.own_answer().await?.row)
    }

    /// Waits for the answer to the session's own query, which was the last that was sent.
    pub(super) async fn own_answer(&mut self) -> Result<OwnAnswer, End> {
        self.wants_own = true;
        let answer = loop {
            if let Some(answer) = self.own.take() {
                break answer;
            }
            self.wait_upstream().await?;
        };
        self.wants_own = false;
        // A simple query has ended it.
        self.names.not_upstream(b"");
        Ok(answer)
    }

    /// A connection was opened in the place of another. Should the settings that it begins with be others (ALTER ROLE … SET), then what was planned by
    /// the old ones may mean anything.
    pub(super) async fn compare(&mut self) -> Result<(), End> {
        if self.known.stale || !self.front.answerer.plans() {
            return Ok(());
        }
        match self.ask(PROBE).await? {
            Some(row) if digest(&row) == self.known.digest => return Ok(()),
            Some(row) => self.known.learn(&row),
            None => self.known.learn_nothing(),
        }
        self.unsure = true;
        Ok(())
    }

    /// The first settings of a session are those of its login.
    fn remember_login(&self, startup: Option<Startup>, facts: &[Option<String>]) {
        if let Some(startup) = startup
            && self.identity.secret == Secret::None
        {
            self.front
                .logins
                .remember(&startup, &self.parameters, facts);
        }
    }

    /// What to do with a text, by what is known now.
    pub(super) fn plan_text(&self, sql: &[u8], declared: &[TypeOid]) -> Arc<Planned> {
        self.front.answerer.plan(self.known.facts(), sql, declared)
    }
}
