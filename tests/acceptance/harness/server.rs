//! The real binary on ports of its own.

use super::wait_for;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A running server. Dropped, it is killed; if the test fails, its log is shown.
pub struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    directory: Arc<Home>,
    data: PathBuf,
    pub rtmp: SocketAddr,
    pub http: SocketAddr,
    pub health: SocketAddr,
}

/// Where a server keeps things: on a disk, and its continuity records in memory.
pub struct Home {
    disk: TempDir,
    memory: TempDir,
}

impl Home {
    fn new() -> Arc<Self> {
        let disk = tempfile::tempdir().expect("temporary directory");
        Arc::new(Self { disk, memory: tempfile::tempdir_in("/dev/shm").expect("temporary directory in memory") })
    }

    /// Where its archive is, unless a test has it elsewhere.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }
}

impl Server {
    /// Starts with options beside its addresses and directories.
    pub fn start(options: &[&str]) -> Self {
        let directory = Home::new();
        let data = directory.path().join("data");
        Self::start_in(directory, data, ["127.0.0.1:0"; 3], options)
    }

    /// Starts with its archive in a directory of the test's.
    pub fn start_on(data: &Path, options: &[&str]) -> Self {
        let directory = Home::new();
        Self::start_in(directory, data.to_owned(), ["127.0.0.1:0"; 3], options)
    }

    /// Kills it without warning and starts it again on the same addresses and directories.
    pub fn kill_and_restart(mut self, options: &[&str]) -> Self {
        self.child.kill().expect("running");
        self.child.wait().expect("killed");
        let addresses = [self.rtmp, self.http, self.health].map(|address| address.to_string());
        let addresses = [&addresses[0], &addresses[1], &addresses[2]].map(String::as_str);
        Self::start_in(self.directory.clone(), self.data.clone(), addresses, options)
    }

    /// Starts with variables in its environment.
    pub fn start_with_environment(variables: &[(&str, String)], options: &[&str]) -> Self {
        let directory = Home::new();
        let data = directory.path().join("data");
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadycast"));
        command.arg("serve").envs(variables.iter().map(|(name, value)| (name, value)));
        Self::start_with(command, directory, data, ["127.0.0.1:0"; 3], options)
    }

    /// Starts in the directories of one that has ended.
    pub fn start_again(directory: Arc<Home>, options: &[&str]) -> Self {
        let data = directory.path().join("data");
        Self::start_in(directory, data, ["127.0.0.1:0"; 3], options)
    }

    /// Starts under a parent, which starts it again whenever it ends.
    pub fn supervised(options: &[&str]) -> Self {
        let directory = Home::new();
        let data = directory.path().join("data");
        Self::supervised_in(directory, &data, options)
    }

    /// The same with its archive in a directory of the test's.
    pub fn supervised_on(data: &Path, options: &[&str]) -> Self {
        Self::supervised_in(Home::new(), data, options)
    }

    fn supervised_in(directory: Arc<Home>, data: &Path, options: &[&str]) -> Self {
        let data = data.to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadycast"));
        // As a shell starts it: what a terminal sends goes to all of this group.
        command.arg("supervise").process_group(0);
        Self::start_with(command, directory, data, ["127.0.0.1:0"; 3], options)
    }

    /// The worker that runs under the parent now.
    pub fn worker(&self) -> Option<rustix::process::Pid> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter(|pid| state_of(&format!("/proc/{pid}")) != Some('Z')).find_map(rustix::process::Pid::from_raw)
    }

    /// Whether a thread of a process waits in a way that no signal ends.
    pub fn has_uninterruptible_thread(process: rustix::process::Pid) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).into_iter().flatten();
        threads.flatten().any(|thread| state_of(&thread.path().to_string_lossy()) == Some('D'))
    }

    /// Sends the process a signal.
    pub fn tell(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Sends a signal as a terminal does: to all of its group.
    pub fn tell_group(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process_group(rustix::process::Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end, and keeps its directories.
    pub fn exit_keeping(self) -> (std::process::ExitStatus, Arc<Home>) {
        let directory = self.directory.clone();
        (self.exit(), directory)
    }

    /// Its log, which outlives it.
    pub fn log(&self) -> Arc<Mutex<Vec<String>>> {
        self.log.clone()
    }

    /// Waits for its end.
    pub fn exit(mut self) -> std::process::ExitStatus {
        wait_for("it ends", || self.child.try_wait().expect("child"))
    }

    /// Starts under strace, which injects errors into system calls of all its threads.
    pub fn start_traced(strace: &[&str], options: &[&str]) -> Self {
        let directory = Home::new();
        let data = directory.path().join("data");
        // -D: what is started is the server, not strace.
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "--seccomp-bpf", "-o", "/dev/null"]).args(strace);
        command.args([env!("CARGO_BIN_EXE_steadycast"), "serve"]);
        Self::start_with(command, directory, data, ["127.0.0.1:0"; 3], options)
    }

    fn start_in(directory: Arc<Home>, data: PathBuf, addresses: [&str; 3], options: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadycast"));
        command.arg("serve");
        Self::start_with(command, directory, data, addresses, options)
    }

    fn start_with(
        mut command: Command,
        directory: Arc<Home>,
        data: PathBuf,
        [rtmp, http, health]: [&str; 3],
        options: &[&str],
    ) -> Self {
        let mut child = command
            .args(["--log", "json", "--rtmp", rtmp, "--http", http, "--health", health, "--chaos"])
            .args(options)
            .env("RUST_LOG", "info,ractor=warn")
            .arg("--data")
            .arg(&data)
            .arg("--runtime-dir")
            .arg(directory.memory.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (log.clone(), BufReader::new(child.stderr.take().expect("piped")));
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| lines.lock().expect("log").push(line))
        });
        let listening = wait_for("the server listens", || {
            assert!(child.try_wait().expect("child").is_none(), "the server ended: {:?}", log.lock().expect("log"));
            log.lock().expect("log").iter().find(|line| line.contains("\"listening\"")).cloned()
        });
        let fields: serde_json::Value = serde_json::from_str(&listening).expect("JSON log");
        let address = |name: &str| fields[name].as_str().expect("address").parse().expect("address");
        Self { child, log, directory, data, rtmp: address("rtmp"), http: address("http"), health: address("health") }
    }

    /// Runs a command of the program on the same archive; what it prints.
    pub fn command(&self, arguments: &[&str]) -> String {
        self.try_command(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// What it says where it fails is the error.
    pub fn try_command(&self, arguments: &[&str]) -> Result<String, String> {
        let run = Command::new(env!("CARGO_BIN_EXE_steadycast")).args(arguments).arg("--data").arg(&self.data).output();
        let run = run.expect("the program starts");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if run.status.success() { Ok(said(&run.stdout)) } else { Err(said(&run.stderr)) }
    }

    /// Where to publish `live/name`.
    pub fn publish_url(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.rtmp)
    }

    /// Where `live/name` plays.
    pub fn play_url(&self, name: &str) -> String {
        self.url(&format!("/live/{name}/index.m3u8"))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// The archive's directory of `live/name`.
    pub fn archived(&self, name: &str) -> PathBuf {
        self.data.join("live/live").join(name)
    }

    /// A file of a recording, by its id.
    pub fn recorded(&self, id: &str, name: &str) -> PathBuf {
        self.data.join("recordings").join(id).join(name)
    }

    /// Where its continuity records lie.
    pub fn runtime_directory(&self) -> PathBuf {
        self.directory.memory.path().to_owned()
    }

    /// Deals a blow to an actor of `live/name`.
    pub fn strike(&self, name: &str, child: &str, blow: &str) {
        let url = format!("http://{}/chaos/v1/strike?stream=live/{name}&child={child}&blow={blow}", self.health);
        ureq::post(&url).send_empty().expect("accepted");
    }

    /// A child of the supervision tree, as the API tells it.
    pub fn node(&self, supervisor: &str, child: &str) -> Option<serde_json::Value> {
        let text = ureq::get(&self.url("/api/v1/tree")).call().ok()?.body_mut().read_to_string().ok()?;
        let tree: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let supervisors = tree["supervisors"].as_array().expect("supervisors");
        supervisors.iter().find(|found| found["name"] == supervisor).map(|found| found["children"][child].clone())
    }

    /// The sum of all series of a metric whose labels contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = ureq::get(&self.url("/metrics")).call().expect("metrics").body_mut().read_to_string().expect("text");
        let series = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Log lines that contain a text.
    pub fn logged(&self, text: &str) -> Vec<String> {
        self.log.lock().expect("log").iter().filter(|line| line.contains(text)).cloned().collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log.lock().map(|log| log.join("\n")).unwrap_or_default());
        }
    }
}

/// State of a process or thread, by its directory in /proc.
fn state_of(directory: &str) -> Option<char> {
    let text = std::fs::read_to_string(format!("{directory}/stat")).ok()?;
    text.rsplit(')').next()?.trim_start().chars().next()
}
