//! What the kernel says about this process, under the names that every Prometheus client uses.

use super::text::Exposition;
use std::fs;

/// Clock ticks per second in `/proc`: USER_HZ, 100 on every Linux.
const TICKS: f64 = 100.0;

/// A value that cannot be read is left out.
pub(super) fn write(e: &mut Exposition<'_>) {
    let mut gauge = |name, help, value: Option<u64>| {
        if let Some(value) = value {
            e.family(name, "gauge", help);
            e.sample("", &[], value);
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    gauge("process_resident_memory_bytes", "Memory in use", number(&status, "VmRSS:").map(|kib| kib * 1024));
    gauge("process_threads", "Threads", number(&status, "Threads:"));
    gauge("process_open_fds", "Open files", fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64));
    gauge("process_max_fds", "The limit on open files", number(&limits, "Max open files"));
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(seconds) = cpu_seconds(&stat) {
        e.family("process_cpu_seconds_total", "counter", "Processor time used");
        e.sample("", &[], seconds);
    }
    if let Some(at) = started(&stat) {
        e.family("process_start_time_seconds", "gauge", "When the process began, since the Unix epoch");
        e.sample("", &[], at);
    }
}

/// The first number after `key`, on its line.
fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// Field `nth` of proc_pid_stat(5), counted from 1. The second one may hold blanks and parentheses.
fn field(stat: &str, nth: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(nth - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS)
}

fn started(stat: &str) -> Option<f64> {
    let boot = number(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
    Some(boot as f64 + field(stat, 22)? / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_shifts_nothing() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 8 0 4200 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(field(stat, 22), Some(4200.0));
        assert_eq!(number("Max open files            1024                 4096   files", "Max open files"), Some(1024));
    }
}
