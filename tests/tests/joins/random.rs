//! Random small schemas, random writers on both sides, random joins: every answer is what Postgres says, and most of them come from memory.

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_tests::answers::{is_passing, route, rows, sorted};
use ripen_tests::{Pair, wait};
use std::fmt::Write;
use tokio_postgres::Client;

/// Rows of each table have keys from here on up to this.
const KEYS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Int,
    Big,
    Text,
    Uuid,
    Mood,
    /// Two columns.
    Pair,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Int,
        Kind::Big,
        Kind::Text,
        Kind::Uuid,
        Kind::Mood,
        Kind::Pair,
    ];

    /// Columns of a key, or of what refers to one: name and type.
    fn columns(self, name: &str) -> Vec<(String, &'static str)> {
        let one = |kind| vec![(name.to_owned(), kind)];
        match self {
            Kind::Int => one("int"),
            Kind::Big => one("bigint"),
            Kind::Text => one("text"),
            Kind::Uuid => one("uuid"),
            Kind::Mood => one("mood"),
            Kind::Pair => vec![
                (format!("{name}_a"), "int"),
                (format!("{name}_b"), "smallint"),
            ],
        }
    }

    fn literals(self, n: u32) -> Vec<String> {
        match self {
            Kind::Int | Kind::Big => vec![n.to_string()],
            Kind::Text => vec![format!("'k{n}'")],
            Kind::Uuid => vec![format!("'00000000-0000-0000-0000-{n:012}'")],
            Kind::Mood => vec![format!("'m{n}'")],
            Kind::Pair => vec![(n / 2).to_string(), (n % 2).to_string()],
        }
    }
}

struct Table {
    kind: Kind,
    /// To which tables its columns refer.
    refers: Vec<usize>,
    /// Whether there are constraints.
    checked: bool,
}

struct World {
    tables: Vec<Table>,
    rng: StdRng,
}

fn equal(columns: &[(String, &str)], values: &[String]) -> String {
    let each = columns.iter().zip(values);
    let each = each.map(|((name, _), value)| format!("{name} = {value}"));
    each.collect::<Vec<_>>().join(" AND ")
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(2..5);
        let tables = (0..count).map(|at| Table {
            kind: Kind::ALL[rng.random_range(0..Kind::ALL.len())],
            refers: (0..rng.random_range(u32::from(at > 0)..3))
                .map(|_| rng.random_range(0..=at))
                .collect(),
            checked: rng.random_range(0..3) == 0,
        });
        let tables = tables.collect();
        World { tables, rng }
    }

    fn any(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    fn schema(&mut self) -> String {
        let moods: Vec<String> = (0..KEYS + 2).map(|n| format!("'m{n}'")).collect();
        let mut sql = format!("CREATE TYPE mood AS ENUM ({});", moods.join(", "));
        sql += "CREATE TABLE marks (id int PRIMARY KEY, n int); INSERT INTO marks VALUES (1, 0);";
        for (at, table) in self.tables.iter().enumerate() {
            let own = table.kind.columns("id");
            let mut columns: Vec<String> = own.iter().map(|(n, k)| format!("{n} {k}")).collect();
            let (mut keys, mut indexes) = (Vec::new(), String::new());
            for (number, to) in table.refers.iter().enumerate() {
                let referring = self.tables[*to].kind.columns(&format!("r{number}"));
                columns.extend(referring.iter().map(|(n, k)| format!("{n} {k}")));
                let names: Vec<&str> = referring.iter().map(|(name, _)| &**name).collect();
                let names = names.join(", ");
                let _ = write!(indexes, "CREATE INDEX ON t{at} ({names});");
                if table.checked {
                    keys.push(format!("FOREIGN KEY ({names}) REFERENCES t{to}"));
                }
            }
            columns.extend(["v int", "s text", "n numeric"].map(str::to_owned));
            let own: Vec<&str> = own.iter().map(|(name, _)| &**name).collect();
            keys.push(format!("PRIMARY KEY ({})", own.join(", ")));
            columns.extend(keys);
            let _ = write!(
                sql,
                "CREATE TABLE t{at} ({}); {indexes}",
                columns.join(", ")
            );
        }
        sql
    }

    /// A write by key; it may be refused.
    fn write(&mut self) -> String {
        let at = self.any(self.tables.len());
        let key = self.any(KEYS as usize) as u32;
        let kind = self.tables[at].kind;
        let named = equal(&kind.columns("id"), &kind.literals(key));
        let refers = self.tables[at].refers.clone();
        match self.any(10) {
            0 | 1 => format!("DELETE FROM t{at} WHERE {named}"),
            2..=5 => {
                let mut values = kind.literals(key);
                for to in refers {
                    values.extend(self.reference(to));
                }
                values.extend(self.values());
                format!(
                    "INSERT INTO t{at} VALUES ({}) ON CONFLICT DO NOTHING",
                    values.join(", ")
                )
            }
            6 | 7 if !refers.is_empty() => {
                let number = self.any(refers.len());
                let to = refers[number];
                let columns = self.tables[to].kind.columns(&format!("r{number}"));
                let values = self.reference(to);
                let set = equal(&columns, &values).replace(" AND ", ", ");
                format!("UPDATE t{at} SET {set} WHERE {named}")
            }
            _ => {
                let [v, s, n] = self.values();
                format!("UPDATE t{at} SET v = {v}, s = {s}, n = {n} WHERE {named}")
            }
        }
    }

    /// A write that mostly needs nothing of Postgres, where it is queued.
    fn change(&mut self) -> String {
        loop {
            let sql = self.write();
            if sql.starts_with("UPDATE") || self.any(6) == 0 {
                return sql;
            }
        }
    }

    /// To a row that is there, that is not, or to none.
    fn reference(&mut self, to: usize) -> Vec<String> {
        let kind = self.tables[to].kind;
        let key = self.rng.random_range(0..KEYS + 2);
        let mut values = kind.literals(key);
        if self.any(8) == 0 {
            let part = self.any(values.len());
            values[part] = "NULL".to_owned();
        }
        values
    }

    fn values(&mut self) -> [String; 3] {
        let v = self.any(6);
        [
            if v == 5 {
                "NULL".to_owned()
            } else {
                v.to_string()
            },
            format!("'s{}'", self.any(4)),
            format!("{}.{}", self.any(9), self.any(100)),
        ]
    }

    /// A join; whether it is one that memory can always answer.
    fn join(&mut self) -> String {
        let first = self.any(self.tables.len());
        let comma = self.any(4) == 0;
        let mut placed = vec![first];
        let mut from = format!("t{first} a0");
        let mut conditions = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            let by = self.any(placed.len());
            let refers = &self.tables[placed[by]].refers;
            if refers.is_empty() {
                continue;
            }
            let number = self.rng.random_range(0..refers.len());
            let to = refers[number];
            let alias = placed.len();
            let kind = self.tables[to].kind;
            let pairs = kind.columns(&format!("r{number}"));
            let pairs = pairs.into_iter().zip(kind.columns("id"));
            let on: Vec<String> = pairs
                .map(
                    |((referring, _), (id, _))| match self.rng.random_bool(0.5) {
                        true => format!("a{by}.{referring} = a{alias}.{id}"),
                        false => format!("a{alias}.{id} = a{by}.{referring}"),
                    },
                )
                .collect();
            let how = if self.any(2) == 0 {
                "LEFT JOIN"
            } else {
                "JOIN"
            };
            match comma {
                true => {
                    let _ = write!(from, ", t{to} a{alias}");
                    conditions.extend(on);
                }
                false => {
                    let _ = write!(from, " {how} t{to} a{alias} ON {}", on.join(" AND "));
                }
            }
            placed.push(to);
        }
        conditions.push(self.named(&placed));
        let table = self.any(placed.len());
        match self.any(6) {
            0 => conditions.push(format!("a{table}.v > 1")),
            1 => conditions.push(format!("(a{table}.v IS NULL OR a{table}.s = 's1')")),
            2 => conditions.push(format!("a{table}.n < a0.n + 3")),
            _ => {}
        }
        let outputs = match self.any(5) {
            0 => "*".to_owned(),
            1 => format!("count(*), sum(a{table}.n), min(a{table}.v)"),
            2 => format!("a{table}.*, a0.v + a{table}.v AS x, a0.s"),
            _ => (0..placed.len())
                .map(|at| format!("a{at}.v, a{at}.s, a{at}.*"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        format!(
            "SELECT {outputs} FROM {from} WHERE {}",
            conditions.join(" AND ")
        )
    }

    /// By key, by what it refers to, or by the key of what it refers to.
    fn named(&mut self, placed: &[usize]) -> String {
        let table = &self.tables[placed[0]];
        let (kind, refers) = (table.kind, table.refers.clone());
        let key = self.rng.random_range(0..KEYS);
        let prefixed = |alias: usize, columns: Vec<(String, &'static str)>| {
            let columns = columns.into_iter();
            columns
                .map(|(name, kind)| (format!("a{alias}.{name}"), kind))
                .collect::<Vec<_>>()
        };
        if !refers.is_empty() && self.any(3) == 0 {
            let number = self.any(refers.len());
            let to = self.tables[refers[number]].kind;
            let columns = prefixed(0, to.columns(&format!("r{number}")));
            return equal(&columns, &to.literals(key));
        }
        let columns = prefixed(0, kind.columns("id"));
        match self.any(2) {
            0 if columns.len() == 1 => {
                let more = [
                    key,
                    self.any(KEYS as usize) as u32,
                    self.any(KEYS as usize) as u32,
                ];
                let values: Vec<String> = more.iter().flat_map(|n| kind.literals(*n)).collect();
                format!("{} IN ({})", columns[0].0, values.join(", "))
            }
            _ => equal(&columns, &kind.literals(key)),
        }
    }
}

#[derive(Default, Debug)]
struct Counts {
    asked: u32,
    memory: u32,
    own: u32,
    own_memory: u32,
}

async fn schema(seed: u64, counts: &mut Counts) -> anyhow::Result<()> {
    let mut world = World::new(seed);
    let settings: [&[(&str, &str)]; 2] = [
        &[],
        &[("write_behind", "public.*"), ("write_delay", "20ms")],
    ];
    let settings = settings[world.any(2)];
    let pair = Pair::start(&world.schema(), settings).await?;
    for _ in 0..60 {
        // Some are refused, by constraints.
        let _ = pair.direct.simple_query(&world.write()).await;
    }
    for round in 1..=12 {
        for _ in 0..world.any(6) {
            let _ = pair.direct.simple_query(&world.write()).await;
            let _ = pair.proxied.simple_query(&world.write()).await;
        }
        pair.flush().await?;
        let mark = format!("UPDATE marks SET n = {round} WHERE id = 1");
        pair.direct.batch_execute(&mark).await?;
        wait::until("the stream has passed the mark", || async {
            let told = rows(&pair.proxied, "SELECT n FROM marks WHERE id = 1").await?;
            let way = route(&pair.proxied).await?.0;
            Ok((way == "read" && told[0][0] == Some(round.to_string())).then_some(()))
        })
        .await?;
        for _ in 0..10 {
            let sql = world.join();
            let real = sorted(rows(&pair.direct, &sql).await?);
            let mut memory = false;
            for attempt in 0..40 {
                let told = sorted(rows(&pair.proxied, &sql).await?);
                let (way, why) = route(&pair.proxied).await?;
                ensure!(told == real, "{sql} ({way} {why}):\n{told:?}\n{real:?}");
                memory = way == "read";
                if memory || !is_passing(&why) {
                    ensure!(memory || attempt < 39 || is_passing(&why), "{sql}: {why}");
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            counts.asked += 1;
            counts.memory += u32::from(memory);
        }
        let told = block(&mut world, &pair).await?;
        // Elsewhere whatever writes goes on in Postgres.
        if !settings.is_empty() {
            counts.own += told.0;
            counts.own_memory += told.1;
        }
    }
    Ok(())
}

/// What a block has written is there for itself, and for nobody afterwards. Answers how many joins were asked for in it, and how many came from memory.
async fn block(world: &mut World, pair: &Pair) -> anyhow::Result<(u32, u32)> {
    let writes: Vec<String> = (0..2).map(|_| world.change()).collect();
    let joins: Vec<String> = (0..4).map(|_| world.join()).collect();
    let mut told = [Vec::new(), Vec::new()];
    let mut memory = 0;
    for (client, told) in [&pair.direct, &pair.proxied].into_iter().zip(&mut told) {
        client.batch_execute("BEGIN").await?;
        for write in &writes {
            client.batch_execute("SAVEPOINT s").await?;
            if client.batch_execute(write).await.is_err() {
                client.batch_execute("ROLLBACK TO s").await?;
            }
        }
        for join in &joins {
            let rows_told = sorted(rows(client, join).await?);
            if !told_by_postgres(client, pair).await? {
                memory += 1;
            }
            told.push(rows_told);
        }
        client.batch_execute("ROLLBACK").await?;
    }
    ensure!(told[0] == told[1], "{writes:?} {joins:?}:\n{told:?}");
    Ok((joins.len() as u32, memory))
}

async fn told_by_postgres(client: &Client, pair: &Pair) -> anyhow::Result<bool> {
    match std::ptr::eq(client, &pair.direct) {
        true => Ok(true),
        false => Ok(route(client).await?.0 != "read"),
    }
}

#[tokio::test]
async fn random_joins_are_what_postgres_says() -> anyhow::Result<()> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("RIPEN_SEED").unwrap_or_else(rand::random);
    let mut counts = Counts::default();
    for at in 0..number("RIPEN_SCHEMAS").unwrap_or(6) {
        let seed = seed.wrapping_add(at);
        let told = schema(seed, &mut counts).await;
        ensure!(
            told.is_ok(),
            "RIPEN_SEED={seed} RIPEN_SCHEMAS=1: {:#}",
            told.unwrap_err()
        );
    }
    ensure!(
        counts.memory * 10 >= counts.asked * 9,
        "RIPEN_SEED={seed}: too few came from memory: {counts:?}"
    );
    // Blocks move to Postgres by what they write, and by what they read the first time.
    ensure!(
        counts.own_memory * 8 >= counts.own,
        "RIPEN_SEED={seed}: too few of blocks came from memory: {counts:?}"
    );
    Ok(())
}
