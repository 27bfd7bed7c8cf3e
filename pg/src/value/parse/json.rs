//! JSON from text. Never words an error: what is not plainly valid is refused.

use super::Failure;
use crate::value::Numeric;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Deepest nesting read here.
const DEPTH_MAX: usize = 64;

/// Reads `json`: kept as it is written.
pub(crate) fn json(text: &str) -> Result<Vec<u8>, Failure> {
    read(text).map(|_| text.into())
}

/// Reads `jsonb` into the form in which Postgres prints it: keys in its order, the last of equal keys, numbers as `numeric`.
pub(crate) fn jsonb(text: &str) -> Result<Vec<u8>, Failure> {
    let mut out = String::from('\x01');
    read(text)?.print(&mut out)?;
    Ok(out.into_bytes())
}

/// Reads JSON of any kind.
pub(crate) fn read(text: &str) -> Result<Node<'_>, Failure> {
    let mut reader = Reader(text);
    let node = reader.value(0).ok_or(Failure::Refused)?;
    reader.skip_blanks();
    match reader.0 {
        "" => Ok(node),
        _ => Err(Failure::Refused),
    }
}

/// A piece of JSON; strings and numbers as they were written.
pub(crate) enum Node<'a> {
    Word(&'static str),
    Number(&'a str),
    String(&'a str),
    Array(Vec<Node<'a>>),
    /// Of equal keys the last counts.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl Node<'_> {
    /// Appends the form in which Postgres prints it as `jsonb`.
    pub(crate) fn print(&self, out: &mut String) -> Result<(), Failure> {
        match self {
            Node::Word(word) => out.push_str(word),
            Node::Number(text) => out.push_str(&Numeric::parse(text)?.to_text()),
            Node::String(text) => print_string(&unescape(text).ok_or(Failure::Refused)?, out),
            Node::Array(nodes) => {
                out.push('[');
                for (index, node) in nodes.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    node.print(out)?;
                }
                out.push(']');
            }
            Node::Object(members) => print_object(members, out)?,
        }
        Ok(())
    }
}

fn print_object(members: &[(Cow<'_, str>, Node<'_>)], out: &mut String) -> Result<(), Failure> {
    // Postgres orders keys by length, then by bytes.
    let mut ordered = BTreeMap::new();
    for (key, node) in members {
        let key = unescape(key).ok_or(Failure::Refused)?;
        ordered.insert((key.len(), key), node);
    }
    out.push('{');
    for (index, ((_, key), node)) in ordered.into_iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        print_string(&key, out);
        out.push_str(": ");
        node.print(out)?;
    }
    out.push('}');
    Ok(())
}

fn print_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' => write!(out, "\\u{:04x}", u32::from(c)).expect("a string grows"),
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// A text as it is written in a string.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    print_string(text, &mut out);
    out[1..out.len() - 1].to_owned()
}

/// The text that a valid string stands for; `None` of U+0000 and of half surrogate pairs.
pub(crate) fn unescape(written: &str) -> Option<String> {
    let mut text = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (escape, after) = rest[at + 1..].split_at_checked(1)?;
        rest = after;
        text.push(match escape {
            "b" => '\x08',
            "f" => '\x0c',
            "n" => '\n',
            "r" => '\r',
            "t" => '\t',
            "u" => {
                let (c, after) = unescape_unicode(rest)?;
                rest = after;
                c
            }
            _ => escape.chars().next()?,
        });
    }
    text.push_str(rest);
    Some(text)
}

fn unescape_unicode(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| u32::from_str_radix(text.get(..4)?, 16).ok();
    let first = unit(text)?;
    let (code, rest) = match first {
        0xd800..=0xdbff => {
            let low = text[4..].strip_prefix("\\u")?;
            let second = unit(low).filter(|unit| (0xdc00..=0xdfff).contains(unit))?;
            (
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                &low[4..],
            )
        }
        _ => (first, &text[4..]),
    };
    let c = char::from_u32(code).filter(|c| *c != '\0')?;
    Some((c, rest))
}

/// Reads JSON (RFC 8259) from the front.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<Node<'a>> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.skip_blanks();
        match self.0.as_bytes().first()? {
            b'{' => self
                .list('}', |reader| reader.member(depth))
                .map(Node::Object),
            b'[' => self
                .list(']', |reader| reader.value(depth + 1))
                .map(Node::Array),
            b'"' => self.string().map(Node::String),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number().map(Node::Number),
        }
    }

    fn member(&mut self, depth: usize) -> Option<(Cow<'a, str>, Node<'a>)> {
        self.skip_blanks();
        let key = self.string()?;
        self.skip_blanks();
        self.expect(":")?;
        Some((Cow::Borrowed(key), self.value(depth + 1)?))
    }

    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn expect(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    fn word(&mut self, word: &'static str) -> Option<Node<'a>> {
        self.expect(word).map(|()| Node::Word(word))
    }

    /// An opening bracket, members, the closing one.
    fn list<T>(&mut self, end: char, member: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let end = end.encode_utf8(&mut [0; 4]).to_owned();
        let mut members = Vec::new();
        self.0 = &self.0[1..];
        self.skip_blanks();
        if self.expect(&end).is_some() {
            return Some(members);
        }
        loop {
            members.push(member(self)?);
            self.skip_blanks();
            if self.expect(",").is_none() {
                return self.expect(&end).map(|()| members);
            }
        }
    }

    /// What stands between the quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.expect("\"")?;
        let bytes = self.0.as_bytes();
        let mut at = 0;
        loop {
            at += match &bytes[at..] {
                [b'"', ..] => break,
                [b'\\', b'u', hex @ ..] => {
                    let digits = hex.get(..4)?;
                    digits.iter().all(u8::is_ascii_hexdigit).then_some(6)?
                }
                [
                    b'\\',
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                    ..,
                ] => 2,
                [0..=31 | b'\\', ..] | [] => return None,
                _ => 1,
            };
        }
        let (text, rest) = self.0.split_at(at);
        self.0 = &rest[1..];
        Some(text)
    }

    fn number(&mut self) -> Option<&'a str> {
        let start = self.0;
        let _ = self.expect("-");
        if self.expect("0").is_none() {
            self.digits()?;
        }
        if self.expect(".").is_some() {
            self.digits()?;
        }
        if let Some(rest) = self.0.strip_prefix(['e', 'E']) {
            self.0 = rest.strip_prefix(['+', '-']).unwrap_or(rest);
            self.digits()?;
        }
        Some(&start[..start.len() - self.0.len()])
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.0.trim_start_matches(|c: char| c.is_ascii_digit());
        let some = rest.len() < self.0.len();
        self.0 = rest;
        some.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        let bytes = jsonb(text).expect("valid");
        String::from_utf8(bytes[1..].to_vec()).expect("UTF-8")
    }

    #[test]
    fn jsonb_has_postgres_normal_form() {
        assert_eq!(normal(r#"{"bb":1,"a":2,"a":3}"#), r#"{"a": 3, "bb": 1}"#);
        assert_eq!(normal("[1.50,1e2,-0 , []]"), "[1.50, 100, 0, []]");
        assert_eq!(
            normal(r#""\u00e9\ud83d\ude00\/\n\u0001""#),
            "\"é😀/\\n\\u0001\""
        );
    }

    #[test]
    fn what_is_not_plainly_valid_is_refused() {
        for text in [
            "", "{", "01", "1.", "[1,]", "\"\t\"", "nul", "1 2", r#""\x""#, "{1:2}",
        ] {
            assert_eq!(json(text), Err(Failure::Refused), "{text}");
        }
        assert!(json(r#""\u0000""#).is_ok());
        assert_eq!(jsonb(r#""\u0000""#), Err(Failure::Refused));
        assert_eq!(jsonb(r#""\ud83d""#), Err(Failure::Refused));
    }
}
