//! HTTP server: accepts, bounds and times out connections; what they ask is the router's business.

use crate::events;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::pin::pin;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};

/// Connections at once, by default: a descriptor each, and some 20 kB.
pub const MAX_CONNECTIONS: usize = 20_000;
/// From the first byte of a request, or the end of the last one, to the end of its header.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How long sent data may stay unacknowledged, or unsent because the viewer does not read.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after a failed accept: with no descriptor left it would fail at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may finish what they are sending after the server was told to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; a further one is closed.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: MAX_CONNECTIONS }
    }
}

/// Serves until `shutdown` completes, then lets connections finish what they are sending.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut failing = false;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => events::connections(connections.len()),
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) if connections.len() < limits.connections => {
                    failing = false;
                    connections.spawn(connection(socket, router.clone()));
                    events::connections(connections.len());
                }
                Ok(_) => events::connection_refused(),
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

/// One viewer. Whatever goes wrong here is between us and this viewer.
async fn connection(socket: TcpStream, router: Router) {
    // Without the options answers would be slower, not wrong.
    let _ = socket.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&socket, SEND_DEADLINE.as_millis() as u32);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    let _ = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router)).await;
}
