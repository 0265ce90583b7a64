//! What is going to happen to a cluster: a plan, drawn from a seed, written down as text.
//!
//! A run is a function of its [`Plan`] and of nothing else. The plan holds what is big and worth naming, one line each: how
//! many members, which timers, how rough the network and the disks are, and the list of faults with their moments. What is
//! small (how long this message takes, whether that one is lost) is drawn during the run from the plan's seed, from streams
//! that are independent of each other, so that a fault that is taken out of the list leaves the rest much as it was. That
//! is what makes shrinking (`shrink.rs`) possible.
//!
//! **Swarm.** Each seed leaves about half of the faults out and weights the others wildly, for faults mask each other: a
//! cluster that is always partitioned never fills a window, and one that never rests never shows what a quiet one forgets.
//!
//! **Places.** A cluster begins with its founders. Beside them there may be spare places for members that join: each is started
//! once, early or late, and asked for by the operator. An id is never used twice, and neither is its place.
//!
//! Every fault ends by itself, after its own time, so any line can be removed from a plan and the rest still makes sense.

use crate::node::{AutoCompaction, Retention, SpaceConfig};
use crate::raft::Limits;
use crate::rng::{Rng, Seed, mix};
use crate::time::{Duration, Time};

mod fierce;
mod text;

/// How much of a member is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The Raft core on a disk of entries: fast.
    Core,
    /// The whole member: node, machine and log store on two engines in memory.
    Full,
}

/// A kind of trouble, to be switched on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Messages are lost.
    Loss,
    /// Messages come twice.
    Duplicate,
    /// Messages of a link overtake each other.
    Reorder,
    /// Messages take long, now and then very long.
    Delay,
    /// Any message ever sent comes again.
    Replay,
    /// Processes die and lose what was not synced.
    Crash,
    /// Whoever leads dies, is stopped, or is cut off.
    Leader,
    /// Processes are stopped for a while; or their machines sleep, and their clocks with them.
    Pause,
    /// The cluster is split in two.
    Split,
    /// A link is cut, one way.
    Cut,
    /// A link holds everything back and then lets it all go.
    Clog,
    /// Messages of some kinds only are lost.
    Mute,
    /// Connections break, though both ends live.
    Hint,
    /// Clocks run at different speeds and jump.
    Clock,
    /// Disks are slow, or stand still.
    Slow,
    /// A write or a sync fails.
    Error,
    /// A disk is below its free-space floor.
    Space,
    /// Bits flip, in what a disk holds and on the way.
    Rot,
    /// A disk is emptied and the member started as before.
    Wipe,
    /// Leadership is handed over.
    Transfer,
    /// Windows, batches and memory are as small as they can be.
    Limits,
    /// Members are added, promoted, removed and replaced.
    Members,
    /// A member's state is lost, its log is not.
    Lose,
    /// Members' states go wrong in memory.
    Bend,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 24] = [
        Kind::Loss,
        Kind::Duplicate,
        Kind::Reorder,
        Kind::Delay,
        Kind::Replay,
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
        Kind::Rot,
        Kind::Wipe,
        Kind::Transfer,
        Kind::Limits,
        Kind::Members,
        Kind::Lose,
        Kind::Bend,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Loss => "loss",
            Kind::Duplicate => "duplicate",
            Kind::Reorder => "reorder",
            Kind::Delay => "delay",
            Kind::Replay => "replay",
            Kind::Crash => "crash",
            Kind::Leader => "leader",
            Kind::Pause => "pause",
            Kind::Split => "split",
            Kind::Cut => "cut",
            Kind::Clog => "clog",
            Kind::Mute => "mute",
            Kind::Hint => "hint",
            Kind::Clock => "clock",
            Kind::Slow => "slow",
            Kind::Error => "error",
            Kind::Space => "space",
            Kind::Rot => "rot",
            Kind::Wipe => "wipe",
            Kind::Transfer => "transfer",
            Kind::Limits => "limits",
            Kind::Members => "members",
            Kind::Lose => "lose",
            Kind::Bend => "bend",
        }
    }
}

/// Something that is done to the cluster. Members are counted from 0; every fault ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; of each unsynced list of writes `keep` thousandths survive. It is back after `span`.
    Crash {
        /// Whose.
        node: usize,
        /// How much of what was not synced survives, in thousandths.
        keep: u64,
        /// Whether the peers' connections break (else the machine is gone without a word).
        told: bool,
    },
    /// The same to whoever leads the newest term then.
    Leader {
        /// In which way it is lost.
        way: Way,
    },
    /// The process stands still; with `sleeps`, its clock too.
    Pause {
        /// Whose.
        node: usize,
        /// The clock stands still too.
        sleeps: bool,
    },
    /// Members whose bit is set in `side` and the others don't hear each other.
    Split {
        /// A bit per member.
        side: u64,
    },
    /// `to` does not hear `from`.
    Cut {
        /// Who speaks.
        from: usize,
        /// Who does not hear.
        to: usize,
    },
    /// What `from` sends to `to` arrives when this ends.
    Clog {
        /// Who speaks.
        from: usize,
        /// Who waits.
        to: usize,
    },
    /// Messages of a group are lost, everywhere.
    Mute {
        /// Which.
        group: Group,
    },
    /// `node` is told that `peer`'s connection has ended.
    Hint {
        /// Who is told.
        node: usize,
        /// Of whom.
        peer: usize,
    },
    /// The clock jumps ahead by the span.
    Jump {
        /// Whose.
        node: usize,
    },
    /// The disk takes `factor` times as long.
    Slow {
        /// Whose.
        node: usize,
        /// How much longer.
        factor: u64,
    },
    /// The next sync (or write) of a disk fails, which ends the process. It is back after `span`.
    Error {
        /// Whose.
        node: usize,
        /// The log's disk, or the state's.
        log: bool,
    },
    /// The disk is low on space.
    Space {
        /// Whose.
        node: usize,
    },
    /// The process dies, and a bit of what it has on its disk flips. Started again it must refuse. In the log, or where the
    /// others can't do without this member's state, the disk's former image is put back; else the state is taken over.
    Rot {
        /// Whose.
        node: usize,
        /// Which one of its values, and which bit: taken modulo what there is.
        place: u64,
    },
    /// The process dies in the middle of its next write that is more than one step: one of a log that has
    /// entries with a new term, or in the place of others; one of the state that has several parts. Of it `keep` thousandths survive. It is back after `span`.
    Tear {
        /// Whose.
        node: usize,
        /// The log's, or the state's.
        log: bool,
        /// How much of the write survives, in thousandths.
        keep: u64,
    },
    /// The process dies and comes back on an empty disk.
    Wipe {
        /// Whose.
        node: usize,
    },
    /// The process dies and comes back without its state, if the others can do without it for a while.
    Lose {
        /// Whose.
        node: usize,
    },
    /// The states of those whose bit is set go wrong, all in the same way, as far as the others can do without them.
    Bend {
        /// A bit per member.
        side: u64,
    },
    /// A place beyond the founders is started, on an empty disk: a joiner, whether it was added or not.
    Up {
        /// Which.
        node: usize,
    },
    /// The operator asks for another membership, again and again for the span if need be.
    Change {
        /// What it wants.
        wish: Wish,
        /// Which members that is about: taken modulo what there is.
        pick: u64,
        /// On top of the configuration that it sees, or of whatever there is.
        pinned: bool,
    },
    /// The member is asked to hand leadership over.
    Transfer {
        /// Who is asked.
        node: usize,
        /// To whom; `None`: anyone.
        to: Option<usize>,
    },
}

/// What an operator wants of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// One more that votes as soon as it has caught up.
    Voter,
    /// One more that learns until it is promoted.
    Learner,
    /// A learner becomes a voter.
    Promote,
    /// Some member goes.
    Remove,
    /// Whoever leads goes.
    RemoveLeader,
    /// Some member goes, one that lost its disk first of all, and another one comes, in one change.
    Replace,
    /// Some come, some go, and learners become voters, in one change.
    Several,
}

impl Wish {
    const ALL: [Wish; 7] =
        [Wish::Voter, Wish::Learner, Wish::Promote, Wish::Remove, Wish::RemoveLeader, Wish::Replace, Wish::Several];

    fn name(self) -> &'static str {
        match self {
            Wish::Voter => "voter",
            Wish::Learner => "learner",
            Wish::Promote => "promote",
            Wish::Remove => "remove",
            Wish::RemoveLeader => "remove-leader",
            Wish::Replace => "replace",
            Wish::Several => "several",
        }
    }
}

/// How a leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its process dies, and its connections break.
    Dies,
    /// Its process stands still.
    Stops,
    /// Nobody hears it, and it hears nobody.
    CutOff,
}

impl Way {
    const ALL: [Way; 3] = [Way::Dies, Way::Stops, Way::CutOff];

    fn name(self) -> &'static str {
        match self {
            Way::Dies => "dies",
            Way::Stops => "stops",
            Way::CutOff => "cut-off",
        }
    }
}

/// Messages that are lost together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Votes, pre-votes and their answers.
    Votes,
    /// Appends.
    Appends,
    /// Answers to appends and heartbeats.
    Answers,
    /// Heartbeats.
    Heartbeats,
    /// Forwards and read requests, and their answers.
    Requests,
}

impl Group {
    const ALL: [Group; 5] = [Group::Votes, Group::Appends, Group::Answers, Group::Heartbeats, Group::Requests];

    fn name(self) -> &'static str {
        match self {
            Group::Votes => "votes",
            Group::Appends => "appends",
            Group::Answers => "answers",
            Group::Heartbeats => "heartbeats",
            Group::Requests => "requests",
        }
    }
}

/// A fault with its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it begins.
    pub at: Time,
    /// How long it lasts.
    pub span: Duration,
    /// What.
    pub fault: Fault,
}

/// How rough everyday life is. Chances are in thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noise {
    /// A message is lost.
    pub loss: u64,
    /// A message comes twice.
    pub duplicate: u64,
    /// A message overtakes those before it.
    pub reorder: u64,
    /// After a message, one that was sent at any time before comes again.
    pub replay: u64,
    /// Beside an append comes a copy with a bit of an entry flipped.
    pub flip: u64,
    /// A usual message takes up to twice this.
    pub delay_us: u64,
    /// A usual sync takes up to twice this.
    pub disk_us: u64,
    /// The inputs of up to this time make one turn.
    pub turn_us: u64,
    /// Clocks run up to this much too fast or too slow.
    pub drift_ppm: u64,
}

/// What clients do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// How many there are; each has one request open at most.
    pub clients: usize,
    /// Between an answer and the next request, up to twice this.
    pub think_us: u64,
    /// They all work and rest by turns of this length; zero: no rest.
    pub rest: Duration,
}

/// What becomes of history, and how much there may be. Chances are in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// A client's next request is a compaction.
    pub compact: u64,
    /// A client's next request is a read of an old revision, or of one that is not there yet.
    pub old: u64,
    /// What members compact by themselves.
    pub auto: AutoCompaction,
    /// What a member holds at most, in bytes; zero: no limit.
    pub quota: u64,
}

/// How much of their logs members keep, and how they take over a state when that is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logs {
    /// A log is cut each so many entries; zero: never.
    pub every: u64,
    /// Entries that stay behind a cut.
    pub keep: u64,
    /// So many bytes stay at most for a follower that is behind.
    pub bytes: u64,
    /// Bytes of a state that are asked for at once.
    pub piece: u64,
}

impl Logs {
    /// Some keep all of their log, others so little that whoever was away takes over a state.
    fn draw(seed: u64) -> Logs {
        let mut dice = Rng::new(Seed(mix(seed ^ 0x6c6f_6773)));
        let mut pick = |of: &[u64]| of[dice.below(of.len() as u64) as usize];
        let piece = 1 << (10 + mix(seed ^ 0x7069_6563) % 7);
        if pick(&[0, 1, 1]) == 0 {
            return Logs { every: 0, keep: 0, bytes: 0, piece };
        }
        let (every, keep) = (pick(&[1, 10, 50]), pick(&[0, 5, 50]));
        Logs { every, keep, bytes: pick(&[1, 4_000, 1 << 20]), piece }
    }

    /// What members are told.
    pub fn retention(&self) -> Retention {
        let Logs { every, keep: keep_entries, bytes: keep_bytes_max, .. } = *self;
        match every {
            0 => Retention::everything(),
            _ => Retention { every, keep_entries, keep_bytes: 1 << 20, keep_bytes_max },
        }
    }
}

/// The timers of all members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// T.
    pub election: Duration,
}

/// See the module's essay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How much of a member is simulated.
    pub profile: Profile,
    /// Where the run's small chances come from.
    pub seed: u64,
    /// How many members the cluster begins with.
    pub nodes: usize,
    /// How many places there are beside, for members that join. An id never comes again, and neither does a place.
    pub spares: usize,
    /// How long anything may happen; then a majority is healed and must work.
    pub length: Duration,
    /// Timers.
    pub timers: Timers,
    /// Windows, batches and memory as small as they can be.
    pub tiny: bool,
    /// Everyday life.
    pub noise: Noise,
    /// Clients.
    pub load: Load,
    /// How many of them have leases, beside the others.
    pub owners: usize,
    /// What becomes of history.
    pub history: History,
    /// What is kept of logs.
    pub log: Logs,
    /// States are compared each so many entries.
    pub checkpoints: u64,
    /// What is rare in a usual plan is common: values that take more than one slot, and transactions that fail.
    pub fierce: bool,
    /// What happens when, in order.
    pub faults: Vec<Planned>,
}

/// What a seed may not choose freely.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// So many members to begin with.
    pub nodes: Option<usize>,
    /// Trouble of these kinds only; `None`: of all.
    pub only: Option<Vec<Kind>>,
    /// No trouble of these kinds.
    pub without: Vec<Kind>,
    /// Much trouble of these kinds, whatever the seed says. To lose states also means short logs, so that they are taken over.
    pub more: Vec<Kind>,
    /// So long.
    pub length: Option<Duration>,
    /// Not a day of a cluster's life but its worst hour: see `fierce.rs`.
    pub fierce: bool,
}

impl Wishes {
    fn allow(&self, kind: Kind) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&kind)) && !self.without.contains(&kind)
    }

    fn demand(&self, kind: Kind) -> bool {
        self.more.contains(&kind) && self.allow(kind)
    }
}

/// Draws what a plan consists of.
struct Drawing<'a> {
    rng: Rng,
    wishes: &'a Wishes,
    length: Duration,
    nodes: u64,
    timeout: Duration,
    faults: Vec<Planned>,
}

impl Drawing<'_> {
    /// Whether the seed has trouble of this kind. Always draws, so that a wish changes nothing else.
    fn has(&mut self, kind: Kind) -> bool {
        (self.rng.below(2) == 0 || self.wishes.demand(kind)) && self.wishes.allow(kind)
    }

    /// Something up to `max`, more often small than large.
    fn wild(&mut self, max: u64) -> u64 {
        let bits = 64 - max.leading_zeros();
        let ceiling = 1 << self.rng.below(u64::from(bits) + 1);
        (1 + self.rng.below(ceiling)).min(max)
    }

    fn node(&mut self) -> usize {
        self.rng.below(self.nodes) as usize
    }

    fn other(&mut self, than: usize) -> usize {
        (than + 1 + self.rng.below(self.nodes.max(2) - 1) as usize) % self.nodes as usize
    }

    /// A span around the election timeout: from a hundredth of it to some of it.
    fn span(&mut self) -> Duration {
        let short = self.timeout / 100 * u32::try_from(self.wild(400)).unwrap_or(u32::MAX);
        let long = self.rng.duration(Duration::ZERO, self.length / 3);
        if self.rng.below(8) == 0 { long } else { short }
    }

    /// Up to `most` faults of a kind, at any time.
    fn plan(&mut self, kind: Kind, most: u64, mut draw: impl FnMut(&mut Self) -> Fault) {
        let (has, count) = (self.has(kind), self.wild(most));
        for _ in 0..count {
            // Some begin when a majority is healed already: they are for those outside of it.
            let at = Time(0) + self.rng.duration(Duration::ZERO, self.length + self.timeout * 12);
            let span = self.span();
            let fault = draw(self);
            if has {
                self.faults.push(Planned { at, span, fault });
            }
        }
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(profile: Profile, seed: u64, wishes: &Wishes) -> Plan {
        if wishes.fierce {
            return fierce::draw(profile, seed, wishes);
        }
        // Neighbouring seeds must have nothing in common.
        let mut rng = Rng::new(Seed(mix(seed ^ 0x706c_616e)));
        let usual = [1, 2, 3, 3, 3, 4, 5, 5, 5, 7][rng.below(10) as usize];
        let nodes = wishes.nodes.unwrap_or(usual);
        let (heartbeat, election) = [(100, 1000), (100, 1000), (50, 400), (10, 100), (100, 300)][rng.below(5) as usize];
        let timers = Timers { heartbeat: Duration::from_millis(heartbeat), election: Duration::from_millis(election) };
        let length = Duration::from_secs(15 + rng.below(30));
        let length = wishes.length.unwrap_or(length);
        let timeout = timers.election;
        let mut d = Drawing { rng, wishes, length, nodes: nodes as u64, timeout, faults: Vec::new() };
        let noise = d.noise();
        let tiny = (d.has(Kind::Limits) & (d.rng.below(2) == 0)) || wishes.demand(Kind::Limits);
        d.processes();
        d.links();
        d.disks(profile);
        let load = Load {
            clients: 1 + d.rng.below(10) as usize,
            think_us: 16_000 << d.rng.below(4),
            rest: if d.rng.below(3) == 0 { d.span() * 2 } else { Duration::ZERO },
        };
        let owners = d.rng.below(5) as usize;
        let owners = if profile == Profile::Full { owners } else { 0 };
        let history = d.history();
        let history = if profile == Profile::Full { history } else { History::default() };
        let mut faults = d.faults;
        let spares = match profile {
            Profile::Core => 0,
            Profile::Full => Drawing::churn(seed, wishes, length, (nodes, timeout), &mut faults),
        };
        let load = Load { rest: micros(load.rest), ..load };
        let log = Logs::draw(seed);
        let checkpoints = [1, 8, 32, 128][mix(seed ^ 0x6368_6563) as usize % 4];
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
            owners,
            history,
            log,
            checkpoints,
            fierce: false,
            faults: in_order(faults),
        }
    }

    /// How many places there are: the founders', and those of members that join.
    pub fn places(&self) -> usize {
        self.nodes + self.spares
    }

    /// Raft's limits under this plan.
    pub fn limits(&self) -> Limits {
        let tiny = Limits {
            max_inflight_messages: 1,
            max_inflight_bytes: 1,
            max_append_bytes: 1,
            max_uncommitted_bytes: 8 << 10,
            memory_bytes: 0,
        };
        if self.tiny { tiny } else { Limits::default() }
    }
}

impl History {
    /// What members are told.
    pub fn config(&self) -> SpaceConfig {
        let quota = (self.quota > 0).then_some(self.quota);
        SpaceConfig { auto_compaction: self.auto, quota, ..SpaceConfig::default() }
    }
}

/// By their moments, and as text has them, so that a plan that is printed is the plan that ran.
fn in_order(mut faults: Vec<Planned>) -> Vec<Planned> {
    for planned in &mut faults {
        (planned.at, planned.span) = (Time(planned.at.0 / 1000 * 1000), micros(planned.span));
    }
    faults.sort_by_key(|planned| planned.at);
    faults
}

/// Cut to microseconds.
fn micros(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

impl Drawing<'_> {
    fn noise(&mut self) -> Noise {
        let mut some = |kind, max| {
            let (has, much) = (self.has(kind), self.wild(max));
            if has { much } else { 0 }
        };
        let (loss, duplicate) = (some(Kind::Loss, 300), some(Kind::Duplicate, 300));
        let (reorder, replay) = (some(Kind::Reorder, 300), some(Kind::Replay, 60));
        let flip = some(Kind::Rot, 100);
        let slow = some(Kind::Delay, 40_000);
        let drift_ppm = some(Kind::Clock, 100_000);
        Noise {
            loss,
            duplicate,
            reorder,
            replay,
            flip,
            delay_us: 100 + slow,
            disk_us: 100 + self.wild(20_000),
            turn_us: [0, 50, 1000][self.rng.below(3) as usize],
            drift_ppm,
        }
    }

    fn history(&mut self) -> History {
        let (asks, reads) = (self.rng.below(2) == 0, self.rng.below(4) != 0);
        let (compact, old) = (self.wild(200), self.wild(200));
        let retention = Duration::from_millis(200 << self.rng.below(6));
        let kept = self.wild(1000).cast_signed();
        let auto = match self.rng.below(6) {
            0 | 1 => AutoCompaction::Periodic(retention),
            2 => AutoCompaction::Revisions(kept),
            _ => AutoCompaction::Off,
        };
        // Without compactions nobody would get out of it again.
        let has_quota = (self.rng.below(2) == 0) & (auto != AutoCompaction::Off);
        let quota = 4096 + self.wild(60_000);
        History {
            compact: if asks { compact } else { 0 },
            old: if reads { old } else { 0 },
            auto,
            quota: if has_quota { quota } else { 0 },
        }
    }

    fn processes(&mut self) {
        self.plan(Kind::Crash, 24, |d| Fault::Crash {
            node: d.node(),
            keep: [0, 1000, d.rng.below(1001)][d.rng.below(3) as usize],
            told: d.rng.below(3) != 0,
        });
        // A storm: all at once, now and then.
        let storm = self.has(Kind::Crash) & (self.rng.below(2) == 0);
        let at = Time(0) + self.rng.duration(Duration::ZERO, self.length);
        for node in 0..self.nodes as usize {
            let span = self.span().min(self.timeout * 4);
            if storm {
                self.faults.push(Planned { at, span, fault: Fault::Crash { node, keep: 0, told: false } });
            }
        }
        for way in Way::ALL {
            self.plan(Kind::Leader, 12, |_| Fault::Leader { way });
        }
        self.plan(Kind::Pause, 12, |d| Fault::Pause { node: d.node(), sleeps: d.rng.below(4) == 0 });
        self.plan(Kind::Clock, 8, |d| Fault::Jump { node: d.node() });
        self.plan(Kind::Transfer, 16, |d| {
            let node = d.node();
            Fault::Transfer { node, to: (d.rng.below(2) == 0).then(|| d.other(node)) }
        });
    }

    fn links(&mut self) {
        if self.nodes == 1 {
            return;
        }
        self.plan(Kind::Split, 24, |d| {
            let all = (1 << d.nodes) - 1;
            let one = 1 << d.node();
            Fault::Split { side: [one, one, d.rng.below(all) + 1][d.rng.below(3) as usize] }
        });
        let pair = |d: &mut Self| {
            let from = d.node();
            (from, d.other(from))
        };
        self.plan(Kind::Cut, 32, |d| {
            let (from, to) = pair(d);
            Fault::Cut { from, to }
        });
        self.plan(Kind::Clog, 24, |d| {
            let (from, to) = pair(d);
            Fault::Clog { from, to }
        });
        self.plan(Kind::Mute, 6, |d| Fault::Mute { group: Group::ALL[d.rng.below(5) as usize] });
        self.plan(Kind::Hint, 24, |d| {
            let (node, peer) = pair(d);
            Fault::Hint { node, peer }
        });
    }

    fn disks(&mut self, profile: Profile) {
        self.plan(Kind::Slow, 8, |d| Fault::Slow { node: d.node(), factor: 10 << d.rng.below(10) });
        self.plan(Kind::Space, 6, |d| Fault::Space { node: d.node() });
        self.plan(Kind::Error, 6, |d| Fault::Error { node: d.node(), log: d.rng.below(2) == 0 });
        if profile == Profile::Full {
            self.plan(Kind::Rot, 4, |d| Fault::Rot { node: d.node(), place: d.rng.next_u64() >> 16 });
            self.plan(Kind::Wipe, 2, |d| Fault::Wipe { node: d.node() });
        }
    }
}

impl Drawing<'_> {
    /// Who comes and goes, and whose state is lost: from dice of their own, so that a plan without it is what it would be
    /// anyway. Gives the number of places beside the founders'.
    fn churn(
        seed: u64,
        wishes: &Wishes,
        length: Duration,
        (nodes, timeout): (usize, Duration),
        faults: &mut Vec<Planned>,
    ) -> usize {
        let rng = Rng::new(Seed(mix(seed ^ 0x63_6875_726e)));
        let mut d = Drawing { rng, wishes, length, nodes: nodes as u64, timeout, faults: Vec::new() };
        let has = d.has(Kind::Members);
        let spares = (1 + d.rng.below(6) as usize).min(MAX_NODES - nodes);
        if has {
            // Some members come late to what is theirs, some early, and some never.
            for node in nodes..nodes + spares {
                let at = Time(0) + d.rng.duration(Duration::ZERO, length * 3 / 4);
                if d.rng.below(6) != 0 {
                    d.faults.push(Planned { at, span: Duration::ZERO, fault: Fault::Up { node } });
                }
            }
            for _ in 0..2 + d.wild(14) {
                let at = Time(0) + d.rng.duration(Duration::ZERO, length);
                let span = d.span() * 4;
                let fault = d.change();
                d.faults.push(Planned { at, span, fault });
            }
            // What happens to members happens to those that joined too.
            let places = (nodes + spares) as u64;
            for fault in faults.iter_mut().map(|planned| &mut planned.fault) {
                if let Some(node) = fault.member_mut() {
                    let place = d.rng.below(places) as usize;
                    *node = if place < nodes { *node } else { place };
                }
                if let Fault::Split { side } = fault {
                    *side |= d.rng.below(1 << spares) << nodes;
                }
            }
            d.nodes = places;
        }
        d.plan(Kind::Lose, 4, |d| Fault::Lose { node: d.node() });
        d.plan(Kind::Bend, 4, |d| {
            let (one, some) = (1 << d.node(), d.rng.below(1 << d.nodes));
            Fault::Bend { side: [one, one, some][d.rng.below(3) as usize] }
        });
        faults.append(&mut d.faults);
        if has { spares } else { 0 }
    }

    fn change(&mut self) -> Fault {
        let usual = [Wish::Voter, Wish::Voter, Wish::Voter, Wish::Remove, Wish::Replace];
        let choice = self.rng.below((usual.len() + Wish::ALL.len()) as u64) as usize;
        let wish = usual.iter().chain(&Wish::ALL).nth(choice).copied().unwrap_or(Wish::Voter);
        Fault::Change { wish, pick: self.rng.next_u64() >> 32, pinned: self.rng.below(3) == 0 }
    }
}

/// The most places: more members than anyone runs, and a bit each in a word.
pub const MAX_NODES: usize = 9;

impl Planned {
    /// The members it is about; none for what is about everyone.
    pub fn members(&self) -> impl Iterator<Item = usize> + use<> {
        let (a, b) = match self.fault {
            Fault::Crash { node, .. }
            | Fault::Pause { node, .. }
            | Fault::Jump { node }
            | Fault::Slow { node, .. }
            | Fault::Error { node, .. }
            | Fault::Space { node }
            | Fault::Rot { node, .. }
            | Fault::Tear { node, .. }
            | Fault::Wipe { node }
            | Fault::Lose { node }
            | Fault::Up { node } => (Some(node), None),
            Fault::Transfer { node, to } => (Some(node), to),
            Fault::Cut { from, to } | Fault::Clog { from, to } => (Some(from), Some(to)),
            Fault::Hint { node, peer } => (Some(node), Some(peer)),
            Fault::Split { .. }
            | Fault::Mute { .. }
            | Fault::Leader { .. }
            | Fault::Change { .. }
            | Fault::Bend { .. } => (None, None),
        };
        a.into_iter().chain(b)
    }
}

impl Fault {
    /// The member that may as well be another one: the first, where it is about two.
    fn member_mut(&mut self) -> Option<&mut usize> {
        match self {
            Fault::Crash { node, .. }
            | Fault::Pause { node, .. }
            | Fault::Jump { node }
            | Fault::Slow { node, .. }
            | Fault::Error { node, .. }
            | Fault::Space { node }
            | Fault::Rot { node, .. }
            | Fault::Tear { node, .. }
            | Fault::Wipe { node }
            | Fault::Lose { node }
            | Fault::Transfer { node, .. }
            | Fault::Hint { node, .. }
            | Fault::Cut { from: node, .. }
            | Fault::Clog { from: node, .. } => Some(node),
            Fault::Split { .. }
            | Fault::Mute { .. }
            | Fault::Leader { .. }
            | Fault::Change { .. }
            | Fault::Bend { .. }
            | Fault::Up { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_not_wished_for_is_not_planned_and_the_rest_stays_as_it_was() {
        let all = Plan::draw(Profile::Full, 7, &Wishes::default());
        let without = Wishes { without: vec![Kind::Crash], ..Wishes::default() };
        let fewer = Plan::draw(Profile::Full, 7, &without);
        let is_crash = |planned: &&Planned| matches!(planned.fault, Fault::Crash { .. });
        assert_eq!(fewer.faults.iter().filter(is_crash).count(), 0);
        assert_eq!((&fewer.noise, fewer.nodes), (&all.noise, all.nodes));
        let none = Wishes { only: Some(Vec::new()), ..Wishes::default() };
        for seed in 0..50 {
            let calm = Plan::draw(Profile::Full, seed, &none);
            assert!(calm.faults.is_empty() && calm.noise.loss == 0 && !calm.tiny, "{calm}");
        }
    }
}
