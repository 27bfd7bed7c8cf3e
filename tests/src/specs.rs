//! The files in which PostgreSQL's isolation tests are written: sessions, their steps, and in which orders these are to be taken. Reads them; `script.rs` carries them out.

use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;

/// One file.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Run before each permutation, one after the other.
    pub setup: Vec<String>,
    /// Run after it.
    pub teardown: Vec<String>,
    /// In the order of the file.
    pub sessions: Vec<SpecSession>,
    permutations: Vec<Vec<String>>,
}

/// One session of it.
#[derive(Clone, Debug, Default)]
pub struct SpecSession {
    /// Its name.
    pub name: String,
    /// Run by itself before the steps.
    pub setup: Option<String>,
    /// And after them.
    pub teardown: Option<String>,
    /// Names and statements.
    pub steps: Vec<(String, String)>,
}

impl Spec {
    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is no such file.
    pub fn parse(text: &str) -> anyhow::Result<Spec> {
        let mut words = words(text)?.into_iter().peekable();
        let mut spec = Spec::default();
        while let Some(word) = words.next() {
            match word {
                Word::Name(name) if name == "setup" => spec.setup.push(sql(words.next())?),
                Word::Name(name) if name == "teardown" => spec.teardown.push(sql(words.next())?),
                Word::Name(name) if name == "session" => spec.sessions.push(SpecSession {
                    name: named(words.next())?,
                    ..SpecSession::default()
                }),
                Word::Name(name) if name == "step" => {
                    let step = (named(words.next())?, sql(words.next())?);
                    let session = spec.sessions.last_mut().context("a step of no session")?;
                    session.steps.push(step);
                }
                Word::Name(name) if name == "permutation" => {
                    let mut steps = Vec::new();
                    while let Some(Word::Name(name)) = words.peek() {
                        if name == "permutation" {
                            break;
                        }
                        steps.push(name.clone());
                        words.next();
                    }
                    spec.permutations.push(steps);
                }
                other => bail!("not expected: {other:?}"),
            }
            // A session's own setup and teardown follow its name, and its teardown its steps; those of the file come before the first session.
            if let Some(session) = spec.sessions.last_mut() {
                while let Some(Word::Name(name)) = words.peek() {
                    let part = match name.as_str() {
                        "setup" => &mut session.setup,
                        "teardown" => &mut session.teardown,
                        _ => break,
                    };
                    words.next();
                    *part = Some(sql(words.next())?);
                }
            }
        }
        Ok(spec)
    }

    /// The orders to be taken, as pairs of session and statement: those of the file, or all that there are.
    ///
    /// # Errors
    /// When the file names a step that it does not have.
    pub fn permutations(&self) -> anyhow::Result<Vec<Vec<(&str, &str)>>> {
        let steps: BTreeMap<&str, (&str, &str)> = self
            .sessions
            .iter()
            .flat_map(|session| {
                let steps = session.steps.iter();
                steps.map(|(name, sql)| (name.as_str(), (session.name.as_str(), sql.as_str())))
            })
            .collect();
        if self.permutations.is_empty() {
            let mut all = Vec::new();
            self.interleave(&mut vec![0; self.sessions.len()], &mut Vec::new(), &mut all);
            return Ok(all);
        }
        let orders = self.permutations.iter().map(|names| {
            let named = names.iter().map(|name| {
                let step = steps.get(name.as_str()).copied();
                step.with_context(|| format!("no step {name}"))
            });
            named.collect()
        });
        orders.collect()
    }

    fn interleave<'a>(
        &'a self,
        taken: &mut Vec<usize>,
        order: &mut Vec<(&'a str, &'a str)>,
        all: &mut Vec<Vec<(&'a str, &'a str)>>,
    ) {
        let mut ended = true;
        for (at, session) in self.sessions.iter().enumerate() {
            let Some((_, sql)) = session.steps.get(taken[at]) else {
                continue;
            };
            ended = false;
            taken[at] += 1;
            order.push((&session.name, sql));
            self.interleave(taken, order, all);
            order.pop();
            taken[at] -= 1;
        }
        if ended {
            all.push(order.clone());
        }
    }
}

#[derive(Debug)]
enum Word {
    Name(String),
    Sql(String),
}

fn named(word: Option<Word>) -> anyhow::Result<String> {
    match word {
        Some(Word::Name(name)) => Ok(name),
        other => bail!("a name was expected, not {other:?}"),
    }
}

fn sql(word: Option<Word>) -> anyhow::Result<String> {
    match word {
        Some(Word::Sql(sql)) => Ok(sql),
        other => bail!("statements were expected, not {other:?}"),
    }
}

/// Comments are left out, and so is what a permutation says in parentheses of when a step is expected to end: that is seen.
fn words(text: &str) -> anyhow::Result<Vec<Word>> {
    let (mut words, mut rest) = (Vec::new(), text);
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else {
            return Ok(words);
        };
        let (word, length) = match first {
            '#' => (None, rest.find('\n').unwrap_or(rest.len())),
            '(' => (None, rest.find(')').context("no )")? + 1),
            '{' => {
                let end = rest.find('}').context("no }")?;
                (Some(Word::Sql(without_comments(&rest[1..end]))), end + 1)
            }
            '"' => {
                let end = rest[1..].find('"').context("no second quote")? + 1;
                (Some(Word::Name(rest[1..end].to_owned())), end + 1)
            }
            _ => {
                let inside = |letter: char| letter.is_alphanumeric() || "_-".contains(letter);
                let end = rest.find(|letter| !inside(letter)).unwrap_or(rest.len());
                ensure!(end > 0, "not expected: {rest:.20}");
                (Some(Word::Name(rest[..end].to_owned())), end)
            }
        };
        words.extend(word);
        rest = &rest[length..];
    }
}

/// Statements that may stand in one line.
fn without_comments(sql: &str) -> String {
    let lines = sql
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default().trim());
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_read() {
        let text = "# a comment
            setup { CREATE TABLE t (a int); -- rows follow
              INSERT INTO t VALUES (1); }
            setup { SELECT 1; }
            teardown { DROP TABLE t; }
            session one
            setup { BEGIN; }
            step \"a step\" { SELECT 1; }
            step b { COMMIT; }
            teardown { SELECT 2; }
            session two
            step c { SELECT 3; }
            permutation \"a step\" c(*) b(c notices 2)
            permutation c b";
        let spec = Spec::parse(text).unwrap();
        assert_eq!(
            spec.setup[0],
            "CREATE TABLE t (a int); INSERT INTO t VALUES (1);"
        );
        assert_eq!((spec.setup.len(), spec.teardown.len()), (2, 1));
        assert_eq!(spec.sessions[0].setup.as_deref(), Some("BEGIN;"));
        assert_eq!(spec.sessions[0].teardown.as_deref(), Some("SELECT 2;"));
        let orders = spec.permutations().unwrap();
        assert_eq!(
            orders[0],
            [
                ("one", "SELECT 1;"),
                ("two", "SELECT 3;"),
                ("one", "COMMIT;")
            ]
        );
        assert_eq!(orders[1], [("two", "SELECT 3;"), ("one", "COMMIT;")]);
    }

    #[test]
    fn without_permutations_all_orders_are_taken() {
        let text = "session a step a1 {x} step a2 {y} session b step b1 {z}";
        let spec = Spec::parse(text).unwrap();
        assert_eq!(spec.permutations().unwrap().len(), 3);
        assert!(Spec::parse("step a {x}").is_err());
        assert!(Spec::parse("session a {x}").is_err());
    }
}
