//! The servers that are measured, each started on a directory and ports of its own.

use anyhow::{Context, bail};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it accepts connections.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often it is tried.
const POLL: Duration = Duration::from_millis(50);
/// nginx's configuration with places to fill in.
const NGINX_CONF: &str = include_str!("../../../benches/nginx.conf");

/// A server and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// Ours.
    Steadycast {
        /// `cmaf` or `mpegts`.
        container: &'static str,
        /// `grouped` or `never`.
        sync: &'static str,
    },
    /// nginx with its RTMP module.
    NginxRtmp,
}

impl std::fmt::Display for Contender {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Steadycast { container, sync: "grouped" } => write!(formatter, "Steadycast, {container}"),
            Self::Steadycast { container, .. } => write!(formatter, "Steadycast, {container}, no fsync"),
            Self::NginxRtmp => write!(formatter, "nginx-rtmp"),
        }
    }
}

/// A running server. Dropped, it is killed and its directory removed.
pub struct Running {
    child: Child,
    contender: Contender,
    directory: PathBuf,
    rtmp: u16,
    http: u16,
}

impl Contender {
    /// Starts it below `directory`, which is to be on a real file system; `program` is our binary.
    pub fn start(self, program: &Path, directory: &Path) -> anyhow::Result<Running> {
        let [rtmp, http, health] = [free_port()?, free_port()?, free_port()?];
        let directory = directory.join(format!("run-{rtmp}"));
        std::fs::create_dir_all(directory.join("hls"))?;
        let mut command = match self {
            Self::Steadycast { container, sync } => {
                steadycast(program, &directory, [rtmp, http, health], [container, sync])
            }
            Self::NginxRtmp => nginx(&directory, rtmp, http)?,
        };
        let log = std::fs::File::create(directory.join("output.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{command:?}: run `make tools`, which installs it"))?;
        let mut running = Running { child, contender: self, directory, rtmp, http };
        running.wait_until_it_accepts()?;
        Ok(running)
    }
}

fn steadycast(
    program: &Path,
    directory: &Path,
    [rtmp, http, health]: [u16; 3],
    [container, sync]: [&str; 2],
) -> Command {
    let mut command = Command::new(program);
    let here = |port: u16| format!("{}:{port}", Ipv4Addr::LOCALHOST);
    command.args(["serve", "--log", "json", "--rtmp", &here(rtmp), "--http", &here(http), "--health", &here(health)]);
    command.args(["--container", container, "--sync", sync]);
    command.arg("--data").arg(directory.join("data"));
    // Continuity records belong on tmpfs; so they do in production.
    command.arg("--runtime-dir").arg(format!("/dev/shm/steadycast-bench-{rtmp}"));
    command
}

fn nginx(directory: &Path, rtmp: u16, http: u16) -> anyhow::Result<Command> {
    let conf = NGINX_CONF
        .replace("{directory}", &directory.display().to_string())
        .replace("{rtmp}", &rtmp.to_string())
        .replace("{http}", &http.to_string());
    let file = directory.join("nginx.conf");
    std::fs::write(&file, conf)?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg("/usr/share/nginx").arg("-c").arg(&file);
    Ok(command)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Running {
    fn wait_until_it_accepts(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(self.directory.join("output.log")).unwrap_or_default();
                bail!("{} ended with {status}: {said}", self.contender);
            }
            let accepts = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            if accepts(self.rtmp) && accepts(self.http) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!("{} did not accept connections within {START_DEADLINE:?}", self.contender)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where to publish stream `name`.
    pub fn publish_url(&self, name: &str) -> String {
        format!("rtmp://{}:{}/live/{name}", Ipv4Addr::LOCALHOST, self.rtmp)
    }

    /// Media Playlist of stream `name`.
    pub fn playlist_url(&self, name: &str) -> String {
        match self.contender {
            Contender::Steadycast { .. } => self.url(&format!("/live/{name}/0.m3u8")),
            Contender::NginxRtmp => self.url(&format!("/live/{name}.m3u8")),
        }
    }

    /// A path on its HTTP server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", Ipv4Addr::LOCALHOST, self.http)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // nginx's worker ends when its master is told to; a kill would orphan it.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + START_DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
        let _ = std::fs::remove_dir_all(format!("/dev/shm/steadycast-bench-{}", self.rtmp));
    }
}
