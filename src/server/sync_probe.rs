//! How fast the disk syncs, measured when a member starts.
//!
//! Every write waits until a majority of members has it on the disk, so the time of one sync is the figure that says most
//! about what a cluster will do, and nobody knows it before the first trouble. A member finds it out itself: it appends
//! blocks to a file of its own in the data directory and syncs after each, as the log's worker does. A disk that is fast shows
//! it within a tenth of a second; only one that is not takes the whole second.
//!
//! It changes nothing: the file has no name any more when it is written to, so it is gone with the process. What can't be
//! measured is no reason not to start.
//!
//! Absent: throughput, and what the disk does under load; the histogram of the log's own syncs tells (`metrics.rs`).

use crate::clock::instant;
use crate::time::Duration;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// What is appended before each sync: a small write, rounded up to what disks write.
const BLOCK: [u8; 4096] = [0x51; 4096];

/// Fewer syncs say nothing.
const SYNCS_MIN: usize = 20;

/// More syncs say nothing new.
const SYNCS_MAX: usize = 50;

/// A start is not held up for longer.
const TIME_MAX: Duration = Duration::from_secs(1);

/// A disk whose slowest sync is no slower is good enough, and needs no more syncs to say so.
const FAST: Duration = Duration::from_millis(5);

/// A median above it is slow: ten times what a server's SSD takes.
const SLOW: Duration = Duration::from_millis(10);

/// The name of the file for the moment in which it has one.
const FILE: &str = "sync-probe";

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncProbe {
    /// How many syncs.
    pub syncs: usize,
    /// How long half of them took at most.
    pub median: Duration,
    /// How long the slowest took.
    pub slowest: Duration,
}

impl SyncProbe {
    /// Measures the disk on which `directory` is.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn measure(directory: &Path) -> io::Result<SyncProbe> {
        let path = directory.join(FILE);
        let mut file = File::create(&path)?;
        std::fs::remove_file(&path)?;
        let begun = instant();
        let mut syncs = Vec::with_capacity(SYNCS_MAX);
        let mut sync = || {
            let begun = instant();
            file.write_all(&BLOCK)?;
            file.sync_data()?;
            Ok::<_, io::Error>(begun.elapsed())
        };
        // The first one also makes the file.
        sync()?;
        while !enough(&syncs, begun.elapsed()) {
            syncs.push(sync()?);
        }
        Ok(SyncProbe::of(syncs))
    }

    fn of(mut syncs: Vec<Duration>) -> SyncProbe {
        syncs.sort_unstable();
        let at = |place: usize| syncs.get(place).copied().unwrap_or_default();
        SyncProbe { syncs: syncs.len(), median: at(syncs.len() / 2), slowest: at(syncs.len().saturating_sub(1)) }
    }

    /// What to say of a disk that is too slow for the timers it is to keep; `None` if it is not.
    pub fn complaint(&self, election_timeout: Duration) -> Option<String> {
        let [median, slowest] = [self.median, self.slowest].map(super::slow::round);
        let endangers = self.slowest * 4 > election_timeout;
        if self.median <= SLOW && !endangers {
            return None;
        }
        let mut text = format!(
            "the disk is slow: of {} syncs half took up to {median:?}, the slowest {slowest:?}; every write waits for a sync \
             on a majority of members",
            self.syncs
        );
        if endangers {
            let enough = (self.slowest * 10).as_millis().div_ceil(1000) * 1000;
            text += &format!(
                ", and a leader whose sync takes longer than --election-timeout {election_timeout:?} loses its office: until \
                 the disk is faster, start all members with --heartbeat-interval {} --election-timeout {enough}",
                enough / 10
            );
        }
        Some(text + "; give the data directory a disk of its own, an SSD if it has none")
    }
}

/// Whether the picture is clear after `syncs`, or no more time may be spent on it.
fn enough(syncs: &[Duration], spent: Duration) -> bool {
    let fast = syncs.len() >= SYNCS_MIN && syncs.iter().all(|sync| *sync <= FAST);
    fast || syncs.len() >= SYNCS_MAX || (spent >= TIME_MAX && !syncs.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_probe_measures_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let probe = SyncProbe::measure(directory.path()).unwrap();
        assert!(probe.syncs >= 1 && probe.median <= probe.slowest && probe.slowest > Duration::ZERO, "{probe:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(SyncProbe::measure(&directory.path().join("nowhere")).is_err());
    }

    #[test]
    fn a_fast_disk_is_done_soon_and_a_slow_one_in_time() {
        assert!(!enough(&[ms(1); 19], ms(19)) && enough(&[ms(1); 20], ms(20)));
        assert!(!enough(&[ms(6); 20], ms(120)) && enough(&[ms(6); 50], ms(300)));
        assert!(!enough(&[ms(90); 10], ms(900)) && enough(&[ms(90); 12], ms(1080)));
        assert!(!enough(&[], ms(2_000)), "one sync at least");
    }

    #[test]
    fn a_probe_is_its_median_and_its_slowest() {
        let probe = SyncProbe::of(vec![ms(9), ms(1), ms(2), ms(3), ms(4)]);
        assert_eq!(probe, SyncProbe { syncs: 5, median: ms(3), slowest: ms(9) });
    }

    #[test]
    fn a_slow_disk_is_complained_about_with_figures_and_a_way_out() {
        let said = |median, slowest, election| {
            let probe = SyncProbe { syncs: 20, median: ms(median), slowest: ms(slowest) };
            probe.complaint(ms(election)).unwrap_or_default()
        };
        assert_eq!(said(10, 250, 1000), "");
        let slow = said(48, 60, 1000);
        assert!(
            slow.contains("half took up to 48ms, the slowest 60ms") && slow.ends_with("an SSD if it has none"),
            "{slow}"
        );
        assert!(!slow.contains("--election-timeout"), "{slow}");
        let hopeless = said(48, 420, 1000);
        let way_out = "--election-timeout 1s loses its office: until the disk is faster, start all members with \
                       --heartbeat-interval 500 --election-timeout 5000";
        assert!(hopeless.contains(way_out), "{hopeless}");
    }
}
