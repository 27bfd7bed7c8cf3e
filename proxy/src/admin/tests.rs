//! What the admin server answers, and to whom.

use super::*;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ripen_grid::cluster::status::{Unsafe, Whereabouts};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A node that says what it is told to.
struct Told {
    status: Mutex<MemberStatus>,
    safe: Result<(), Unsafe>,
    asked: Mutex<Vec<&'static str>>,
}

impl Told {
    fn ask(&self, what: &'static str) -> Result<(), ControlError> {
        self.asked.lock().push(what);
        match what {
            "drain" => Ok(()),
            _ => Err(ControlError::Late {
                what: "nothing happened",
                patience: Duration::from_secs(60),
            }),
        }
    }
}

impl NodeControl for Told {
    fn status(&self) -> MemberStatus {
        self.status.lock().clone()
    }

    fn view(&self) -> BoxFuture<'_, (MemberStatus, Result<(), Unsafe>)> {
        Box::pin(async { (self.status(), self.safe.clone()) })
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async { self.ask("drain") })
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(async { self.ask("leave") })
    }
}

fn leading() -> MemberStatus {
    MemberStatus {
        node: 7,
        leads: true,
        may_read: true,
        leader: Some(Whereabouts {
            node: 7,
            address: Some("ripen-1:6434".to_owned()),
        }),
        ..MemberStatus::default()
    }
}

struct Served {
    address: SocketAddr,
    node: Arc<Told>,
    not_ready: Arc<Mutex<Option<String>>>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<io::Result<()>>,
}

impl Served {
    async fn new(safe: Result<(), Unsafe>) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let not_ready = Arc::new(Mutex::new(None));
        let shared = not_ready.clone();
        let source: StatusSource = Arc::new(move || Status {
            not_ready: shared.lock().clone(),
            ..Status::default()
        });
        let node = Arc::new(Told {
            status: Mutex::new(leading()),
            safe,
            asked: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, source, node.clone(), stop.clone()));
        Served {
            address,
            node,
            not_ready,
            stop,
            server,
        }
    }

    /// The status code and the body.
    async fn ask(&self, request: &str, headers: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(self.address)
            .await
            .expect("connected");
        let request =
            format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let code = head.split(' ').nth(1).expect("a status code");
        (code.parse().expect("a number"), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path}"), "").await
    }

    async fn end(self) {
        self.stop.cancel();
        self.server.await.expect("not panicked").expect("stopped");
    }
}

fn answer(code: u16, body: &str) -> (u16, String) {
    (code, format!("{body}\n"))
}

#[tokio::test]
async fn ready_says_why_not_until_it_is() {
    let served = Served::new(Ok(())).await;
    *served.not_ready.lock() = Some("waiting for Postgres".to_owned());
    let early = served.get("/ready").await;
    assert_eq!(early, answer(503, "waiting for Postgres"));
    assert_eq!(served.get("/live").await, answer(200, "live"));
    *served.not_ready.lock() = None;
    assert_eq!(served.get("/ready").await, answer(200, "ready"));
    assert!(served.get("/metrics").await.1.ends_with("# EOF\n"));
    let (_, status) = served.get("/status").await;
    assert!(status.contains("\"not_ready\":null"), "{status}");
    assert_eq!(served.get("/nonsense").await.0, 404);
    served.end().await;
}

#[tokio::test]
async fn a_balancer_finds_the_leader() {
    let served = Served::new(Ok(())).await;
    assert_eq!(served.get("/leader").await, answer(200, "leads"));
    served.node.status.lock().node = 8;
    served.node.status.lock().leads = false;
    let elsewhere = served.get("/leader").await;
    assert_eq!(elsewhere, answer(503, "node 7 at ripen-1:6434 leads"));
    served.node.status.lock().leader = None;
    let nowhere = served.get("/leader").await;
    assert_eq!(nowhere, answer(503, "this node knows no leader"));
    served.end().await;
}

#[test]
fn who_is_not_confirmed_is_no_leader() {
    let cut_off = MemberStatus {
        may_read: false,
        ..leading()
    };
    assert!(judge_leader(&cut_off).is_err());
    let elected_just_now = MemberStatus {
        leads: false,
        ..leading()
    };
    assert!(judge_leader(&elected_just_now).is_err());
}

#[tokio::test]
async fn safe_says_why_not() {
    let served = Served::new(Ok(())).await;
    assert_eq!(served.get("/safe").await, answer(200, "safe"));
    served.end().await;
    let served = Served::new(Err(Unsafe::NoLeader)).await;
    let reason = "this node knows no leader";
    assert_eq!(served.get("/safe").await, answer(503, reason));
    let (code, node) = served.get("/node").await;
    assert_eq!(code, 200);
    let node: NodeReport = serde_json::from_str(&node).expect("a report");
    assert_eq!(
        (node.status, node.not_safe.as_deref()),
        (leading(), Some(reason))
    );
    served.end().await;
}

#[tokio::test]
async fn only_who_means_it_changes_something() {
    let served = Served::new(Ok(())).await;
    assert_eq!(served.get("/node/drain").await.0, 405);
    let page = "Origin: http://evil.example\r\n";
    assert_eq!(served.ask("POST /node/drain", page).await.0, 403);
    assert_eq!(served.ask("POST /node/leave", page).await.0, 403);
    assert_eq!(served.node.asked.lock()[..], [""; 0]);
    let drained = served.ask("POST /node/drain", "").await;
    assert_eq!(drained, answer(200, "drained"));
    let (code, why) = served.ask("POST /node/leave", "").await;
    assert_eq!(code, 504);
    assert!(why.starts_with("nothing happened within 1min;"), "{why}");
    assert_eq!(served.node.asked.lock()[..], ["drain", "leave"]);
    served.end().await;
}
