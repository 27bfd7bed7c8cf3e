//! The program as a user starts it: words in, text and status out.

use std::process::{Command, Output};

fn ripen(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripen"));
    command
        .args(words.split_whitespace())
        .env_clear()
        .output()
        .expect("ripen starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn check_config_prints_what_is_in_effect() {
    let output =
        ripen("check-config --upstream postgres://app:hunter2@db/shop --write-behind app.*");
    assert!(output.status.success());
    let settings = text(&output.stdout);
    assert!(
        settings.contains("write_behind = app.*  # --write-behind\n"),
        "{settings}"
    );
    assert!(
        settings.contains("listen = 127.0.0.1:6432  # default\n"),
        "{settings}"
    );
    assert!(!settings.contains("hunter2"), "{settings}");
}

#[test]
fn check_config_prints_every_error_and_fails() {
    let output = ripen("check-config --batch-factor 2 --max-clients 0");
    assert!(!output.status.success());
    let errors = text(&output.stderr);
    assert_eq!(errors.lines().count(), 3, "{errors}");
    for key in ["batch_factor", "max_clients", "upstream"] {
        assert!(errors.contains(key), "{errors}");
    }
}

#[test]
fn start_without_upstream_says_what_is_missing() {
    let output = ripen("");
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("RIPEN_UPSTREAM"));
}

#[test]
fn migrations_are_printed_without_a_connection() {
    let output = ripen("migrate --print");
    assert!(output.status.success());
    let script = text(&output.stdout);
    assert!(
        script.starts_with("BEGIN;") && script.contains("ripen.progress"),
        "{script}"
    );
}

#[test]
fn commands_say_when_postgres_is_away() {
    for words in ["migrate", "dead-letters list", "dead-letters replay 1"] {
        let output = ripen(&format!(
            "{words} --upstream postgres://nobody@127.0.0.1:1/none --listen 127.0.0.1:1"
        ));
        assert!(!output.status.success());
        assert!(!text(&output.stderr).is_empty());
    }
}
