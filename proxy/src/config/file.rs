//! Reads the TOML file into settings that know their line. Never judges values; `load.rs` does.

use super::load::{Origin, Problem, Setting};
use std::path::Path;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// What a file says: keys in order of appearance, the `[[table]]` entries, and what could not be read.
#[derive(Default)]
pub(super) struct File {
    pub globals: Vec<Setting>,
    pub tables: Vec<(Origin, Vec<Setting>)>,
    pub problems: Vec<Problem>,
}

/// Reads the text of a file.
pub(super) fn parse(path: &Path, text: &str) -> File {
    let mut file = File::default();
    let lines = Lines {
        path: path.to_owned().into(),
        text,
    };
    match DeTable::parse(text) {
        Ok(document) => file.read(document.get_ref(), &lines),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            file.problem("", lines.origin(at), error.message());
        }
    }
    file
}

impl File {
    fn read(&mut self, document: &DeTable<'_>, lines: &Lines<'_>) {
        for (key, value) in document.iter() {
            let origin = lines.origin(key.span().start);
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("table", DeValue::Array(entries)) => {
                    for entry in entries.iter() {
                        self.read_entry(entry.get_ref(), lines.origin(entry.span().start), lines);
                    }
                }
                ("table", _) => self.problem("table", origin, "write it as [[table]] entries"),
                (name, value) => {
                    let setting = self.setting(name, value, origin);
                    self.globals.extend(setting);
                }
            }
        }
        self.globals.sort_by_key(|setting| setting.origin.clone());
    }

    fn read_entry(&mut self, entry: &DeValue<'_>, origin: Origin, lines: &Lines<'_>) {
        let DeValue::Table(table) = entry else {
            return self.problem("table", origin, "write it as [[table]] entries");
        };
        let mut settings = Vec::new();
        for (key, value) in table.iter() {
            let at = lines.origin(key.span().start);
            settings.extend(self.setting(key.get_ref(), value.get_ref(), at));
        }
        settings.sort_by_key(|setting| setting.origin.clone());
        self.tables.push((origin, settings));
    }

    fn setting(&mut self, name: &str, value: &DeValue<'_>, origin: Origin) -> Option<Setting> {
        let text = match value {
            DeValue::Array(items) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| scalar(item.get_ref())).collect();
                texts.map(|texts| texts.join(","))
            }
            other => scalar(other),
        };
        let key = name.to_owned();
        if text.is_none() {
            let message = "unknown section, or a value that is not a text, number, boolean or list";
            self.problem(name, origin.clone(), message);
        }
        text.map(|text| Setting { key, text, origin })
    }

    fn problem(&mut self, key: &str, origin: Origin, message: &str) {
        self.problems.push(Problem {
            key: key.to_owned(),
            origin,
            message: message.to_owned(),
        });
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

struct Lines<'t> {
    path: Arc<Path>,
    text: &'t str,
}

impl Lines<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Origin::File {
            path: self.path.clone(),
            line,
        }
    }
}
