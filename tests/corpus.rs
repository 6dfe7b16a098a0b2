//! The fuzzers' corpora, replayed: every input that ever taught a fuzzer something is run by every `make test`.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// Each corpus has at least what the parsers are known to be fed by real peers and hostile ones.
const LEAST: usize = 5;

#[test]
fn every_corpus_replays_without_a_panic() {
    for (name, target) in targets::TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let inputs: Vec<_> =
            fs::read_dir(&directory).expect("a corpus").map(|entry| entry.expect("entry").path()).collect();
        assert!(inputs.len() >= LEAST, "{name} has {} inputs", inputs.len());
        for input in inputs {
            target(&fs::read(&input).expect("readable"));
        }
    }
}

#[test]
fn every_fuzz_target_has_its_program() {
    for (name, _) in targets::TARGETS {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets").join(format!("{name}.rs"));
        assert!(fs::read_to_string(program).expect("a program").contains(&format!("targets::{name}(")), "{name}");
    }
}
