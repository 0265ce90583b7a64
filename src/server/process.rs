//! What the kernel tells about a process: about this one for `process_*` metrics, about others for who measures them.
//!
//! Linux only; elsewhere, and where `/proc` is closed, there is nothing to tell.

use super::exposition::Page;
use std::fs;
use std::sync::OnceLock;

/// Writes what is known.
pub fn expose(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").ok();
    if let Some(stat) = stat.as_deref().and_then(Stat::parse) {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        page.counter(
            "process_cpu_seconds_total",
            "CPU time spent, in user and kernel mode, in seconds.",
            stat.cpu_ticks as f64 / ticks_per_second,
        );
        page.gauge(
            "process_resident_memory_bytes",
            "Memory that is resident.",
            stat.resident_pages * rustix::param::page_size() as u64,
        );
        page.gauge("process_virtual_memory_bytes", "Memory that is mapped.", stat.virtual_bytes);
        // Read once: the kernel's idea of when it booted moves with the clock, and alerts take a change for a restart.
        static BOOT: OnceLock<Option<u64>> = OnceLock::new();
        let boot = BOOT.get_or_init(|| boot_time(&fs::read_to_string("/proc/stat").ok()?));
        if let Some(boot) = boot {
            let start = *boot as f64 + stat.start_ticks as f64 / ticks_per_second;
            page.gauge("process_start_time_seconds", "When the process started, in Unix time.", start);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // Without the one that reads the directory.
        let open = open.count().saturating_sub(1);
        page.gauge("process_open_fds", "Open file descriptors.", open);
        page.gauge("os_fd_used", "Open file descriptors, as etcd names them too.", open);
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        page.gauge("process_max_fds", "File descriptors that may be open.", limit);
        page.gauge("os_fd_limit", "File descriptors that may be open, as etcd names them too.", limit);
    }
}

/// What a process has used since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time in user and kernel mode, in seconds.
    pub cpu_s: f64,
    /// Bytes that it caused to be written to disks.
    pub written: u64,
    /// Memory that is resident, in bytes.
    pub resident: u64,
    /// The most that ever was, in bytes.
    pub resident_peak: u64,
}

/// What the process `pid` has used; `None` if there is none, or nobody tells.
pub fn usage(pid: u32) -> Option<Usage> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let stat = Stat::parse(&read("stat")?)?;
    let (io, status) = (read("io")?, read("status")?);
    Some(Usage {
        cpu_s: stat.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        written: labelled(&io, "write_bytes:")?,
        resident: labelled(&status, "VmRSS:")? * 1024,
        resident_peak: labelled(&status, "VmHWM:")? * 1024,
    })
}

/// The number on the line that begins with `label`.
fn labelled(text: &str, label: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(label))?.split_whitespace().next()?.parse().ok()
}

/// A part of `/proc/self/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    /// After boot.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// The fields after the program's name, which may hold blanks and brackets itself.
    fn parse(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // The first one here is the third in proc(5).
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

/// When the machine booted, in Unix seconds.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_has_used() {
        let used = usage(std::process::id()).unwrap();
        assert!(used.resident > 0 && used.resident_peak >= used.resident / 2, "{used:?}");
        assert_eq!(usage(u32::MAX), None);
        assert_eq!(labelled("rchar: 1\nwrite_bytes: 4096\n", "write_bytes:"), Some(4096));
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "7 (quo) rate)) S 1 7 7 0 -1 4194560 100 0 0 0 11 22 0 0 20 0 9 0 12345 1048576 256 184467 1 1";
        let stat = Stat { cpu_ticks: 33, start_ticks: 12345, virtual_bytes: 1_048_576, resident_pages: 256 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (quorate) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 9\n"), Some(1_700_000_000));
    }
}
