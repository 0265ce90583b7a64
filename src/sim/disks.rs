//! The members' disks: a worker for the log and one for the state, each with what it was handed, one thing after another.
//!
//! They take their time, and fail when they were told to. A crash in the middle of a write keeps a part of it (`faults.rs`); but
//! crashes are rare, and most writes have a moment at which nothing may be left half done. So now and then, and more often when
//! a write has several steps, a picture is taken of what a power cut just before its sync leaves, and the production `open` must
//! wake on it as the laws ask for ([`Law::Recovery`] and others). The member does not notice, and neither does the rest of the
//! world. All of a log is read for that, so there are fewer pictures the longer it is.

use super::host::{Host, StateWork};
use super::laws::{Law, Violation};
use super::world::{Event, World};
use crate::node::Input;
use crate::raft::Ready;
use crate::rng::Seed;
use crate::time::Duration;

impl<H: Host> World<H> {
    fn disk_time(&mut self, node: usize) -> Duration {
        if self.core & (1 << node) != 0 {
            return Duration::from_micros(50 + self.disk_dice.below(100));
        }
        let (factor, until) = self.places[node].slow;
        let factor = if until > self.now { factor } else { 1 };
        Duration::from_micros(20 + self.disk_dice.below(self.plan.noise.disk_us * 2) * factor)
    }

    /// The worker of the log takes everything that waits, unless it is busy.
    pub(super) fn log_work(&mut self, node: usize) {
        let log = &mut self.places[node].log;
        if log.busy || (log.waiting.is_empty() && log.loads.is_empty()) {
            return;
        }
        log.busy = true;
        log.running = std::mem::take(&mut log.waiting);
        let at = self.now + self.disk_time(node);
        self.schedule_here(at, node, Event::LogDone(node));
    }

    pub(super) fn log_done(&mut self, node: usize) -> Result<(), Violation> {
        let place = &mut self.places[node];
        if !std::mem::take(&mut place.log.busy) {
            return Ok(());
        }
        let has_steps = |ready: &Ready| {
            let (state, cuts) = (ready.hard_state.is_some(), ready.truncate_from.is_some());
            (state && cuts) || ((state || cuts) && !ready.entries.is_empty())
        };
        let has_steps = place.log.running.iter().any(has_steps);
        let compacts = place.log.running.iter().any(|ready| ready.compact_to.is_some());
        if self.tears(node, true, has_steps) {
            return Ok(());
        }
        self.expose(node, true, has_steps || compacts);
        let place = &mut self.places[node];
        let batch = std::mem::take(&mut place.log.running);
        let loads = std::mem::take(&mut place.log.loads);
        let mut outcome = match batch.is_empty() {
            true => Ok(None),
            false => place.host.persist(&batch),
        };
        let mut loaded = Vec::new();
        for read in loads {
            match place.host.load(read) {
                Ok(entries) => loaded.push((read, entries)),
                Err(fault) => outcome = Err(fault),
            }
        }
        let (down, failing) = (place.down, place.failing);
        match outcome {
            Err(fault) => {
                self.excused(node, failing, &fault)?;
                self.tell(Some(node), || format!("log disk: {fault}"));
                self.crash(node, 500, true, down);
                return Ok(());
            }
            Ok(None) => {}
            Ok(Some(done)) => {
                self.trace.mark(self.now, &[3, node as u64, done.seq.0, done.last.index.0]);
                if !self.places[node].wiped {
                    self.look_at_image(node)?;
                    self.cuts(node, &batch)?;
                    self.laws.durable(node, &batch)?;
                    self.witness(node)?;
                }
                self.input(node, Input::Persisted(done))?;
            }
        }
        for (read, entries) in loaded {
            self.input(node, Input::Loaded { read, entries })?;
        }
        self.log_work(node);
        Ok(())
    }

    /// What the state's disk says of the log's, either of which has just been written.
    fn witness(&self, node: usize) -> Result<(), Violation> {
        let place = &self.places[node];
        let mark = place.host.mark().filter(|_| !place.wiped && !place.host.is_hollow());
        mark.map_or(Ok(()), |mark| self.laws.witnessed(node, mark))
    }

    /// A log that was just cut is not cut below what the state's disk says of it.
    fn cuts(&self, node: usize, batch: &[Ready]) -> Result<(), Violation> {
        let place = &self.places[node];
        let Some(from) = batch.iter().filter_map(|ready| ready.truncate_from).min() else { return Ok(()) };
        let mark = place.host.mark().filter(|mark| mark.index >= from && !place.host.is_hollow());
        mark.map_or(Ok(()), |mark| {
            let what = || format!("n{} cuts its log from {from}, and its state witnesses {mark}", node + 1);
            self.laws.broken(Law::Witness, what)
        })
    }

    /// A disk fails: only one that was told to.
    fn excused(&self, node: usize, failing: bool, fault: &str) -> Result<(), Violation> {
        let said = || format!("n{}: {fault}, though nothing was done to its disk", node + 1);
        if failing { Ok(()) } else { self.laws.broken(Law::Recovery, said) }
    }

    pub(super) fn hand(&mut self, node: usize, work: StateWork) {
        self.places[node].state.push_back(work);
        self.state_work(node);
    }

    fn state_work(&mut self, node: usize) {
        let place = &mut self.places[node];
        if !place.state_busy && !place.state.is_empty() {
            place.state_busy = true;
            let at = self.now + self.disk_time(node);
            self.schedule_here(at, node, Event::StateDone(node));
        }
    }

    pub(super) fn state_done(&mut self, node: usize) -> Result<(), Violation> {
        let place = &mut self.places[node];
        let has_steps = matches!(place.state.front(), Some(StateWork::Write(write)) if write.ops.len() > 1);
        if self.tears(node, false, has_steps) {
            return Ok(());
        }
        self.expose(node, false, false);
        let place = &mut self.places[node];
        place.state_busy = false;
        let Some(work) = place.state.pop_front() else { return Ok(()) };
        let (outcome, id) = match &work {
            StateWork::Write(write) => {
                (place.host.write_state(write).map(|()| Input::StateWritten { id: write.id }), write.id)
            }
            StateWork::Stage(stage) => (place.host.stage(stage).map(|()| Input::Staged { id: stage.id }), stage.id),
            StateWork::Read(read) => {
                let records = place.host.read_records(read);
                (records.map(|records| Input::RecordsRead { read: *read, records }), read.context)
            }
        };
        let down = place.down;
        self.trace.mark(self.now, &[4, node as u64, id]);
        if outcome.is_ok() && matches!(work, StateWork::Write(_)) {
            self.look_at_image(node)?;
            self.witness(node)?;
        }
        match outcome {
            Ok(input) => self.input(node, input)?,
            Err(fault) => {
                self.excused(node, self.places[node].failing, &fault)?;
                self.tell(Some(node), || format!("state disk: {fault}"));
                self.crash(node, 500, true, down);
                return Ok(());
            }
        }
        if let StateWork::Stage(stage) = &work
            && stage.adopt
            && stage.aside
        {
            self.sets_aside(node)?;
        }
        let StateWork::Write(write) = work else {
            self.state_work(node);
            return Ok(());
        };
        let place = &mut self.places[node];
        while let Some((_, applied, known)) = place.syncing.pop_front_if(|(write, ..)| *write <= id) {
            self.laws.applied_durably(node, applied);
            place.knows |= known;
        }
        if write.sync && place.host.is_up() {
            self.input(node, Input::StateSynced { id })?;
        }
        self.state_work(node);
        Ok(())
    }

    /// Has a picture taken of what is written to this disk now, once in a while.
    fn expose(&mut self, node: usize, log: bool, has_steps: bool) {
        let entries = self.places[node].glance.last.index.0;
        let one_of = if has_steps { 2 + entries / 50 } else { 20 + entries };
        if self.image_dice.below(one_of) == 0 {
            let number = self.image_dice.next_u64();
            self.places[node].host.expose(log, number);
        }
    }

    /// If there is a picture, it must be one that a member can wake on.
    fn look_at_image(&mut self, node: usize) -> Result<(), Violation> {
        let place = &mut self.places[node];
        let Some(born) = place.host.image(place.shown, Seed(self.plan.seed)) else { return Ok(()) };
        if place.wiped || place.rotten || place.lost {
            return Ok(());
        }
        match born {
            Ok(born) if born.hollow && !place.host.is_hollow() => {
                let what = || format!("n{} would wake without a state, with a log after {}", node + 1, born.base);
                self.laws.broken(Law::Recovery, what)
            }
            Ok(born) => self.laws.wakes(node, &born).map(|_| ()),
            Err(halt) => self.laws.broken(Law::Recovery, || format!("n{} could not start: {halt}", node + 1)),
        }
    }
}
