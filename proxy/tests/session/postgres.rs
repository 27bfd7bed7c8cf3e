//! A Postgres of the tests' own: one per test process, in a folder of its own, gone with the process. Never touches a server that was there before.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A running server. Trusts `postgres` and `app`; `md5_user`, `scram_user` and `clear_user` have the password `secret`.
#[derive(Debug)]
pub struct Postgres {
    /// TCP port on 127.0.0.1.
    pub port: u16,
    folder: PathBuf,
}

const HBA: &str = "local all all trust
host all md5_user 127.0.0.1/32 md5
host all scram_user 127.0.0.1/32 scram-sha-256
host all clear_user 127.0.0.1/32 password
host all nobody 127.0.0.1/32 reject
host replication all 127.0.0.1/32 trust
host all all 127.0.0.1/32 trust
";

const SETTINGS: &str = "fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 60
wal_level = logical
log_min_messages = fatal
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
";

const ROLES: &str = "CREATE ROLE app LOGIN SUPERUSER;
SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'secret';
SET password_encryption = 'scram-sha-256'; CREATE ROLE scram_user LOGIN PASSWORD 'secret'; CREATE ROLE clear_user LOGIN PASSWORD 'secret';
CREATE ROLE nobody LOGIN;
";

/// The one server of this process, started at the first call.
pub fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| start().expect("a local Postgres can be started"))
}

fn start() -> anyhow::Result<Postgres> {
    let bin = newest_bin().ok_or_else(|| anyhow::anyhow!("no Postgres binaries are installed"))?;
    let folder = PathBuf::from(format!("/tmp/ripen-session-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    as_postgres("chown", &["postgres"], &folder)?;
    let data = folder.join("data");
    let initdb = format!(
        "{0}/initdb -D {1} -U postgres -A trust -E UTF8 --locale=C --no-sync -N >/dev/null",
        bin.display(),
        data.display()
    );
    run(&initdb, "")?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let postgres = format!(
        "{0}/postgres -D {1} -p {port}",
        bin.display(),
        data.display()
    );
    let single = format!(
        "{0}/postgres --single -D {1} postgres >/dev/null",
        bin.display(),
        data.display()
    );
    run(
        &format!("cat >> {}/postgresql.conf", data.display()),
        SETTINGS,
    )?;
    run(&format!("cat > {}/pg_hba.conf", data.display()), HBA)?;
    run(&single, &ROLES.replace(";\n", "\n").replace("; ", "\n"))?;
    // The server ends when the shell's standard input does, that is, with this process.
    let script = format!(
        "{postgres} >{0}/log 2>&1 </dev/null & read _; kill -QUIT $!; wait; rm -rf {0}/data",
        folder.display()
    );
    let mut child = shell(&script).stdin(Stdio::piped()).spawn()?;
    std::mem::forget(child.stdin.take());
    let server = Postgres { port, folder };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !super::raw::answers(server.port) {
        anyhow::ensure!(
            Instant::now() < deadline,
            "Postgres does not answer: see {}/log",
            server.folder.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn newest_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut bins: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    bins.retain(|bin| bin.join("postgres").exists());
    bins.sort();
    bins.pop()
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n")
}

/// Postgres refuses to run as root.
fn shell(script: &str) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", "sh", "-c"]);
        command
    } else {
        let mut command = Command::new("sh");
        command.arg("-c");
        command
    };
    command.arg(script).current_dir("/tmp");
    command
}

fn as_postgres(program: &str, arguments: &[&str], path: &Path) -> anyhow::Result<()> {
    if is_root() {
        let status = Command::new(program).args(arguments).arg(path).status()?;
        anyhow::ensure!(status.success(), "{program} failed");
    }
    Ok(())
}

fn run(script: &str, input: &str) -> anyhow::Result<()> {
    let mut child = shell(script).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    anyhow::ensure!(child.wait()?.success(), "failed: {script}");
    Ok(())
}
