//! Durations and sizes as people write them ("250ms", "1GiB"), both ways. Never accepts a bare number where a unit could be meant differently.

use std::time::Duration;

const TIMES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads a duration: a number and one of ms, s, min, h, d; "0" needs no unit.
///
/// # Errors
/// Says what was expected, without the key: the caller knows it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let ms = parse(text, TIMES).ok_or_else(|| {
        format!("\"{text}\" is not a duration; write a number and a unit (ms, s, min, h, d), such as \"250ms\"")
    })?;
    Ok(Duration::from_millis(ms))
}

/// Reads a size in bytes: a number and one of B, kB, MB, GB, KiB, MiB, GiB, TiB.
///
/// # Errors
/// Says what was expected, without the key: the caller knows it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, SIZES).ok_or_else(|| {
        format!("\"{text}\" is not a size; write a number and a unit (B, kB, MB, GB, KiB, MiB, GiB, TiB), such as \"512MiB\"")
    })
}

/// Writes a duration with the largest unit that holds it exactly.
pub fn show_duration(duration: Duration) -> String {
    show(
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        &[TIMES],
    )
}

/// Writes a size with the largest binary unit that holds it exactly, else in bytes.
pub fn show_bytes(bytes: u64) -> String {
    show(bytes, &[&SIZES[..1], &SIZES[4..]])
}

/// Digits with at most one point, then a unit. Decimals are exact: "1.5s" is 1500 ms, "0.0001s" is refused.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    if unit.is_empty() {
        return (number == "0").then_some(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut value = whole.parse::<u64>().ok()?.checked_mul(*factor)?;
    if number.contains('.') {
        let scale = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = fraction.parse::<u64>().ok()?.checked_mul(*factor)?;
        if part % scale != 0 {
            return None;
        }
        value = value.checked_add(part / scale)?;
    }
    Some(value)
}

fn show(value: u64, units: &[&[(&str, u64)]]) -> String {
    let exact = |(_, factor): &&&(&str, u64)| value >= *factor && value.is_multiple_of(*factor);
    let all: Vec<&(&str, u64)> = units.iter().flat_map(|list| list.iter()).collect();
    match all.iter().rev().find(exact) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units_and_are_exact() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("1.5s"), Ok(1500));
        assert_eq!(ms(" 2 min "), Ok(120_000));
        assert_eq!(ms("1d"), Ok(86_400_000));
        assert_eq!(ms("0"), Ok(0));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.2.3s",
            "1ns",
            "0.0001s",
            "1.s",
            ".5s",
            "1S",
            "99999999999999999999s",
        ] {
            assert!(ms(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn sizes_know_decimal_and_binary_units() {
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_bytes("1.5KiB"), Ok(1536));
        for bad in ["1", "1G", "1gib", "GiB", "1e3B", "0.5B"] {
            assert!(parse_bytes(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn shown_values_read_back_as_themselves() {
        for ms in [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1000, 1024, 1 << 20, (1 << 30) + 1] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }
        assert_eq!(show_bytes(256 << 20), "256MiB");
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
    }
}
