//! HTTP to players and the console, from storage only: while a stream's tree restarts, viewers keep reading.

mod console;
pub mod events;
mod files;
pub mod recordings;
pub mod server;
pub mod viewers;

pub use server::{Limits, serve};
