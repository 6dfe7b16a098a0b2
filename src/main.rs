//! The `steadycast` program.

use anyhow::Context;
use clap::Parser;
use std::process::ExitCode;
use steadycast::cli::{Cli, Command};
use steadycast::config::Problem;
use steadycast::{Config, Listeners, config, demo, export, logging, run};

/// The configuration is wrong.
const EXIT_CONFIG: u8 = 2;

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
    let command = cli.command.clone().unwrap_or(Command::Serve);
    let outcome = match command {
        Command::Serve => serve(&config, false, move || cli.load()),
        Command::Demo => serve(&config, true, move || cli.load()),
        Command::Export { session, to } => export::run(&config, &session, to),
        Command::CheckConfig => {
            print!("{}", config::describe(&config));
            Ok(())
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

fn serve(
    config: &Config,
    with_demo: bool,
    reload: impl Fn() -> Result<Config, Vec<Problem>> + Send + 'static,
) -> anyhow::Result<()> {
    let log = logging::start(config.log)?;
    let listeners = Listeners::bind(config)?;
    let http = listeners.http.local_addr().context("HTTP listener")?;
    if with_demo {
        demo::start(listeners.rtmp.local_addr().context("RTMP listener")?, config)?;
        println!("Watch the demo at http://localhost:{}/watch/{}", http.port(), demo::STREAM);
    }
    let outside =
        run::Outside { shutdown: run::stop_signal(), reload: Box::new(reload), dropped_lines: log.dropped_lines() };
    run(config, listeners, outside)
}
