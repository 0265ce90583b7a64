//! The network: which message arrives, when, and how often.
//!
//! A link is ordered, as a stream is, unless the plan lets messages overtake. Cuts are facts with an end: a message that
//! arrives at a cut link is lost, whenever it was sent. Every message ever sent may come again, years later (the pool).
//!
//! After the safety phase the links inside the core are perfect for ever, and all others stay as they are.

use super::plan::{Fault, Group, Noise};
use crate::raft::{Envelope, Message};
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Time};

/// Of the messages ever sent, so many are kept to come again.
const POOL: usize = 2048;

/// See the module's essay.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    noise: Noise,
    nodes: usize,
    /// When the newest message of each link arrives.
    newest: Vec<Time>,
    /// Until when each link is cut, and holds back.
    cut: Vec<Time>,
    clogged: Vec<Time>,
    muted: Vec<(Group, Time)>,
    pool: Vec<(usize, Envelope)>,
    pooled: u64,
    /// How many messages each link inside of the core has carried, but for those that began or answered a read round.
    sent: Vec<u64>,
    /// The newest read round that each link has carried.
    rounds: Vec<u64>,
    /// A bit per member of the healed core; 0 before.
    core: u64,
    /// From whom to whom nothing is heard, although both are in the core.
    deaf: Option<(usize, usize)>,
}

/// What becomes of a message that was sent.
#[derive(Debug, Default)]
pub struct Fate {
    /// When copies of it arrive.
    pub arrivals: Vec<Time>,
    /// It never left, and its sender knows.
    pub unsent: bool,
    /// Others that arrive as well, of former times or with a bit flipped: from which disk of their sender, and when.
    pub others: Vec<(usize, Envelope, Time)>,
}

fn group(message: &Message) -> Option<Group> {
    match message {
        Message::PreVote { .. } | Message::PreVoteReply { .. } | Message::Vote { .. } | Message::VoteReply { .. } => {
            Some(Group::Votes)
        }
        Message::Append { .. } | Message::Install { .. } => Some(Group::Appends),
        Message::Appended { .. } | Message::Conflict { .. } | Message::HeartbeatReply { .. } => Some(Group::Answers),
        Message::Heartbeat { .. } => Some(Group::Heartbeats),
        Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::Forward { .. }
        | Message::ForwardRefused { .. }
        | Message::Ask { .. }
        | Message::Answer { .. } => Some(Group::Requests),
        Message::TimeoutNow => None,
    }
}

impl Network {
    /// A network of `nodes` members, quiet but for the noise.
    pub fn new(nodes: usize, noise: &Noise, seed: Seed) -> Network {
        Network {
            rng: Rng::new(seed),
            noise: noise.clone(),
            nodes,
            newest: vec![Time(0); nodes * nodes],
            cut: vec![Time(0); nodes * nodes],
            clogged: vec![Time(0); nodes * nodes],
            muted: Vec::new(),
            pool: Vec::new(),
            pooled: 0,
            sent: vec![0; nodes * nodes],
            rounds: vec![0; nodes * nodes],
            core: 0,
            deaf: None,
        }
    }

    fn link(&self, from: usize, to: usize) -> usize {
        from * self.nodes + to
    }

    fn inside(&self, from: usize, to: usize) -> bool {
        self.core & (1 << from) != 0 && self.core & (1 << to) != 0
    }

    /// A fault of the network begins; says whether it was one.
    pub fn suffer(&mut self, fault: &Fault, until: Time) -> bool {
        match *fault {
            Fault::Split { side } => {
                for (from, to) in (0..self.nodes).flat_map(|from| (0..self.nodes).map(move |to| (from, to))) {
                    if (side >> from & 1) != (side >> to & 1) {
                        let link = self.link(from, to);
                        self.cut[link] = self.cut[link].max(until);
                    }
                }
            }
            Fault::Cut { from, to } => {
                let link = self.link(from, to);
                self.cut[link] = self.cut[link].max(until);
            }
            Fault::Clog { from, to } => {
                let link = self.link(from, to);
                self.clogged[link] = self.clogged[link].max(until);
            }
            Fault::Mute { group } => self.muted.push((group, until)),
            _ => return false,
        }
        true
    }

    /// The links inside of `core` are perfect from now on. Each member outside is for ever: not there, deaf, mute, or
    /// connected as badly as everyone was.
    pub fn heal(&mut self, now: Time, core: u64, dice: &mut Rng) {
        self.muted.clear();
        let inside = |node: usize| core & (1 << node) != 0;
        let ways: Vec<(bool, bool)> = (0..self.nodes).map(|_| (dice.below(2) == 0, dice.below(2) == 0)).collect();
        for (from, to) in (0..self.nodes).flat_map(|from| (0..self.nodes).map(move |to| (from, to))) {
            let link = self.link(from, to);
            self.clogged[link] = Time(0);
            self.newest[link] = now;
            self.cut[link] = match (inside(from), inside(to)) {
                (false, true) if ways[from].0 => Time::NEVER,
                (true, false) if ways[to].1 => Time::NEVER,
                _ => Time(0),
            };
        }
        self.widen(core);
    }

    /// The links inside of a wider `core` are perfect too.
    pub fn widen(&mut self, core: u64) {
        self.core = core;
    }

    /// Nothing is heard from now on of what the first of these tells the second; or all is heard again.
    pub fn deafen(&mut self, link: Option<(usize, usize)>) {
        self.deaf = link;
    }

    /// Whether what arrives now over this link is heard.
    pub fn passes(&self, now: Time, from: usize, to: usize) -> bool {
        let is_open = self.inside(from, to) || self.cut[self.link(from, to)] <= now;
        is_open && self.deaf != Some((from, to))
    }

    /// How many messages these members of the healed core have sent each other, but for those that began or answered a read
    /// round: a member outside may ask for reads as often as it likes.
    pub fn sent_among(&self, members: u64) -> u64 {
        let is_one = |node: usize| members & (1 << node) != 0;
        let links = self.sent.iter().enumerate();
        links.filter(|(link, _)| is_one(link / self.nodes) && is_one(link % self.nodes)).map(|(_, sent)| sent).sum()
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        per_thousand > 0 && self.rng.below(1000) < per_thousand
    }

    fn delay(&mut self, usual_us: u64) -> Duration {
        let mut us = self.rng.below(usual_us * 2) + 20;
        if usual_us > 1000 && self.rng.below(50) == 0 {
            us *= 20;
        }
        Duration::from_micros(us)
    }

    /// When something that leaves now arrives over this link, behind all that left before.
    pub fn arrival(&mut self, now: Time, from: usize, to: usize) -> Time {
        let inside = self.inside(from, to);
        let delay = self.delay(if inside { 200 } else { self.noise.delay_us });
        let link = self.link(from, to);
        let overtakes = !inside && self.chance(self.noise.reorder);
        // What is held back is let go at once, later.
        let held = if inside { Time(0) } else { self.clogged[link] };
        if overtakes {
            return (now + delay).max(held);
        }
        let at = (now + delay).max(Time(self.newest[link].0 + 1)).max(held);
        if at < Time::NEVER {
            self.newest[link] = at;
        }
        at
    }

    /// An append of so many entries, with a bit of one of them flipped.
    fn flipped(&mut self, envelope: &Envelope, entries: usize) -> Envelope {
        let mut rotten = envelope.clone();
        let (place, bit) = (self.rng.below(entries as u64) as usize, self.rng.below(1 << 20) as usize);
        if let Message::Append { entries, .. } = &mut rotten.message {
            let entry = &mut entries[place];
            let mut data = entry.data.to_vec();
            match data.len() {
                0 => entry.id.sequence ^= 1,
                len => data[bit / 8 % len] ^= 1 << (bit % 8),
            }
            entry.data = data.into();
        }
        rotten
    }

    /// A message leaves, from the sender's `disks`-th disk.
    ///
    /// Nobody may be there (`down`): then there is no connection to send over, and the sender mostly knows.
    pub fn send(
        &mut self,
        now: Time,
        (from, to): (usize, usize),
        envelope: &Envelope,
        disks: usize,
        down: bool,
    ) -> Fate {
        let mut fate = Fate::default();
        if self.inside(from, to) {
            let link = self.link(from, to);
            self.sent[link] += u64::from(!begins_round(&mut self.rounds[link], &envelope.message));
            fate.arrivals.push(self.arrival(now, from, to));
            return fate;
        }
        fate.unsent = down && self.rng.below(10) > 0;
        let muted = group(&envelope.message)
            .is_some_and(|group| self.muted.iter().any(|(muted, until)| *muted == group && *until > now));
        if fate.unsent || muted {
            return fate;
        }
        if self.chance(self.noise.loss) {
            // What never left is nowhere to come back from.
            fate.unsent = self.rng.below(4) == 0;
            if fate.unsent {
                return fate;
            }
        } else {
            fate.arrivals.push(self.arrival(now, from, to));
        }
        if let Message::Append { entries, .. } = &envelope.message
            && !entries.is_empty()
            && self.chance(self.noise.flip)
        {
            let rotten = self.flipped(envelope, entries.len());
            let at = self.arrival(now, from, to);
            fate.others.push((disks, rotten, at));
        }
        if self.chance(self.noise.duplicate) {
            let later = self.delay(self.noise.delay_us.max(50_000));
            fate.arrivals.push((now + later).max(self.clogged[self.link(from, to)]));
        }
        fate.arrivals.retain(|at| *at < Time::NEVER);
        if self.noise.replay > 0 {
            // A sample of everything that was ever sent, the oldest as likely as the newest.
            self.pooled += 1;
            if self.pool.len() < POOL {
                self.pool.push((disks, envelope.clone()));
            } else {
                let place = self.rng.below(self.pooled) as usize;
                if place < POOL {
                    self.pool[place] = (disks, envelope.clone());
                }
            }
            if self.chance(self.noise.replay) {
                let pick = self.rng.below(self.pool.len() as u64) as usize;
                let (disks, envelope) = self.pool[pick].clone();
                let delay = self.delay(self.noise.delay_us);
                fate.others.push((disks, envelope, now + delay));
            }
        }
        fate
    }
}

/// Whether a message carries a newer read round than its link ever did (`newest`).
fn begins_round(newest: &mut u64, message: &Message) -> bool {
    match *message {
        Message::Heartbeat { round, .. } | Message::HeartbeatReply { round, .. } if round > *newest => {
            *newest = round;
            true
        }
        _ => false,
    }
}
