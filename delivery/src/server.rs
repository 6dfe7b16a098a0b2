//! HTTP server: accepts, bounds and times out connections; what they ask is the router's business.

use crate::events;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};

/// Connections at once, by default: a descriptor each, and some 20 kB.
pub const MAX_CONNECTIONS: usize = 20_000;
/// Of those, from one address: that of a proxy, say, before all viewers. The rest is left for others.
pub const MAX_PER_ADDRESS: usize = 10_000;
/// From the first byte of a request, or the end of the last one, to the end of its header.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How long sent data may stay unacknowledged, or unsent because the viewer does not read.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after a failed accept: with no descriptor left it would fail at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may finish what they are sending after the server was told to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// Bounds of a server, and its name.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Value of metrics' `server` label.
    pub name: &'static str,
    /// Connections at once; a further one is closed.
    pub connections: usize,
    /// Of those, from one address.
    pub per_address: usize,
}

impl Limits {
    /// Those of a server of this name.
    pub fn of(name: &'static str) -> Self {
        Self { name, connections: MAX_CONNECTIONS, per_address: MAX_PER_ADDRESS }
    }
}

/// Serves until `shutdown` completes, then lets connections finish what they are sending.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
    let mut shutdown = pin!(shutdown);
    let mut failing = false;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                // One that panicked keeps its place in the count of its address, which is one of many.
                if let Ok(address) = ended {
                    left(&mut addresses, address);
                }
                events::connections(limits.name, connections.len());
            }
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) if connections.len() < limits.connections => {
                    failing = false;
                    let from = addresses.entry(peer.ip()).or_default();
                    if *from == limits.per_address {
                        events::connection_refused("address");
                        continue;
                    }
                    *from += 1;
                    let router = router.clone();
                    connections.spawn(async move {
                        connection(socket, router).await;
                        peer.ip()
                    });
                    events::connections(limits.name, connections.len());
                }
                Ok(_) => events::connection_refused("total"),
                Err(error) => {
                    // Logged once, until accepting works again.
                    if !std::mem::replace(&mut failing, true) {
                        events::accept_failed(&error);
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is not done by then is cut by dropping it.
    let _ = timeout(DRAIN_DEADLINE, drained).await;
}

fn left(addresses: &mut HashMap<IpAddr, usize>, address: IpAddr) {
    if let Entry::Occupied(mut count) = addresses.entry(address) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// One viewer. Whatever goes wrong here is between us and this viewer.
async fn connection(socket: TcpStream, router: Router) {
    // Without the options answers would be slower, not wrong.
    let _ = socket.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&socket, SEND_DEADLINE.as_millis() as u32);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    let _ = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router)).await;
}
