//! What the world drives: something that takes a node's inputs and gives a node's effects, on disks that can fail.
//!
//! There are two: the whole member ([`super::member::Member`]) and the bare core ([`super::core::Core`]). Both speak the
//! node's own [`Input`] and [`Effect`], so one world, one network, one menu of faults and one set of laws serve both.

use crate::check::history::{Call, Reply};
use crate::ids::{Incarnation, Index, MemberId, Position};
use crate::machine;
use crate::node::events::Glance;
use crate::node::{Effect, Halt, Input, InstallStatus, RecordsRead, Retention, SpaceConfig, StageWrite, StateWrite};
use crate::raft::{Entry, HardState, Limits, LogRead, Persisted, Raft, Ready};
use crate::rng::Seed;
use crate::time::{Duration, Time};
use bytes::Bytes;

use super::plan::{Plan, Timers};

/// What all members of a cluster are told.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many founders they are: their ids are 1 to this. Who joins has a higher one.
    pub nodes: u64,
    /// Their timers.
    pub timers: Timers,
    /// How long a request may wait.
    pub request_timeout: Duration,
    /// Raft's limits.
    pub limits: Limits,
    /// Compactions and quota.
    pub space: SpaceConfig,
    /// How much of the log is kept.
    pub retention: Retention,
    /// How large the pieces of a state are that is taken over.
    pub piece_bytes: u64,
    /// Entries between two checkpoints.
    pub checkpoint_entries: u64,
}

impl Shape {
    /// The shape that a plan asks for.
    pub fn of(plan: &Plan) -> Shape {
        Shape {
            nodes: plan.nodes as u64,
            timers: plan.timers.clone(),
            request_timeout: Duration::from_secs(1) + plan.timers.election * 2,
            limits: plan.limits(),
            space: plan.history.config(),
            retention: plan.log.retention(),
            piece_bytes: plan.log.piece,
            checkpoint_entries: plan.checkpoints,
        }
    }
}

/// What tells an entry from every other one: its term and its checksum, at its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// [`crate::ids::Position::term`].
    pub term: u64,
    /// [`Entry::checksum`].
    pub checksum: u32,
}

impl Stamp {
    /// Of an entry.
    pub fn of(entry: &Entry) -> Stamp {
        Stamp { term: entry.position.term.0, checksum: entry.checksum }
    }
}

/// What a start found on the disk.
#[derive(Debug)]
pub struct Born {
    /// Which life begins.
    pub life: Incarnation,
    /// Term and vote.
    pub hard: HardState,
    /// Where the log begins.
    pub base: Position,
    /// The log, from there on.
    pub log: Vec<Stamp>,
    /// What the state's disk had applied, and the digest of that.
    pub applied: (Index, u64),
    /// What it had acknowledged and its log has lost.
    pub lost: Option<Position>,
    /// It has no state that its log could be applied to.
    pub hollow: bool,
    /// Why its state was set aside.
    pub aside: Option<String>,
}

/// What the state's disk is given to do, in order.
#[derive(Debug)]
pub enum StateWork {
    /// [`Effect::WriteState`].
    Write(StateWrite),
    /// [`Effect::ReadRecords`].
    Read(RecordsRead),
    /// [`Effect::Stage`].
    Stage(StageWrite),
}

/// What a crash left undone, and how much of a list of so many unsynced writes survives it.
pub struct Torn<'a> {
    /// Writes of the log that were on their way.
    pub log: &'a [Ready],
    /// Writes of the state that were on their way.
    pub state: &'a [StateWrite],
    /// Of so many, the first how many survive.
    pub keep: &'a mut dyn FnMut(u64) -> u64,
}

/// A member with its disks, running or not.
pub trait Host {
    /// Whether requests have contents, and answers that can be judged.
    const HAS_CONTENTS: bool;

    /// A member on empty disks, not running.
    fn new(id: MemberId, shape: &Shape) -> Self;

    /// Starts it. A state that can't be read is set aside if that `may` be, and the member is opened without.
    ///
    /// # Errors
    /// It refuses its disk.
    fn start(&mut self, now: Time, seed: Seed, may: bool) -> Result<Born, Halt>;

    /// A picture is taken of what a crash leaves just before the next sync of the log's (or the state's) disk, or if there is
    /// none when it is looked at: of the unsynced writes the first `number`, modulo one more than there are.
    fn expose(&mut self, log: bool, number: u64);

    /// What would wake on the picture, if one was asked for; the member itself runs on. `None` for a host without one.
    fn image(&mut self, now: Time, seed: Seed) -> Option<Result<Born, Halt>>;

    /// Whether it runs.
    fn is_up(&self) -> bool;

    /// Ends it at once. Of what was not synced a prefix survives. Faults asked for are gone.
    fn crash(&mut self, torn: Torn<'_>);

    /// As [`crate::node::Node::handle`].
    ///
    /// # Errors
    /// It can't go on.
    fn handle(&mut self, now: Time, input: Input) -> Result<(), Halt>;

    /// As [`crate::node::Node::advance`].
    ///
    /// # Errors
    /// It can't go on.
    fn advance(&mut self, now: Time, effects: &mut Vec<Effect>) -> Result<(), Halt>;

    /// As [`crate::node::Node::deadline`].
    fn deadline(&self) -> Time;

    /// What is to be seen of it.
    fn glance(&self) -> Glance;

    /// Its Raft.
    fn raft(&self) -> Option<&Raft>;

    /// The log's disk: writes all of these and syncs once.
    ///
    /// # Errors
    /// The disk failed: the process must end.
    fn persist(&mut self, batch: &[Ready]) -> Result<Option<Persisted>, String>;

    /// The log's disk: reads.
    ///
    /// # Errors
    /// The disk failed: the process must end.
    fn load(&mut self, read: LogRead) -> Result<Vec<Entry>, String>;

    /// The state's disk: writes this, and syncs if it says so.
    ///
    /// # Errors
    /// The disk failed: the process must end.
    fn write_state(&mut self, write: &StateWrite) -> Result<(), String>;

    /// The state's disk: reads records.
    ///
    /// # Errors
    /// The disk failed: the process must end.
    fn read_records(&mut self, read: &RecordsRead) -> Result<Vec<(Index, Bytes)>, String>;

    /// The state's disk: writes this to the state that is being staged.
    ///
    /// # Errors
    /// The disk failed: the process must end.
    fn stage(&mut self, write: &StageWrite) -> Result<(), String>;

    /// What it takes over.
    fn install(&self) -> InstallStatus;

    /// The next write or sync of the log's (or the state's) disk fails.
    fn break_disk(&mut self, log: bool);

    /// A bit of what the log's (or the state's) disk holds flips: which one, by a number taken modulo what there is. Says
    /// whether there was one.
    fn rot(&mut self, log: bool, place: u64) -> bool;

    /// Undoes [`Host::rot`].
    fn heal_rot(&mut self);

    /// Empties the disks.
    fn wipe(&mut self);

    /// Empties the state's disk.
    fn lose(&mut self);

    /// Whether the state of a member that does not run could be made again, by what its log says.
    fn may_lose(&self) -> bool;

    /// Whether it runs, and has no state of its own to serve from.
    fn is_hollow(&self) -> bool;

    /// Its state goes wrong, in the `number`th way.
    fn bend(&mut self, number: i64);

    /// Whether it runs, and its state is wrong in one of the first `ways`.
    fn is_bent(&self, ways: i64) -> bool;

    /// Whether it knows that its state is wrong.
    fn is_wrong(&self) -> bool;

    /// How far the log reached, as the state's disk says: of what is not synced there, anything may survive. `None` while a
    /// state that was taken over waits for the member to be opened on it: what that says is another one's log.
    fn mark(&self) -> Option<Position>;

    /// Whether this member knows that `peer` was removed.
    fn is_gone(&self, peer: MemberId) -> bool;

    /// Whether this member would hear `peer`, which is on its `disks`-th disk.
    fn knows(&self, peer: MemberId, disks: u64) -> bool;

    /// A bit per member whose disk this member knows, or knows to be over.
    fn known(&self) -> u64;

    /// Whether there is such a lease in what it has applied.
    fn has_lease(&self, id: i64) -> bool;

    /// How many leases there are in what it has applied, and how many keys whose lease is gone.
    fn leases(&self) -> (usize, usize);

    /// Whether what was compacted is on its way out.
    fn is_sweeping(&self) -> bool;

    /// A reader of what it has applied, if requests have contents, it runs and is not hollow.
    fn view(&self) -> Option<machine::View>;

    /// A read of what it has applied.
    ///
    /// # Errors
    /// What the machine says.
    fn look(&self, call: &Call) -> Result<(i64, Reply), machine::Error>;

    /// A command that carries a write, and whether it grows the store; `None` for a read.
    fn command(call: &Call, number: u64) -> Option<(Bytes, bool)>;
}
