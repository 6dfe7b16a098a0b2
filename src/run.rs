//! Wiring: sockets and a stop signal in, the whole worker around them.

use crate::admin;
use crate::adopt::{adopt, highest_numbers};
use crate::config::{Config, Problem};
use crate::drain::Stop;
use crate::exporter::Exporter;
use crate::health::Health;
use crate::keys::StaticKeys;
use crate::{drain, guard, locks, recordings_api};
use actors::slate::Clip;
use anyhow::Context;
use axum::Router;
use ractor::Actor;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use storage::Numbers;
use storage::continuity::Records;
use storage::{Mounts, Registry};
use supervisors::root::{self, Root};
use supervisors::tree::Environment;
use supervisors::watchdog::{BEAT, Pulse};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tracing::{error, info, warn};
use tracing_appender::non_blocking::ErrorCounter;

/// The actors' runtime has at least this many threads, so that one blocked handler stops nobody else.
const MIN_ACTOR_THREADS: usize = 4;
/// Threads that serve viewers; they never wait for an actor or a file.
const DELIVERY_THREADS: usize = 2;
/// How often histograms are folded.
const UPKEEP: Duration = Duration::from_secs(5);
/// Pause before delivery is started again after a failure of ours.
const DELIVERY_PAUSE: Duration = Duration::from_millis(100);
/// How long the tree may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// The sockets, bound before anything else runs, so that they can outlive a worker.
#[derive(Debug)]
pub struct Listeners {
    /// For encoders.
    pub rtmp: TcpListener,
    /// For viewers.
    pub http: TcpListener,
    /// For health.
    pub health: TcpListener,
    /// Where a parent listens for signs of life.
    pub parent: Option<UnixDatagram>,
}

impl Listeners {
    /// Sockets that were handed over: by the parent, or by a service manager (sd_listen_fds(3)), in this order.
    pub fn inherited() -> anyhow::Result<Option<Self>> {
        let mut sockets = listenfd::ListenFd::from_env();
        if sockets.len() == 0 {
            return Ok(None);
        }
        let mut take = |index: usize, what: &str| {
            let socket = sockets.take_tcp_listener(index)?;
            socket.with_context(|| {
                format!("LISTEN_FDS needs three sockets, for RTMP, HTTP and health; {what} is missing")
            })
        };
        Ok(Some(Self {
            rtmp: take(0, "RTMP")?,
            http: take(1, "HTTP")?,
            health: take(2, "health")?,
            parent: sockets.take_unix_datagram(3).ok().flatten(),
        }))
    }

    /// Those that were handed over, if there are any.
    pub fn inherited_or_bound(config: &Config) -> anyhow::Result<Self> {
        Self::inherited()?.map_or_else(|| Self::bind(config), Ok)
    }

    /// Binds all three.
    pub fn bind(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            rtmp: bind(config.rtmp, "--rtmp")?,
            http: bind(config.http, "--http")?,
            health: bind(config.health, "--health")?,
            parent: None,
        })
    }
}

fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}; choose another address with {option}"))
}

/// What comes from outside while it runs.
pub struct Outside<S> {
    /// Completes when it is to stop.
    pub shutdown: S,
    /// Reads the configuration again; called on SIGHUP.
    pub reload: Box<dyn Fn() -> Result<Config, Vec<Problem>> + Send>,
    /// Log lines that were dropped.
    pub dropped_lines: ErrorCounter,
}

/// Runs until `shutdown` completes, or until the root of the tree fails.
pub fn run(config: &Config, listeners: Listeners, outside: Outside<impl Future<Output = Stop>>) -> anyhow::Result<()> {
    locks::lock_runtime(config)?;
    locks::lock_archives(config)?;
    let mounts = Mounts::start(&config.data, &config.archives, config.sync).context("disk threads")?;
    let records = Records::open(&config.runtime_dir).context("runtime directory")?;
    if records.are_in_memory().is_ok_and(|in_memory| !in_memory) {
        let directory = config.runtime_dir.display();
        warn!(%directory, "runtime-dir is not in memory: streams hang when its disk does; name a directory on a tmpfs");
    }
    let settings = config.stream_settings();
    let (used, all_answered) = highest_numbers(&mounts);
    // A start without records beside an archive that is not empty: the streams of unknown names may be
    // those whose encoders are on their way back.
    let without_state = records.is_empty() && !(all_answered && used == Numbers::default());
    let settling = if without_state { settings.all.grace } else { Duration::ZERO };
    let registry = Registry::settling_until(Instant::now() + settling);
    let actors = runtime("actors", actor_threads())?;
    // Before anything is counted.
    let exporter = Exporter::install(registry.clone(), outside.dropped_lines, actors.metrics())?;
    let used = used.or_higher(adopt(&records, &mounts, &registry, &settings).context("continuity records")?);
    let retention = config.retention();
    let slate = slate_clip(config)?;
    let environment = Environment {
        registry,
        records,
        vitals: Arc::default(),
        view: Arc::default(),
        slate,
        settings,
        used,
        mounts,
        retention,
    };
    let worker = Worker::new(config, environment, exporter);
    let outcome = worker.run(&actors, listeners, outside.shutdown, outside.reload);
    // Bounded: what is not done by then is dropped.
    actors.shutdown_timeout(STOP_DEADLINE);
    outcome
}

/// The clip for slates; none if it cannot be had in time: then the last picture is shown.
fn slate_clip(config: &Config) -> anyhow::Result<Option<Arc<Clip>>> {
    let (read, clip) = sync_channel(1);
    let theirs = config.clone();
    thread::Builder::new().name("slate-clip".to_owned()).spawn(move || drop(read.send(theirs.slate_clip())))?;
    let clip = clip.recv_timeout(locks::DEADLINE).unwrap_or_else(|_| Err("it cannot be read in time".to_owned()));
    Ok(clip.unwrap_or_else(|error| {
        error!(error, "the slate's clip cannot be shown; the last picture is");
        None
    }))
}

struct Worker {
    environment: Environment,
    keys: Arc<StaticKeys>,
    health: Health,
    exporter: Exporter,
    recordings_api: recordings_api::Context,
    chaos: bool,
    /// How long viewers are served after it was told to stop.
    drain: Duration,
    max_bitrate: u64,
}

impl Worker {
    fn new(config: &Config, environment: Environment, exporter: Exporter) -> Self {
        let health = Health {
            vitals: environment.vitals.clone(),
            actors: Arc::default(),
            delivery: Arc::default(),
            mounts: environment.mounts.clone(),
            threads: actor_threads(),
            draining: Arc::default(),
            ending: Arc::default(),
            awake_since: Arc::new(Mutex::new(std::time::Instant::now())),
        };
        Self {
            recordings_api: recordings_api::Context::new(
                environment.mounts.clone(),
                environment.registry.clone(),
                environment.records.clone(),
            ),
            environment,
            keys: Arc::new(StaticKeys::new(config.keys.clone())),
            health,
            exporter,
            chaos: config.chaos,
            drain: config.drain,
            max_bitrate: config.max_bitrate_mbit * 1_000_000,
        }
    }

    fn run(
        self,
        actors: &Runtime,
        listeners: Listeners,
        shutdown: impl Future<Output = Stop>,
        reload: Box<dyn Fn() -> Result<Config, Vec<Problem>> + Send>,
    ) -> anyhow::Result<()> {
        let (rtmp, http, health) =
            (listeners.rtmp.local_addr()?, listeners.http.local_addr()?, listeners.health.local_addr()?);
        let args = {
            let _inside = actors.enter();
            listeners.rtmp.set_nonblocking(true)?;
            root::Args {
                environment: self.environment.clone(),
                rtmp: Arc::new(tokio::net::TcpListener::from_std(listeners.rtmp)?),
                authorizer: self.keys.clone(),
                max_bitrate: self.max_bitrate,
                pulse: self.health.actors.clone(),
            }
        };
        let (root, root_handle) = actors.block_on(Root::spawn(None, Root, args)).context("the tree's root")?;
        guard::start(self.health.clone(), root.clone(), listeners.parent)?;
        let (stop, stopped) = watch::channel(false);
        let delivery = self.start_delivery(listeners.http, stopped)?;
        self.start_health(listeners.health, root.clone())?;
        info!(%rtmp, %http, %health, "listening");
        let outcome = actors.block_on(async {
            let stop = tokio::select! {
                stop = shutdown => stop,
                _ = root_handle => anyhow::bail!("the root of the supervision tree has failed"),
                error = reload_on_hangup(&self.keys, reload) => return Err(error),
            };
            let time = if stop == Stop::Upgrade { Duration::ZERO } else { self.drain };
            drain::drain(&root, &self.environment.registry, &self.health, time).await;
            Ok(())
        });
        info!("stopping");
        self.health.ending.store(true, Ordering::Relaxed);
        // Both are bounded: what is not done by then is dropped with the runtimes.
        let _ = actors.block_on(root.stop_and_wait(None, Some(STOP_DEADLINE)));
        stop.send_replace(true);
        let _ = delivery.join();
        outcome
    }

    /// Serves viewers on a runtime of its own, started again if it should ever fail.
    fn start_delivery(
        &self,
        http: TcpListener,
        stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<thread::JoinHandle<()>> {
        http.set_nonblocking(true)?;
        let router = delivery::viewers::router(self.environment.registry.clone())
            .merge(delivery::recordings::router(&self.environment.mounts))
            .merge(recordings_api::reading(self.recordings_api.clone()))
            .merge(admin::api(self.environment.registry.clone(), self.environment.view.clone()))
            .merge(admin::monitoring(self.exporter.clone(), self.health.clone()));
        let pulse = self.health.delivery.clone();
        let forever = move || {
            while !*stopped.borrow() {
                let attempt = http.try_clone().map_err(anyhow::Error::from);
                let served =
                    attempt.and_then(|http| serve_viewers(http, router.clone(), pulse.clone(), stopped.clone()));
                if let Err(error) = served {
                    error!(%error, "delivery failed, starting it again");
                    thread::sleep(DELIVERY_PAUSE);
                }
            }
        };
        Ok(thread::Builder::new().name("delivery".to_owned()).spawn(forever)?)
    }

    /// Answers health on a thread and a listener of its own.
    fn start_health(&self, listener: TcpListener, root: ractor::ActorRef<root::Msg>) -> anyhow::Result<()> {
        listener.set_nonblocking(true)?;
        let exporter = self.exporter.clone();
        let mut router = admin::monitoring(exporter.clone(), self.health.clone())
            .merge(recordings_api::reading(self.recordings_api.clone()))
            .merge(recordings_api::changing(self.recordings_api.clone()));
        if self.chaos {
            warn!("fault injection is offered on the health address");
            router = router.merge(admin::chaos(root));
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let forever = move || {
            runtime.block_on(async {
                let listener = match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => return error!(%error, "health cannot be answered"),
                };
                let upkeep = async {
                    loop {
                        tokio::time::sleep(UPKEEP).await;
                        exporter.upkeep();
                    }
                };
                delivery::serve(listener, router, delivery::Limits::of("health"), upkeep).await;
            });
        };
        thread::Builder::new().name("health".to_owned()).spawn(forever)?;
        Ok(())
    }
}

/// One life of delivery. A panic in it comes back as an error.
fn serve_viewers(
    http: TcpListener,
    router: Router,
    pulse: Arc<Pulse>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let runtime = runtime("delivery", DELIVERY_THREADS)?;
    let serving = runtime.block_on(async {
        let http = tokio::net::TcpListener::from_std(http)?;
        let mut lives = tokio::task::JoinSet::new();
        lives.spawn(async move {
            loop {
                pulse.beat();
                tokio::time::sleep(BEAT).await;
            }
        });
        // The sender is dropped only with the process.
        let until_stopped = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
        lives.spawn(delivery::serve(http, router, delivery::Limits::of("http"), until_stopped));
        lives.join_next().await.transpose()?;
        anyhow::Ok(())
    });
    runtime.shutdown_background();
    serving
}

fn actor_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).max(MIN_ACTOR_THREADS)
}

fn runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .with_context(|| format!("runtime {name}"))
}

/// On SIGHUP the keys are read again; running streams are not touched. Returns only if signals cannot be had.
async fn reload_on_hangup(
    keys: &StaticKeys,
    reload: Box<dyn Fn() -> Result<Config, Vec<Problem>> + Send>,
) -> anyhow::Error {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return error.into(),
    };
    while hangup.recv().await.is_some() {
        match reload() {
            Ok(config) => {
                keys.replace(config.keys);
                info!("keys read again; other fields take effect at the next start");
            }
            Err(problems) => {
                for problem in problems {
                    error!(%problem, "configuration not read again");
                }
            }
        }
    }
    anyhow::anyhow!("signals have ended")
}
