//! Steadycast: a live-streaming server. Encoders publish over RTMP, viewers play HLS, and the show goes on.
//!
//! This crate is the program: command line, configuration, wiring, admin API and metrics exporter.

pub mod admin;
pub mod adopt;
pub mod cli;
pub mod config;
pub mod demo;
pub mod drain;
pub mod export;
pub mod exporter;
pub mod guard;
pub mod health;
pub mod keys;
pub mod locks;
pub mod logging;
pub mod metric_help;
pub mod parent;
pub mod recordings_api;
pub mod run;

/// Exit code of a wrong configuration.
pub const EXIT_CONFIG: u8 = 2;
/// Exit code of a process that made no progress (EX_SOFTWARE of sysexits(3)).
pub const EXIT_STUCK: u8 = 70;

pub use config::Config;
pub use run::{Listeners, run};
