//! The proxy under test, in front of the tests' Postgres. Runs for as long as the value lives.

use super::postgres::postgres;
use ripen_cachestore::dial::DialTarget;
use ripen_cachestore::upstream::{Host, SslMode};
use ripen_proxy::accept::{Front, Listener, serve};
use ripen_proxy::carriers::Carriers;
use ripen_proxy::session::answerer::{Answerer, Transparent};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A running proxy.
pub struct Proxy<A = Transparent> {
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// What its sessions share.
    pub front: Arc<Front<A>>,
    _runtime: Runtime,
}

/// A proxy that lets everything pass.
pub fn transparent() -> Proxy {
    with(|_| ())
}

/// The same with other settings.
pub fn with(change: impl FnOnce(&mut Front<Transparent>)) -> Proxy {
    let mut front = front_of(Arc::new(Transparent));
    change(&mut front);
    start(front)
}

/// The tests' Postgres, or a stand-in for it on this port.
pub fn target(port: u16) -> DialTarget {
    DialTarget::new(Host::Tcp("127.0.0.1".to_owned()), port, SslMode::Disable)
}

/// A front before the tests' Postgres.
pub fn front_of<A: Answerer>(answerer: Arc<A>) -> Front<A> {
    let mut front = Front::new(target(postgres().port), answerer);
    front.carriers = Carriers::start(1).unwrap();
    front
}

/// Serves on a free port.
pub fn start<A: Answerer>(front: Front<A>) -> Proxy<A> {
    let front = Arc::new(front);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(serve(Listener::Tcp(listener), Arc::clone(&front)));
    Proxy {
        port,
        front,
        _runtime: runtime,
    }
}
