//! Text forms, array forms, input and keys.

use crate::random::{Random, TYPES};
use crate::server::{Raw, Server, array};
use crate::{Tally, name, quote};
use anyhow::Result;
use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use ripen_pg::ids::TypeOid;
use ripen_pg::key::Key;
use ripen_pg::value::ops::{self, CastKind};
use ripen_pg::value::{Settings, Value, key, oid, parse_text, render_text};

/// Settings under which text forms are compared: DateStyle, IntervalStyle, TimeZone, bytea_output, extra_float_digits.
const SETTINGS: [[&str; 5]; 9] = [
    ["ISO, MDY", "postgres", "UTC", "hex", "1"],
    [
        "ISO, DMY",
        "postgres_verbose",
        "Europe/Berlin",
        "escape",
        "0",
    ],
    ["SQL, MDY", "sql_standard", "America/New_York", "hex", "-3"],
    ["SQL, DMY", "iso_8601", "Asia/Kolkata", "escape", "3"],
    ["German, YMD", "postgres", "America/St_Johns", "hex", "-15"],
    [
        "Postgres, MDY",
        "postgres",
        "Australia/Lord_Howe",
        "hex",
        "-7",
    ],
    ["Postgres, DMY", "postgres", "America/Sao_Paulo", "hex", "2"],
    ["SQL, YMD", "postgres", "GMT", "hex", "1"],
    ["ISO, YMD", "postgres", "<-03>+03", "hex", "1"],
];

const VALUES: usize = 1500;

async fn set(server: &Server, values: &[&str; 5]) -> Result<Settings> {
    let names = [
        "DateStyle",
        "IntervalStyle",
        "TimeZone",
        "bytea_output",
        "extra_float_digits",
    ];
    let mut known = Vec::new();
    for (name, value) in names.into_iter().zip(values) {
        server
            .client
            .batch_execute(&format!("SET {name} = '{value}'"))
            .await?;
        known.push((name, server.show(name).await));
    }
    Ok(Settings::from_parameters(|name| {
        known
            .iter()
            .find(|(known, _)| *known == name)
            .and_then(|(_, value)| value.clone())
    }))
}

pub async fn text_forms(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    for values in SETTINGS {
        let settings = set(server, &values).await?;
        for type_oid in TYPES {
            let values: Vec<_> = (0..VALUES).map(|_| random.value(type_oid)).collect();
            let sql = format!(
                "SELECT format('%s', v) FROM unnest($1::{}[]) v",
                name(type_oid)
            );
            let there = server.texts(&sql, &[array(type_oid, &values)]).await?;
            for (bytes, there) in values.iter().zip(there) {
                let check = format!("text form of {}", name(type_oid));
                let mut here = BytesMut::new();
                if render_text(type_oid, bytes, &settings, &mut here).is_err() {
                    tally.refused(&check);
                    continue;
                }
                let here = String::from_utf8_lossy(&here);
                tally.compare(
                    &check,
                    &format!("{bytes:02x?}"),
                    &here,
                    &there.unwrap_or_default(),
                );
            }
        }
    }
    set(server, &SETTINGS[0]).await?;
    Ok(())
}

/// Every zone that both know: instants of 1970 to 2060 as text with abbreviation, and local times back to instants.
pub async fn time_zones(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    let zones = server
        .texts("SELECT name FROM pg_timezone_names ORDER BY name", &[])
        .await?;
    for zone in zones.into_iter().flatten() {
        let check = "time zones";
        server
            .client
            .batch_execute(&format!(
                "SET DateStyle = 'SQL, MDY'; SET TimeZone = '{zone}'"
            ))
            .await?;
        let settings = Settings::from_parameters(|name| match name {
            "DateStyle" => Some("SQL, MDY".to_owned()),
            "TimeZone" => Some(zone.clone()),
            _ => None,
        });
        if !settings.knows_time_zone() {
            tally.refused(check);
            continue;
        }
        let instants: Vec<Vec<u8>> = (0..40)
            .map(|_| {
                (random_instant(random, &zone) * 1_000_000)
                    .to_be_bytes()
                    .into()
            })
            .collect();
        let sql = "SELECT v::text || ' ' || timestamptz_send(v::timestamp::timestamptz)::text FROM unnest($1::timestamptz[]) v";
        let there = server
            .texts(sql, &[array(oid::TIMESTAMPTZ, &instants)])
            .await?;
        for (instant, there) in instants.iter().zip(there) {
            let mut here = BytesMut::new();
            let rendered = render_text(oid::TIMESTAMPTZ, instant, &settings, &mut here);
            let value = Value::decode(oid::TIMESTAMPTZ, instant)?;
            let there_and_back =
                ops::cast(&value, oid::TIMESTAMP, -1, CastKind::Explicit, &settings).and_then(
                    |local| ops::cast(&local, oid::TIMESTAMPTZ, -1, CastKind::Explicit, &settings),
                );
            let (Ok(()), Ok(back)) = (rendered, there_and_back) else {
                tally.refused(check);
                continue;
            };
            let hex: String = back
                .to_binary()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let here = format!("{} \\x{hex}", String::from_utf8_lossy(&here));
            tally.compare(check, &zone, &here, &there.unwrap_or_default());
        }
    }
    set(server, &SETTINGS[0]).await?;
    Ok(())
}

/// Seconds since 2000, mostly within hours of a change of the zone's offset.
fn random_instant(random: &mut Random, zone: &str) -> i64 {
    let since_1970 = random.below(90 * 365 * 86_400) as i64;
    let at = Timestamp::from_second(since_1970).expect("of our time");
    let change = TimeZone::get(zone).ok().and_then(|zone| {
        let change = zone.following(at).next()?;
        Some(change.timestamp().as_second() + random.below(6 * 3600) as i64 - 3 * 3600)
    });
    let unix = if random.below(4) == 0 {
        since_1970
    } else {
        change.unwrap_or(since_1970)
    };
    unix - 946_684_800
}

pub async fn array_forms(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    for type_oid in TYPES {
        for _ in 0..20 {
            let bytes = random_array(random, type_oid);
            let sql = format!("SELECT format('%s', $1::{}[])", name(type_oid));
            let there = server.texts(&sql, &[Raw(bytes.clone())]).await?;
            let array_oid = oid::array_of(type_oid).expect("each of the types has one");
            let mut here = BytesMut::new();
            match render_text(array_oid, &bytes, &Settings::default(), &mut here) {
                Err(_) => tally.refused("array forms"),
                Ok(()) => {
                    let there = there[0].clone().unwrap_or_default();
                    let here = String::from_utf8_lossy(&here);
                    tally.compare("array forms", name(type_oid), &here, &there);
                    read_back(tally, array_oid, &here, &bytes);
                }
            }
        }
    }
    Ok(())
}

/// What Postgres printed is read as the same array, if it is read at all.
fn read_back(tally: &mut Tally, array_oid: TypeOid, text: &str, bytes: &[u8]) {
    match parse_text(array_oid, -1, text, &Settings::default()) {
        Err(_) => tally.refused("arrays read back"),
        Ok(read) => {
            let (read, bytes) = (format!("{read:?}"), format!("{bytes:?}"));
            tally.compare("arrays read back", text, &read, &bytes);
        }
    }
}

fn random_array(random: &mut Random, element: TypeOid) -> Vec<u8> {
    let dimensions =
        random.below(4).saturating_sub(1).max(1) as i32 - i32::from(random.below(9) == 0);
    let lengths: Vec<i32> = (0..dimensions)
        .map(|_| 1 + random.below(3) as i32)
        .collect();
    let count = if dimensions <= 0 {
        0
    } else {
        lengths.iter().product()
    };
    let values: Vec<_> = (0..count)
        .map(|_| (random.below(5) > 0).then(|| random.value(element)))
        .collect();
    let mut out = Vec::new();
    out.put_i32(lengths.len() as i32);
    out.put_i32(i32::from(values.iter().any(Option::is_none)));
    out.put_u32(element.0);
    for length in lengths {
        out.put_i32(length);
        out.put_i32(if random.below(4) == 0 {
            random.below(5) as i32 - 2
        } else {
            1
        });
    }
    for value in values {
        match value {
            None => out.put_i32(-1),
            Some(value) => {
                out.put_i32(value.len() as i32);
                out.put_slice(&value);
            }
        }
    }
    out
}

/// Texts that are nearly values, by hand.
const ODD: [&str; 74] = [
    r#"{"bb":1,"a":[ ],"a":{"x":1E+2}}"#,
    r#""\u00e9\ud83d\ude00\/\b""#,
    r#""\u0000""#,
    "[1,]",
    "01",
    "-0.0",
    "1e-3",
    "[null,true , false]",
    "{\"\":\"\u{7f}é\"}",
    "12:34:56+02",
    "12:34:56.5-05:30",
    "12:34",
    "",
    " ",
    "0",
    "-0",
    "+5",
    " 42 ",
    "1e3",
    "1.5",
    "-1.50",
    ".5",
    "5.",
    ".",
    "1e",
    "abc",
    "12abc",
    "99999999999999999999",
    "2147483648",
    "-32769",
    "0x10",
    "1_000",
    "NaN",
    "nan",
    "infinity",
    "-Infinity",
    "inf",
    "+inf",
    "1e400",
    "-1e-400",
    "1e-46",
    "3.5e38",
    "t",
    "TRUE",
    "yes",
    "of",
    "o",
    "on",
    "off",
    "offf",
    "\\x00ff",
    "\\x0",
    "\\\\",
    "\\001a",
    "\\1",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
    "2024-02-29",
    "2023-02-29",
    "2024-02-29 12:34:56.789",
    "2024-02-29T12:34:56Z",
    "2024-02-29 12:34:56+05:30",
    "2024-03-31 02:30:00",
    "2024-02-29 24:00:00",
    "12:34",
    "12:34:56.5",
    "23:59:59.999999",
    "1 day",
    "-1 mons +2 days -03:04:05.6",
    "3 years 2 weeks",
    "10.0.0.1/8",
    "10.0.0.0/8",
    "{\"a\": [1, 2.50, \"\\u00e9\"]}",
];

/// Modifiers to try, as written and as stored.
fn modifiers(type_oid: TypeOid) -> &'static [(&'static str, i32)] {
    match type_oid {
        oid::VARCHAR => &[("", -1), ("(3)", 7), ("(5)", 9)],
        oid::BPCHAR => &[("", -1), ("(3)", 7), ("(6)", 10)],
        oid::NUMERIC => &[
            ("", -1),
            ("(5,2)", (5 << 16 | 2) + 4),
            ("(3)", (3 << 16) + 4),
            ("(4,4)", (4 << 16 | 4) + 4),
            ("(2,5)", (2 << 16 | 5) + 4),
            ("(6,-2)", (6 << 16 | 0x7fe) + 4),
        ],
        oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ => &[("", -1), ("(0)", 0), ("(3)", 3)],
        _ => &[("", -1)],
    }
}

fn written(type_oid: TypeOid, modifier: &str) -> String {
    match (type_oid, modifier) {
        (oid::TIMESTAMPTZ, _) => format!("timestamp{modifier} with time zone"),
        _ => format!("{}{modifier}", name(type_oid)),
    }
}

pub async fn inputs(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    for (zone, texts) in [
        ("UTC", 700),
        ("Europe/Berlin", 200),
        ("America/New_York", 100),
    ] {
        let settings = set(server, &["ISO, MDY", "postgres", zone, "hex", "1"]).await?;
        for type_oid in TYPES {
            for (modifier, stored) in modifiers(type_oid) {
                let written = written(type_oid, modifier);
                server
                    .client
                    .batch_execute(&format!("CREATE TEMP TABLE input (v {written})"))
                    .await?;
                let texts: Vec<String> = ODD
                    .iter()
                    .map(|text| text.to_string())
                    .chain((0..texts).map(|_| random_input(random, type_oid)))
                    .collect();
                let insert = |text: &String| {
                    format!(
                        "INSERT INTO input VALUES ({}) RETURNING record_send(ROW(v))",
                        quote(text)
                    )
                };
                let outcomes = server.run(texts.iter().map(insert).collect()).await?;
                for (text, there) in texts.iter().zip(&outcomes) {
                    let here = parse_text(type_oid, *stored, text, &settings);
                    let check = format!("input of {}", name(type_oid));
                    let what = format!("{written} {text:?} in {zone}");
                    tally.compare_outcome(
                        &check,
                        &what,
                        here.map(|bytes| (type_oid, bytes)),
                        there,
                    );
                }
                server.client.batch_execute("DROP TABLE input").await?;
            }
        }
    }
    set(server, &SETTINGS[0]).await?;
    Ok(())
}

/// The text of a random value, at times damaged.
fn random_input(random: &mut Random, type_oid: TypeOid) -> String {
    let text = match (type_oid, random.below(4)) {
        (oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8, 0) => {
            format!("{}e{}", random.decimal(), random.below(60) as i64 - 30)
        }
        (oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8, 1) => random.decimal(),
        (oid::INT2 | oid::INT4 | oid::INT8, 0) => random.integer(64).to_string(),
        (oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ, 0 | 1) => random_moment(random, type_oid),
        _ => {
            let mut out = BytesMut::new();
            let bytes = random.value(type_oid);
            match render_text(type_oid, &bytes, &Settings::default(), &mut out) {
                Ok(()) => String::from_utf8_lossy(&out).into_owned(),
                Err(_) => random.text(6),
            }
        }
    };
    let damaged = |random: &mut Random, text: &str| match random.below(3) {
        0 => format!(" {text}\t"),
        1 => format!("{text}x"),
        _ => text.chars().skip(1).collect(),
    };
    if random.below(12) == 0 {
        damaged(random, &text)
    } else {
        text
    }
}

/// A day and time of our years, changes of summer time among them.
fn random_moment(random: &mut Random, type_oid: TypeOid) -> String {
    let (month, day) = *random.pick(&[
        (3, 31),
        (10, 27),
        (3, 10),
        (11, 3),
        (6, 15),
        (12, 31),
        (2, 28),
        (2, 30),
    ]);
    let date = format!("{:04}-{month:02}-{day:02}", 1971 + random.below(66));
    if type_oid == oid::DATE {
        return date + *random.pick(&["", "", " +02", " -05:30", "+02", " Z"]);
    }
    let clock = format!(
        "{:02}:{:02}:{:02}",
        random.below(24),
        random.below(60),
        random.below(61)
    );
    let fraction = *random.pick(&["", ".5", ".123456", ".9999995", ".000"]);
    let zone = *random.pick(&["", "", "Z", "+02", "-05:30", "+0530", " UTC"]);
    let separator = *random.pick(&[" ", "T"]);
    format!("{date}{separator}{clock}{fraction}{zone}")
}

pub async fn keys(server: &Server, random: &mut Random, tally: &mut Tally) -> Result<()> {
    for type_oid in TYPES.into_iter().filter(|type_oid| key::keyable(*type_oid)) {
        let check = format!("keys of {}", name(type_oid));
        let left: Vec<_> = (0..1500).map(|_| random.value(type_oid)).collect();
        let right: Vec<_> = left
            .iter()
            .map(|value| random.neighbour(type_oid, value))
            .collect();
        let canonical: Vec<_> = left
            .iter()
            .map(|value| canonical(type_oid, value))
            .collect();
        let type_name = name(type_oid);
        let send = match type_oid {
            oid::CHAR => "charsend".to_owned(),
            oid::TIMESTAMPTZ
            | oid::TIMESTAMP
            | oid::TIMETZ
            | oid::TIME
            | oid::DATE
            | oid::UUID
            | oid::NUMERIC
            | oid::INET
            | oid::CIDR => format!("{type_name}_send"),
            _ => format!("{type_name}send"),
        };
        let sql = format!(
            "SELECT (a = b)::text || (a = c)::text || encode({send}(c), 'hex')
             FROM unnest($1::{type_name}[], $2::{type_name}[], $3::{type_name}[]) AS t(a, b, c)"
        );
        let parameters = [&left, &right, &canonical].map(|values| array(type_oid, values));
        let there = server.texts(&sql, &parameters).await?;
        for (index, there) in there.into_iter().enumerate() {
            let equal = key_of(type_oid, &left[index]) == key_of(type_oid, &right[index]);
            let hex: String = canonical[index]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let here = format!("{equal}true{hex}");
            let what = format!("{:02x?} and {:02x?}", left[index], right[index]);
            tally.compare(&check, &what, &here, &there.unwrap_or_default());
        }
    }
    Ok(())
}

fn key_of(type_oid: TypeOid, value: &[u8]) -> Key {
    let mut key = Key::new();
    key::append(type_oid, value, &mut key).expect("the type is keyable");
    key
}

fn canonical(type_oid: TypeOid, value: &[u8]) -> Vec<u8> {
    let key = key_of(type_oid, value);
    key::split(&[type_oid], &key).expect("one column")[0].to_vec()
}
