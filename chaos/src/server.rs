//! The server under test: the real binary on ports of its own.

use anyhow::{Context, bail};
use rustix::process::Pid;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long it may take until it listens.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How often something is looked for that is waited for.
const POLL: Duration = Duration::from_millis(50);
/// Lines of its log that are kept.
const MAX_LINES: usize = 10_000;
/// Largest body that is read, bytes.
const MAX_BODY: u64 = 256 << 20;

type Log = Arc<Mutex<VecDeque<String>>>;

/// A running server. Dropped, it is killed.
pub struct Server {
    child: Child,
    program: PathBuf,
    options: Vec<String>,
    log: Log,
    /// Where encoders connect.
    pub rtmp: SocketAddr,
    /// Where viewers do.
    pub http: SocketAddr,
    /// Where health is answered.
    pub health: SocketAddr,
}

impl Server {
    /// Starts it with options beside its addresses.
    pub fn start(program: &Path, options: &[String]) -> anyhow::Result<Self> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at("serve", program.to_owned(), options.to_vec(), [anywhere; 3], Log::default())
    }

    /// Starts it under a parent, which starts it again whenever it ends.
    pub fn start_supervised(program: &Path, options: &[String]) -> anyhow::Result<Self> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at("supervise", program.to_owned(), options.to_vec(), [anywhere; 3], Log::default())
    }

    /// The worker that runs under its parent now.
    pub fn worker(&self) -> Option<Pid> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    /// Starts it again on the same addresses, after it was killed.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let addresses = [self.rtmp, self.http, self.health];
        *self = Self::start_at("serve", self.program.clone(), self.options.clone(), addresses, self.log.clone())?;
        Ok(())
    }

    /// Kills it without warning.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn start_at(
        command: &str,
        program: PathBuf,
        options: Vec<String>,
        [rtmp, http, health]: [SocketAddr; 3],
        log: Log,
    ) -> anyhow::Result<Self> {
        let how = command;
        let mut command = Command::new(&program);
        command.args([how, "--log", "json", "--chaos"]);
        command.arg("--rtmp").arg(rtmp.to_string()).arg("--http").arg(http.to_string());
        command.arg("--health").arg(health.to_string()).args(&options);
        command.env("RUST_LOG", "info,ractor=warn").stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{}: is it built?", program.display()))?;
        let stderr = child.stderr.take().context("its log")?;
        let (listening, heard) = std::sync::mpsc::sync_channel(1);
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("\"listening\"") {
                    let _ = listening.try_send(line.clone());
                }
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push_back(line);
                if lines.len() > MAX_LINES {
                    lines.pop_front();
                }
            }
        });
        let line = match heard.recv_timeout(START_DEADLINE) {
            Ok(line) => line,
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = log.lock().unwrap_or_else(PoisonError::into_inner);
                bail!("the server does not listen; it said: {:?}", said.iter().rev().take(10).collect::<Vec<_>>());
            }
        };
        let fields: serde_json::Value = serde_json::from_str(&line)?;
        let address = |name: &str| anyhow::Ok(fields[name].as_str().context("an address")?.parse::<SocketAddr>()?);
        let (rtmp, http, health) = (address("rtmp")?, address("http")?, address("health")?);
        Ok(Self { child, program, options, log, rtmp, http, health })
    }

    /// Where to publish.
    pub fn publish_url(&self, stream: &str) -> String {
        format!("rtmp://{}/{stream}", self.rtmp)
    }

    /// A path on its HTTP server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// A path on its health server.
    pub fn health_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.health)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Log lines that contain a text.
    pub fn logged(&self, text: &str) -> usize {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|line| line.contains(text)).count()
    }

    /// The sum of all series of a metric whose labels contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let text = String::from_utf8(get(&self.url("/metrics"))?)?;
        let series = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The body of a 200.
pub fn get(url: &str) -> anyhow::Result<Vec<u8>> {
    let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER_DEADLINE)).build();
    let mut response = ureq::Agent::new_with_config(config).get(url).call()?;
    Ok(response.body_mut().with_config().limit(MAX_BODY).read_to_vec()?)
}

/// Looks for something until it is there; how long that took.
pub fn wait_for(what: &str, limit: Duration, mut look: impl FnMut() -> bool) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    while !look() {
        anyhow::ensure!(begun.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        // The pace of the looks: what decides is the condition, and the limit.
        std::thread::sleep(POLL);
    }
    Ok(begun.elapsed())
}
