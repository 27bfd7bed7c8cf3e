//! Sessions whose connection to Postgres is parked, lost or refused, and what they can still do.

use super::login::{state, wait_for};
use super::memory::{Memory, remembering_with};
use super::postgres::postgres;
use super::proxy::{Proxy, target};
use super::raw::{Raw, bind, finish, parse, tags};
use ripen_pg::wire::frontend;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SETUP: &str =
    "CREATE TABLE kv (id int PRIMARY KEY, v text); INSERT INTO kv VALUES (2, 'postgres');
    CREATE TABLE other (id int PRIMARY KEY, v text); CREATE SEQUENCE numbers";
const REMEMBERED: [&str; 1] = ["INSERT INTO kv VALUES (2, 'memory')"];
const ROW_2: &str = "SELECT v FROM kv WHERE id = 2";

/// Stands between proxy and Postgres and can go away: breaks its connections and takes no new ones.
struct Cable {
    port: u16,
    cut: Arc<AtomicBool>,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    fn new() -> Cable {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cable = Cable {
            port,
            cut: Arc::default(),
            sockets: Arc::default(),
        };
        let (cut, sockets) = (Arc::clone(&cable.cut), Arc::clone(&cable.sockets));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", postgres().port)).unwrap();
                let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                sockets.lock().unwrap().extend(ends);
                copy(client.try_clone().unwrap(), server.try_clone().unwrap());
                copy(server, client);
            }
        });
        cable
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            if to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn parking(database: &str) -> Proxy<Memory> {
    remembering_with(database, SETUP, &REMEMBERED, |front| {
        front.park_after = Some(Duration::from_millis(50));
    })
}

fn backends(database: &str) -> String {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'");
    Raw::connect(postgres().port).value(&sql)
}

#[test]
fn an_idle_session_without_state_keeps_no_backend() {
    let proxy = parking("parks");
    let mut raw = Raw::connect_to(proxy.port, "parks");
    parse(
        &mut raw.out,
        "s",
        "SELECT count(*) FROM other WHERE id = $1",
    );
    assert_eq!(tags(&finish(&mut raw)), "1Z");
    for _ in 0..2 {
        wait_for(|| backends("parks") == "0");
        assert_eq!(raw.value(ROW_2), "memory");
        assert_eq!(backends("parks"), "0", "an answer from memory needs none");
        bind(&mut raw.out, "", "s", &[Some("1")]);
        frontend::execute(&mut raw.out, b"", 0);
        assert_eq!(
            tags(&finish(&mut raw)),
            "2DCZ",
            "its statement is there again"
        );
    }
    wait_for(|| backends("parks") == "0");
    raw.query("BEGIN");
    assert_eq!(raw.value("SELECT count(*) FROM other"), "0");
    assert_eq!(raw.query("COMMIT")[1].body, b"I");
    frontend::query(&mut raw.out, b"SELECT pg_sleep(30)");
    raw.send();
    let active =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'parks' AND wait_event = 'PgSleep'";
    let mut watcher = Raw::connect(postgres().port);
    wait_for(|| watcher.value(active) == "1");
    super::raw::cancel(proxy.port, raw.key.as_ref().unwrap());
    assert_eq!(
        state(&raw.until(b'Z')[1]),
        "57014",
        "the key of the login still serves"
    );
}

#[test]
fn settings_that_came_while_a_session_was_parked_are_noticed_by_its_first_statement() {
    let proxy = parking("parked_settings");
    let mut raw = Raw::connect_to(proxy.port, "parked_settings");
    let count = "SELECT count(*) FROM other";
    assert_eq!(raw.value(count), "0");
    let entered = || {
        let mut calls = proxy.front.answerer.calls();
        calls.retain(|call| call.starts_with("enter"));
        calls
    };
    assert_eq!(entered(), ["enter Select 0 OfStatement"]);
    wait_for(|| backends("parked_settings") == "0");
    assert_eq!(raw.value(count), "0");
    assert_eq!(entered(), ["enter Select 0 OfStatement"]);
    let other = "CREATE SCHEMA hidden; CREATE TABLE hidden.other AS SELECT 1 AS id;
        ALTER DATABASE parked_settings SET search_path = hidden, public";
    Raw::connect_to(postgres().port, "parked_settings").query(other);
    wait_for(|| backends("parked_settings") == "0");
    assert_eq!(raw.value(count), "1");
    assert_eq!(entered()[0][..13], *"enter Unknown");
}

#[test]
fn a_login_alone_keeps_no_backend_for_long() {
    let proxy = remembering_with("logs_in", SETUP, &REMEMBERED, |front| {
        front.park_after = Some(Duration::from_secs(3600));
    });
    let mut raw = Raw::connect_to(proxy.port, "logs_in");
    wait_for(|| backends("logs_in") == "0");
    assert_eq!(raw.value(ROW_2), "memory");
    assert_eq!(raw.value("SELECT count(*) FROM other"), "0");
    assert_eq!(
        backends("logs_in"),
        "1",
        "once used, it is kept as configured"
    );
}

#[test]
fn a_password_in_the_clear_opens_the_connection_again() {
    let proxy = parking("parks_clear");
    let mut raw = Raw::open(proxy.port).unwrap();
    assert_eq!(
        raw.login("clear_user", "parks_clear", "secret", &[])
            .unwrap()
            .tag,
        b'Z'
    );
    wait_for(|| backends("parks_clear") == "0");
    assert_eq!(raw.value("SELECT current_user"), "clear_user");
}

#[test]
fn a_session_with_state_keeps_its_backend() {
    let proxy = parking("pinned");
    let states = [
        "SET work_mem TO '1MB'",
        "CREATE TEMP TABLE t (a int)",
        "LISTEN x",
        "SELECT pg_advisory_lock(1)",
        "SELECT nextval('numbers')",
        "PREPARE p AS SELECT 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "BEGIN; SELECT 1",
    ];
    let sessions: Vec<Raw> = states
        .iter()
        .map(|sql| {
            let mut raw = Raw::connect_to(proxy.port, "pinned");
            raw.query(sql);
            raw
        })
        .collect();
    let mut free = Raw::connect_to(proxy.port, "pinned");
    free.query("SELECT 1");
    let expected = sessions.len().to_string();
    wait_for(|| backends("pinned") == expected);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(backends("pinned"), expected);
}

#[test]
fn sessions_without_state_outlive_an_outage() {
    let cable = Cable::new();
    let proxy = remembering_with("outage", SETUP, &REMEMBERED, |front| {
        front.target = target(cable.port);
        front.dial_timeout = Duration::from_secs(2);
    });
    let mut raw = Raw::connect_to(proxy.port, "outage");
    let mut pinned = Raw::connect_to(proxy.port, "outage");
    pinned.query("SET work_mem TO '1MB'");
    cable.cut();
    assert_eq!(tags(&pinned.rest()), "!", "its settings are gone");
    for _ in 0..2 {
        assert_eq!(raw.value(ROW_2), "memory");
        assert_eq!(
            tags(&raw.query("UPDATE kv SET v = 'memory' WHERE id = 2")),
            "CZ"
        );
        let refused = raw.query("SELECT count(*) FROM other");
        assert_eq!(
            (tags(&refused).as_str(), state(&refused[0]).as_str()),
            ("EZ", "08006")
        );
        parse(&mut raw.out, "", "SELECT count(*) FROM other");
        bind(&mut raw.out, "", "", &[]);
        frontend::execute(&mut raw.out, b"", 0);
        assert_eq!(tags(&finish(&mut raw)), "EZ");
    }
    let mut late = Raw::open(proxy.port).unwrap();
    assert_eq!(
        state(&late.login("app", "outage", "", &[]).unwrap()),
        "08006"
    );
    cable.mend();
    assert_eq!(raw.value("SELECT count(*) FROM other"), "0");
    assert_eq!(raw.value(ROW_2), "memory");
}

#[test]
fn a_transaction_in_postgres_dies_with_its_connection() {
    let cable = Cable::new();
    let proxy = remembering_with("broken", SETUP, &REMEMBERED, |front| {
        front.target = target(cable.port)
    });
    let mut raw = Raw::connect_to(proxy.port, "broken");
    // Whoever holds something for the transaction must be able to tell when its backend is gone.
    let backend = raw.value("SELECT pg_backend_pid()");
    raw.query("BEGIN");
    raw.query("UPDATE other SET v = 'x'");
    proxy.front.answerer.calls();
    cable.cut();
    assert_eq!(tags(&raw.rest()), "!");
    let left = format!("leave Update Unknown(Some(BackendPid({backend})))");
    wait_for(|| proxy.front.answerer.calls() == [left.as_str()]);
}

#[test]
fn a_terminated_backend_ends_even_a_session_without_state() {
    let proxy = remembering_with("ended", SETUP, &REMEMBERED, |_| ());
    let mut raw = Raw::connect_to(proxy.port, "ended");
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ended'";
    Raw::connect(postgres().port).query(sql);
    let messages = raw.rest();
    assert_eq!(
        (tags(&messages).as_str(), state(&messages[0]).as_str()),
        ("E!", "57P01")
    );
}
