//! What delivery logs and counts.

use axum::http::StatusCode;
use metrics::{counter, gauge, histogram};
use std::io;
use std::time::Duration;

/// Lets counters begin at zero: who asks for an increase misses the first one of a series that was not there.
pub fn register() {
    for kind in ["document", "segment"] {
        for status in ["2xx", "3xx", "4xx", "5xx"] {
            counter!("steadycast_http_requests_total", "kind" => kind, "status" => status).increment(0);
        }
    }
    for reason in ["total", "address"] {
        counter!("steadycast_http_connections_refused_total", "reason" => reason).increment(0);
    }
    connections("http", 0);
    connections("health", 0);
}

/// A viewer's request was answered.
pub fn served(kind: &'static str, status: StatusCode, time: Duration) {
    counter!("steadycast_http_requests_total", "kind" => kind, "status" => class(status)).increment(1);
    histogram!("steadycast_http_request_seconds", "kind" => kind).record(time.as_secs_f64());
}

/// How many connections a server has.
pub fn connections(server: &'static str, count: usize) {
    gauge!("steadycast_http_connections", "server" => server).set(count as f64);
}

/// A connection was closed because there are too many.
pub fn connection_refused(reason: &'static str) {
    counter!("steadycast_http_connections_refused_total", "reason" => reason).increment(1);
}

/// Accepting failed.
pub fn accept_failed(error: &io::Error) {
    counter!("steadycast_accept_errors_total").increment(1);
    tracing::error!(%error, "accepting HTTP connections fails");
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}
