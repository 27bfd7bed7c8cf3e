//! Merges file, environment and flags into a [`Config`], collecting every problem instead of the first. Never prints and never exits.

use super::schema::{GLOBAL, TABLE, parse_mode};
use super::{Config, TablePattern, TableRule, check, file};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of the file, counted from 1.
    File {
        /// As given.
        path: Arc<Path>,
        /// The line.
        line: usize,
    },
    /// A variable.
    Env(String),
    /// A flag.
    Flag(String),
    /// Nowhere: something is missing.
    Nowhere,
}

/// One key with its text and origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// Its value as text.
    pub text: String,
    /// Where it stands.
    pub origin: Origin,
}

/// Everything a configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's path and text, if there is one.
    pub file: Option<(PathBuf, String)>,
    /// The environment; names that do not begin with `RIPEN_` are ignored.
    pub env: Vec<(String, String)>,
    /// Flags by key, with what was typed.
    pub flags: Vec<(String, String)>,
}

/// Something wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key; empty when the file is not TOML.
    pub key: String,
    /// Where.
    pub origin: Origin,
    /// What, in lower case without a full stop.
    pub message: String,
}

/// Everything wrong with the configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl Config {
    /// Merges and checks.
    ///
    /// # Errors
    /// Unknown keys, values that cannot be read, contradictions, a missing upstream; all that were found.
    pub fn load(sources: &Sources) -> Result<Config, Problems> {
        let (mut loader, tables) = Loader::of(sources);
        for (origin, settings) in tables {
            loader.add_table(origin, settings);
        }
        // A file that is not TOML says nothing: what it leaves out is not missing.
        if !loader.problems.iter().any(|problem| problem.key.is_empty()) {
            check::check(&loader.config, &mut loader.problems);
        }
        if loader.problems.is_empty() {
            Ok(loader.config)
        } else {
            Err(Problems(loader.problems))
        }
    }

    /// Where a program on the same machine reaches the admin server, whatever else is missing or wrong.
    ///
    /// # Errors
    /// When just that cannot be read.
    pub fn admin_address(sources: &Sources) -> Result<String, Problems> {
        let (mut loader, _) = Loader::of(sources);
        let concerns = |problem: &Problem| matches!(problem.key.as_str(), "" | "admin_listen");
        loader.problems.retain(concerns);
        match loader.problems.is_empty() {
            true => Ok(near(&loader.config.admin_listen)),
            false => Err(Problems(loader.problems)),
        }
    }
}

/// An address to connect to, of one to listen on.
fn near(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(any)) if any.ip().is_unspecified() => format!("127.0.0.1:{}", any.port()),
        Ok(SocketAddr::V6(any)) if any.ip().is_unspecified() => format!("[::1]:{}", any.port()),
        _ => listen.to_owned(),
    }
}

/// Names that container platforms set for services called "ripen" or "ripen-something", and the file's own name.
fn is_foreign(name: &str) -> bool {
    let of_tests = cfg!(debug_assertions) && name == "FAILPOINTS";
    let of_services = name == "PORT"
        || name.starts_with("PORT_")
        || name.starts_with("SERVICE_")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
        || name.contains("_SERVICE_");
    of_tests || of_services || name == "CONFIG"
}

fn variable((name, text): &(String, String)) -> Option<Setting> {
    let key = name.strip_prefix("RIPEN_").filter(|key| !is_foreign(key))?;
    Some(Setting {
        key: key.to_ascii_lowercase(),
        text: text.clone(),
        origin: Origin::Env(name.clone()),
    })
}

fn flag((key, text): &(String, String)) -> Setting {
    let origin = Origin::Flag(format!("--{}", key.replace('_', "-")));
    Setting {
        key: key.clone(),
        text: text.clone(),
        origin,
    }
}

#[derive(Default)]
struct Loader {
    config: Config,
    problems: Vec<Problem>,
}

impl Loader {
    /// All layers but the `[[table]]` entries, which are completed by them.
    fn of(sources: &Sources) -> (Loader, Vec<(Origin, Vec<Setting>)>) {
        let mut loader = Loader::default();
        let mut tables = Vec::new();
        if let Some((path, text)) = &sources.file {
            let file = file::parse(path, text);
            loader.problems = file.problems;
            loader.apply_all(file.globals);
            tables = file.tables;
        }
        loader.apply_all(sources.env.iter().filter_map(variable).collect());
        loader.apply_all(sources.flags.iter().map(flag).collect());
        (loader, tables)
    }

    fn apply_all(&mut self, settings: Vec<Setting>) {
        for setting in settings {
            let Some((name, outcome)) = self.set(&setting) else {
                self.unknown(&setting.key, setting.origin, "");
                continue;
            };
            self.config.origins.insert(name, setting.origin.clone());
            if let Err(message) = outcome {
                self.problem(name, setting.origin, message);
            }
        }
    }

    /// `None`: no such key.
    fn set(&mut self, setting: &Setting) -> Option<(&'static str, Result<(), String>)> {
        if let Some(key) = GLOBAL.iter().find(|key| key.name == setting.key) {
            return Some((key.name, (key.set)(&mut self.config, &setting.text)));
        }
        let key = TABLE.iter().find(|key| key.name == setting.key)?;
        let defaults = &mut self.config.table_defaults;
        Some((key.name, (key.set)(defaults, &setting.text)))
    }

    fn add_table(&mut self, origin: Origin, settings: Vec<Setting>) {
        let mut rule = TableRule {
            pattern: TablePattern::parse("nothing").expect("a literal pattern is good"),
            mode: None,
            settings: self.config.table_defaults.clone(),
            origin: origin.clone(),
            keys: BTreeMap::new(),
        };
        let mut named = false;
        for Setting { key, text, origin } in settings {
            let outcome = match key.as_str() {
                "pattern" => {
                    named = true;
                    TablePattern::parse(&text).map(|pattern| rule.pattern = pattern)
                }
                "mode" => parse_mode(&text).map(|mode| rule.mode = Some(mode)),
                _ => match TABLE.iter().find(|known| known.name == key) {
                    Some(known) => {
                        rule.keys.insert(known.name, origin.clone());
                        (known.set)(&mut rule.settings, &text)
                    }
                    None => {
                        self.unknown(&key, origin, "table.");
                        continue;
                    }
                },
            };
            if let Err(message) = outcome {
                self.problem(&format!("table.{key}"), origin, message);
            }
        }
        if named {
            self.config.tables.push(rule);
        } else {
            self.problem("table.pattern", origin, "is missing".to_owned());
        }
    }

    fn unknown(&mut self, key: &str, origin: Origin, prefix: &str) {
        let entry = !prefix.is_empty();
        let elsewhere = GLOBAL.iter().any(|known| known.name == key && entry)
            || (matches!(key, "pattern" | "mode") && !entry);
        let message = match (elsewhere, entry) {
            (true, true) => "belongs outside of [[table]] entries".to_owned(),
            (true, false) => "belongs into a [[table]] entry".to_owned(),
            _ => "unknown key".to_owned() + &suggestion(key),
        };
        self.problem(&format!("{prefix}{key}"), origin, message);
    }

    fn problem(&mut self, key: &str, origin: Origin, message: String) {
        self.problems.push(Problem {
            key: key.to_owned(),
            origin,
            message,
        });
    }
}

/// The known key that differs only in separators or case, or in one letter.
fn suggestion(key: &str) -> String {
    let plain = |text: &str| text.replace(['_', '-'], "").to_lowercase();
    let names = GLOBAL
        .iter()
        .map(|key| key.name)
        .chain(TABLE.iter().map(|key| key.name));
    let near = |name: &&str| {
        let (a, b) = (plain(name), plain(key));
        let same =
            |x: &mut dyn Iterator<Item = (char, char)>| x.take_while(|(p, q)| p == q).count();
        let front = same(&mut a.chars().zip(b.chars()));
        let back = same(&mut a.chars().rev().zip(b.chars().rev()));
        a.len().abs_diff(b.len()) <= 1 && front + back + 1 >= a.len().max(b.len())
    };
    names
        .into_iter()
        .find(near)
        .map(|name| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) | Origin::Flag(name) => write!(f, "{name}"),
            Origin::Nowhere => write!(f, "configuration"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            return write!(f, "{}: {}", self.origin, self.message);
        }
        write!(f, "{}: {}: {}", self.origin, self.key, self.message)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        write!(f, "{}", lines.join("\n"))
    }
}
