//! What processes and the machine have used, from /proc.

use anyhow::Context;
use procfs::process::Process;
use procfs::{CurrentSI, KernelStats, WithCurrentSystemInfo};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a process and all its descendants have used since they started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time of every thread, of children that have ended too.
    pub cpu: Duration,
    /// Resident memory, bytes, pages shared between processes counted once.
    pub resident: u64,
    /// Times a thread gave up its core to wait.
    pub waits: u64,
}

/// Adds up a process tree.
pub fn usage_of_tree(root: u32) -> anyhow::Result<Usage> {
    let mut usage = Usage::default();
    for process in tree(root)? {
        let Ok(stat) = process.stat() else { continue };
        let own = stat.utime + stat.stime;
        let waited_for = stat.cutime.max(0).unsigned_abs() + stat.cstime.max(0).unsigned_abs();
        usage.cpu += Duration::from_secs_f64((own + waited_for) as f64 / procfs::ticks_per_second() as f64);
        let maps = process.smaps_rollup().ok();
        let pss = maps
            .and_then(|maps| maps.memory_map_rollup.0.first().and_then(|map| map.extension.map.get("Pss").copied()));
        usage.resident += pss.unwrap_or_else(|| stat.rss_bytes().get());
        for task in process.tasks().into_iter().flatten().flatten() {
            usage.waits += task.status().ok().and_then(|status| status.voluntary_ctxt_switches).unwrap_or(0);
        }
    }
    Ok(usage)
}

/// A process and its descendants.
fn tree(root: u32) -> anyhow::Result<Vec<Process>> {
    let root = i32::try_from(root)?;
    let mut family = BTreeSet::from([root]);
    let all: Vec<(Process, i32)> = procfs::process::all_processes()?
        .flatten()
        .filter_map(|process| process.stat().ok().map(|stat| (process, stat.ppid)))
        .collect();
    // Children may have lower numbers than their parents: go on until nobody is added.
    loop {
        let before = family.len();
        family.extend(
            all.iter()
                .filter(|(_, parent)| family.contains(parent))
                .map(|(process, _)| process.pid)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    let found: Vec<Process> =
        all.into_iter().map(|(process, _)| process).filter(|process| family.contains(&process.pid)).collect();
    anyhow::ensure!(!found.is_empty(), "process {root} is gone");
    Ok(found)
}

/// Busy and total time of all cores since boot, in ticks.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    busy: u64,
    total: u64,
}

impl Cores {
    /// Now.
    pub fn now() -> anyhow::Result<Self> {
        let cpu = KernelStats::current().context("/proc/stat")?.total;
        let idle = cpu.idle + cpu.iowait.unwrap_or(0);
        // Time stolen by neighbours of a virtual machine is time somebody was busy.
        let others = [cpu.irq, cpu.softirq, cpu.steal].into_iter().flatten().sum::<u64>();
        let busy = cpu.user + cpu.nice + cpu.system + others;
        Ok(Self { busy, total: busy + idle })
    }

    /// Part of the time since `earlier` in which cores were busy, 0 to 1.
    pub fn busy_since(self, earlier: Self) -> f64 {
        (self.busy - earlier.busy) as f64 / (self.total - earlier.total).max(1) as f64
    }
}

/// What the figures were measured on: processor, cores, kernel.
pub fn description() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |line| line.trim_start_matches(['\t', ' ', ':']));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_a_grandchild_is_counted_while_it_runs_and_after_it_ended() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; echo done; read wait"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = [0; 5];
        std::io::Read::read_exact(&mut shell.stdout.take().expect("piped"), &mut line).expect("done");
        let usage = usage_of_tree(shell.id()).expect("running");
        assert!(usage.cpu >= Duration::from_millis(20), "{usage:?}");
        assert!(usage.resident > 100_000, "{usage:?}");
        drop(shell.stdin.take());
        shell.wait().expect("ended");
    }

    #[test]
    fn a_busy_core_is_seen() {
        let before = Cores::now().expect("/proc");
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        assert!(Cores::now().expect("/proc").busy_since(before) > 0.1);
    }
}
