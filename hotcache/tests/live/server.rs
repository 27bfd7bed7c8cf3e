//! A Postgres of the test's own: its own folder, a Unix socket only. Removed with everything in it when dropped.

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// A running (or stopped) server.
pub struct Server {
    folder: TempDir,
    programs: PathBuf,
}

impl Server {
    /// Makes a cluster and starts it with these settings.
    pub async fn start(settings: &[&str]) -> Result<Server> {
        let folder = tempfile::Builder::new()
            .prefix("ripen-hotcache-")
            .tempdir()?;
        if let Some((uid, gid)) = postgres_user() {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let programs = programs()?;
        let server = Server { folder, programs };
        let data = server.data();
        server
            .run(
                "initdb",
                &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync"],
            )
            .await?;
        let common = [
            "listen_addresses = ''",
            "fsync = off",
            "max_wal_senders = 4",
            "wal_level = logical",
        ];
        let lines: Vec<&str> = common.iter().chain(settings).copied().collect();
        let socket = format!(
            "unix_socket_directories = '{}'",
            server.folder.path().display()
        );
        let config = format!("{}\n{socket}\n", lines.join("\n"));
        let path = Path::new(&data).join("postgresql.auto.conf");
        std::fs::write(path, config)?;
        server.up().await?;
        Ok(server)
    }

    /// Starts it again.
    pub async fn up(&self) -> Result<()> {
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "start"])
            .await
    }

    /// Stops it: `fast` waits for walsenders to hand over everything, `immediate` is a crash.
    pub async fn down(&self, mode: &str) -> Result<()> {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", mode, "stop"])
            .await
    }

    /// The URL for a role.
    pub fn url(&self, user: &str) -> String {
        format!(
            "postgres://{user}@/postgres?host={}",
            self.folder.path().display()
        )
    }

    /// A connection as superuser.
    pub async fn client(&self) -> Result<Client> {
        let config = format!(
            "host={} user=postgres dbname=postgres",
            self.folder.path().display()
        );
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Puts lines before those of `pg_hba.conf`; takes effect with the next connection.
    pub async fn authenticate(&self, lines: &str) -> Result<()> {
        let path = Path::new(&self.data()).join("pg_hba.conf");
        let trust = std::fs::read_to_string(&path)?;
        std::fs::write(path, format!("{lines}\n{trust}"))?;
        self.run("pg_ctl", &["-D", &self.data(), "reload"]).await
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let path = self.programs.join(program);
        // Postgres refuses to run as root.
        let mut command = match postgres_user() {
            Some(_) => {
                let mut command = Command::new("setpriv");
                let user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];
                command.args(user).arg(path);
                command
            }
            None => Command::new(path),
        };
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let command = self.command(program, arguments);
        let status = tokio::process::Command::from(command).status().await;
        let status = status.with_context(|| format!("{program} cannot be run"))?;
        ensure!(status.success(), "{program} failed: {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data();
        let stop = ["-D", &data, "-w", "-m", "immediate", "stop"];
        // It may be down already.
        let _ = self.command("pg_ctl", &stop).stderr(Stdio::null()).status();
    }
}

/// Ids of the user `postgres`, when the test runs as root.
fn postgres_user() -> Option<(u32, u32)> {
    let number = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    if number(&["-u"])? != 0 {
        return None;
    }
    Some((number(&["-u", "postgres"])?, number(&["-g", "postgres"])?))
}

/// Where `initdb` is: `PG_BIN`, else what `pg_config` says.
fn programs() -> Result<PathBuf> {
    if let Ok(folder) = std::env::var("PG_BIN") {
        return Ok(folder.into());
    }
    let known = ["18", "17", "16", "15", "14"]
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    if let Some(folder) = known
        .into_iter()
        .find(|folder| folder.join("initdb").exists())
    {
        return Ok(folder);
    }
    let output = Command::new("pg_config")
        .arg("--bindir")
        .output()
        .context("no Postgres found; set PG_BIN")?;
    Ok(String::from_utf8(output.stdout)?.trim().into())
}
