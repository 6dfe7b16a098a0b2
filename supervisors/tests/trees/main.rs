//! Trees of real actors that err, panic, are killed or do not start, around real streams.

mod harness;
mod lock;
mod recorders;
mod restarts;
mod storage_faults;
