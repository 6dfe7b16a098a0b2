//! Fuzz targets: what is fuzzed is also what `tests/corpus.rs` replays.

pub mod targets;
