//! A Postgres of the test's own: fresh folder, unix socket only, gone at the end. Never touches another server.

use bytes::BytesMut;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls};

/// A running server.
pub struct Server {
    folder: tempfile::TempDir,
    binaries: PathBuf,
}

impl Server {
    /// Starts one from the newest installed binaries.
    pub fn start() -> Server {
        let binaries = binaries().expect("this test needs PostgreSQL's server binaries");
        let folder = tempfile::Builder::new()
            .prefix("ripen-eval-")
            .tempdir()
            .unwrap();
        if let Some((user, group)) = unprivileged() {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let server = Server { folder, binaries };
        let data = server.folder.path().join("data");
        let init = [
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ];
        server.run(server.command("initdb").arg("-D").arg(&data).args(init));
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c timezone=UTC",
            server.folder.path().display()
        );
        let log = server.folder.path().join("log");
        server.run(
            server
                .command("pg_ctl")
                .args(["start", "-w", "-o", &options, "-l"])
                .arg(log)
                .arg("-D")
                .arg(&data),
        );
        server
    }

    /// A connection; its task ends with the client.
    pub async fn connect(&self) -> Client {
        let parameters = format!(
            "host={} user=postgres dbname=postgres",
            self.folder.path().display()
        );
        let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // The server refuses to run as root.
        if let Some((user, group)) = unprivileged() {
            command.uid(user).gid(group);
        }
        command
    }

    fn run(&self, command: &mut Command) {
        let status = command.status().unwrap();
        assert!(status.success(), "{command:?} failed");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.folder.path().join("data");
        let mut stop = self.command("pg_ctl");
        let _ = stop
            .args(["stop", "-m", "immediate", "-D"])
            .arg(data)
            .status();
    }
}

fn binaries() -> Option<PathBuf> {
    let packaged = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut found: Vec<PathBuf> = packaged
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .chain(std::env::split_paths(&std::env::var_os("PATH")?))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    found.pop()
}

/// User and group of `postgres`, when we are root.
fn unprivileged() -> Option<(u32, u32)> {
    let owner = std::fs::metadata("/proc/self").ok()?;
    if std::os::unix::fs::MetadataExt::uid(&owner) != 0 {
        return None;
    }
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A value in the binary form of whatever type it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary(pub Vec<u8>);

impl<'a> FromSql<'a> for Binary {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Binary, Box<dyn Error + Sync + Send>> {
        Ok(Binary(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A parameter in text form, for any type; `None` is NULL.
#[derive(Clone, Debug)]
pub struct TextParam(pub Option<String>);

impl ToSql for TextParam {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}
