//! The matrix of storage faults.

use super::chance::Chance;
use crate::faultfs::{Effect, Operation, Rule};
use rustix::io::Errno;
use std::time::Duration;

/// Errors that storage answers with.
const ERRNOS: [(Errno, &str); 6] = [
    (Errno::IO, "EIO"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::ROFS, "EROFS"),
    (Errno::STALE, "ESTALE"),
    (Errno::ACCESS, "EACCES"),
    (Errno::MFILE, "EMFILE"),
];
/// Operations that can fail.
const OPERATIONS: [Operation; 13] = [
    Operation::Lookup,
    Operation::Getattr,
    Operation::Open,
    Operation::Create,
    Operation::Read,
    Operation::Write,
    Operation::Fsync,
    Operation::Flush,
    Operation::Rename,
    Operation::Unlink,
    Operation::Mkdir,
    Operation::Readdir,
    Operation::Statfs,
];
/// A fault that is to strike once is in force until then, but no longer.
const ONCE_WITHIN: Duration = Duration::from_secs(15);

/// How long a mount is away: what is published meanwhile is in memory.
const AWAY: Duration = Duration::from_secs(5);

/// What happens to a mount.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A rule of the file system.
    Rule(Rule),
    /// The directory of live files is removed.
    DirectoryDeleted,
    /// It is unmounted, and an empty one mounted in its place.
    MountReplaced,
    /// The directory of recordings is removed.
    RecordingsDeleted,
    /// It is unmounted, and comes back.
    MountAway,
}

/// One fault of the matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// For people.
    pub name: String,
    /// What happens.
    pub fault: Fault,
    /// It is over when it has struck.
    pub once: bool,
    /// It is over after this time at the latest.
    pub lasts: Duration,
}

impl Cell {
    fn rule(name: String, rule: Rule, seconds: u64) -> Self {
        let lasts = Duration::from_secs(seconds);
        Self { name: format!("{name}, {seconds} s"), fault: Fault::Rule(rule), once: false, lasts }
    }

    fn error(operation: Operation, errno: (Errno, &str), seconds: u64) -> Self {
        let rule = Rule::always(Some(operation), Effect::Errno(errno.0.raw_os_error()));
        Self::rule(format!("{} {}", name(operation), errno.1), rule, seconds)
    }

    fn error_once(operation: Operation, errno: (Errno, &str)) -> Self {
        let rule = Rule { count: Some(1), ..Rule::always(Some(operation), Effect::Errno(errno.0.raw_os_error())) };
        let name = format!("{} {}, once", name(operation), errno.1);
        Self { name, once: true, lasts: ONCE_WITHIN, ..Self::rule(String::new(), rule, 0) }
    }

    fn at_once(name: &str, fault: Fault) -> Self {
        Self { name: name.to_owned(), fault, once: true, lasts: Duration::ZERO }
    }
}

fn name(operation: Operation) -> String {
    format!("{operation:?}").to_lowercase()
}

fn others(seconds: u64) -> Vec<Cell> {
    vec![
        Cell::rule("everything hangs".to_owned(), Rule::always(None, Effect::Hang), seconds),
        Cell::rule("writes hang".to_owned(), Rule::always(Some(Operation::Write), Effect::Hang), seconds),
        Cell::rule("everything takes 500 ms".to_owned(), Rule::always(None, Effect::DelayMs(500)), seconds),
        Cell::rule("writes are short".to_owned(), Rule::always(Some(Operation::Write), Effect::ShortWrite), seconds),
        Cell::rule(
            "everything fails with EIO".to_owned(),
            Rule::always(None, Effect::Errno(Errno::IO.raw_os_error())),
            seconds,
        ),
        Cell::at_once("directory deleted", Fault::DirectoryDeleted),
        Cell::at_once("mount replaced", Fault::MountReplaced),
        Cell::at_once("recordings deleted", Fault::RecordingsDeleted),
        Cell { name: "mount away, 5 s".to_owned(), fault: Fault::MountAway, once: false, lasts: AWAY },
    ]
}

/// All of it, in groups that last equally long, but for what lasts as long as it does, in the last. The seed decides which faults run side by side.
pub fn whole(seed: u64) -> Vec<Vec<Cell>> {
    let pairs = || OPERATIONS.into_iter().flat_map(|operation| ERRNOS.map(|errno| (operation, errno)));
    let once = pairs().map(|(operation, errno)| Cell::error_once(operation, errno));
    let lasting = |seconds| pairs().map(move |(operation, errno)| Cell::error(operation, errno, seconds));
    let mut parts: [Vec<Cell>; 3] = [once.collect(), lasting(5).collect(), lasting(60).collect()];
    parts[2].extend(others(60));
    for part in &mut parts {
        Chance::of(seed).shuffle(part);
    }
    parts.to_vec()
}

/// Every operation with one error, and what is not an error, each for 5 s.
pub fn part(seed: u64) -> Vec<Vec<Cell>> {
    let errors = OPERATIONS.into_iter().map(|operation| Cell::error(operation, ERRNOS[0], 5));
    let mut cells: Vec<_> = errors.chain(others(5)).collect();
    Chance::of(seed).shuffle(&mut cells);
    vec![cells]
}

/// A dozen of them that is over soon.
pub fn short() -> Vec<Vec<Cell>> {
    let [io, nospc, rofs, stale, access, mfile] = ERRNOS;
    let errors = [
        (Operation::Write, io),
        (Operation::Create, nospc),
        (Operation::Rename, rofs),
        (Operation::Lookup, stale),
        (Operation::Open, access),
        (Operation::Unlink, mfile),
    ];
    let errors = errors.map(|(operation, errno)| Cell::error(operation, errno, 5));
    vec![errors.into_iter().chain(others(5)).collect()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_matrix_has_every_fault_once_in_an_order_that_a_seed_repeats() {
        let (first, again, other) = (whole(1).concat(), whole(1).concat(), whole(2).concat());
        assert_eq!(first.len(), 13 * 6 * 3 + 9);
        assert!(first == again && first != other);
        let names = |cells: &[Cell]| cells.iter().map(|cell| cell.name.clone()).collect::<BTreeSet<_>>();
        assert_eq!(names(&first).len(), first.len());
        assert_eq!(names(&first), names(&other));
    }
}
