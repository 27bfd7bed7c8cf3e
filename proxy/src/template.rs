//! Takes the literals out of a simple query, so that texts which differ in their values only share one plan. Refuses whatever it does not surely
//! understand; the whole text is then planned by the real parser. Never changes what a statement means: a literal becomes a parameter of the type that
//! Postgres gives the literal (integer, bigint, numeric, unknown).
//!
//! Rules taken from Postgres's manual, "Lexical Structure", for `standard_conforming_strings = on`.

use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use std::ops::Range;

/// A text without literals and where they stood. Reusable: [`Template::read`] clears it first.
#[derive(Debug, Default)]
pub struct Template {
    /// The statement with `$1`, `$2`… in place of literals.
    pub text: String,
    /// Declared types of the parameters; 0 = unknown.
    pub types: Vec<TypeOid>,
    /// Where the literals' contents stand in the original (quotes excluded).
    pub spans: Vec<Range<usize>>,
    /// Whether any string contains a doubled quote, to be halved before use.
    pub doubled: Vec<bool>,
}

impl Template {
    /// Reads a statement. Answers false when it is refused (or has no literal, so that there is nothing to gain).
    pub fn read(&mut self, sql: &str) -> bool {
        self.text.clear();
        self.types.clear();
        self.spans.clear();
        self.doubled.clear();
        Scanner {
            sql: sql.as_bytes(),
            at: 0,
            out: self,
        }
        .run(sql)
        .is_some()
            && !self.types.is_empty()
    }

    fn literal(&mut self, kind: TypeOid, span: Range<usize>, doubled: bool) {
        use std::fmt::Write;
        self.types.push(kind);
        self.spans.push(span);
        self.doubled.push(doubled);
        write!(self.text, "${}", self.types.len()).expect("writing to a String does not fail");
    }
}

struct Scanner<'a> {
    sql: &'a [u8],
    at: usize,
    out: &'a mut Template,
}

impl Scanner<'_> {
    fn run(&mut self, text: &str) -> Option<()> {
        while let Some(byte) = self.peek(0) {
            let start = self.at;
            match byte {
                b'\'' => self.string()?,
                b'0'..=b'9' => self.number()?,
                b'"' => {
                    self.quoted()?;
                    self.out.text.push_str(&text[start..self.at]);
                }
                b'A'..=b'Z' | b'a'..=b'z' | b'_' | 0x80.. => {
                    self.word()?;
                    self.out.text.push_str(&text[start..self.at]);
                }
                b';' => {
                    return self.sql[self.at + 1..]
                        .iter()
                        .all(u8::is_ascii_whitespace)
                        .then_some(());
                }
                b'$' | b'\\' | 0 => return None,
                b'-' if self.peek(1) == Some(b'-') => return None,
                b'/' if self.peek(1) == Some(b'*') => return None,
                b'.' if self.peek(1).is_some_and(|next| next.is_ascii_digit()) => return None,
                _ => {
                    self.at += 1;
                    self.out.text.push(char::from(byte));
                }
            }
        }
        Some(())
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.at += 1;
        }
    }

    /// A word. `E'…'` and its like are another kind of string; ORDER BY 1 and GROUP BY 1 name columns by literals.
    fn word(&mut self) -> Option<()> {
        let start = self.at;
        self.skip_while(in_word);
        let word = &self.sql[start..self.at];
        let positional = [&b"order"[..], b"group"]
            .iter()
            .any(|keyword| word.eq_ignore_ascii_case(keyword));
        let prefix = matches!(self.peek(0), Some(b'\'' | b'"' | b'&')) && word.len() == 1;
        (!positional && !prefix).then_some(())
    }

    fn quoted(&mut self) -> Option<()> {
        self.at += 1;
        self.skip_while(|byte| byte != b'"');
        self.peek(0)?;
        self.at += 1;
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        let start = self.at + 1;
        let mut doubled = false;
        self.at = start;
        loop {
            self.skip_while(|byte| byte != b'\'' && byte != 0);
            match (self.peek(0)?, self.peek(1)) {
                (b'\'', Some(b'\'')) => {
                    doubled = true;
                    self.at += 2;
                }
                (b'\'', _) => break,
                _ => return None,
            }
        }
        let span = start..self.at;
        self.at += 1;
        // 'a' 'b' across a line break is one string: leave that to the parser.
        let next = self.sql[self.at..]
            .iter()
            .find(|byte| !byte.is_ascii_whitespace());
        if next == Some(&b'\'') {
            return None;
        }
        self.out.literal(TypeOid(0), span, doubled);
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        self.skip_while(|byte| byte.is_ascii_digit());
        let fraction = self.peek(0) == Some(b'.');
        if fraction {
            self.at += 1;
            self.skip_while(|byte| byte.is_ascii_digit());
        }
        if self
            .peek(0)
            .is_some_and(|byte| in_word(byte) || byte == b'.')
        {
            return None;
        }
        let digits = std::str::from_utf8(&self.sql[start..self.at]).ok()?;
        // With a minus before them they are of a smaller type than without.
        let lowest = [1 << 31, 1 << 63].map(Ok);
        if !fraction && lowest.contains(&digits.parse::<u64>()) {
            return None;
        }
        let kind = match (fraction, digits.parse::<i64>()) {
            (true, _) => oid::NUMERIC,
            (false, Ok(value)) if i32::try_from(value).is_ok() => oid::INT4,
            (false, Ok(_)) => oid::INT8,
            (false, Err(_)) => oid::NUMERIC,
        };
        self.out.literal(kind, start..self.at, false);
        Some(())
    }
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Option<(String, Vec<(u32, String)>)> {
        let mut template = Template::default();
        template.read(sql).then(|| {
            let literals = template.types.iter().zip(&template.spans);
            let literals = literals
                .map(|(kind, span)| (kind.0, sql[span.clone()].to_owned()))
                .collect();
            (template.text, literals)
        })
    }

    #[test]
    fn literals_become_parameters_of_their_own_type() {
        let (text, literals) = read("SELECT a FROM t WHERE id = 42 AND b IN ('x', 'it''s') AND n = 5000000000 AND f = 1.50;").unwrap();
        assert_eq!(
            text,
            "SELECT a FROM t WHERE id = $1 AND b IN ($2, $3) AND n = $4 AND f = $5"
        );
        let expected = [
            (23, "42"),
            (0, "x"),
            (0, "it''s"),
            (20, "5000000000"),
            (1700, "1.50"),
        ];
        assert_eq!(
            literals,
            expected.map(|(kind, text)| (kind, text.to_owned()))
        );
    }

    #[test]
    fn whatever_is_not_plain_is_refused() {
        let odd = [
            "SELECT E'a'",
            "SELECT U&'a'",
            "SELECT $$a$$",
            "SELECT 1 -- x",
            "SELECT /* x */ 1",
            "SELECT 1; SELECT 2",
            "SELECT 1e5",
            "SELECT 0x10",
            "SELECT 'a'\n'b'",
            "SELECT a FROM t WHERE b = 1 ORDER BY 1",
            "SELECT 'open",
            "SELECT x FROM t",
            "SELECT \"open",
            "SELECT .5",
            "SELECT b'1'",
            "SELECT -2147483648",
            "SELECT -9223372036854775808",
        ];
        for sql in odd {
            assert_eq!(read(sql), None, "{sql}");
        }
    }

    #[test]
    fn names_and_quoted_names_keep_their_digits() {
        let (text, literals) = read("UPDATE \"T 1\" SET c1 = c1 + 7 WHERE \"i'd\" = 9").unwrap();
        assert_eq!(text, "UPDATE \"T 1\" SET c1 = c1 + $1 WHERE \"i'd\" = $2");
        assert_eq!(literals.len(), 2);
    }
}
