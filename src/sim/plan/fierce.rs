//! Fierce plans: the worst hour of a cluster's life instead of a day of it.
//!
//! A usual plan is calm for most of its time, and what goes wrong goes wrong alone. Some mistakes show only where two things
//! happen within an election timeout: a crash while the log is being cut, an answer that is as late as a campaign, a leader
//! that is asked to hand over to somebody who has just come back. So the timers are short here, messages and disks take about
//! as long as they do, and trouble comes in *scenes*: some faults within a timeout or two, about the same two members.
//!
//! A fierce plan is short, too: what it is for happens often, or not at all. It is drawn from dice of its own. Kinds of trouble
//! that are wished for in particular ([`Wishes::more`]) are in most of its scenes.

use super::{Drawing, Fault, Group, History, Kind, Load, Logs, MAX_NODES, Noise, Plan, Planned, Profile, Timers};
use super::{Way, Wish, Wishes, in_order};
use crate::node::AutoCompaction;
use crate::rng::{Rng, Seed, mix};
use crate::time::{Duration, Time};

/// The plan of a seed.
pub(super) fn draw(profile: Profile, seed: u64, wishes: &Wishes) -> Plan {
    let mut rng = Rng::new(Seed(mix(seed ^ 0x6669_6572_6365)));
    let usual = [1, 2, 3, 3, 3, 3, 4, 5, 5, 5][rng.below(10) as usize];
    let nodes = wishes.nodes.unwrap_or(usual);
    let (heartbeat, election) = [(10, 100), (10, 100), (20, 60), (40, 250)][rng.below(4) as usize];
    let timers = Timers { heartbeat: Duration::from_millis(heartbeat), election: Duration::from_millis(election) };
    let timeout = timers.election;
    let length = timeout * (20 + rng.below(60) as u32);
    let length = wishes.length.unwrap_or(length);
    let mut d = Drawing { rng, wishes, length, nodes: nodes as u64, timeout, faults: Vec::new() };
    let noise = d.rough();
    let tiny = (d.often(Kind::Limits) & (d.rng.below(2) == 0)) || wishes.demand(Kind::Limits);
    let is_full = profile == Profile::Full;
    let spares = if is_full { d.joiners(nodes) } else { 0 };
    d.scenes(is_full);
    let us = timeout.as_micros() as u64;
    let load = Load {
        clients: 1 + d.rng.below(8) as usize,
        think_us: us / [2, 5, 10, 20][d.rng.below(4) as usize],
        rest: Duration::ZERO,
    };
    let owners = d.rng.below(5) as usize;
    let (history, log) = (d.much_history(), d.short_logs());
    Plan {
        profile,
        seed,
        nodes,
        spares,
        length,
        timers,
        tiny,
        noise,
        load,
        owners: if is_full { owners } else { 0 },
        history: if is_full { history } else { History::default() },
        log,
        checkpoints: [1, 8, 32][d.rng.below(3) as usize],
        fierce: true,
        faults: in_order(d.faults),
    }
}

impl Drawing<'_> {
    /// Whether the seed has trouble of this kind: two of three have.
    fn often(&mut self, kind: Kind) -> bool {
        (self.rng.below(3) != 0 || self.wishes.demand(kind)) && self.wishes.allow(kind)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len() as u64) as usize]
    }

    /// Everyday life in which what takes time takes up to a third of an election timeout.
    fn rough(&mut self) -> Noise {
        let us = self.timeout.as_micros() as u64;
        let mut some = |kind, of: &[u64]| {
            let (has, much) = (self.often(kind), self.pick(of));
            if has { much } else { 0 }
        };
        let (loss, duplicate) = (some(Kind::Loss, &[10, 50, 200]), some(Kind::Duplicate, &[20, 100, 300]));
        let (reorder, replay) = (some(Kind::Reorder, &[50, 200, 500]), some(Kind::Replay, &[10, 50, 200]));
        let flip = some(Kind::Rot, &[10, 100]);
        let slow = some(Kind::Delay, &[us / 40, us / 10, us / 4]);
        let disk = some(Kind::Slow, &[us / 20, us / 8, us / 3]);
        let drift_ppm = some(Kind::Clock, &[1_000, 100_000]);
        let turn_us = self.pick(&[0, 50, 1_000, us / 20]);
        Noise { loss, duplicate, reorder, replay, flip, delay_us: 100 + slow, disk_us: 100 + disk, turn_us, drift_ppm }
    }

    /// Who joins, and when it is started. Gives the number of places beside the founders'.
    fn joiners(&mut self, nodes: usize) -> usize {
        let has = self.often(Kind::Members);
        let spares = (1 + self.rng.below(5) as usize).min(MAX_NODES - nodes);
        for node in nodes..nodes + spares {
            let at = Time(0) + self.rng.duration(Duration::ZERO, self.length * 3 / 4);
            if self.rng.below(5) != 0 && has {
                self.faults.push(Planned { at, span: Duration::ZERO, fault: Fault::Up { node } });
            }
        }
        if !has {
            return 0;
        }
        self.nodes = (nodes + spares) as u64;
        spares
    }

    fn scenes(&mut self, is_full: bool) {
        let of_all = [
            Kind::Crash,
            Kind::Crash,
            Kind::Leader,
            Kind::Pause,
            Kind::Split,
            Kind::Cut,
            Kind::Clog,
            Kind::Mute,
            Kind::Hint,
            Kind::Clock,
            Kind::Slow,
            Kind::Error,
            Kind::Space,
            Kind::Transfer,
        ];
        let of_members = [Kind::Rot, Kind::Wipe, Kind::Lose, Kind::Lose, Kind::Bend];
        let of_members = if is_full { &of_members[..] } else { &[] };
        let mut kinds: Vec<Kind> = Vec::new();
        for kind in of_all.iter().chain(of_members) {
            if self.often(*kind) {
                kinds.push(*kind);
            }
        }
        if self.nodes > 1 && is_full && self.often(Kind::Members) {
            kinds.extend([Kind::Members; 3]);
        }
        let few = kinds.len();
        for kind in self.wishes.more.iter().filter(|kind| kinds[..few].contains(kind)).copied().collect::<Vec<_>>() {
            kinds.extend(std::iter::repeat_n(kind, few / 2));
        }
        let timeouts = (self.length.as_micros() / self.timeout.as_micros()) as u64;
        let scenes = 2 + self.rng.below(timeouts / 2 + 1);
        for _ in 0..scenes {
            let at = Time(0) + self.rng.duration(Duration::ZERO, self.length + self.timeout * 4);
            self.scene(&kinds, at);
        }
    }

    /// Up to four faults, one soon after the other, about two members.
    fn scene(&mut self, kinds: &[Kind], mut at: Time) {
        let cast = (self.node(), self.node());
        for _ in 0..=self.rng.below(4) {
            let kind = if kinds.is_empty() { return } else { self.pick(kinds) };
            at = at + self.timeout / 100 * self.wild(100) as u32;
            self.step(kind, cast, at);
        }
    }

    /// A span around the election timeout.
    fn while_(&mut self) -> Duration {
        self.timeout / 100 * self.wild(250) as u32
    }

    fn step(&mut self, kind: Kind, (one, two): (usize, usize), at: Time) {
        let span = self.while_();
        let (from, to) = if one == two { (one, self.other(one)) } else { (one, two) };
        let one_bit = 1 << one;
        let keep = self.pick(&[0, 0, 1000, 500, 200]);
        let told = self.rng.below(3) != 0;
        let fault = match kind {
            Kind::Crash if self.rng.below(6) == 0 => {
                for node in 0..self.nodes as usize {
                    let span = self.while_();
                    self.faults.push(Planned { at, span, fault: Fault::Crash { node, keep, told: false } });
                }
                return;
            }
            Kind::Crash if self.rng.below(3) == 0 => {
                let keep = self.rng.below(1001);
                Fault::Tear { node: one, log: self.rng.below(2) == 0, keep }
            }
            Kind::Crash => Fault::Crash { node: one, keep, told },
            Kind::Leader => Fault::Leader { way: self.pick(&Way::ALL) },
            Kind::Pause => Fault::Pause { node: one, sleeps: self.rng.below(4) == 0 },
            Kind::Clock => Fault::Jump { node: one },
            // Whoever leads is asked, for the others refuse.
            Kind::Transfer => {
                let to = (self.rng.below(3) != 0).then_some(two);
                for node in 0..self.nodes as usize {
                    self.faults.push(Planned { at, span, fault: Fault::Transfer { node, to } });
                }
                return;
            }
            Kind::Slow => Fault::Slow { node: one, factor: self.pick(&[3, 10, 50]) },
            Kind::Error => Fault::Error { node: one, log: self.rng.below(2) == 0 },
            Kind::Space => Fault::Space { node: one },
            Kind::Rot => Fault::Rot { node: one, place: self.rng.next_u64() >> 16 },
            Kind::Wipe if self.rng.below(4) != 0 => return,
            Kind::Wipe => Fault::Wipe { node: one },
            // Who comes back without a state is asked to lead at once.
            Kind::Lose if self.wishes.allow(Kind::Transfer) => {
                self.faults.push(Planned { at, span, fault: Fault::Lose { node: one } });
                for _ in 0..3 {
                    let at = at + span + self.timeout / 100 * self.wild(50) as u32;
                    for node in 0..self.nodes as usize {
                        self.faults.push(Planned { at, span, fault: Fault::Transfer { node, to: Some(one) } });
                    }
                }
                return;
            }
            Kind::Lose => Fault::Lose { node: one },
            Kind::Bend => Fault::Bend { side: self.pick(&[one_bit, one_bit, one_bit | 1 << two]) },
            Kind::Members => {
                let wish = self.pick(&Wish::ALL);
                let fault = Fault::Change { wish, pick: self.rng.next_u64() >> 32, pinned: self.rng.below(2) == 0 };
                self.faults.push(Planned { at, span: span * 4, fault });
                return;
            }
            _ if self.nodes == 1 => return,
            Kind::Split => {
                let some = self.rng.below((1 << self.nodes) - 1) + 1;
                Fault::Split { side: self.pick(&[one_bit, one_bit, one_bit | 1 << two, some]) }
            }
            Kind::Cut => Fault::Cut { from, to },
            Kind::Clog => Fault::Clog { from, to },
            Kind::Mute => Fault::Mute { group: self.pick(&Group::ALL) },
            Kind::Hint => Fault::Hint { node: from, peer: to },
            Kind::Loss | Kind::Duplicate | Kind::Reorder | Kind::Delay | Kind::Replay | Kind::Limits => return,
        };
        self.faults.push(Planned { at, span, fault });
    }

    fn much_history(&mut self) -> History {
        let auto = match self.rng.below(4) {
            0 => AutoCompaction::Periodic(self.timeout * 4),
            1 => AutoCompaction::Revisions(self.rng.below(50).cast_signed()),
            _ => AutoCompaction::Off,
        };
        let has_quota = (self.rng.below(3) == 0) & (auto != AutoCompaction::Off);
        let quota = 4096 + self.wild(60_000);
        History {
            compact: self.pick(&[0, 20, 100, 300]),
            old: self.pick(&[0, 50, 200]),
            auto,
            quota: if has_quota { quota } else { 0 },
        }
    }

    fn short_logs(&mut self) -> Logs {
        let drawn = Logs {
            every: self.pick(&[0, 1, 1, 1, 10]),
            keep: self.pick(&[0, 0, 2, 20]),
            bytes: self.pick(&[1, 1, 4_000]),
            piece: self.pick(&[1 << 12, 1 << 14, 1 << 16]),
        };
        let shortest = Logs { every: 1, keep: 0, bytes: 1, ..drawn };
        if self.wishes.demand(Kind::Lose) { shortest } else { drawn }
    }
}
