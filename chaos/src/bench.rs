//! Bench: what Steadycast costs, measured beside nginx-rtmp in one run.

pub mod contender;
pub mod ingest;
pub mod machine;
pub mod report;
pub mod volume;
pub mod web;
