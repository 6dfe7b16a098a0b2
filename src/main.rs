//! The `steadycast` program.

use anyhow::Context;
use clap::Parser;
use std::process::ExitCode;
use steadycast::cli::{self, Cli, Command};
use steadycast::config::Problem;
use steadycast::{Config, EXIT_CONFIG, Listeners, config, demo, drain, export, logging, parent, run};
use tikv_jemallocator::Jemalloc;
use tracing::warn;

/// It gives back what streams no longer hold; how it is set is in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match cli.load() {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("steadycast: {problem}");
            }
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let only_check = std::env::var_os(parent::CHECK).is_some();
    let command = Some(Command::CheckConfig).filter(|_| only_check);
    let command = command.or_else(|| cli.command.clone()).unwrap_or(Command::Serve);
    let reload = move || cli.load();
    let outcome = match command {
        Command::Serve => Listeners::inherited_or_bound(&config).and_then(|sockets| serve(&config, sockets, reload)),
        Command::Demo => Listeners::bind(&config).and_then(|sockets| {
            demo(&config, &sockets)?;
            serve(&config, sockets, reload)
        }),
        Command::Supervise => match Listeners::inherited() {
            Ok(None) => return supervise(&config),
            Ok(Some(sockets)) => parent::die_with_parent().and_then(|()| serve(&config, sockets, reload)),
            Err(error) => Err(error),
        },
        Command::Export { session, to, unfinished } => export::run(&config, &session, to, unfinished),
        Command::CheckConfig => {
            print!("{}", config::describe(&config));
            // An upgrade does not depend on it: a worker goes on without.
            if only_check {
                return ExitCode::SUCCESS;
            }
            return check(&config);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steadycast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What `check-config` finds besides the mistakes that keep the configuration from being read.
fn check(config: &Config) -> ExitCode {
    for warning in unknown_variables().iter().map(|variable| no_setting(variable)).chain(logging::filter().1) {
        eprintln!("steadycast: {warning}");
    }
    let mut problems = config.check_directories();
    let slate = config.slate_clip().err();
    problems.extend(slate.map(|mistake| Problem { field: "slate".to_owned(), mistake }));
    for problem in &problems {
        eprintln!("steadycast: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) }
}

fn unknown_variables() -> Vec<String> {
    cli::unknown_variables(std::env::vars_os().map(|(name, _)| name))
}

fn no_setting(variable: &str) -> String {
    format!("{variable} in the environment is no setting, and ignored; `steadycast --help` names them")
}

fn supervise(config: &Config) -> ExitCode {
    let outcome = logging::start(config.log).and_then(|log| {
        let listeners = Listeners::bind(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(parent::run(listeners, config));
        drop(log);
        code
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("steadycast: {error:#}");
        ExitCode::FAILURE
    })
}

/// Publishes the built-in clip, and says where it plays.
fn demo(config: &Config, listeners: &Listeners) -> anyhow::Result<()> {
    let http = listeners.http.local_addr().context("HTTP listener")?;
    demo::start(listeners.rtmp.local_addr().context("RTMP listener")?, config)?;
    println!("Watch the demo at http://localhost:{}/watch/{}", http.port(), demo::STREAM);
    Ok(())
}

fn serve(
    config: &Config,
    listeners: Listeners,
    reload: impl Fn() -> Result<Config, Vec<Problem>> + Send + 'static,
) -> anyhow::Result<()> {
    let log = logging::start(config.log)?;
    unknown_variables().iter().for_each(|variable| warn!("{}", no_setting(variable)));
    let outside =
        run::Outside { shutdown: drain::stop_signal(), reload: Box::new(reload), dropped_lines: log.dropped_lines() };
    run(config, listeners, outside)
}
