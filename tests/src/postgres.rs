//! A Postgres of the test's own: in a container of the image `ripen-postgres:<major>` when a Docker engine answers and has it, else from locally installed programs.
//! Says once per process which it is. Never touches a server that it did not start.

mod container;
mod local;
mod standby;

pub use standby::Standby;

use crate::wait::{self, free_port};
use anyhow::{Context, bail};
use std::io::Write;
use std::path::PathBuf;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// What a test may want of its Postgres.
#[derive(Clone, Debug, Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    hba: Option<String>,
    tls: Option<String>,
}

impl Options {
    /// A setting of postgresql.conf; the last of a name wins. Without any: `wal_level = logical`, no fsync.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Options {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces pg_hba.conf, which otherwise trusts everyone. The harness itself logs in as `postgres`.
    #[must_use]
    pub fn hba(mut self, lines: &str) -> Options {
        self.hba = Some(lines.to_owned());
        self
    }

    /// Takes TLS connections with this certificate and its key (both as PEM), and trusts the certificate when clients show it.
    #[must_use]
    pub fn tls(mut self, pem: String) -> Options {
        self.tls = Some(pem);
        let files = ["ssl_cert_file", "ssl_key_file", "ssl_ca_file"];
        let on = self.set("ssl", "on");
        files
            .iter()
            .fold(on, |options, file| options.set(file, "tls.pem"))
    }

    fn arguments(&self, port: u16) -> Vec<String> {
        let base = [
            ("listen_addresses", "127.0.0.1"),
            ("wal_level", "logical"),
            // Tests kill processes, not the machine: what was written survives without it.
            ("fsync", "off"),
            ("log_min_messages", "warning"),
        ];
        let base = base.iter().map(|(name, value)| format!("{name}={value}"));
        let own = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let all = base.chain(own).chain([format!("port={port}")]);
        all.flat_map(|setting| ["-c".to_owned(), setting]).collect()
    }
}

/// A running (or stopped) server. Removed with all its data when dropped.
pub struct Postgres {
    server: Server,
    port: u16,
}

enum Server {
    Container(Box<container::Container>),
    Local(Box<local::Local>),
}

/// How to end a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As on a planned restart: sessions are ended, a checkpoint is written.
    Fast,
    /// As `pg_ctl stop -m immediate`: no checkpoint, recovery at the next start.
    Immediate,
    /// SIGKILL.
    Kill,
}

impl Postgres {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When neither a container nor local programs can be started.
    pub async fn start(options: Options) -> anyhow::Result<Postgres> {
        let port = free_port();
        let arguments = options.arguments(port);
        let server = match engine().await? {
            Engine::Docker { tag } => {
                let container = container::Container::start(tag, arguments, options);
                Server::Container(Box::new(container.await?))
            }
            Engine::Local { bin } => Server::Local(Box::new(
                local::Local::start(bin, arguments, options).await?,
            )),
        };
        let postgres = Postgres { server, port };
        postgres.wait_ready().await?;
        Ok(postgres)
    }

    /// Its port on 127.0.0.1; stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// URL of the superuser in database `postgres`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// URL of the superuser in that database.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Errors
    /// Of Postgres.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        self.connect()
            .await?
            .batch_execute(&format!("CREATE DATABASE \"{name}\" TEMPLATE template0"))
            .await?;
        Ok(self.url_of(name))
    }

    /// A superuser's connection.
    ///
    /// # Errors
    /// When the server is away.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        connect(&self.url()).await
    }

    /// Names of all replication slots.
    ///
    /// # Errors
    /// Of Postgres.
    pub async fn slots(&self) -> anyhow::Result<Vec<String>> {
        let sql = "SELECT slot_name::text FROM pg_replication_slots ORDER BY 1";
        let rows = self.connect().await?.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// What the slot of a Ripen in front of that database is called, if it is given no name.
    ///
    /// # Errors
    /// When there is no such database.
    pub async fn slot_of(&self, database: &str) -> anyhow::Result<String> {
        let sql = "SELECT 'ripen_' || oid FROM pg_database WHERE datname = $1";
        let found = self.connect().await?.query_one(sql, &[&database]).await?;
        Ok(found.get(0))
    }

    /// Ends the server; returns when all its processes are gone.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self, how: Stop) -> anyhow::Result<()> {
        match &mut self.server {
            Server::Container(container) => container.stop(how).await,
            Server::Local(local) => local.stop(how).await,
        }
    }

    /// Starts a stopped server again, on the same data and port, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        match &mut self.server {
            Server::Container(container) => container.start_again().await?,
            Server::Local(local) => local.start_again().await?,
        }
        self.wait_ready().await
    }

    async fn wait_ready(&self) -> anyhow::Result<()> {
        wait::until("Postgres answers", || async {
            self.connect().await?.simple_query("SELECT 1").await?;
            Ok(Some(()))
        })
        .await
    }
}

/// A connection whose background task ends with it.
///
/// # Errors
/// When it cannot be opened.
pub async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .with_context(|| format!("connecting to {url}"))?;
    tokio::spawn(connection);
    Ok(client)
}

enum Engine {
    Docker { tag: String },
    Local { bin: PathBuf },
}

/// Decided once: `TEST_POSTGRES=docker|local` forces one.
async fn engine() -> anyhow::Result<&'static Engine> {
    static ENGINE: OnceCell<Engine> = OnceCell::const_new();
    ENGINE.get_or_try_init(choose).await
}

async fn choose() -> anyhow::Result<Engine> {
    let wish = std::env::var("TEST_POSTGRES").unwrap_or_default();
    let docker = if wish == "local" {
        Err(anyhow::anyhow!("TEST_POSTGRES=local"))
    } else {
        container::find_image().await
    };
    let why = match docker {
        Ok(tag) => {
            announce(&format!(
                "Postgres runs in containers of ripen-postgres:{tag}"
            ));
            return Ok(Engine::Docker { tag });
        }
        Err(error) if wish == "docker" => return Err(error),
        Err(error) => error,
    };
    let Some(bin) = local::find_programs() else {
        bail!(
            "no Postgres: {why:#}; and no initdb in /usr/lib/postgresql/*/bin or PATH (apt-get install postgresql)"
        );
    };
    announce(&format!("Postgres runs from {} ({why:#})", bin.display()));
    Ok(Engine::Local { bin })
}

/// Past the test runner, which holds back what passing tests print.
fn announce(text: &str) {
    let _ = writeln!(std::io::stderr(), "tests: {text}");
}
