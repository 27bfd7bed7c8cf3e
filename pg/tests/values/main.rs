//! What `ripen_pg::value` computes, against a real Postgres: whatever is not refused must agree to the byte, errors included.
//!
//! Values are random from a fixed seed; `RIPEN_SEED=<n>` takes another. Each check also fails when too much is refused, so that it cannot
//! pass by computing nothing.

mod computing;
mod random;
mod reading;
mod server;

use anyhow::Result;
use random::Random;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::{Failure, Value, oid};
use server::{Outcome, Server};

const SEED: u64 = 20_240_617;

#[tokio::test]
async fn values_mean_what_postgres_means() -> Result<()> {
    let seed = std::env::var("RIPEN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(SEED);
    println!("RIPEN_SEED={seed}");
    let Some(server) = Server::start().await? else {
        println!("no Postgres is installed here: nothing to compare with");
        return Ok(());
    };
    let mut random = Random(seed);
    let mut tally = Tally::default();
    reading::text_forms(&server, &mut random, &mut tally).await?;
    reading::time_zones(&server, &mut random, &mut tally).await?;
    reading::array_forms(&server, &mut random, &mut tally).await?;
    reading::inputs(&server, &mut random, &mut tally).await?;
    reading::keys(&server, &mut random, &mut tally).await?;
    computing::operators(&server, &mut random, &mut tally).await?;
    computing::functions(&server, &mut random, &mut tally).await?;
    computing::jsonb(&server, &mut random, &mut tally).await?;
    computing::casts(&server, &mut random, &mut tally).await?;
    tally.judge()
}

/// Counts what agreed, what was refused, what differed.
#[derive(Default)]
pub struct Tally {
    counts: std::collections::BTreeMap<String, (u64, u64)>,
    differences: Vec<String>,
}

impl Tally {
    /// One more that is left to Postgres.
    pub fn refused(&mut self, check: &str) {
        self.counts.entry(check.to_owned()).or_default().1 += 1;
    }

    /// Compares what both show of one thing.
    pub fn compare(&mut self, check: &str, what: &str, here: &str, there: &str) {
        self.counts.entry(check.to_owned()).or_default().0 += 1;
        if here != there {
            self.differences
                .push(format!("{check}: {what}\n  here  {here}\n  there {there}"));
        }
    }

    /// Compares a computed value with Postgres's outcome.
    pub fn compare_outcome(
        &mut self,
        check: &str,
        what: &str,
        here: Result<(TypeOid, Vec<u8>), Failure>,
        there: &Outcome,
    ) {
        let here = match here {
            Err(Failure::Refused) => return self.refused(check),
            Err(Failure::Sql(error)) => Outcome::Error {
                sqlstate: error.sqlstate.to_owned(),
                message: error.message.into_owned(),
                detail: error.detail.unwrap_or_default(),
            },
            Ok((type_oid, bytes)) => Outcome::Value(type_oid, bytes),
        };
        self.compare(check, what, &show(&here), &show(there));
    }

    fn judge(self) -> Result<()> {
        for (check, (computed, refused)) in &self.counts {
            println!("{check}: {computed} computed, {refused} refused");
        }
        for difference in self.differences.iter().take(60) {
            println!("{difference}");
        }
        assert!(
            self.differences.is_empty(),
            "{} differences",
            self.differences.len()
        );
        for (check, (computed, _)) in &self.counts {
            assert!(*computed >= 20, "{check}: only {computed} computed");
        }
        Ok(())
    }
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        // Postgres's arithmetic leaves sign and payload of NaN to the processor.
        Outcome::Value(oid::FLOAT8, bytes) => {
            format!("float8 {:?}", Value::decode(oid::FLOAT8, bytes))
        }
        Outcome::Value(oid::FLOAT4, bytes) => {
            format!("float4 {:?}", Value::decode(oid::FLOAT4, bytes))
        }
        Outcome::Value(oid::TEXT, bytes) => format!("text {:?}", String::from_utf8_lossy(bytes)),
        Outcome::Value(type_oid, bytes) => format!("{} {bytes:02x?}", type_oid.0),
        other => format!("{other:?}"),
    }
}

/// The name to write after `::`.
pub fn name(type_oid: TypeOid) -> &'static str {
    match type_oid {
        oid::BOOL => "bool",
        oid::INT2 => "int2",
        oid::INT4 => "int4",
        oid::INT8 => "int8",
        oid::OID => "oid",
        oid::FLOAT4 => "float4",
        oid::FLOAT8 => "float8",
        oid::NUMERIC => "numeric",
        oid::TEXT => "text",
        oid::VARCHAR => "varchar",
        oid::BPCHAR => "bpchar",
        oid::NAME => "name",
        oid::CHAR => "\"char\"",
        oid::BYTEA => "bytea",
        oid::UUID => "uuid",
        oid::DATE => "date",
        oid::TIME => "time",
        oid::TIMETZ => "timetz",
        oid::TIMESTAMP => "timestamp",
        oid::TIMESTAMPTZ => "timestamptz",
        oid::INTERVAL => "interval",
        oid::JSON => "json",
        oid::JSONB => "jsonb",
        oid::INET => "inet",
        oid::CIDR => "cidr",
        _ => unreachable!("one of the types above"),
    }
}

/// A literal of text, whatever `standard_conforming_strings` says.
pub fn quote(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
