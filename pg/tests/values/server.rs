//! A Postgres of the test's own: fresh folder, unix socket only, gone at the end. Never touches another server.

use anyhow::{Context, Result, anyhow, ensure};
use bytes::{BufMut, BytesMut};
use ripen_pg::ids::TypeOid;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, Row};

/// What runs a statement and gives back its one value, or its error.
const TRY: &str = "
CREATE FUNCTION try(sql text, OUT value bytea, OUT state text, OUT message text, OUT detail text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE sql INTO value;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
END $$";

/// Statements sent at once.
const BATCH: usize = 2000;

pub struct Server {
    folder: PathBuf,
    binaries: PathBuf,
    pub client: Client,
}

/// What Postgres made of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Value(TypeOid, Vec<u8>),
    Null,
    Error {
        sqlstate: String,
        message: String,
        detail: String,
    },
}

impl Server {
    /// Starts one; `None` only where no Postgres is installed.
    pub async fn start() -> Result<Option<Server>> {
        let Some(binaries) = binaries() else {
            return Ok(None);
        };
        let made = output(as_postgres("mktemp").args(["-d", "/tmp/ripen-values-XXXXXX"]))?;
        let folder = PathBuf::from(made.trim());
        let data = folder.join("data");
        output(
            as_postgres(binaries.join("initdb"))
                .arg("-D")
                .arg(&data)
                .args([
                    "-U",
                    "postgres",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C",
                    "--no-sync",
                ]),
        )?;
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off",
            folder.display()
        );
        // Its output must not stay open in ours: the server outlives pg_ctl.
        let started = as_postgres(binaries.join("pg_ctl"))
            .args(["start", "-w", "-o", &options, "-l"])
            .arg(folder.join("log"))
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(started.success(), "postgres did not start");
        let parameters = format!("host={} user=postgres dbname=postgres", folder.display());
        let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(TRY).await?;
        Ok(Some(Server {
            folder,
            binaries,
            client,
        }))
    }

    /// Computes each expression by itself.
    pub async fn compute(&self, expressions: Vec<String>) -> Result<Vec<Outcome>> {
        let select = |expression| format!("SELECT record_send(ROW({expression}))");
        self.run(expressions.into_iter().map(select).collect())
            .await
    }

    /// Runs statements that each give one `record_send` of one column.
    pub async fn run(&self, statements: Vec<String>) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for batch in statements.chunks(BATCH) {
            let sql = "SELECT t.* FROM unnest($1::text[]) WITH ORDINALITY AS s(sql, n), LATERAL try(s.sql) t ORDER BY n";
            let rows = self.client.query(sql, &[&batch]).await?;
            ensure!(rows.len() == batch.len(), "one row for each statement");
            for row in rows {
                outcomes.push(outcome(&row)?);
            }
        }
        Ok(outcomes)
    }

    /// What the query gives for each value of `type_oid`, sent in binary as `$1` (an array).
    pub async fn texts(&self, sql: &str, parameters: &[Raw]) -> Result<Vec<Option<String>>> {
        let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|p| p as _).collect();
        let rows = self
            .client
            .query(sql, &parameters)
            .await
            .with_context(|| sql.to_owned())?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// `SHOW`
    pub async fn show(&self, name: &str) -> Option<String> {
        let row = self
            .client
            .query_one(&format!("SHOW {name}"), &[])
            .await
            .ok()?;
        row.get(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = as_postgres(self.binaries.join("pg_ctl"))
            .args(["stop", "-m", "immediate", "-D"])
            .arg(self.folder.join("data"))
            .stdout(Stdio::null())
            .status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A value in binary form, of whatever type the statement wants.
#[derive(Debug)]
pub struct Raw(pub Vec<u8>);

impl ToSql for Raw {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Raw, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The binary form of a one-dimensional array.
pub fn array(element: TypeOid, values: &[Vec<u8>]) -> Raw {
    let mut out = Vec::new();
    out.put_i32(1);
    out.put_i32(0);
    out.put_u32(element.0);
    out.put_i32(values.len() as i32);
    out.put_i32(1);
    for value in values {
        out.put_i32(value.len() as i32);
        out.put_slice(value);
    }
    Raw(out)
}

fn outcome(row: &Row) -> Result<Outcome> {
    let text = |column| row.get::<_, Option<String>>(column).unwrap_or_default();
    let Some(record) = row.get::<_, Option<Vec<u8>>>(0) else {
        return Ok(Outcome::Error {
            sqlstate: text(1),
            message: text(2),
            detail: text(3),
        });
    };
    let field = |at: usize| -> Result<i32> {
        let bytes = record
            .get(at..at + 4)
            .ok_or_else(|| anyhow!("a record of one column"))?;
        Ok(i32::from_be_bytes(bytes.try_into()?))
    };
    match field(8)? {
        -1 => Ok(Outcome::Null),
        _ => Ok(Outcome::Value(
            TypeOid(field(4)? as u32),
            record[12..].to_vec(),
        )),
    }
}

fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let packaged = versions.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    packaged
        .chain(std::env::split_paths(&path))
        .find(|bin| bin.join("initdb").exists())
}

/// Postgres refuses to run as root.
fn as_postgres(program: impl AsRef<Path>) -> Command {
    let root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let mut command = match root {
        true => Command::new("runuser"),
        false => Command::new(program.as_ref()),
    };
    if root {
        command.args(["-u", "postgres", "--"]).arg(program.as_ref());
    }
    command.current_dir("/tmp");
    command
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}
