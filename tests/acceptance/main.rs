//! The real program with real encoders and players, told as stories.
//!
//! What a machine lacks makes a test fail with a sentence that says what to install (`make tools`).

mod blocking;
mod encoders;
mod exactness;
mod frames;
mod harness;
mod hostile;
mod http;
mod players;
mod process;
mod prometheus;
mod reconnect;
mod recordings;
mod restart;
mod slate;
mod storage;
