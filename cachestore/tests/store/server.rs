//! One Postgres for the whole test binary, in a folder of its own, reached by a Unix socket; each test gets its own database.
//! Ends with the test process, however that ends: a shell waits on a pipe that only the test holds.

use ripen_cachestore::{Store, Upstream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

/// A database of a test.
pub struct Database {
    pub store: Store,
    pub name: String,
    pub sql: Client,
}

struct Server {
    folder: PathBuf,
    _keeper: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The folder of the socket.
pub fn socket() -> &'static Path {
    &SERVER.get_or_init(Server::start).folder
}

/// A new database with the schema `ripen`, and `setup` run in it.
pub async fn database(setup: &str) -> Database {
    let database = bare_database("").await;
    database.store.migrate().await.unwrap();
    database.sql.batch_execute(setup).await.unwrap();
    database
}

/// A new database without anything; `options` for CREATE DATABASE.
pub async fn bare_database(options: &str) -> Database {
    let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let admin = connect("postgres", "postgres").await;
    let create = format!("CREATE DATABASE {name} {options}");
    admin.batch_execute(&create).await.unwrap();
    Database {
        store: Store::new(upstream("postgres", &name)),
        sql: connect("postgres", &name).await,
        name,
    }
}

pub fn upstream(user: &str, database: &str) -> Upstream {
    let folder = socket().display();
    format!("postgres://{user}@/{database}?host={folder}")
        .parse()
        .unwrap()
}

pub async fn connect(user: &str, database: &str) -> Client {
    let folder = socket().display();
    let config = format!("host={folder} user={user} dbname={database}");
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::Builder::new()
            .prefix("ripen-store")
            .tempdir()
            .unwrap()
            .keep();
        let bin = bin();
        give_to_postgres(&folder);
        let user = if is_root() {
            "runuser -u postgres --"
        } else {
            ""
        };
        let script = format!(
            "cd {folder}; {user} {bin}/initdb -D data -A trust -U postgres -E UTF8 --locale=C.UTF-8 --no-sync >initdb.log 2>&1 || exit 1
             {user} {bin}/postgres -D data -k {folder} -c listen_addresses='' -c fsync=off -c wal_level=logical -c max_connections=200 \
               -c shared_buffers=64MB >server.log 2>&1 &
             read _; kill -INT $(head -1 data/postmaster.pid); [ -d tls/data ] && {user} {bin}/pg_ctl -D tls/data -m immediate -w stop; wait; rm -rf {folder}",
            folder = folder.display(),
            bin = bin.display()
        );
        let keeper = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server {
            folder,
            _keeper: keeper,
        };
        server.wait();
        server
    }

    /// Until it accepts connections.
    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let log = self.folder.join("server.log");
        while !std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("ready to accept connections")
        {
            assert!(
                Instant::now() < deadline,
                "Postgres does not start: {}",
                log.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Postgres does not run as root; everybody else runs it as they are.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    let me = Path::new("/proc/self").metadata();
    me.is_ok_and(|found| found.uid() == 0)
}

fn give_to_postgres(folder: &Path) {
    if is_root() {
        let status = Command::new("chown")
            .args(["-R", "postgres"])
            .arg(folder)
            .status();
        assert!(status.unwrap().success());
    }
}

/// Runs a shell script that starts a server in a folder. What it starts must end with the main server: see `tls` in the keeper's script.
pub fn run_as_postgres(folder: &Path, script: &str) {
    give_to_postgres(folder);
    let mut command = match is_root() {
        true => Command::new("runuser"),
        false => Command::new("sh"),
    };
    if is_root() {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    let output = command
        .arg("-c")
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert!(output.status().unwrap().success(), "{script}");
}

/// `$PG_BIN`, or the newest installation in the usual place.
pub fn bin() -> PathBuf {
    if let Some(folder) = std::env::var_os("PG_BIN") {
        return folder.into();
    }
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let newest = installed
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .max();
    newest.expect("no Postgres found: set PG_BIN to the folder of initdb")
}
