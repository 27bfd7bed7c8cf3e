//! Random numbers from a seed, and random SQL expressions of a wanted type over the test's table. Never uses entropy: a failure repeats itself.

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// The types that expressions are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Numeric,
    Float8,
    Text,
    Varchar,
    Bpchar,
    Date,
    Timestamp,
    Timestamptz,
    Interval,
    Uuid,
    Jsonb,
}

pub const KINDS: &[Kind] = &[
    Kind::Bool,
    Kind::Int2,
    Kind::Int4,
    Kind::Int8,
    Kind::Numeric,
    Kind::Float8,
    Kind::Text,
    Kind::Varchar,
    Kind::Bpchar,
    Kind::Date,
    Kind::Timestamp,
    Kind::Timestamptz,
    Kind::Interval,
    Kind::Uuid,
    Kind::Jsonb,
];

impl Kind {
    /// Its columns in the test's table.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Kind::Bool => &["b", "b2"],
            Kind::Int2 => &["i2"],
            Kind::Int4 => &["i4", "j4"],
            Kind::Int8 => &["i8"],
            Kind::Numeric => &["n", "m"],
            Kind::Float8 => &["f8"],
            Kind::Text => &["t", "tc"],
            Kind::Varchar => &["v"],
            Kind::Bpchar => &["c"],
            Kind::Date => &["d"],
            Kind::Timestamp => &["ts"],
            Kind::Timestamptz => &["tz"],
            Kind::Interval => &["iv"],
            Kind::Uuid => &["u"],
            Kind::Jsonb => &["js"],
        }
    }

    pub fn sql(self) -> &'static str {
        match self {
            Kind::Bool => "boolean",
            Kind::Int2 => "smallint",
            Kind::Int4 => "int",
            Kind::Int8 => "bigint",
            Kind::Numeric => "numeric",
            Kind::Float8 => "double precision",
            Kind::Text => "text",
            Kind::Varchar => "varchar",
            Kind::Bpchar => "char(5)",
            Kind::Date => "date",
            Kind::Timestamp => "timestamp",
            Kind::Timestamptz => "timestamptz",
            Kind::Interval => "interval",
            Kind::Uuid => "uuid",
            Kind::Jsonb => "jsonb",
        }
    }

    /// Texts that the type reads, the odd ones included, and a few that it does not.
    pub fn texts(self) -> &'static [&'static str] {
        match self {
            Kind::Bool => &["t", "false", "yes", "off", "1", "tr", "maybe"],
            Kind::Int2 => &["0", "1", "-1", "32767", "-32768", " 7 ", "32768"],
            Kind::Int4 => &[
                "0",
                "1",
                "-5",
                "2147483647",
                "-2147483648",
                "+3",
                "x",
                "3000000000",
            ],
            Kind::Int8 => &["0", "7", "-1", "9223372036854775807", "5000000000", "1.5"],
            Kind::Numeric => &[
                "0",
                "1.50",
                "-2.5",
                "0.001",
                "1e10",
                "12345678901234567890.123",
                "NaN",
                "0.00",
            ],
            Kind::Float8 => &["0", "1.5", "-0", "1e300", "NaN", "Infinity", "0.1", "3"],
            Kind::Text | Kind::Varchar => &["", "a", "abc", "Ä", "a b ", "naïve", "ABC", "b"],
            Kind::Bpchar => &["", "a", "ab   ", "abcde", "b"],
            Kind::Date => &[
                "2020-02-29",
                "1999-12-31",
                "0001-01-01",
                "2020-02-30",
                "infinity",
            ],
            Kind::Timestamp => &[
                "2020-02-29 12:00:00",
                "1999-12-31 23:59:59.999999",
                "2000-01-01 00:00:00",
            ],
            Kind::Timestamptz => &[
                "2020-02-29 12:00:00+00",
                "1999-12-31 23:59:59.5+02",
                "2000-01-01 00:00:00Z",
            ],
            Kind::Interval => &[
                "1 day",
                "2 hours 30 minutes",
                "1 mon 3 days",
                "00:00:01.5",
                "1 year",
            ],
            Kind::Uuid => &[
                "00000000-0000-0000-0000-000000000000",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            ],
            Kind::Jsonb => &[
                r#"{"a":1,"bb":{"a":[]}}"#,
                r#"{"bb": "x", "a": null}"#,
                r#"["a", 1.50, {"a": true}]"#,
                r#""a""#,
                "7",
                "{}",
                "{a}",
            ],
        }
    }
}

/// A random expression of that type (as far as Postgres agrees), nested at most `depth` deep.
pub fn expression(random: &mut Random, kind: Kind, depth: usize) -> String {
    if depth == 0 || random.chance(25) {
        return leaf(random, kind);
    }
    let depth = depth - 1;
    match random.below(12) {
        0 => {
            let (a, b) = (
                expression(random, kind, depth),
                expression(random, kind, depth),
            );
            format!("coalesce({a}, {b})")
        }
        1 => {
            let condition = expression(random, Kind::Bool, depth);
            let (a, b) = (
                expression(random, kind, depth),
                expression(random, kind, depth),
            );
            format!("CASE WHEN {condition} THEN {a} ELSE {b} END")
        }
        2 => {
            let (a, b) = (expression(random, kind, depth), leaf(random, kind));
            format!("nullif({a}, {b})")
        }
        3 => {
            let from = *random.pick(KINDS);
            format!("({})::{}", expression(random, from, depth), kind.sql())
        }
        4 => {
            let name = if random.chance(50) {
                "greatest"
            } else {
                "least"
            };
            let (a, b) = (
                expression(random, kind, depth),
                expression(random, kind, depth),
            );
            format!("{name}({a}, {b})")
        }
        _ => own(random, kind, depth),
    }
}

fn leaf(random: &mut Random, kind: Kind) -> String {
    match random.below(10) {
        0..5 => (*random.pick(kind.columns())).to_owned(),
        5 => "NULL".to_owned(),
        6 | 7 => format!("'{}'", random.pick(kind.texts())),
        8 if kind != Kind::Bpchar => format!("'{}'::{}", random.pick(kind.texts()), kind.sql()),
        _ => constant(random, kind),
    }
}

fn constant(random: &mut Random, kind: Kind) -> String {
    let of: &[&str] = match kind {
        Kind::Bool => &["true", "false"],
        Kind::Int2 | Kind::Int4 => &["0", "1", "2", "-3", "2147483647", "100"],
        Kind::Int8 => &["5000000000", "9223372036854775807", "-1"],
        Kind::Numeric => &["1.5", "0.10", "-2.25", "1e3", "3.14159"],
        Kind::Float8 => &["'0.1'::float8", "1.5", "'-0'::float8"],
        Kind::Bpchar => &["'ab'::char(5)", "'x'::char(2)"],
        other => return format!("'{}'::{}", random.pick(other.texts()), other.sql()),
    };
    (*random.pick(of)).to_owned()
}

/// An operator or function that is special to the type.
fn own(random: &mut Random, kind: Kind, depth: usize) -> String {
    let numbers = [
        Kind::Int2,
        Kind::Int4,
        Kind::Int8,
        Kind::Numeric,
        Kind::Float8,
    ];
    let of = |random: &mut Random, kind| expression(random, kind, depth);
    match kind {
        Kind::Bool => condition(random, depth),
        Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Numeric | Kind::Float8 => {
            match random.below(8) {
                0 => format!("- ({})", of(random, kind)),
                1 => format!("abs({})", of(random, kind)),
                2 if kind == Kind::Int4 => format!("length({})", of(random, Kind::Text)),
                3 if kind == Kind::Numeric => {
                    let name = *random.pick(&["round", "trunc", "ceil", "floor", "sign"]);
                    format!("{name}({})", of(random, kind))
                }
                4 if kind == Kind::Numeric => {
                    format!("round({}, {})", of(random, kind), random.below(4))
                }
                _ => {
                    let op = *random.pick(&["+", "-", "*", "/", "%"]);
                    let other = *random.pick(&numbers);
                    let (a, b) = (of(random, kind), of(random, other));
                    format!("({a} {op} {b})")
                }
            }
        }
        Kind::Text | Kind::Varchar | Kind::Bpchar => match random.below(7) {
            5 => {
                let key = *random.pick(&["'a'", "'bb'", "'x'", "0", "-1"]);
                format!("({} ->> {key})", of(random, Kind::Jsonb))
            }
            0 => format!("upper({})", of(random, Kind::Text)),
            1 => format!("lower({})", of(random, Kind::Varchar)),
            2 => format!(
                "substring({}, {}, {})",
                of(random, Kind::Text),
                random.below(4),
                random.below(4)
            ),
            3 => format!("btrim({})", of(random, Kind::Text)),
            4 => format!(
                "({})::varchar({})",
                of(random, Kind::Text),
                1 + random.below(3)
            ),
            _ => {
                let (a, b) = (of(random, Kind::Text), of(random, Kind::Varchar));
                format!("({a} || {b})")
            }
        },
        Kind::Date => {
            let op = *random.pick(&["+", "-"]);
            format!(
                "({} {op} {})",
                of(random, Kind::Date),
                of(random, Kind::Int4)
            )
        }
        Kind::Timestamp | Kind::Timestamptz => {
            let op = *random.pick(&["+", "-"]);
            format!("({} {op} {})", of(random, kind), of(random, Kind::Interval))
        }
        Kind::Interval => match random.below(3) {
            0 => format!(
                "({} - {})",
                of(random, Kind::Timestamp),
                of(random, Kind::Timestamp)
            ),
            1 => format!(
                "({} - {})",
                of(random, Kind::Timestamptz),
                of(random, Kind::Timestamptz)
            ),
            _ => format!("({} + {})", of(random, kind), of(random, kind)),
        },
        Kind::Uuid => leaf(random, kind),
        Kind::Jsonb => {
            let key = *random.pick(&["'a'", "'bb'", "'x'", "0", "-1"]);
            match random.below(5) {
                0 => format!("({} -> {key})", of(random, kind)),
                1 => format!("({} - {key})", of(random, kind)),
                2 => {
                    let path = random.pick(&["{a}", "{bb,a}", "{x}", "{x,a}"]);
                    format!(
                        "jsonb_set({}, '{path}', {})",
                        of(random, kind),
                        of(random, kind)
                    )
                }
                _ => format!("({} || {})", of(random, kind), of(random, kind)),
            }
        }
    }
}

/// A random condition.
pub fn condition(random: &mut Random, depth: usize) -> String {
    let kind = *random.pick(KINDS);
    let of = |random: &mut Random, kind| expression(random, kind, depth);
    if random.below(30) == 0 {
        let key = *random.pick(&["a", "bb", "x"]);
        return format!("({} ? '{key}')", of(random, Kind::Jsonb));
    }
    match random.below(12) {
        0 => format!(
            "({} AND {})",
            of(random, Kind::Bool),
            of(random, Kind::Bool)
        ),
        1 => format!("({} OR {})", of(random, Kind::Bool), of(random, Kind::Bool)),
        2 => format!("NOT ({})", of(random, Kind::Bool)),
        3 => format!("({}) IS NULL", of(random, kind)),
        4 => format!(
            "({}) IS NOT DISTINCT FROM ({})",
            of(random, kind),
            of(random, kind)
        ),
        5 => format!(
            "({}) IN ({}, {})",
            of(random, kind),
            leaf(random, kind),
            leaf(random, kind)
        ),
        6 => format!(
            "({}) NOT IN ({}, {})",
            of(random, kind),
            leaf(random, kind),
            leaf(random, kind)
        ),
        7 => format!(
            "({}) BETWEEN {} AND {}",
            of(random, kind),
            leaf(random, kind),
            leaf(random, kind)
        ),
        8 => format!("({}) IS NOT TRUE", of(random, Kind::Bool)),
        9 => {
            let test = if random.chance(50) { "= ANY" } else { "<> ALL" };
            format!(
                "({}) {test} (ARRAY[{}, {}])",
                of(random, kind),
                leaf(random, kind),
                leaf(random, kind)
            )
        }
        _ => {
            let op = *random.pick(&["=", "<>", "<", "<=", ">", ">="]);
            format!("({} {op} {})", of(random, kind), of(random, kind))
        }
    }
}
