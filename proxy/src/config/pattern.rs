//! Patterns that name tables: `schema.name`, `*` for any run of characters, a bare name meaning schema `public`.
//! Reads identifiers as SQL does (unquoted folds to lower case). Never looks at the catalog: a pattern may match nothing.

use std::fmt;

/// Names tables by schema and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern {
    schema: Part,
    name: Part,
}

/// One identifier: what to match, piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Char(char),
    Any,
}

impl TablePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it, without the key.
    pub fn parse(text: &str) -> Result<TablePattern, String> {
        let mut parts = split(text.trim()).ok_or_else(|| {
            format!(
                "\"{text}\" is not a table pattern; write \"schema.name\", \"schema.*\" or \"name\""
            )
        })?;
        let name = parts.pop();
        let schema = parts
            .pop()
            .unwrap_or_else(|| Part("public".chars().map(Piece::Char).collect()));
        match (name, parts.is_empty()) {
            (Some(name), true) => Ok(TablePattern { schema, name }),
            _ => Err(format!(
                "\"{text}\" has too many parts; write \"schema.name\""
            )),
        }
    }

    /// Reads a comma-separated list of patterns; the empty list is allowed.
    ///
    /// # Errors
    /// Of the first bad pattern.
    pub fn parse_list(text: &str) -> Result<Vec<TablePattern>, String> {
        split_list(text)
            .into_iter()
            .map(TablePattern::parse)
            .collect()
    }

    /// Whether the table of that schema and name (as in the catalog, case as stored) is meant.
    pub fn matches(&self, schema: &str, name: &str) -> bool {
        self.schema.matches(schema) && self.name.matches(name)
    }

    /// Whether every table that `other` names is named by this pattern too.
    pub fn covers(&self, other: &TablePattern) -> bool {
        self.schema.covers(&other.schema) && self.name.covers(&other.name)
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: &char| *c == '_' || *c == '$' || c.is_lowercase() || c.is_numeric();
        let quoted = self
            .0
            .iter()
            .any(|piece| matches!(piece, Piece::Char(c) if !plain(c)));
        if !quoted {
            return self.0.iter().try_for_each(|piece| match piece {
                Piece::Char(c) => write!(f, "{c}"),
                Piece::Any => write!(f, "*"),
            });
        }
        // A wildcard stands outside the quotes, as `parse` reads it.
        let mut inside = false;
        for piece in &self.0 {
            if inside != matches!(piece, Piece::Char(_)) {
                inside = !inside;
                write!(f, "\"")?;
            }
            match piece {
                Piece::Char('"') => write!(f, "\"\"")?,
                Piece::Char(c) => write!(f, "{c}")?,
                Piece::Any => write!(f, "*")?,
            }
        }
        if inside { write!(f, "\"") } else { Ok(()) }
    }
}

impl Part {
    fn matches(&self, text: &str) -> bool {
        let text: Vec<Piece> = text.chars().map(Piece::Char).collect();
        glob(&self.0, &text)
    }

    /// A wildcard in `other` is one more character that only a wildcard here can swallow.
    fn covers(&self, other: &Part) -> bool {
        glob(&self.0, &other.0)
    }
}

/// The classic two-pointer match with backtracking to the last wildcard.
fn glob(pattern: &[Piece], text: &[Piece]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&Piece::Any) {
            retry = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star, at)) = retry {
            retry = Some((star, at + 1));
            p = star + 1;
            t = at + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|piece| *piece == Piece::Any)
}

/// Splits at dots outside quotes; folds what is unquoted.
fn split(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push(Piece::Char('"'));
            }
            '"' => quoted = !quoted,
            _ if quoted => part.push(Piece::Char(c)),
            '.' => parts.push(Part(std::mem::take(&mut part))),
            '*' => part.push(Piece::Any),
            _ if c == '_' || c == '$' || c.is_alphanumeric() => {
                part.extend(c.to_lowercase().map(Piece::Char))
            }
            _ => return None,
        }
    }
    parts.push(Part(part));
    let complete = !quoted && parts.iter().all(|part| !part.0.is_empty());
    complete.then_some(parts)
}

fn split_list(text: &str) -> Vec<&str> {
    let mut quoted = false;
    let items = text.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    items
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TablePattern {
        TablePattern::parse(text).expect("a good pattern")
    }

    #[test]
    fn bare_name_means_public() {
        assert!(pattern("users").matches("public", "users"));
        assert!(!pattern("users").matches("app", "users"));
        assert_eq!(pattern("users").to_string(), "public.users");
    }

    #[test]
    fn star_matches_any_run() {
        assert!(pattern("app.*").matches("app", "x"));
        assert!(pattern("*.*").matches("a", "b"));
        assert!(pattern("app.log_*_old").matches("app", "log_2024_x_old"));
        assert!(!pattern("app.log_*_old").matches("app", "log_old"));
        assert!(!pattern("app.*").matches("apps", "x"));
    }

    #[test]
    fn names_fold_unless_quoted() {
        assert!(pattern("App.Users").matches("app", "users"));
        assert!(pattern("\"App\".\"a.b*\"").matches("App", "a.b*"));
        assert!(!pattern("\"App\".\"a.b*\"").matches("App", "a.bcd"));
        assert!(pattern("x.\"say \"\"hi\"\"\"").matches("x", "say \"hi\""));
        for text in ["\"App\".\"a b\"", "app.t*", "a.\"X\"*", "a.\"q\"\"q\""] {
            assert_eq!(pattern(&pattern(text).to_string()), pattern(text));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", ".", "a.", ".a", "a.b.c", "a b", "a.\"b", "a;b"] {
            assert!(TablePattern::parse(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn lists_split_at_commas_outside_quotes() {
        let list = TablePattern::parse_list("public.sessions, app.*,\"a,b\"").expect("three");
        assert_eq!(list.len(), 3);
        assert!(list[2].matches("public", "a,b"));
        assert!(TablePattern::parse_list("").expect("none").is_empty());
    }

    #[test]
    fn wider_patterns_cover_narrower_ones() {
        assert!(pattern("*.*").covers(&pattern("app.*")));
        assert!(pattern("app.*").covers(&pattern("app.log_*")));
        assert!(!pattern("app.log_*").covers(&pattern("app.*")));
        assert!(pattern("app.a*c").covers(&pattern("app.a*b*c")));
    }
}
