//! What a process has runs out, descriptors and memory; and viewers who do not read keep theirs for long.

use super::asking::Asking;
use super::report::{Outcome, Told};
use super::stage::{start, start_supervised};
use super::viewer::Viewer;
use super::witness::{Order, Pictures, Witness};
use super::{Setting, clip};
use crate::audit::finding::Finding;
use crate::broken::Broken;
use crate::clip::Clip;
use crate::encoder::Encoder;
use crate::load::{self, Begin, Load};
use crate::rtmp_client::Target;
use crate::server::{get, wait_for};
use anyhow::Context;
use rustix::process::Pid;
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From a stream's first sample until it is listed, and for whatever else is waited for.
const LISTED: Duration = Duration::from_secs(40);
/// Descriptors the process has in the scenario that takes them away.
const DESCRIPTORS: usize = 80;
/// Address space that a worker gets beside what it has, MiB ...
const MORE_MIB: u64 = 96;
/// ... and the streams that need more than that: each holds more than 2 MiB after half a minute.
const TOO_MANY: usize = 150;
/// How long these may take to use it up.
const USED_UP: Duration = Duration::from_secs(60);
/// Viewers who ask for segments and read nothing, and who never finish their questions.
const SLOW: usize = 400;
/// Connections of those who look, which come and go.
const OTHERS: f64 = 4.0;
/// Questions of each, more than sockets hold the answers to.
const QUESTIONS: usize = 40;
/// Until the last of them is hung up on: half a minute for a send or a header, and a look.
const HUNG_UP: Duration = Duration::from_secs(40);
/// Memory all of them may cost meanwhile, MiB: their connections, and segments that are being sent.
const MAX_COST_MIB: u64 = 100;

fn limit(pid: Pid, what: &str, value: u64) -> anyhow::Result<()> {
    let limit = format!("--{what}={value}:{value}");
    let limited = Command::new("prlimit").args(["--pid", &pid.as_raw_nonzero().to_string(), &limit]).status();
    anyhow::ensure!(limited.context("prlimit")?.success(), "the limit could not be set");
    Ok(())
}

/// A line of `/proc/PID/status`, MiB.
fn mib(pid: Pid, what: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)).context("a line")?;
    Ok(line.trim_start_matches(':').split_whitespace().next().context("a number")?.parse::<u64>()? / 1024)
}

fn whole(order: Order) -> bool {
    order.pictures > 0 && order.missing + order.repeated + order.unknown == 0
}

/// A worker may have no more memory than a little: it ends, and another one goes on where it was.
pub fn memory(setting: &Setting) -> anyhow::Result<Outcome> {
    let file = clip(&setting.directory)?;
    let clip = Arc::new(Clip::read(&file)?);
    let (server, _removed) = start_supervised(setting, "memory", &["--grace", "30"])?;
    let target = Target::parse(&server.publish_url("live/show"))?;
    let encoder = Encoder::publish(&target, &clip)?;
    let viewer = Viewer::start(server.url("/live/show/0.m3u8"));
    wait_for("segments", LISTED, || viewer.segments() >= 3)?;
    let before = server.worker().context("the worker")?;
    limit(before, "as", (mib(before, "VmSize")? + MORE_MIB) << 20)?;
    let crowd = Load {
        url: server.publish_url("live/crowd"),
        clip: file,
        streams: TOO_MANY,
        duration: USED_UP,
        begin: Begin::Together,
    };
    let crowd = std::thread::spawn(move || load::run(&crowd, || ()));
    wait_for("the worker ends", USED_UP, || server.worker() != Some(before))?;
    let ended = Instant::now();
    wait_for("another worker", LISTED, || server.worker().is_some_and(|worker| worker != before))?;
    wait_for("the loss", LISTED, || encoder.is_lost())?;
    let again = Encoder::publish(&target, &clip)?;
    let returned = ended.elapsed();
    let seen = viewer.segments();
    wait_for("segments again", LISTED, || viewer.segments() >= seen + 3)?;
    let seen = viewer.stop();
    drop(again);
    let mut broken = seen.broken;
    let restarts = server.metric("steadycast_worker_restarts_total", "")?;
    broken.extend((restarts != 1.0).then(|| format!("the worker was started again {restarts} times").into()));
    let discontinuities = seen.discontinuities;
    broken.extend((discontinuities != 1).then(|| format!("{discontinuities} discontinuities").into()));
    drop(server);
    // Its encoders lost their server, twice: what became of them is no promise.
    let _ = crowd.join();
    let text = format!(
        "A worker with {MORE_MIB} MiB of address space to spare was sent {TOO_MANY} more streams: it ended, and an encoder was back in its session after {:.1} s, with one discontinuity for its viewer.",
        returned.as_secs_f64()
    );
    let figures = json!({ "returned_s": returned.as_secs_f64(), "discontinuities": discontinuities });
    Ok(Outcome { told: vec![Told { text, figures, broken }], ..Outcome::default() })
}

/// Viewers who ask and do not read, and who ask half a question: they are hung up on, and cost the others nothing.
pub fn slow_viewers(setting: &Setting) -> anyhow::Result<Outcome> {
    let file = clip(&setting.directory)?;
    let (known, clip) = (Arc::new(Pictures::of(&std::fs::read(&file)?)?), Arc::new(Clip::read(&file)?));
    let (server, _removed) = start(setting, "viewers", &[])?;
    let _encoder = Encoder::publish(&Target::parse(&server.publish_url("live/show"))?, &clip)?;
    let url = server.url("/live/show/0.m3u8");
    let viewer = Viewer::start(url.clone());
    wait_for("segments", LISTED, || viewer.segments() >= 3)?;
    let (witness, asking) = (Witness::follow(url.clone(), HUNG_UP, known), Asking::start(&server));
    let pid = Pid::from_raw(i32::try_from(server.pid())?).context("a process")?;
    let (before, connected) = (mib(pid, "VmRSS")?, server.metric("steadycast_http_connections", "\"http\"")?);
    let text = String::from_utf8(get(&url)?)?;
    let segment = text.lines().rfind(|line| line.ends_with(".m4s")).context("a segment")?;
    let question = format!("GET /live/show/{segment} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(QUESTIONS);
    let begun = Instant::now();
    let mut crowd = Vec::new();
    for number in 0..SLOW {
        let mut socket = TcpStream::connect(server.http)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096)?;
        socket.write_all(if number % 2 == 0 {
            question.as_bytes()
        } else {
            b"GET /live/show/0.m3u8 HTTP/1.1\r\nHo"
        })?;
        crowd.push(socket);
    }
    let connections = || server.metric("steadycast_http_connections", "\"http\"");
    wait_for("all are there", LISTED, || connections().is_ok_and(|there| there >= connected + SLOW as f64))?;
    let mut most = 0;
    wait_for("all are hung up on", HUNG_UP, || {
        most = most.max(mib(pid, "VmRSS").unwrap_or(u64::MAX));
        connections().is_ok_and(|there| there <= connected + OTHERS)
    })?;
    let took = begun.elapsed();
    drop(crowd);
    let (testimony, answers) = (witness.finish()?, asking.stop());
    let mut broken = viewer.stop().broken;
    let cost = most.saturating_sub(before);
    let order = testimony.order;
    broken.extend((!whole(order)).then(|| format!("{order:?}").into()));
    broken.extend(testimony.report.findings.iter().take(5).map(Finding::broken));
    broken.extend((cost > MAX_COST_MIB).then(|| format!("they cost {cost} MiB").into()));
    let text = format!(
        "{SLOW} viewers who ask for {QUESTIONS} segments and read none, or never finish a question, were hung up on within {:.0} s and cost {cost} MiB at most; of {} pictures of the show {} are missing.",
        took.as_secs_f64(),
        order.pictures,
        order.missing
    );
    let figures = json!({ "hung_up_s": took.as_secs_f64(), "cost_mib": cost, "missing": order.missing });
    Ok(Outcome { told: vec![Told { text, figures, broken }], answers: vec![answers], ..Outcome::default() })
}

/// The process has no descriptors left: who is there stays, and who comes waits.
pub fn descriptors(setting: &Setting) -> anyhow::Result<Outcome> {
    let file = clip(&setting.directory)?;
    let (known, clip) = (Arc::new(Pictures::of(&std::fs::read(&file)?)?), Arc::new(Clip::read(&file)?));
    let (server, _removed) = start(setting, "descriptors", &[])?;
    limit(Pid::from_raw(i32::try_from(server.pid())?).context("a process")?, "nofile", DESCRIPTORS as u64)?;
    let target = Target::parse(&server.publish_url("live/show"))?;
    let holder = Encoder::publish(&target, &clip)?;
    let url = server.url("/live/show/0.m3u8");
    wait_for(&url, LISTED, || get(&url).is_ok())?;
    let witness = Witness::follow(url, Duration::from_secs(15), known);
    let crowd: Vec<_> = (0..2 * DESCRIPTORS).filter_map(|_| TcpStream::connect(server.rtmp).ok()).collect();
    wait_for("accepting fails", LISTED, || server.logged("accepting RTMP connections fails") > 0)?;
    let connected = crowd.len();
    drop(crowd);
    let other = Target { name: "other".to_owned(), ..target };
    let after = Encoder::publish(&other, &clip)?;
    let testimony = witness.finish()?;
    let mut broken: Vec<Broken> = Vec::new();
    let mut check = |kept: bool, sentence: String| broken.extend((!kept).then(|| sentence.into()));
    check(!holder.is_lost(), "the holder lost its connection".to_owned());
    let order = testimony.order;
    check(whole(order), format!("{order:?}"));
    let lines = server.logged("accepting RTMP connections fails");
    check(lines <= 3, format!("{lines} lines of log"));
    let text = format!(
        "With {DESCRIPTORS} descriptors and {connected} connections that say nothing, of {} pictures of the show {} are missing, the log told {lines} times, and when they had gone an encoder was accepted after {:.2} s.",
        order.pictures,
        order.missing,
        after.took.as_secs_f64()
    );
    let figures = json!({ "connected": connected, "missing": order.missing, "log_lines": lines });
    Ok(Outcome { told: vec![Told { text, figures, broken }], ..Outcome::default() })
}
