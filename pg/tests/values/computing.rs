//! Operators, functions and casts.

use crate::random::{Random, TYPES};
use crate::server::{Outcome, Server};
use crate::{Tally, name, quote};
use anyhow::Result;
use bytes::BytesMut;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::ops::{self, Arithmetic, CastKind, JsonKey, TextOrder, TrimSide};
use ripen_pg::value::{
    Failure, Settings, Value, add, additive, coerce_typmod, oid, parse_text, render_text,
};
use std::cmp::Ordering;

type Computed = Result<Value<'static>, Failure>;

/// Types that [`Value`] knows.
fn computable() -> Vec<TypeOid> {
    let unknown = [oid::CHAR, oid::TIMETZ, oid::INET, oid::CIDR, oid::VARCHAR];
    TYPES
        .into_iter()
        .filter(|type_oid| !unknown.contains(type_oid))
        .collect()
}

/// A random value and the expression that is it.
fn operand(random: &mut Random, type_oid: TypeOid) -> (Vec<u8>, String) {
    let bytes = random.value(type_oid);
    let expression = literal(type_oid, &bytes);
    (bytes, expression)
}

fn literal(type_oid: TypeOid, bytes: &[u8]) -> String {
    let mut text = BytesMut::new();
    render_text(type_oid, bytes, &Settings::default(), &mut text).expect("text forms in UTC");
    format!(
        "{}::{}",
        quote(&String::from_utf8_lossy(&text)),
        name(type_oid)
    )
}

fn typed(value: Computed) -> Result<(TypeOid, Vec<u8>), Failure> {
    value.map(|value| (value.type_oid(), value.to_binary()))
}

/// The settings of a session in that zone.
async fn zone(server: &Server, zone: &str) -> Result<Settings> {
    server
        .client
        .batch_execute(&format!("SET TimeZone = '{zone}'"))
        .await?;
    let known = |name: &str| match name {
        "DateStyle" => Some("ISO, MDY".to_owned()),
        "IntervalStyle" => Some("postgres".to_owned()),
        "TimeZone" => Some(zone.to_owned()),
        _ => None,
    };
    Ok(Settings::from_parameters(known))
}

const OPERATORS: [(Arithmetic, &str); 5] = [
    (Arithmetic::Add, "+"),
    (Arithmetic::Sub, "-"),
    (Arithmetic::Mul, "*"),
    (Arithmetic::Div, "/"),
    (Arithmetic::Mod, "%"),
];

pub async fn operators(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    for zone_name in ["UTC", "Europe/Berlin", "America/New_York"] {
        let settings = zone(server, zone_name).await?;
        let mut cases = Vec::new();
        // Only these depend on the zone.
        let temporal = [oid::DATE, oid::TIMESTAMP, oid::TIMESTAMPTZ, oid::INTERVAL];
        let types = if zone_name == "UTC" {
            computable()
        } else {
            temporal.to_vec()
        };
        for left in types.iter().copied() {
            for right in types.iter().copied() {
                let same = if left == right { 60 } else { 12 };
                for _ in 0..same {
                    let (a, a_sql) = operand(random, left);
                    let (b, b_sql) = match random.below(8) {
                        0 if left == right => (a.clone(), a_sql.clone()),
                        _ => operand(random, right),
                    };
                    cases.push((left, a, a_sql, right, b, b_sql));
                }
            }
        }
        let mut sql = Vec::new();
        for (_, _, a, _, b, _) in cases.iter().map(|case| (0, 0, &case.2, 0, &case.5, 0)) {
            sql.extend(OPERATORS.map(|(_, operator)| format!("{a} {operator} {b}")));
            sql.push(format!(
                "CASE WHEN {a} < {b} THEN -1 WHEN {a} > {b} THEN 1 WHEN {a} = {b} THEN 0 END"
            ));
            sql.push(format!("{a} = {b}"));
            sql.push(format!("{a} || {b}"));
        }
        let outcomes = server.compute(sql.clone()).await?;
        let mut there = outcomes.iter().zip(&sql);
        for (left, a, _, right, b, _) in &cases {
            let (a, b) = (Value::decode(*left, a)?, Value::decode(*right, b)?);
            let mut next = || there.next().expect("one outcome for each");
            for (operator, sign) in OPERATORS {
                let here = typed(ops::arithmetic(operator, &a, &b, &settings));
                let (outcome, what) = next();
                tally.compare_outcome(&format!("operator {sign}"), what, here, outcome);
            }
            let (outcome, what) = next();
            let here = ops::compare(&a, &b, TextOrder::C).map(|order| match order {
                Ordering::Less => Value::Int4(-1),
                Ordering::Equal => Value::Int4(0),
                Ordering::Greater => Value::Int4(1),
            });
            // Without an order in Postgres, equality alone is computed.
            if !matches!(outcome, Outcome::Error { sqlstate, .. } if sqlstate == "42883") {
                tally.compare_outcome("order", what, typed(here.map_err(Failure::from)), outcome);
            }
            let (outcome, what) = next();
            let here = ops::equal(&a, &b).map(Value::Bool).map_err(Failure::from);
            tally.compare_outcome("equality", what, typed(here), outcome);
            let (outcome, what) = next();
            tally.compare_outcome("concatenation", what, typed(ops::concat(&a, &b)), outcome);
        }
    }
    increments(server, random, tally).await
}

/// Increments, negated ones, and sums of increments, against the same in SQL.
async fn increments(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    let (mut sql, mut here) = (Vec::new(), Vec::new());
    for type_oid in [oid::INT2, oid::INT4, oid::INT8, oid::NUMERIC] {
        for _ in 0..300 {
            let [(a, a_sql), (b, b_sql), (c, c_sql)] = [(); 3].map(|()| operand(random, type_oid));
            let done = |result: Result<Vec<u8>, Failure>| result.map(|bytes| (type_oid, bytes));
            sql.push(format!("{a_sql} + {b_sql}"));
            here.push(done(add(type_oid, &a, &b)));
            sql.push(format!("- {a_sql}"));
            here.push(done(ripen_pg::value::negate(type_oid, &a)));
            let sum =
                ripen_pg::value::sum(type_oid, &b, &c).and_then(|sum| add(type_oid, &a, &sum));
            if sum.is_ok() && additive(type_oid, -1, &b) && additive(type_oid, -1, &c) {
                sql.push(format!("{a_sql}::numeric + {b_sql} + {c_sql}"));
                let wide = |bytes: Vec<u8>| {
                    let value = Value::decode(type_oid, &bytes)?;
                    ops::cast(
                        &value,
                        oid::NUMERIC,
                        -1,
                        CastKind::Assignment,
                        &Settings::default(),
                    )
                };
                here.push(typed(sum.and_then(wide)));
            }
        }
    }
    let there = server.compute(sql.clone()).await?;
    for ((what, here), there) in sql.iter().zip(here).zip(&there) {
        tally.compare_outcome("increments", what, here, there);
    }
    Ok(())
}

pub async fn functions(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    let (mut sql, mut here) = (Vec::new(), Vec::new());
    for type_oid in computable() {
        for _ in 0..60 {
            let (bytes, x) = operand(random, type_oid);
            let value = Value::decode(type_oid, &bytes)?;
            let scale = random.below(16) as i32 - 6;
            let (start, length) = (random.integer(6) as i32, random.integer(6) as i32);
            let far = *random.pick(&[i32::MAX, i32::MIN, 2]);
            let set = random.text(3);
            let quoted = quote(&set);
            let cases: [(String, Computed); 22] = [
                (format!("- {x}"), ops::negate(&value)),
                (format!("abs({x})"), ops::abs(&value)),
                (format!("round({x})"), ops::round(&value, None)),
                (
                    format!("round({x}, {scale})"),
                    ops::round(&value, Some(scale)),
                ),
                (format!("trunc({x})"), ops::trunc(&value, None)),
                (
                    format!("trunc({x}, {scale})"),
                    ops::trunc(&value, Some(scale)),
                ),
                (format!("sign({x})"), ops::sign(&value)),
                (format!("ceil({x})"), ops::ceil(&value)),
                (format!("floor({x})"), ops::floor(&value)),
                (format!("length({x})"), ops::length(&value)),
                (format!("octet_length({x})"), ops::octet_length(&value)),
                (format!("lower({x})"), ops::lower(&value, TextOrder::C)),
                (format!("upper({x})"), ops::upper(&value, TextOrder::C)),
                (
                    format!("lower({x})"),
                    ops::lower(&value, TextOrder::Unknown),
                ),
                (
                    format!("upper({x})"),
                    ops::upper(&value, TextOrder::Unknown),
                ),
                (
                    format!("substring({x}, {start})"),
                    ops::substring(&value, start, None),
                ),
                (
                    format!("substr({x}, {start}, {length})"),
                    ops::substring(&value, start, Some(length)),
                ),
                (
                    format!("substr({x}, {far}, {length})"),
                    ops::substring(&value, far, Some(length)),
                ),
                (
                    format!("btrim({x})"),
                    ops::trim(TrimSide::Both, &value, None),
                ),
                (
                    format!("btrim({x}, {quoted})"),
                    ops::trim(TrimSide::Both, &value, Some(&set)),
                ),
                (
                    format!("ltrim({x}, {quoted})"),
                    ops::trim(TrimSide::Leading, &value, Some(&set)),
                ),
                (
                    format!("rtrim({x}, {quoted})"),
                    ops::trim(TrimSide::Trailing, &value, Some(&set)),
                ),
            ];
            for (case, computed) in cases {
                sql.push(case);
                here.push(typed(computed));
            }
        }
    }
    let there = server.compute(sql.clone()).await?;
    for ((what, here), there) in sql.iter().zip(here).zip(&there) {
        let function = what
            .split('(')
            .next()
            .unwrap_or(what)
            .split(' ')
            .next()
            .unwrap_or(what);
        tally.compare_outcome(&format!("function {function}"), what, here, there);
    }
    Ok(())
}

const NAMES: [&str; 7] = ["a", "b", "bb", "c", "", "x\"y", "é"];

/// A random `jsonb`, as it is written.
fn json(random: &mut Random, depth: u64) -> String {
    let many = |random: &mut Random, one: &dyn Fn(&mut Random) -> String| {
        let all: Vec<String> = (0..random.below(4)).map(|_| one(random)).collect();
        all.join(",")
    };
    match random.below(if depth > 0 { 10 } else { 6 }) {
        0 => "null".to_owned(),
        1 => "true".to_owned(),
        2 => (*random.pick(&["1", "-2.50", "1e3", "0"])).to_owned(),
        3..6 => format!("{:?}", random.pick(&NAMES)),
        6 | 7 => {
            let element = |random: &mut Random| json(random, depth - 1);
            format!("[{}]", many(random, &element))
        }
        _ => {
            let member = |random: &mut Random| {
                format!("{:?}:{}", random.pick(&NAMES), json(random, depth - 1))
            };
            format!("{{{}}}", many(random, &member))
        }
    }
}

/// Operators and functions on `jsonb`.
pub async fn jsonb(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    let (mut checks, mut sql, mut here) = (Vec::new(), Vec::new(), Vec::new());
    let mut case = |check: &'static str,
                    text: String,
                    computed: Result<Option<Value<'static>>, Failure>| {
        checks.push(check);
        sql.push(text);
        here.push(computed.map(|value| value.map(|value| (value.type_oid(), value.to_binary()))));
    };
    for _ in 0..1500 {
        let (left, right) = (json(random, 3), json(random, 2));
        let normal = |text: &str| {
            let bytes = parse_text(oid::JSONB, -1, text, &Settings::default()).expect("valid");
            String::from_utf8(bytes[1..].to_vec()).expect("UTF-8")
        };
        let (a, b) = (normal(&left), normal(&right));
        let (x, y) = (
            format!("{}::jsonb", quote(&left)),
            format!("{}::jsonb", quote(&right)),
        );
        let (name, other) = (*random.pick(&NAMES), *random.pick(&NAMES));
        let index = random.below(7) as i32 - 3;
        let (quoted, second) = (quote(name), quote(other));
        let by_name = JsonKey::Name(name);
        let by_index = JsonKey::Index(index);
        case(
            "jsonb ||",
            format!("{x} || {y}"),
            ops::json_concat(&a, &b).map(Some),
        );
        case(
            "jsonb ->",
            format!("{x} -> {quoted}"),
            ops::json_field(&a, by_name),
        );
        case(
            "jsonb -> int",
            format!("{x} -> ({index})"),
            ops::json_field(&a, by_index),
        );
        case(
            "jsonb ->>",
            format!("{x} ->> {quoted}"),
            ops::json_text(&a, by_name),
        );
        case(
            "jsonb ->> int",
            format!("{x} ->> ({index})"),
            ops::json_text(&a, by_index),
        );
        case(
            "jsonb -",
            format!("{x} - {quoted}"),
            ops::json_without(&a, by_name).map(Some),
        );
        case(
            "jsonb - int",
            format!("{x} - ({index})"),
            ops::json_without(&a, by_index).map(Some),
        );
        case(
            "jsonb ?",
            format!("{x} ? {quoted}"),
            ops::json_has(&a, name).map(Some),
        );
        let create = random.below(2) == 0;
        case(
            "jsonb_set",
            format!("jsonb_set({x}, ARRAY[{quoted}, {second}], {y}, {create})"),
            ops::json_set(&a, &[name, other], &b, create).map(Some),
        );
        case(
            "jsonb_set",
            format!("jsonb_set({x}, ARRAY[{quoted}], {y}, {create})"),
            ops::json_set(&a, &[name], &b, create).map(Some),
        );
    }
    let there = server.compute(sql.clone()).await?;
    for (((check, what), here), there) in checks.iter().zip(&sql).zip(here).zip(&there) {
        match here {
            Ok(None) => tally.compare(check, what, "Null", &format!("{there:?}")),
            Ok(Some(value)) => tally.compare_outcome(check, what, Ok(value), there),
            Err(failure) => tally.compare_outcome(check, what, Err(failure), there),
        }
    }
    Ok(())
}

/// Targets of casts: type, modifier as written and as stored.
const TARGETS: [(TypeOid, &str, i32); 24] = [
    (oid::BOOL, "bool", -1),
    (oid::INT2, "int2", -1),
    (oid::INT4, "int4", -1),
    (oid::INT8, "int8", -1),
    (oid::FLOAT4, "float4", -1),
    (oid::FLOAT8, "float8", -1),
    (oid::NUMERIC, "numeric", -1),
    (oid::NUMERIC, "numeric(6,2)", (6 << 16 | 2) + 4),
    (oid::TEXT, "text", -1),
    (oid::VARCHAR, "varchar", -1),
    (oid::VARCHAR, "varchar(4)", 8),
    (oid::BPCHAR, "bpchar", -1),
    (oid::BPCHAR, "char(5)", 9),
    (oid::NAME, "name", -1),
    (oid::BYTEA, "bytea", -1),
    (oid::UUID, "uuid", -1),
    (oid::DATE, "date", -1),
    (oid::TIME, "time", -1),
    (oid::TIMESTAMP, "timestamp", -1),
    (oid::TIMESTAMP, "timestamp(2)", 2),
    (oid::TIMESTAMPTZ, "timestamptz", -1),
    (oid::INTERVAL, "interval", -1),
    (oid::JSON, "json", -1),
    (oid::JSONB, "jsonb", -1),
];

pub async fn casts(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    for zone_name in ["UTC", "America/New_York"] {
        let settings = zone(server, zone_name).await?;
        for (target, written, stored) in TARGETS {
            server
                .client
                .batch_execute(&format!("CREATE TEMP TABLE target (v {written})"))
                .await?;
            let mut cases = Vec::new();
            for source in computable() {
                for _ in 0..25 {
                    let (bytes, x) = match random.below(3) {
                        // Text that may be a value of the target.
                        0 if source == oid::TEXT => {
                            let (_, x) = operand(random, target_or_text(target));
                            let text = x.rsplit_once("::").expect("a literal").0.to_owned();
                            let value = unquote(&text);
                            (value.into_bytes(), format!("{text}::text"))
                        }
                        _ => operand(random, source),
                    };
                    cases.push((source, bytes, x));
                }
            }
            let explicit = |x: &str| format!("SELECT record_send(ROW(CAST({x} AS {written})))");
            let assigned =
                |x: &str| format!("INSERT INTO target SELECT {x} RETURNING record_send(ROW(v))");
            let sql = cases
                .iter()
                .flat_map(|(_, _, x)| [explicit(x), assigned(x)])
                .collect();
            let outcomes = server.run(sql).await?;
            let mut there = outcomes.iter();
            for (source, bytes, x) in &cases {
                let value = Value::decode(*source, bytes)?;
                for kind in [CastKind::Explicit, CastKind::Assignment] {
                    let here = ops::cast(&value, target, stored, kind, &settings);
                    let here = here.map(|value| (target, value.to_binary()));
                    let what = format!("{kind:?} {x} to {written} in {zone_name}");
                    let outcome = there.next().expect("one outcome for each");
                    tally.compare_outcome(&format!("cast to {written}"), &what, here, outcome);
                    if *source == target {
                        let explicit = kind == CastKind::Explicit;
                        let here = coerce_typmod(target, stored, bytes, explicit);
                        let here = here.map(|bytes| (target, bytes));
                        tally.compare_outcome("modifiers", &what, here, outcome);
                    }
                }
            }
            server.client.batch_execute("DROP TABLE target").await?;
        }
    }
    zone(server, "UTC").await?;
    Ok(())
}

fn target_or_text(target: TypeOid) -> TypeOid {
    if target == oid::VARCHAR {
        oid::TEXT
    } else {
        target
    }
}

/// The text within a literal of [`quote`].
fn unquote(literal: &str) -> String {
    let inner = literal
        .strip_prefix("E'")
        .and_then(|text| text.strip_suffix('\''));
    let mut characters = inner.expect("a literal").chars();
    let mut text = String::new();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' {
            characters.next()
        } else {
            Some(c)
        });
    }
    text
}
