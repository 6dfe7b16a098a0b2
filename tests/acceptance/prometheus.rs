//! A real Prometheus scrapes a server to which things happen: every panel shows something, the right alerts fire and
//! resolve, and series of streams that have ended go away.

use crate::harness::media::{CLIP, Clip};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::wait_for;
use chaos::faultfs::{Effect, Mount, Operation, Rule};
use chaos::rtmp_client::{Target, publish};
use serde_json::Value;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

const SHORT: Clip = Clip { gop: 30, b_frames: 0, ..CLIP };

/// A Prometheus with our rules. Dropped, it is killed.
struct Prometheus {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    fn scraping(server: &Server) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let dashboards = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
        // A port that was free a moment ago: Prometheus cannot be asked which one it took.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{:?}]\nscrape_configs: [{{ job_name: steadycast, static_configs: [{{ targets: [\"{}\"] }}] }}]\n",
            dashboards.join("rules.yml"),
            server.http
        );
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("written");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--log.level=error"])
            .stdin(Stdio::null())
            .spawn()
            .expect("prometheus: `make tools` installs it");
        let prometheus = Self { child, url: format!("http://127.0.0.1:{port}"), _directory: directory };
        wait_for("Prometheus is ready", || ureq::get(&format!("{}/-/ready", prometheus.url)).call().ok().map(|_| ()));
        prometheus
    }

    /// The series a query gives.
    fn query(&self, query: &str) -> Vec<Value> {
        let response = ureq::get(&format!("{}/api/v1/query", self.url)).query("query", query).call();
        let mut response = response.unwrap_or_else(|error| panic!("{query}: {error}"));
        let text = response.body_mut().read_to_string().expect("text");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    fn fires(&self, alert: &str) -> bool {
        !self.query(&format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}")).is_empty()
    }

    fn waits_for(&self, alert: &str, firing: bool) {
        wait_for(&format!("{alert} fires: {firing}"), || (self.fires(alert) == firing).then_some(()));
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the panels of all dashboards ask, with the variable filled in.
fn panels() -> Vec<(String, String)> {
    let dashboards = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(dashboards).expect("dashboards").flatten() {
        if entry.path().extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).expect("readable");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let query = target["expr"].as_str().expect("a query").replace("$stream", "live/.*");
                queries.push((format!("{}: {}", dashboard["title"], panel["title"]), query));
            }
        }
    }
    queries
}

/// What promtool finds fault with in the text of `/metrics`.
fn complaints(server: &Server) -> String {
    let mut response = ureq::get(&server.url("/metrics")).call().expect("metrics");
    let text = response.body_mut().read_to_string().expect("text");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool: `make tools` installs it");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn every_panel_shows_something_and_the_right_alerts_fire_and_resolve() {
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let [source, point] = directories.each_ref().map(tempfile::TempDir::path);
    let mount = Mount::new(source, point, 1).expect("faultfs");
    let server = Server::supervised_on(point, &["--record", "--grace", "20"]);
    let prometheus = Prometheus::scraping(&server);
    let publisher = Publisher::looping(SHORT, &server.publish_url("show"));
    wait_for("segments", || {
        (server.metric("steadycast_stream_segments_published_total", "live/show") >= 2.0).then_some(())
    });
    for alert in ["SteadycastStorageDegraded", "SteadycastPublisherAway", "SteadycastActorStuck", "SteadycastDown"] {
        assert!(!prometheus.fires(alert), "{alert}");
    }
    // Storage fails.
    mount.rules().set(vec![Rule::always(Some(Operation::Write), Effect::Errno(5))]).expect("rules");
    prometheus.waits_for("SteadycastStorageDegraded", true);
    mount.rules().set(Vec::new()).expect("rules");
    // An actor is stuck, and another one restarts again and again.
    server.strike("show", "watcher", "block&milliseconds=12000");
    prometheus.waits_for("SteadycastActorStuck", true);
    for generation in 1..=6 {
        server.strike("show", "segmenter", "panic");
        wait_for("its successor runs", || {
            let node = server.node("live/show", "segmenter")?;
            (node["generation"] == generation + 1 && node["running"] == true).then_some(())
        });
    }
    prometheus.waits_for("SteadycastActorsRestart", true);
    // A viewer asks.
    for file in ["index.m3u8", "0.m3u8"] {
        let _ = ureq::get(&server.url(&format!("/live/show/{file}"))).call();
    }
    assert_eq!(complaints(&server), "", "promtool check metrics");
    for (panel, query) in panels() {
        wait_for(&format!("{panel}: {query}"), || (!prometheus.query(&query).is_empty()).then_some(()));
    }
    prometheus.waits_for("SteadycastActorStuck", false);
    prometheus.waits_for("SteadycastStorageDegraded", false);
    // The encoder is lost.
    publisher.kill();
    prometheus.waits_for("SteadycastPublisherAway", true);
    // Its session ends, and its series go: the alert with them.
    wait_for("the session ends", || (!server.logged("session ended").is_empty()).then_some(()));
    // The worker is killed.
    rustix::process::kill_process(server.worker().expect("a worker"), rustix::process::Signal::KILL).expect("it runs");
    prometheus.waits_for("SteadycastWorkerRestarted", true);
}

#[test]
fn ten_thousand_streams_that_came_and_went_leave_no_series() {
    const STREAMS: usize = 10_000;
    const AT_A_TIME: usize = 16;
    let server = Server::start(&[]);
    let series = || {
        let mut response = ureq::get(&server.url("/metrics")).call().expect("metrics");
        let text = response.body_mut().with_config().limit(1 << 28).read_to_string().expect("text");
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let base = Target::parse(&server.publish_url("show")).expect("valid");
    // The families that a stream's first comings and goings bring.
    drop(publish(&base).expect("accepted"));
    wait_for("it is forgotten", || (server.metric("steadycast_streams", "") == 0.0).then_some(()));
    let (before, next) = (series(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= STREAMS {
                        break;
                    }
                    let target = Target { name: format!("show-{n}"), ..base.clone() };
                    drop(publish(&target).expect("accepted"));
                }
            });
        }
    });
    assert!(server.metric("steadycast_publishes_total", "") >= STREAMS as f64);
    wait_for("all are forgotten", || (server.metric("steadycast_streams", "") == 0.0).then_some(()));
    // A stream's series go with the last who looks at it, a moment after its tree.
    wait_for("their series have gone", || (series() <= before + 5).then_some(()));
}
