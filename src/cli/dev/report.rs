//! What a fault did, as measured: for people, and as JSON.
//!
//! *detect*, *elect* and *recover* are what the new leader noted (its `Inspect` answer), as the time each step took after
//! the one before; "-" where it noted nothing. *Unavailable* is what the prober saw, and the only figure that a client
//! feels.

use serde::Serialize;
use std::fmt::Write as _;

/// What was done to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// SIGSTOP.
    Pause,
}

impl Fault {
    fn past(self) -> &'static str {
        match self {
            Fault::Kill => "killed (SIGKILL",
            Fault::Stop => "stopped (SIGTERM",
            Fault::Pause => "paused (SIGSTOP",
        }
    }

    /// The verb of `quorate dev` that undoes it.
    pub fn undo(self) -> &'static str {
        match self {
            Fault::Kill | Fault::Stop => "start",
            Fault::Pause => "resume",
        }
    }
}

/// The change of leader that followed. Milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Failover {
    /// The new leader.
    pub leader: String,
    /// Its term.
    pub term: u64,
    /// How the loss was noticed: timeout, connection lost, transfer; empty if that isn't known.
    pub cause: String,
    /// From the signal until the loss was noticed.
    pub detect_ms: Option<f64>,
    /// From then until there was a new leader.
    pub elect_ms: Option<f64>,
    /// From then until its first entry was committed.
    pub recover_ms: Option<f64>,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The member.
    pub member: String,
    /// What was done to it.
    pub fault: Fault,
    /// Whether it led.
    pub was_leader: bool,
    /// The term before.
    pub term: u64,
    /// Members that run after it.
    pub running: usize,
    /// Members of the lab.
    pub members: usize,
    /// The next leader, if there was a change.
    pub failover: Option<Failover>,
    /// The longest time between two acknowledged writes around the fault; none if writes didn't flow again.
    pub unavailable_ms: Option<f64>,
    /// Writes sent.
    pub probes: u64,
    /// Of them acknowledged.
    pub acknowledged: usize,
    /// Perhaps done.
    pub uncertain: usize,
    /// Surely not done.
    pub refused: usize,
    /// Acknowledged writes that a member lacks.
    pub lost: Vec<String>,
    /// Members that were read back.
    pub read_back: Vec<String>,
    /// Members that could not be, with the reason.
    pub unread: Vec<(String, String)>,
    /// What undoes it.
    pub next: String,
}

impl Report {
    /// For people; ends with a newline.
    pub fn text(&self) -> String {
        let role = if self.was_leader { format!("the leader of term {}", self.term) } else { "a follower".to_owned() };
        let mut out = format!("{} {}, it was {role})\n", self.member, self.fault.past());
        if let Some(failover) = &self.failover {
            out.push_str(&self.steps(failover));
        }
        let _ = writeln!(out, "  {} · {}", self.availability(), self.durability());
        for key in self.lost.iter().take(5) {
            let _ = writeln!(out, "  LOST {key}");
        }
        let _ = writeln!(out, "  {} it: {}", self.fault.undo(), self.next);
        out
    }

    fn steps(&self, failover: &Failover) -> String {
        let Failover { leader, term, .. } = failover;
        let detected = match failover.cause.as_str() {
            "timeout" => format!("{leader} heard no heartbeat"),
            "connection lost" => format!("{leader} lost its connection to {}", self.member),
            "transfer" => format!("{} handed leadership over", self.member),
            _ => format!("{leader} noticed"),
        };
        let mut out = String::new();
        for (step, ms, what) in [
            ("detect", failover.detect_ms, detected),
            ("elect", failover.elect_ms, format!("{leader} is leader of term {term}")),
            ("recover", failover.recover_ms, format!("the first entry of term {term} is committed")),
        ] {
            let took = ms.map_or("-".to_owned(), |ms| format!("+{}", millis(ms)));
            let _ = writeln!(out, "  {step:<8} {took:>10}   {what}");
        }
        out
    }

    fn availability(&self) -> String {
        match self.unavailable_ms {
            Some(ms) if self.was_leader => format!("writes were unavailable for {}", millis(ms)),
            Some(ms) => format!("writes went on, at most {} apart", millis(ms)),
            None if self.running <= self.members / 2 => format!(
                "no quorum is left ({} of {} members run, {} are needed): writes wait for one to come back",
                self.running,
                self.members,
                self.members / 2 + 1
            ),
            None => "writes did not flow again while this watched (quorate status)".to_owned(),
        }
    }

    fn durability(&self) -> String {
        let unread: Vec<String> = self.unread.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        let mut out = match (self.read_back.is_empty(), self.lost.len()) {
            (true, _) => format!("{} acknowledged writes can't be read back now", self.acknowledged),
            (false, lost) => format!(
                "{lost} acknowledged writes lost ({} probes, read back from {})",
                self.acknowledged,
                self.read_back.join(" ")
            ),
        };
        if !unread.is_empty() {
            let _ = write!(out, " · not read: {}", unread.join(", "));
        }
        if self.uncertain > 0 {
            let _ = write!(out, " · {} uncertain", self.uncertain);
        }
        out
    }
}

/// Milliseconds, with tenths below ten.
pub fn millis(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{} ms", crate::cli::bench::thousands(ms.round() as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            member: "n1".into(),
            fault: Fault::Kill,
            was_leader: true,
            term: 2,
            running: 2,
            members: 3,
            failover: Some(Failover {
                leader: "n3".into(),
                term: 3,
                cause: "timeout".into(),
                detect_ms: Some(1118.2),
                elect_ms: Some(31.0),
                recover_ms: Some(4.25),
            }),
            unavailable_ms: Some(1168.4),
            probes: 120,
            acknowledged: 116,
            uncertain: 3,
            refused: 1,
            lost: vec![],
            read_back: vec!["n2".into(), "n3".into()],
            unread: vec![],
            next: "quorate dev start n1".into(),
        }
    }

    #[test]
    fn a_killed_leader_reads_like_this() {
        let expected = "\
n1 killed (SIGKILL, it was the leader of term 2)
  detect    +1 118 ms   n3 heard no heartbeat
  elect        +31 ms   n3 is leader of term 3
  recover     +4.2 ms   the first entry of term 3 is committed
  writes were unavailable for 1 168 ms · 0 acknowledged writes lost (116 probes, read back from n2 n3) · 3 uncertain
  start it: quorate dev start n1
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let unknown = Failover { leader: "n2".into(), term: 3, ..Failover::default() };
        let text = Report { failover: Some(unknown), ..report() }.text();
        assert!(text.contains("  detect            -   n2 noticed\n"), "{text}");
    }

    #[test]
    fn a_follower_stops_no_writes() {
        let report = Report {
            member: "n2".into(),
            fault: Fault::Pause,
            was_leader: false,
            failover: None,
            unavailable_ms: Some(11.4),
            uncertain: 0,
            next: "quorate dev resume n2".into(),
            ..report()
        };
        let expected = "\
n2 paused (SIGSTOP, it was a follower)
  writes went on, at most 11 ms apart · 0 acknowledged writes lost (116 probes, read back from n2 n3)
  resume it: quorate dev resume n2
";
        assert_eq!(report.text(), expected);
    }

    #[test]
    fn without_a_quorum_nothing_is_claimed() {
        let report = Report {
            running: 1,
            failover: None,
            unavailable_ms: None,
            read_back: vec![],
            unread: vec![("n3".into(), "no leader".into())],
            ..report()
        };
        let text = report.text();
        assert!(text.contains("no quorum is left (1 of 3 members run, 2 are needed)"), "{text}");
        assert!(text.contains("116 acknowledged writes can't be read back now · not read: n3: no leader"), "{text}");
        assert!(!text.contains("0 acknowledged writes lost"), "{text}");
    }

    #[test]
    fn lost_writes_are_named() {
        let text = Report { lost: vec!["_quorate/probe/1/00000007".into()], ..report() }.text();
        assert!(text.contains("1 acknowledged writes lost (116 probes"), "{text}");
        assert!(text.contains("  LOST _quorate/probe/1/00000007\n"), "{text}");
    }
}
