//! Dialling: TCP, sockets, and what `sslmode` promises, against a Postgres with a certificate made for the test by `openssl`.

use crate::server::{bin, run_as_postgres, socket, upstream};
use ripen_cachestore::dial::{DialError, DialTarget, Stream, dial};
use ripen_cachestore::upstream::{Host, SslMode};
use ripen_cachestore::{Store, StoreError, Upstream};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::sync::OnceCell;

/// A second server, on TCP with TLS; the folder holds `ca.pem`, which signed its certificate for `localhost`.
struct TlsServer {
    folder: PathBuf,
    port: u16,
}

static TLS: OnceCell<TlsServer> = OnceCell::const_new();

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output();
    let output = output.expect("the test needs the openssl command");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn tls() -> &'static TlsServer {
    TLS.get_or_init(|| async { TlsServer::start() }).await
}

impl TlsServer {
    fn start() -> TlsServer {
        let folder = socket().join("tls");
        std::fs::create_dir(&folder).unwrap();
        for name in ["ca", "other"] {
            openssl(
                &folder,
                &format!(
                    "req -x509 -newkey rsa:2048 -nodes -days 36500 -subj /CN={name} -keyout {name}.key -out {name}.pem"
                ),
            );
        }
        openssl(
            &folder,
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        );
        std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
        openssl(
            &folder,
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 36500 -extfile names -out server.pem",
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let here = folder.display();
        run_as_postgres(
            &folder,
            &format!(
                "{bin}/initdb -D {here}/data -A trust -U postgres --no-sync > {here}/initdb.log && \
             cp {here}/server.key {here}/server.pem {here}/data && chmod 600 {here}/data/server.key && \
             {bin}/pg_ctl -D {here}/data -w -l {here}/log -o \"-k {here} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off -c ssl=on -c ssl_cert_file=server.pem -c ssl_key_file=server.key\" start",
                bin = bin().display()
            ),
        );
        TlsServer { folder, port }
    }

    fn target(&self, host: &str, mode: SslMode, root: Option<&str>) -> DialTarget {
        let root = root.map(|name| match name {
            "system" => name.to_owned(),
            file => self.folder.join(file).display().to_string(),
        });
        DialTarget::new(Host::Tcp(host.to_owned()), self.port, mode).with_root_cert(root)
    }
}

#[tokio::test]
async fn modes_verify_what_they_promise() {
    let server = tls().await;
    use SslMode::*;
    let encrypted = [
        ("127.0.0.1", Allow, None),
        ("127.0.0.1", Prefer, None),
        ("127.0.0.1", Require, None),
        ("127.0.0.1", Require, Some("ca.pem")),
        ("127.0.0.1", VerifyCa, Some("ca.pem")),
        ("localhost", VerifyFull, Some("ca.pem")),
    ];
    for (host, mode, root) in encrypted {
        let stream = dial(&server.target(host, mode, root)).await;
        assert!(stream.unwrap().is_tls(), "{mode} {root:?}");
    }
    let refused = [
        ("127.0.0.1", VerifyFull, Some("ca.pem")),
        ("127.0.0.1", VerifyCa, Some("other.pem")),
        ("127.0.0.1", Require, Some("other.pem")),
        ("localhost", VerifyFull, Some("other.pem")),
        ("localhost", Require, Some("system")),
    ];
    for (host, mode, root) in refused {
        let result = dial(&server.target(host, mode, root)).await;
        assert!(
            matches!(result, Err(DialError::Tls(_) | DialError::Config(_))),
            "{host} {mode} {root:?}"
        );
    }
    let plain = dial(&server.target("localhost", Disable, None))
        .await
        .unwrap();
    assert!(matches!(plain, Stream::Tcp(_)));
    let absent = dial(&server.target("localhost", VerifyCa, Some("absent.pem"))).await;
    assert!(matches!(absent, Err(DialError::Config(_))));
}

#[tokio::test]
async fn pool_works_over_tls() {
    let server = tls().await;
    let url = format!(
        "postgres://postgres@localhost:{}/postgres?sslmode=verify-full&sslrootcert={}/ca.pem",
        server.port,
        server.folder.display()
    );
    let store = Store::new(url.parse::<Upstream>().unwrap());
    let client = store.client().await.unwrap();
    let row = client.query_one("SELECT ssl, application_name FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE pid = pg_backend_pid()", &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, bool>(0), row.get::<_, &str>(1)),
        (true, "ripen")
    );
}

#[tokio::test]
async fn a_server_without_tls_is_refused_or_taken_as_asked() {
    // Answers every TLS request with "no".
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 8];
            client.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
            client.write_all(b"N").await.unwrap();
        }
    });
    let target = |mode| DialTarget::new(Host::Tcp("127.0.0.1".to_owned()), port, mode);
    assert!(!dial(&target(SslMode::Prefer)).await.unwrap().is_tls());
    let result = dial(&target(SslMode::Require)).await;
    assert!(matches!(result, Err(DialError::NoTls(SslMode::Require))));
}

#[tokio::test]
async fn sockets_never_speak_tls_and_dead_ends_are_connection_errors() {
    let mut target = upstream("postgres", "postgres").target;
    target = DialTarget::new(target.host().clone(), target.port(), SslMode::Require);
    assert!(matches!(dial(&target).await, Ok(Stream::Unix(_))));
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let nobody: Upstream = format!("postgres://a:secret@127.0.0.1:{closed}/x")
        .parse()
        .unwrap();
    let error = Store::new(nobody).client().await.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, StoreError::Dial(DialError::Connect { .. })) && error.retry(),
        "{error}"
    );
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[tokio::test]
async fn session_settings_are_ripens_own() {
    let database = crate::server::database("").await;
    let name = &database.name;
    let spoil = format!(
        "ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'; ALTER DATABASE {name} SET synchronous_commit = off; \
         ALTER DATABASE {name} SET search_path = public; ALTER DATABASE {name} SET DateStyle = 'German'; ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'"
    );
    database.sql.batch_execute(&spoil).await.unwrap();
    let client = Store::new(upstream("postgres", name))
        .client()
        .await
        .unwrap();
    let settings = "SELECT concat_ws('|', current_setting('default_transaction_isolation'), current_setting('synchronous_commit'), current_setting('search_path'), \
        current_setting('DateStyle'), current_setting('TimeZone'), current_setting('lock_timeout'), current_setting('row_security'))";
    let found: String = client.query_one(settings, &[]).await.unwrap().get(0);
    assert_eq!(found, "read committed|on|pg_catalog|ISO, YMD|UTC|10s|off");
}
