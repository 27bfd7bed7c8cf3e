//! Plans and evaluation against a real Postgres: whatever is not passed through must agree, to types and names of the columns.
//!
//! Statements are random from a fixed seed; `RIPEN_SEED=<n>` takes another. Each test also fails when too little is computed here, so that it
//! cannot pass by refusing.

#![allow(clippy::unwrap_used)] // Helpers of tests may, too.

#[path = "support/catalog.rs"]
mod catalog;
#[path = "support/random.rs"]
mod random;
#[path = "support/server.rs"]
mod server;

use bytes::BytesMut;
use catalog::{World, world};
use random::{KINDS, Kind, Random, condition, expression};
use ripen_cachestore::change::{Change, CommitGroup};
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::Settings;
use ripen_pg::wire::backend;
use ripen_proxy::eval::{EvalError, Formats, Now, Params};
use ripen_proxy::plan::{Plan, ReadPlan, WritePlan, plan};
use server::{Binary, Server, TextParam};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, SimpleQueryMessage};

const SEED: u64 = 20_260_119;

fn seed() -> u64 {
    let given = std::env::var("RIPEN_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("RIPEN_SEED={seed}");
    seed
}

/// What was computed here, of what Postgres accepts.
#[derive(Default)]
struct Tally {
    agreed: usize,
    refused: usize,
    /// Postgres raised an error, and we passed it through.
    raised: usize,
    reasons: BTreeMap<String, usize>,
    wrong: String,
}

impl Tally {
    fn refuse(&mut self, reason: &str) {
        self.refused += 1;
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
    }

    fn check(&mut self, what: &str, here: &impl std::fmt::Debug, there: &impl std::fmt::Debug) {
        let (here, there) = (format!("{here:?}"), format!("{there:?}"));
        if here == there {
            self.agreed += 1;
        } else {
            writeln!(self.wrong, "{what}\n  here:  {here}\n  there: {there}").unwrap();
        }
    }

    fn judge(self, name: &str, least_percent: usize) {
        let all = (self.agreed + self.refused).max(1);
        let percent = 100 * self.agreed / all;
        println!(
            "{name}: {} agreed, {} refused, {} errors left to Postgres; {percent} % computed here",
            self.agreed, self.refused, self.raised
        );
        let mut reasons: Vec<_> = self.reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (reason, count) in reasons.iter().take(12) {
            println!("  {count:>6} {reason}");
        }
        assert!(self.wrong.is_empty(), "{}", self.wrong);
        assert!(percent >= least_percent, "only {percent} % computed here");
    }
}

type Texts = Vec<Vec<Option<String>>>;

/// Without ORDER BY the order is Postgres's whim.
fn comparable(sql: &str, mut rows: Texts) -> Texts {
    if !sql.contains("ORDER BY") {
        rows.sort();
    }
    rows
}

/// What Postgres answers in text, or its SQLSTATE.
async fn ask(client: &Client, sql: &str) -> Result<(Texts, Option<u64>), String> {
    let messages = client.simple_query(sql).await.map_err(|error| {
        let error = error.as_db_error().expect("the server answers");
        error.code().code().to_owned()
    })?;
    let (mut rows, mut count) = (Texts::new(), None);
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                rows.push(
                    (0..row.len())
                        .map(|at| row.get(at).map(str::to_owned))
                        .collect(),
                );
            }
            SimpleQueryMessage::CommandComplete(affected) => count = Some(affected),
            _ => {}
        }
    }
    Ok((rows, count))
}

/// The rows in DataRow messages, as text.
fn texts(out: &[u8]) -> Texts {
    let mut rows = Texts::new();
    let mut rest = out;
    while let Some((tag, after)) = rest.split_first() {
        assert_eq!(*tag, b'D');
        let length = u32::from_be_bytes(after[..4].try_into().unwrap()) as usize;
        let body = &after[4..length];
        let columns = backend::decode_data_row(body).unwrap();
        let text =
            |column: Option<&[u8]>| column.map(|text| String::from_utf8(text.to_vec()).unwrap());
        rows.push(columns.iter().map(text).collect());
        rest = &after[length..];
    }
    rows
}

/// All rows of a table in binary form.
async fn load(client: &Client, world: &World, table: &str) -> Vec<Tuple> {
    let relation = world
        .catalog
        .relations
        .values()
        .find(|known| known.name == table);
    let width = relation.unwrap().width;
    let rows = client
        .query(&format!("SELECT * FROM {table}"), &[])
        .await
        .unwrap();
    rows.iter()
        .map(|row| {
            let values: Vec<Option<Binary>> = (0..width).map(|at| row.get(at)).collect();
            let datum = |value: &'_ Option<Binary>| value.as_ref().map(|value| value.0.clone());
            let owned: Vec<Option<Vec<u8>>> = values.iter().map(datum).collect();
            owned
                .iter()
                .map(|value| value.as_deref().map_or(Datum::Null, Datum::Value))
                .collect()
        })
        .collect()
}

fn planned(world: &World, sql: &str) -> Plan {
    plan(
        sql,
        &[],
        &world.catalog,
        &|relation| world.mode(relation),
        &world.facts,
    )
}

/// A table in memory.
type Store = HashMap<Key, Tuple>;

/// Files the rows under their keys, as the plan of a lookup of each names them.
fn store(world: &World, table: &str, column: &str, rows: &[Tuple]) -> Store {
    let Plan::Read(lookup) = planned(world, &format!("SELECT * FROM {table} WHERE {column} = $1"))
    else {
        panic!("{table} cannot be read by key");
    };
    let mut store = Store::new();
    for row in rows {
        let position = lookup.table.column_named(column).unwrap().position;
        let params = [row.get(position).value()];
        let params = Params {
            formats: Formats(&[1]),
            values: &params,
        };
        let keys = lookup.keys(&params, &Settings::default()).unwrap();
        assert_eq!(keys.len(), 1);
        assert!(store.insert(keys[0].clone(), row.clone()).is_none());
    }
    store
}

fn read(plan: &ReadPlan, store: &Store, params: &Params<'_>) -> Result<Texts, EvalError> {
    let settings = Settings::default();
    let keys = plan.keys(params, &settings)?;
    let rows: Vec<Option<&Tuple>> = match &plan.set {
        Some(columns) => {
            assert!(columns.is_none(), "only the whole table is a set here");
            store.values().map(Some).collect()
        }
        None => keys.iter().map(|key| store.get(key)).collect(),
    };
    let mut out = BytesMut::new();
    let count = plan.render(&rows, params, Formats::default(), &settings, &mut out)?;
    let texts = texts(&out);
    assert_eq!(count as usize, texts.len());
    Ok(texts)
}

const MIXED: &str = "
table mixed | id int4 notnull; b bool; b2 bool; i2 int2; i4 int4; j4 int4; i8 int8; n numeric; m numeric(10,2); f8 float8; t text; tc text collate_c; v varchar(10); c bpchar(5); d date; ts timestamp; tz timestamptz; iv interval; u uuid; js jsonb | pk=id mode=wb
";

const MIXED_SQL: &str = r#"
CREATE TABLE mixed (id int PRIMARY KEY, b bool, b2 bool, i2 int2, i4 int4, j4 int4, i8 int8, n numeric, m numeric(10,2), f8 float8, t text,
  tc text COLLATE "C", v varchar(10), c char(5), d date, ts timestamp, tz timestamptz, iv interval, u uuid, js jsonb);
INSERT INTO mixed VALUES
 (1, true, false, 7, 42, -3, 5000000000, 1.50, 12.34, 0.1, 'abc', 'b', 'xyz', 'ab', '2020-02-29', '2020-02-29 12:00', '2020-06-01 00:00+00', '1 day', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1, "bb": {"a": "x"}}'),
 (2, false, true, -32768, 2147483647, 0, 9223372036854775807, 'NaN', -0.05, 'Infinity', '', 'Ä', 'a b ', '', '1999-12-31', '1999-12-31 23:59:59.999999', '1970-01-01 00:00+00', '1 mon -3 days 04:05:06.5', '00000000-0000-0000-0000-000000000000', '[1, "a", {"bb": null}]'),
 (3, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null),
 (4, true, null, 0, -2147483648, 1, 0, 0.000, 0.00, '-0', 'naïve', 'ABC', 'ABC', 'abcde', '0001-01-01', '0001-01-01', '2000-01-01 00:00+00', '-1 year', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '{"x": "7", "bb": []}');
"#;

#[tokio::test]
async fn expressions_mean_what_postgres_means() {
    let server = Server::start();
    let client = server.connect().await;
    client.batch_execute(MIXED_SQL).await.unwrap();
    let world = world(MIXED);
    let rows = load(&client, &world, "mixed").await;
    let store = store(&world, "mixed", "id", &rows);
    let mut random = Random(seed());
    let mut tally = Tally::default();
    for _ in 0..3000 {
        let kind = *random.pick(KINDS);
        let expression = expression(&mut random, kind, 2);
        let sql = format!(
            "SELECT {expression} FROM mixed WHERE id = {}",
            1 + random.below(5)
        );
        one_read(&client, &world, &store, &sql, &mut tally).await;
    }
    for _ in 0..1000 {
        let filter = condition(&mut random, 2);
        let sql = format!(
            "SELECT id FROM mixed WHERE id IN (4, 2, 1, 3) AND {filter} ORDER BY id DESC LIMIT 3"
        );
        one_read(&client, &world, &store, &sql, &mut tally).await;
    }
    tally.judge("expressions", 80);
}

#[tokio::test]
async fn resident_tables_are_read_as_postgres_reads() {
    let server = Server::start();
    let client = server.connect().await;
    client.batch_execute(MIXED_SQL).await.unwrap();
    client.batch_execute(MORE_SQL).await.unwrap();
    let world = world(&MIXED.replace("mode=wb", "mode=wb resident"));
    let rows = load(&client, &world, "mixed").await;
    let store = store(&world, "mixed", "id", &rows);
    let mut random = Random(seed());
    let mut tally = Tally::default();
    for _ in 0..2500 {
        let kind = *random.pick(KINDS);
        let column = *random.pick(kind.columns());
        let depth = 1 + random.below(2);
        let filter = match random.chance(80) {
            true => format!(" WHERE {}", condition(&mut random, depth)),
            false => String::new(),
        };
        let way = *random.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        let sql = match random.below(5) {
            0 => format!(
                "SELECT id, {} FROM mixed{filter}",
                expression(&mut random, kind, 1)
            ),
            1 => format!("SELECT * FROM mixed{filter} ORDER BY {column}{way}, id"),
            2 => format!(
                "SELECT id, {column} FROM mixed{filter} ORDER BY {column}{way}, id DESC LIMIT 7 OFFSET 2"
            ),
            3 => format!("SELECT {} FROM mixed{filter}", aggregate(&mut random)),
            _ => format!("SELECT EXISTS (SELECT {column} FROM mixed{filter})"),
        };
        one_read(&client, &world, &store, &sql, &mut tally).await;
    }
    tally.judge("resident", 60);
}

/// More rows, of which many are alike.
const MORE_SQL: &str = "INSERT INTO mixed SELECT k, k % 2 = 0, NULL, k % 7 * 31, k * 7919 % 100003 - 50000, k % 3, k::bigint * 5000000029, round((k * 37 % 1009)::numeric / 7, k % 5),
        (k * 31 % 997)::numeric / 100, k / 3.0, 't' || k % 5, 'c' || k, 'v' || k % 4, 'c' || k % 3, '2020-01-01'::date + k, '2020-01-01'::timestamp + k * interval '1 hour',
        '2020-01-01 00:00+00'::timestamptz + k * interval '1 minute', k % 4 * interval '1 day', NULL FROM generate_series(10, 40) k";

/// A random aggregate over the test's table, or something made of one.
fn aggregate(random: &mut Random) -> String {
    let numbers = [Kind::Int2, Kind::Int4, Kind::Int8, Kind::Numeric];
    let kind = match random.chance(50) {
        true => *random.pick(&numbers),
        false => *random.pick(KINDS),
    };
    let of = match random.chance(60) {
        true => (*random.pick(kind.columns())).to_owned(),
        false => expression(random, kind, 1),
    };
    match random.below(9) {
        0 => "count(*)".to_owned(),
        1 => format!("count({of})"),
        2 => format!("coalesce(sum({of}), 0)"),
        3 => format!("round(avg({of}), 3) AS x"),
        4 => format!("max({of}) IS NULL"),
        _ => {
            let name = *random.pick(&["sum", "avg", "min", "max"]);
            format!("{name}({of})")
        }
    }
}

#[tokio::test]
async fn aggregates_are_what_postgres_makes() {
    let server = Server::start();
    let client = server.connect().await;
    client.batch_execute(MIXED_SQL).await.unwrap();
    client.batch_execute(MORE_SQL).await.unwrap();
    let world = world(MIXED);
    let rows = load(&client, &world, "mixed").await;
    let store = store(&world, "mixed", "id", &rows);
    let mut random = Random(seed());
    let mut tally = Tally::default();
    for _ in 0..3000 {
        let outputs: Vec<String> = (0..1 + random.below(2))
            .map(|_| aggregate(&mut random))
            .collect();
        // Postgres may look at a condition before it looks at the key: one that fails for a row must not leave it out.
        let (ids, filter) = match random.chance(30) {
            true => ((1..42).collect(), condition(&mut random, 1)),
            false => {
                let ids = 1 + random.below(12);
                let ids = (0..ids).map(|_| random.below(42));
                (ids.collect::<Vec<_>>(), "true".to_owned())
            }
        };
        let ids: Vec<String> = ids.iter().map(usize::to_string).collect();
        let sql = format!(
            "SELECT {} FROM mixed WHERE id IN ({}) AND {filter}",
            outputs.join(", "),
            ids.join(", ")
        );
        one_read(&client, &world, &store, &sql, &mut tally).await;
    }
    let every: Vec<String> = (1..42).map(|id| id.to_string()).collect();
    let every = every.join(", ");
    for _ in 0..500 {
        let kind = *random.pick(KINDS);
        let column = *random.pick(kind.columns());
        let filter = condition(&mut random, 2);
        let tail = *random.pick(&["", " LIMIT 1", " OFFSET 2", " ORDER BY id LIMIT 1"]);
        let sql = format!(
            "SELECT EXISTS (SELECT {column}, 1 FROM mixed WHERE id IN ({every}) AND {filter}{tail})"
        );
        one_read(&client, &world, &store, &sql, &mut tally).await;
    }
    tally.judge("aggregates", 70);
}

async fn one_read(client: &Client, world: &World, store: &Store, sql: &str, tally: &mut Tally) {
    let there = ask(client, sql).await.map(|(rows, _)| rows);
    let here = match planned(world, sql) {
        Plan::Read(plan) => read(&plan, store, &Params::default()).map(|texts| (plan, texts)),
        Plan::PassThrough(pass) => {
            return match there {
                Ok(_) => tally.refuse(&pass.reason.to_string()),
                Err(_) => tally.raised += 1,
            };
        }
        other => panic!("{sql}: {other:?}"),
    };
    match (here, there) {
        (Err(_), Err(_)) => tally.raised += 1,
        (Err(EvalError::PassThrough(why)), Ok(_)) => tally.refuse(why),
        (Ok((_, here)), Err(there)) => tally.check(sql, &here, &there),
        (Ok((plan, here)), Ok(there)) => {
            let (here, there) = (comparable(sql, here), comparable(sql, there));
            tally.check(sql, &here, &there);
            if here == there {
                described(client, &plan, sql, tally).await;
            }
        }
    }
}

/// Replaces the quoted literals by parameters.
fn parametrized(sql: &str) -> (String, Vec<String>) {
    let (mut text, mut values) = (String::new(), Vec::new());
    for (index, part) in sql.split('\'').enumerate() {
        if index % 2 == 0 {
            text.push_str(part);
        } else {
            values.push(part.to_owned());
            write!(text, "${}", values.len()).unwrap();
        }
    }
    (text, values)
}

#[tokio::test]
async fn parameters_have_the_types_that_postgres_infers() {
    let server = Server::start();
    let client = server.connect().await;
    client.batch_execute(MIXED_SQL).await.unwrap();
    let world = world(MIXED);
    let rows = load(&client, &world, "mixed").await;
    let store = store(&world, "mixed", "id", &rows);
    let mut random = Random(seed());
    let mut tally = Tally::default();
    while tally.agreed + tally.refused < 1000 {
        let kind = *random.pick(KINDS);
        let expression = expression(&mut random, kind, 2);
        let sql = format!(
            "SELECT {expression} FROM mixed WHERE id = '{}'",
            1 + random.below(4)
        );
        let (sql, values) = parametrized(&sql);
        one_parametrized(&client, &world, &store, &sql, &values, &mut tally).await;
    }
    tally.judge("parameters", 80);
}

async fn one_parametrized(
    client: &Client,
    world: &World,
    store: &Store,
    sql: &str,
    values: &[String],
    tally: &mut Tally,
) {
    let Ok(statement) = client.prepare(sql).await else {
        if let Plan::Read(plan) = planned(world, sql) {
            tally.check(sql, &plan.params, &"an error");
        }
        return;
    };
    let plan = match planned(world, sql) {
        Plan::Read(plan) => plan,
        Plan::PassThrough(pass) => return tally.refuse(&pass.reason.to_string()),
        other => panic!("{sql}: {other:?}"),
    };
    described(client, &plan, sql, tally).await;
    let texts: Vec<TextParam> = values
        .iter()
        .cloned()
        .map(|text| TextParam(Some(text)))
        .collect();
    let given: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|text| text as _).collect();
    let there = client.query(&statement, &given).await;
    let borrowed: Vec<Option<&[u8]>> = values.iter().map(|text| Some(text.as_bytes())).collect();
    let params = Params {
        formats: Formats(&[]),
        values: &borrowed,
    };
    let what = format!("{sql} -- {values:?}");
    match (first_column(&plan, store, &params), there) {
        (Err(_), Err(_)) => tally.raised += 1,
        (Err(EvalError::PassThrough(why)), Ok(_)) => tally.refuse(why),
        (Ok(here), Err(there)) => tally.check(&what, &here.len(), &there.to_string()),
        (Ok(here), Ok(there)) => {
            let there: Vec<Option<Binary>> = there.iter().map(|row| row.get(0)).collect();
            let there: Vec<_> = there
                .into_iter()
                .map(|value| value.map(|value| value.0))
                .collect();
            tally.check(&what, &here, &there);
        }
    }
}

/// Compares names, origins, types and parameters.
async fn described(client: &Client, plan: &ReadPlan, sql: &str, tally: &mut Tally) {
    let statement = client.prepare(sql).await.unwrap();
    let there: Vec<_> = statement
        .columns()
        .iter()
        .map(|column| {
            let origin = column.column_id().unwrap_or(0);
            (
                column.name().to_owned(),
                origin,
                column.type_().oid(),
                column.type_modifier(),
            )
        })
        .collect();
    let here: Vec<_> = plan
        .fields
        .iter()
        .map(|field| {
            (
                field.name.clone(),
                field.attnum,
                field.type_oid.0,
                field.type_modifier,
            )
        })
        .collect();
    if here != there {
        tally.check(&format!("described: {sql}"), &here, &there);
    }
    let there: Vec<u32> = statement.params().iter().map(|kind| kind.oid()).collect();
    let here: Vec<u32> = plan.params.iter().map(|kind| kind.0).collect();
    if here != there {
        tally.check(&format!("parameters: {sql}"), &here, &there);
    }
}

/// Key types: column type, and rows.
const KEYED: &[(&str, &str, &[&str])] = &[
    ("int2", "int2", &["0", "1", "-1", "32767"]),
    ("int4", "int4", &["0", "1", "-1", "2147483647", "5"]),
    (
        "int8",
        "int8",
        &["0", "1", "5000000000", "9223372036854775807"],
    ),
    (
        "numeric",
        "numeric",
        &["0", "1", "1.5", "NaN", "100000000000000000000", "-0.001"],
    ),
    (
        "numeric(10,2)",
        "numeric(10,2)",
        &["0.00", "1", "1.5", "-2.25"],
    ),
    (
        "text",
        "text collate_c",
        &["", "a", "A", "a ", "ä", "naïve"],
    ),
    (
        "varchar(5)",
        "varchar(5) collate_c",
        &["", "a", "a ", "abc"],
    ),
    ("char(5)", "bpchar(5) collate_c", &["", "a", "abc", "abcde"]),
    ("float8", "float8", &["0", "1.5", "NaN", "Infinity", "1"]),
    ("bool", "bool", &["t", "f"]),
    (
        "uuid",
        "uuid",
        &[
            "00000000-0000-0000-0000-000000000000",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ],
    ),
    ("date", "date", &["2020-02-29", "infinity", "1999-12-31"]),
    (
        "timestamptz",
        "timestamptz",
        &["2020-02-29 12:00:00+00", "1999-12-31 23:59:59.5+02"],
    ),
    ("bytea", "bytea", &["", "\\x00ff", "abc"]),
];

#[tokio::test]
async fn keys_name_the_rows_that_postgres_finds() {
    let server = Server::start();
    let client = server.connect().await;
    let mut random = Random(seed());
    let mut tally = Tally::default();
    for (number, (sql_type, described, values)) in KEYED.iter().enumerate() {
        let table = format!("keyed_{number}");
        let collate = if described.contains("collate_c") {
            " COLLATE \"C\""
        } else {
            ""
        };
        let create = format!("CREATE TABLE {table} (k {sql_type}{collate} PRIMARY KEY, x int)");
        client.batch_execute(&create).await.unwrap();
        for value in *values {
            let insert = format!("INSERT INTO {table} VALUES ('{value}', 1)");
            client.batch_execute(&insert).await.unwrap();
        }
        let world = world(&format!(
            "table {table} | k {described} notnull; x int4 | pk=k mode=wb"
        ));
        let rows = load(&client, &world, &table).await;
        let store = store(&world, &table, "k", &rows);
        for _ in 0..80 {
            let sql = lookup(&mut random, &table, values);
            one_read(&client, &world, &store, &sql, &mut tally).await;
        }
        for _ in 0..30 {
            let text = operand_text(&mut random, values);
            let sql = format!("SELECT k, x FROM {table} WHERE k = $1");
            one_lookup(&client, &world, &store, &sql, text, &mut tally).await;
            let array = format!(
                "{{{},NULL,{}}}",
                quoted(&mut random, values),
                quoted(&mut random, values)
            );
            let sql = format!("SELECT k FROM {table} WHERE k = ANY($1) ORDER BY k");
            one_lookup(&client, &world, &store, &sql, array, &mut tally).await;
        }
    }
    tally.judge("keys", 85);
}

/// Integers of each width, their ends among them.
const RANGED: &[(&str, &[i64])] = &[
    ("int2", &[-32768, -3, -2, 0, 1, 2, 4, 7, 8, 32766, 32767]),
    (
        "int4",
        &[-2147483648, -3, 0, 1, 2, 4, 7, 8, 40000, 2147483647],
    ),
    (
        "int8",
        &[i64::MIN, -3, 0, 1, 2, 4, 7, 8, 5_000_000_000, i64::MAX],
    ),
];

#[tokio::test]
async fn ranges_name_the_rows_that_postgres_finds() {
    let server = Server::start();
    let client = server.connect().await;
    let mut random = Random(seed());
    let mut tally = Tally::default();
    for (sql_type, values) in RANGED {
        let table = format!("ranged_{sql_type}");
        let create = format!("CREATE TABLE {table} (k {sql_type} PRIMARY KEY, x int)");
        client.batch_execute(&create).await.unwrap();
        for value in *values {
            let insert = format!("INSERT INTO {table} VALUES ('{value}', {value} % 3)");
            client.batch_execute(&insert).await.unwrap();
        }
        let world = world(&format!(
            "table {table} | k {sql_type} notnull; x int4 | pk=k mode=wb"
        ));
        let rows = load(&client, &world, &table).await;
        let store = store(&world, &table, "k", &rows);
        for _ in 0..150 {
            let sql = range(&mut random, &table, values);
            one_read(&client, &world, &store, &sql, &mut tally).await;
        }
    }
    tally.judge("ranges", 60);
}

/// A SELECT of a range, most of them narrow ones.
fn range(random: &mut Random, table: &str, values: &[i64]) -> String {
    let near = *random.pick(values);
    let far = match random.below(8) {
        0 => *random.pick(values),
        _ => near.saturating_add(random.below(9) as i64),
    };
    let text = |random: &mut Random, value: i64| match random.below(9) {
        0 => format!("'{value}'"),
        1 => format!("'{value}'::int8"),
        2 => format!("'{value}'::numeric"),
        3 if random.below(9) == 0 => "NULL".to_owned(),
        4 if value.unsigned_abs() < 1000 => format!("{value} + 1"),
        _ => format!("'{value}'::{}", &table["ranged_".len()..]),
    };
    let (low, high) = (text(random, near), text(random, far));
    let (above, below) = (random.pick(&[">", ">="]), random.pick(&["<", "<="]));
    let condition = match random.below(5) {
        0 | 1 => format!("k BETWEEN {low} AND {high}"),
        2 => format!("k {above} {low} AND k {below} {high}"),
        3 => format!("{low} {below} k AND {high} {above} k AND x = 1"),
        _ => format!("k {below} {high} AND x >= 0 AND k {above} {low} AND k {above} {low}"),
    };
    match random.below(3) {
        0 => format!("SELECT k, x FROM {table} WHERE {condition}"),
        1 => format!("SELECT sum(k), count(*), min(x) FROM {table} WHERE {condition}"),
        _ => format!("SELECT x, k FROM {table} WHERE {condition} ORDER BY x DESC, k LIMIT 3"),
    }
}

fn quoted(random: &mut Random, values: &[&str]) -> String {
    format!("\"{}\"", operand_text(random, values).replace('\\', "\\\\"))
}

fn operand_text(random: &mut Random, values: &[&str]) -> String {
    match random.below(5) {
        0 => {
            let kind = random_kind(random);
            (*random.pick(kind.texts())).to_owned()
        }
        1 => format!("{} ", random.pick(values)),
        _ => (*random.pick(values)).to_owned(),
    }
}

fn random_kind(random: &mut Random) -> Kind {
    *random.pick(KINDS)
}

/// A lookup by constants of many types.
fn lookup(random: &mut Random, table: &str, values: &[&str]) -> String {
    let operand = |random: &mut Random| match random.below(6) {
        0..3 => format!("'{}'", operand_text(random, values)),
        3 => {
            let kind = random_kind(random);
            format!("'{}'::{}", random.pick(kind.texts()), kind.sql())
        }
        4 => (*random.pick(&[
            "1",
            "0",
            "1.5",
            "5000000000",
            "1.0",
            "-1",
            "99999999999999999999",
        ]))
        .to_owned(),
        _ => "NULL".to_owned(),
    };
    match random.below(4) {
        0 => format!(
            "SELECT k FROM {table} WHERE k IN ({}, {}, {})",
            operand(random),
            operand(random),
            operand(random)
        ),
        1 => format!(
            "SELECT k FROM {table} WHERE {} = k AND x = 1",
            operand(random)
        ),
        _ => format!("SELECT k, x FROM {table} WHERE k = {}", operand(random)),
    }
}

/// A lookup by a text parameter, and again in binary form.
async fn one_lookup(
    client: &Client,
    world: &World,
    store: &Store,
    sql: &str,
    text: String,
    tally: &mut Tally,
) {
    let what = format!("{sql} -- {text}");
    let param = TextParam(Some(text.clone()));
    let statement = client.prepare(sql).await.unwrap();
    let there = client
        .query(&statement, &[&param as &(dyn ToSql + Sync)])
        .await;
    let Plan::Read(plan) = planned(world, sql) else {
        return tally.refuse("not planned as a read");
    };
    let values = [Some(text.as_bytes())];
    let params = Params {
        formats: Formats(&[]),
        values: &values,
    };
    match (first_column(&plan, store, &params), there) {
        (Err(_), Err(_)) => tally.raised += 1,
        (Err(EvalError::PassThrough(why)), Ok(_)) => tally.refuse(why),
        (Ok(here), Err(there)) => tally.check(&what, &here.len(), &there.to_string()),
        (Ok(here), Ok(there)) => {
            let there: Vec<Option<Binary>> = there.iter().map(|row| row.get(0)).collect();
            let there: Vec<_> = there
                .into_iter()
                .map(|value| value.map(|value| value.0))
                .collect();
            tally.check(&what, &here, &there);
        }
    }
    described(client, &plan, sql, tally).await;
}

/// The first column of the rows found, in binary form.
fn first_column(
    plan: &ReadPlan,
    store: &Store,
    params: &Params<'_>,
) -> Result<Vec<Option<Vec<u8>>>, EvalError> {
    let settings = Settings::default();
    let keys = plan.keys(params, &settings)?;
    let rows: Vec<Option<&Tuple>> = keys.iter().map(|key| store.get(key)).collect();
    let mut out = BytesMut::new();
    plan.render(&rows, params, Formats(&[1]), &settings, &mut out)?;
    let mut found = Vec::new();
    let mut rest = &out[..];
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        let columns = backend::decode_data_row(&rest[5..=length]).unwrap();
        found.push(columns.iter().next().unwrap().map(<[u8]>::to_vec));
        rest = &rest[length + 1..];
    }
    Ok(found)
}

const WRITTEN: &str = "
table written | id int4 notnull; n int4 default=0; total numeric(8,2); s varchar(6) default='new'::character varying; f bool notnull default=true; at timestamptz; k int2; body text; c bpchar(3) | pk=id mode=wb | ((n >= 0)); (((s)::text <> ''::text)); ((total < 100000.00) OR (total IS NULL))
";

const WRITTEN_SQL: &str = "
CREATE TABLE written (id int PRIMARY KEY, n int DEFAULT 0, total numeric(8,2), s varchar(6) DEFAULT 'new', f bool NOT NULL DEFAULT true, at timestamptz, k int2, body text, c char(3),
  CHECK (n >= 0), CHECK (s <> ''), CHECK (total < 100000.00 OR total IS NULL));
";

#[tokio::test]
async fn writes_do_what_postgres_does() {
    let server = Server::start();
    let client = server.connect().await;
    client.batch_execute(WRITTEN_SQL).await.unwrap();
    let world = world(WRITTEN);
    let mut random = Random(seed());
    let mut tally = Tally::default();
    for _ in 0..2000 {
        let sql = write_statement(&mut random);
        let rows = load(&client, &world, "written").await;
        let store = store(&world, "written", "id", &rows);
        one_write(&client, &world, store, (&sql, &[]), &mut tally).await;
    }
    tally.judge("writes", 95);
}

#[tokio::test]
async fn batches_of_arrays_do_what_postgres_does() {
    let server = Server::start();
    let client = server.connect().await;
    client.batch_execute(WRITTEN_SQL).await.unwrap();
    let world = world(WRITTEN);
    let mut random = Random(seed());
    let mut tally = Tally::default();
    for _ in 0..600 {
        let (sql, params) = unnested(&mut random);
        let rows = load(&client, &world, "written").await;
        let store = store(&world, "written", "id", &rows);
        one_write(&client, &world, store, (&sql, &params), &mut tally).await;
    }
    tally.judge("batches", 90);
}

/// A batch as drivers make it, and its parameters: arrays of different lengths, with NULLs, in several dimensions, or missing.
fn unnested(random: &mut Random) -> (String, Vec<String>) {
    let select = random.pick(&[
        "SELECT * FROM unnest($1::int[], $2::int[], $3::text[], $4::numeric[])",
        "SELECT x.a, b, c, d FROM unnest($1::int[], $2::int[], $3::varchar[], $4::numeric[]) AS x(a, b, c, d)",
        "SELECT a, b + a, c || 'x', 2 * d FROM unnest($1::int[], $2::bigint[], $3::text[], $4::numeric[]) AS x(a, b, c, d)",
        "SELECT unnest($1::int[]), unnest($2::int[]), unnest($3::text[]), unnest($4::numeric[])",
        "SELECT unnest($1::int[]), unnest($2::smallint[]), $3, unnest($4::numeric[])",
    ]);
    let conflict = random.pick(&[
        "",
        " ON CONFLICT DO NOTHING",
        " ON CONFLICT (id) DO UPDATE SET n = excluded.n + written.n, total = excluded.total",
    ]);
    let returning = random.pick(&["", " RETURNING *", " RETURNING id, s"]);
    let length = random.below(4);
    let first = random.below(4);
    let ids = (0..length).map(|at| (first + at).to_string()).collect();
    let mut array = |of: &[&str]| -> Vec<String> {
        // One may be shorter.
        let length = length - usize::from(length > 0 && random.below(8) == 0);
        let texts = (0..length).map(|_| (*random.pick(of)).to_owned());
        texts.collect()
    };
    let arrays = [
        ids,
        array(&["1", "7", "40", "NULL", "30000"]),
        array(&["a", "\"x y\"", "NULL", "bc", "b", "c", "toolong"]),
        array(&["1.005", "2", "NULL", "99999.994", "-3", "99999.999"]),
    ];
    let mut params = arrays.map(|elements| format!("{{{}}}", elements.join(",")));
    match random.below(30) {
        0 => params[0] = "{1,1}".to_owned(),
        1 => params[0] = "{{0,1},{2,3}}".to_owned(),
        2 => params[0] = "[5:6]={0,4}".to_owned(),
        3 => params[1] = "{x}".to_owned(),
        _ => {}
    }
    let sql = format!("INSERT INTO written (id, n, s, total) {select}{conflict}{returning}");
    (sql, params.into())
}

async fn one_write(
    client: &Client,
    world: &World,
    store: Store,
    (sql, params): (&str, &[String]),
    tally: &mut Tally,
) {
    let mut text = sql.to_owned();
    if !params.is_empty() {
        let values: Vec<String> = params.iter().map(|value| format!("'{value}'")).collect();
        client.batch_execute("DEALLOCATE ALL").await.unwrap();
        client
            .batch_execute(&format!("PREPARE p AS {sql}"))
            .await
            .unwrap();
        text = format!("EXECUTE p({})", values.join(", "));
    }
    let Plan::Write(plan) = planned(world, sql) else {
        let there = ask(client, &text).await;
        let Plan::PassThrough(pass) = planned(world, sql) else {
            panic!("{sql}");
        };
        return match there {
            Ok(_) => tally.refuse(&pass.reason.to_string()),
            Err(_) => tally.raised += 1,
        };
    };
    let here = decide(&plan, params, &store);
    let there = ask(client, &text).await;
    match (here, there) {
        (Err(_), Err(_)) => tally.raised += 1,
        (Err(EvalError::PassThrough(why)), Ok(_)) => tally.refuse(why),
        (Ok((tag, ..)), Err(there)) => tally.check(sql, &tag, &there),
        (Ok((tag, texts, group)), Ok((rows, count))) => {
            let tag = tag
                .rsplit(' ')
                .next()
                .and_then(|count| count.parse::<u64>().ok());
            let (here, there) = (comparable(sql, texts), comparable(sql, rows));
            let sql = &format!("{sql} {params:?}");
            tally.check(sql, &(tag, here), &(count, there));
            let after: BTreeMap<Key, Tuple> = applied(store, group);
            let rows = load(client, world, "written").await;
            let there: BTreeMap<Key, Tuple> = crate::store(world, "written", "id", &rows)
                .into_iter()
                .collect();
            if after != there {
                tally.check(&format!("after {sql}"), &after, &there);
            }
        }
    }
}

fn decide(
    plan: &WritePlan,
    params: &[String],
    store: &Store,
) -> Result<(String, Texts, Option<CommitGroup>), EvalError> {
    let settings = Settings::default();
    let values: Vec<Option<&[u8]>> = params.iter().map(|text| Some(text.as_bytes())).collect();
    let params = Params {
        formats: Formats::default(),
        values: &values,
    };
    let keys = plan.keys(&params, &settings)?;
    let currents: Vec<Option<Tuple>> = keys.iter().map(|key| store.get(key).cloned()).collect();
    let mut out = BytesMut::new();
    let now = Now {
        statement_us: 0,
        transaction_us: 0,
    };
    let decision = plan.decide(
        &params,
        &currents,
        now,
        &settings,
        Formats::default(),
        &mut out,
    )?;
    Ok((decision.tag.to_string(), texts(&out), decision.group))
}

fn applied(mut store: Store, group: Option<CommitGroup>) -> BTreeMap<Key, Tuple> {
    for row in group.into_iter().flat_map(|group| group.rows) {
        match row.change {
            Change::Delete => drop(store.remove(&row.row.key)),
            Change::Insert { image } | Change::Put { image } => {
                assert!(store.insert(row.row.key, image).is_none());
            }
            Change::Update { image, add, .. } => {
                let before = store.insert(row.row.key, image.clone()).unwrap();
                for increment in add {
                    let at = usize::from(increment.position);
                    let base = before.get(at).value().unwrap();
                    let sum = ripen_pg::value::add(increment.type_oid, base, &increment.amount);
                    assert_eq!(Some(&sum.unwrap()[..]), image.get(at).value());
                }
            }
        }
    }
    store.into_iter().collect()
}

/// A random INSERT, UPDATE or DELETE.
fn write_statement(random: &mut Random) -> String {
    let returning = *random.pick(&[
        "",
        "",
        " RETURNING *",
        " RETURNING id, n + 1, s || 'x' AS sx",
    ]);
    let id = random.below(6);
    let statement = match random.below(10) {
        0..3 => insert(random),
        3 => format!("DELETE FROM written WHERE id = {id}"),
        4 => format!(
            "DELETE FROM written WHERE id IN ({id}, {}) AND n > {}",
            id + 1,
            random.below(5)
        ),
        5 => format!(
            "UPDATE written SET {} WHERE id IN ({id}, {})",
            set(random, ""),
            id + 2
        ),
        _ => format!(
            "UPDATE written AS w SET {} WHERE w.id = {id} AND ({}) IS NOT FALSE",
            set(random, ""),
            filter(random)
        ),
    };
    statement + returning
}

fn insert(random: &mut Random) -> String {
    let row = |random: &mut Random| {
        format!(
            "{}, {}, {}, {}",
            random.below(6),
            value(random, "n"),
            value(random, "s"),
            value(random, "total")
        )
    };
    let rows = match random.below(6) {
        0 | 1 => format!("VALUES ({}), ({})", row(random), row(random)),
        2 => format!("SELECT {}", row(random)),
        3 => {
            let rows = [row(random), row(random)];
            listed(random, &rows)
        }
        _ => format!("VALUES ({})", row(random)),
    };
    let conflict = match random.below(5) {
        3 => format!(
            " ON CONFLICT ON CONSTRAINT written_pkey DO UPDATE SET {}",
            set(random, "written.")
        ),
        0 => String::new(),
        1 => " ON CONFLICT DO NOTHING".to_owned(),
        2 => format!(" ON CONFLICT (id) DO UPDATE SET {}", set(random, "written.")),
        _ => " ON CONFLICT (id) DO UPDATE SET n = excluded.n + written.n, s = excluded.s WHERE written.n < 50".to_owned(),
    };
    format!("INSERT INTO written (id, n, s, total) {rows}{conflict}")
}

/// A batch as ORMs make it.
fn listed(random: &mut Random, rows: &[String]) -> String {
    let cast = |random: &mut Random, column: &str, type_name: &str| match random.below(3) {
        0 => column.to_owned(),
        _ => format!("{column}::{type_name}"),
    };
    let (n, s, total) = (
        cast(random, "b", "int"),
        cast(random, "x.c", "varchar"),
        cast(random, "d", "numeric"),
    );
    let numbered: Vec<String> = rows
        .iter()
        .enumerate()
        .map(|(at, row)| format!("({row}, {at})"))
        .collect();
    let sorted = random.pick(&["", " ORDER BY e", " ORDER BY x.e ASC", " ORDER BY e DESC"]);
    format!(
        "SELECT a, {n}, {s}, {total} FROM (VALUES {}) AS x(a, b, c, d, e){sorted}",
        numbered.join(", ")
    )
}

fn set(random: &mut Random, of: &str) -> String {
    match random.below(14) {
        12 => format!("(n, s) = ({of}n + {}, 'row')", random.below(40)),
        13 => format!(
            "(s, total, n) = ROW({of}s || 'r', DEFAULT, {})",
            value(random, "n")
        ),
        0 => format!("n = {of}n + {}", random.below(40)),
        1 => format!("n = {of}n - {}", random.below(40)),
        2 => format!(
            "total = {of}total + {}",
            random.pick(&["1", "0.5", "0.005", "-3", "99999.99", "NULL"])
        ),
        3 => format!("k = {of}k + 1, s = 'abc'"),
        4 => format!(
            "k = {}",
            random.pick(&["1", "NULL", "70000", "32767", "'5'", "1.5"])
        ),
        5 => format!("total = {of}total * 1.1, n = {of}n / 2"),
        6 => format!("s = {of}s || 'y'"),
        7 => format!(
            "f = NOT {of}f, c = {}",
            random.pick(&["'ab'", "'abcd'", "'abc  '", "NULL"])
        ),
        8 => format!("body = coalesce({of}body, '') || 'z', at = '2020-01-01 00:00:00+00'"),
        9 => "f = NULL".to_owned(),
        10 => "n = DEFAULT, s = DEFAULT".to_owned(),
        _ => format!("n = {}, s = {}", value(random, "n"), value(random, "s")),
    }
}

fn value(random: &mut Random, column: &str) -> String {
    let of: &[&str] = match column {
        "n" => &[
            "0",
            "1",
            "-1",
            "2147483647",
            "NULL",
            "'7'",
            "2.5",
            "DEFAULT",
            "1 + 1",
        ],
        "s" => &[
            "'a'",
            "''",
            "'toolong'",
            "'six   '",
            "NULL",
            "DEFAULT",
            "lower('ABC')",
            "'x'::char(3)",
        ],
        _ => &[
            "1",
            "1.005",
            "'2.5'",
            "NULL",
            "123456.78",
            "999999",
            "-0.001",
        ],
    };
    (*random.pick(of)).to_owned()
}

fn filter(random: &mut Random) -> String {
    (*random.pick(&[
        "n > 3",
        "w.s = 'a'",
        "total < 10",
        "f",
        "k IS NULL",
        "n + 1 > 2 OR s <> 'a'",
        "NULL",
    ]))
    .to_owned()
}
