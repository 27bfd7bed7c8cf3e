//! Booleans, names, bytes, uuids and addresses from text. Never shortens a name.

use super::{Failure, invalid_syntax, is_blank};

/// `NAMEDATALEN - 1`
const NAME_BYTES_MAX: usize = 63;

/// Reads a `boolean`: unambiguous beginnings of true, false, yes, no, on, off; 1 and 0.
pub(crate) fn boolean(text: &str) -> Result<Vec<u8>, Failure> {
    let word = text.trim_matches(is_blank).to_ascii_lowercase();
    let begins = |full: &str, least: usize| word.len() >= least && full.starts_with(&word);
    if begins("true", 1) || begins("yes", 1) || word == "on" || word == "1" {
        Ok(vec![1])
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == "0" {
        Ok(vec![0])
    } else {
        Err(invalid_syntax("boolean", text))
    }
}

/// Reads a `name`.
pub(crate) fn name(text: &str) -> Result<Vec<u8>, Failure> {
    match text.len() <= NAME_BYTES_MAX {
        true => Ok(text.into()),
        false => Err(Failure::Refused),
    }
}

/// Reads a `"char"`: one ASCII character, or none.
pub(crate) fn char(text: &str) -> Result<Vec<u8>, Failure> {
    match text.as_bytes() {
        [] => Ok(vec![0]),
        [byte] => Ok(vec![*byte]),
        _ => Err(Failure::Refused),
    }
}

/// Reads a `bytea` in hex or escape form.
pub(crate) fn bytea(text: &str) -> Result<Vec<u8>, Failure> {
    match text.strip_prefix("\\x") {
        Some(hex) => hex_bytes(hex.as_bytes()).ok_or(Failure::Refused),
        None => escaped_bytes(text.as_bytes()).ok_or(Failure::Refused),
    }
}

/// Reads a `uuid`: hyphens may stand after any four digits, braces around it.
pub(crate) fn uuid(text: &str) -> Result<Vec<u8>, Failure> {
    uuid_bytes(text.as_bytes()).ok_or_else(|| invalid_syntax("uuid", text))
}

/// Reads an IPv4 address in full; `cidr` demands zeros right of the prefix.
pub(crate) fn inet(text: &str, cidr: bool) -> Result<Vec<u8>, Failure> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, plain_number(prefix, 32)?),
        None => (text, 32),
    };
    let mut bytes = vec![2, prefix, u8::from(cidr), 4];
    for part in address.split('.') {
        bytes.push(plain_number(part, 255)?);
    }
    let bits: [u8; 4] = bytes[4..].try_into().map_err(|_| Failure::Refused)?;
    let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    match cidr && u32::from_be_bytes(bits) & host != 0 {
        true => Err(Failure::Refused),
        false => Ok(bytes),
    }
}

/// Digits without leading zeros.
fn plain_number(text: &str, max: u8) -> Result<u8, Failure> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    let number = text.parse().ok().filter(|number| plain && *number <= max);
    number.ok_or(Failure::Refused)
}

fn nibble(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn hex_bytes(mut hex: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    loop {
        match hex {
            [] => return Some(bytes),
            // Blanks may stand between bytes, not within one.
            [b' ' | b'\n' | b'\t' | b'\r', rest @ ..] => hex = rest,
            [high, low, rest @ ..] => {
                bytes.push(nibble(*high)? << 4 | nibble(*low)?);
                hex = rest;
            }
            [_] => return None,
        }
    }
}

fn escaped_bytes(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    loop {
        match text {
            [] => return Some(bytes),
            [b'\\', b'\\', rest @ ..] => {
                bytes.push(b'\\');
                text = rest;
            }
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                rest @ ..,
            ] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                text = rest;
            }
            [b'\\', ..] => return None,
            [byte, rest @ ..] => {
                bytes.push(*byte);
                text = rest;
            }
        }
    }
}

fn uuid_bytes(text: &[u8]) -> Option<Vec<u8>> {
    let mut rest = match text {
        [b'{', inner @ .., b'}'] => inner,
        _ => text,
    };
    let mut bytes = Vec::with_capacity(16);
    for index in 0..16 {
        let [high, low, after @ ..] = rest else {
            return None;
        };
        bytes.push(nibble(*high)? << 4 | nibble(*low)?);
        rest = match after {
            [b'-', after @ ..] if index % 2 == 1 && index < 15 => after,
            _ => after,
        };
    }
    rest.is_empty().then_some(bytes)
}
