//! Who restarts whom. A supervisor starts, watches and restarts; it does no work.

pub mod children;
pub mod events;
pub mod root;
pub mod spec;
pub mod strategy;
pub mod stream;
pub mod streams;
pub mod tree;
pub mod view;
pub mod watchdog;

pub use spec::{ChildSpec, Restart};
pub use strategy::{Decision, Ending, Intensity};
