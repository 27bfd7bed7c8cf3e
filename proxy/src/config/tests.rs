//! The rules of the configuration, one by one.

use super::*;

const UP: &str = "upstream = \"postgres://app@db:5432/app\"\n";

fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let own = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let sources = Sources {
        file: (!file.is_empty()).then(|| (PathBuf::from("r.toml"), file.to_owned())),
        env: own(env),
        flags: own(flags),
    };
    Config::load(&sources).map_err(|problems| problems.to_string())
}

fn file(text: &str) -> Result<Config, String> {
    load(&format!("{UP}{text}"), &[], &[])
}

#[track_caller]
fn fails(text: &str, expected: &str) {
    assert_eq!(file(text), Err(expected.to_owned()));
}

#[test]
fn upstream_alone_is_enough() {
    let config = load("", &[], &[("upstream", "postgres://db/app")]).expect("good");
    assert_eq!(config.listen, "127.0.0.1:6432");
    assert_eq!(config.admin_listen, "127.0.0.1:6433");
    assert_eq!(config.data_dir, PathBuf::from("./data"));
    assert_eq!(config.table("public", "t"), TableSettings::default());
    assert_eq!(config.table("public", "t").mode, Mode::ReadThrough);
}

#[test]
fn upstream_must_be_given() {
    let expected = "configuration: upstream: is missing; give --upstream, RIPEN_UPSTREAM or the key in the file";
    assert_eq!(load("", &[], &[]), Err(expected.to_owned()));
    let bad = load("", &[("RIPEN_UPSTREAM", "db:5432")], &[]);
    assert_eq!(
        bad,
        Err(
            "RIPEN_UPSTREAM: upstream: not a URL that begins with postgres:// or postgresql://"
                .to_owned()
        )
    );
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let text = format!("{UP}pending_wait = \"1s\"\nupstream_wait = \"1s\"\nstop_timeout = \"1s\"");
    let env = [
        ("RIPEN_UPSTREAM_WAIT", "2s"),
        ("RIPEN_STOP_TIMEOUT", "2s"),
        ("HOME", "/x"),
    ];
    let config = load(&text, &env, &[("stop_timeout", "3s")]).expect("good");
    let waits = [
        config.barrier_timeout,
        config.pending_wait,
        config.upstream_wait,
        config.stop_timeout,
    ];
    assert_eq!(waits.map(|wait| wait.as_secs()), [30, 1, 2, 3]);
    let origin = |key| config.origins.get(key).map(Origin::to_string);
    assert_eq!(origin("pending_wait").as_deref(), Some("r.toml:2"));
    assert_eq!(
        origin("upstream_wait").as_deref(),
        Some("RIPEN_UPSTREAM_WAIT")
    );
    assert_eq!(origin("stop_timeout").as_deref(), Some("--stop-timeout"));
    assert_eq!(origin("barrier_timeout"), None);
}

#[test]
fn unknown_keys_are_named_with_their_place() {
    fails(
        "\nlistenn = \"a:1\"",
        "r.toml:3: listenn: unknown key; did you mean \"listen\"?",
    );
    fails(
        "[[table]]\npattern = \"a.b\"\nwrite-delay = \"1s\"",
        "r.toml:4: table.write-delay: unknown key; did you mean \"write_delay\"?",
    );
    fails("nonsense = 1", "r.toml:2: nonsense: unknown key");
    fails(
        "[cache]\nsize = 1",
        "r.toml:2: cache: unknown section, or a value that is not a text, number, boolean or list",
    );
    fails(
        "mode = \"off\"",
        "r.toml:2: mode: belongs into a [[table]] entry",
    );
    fails(
        "[[table]]\npattern = \"a\"\nlisten = \"b:1\"",
        "r.toml:4: table.listen: belongs outside of [[table]] entries",
    );
    let env = load(UP, &[("RIPEN_LISTEM", "x")], &[]);
    assert_eq!(
        env,
        Err("RIPEN_LISTEM: listem: unknown key; did you mean \"listen\"?".to_owned())
    );
}

#[test]
fn variables_of_container_platforms_are_not_keys() {
    let env = [
        ("RIPEN_SERVICE_HOST", "10.0.0.1"),
        ("RIPEN_PORT", "tcp://10.0.0.1:6432"),
        ("RIPEN_CONFIG", "f"),
    ];
    assert!(load(UP, &env, &[]).is_ok());
}

#[test]
fn all_problems_are_told_at_once() {
    let both = file("durability = \"maybe\"\nmax_clients = 0").expect_err("two problems");
    let expected = "r.toml:2: durability: \"maybe\" is not one of \"fsync\", \"memory\"\nr.toml:3: max_clients: must be more than 0";
    assert_eq!(both, expected);
}

#[test]
fn broken_toml_names_its_line() {
    let error = load("listen = \"a:1\"\nlisten = \"b:1\"", &[], &[]).expect_err("a duplicate");
    assert_eq!(error, "r.toml:2: duplicate key");
}

#[test]
fn values_out_of_range_are_refused() {
    fails(
        "batch_factor = 1.5",
        "r.toml:2: batch_factor: \"1.5\" is not a number from 0 to 1",
    );
    fails(
        "memory_share = 0.0",
        "r.toml:2: memory_share: must be more than 0",
    );
    fails(
        "listen = \"6432\"",
        "r.toml:2: listen: \"6432\" is not host:port",
    );
    fails(
        "catalog_poll = \"0\"",
        "r.toml:2: catalog_poll: must be more than 0",
    );
    fails(
        "log_format = \"xml\"",
        "r.toml:2: log_format: \"xml\" is not one of \"text\", \"json\"",
    );
    fails(
        "expiry = \"99ms\"",
        "r.toml:2: expiry: \"99ms\" is less than 100ms",
    );
    fails(
        "resident_rows_max = 100001",
        "r.toml:2: resident_rows_max: \"100001\" is more than 100000",
    );
    assert!(file("slot = \"My-Slot\"").is_err());
    assert!(file("log_level = \"info,ripen=banana\"").is_err());
    assert!(file("memory_max = 1000000").is_err());
    assert!(file("pending_wait = 5").is_err());
}

#[test]
fn contradictions_name_the_key() {
    fails("tls_cert = \"c.pem\"", "r.toml:2: tls_cert: needs tls_key");
    fails("tls_key = \"k.pem\"", "r.toml:2: tls_key: needs tls_cert");
    fails(
        "admin_listen = \"127.0.0.1:6432\"",
        "r.toml:2: admin_listen: is the same address as listen",
    );
    fails(
        "listen = \"db:5432\"",
        "r.toml:1: upstream: is the address of listen: Ripen would stand in front of itself",
    );
    fails(
        "memory_max = \"1MiB\"\nmax_pending_bytes = \"2MiB\"",
        "r.toml:3: max_pending_bytes: is more than memory_max, but pending rows stay in memory",
    );
    fails(
        "log = 1",
        "r.toml:2: log: 1 is none of 1 logs, which are counted from 0",
    );
    fails(
        "logs = 2\n[[table]]\npattern = \"a\"\nlog = 2",
        "r.toml:5: table.log: 2 is none of 2 logs, which are counted from 0",
    );
    fails(
        "logs = 2\nstandbys = [\"two\"]",
        "r.toml:2: logs: flushes are kept for standbys in one log only as yet; leave this out, or leave out standbys",
    );
}

#[test]
fn a_table_with_an_expiry_is_not_resident() {
    let why = "a table with an expiry cannot be held whole";
    let told = |text: &str| file(text).expect_err("a contradiction");
    let both = told("[[table]]\npattern = \"a.b\"\nresident = true\nexpiry = \"1h\"");
    assert_eq!(both, format!("r.toml:4: table.resident: {why}"));
    let above = told("expiry = \"1h\"\n[[table]]\npattern = \"a.b\"\nresident = true");
    assert_eq!(above, format!("r.toml:5: table.resident: {why}"));
    let off = told("[[table]]\npattern = \"a.b\"\nmode = \"off\"\nresident = true");
    assert_eq!(
        off,
        "r.toml:5: table.resident: means nothing with mode = \"off\""
    );
    let config = file("[[table]]\npattern = \"a.b\"\nresident = true").expect("good");
    assert!(config.table("a", "b").resident && !config.table("a", "c").resident);
}

#[test]
fn first_matching_entry_wins() {
    let config = file(
        "[[table]]\npattern = \"app.audit\"\nmode = \"off\"\n[[table]]\npattern = \"app.*\"\nmode = \"write-behind\"\nwrite_delay = \"250ms\"\nexpiry = \"1h\"",
    )
    .expect("good");
    assert_eq!(config.table("app", "audit").mode, Mode::Off);
    let other = config.table("app", "x");
    assert_eq!(
        (other.mode, other.write_delay),
        (Mode::WriteBehind, Duration::from_millis(250))
    );
    assert_eq!(other.expiry, Some(Duration::from_secs(3600)));
    assert_eq!(config.table("public", "x").mode, Mode::ReadThrough);
}

#[test]
fn write_behind_decides_where_no_entry_does() {
    let text = "write_behind = [\"sessions\", \"app.*\"]\nwrite_delay = \"5s\"\n[[table]]\npattern = \"app.audit\"\nmode = \"off\"\n[[table]]\npattern = \"app.hot\"\nbatch_factor = 0.5";
    let config = file(text).expect("good");
    assert_eq!(config.table("public", "sessions").mode, Mode::WriteBehind);
    assert_eq!(config.table("app", "audit").mode, Mode::Off);
    let hot = config.table("app", "hot");
    assert_eq!(
        (hot.mode, hot.batch_factor, hot.write_delay.as_secs()),
        (Mode::WriteBehind, 0.5, 5)
    );
    assert_eq!(config.table("public", "other").mode, Mode::ReadThrough);
    let flags = [
        ("upstream", "postgres://h/d"),
        ("write_behind", "public.sessions,app.*"),
    ];
    assert_eq!(
        load("", &[], &flags).expect("good").write_behind,
        config.write_behind
    );
}

#[test]
fn system_schemas_are_never_cached() {
    let config = file("[[table]]\npattern = \"*.*\"\nmode = \"write-behind\"").expect("good");
    for schema in ["pg_catalog", "information_schema", "pg_temp_3", "ripen"] {
        assert_eq!(config.table(schema, "x").mode, Mode::Off);
    }
}

#[test]
fn entries_that_say_nothing_useful_are_refused() {
    fails(
        "[[table]]\nmode = \"off\"",
        "r.toml:2: table.pattern: is missing",
    );
    fails(
        "[[table]]\npattern = \"app.*\"\n[[table]]\npattern = \"app.x\"",
        "r.toml:4: table.pattern: \"app.x\" is never used: r.toml:2 (\"app.*\") matches first",
    );
    fails(
        "[[table]]\npattern = \"a.b\"\nmode = \"read-through\"\nwrite_delay = \"1s\"",
        "r.toml:5: table.write_delay: means nothing with mode = \"read-through\"",
    );
    fails(
        "[[table]]\npattern = \"a.b\"\nexclusive = true\nconflict = \"database\"",
        "r.toml:5: table.conflict: means nothing with exclusive = true: nobody else writes the table",
    );
    fails(
        "write_behind = [\"app.x\"]\n[[table]]\npattern = \"app.*\"\nmode = \"off\"",
        "r.toml:2: write_behind: \"app.x\" contradicts r.toml:3, where mode = \"off\"",
    );
}

#[test]
fn effective_values_read_back_as_themselves() {
    let config = file("memory_max = \"1.5GiB\"\nwrite_behind = [\"app.*\"]\nexpiry = \"2min\"\ntls_cert = \"c\"\ntls_key = \"k\"").expect("good");
    let mut again = Config::default();
    for key in schema::GLOBAL {
        let text = (key.show)(&config);
        if !text.is_empty() {
            (key.set)(&mut again, &text).expect(key.name);
        }
    }
    for key in schema::TABLE {
        (key.set)(
            &mut again.table_defaults,
            &(key.show)(&config.table_defaults),
        )
        .expect(key.name);
    }
    again.origins = config.origins.clone();
    assert_eq!(again, config);
}

#[test]
fn every_key_is_documented() {
    let manual = include_str!("../../../docs/CONFIGURATION.md");
    let names = schema::GLOBAL
        .iter()
        .map(|key| key.name)
        .chain(schema::TABLE.iter().map(|key| key.name));
    let missing: Vec<&str> = names
        .filter(|name| !manual.contains(&format!("| `{name}` |")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/CONFIGURATION.md does not tell about {missing:?}"
    );
}
