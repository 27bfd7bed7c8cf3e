//! The handle to the system of record: a small pool of Ripen's own connections. Never used for a client's session; that is the client's own.

use crate::dial::dial;
use crate::error::{Class, StoreError};
use crate::home::Home;
use crate::limits::{FLUSH_LOCK_WAIT, POOL_CONNECTIONS, POOL_WAIT, STATEMENTS_MAX};
use crate::upstream::Upstream;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_postgres::NoTls;

/// What Ripen's own connections call themselves in `pg_stat_activity`.
pub(crate) const APPLICATION: &str = "ripen";

/// How Ripen's own connections behave.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Most connections at once.
    pub connections: usize,
    /// `lock_timeout`. The statements of a flush wait no longer than [`FLUSH_LOCK_WAIT`] either.
    pub lock_timeout: Duration,
    /// `statement_timeout`.
    pub statement_timeout: Duration,
    /// `idle_in_transaction_session_timeout`: Postgres ends a flush whose Ripen has died, at the latest after this time.
    pub idle_timeout: Duration,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings {
            connections: POOL_CONNECTIONS,
            lock_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Ripen's access to the system of record. Cheap to clone. Opens connections when they are first needed.
#[derive(Clone)]
pub struct Store {
    pool: Pool<Connector>,
    upstream: Arc<Upstream>,
    settings: Arc<StoreSettings>,
    away: Arc<AtomicBool>,
    home: Arc<Home>,
}

/// A connection of the pool; goes back when dropped, rolled back if a transaction was open.
pub type Connection = Object<Connector>;

/// A connection for work that must end whole. Dropped before it is given back, it is closed instead of going back to the pool, which rolls back; else the next who gets it
/// would wait for what it is still at.
pub(crate) struct Borrowed(Option<Connection>);

impl Borrowed {
    pub fn client(&self) -> &Connection {
        self.0.as_ref().expect("taken only at the end")
    }

    pub fn client_mut(&mut self) -> &mut Connection {
        self.0.as_mut().expect("taken only at the end")
    }

    pub fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

impl Store {
    /// A store with default settings. Connects to nothing yet.
    pub fn new(upstream: Upstream) -> Store {
        Store::with_settings(upstream, StoreSettings::default())
    }

    /// A store. Connects to nothing yet.
    pub fn with_settings(upstream: Upstream, settings: StoreSettings) -> Store {
        let (upstream, settings) = (Arc::new(upstream), Arc::new(settings));
        let connector = Connector {
            upstream: upstream.clone(),
            settings: settings.clone(),
        };
        let pool = Pool::builder(connector)
            .max_size(settings.connections)
            .wait_timeout(Some(POOL_WAIT))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("a runtime is given");
        Store {
            pool,
            upstream,
            settings,
            away: Arc::new(AtomicBool::new(true)),
            home: Arc::default(),
        }
    }

    /// The same where it matters whether the server is the one that the log says: see [`Home`].
    #[must_use]
    pub fn guarded(self, guarded: bool) -> Store {
        let home = Home::new(guarded);
        Store { home, ..self }
    }

    /// Which server is the system of record.
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Closes idle connections: new ones may lead to another server.
    pub fn forget_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Where it leads.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// A connection with Ripen's fixed settings. Cancel safe.
    pub async fn client(&self) -> Result<Connection, StoreError> {
        let client = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            _ => StoreError::PoolTimeout(self.settings.connections),
        });
        let away = client.as_ref().err().map(StoreError::class) == Some(Class::Connection);
        self.away.store(away, Ordering::Relaxed);
        let client = client?;
        if client.statement_cache.size() > STATEMENTS_MAX {
            client.statement_cache.clear();
        }
        Ok(client)
    }

    /// As [`Store::client`].
    pub(crate) async fn borrow(&self) -> Result<Borrowed, StoreError> {
        Ok(Borrowed(Some(self.client().await?)))
    }

    /// How long a statement of a flush waits for somebody else's lock.
    pub(crate) fn flush_lock_wait(&self) -> Duration {
        self.settings.lock_timeout.min(FLUSH_LOCK_WAIT)
    }

    /// Whether the server could be reached when it was last needed.
    pub fn available(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }

    /// Connections now open and now in use, for metrics.
    pub fn connections(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.size.saturating_sub(status.available))
    }

    /// Closes the pool: idle connections now, others when they come back. Later calls fail.
    pub fn close(&self) {
        self.pool.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.upstream)
    }
}

/// Opens the pool's connections.
#[derive(Debug)]
pub struct Connector {
    upstream: Arc<Upstream>,
    settings: Arc<StoreSettings>,
}

impl Manager for Connector {
    type Type = ClientWrapper;
    type Error = StoreError;

    async fn create(&self) -> Result<ClientWrapper, StoreError> {
        let client = connect(&self.upstream).await?;
        client
            .batch_execute(&session_settings(&self.settings))
            .await?;
        Ok(client)
    }

    /// As deadpool-postgres's `RecyclingMethod::Fast`: no round trip. Transactions roll back when dropped, and nothing here changes session settings.
    async fn recycle(&self, client: &mut ClientWrapper, _: &Metrics) -> RecycleResult<StoreError> {
        if client.is_closed() {
            return Err(RecycleError::message("connection closed"));
        }
        Ok(())
    }
}

/// A single logged-in connection, without Ripen's session settings.
pub(crate) async fn connect(upstream: &Upstream) -> Result<ClientWrapper, StoreError> {
    let stream = dial(&upstream.target).await?;
    let mut config = tokio_postgres::Config::new();
    config
        .user(&upstream.user)
        .dbname(&upstream.database)
        .application_name(APPLICATION);
    if let Some(password) = upstream.password() {
        config.password(password);
    }
    // TLS is already inside the stream.
    let (client, connection) = config.connect_raw(stream, NoTls).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(ClientWrapper::new(client, task))
}

/// Everything that would otherwise depend on `postgresql.conf`, the database or the role. `synchronous_commit` is only ever raised:
/// a flush that Postgres forgets after we were told it is committed would be lost.
fn session_settings(settings: &StoreSettings) -> String {
    format!(
        "SET search_path = pg_catalog; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; \
         SET bytea_output = 'hex'; SET extra_float_digits = 1; SET client_min_messages = warning; SET row_security = off; \
         SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
         SET default_transaction_deferrable = off; SET jit = off; SET quote_all_identifiers = off; \
         SET lock_timeout = {}; SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
        settings.lock_timeout.as_millis(),
        settings.statement_timeout.as_millis(),
        settings.idle_timeout.as_millis(),
    )
}
