//! One-dimensional arrays from text. Never reads dimensions, nested arrays, or blanks around elements.

use super::{Failure, parse_text};
use crate::ids::TypeOid;
use crate::value::Settings;

/// Reads `{a,"b c",NULL}`; the modifier is the element's.
pub(crate) fn parse(
    element: TypeOid,
    type_modifier: i32,
    text: &str,
    settings: &Settings,
) -> Result<Vec<u8>, Failure> {
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    let elements = split(inner.ok_or(Failure::Refused)?)?;
    let has_nulls = elements.iter().any(Option::is_none);
    let mut out = Vec::new();
    let put = |out: &mut Vec<u8>, number: u32| out.extend_from_slice(&number.to_be_bytes());
    put(&mut out, u32::from(!elements.is_empty()));
    put(&mut out, u32::from(has_nulls));
    put(&mut out, element.0);
    if !elements.is_empty() {
        put(&mut out, elements.len() as u32);
        put(&mut out, 1);
    }
    for text in elements {
        match text {
            None => put(&mut out, u32::MAX),
            Some(text) => {
                let bytes = parse_text(element, type_modifier, &text, settings)?;
                put(&mut out, bytes.len() as u32);
                out.extend_from_slice(&bytes);
            }
        }
    }
    Ok(out)
}

/// The elements between the braces; `None` for NULL.
fn split(inner: &str) -> Result<Vec<Option<String>>, Failure> {
    let mut elements = Vec::new();
    let mut rest = inner;
    while !rest.is_empty() {
        let (element, after) = match rest.strip_prefix('"') {
            Some(quoted) => take_quoted(quoted).map(|(text, rest)| (Some(text), rest))?,
            None => take_plain(rest)?,
        };
        elements.push(element);
        rest = match after.strip_prefix(',') {
            Some("") => return Err(Failure::Refused),
            Some(next) => next,
            None if after.is_empty() => "",
            None => return Err(Failure::Refused),
        };
    }
    Ok(elements)
}

fn take_plain(text: &str) -> Result<(Option<String>, &str), Failure> {
    let (plain, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
    let odd = |c: char| matches!(c, '"' | '\\' | '{' | '}' | ' ' | '\t'..='\r');
    if plain.is_empty() || plain.contains(odd) {
        return Err(Failure::Refused);
    }
    let null = plain.eq_ignore_ascii_case("null");
    Ok(((!null).then(|| plain.to_owned()), rest))
}

fn take_quoted(text: &str) -> Result<(String, &str), Failure> {
    let mut element = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Ok((element, &text[at + 1..])),
            '\\' => element.push(characters.next().ok_or(Failure::Refused)?.1),
            _ => element.push(c),
        }
    }
    Err(Failure::Refused)
}
