//! A turn of the hub: tell those who follow what is new, and those who lag what they have missed.

use super::encode::{Batch, Piece};
use super::hub::{Hub, Interests, Name, Place, SLICES_PER_TURN, StreamId};
use super::interest::Index;
use super::queue::{Answer, What};
use crate::ids::Revision;
use crate::machine::{Error, Event, History};
use crate::time::Time;
use std::collections::BTreeMap;

impl Hub {
    /// Reads what happened and fills the queues, a bounded amount; true if there is more to do at once.
    ///
    /// # Errors
    /// The disk failed.
    pub fn turn(&mut self, now: Time) -> Result<bool, Error> {
        self.follow(now)?;
        for _ in 0..SLICES_PER_TURN {
            if !self.catch_up(now)? {
                break;
            }
        }
        let current = self.next > self.view.revision().0;
        if current {
            self.tick(now);
        }
        self.flush(now);
        Ok(!current || !self.round.is_empty())
    }

    /// A stream's client has taken something: there is room in a queue that was full.
    pub fn room(&mut self, now: Time, id: StreamId) {
        self.unblock(id, now);
    }

    /// Tells the followers everything that has happened.
    pub(super) fn follow_to_now(&mut self, now: Time) -> Result<(), Error> {
        let revision = self.view.revision().0;
        while self.next <= revision {
            self.follow(now)?;
        }
        Ok(())
    }

    /// Tells the followers a slice of what is new.
    fn follow(&mut self, now: Time) -> Result<(), Error> {
        let (view, from) = (self.view.clone(), self.next);
        let revision = view.revision().0;
        if from > revision {
            return Ok(());
        }
        if self.interests.followed.is_empty() {
            self.advance(revision + 1, now);
            return Ok(());
        }
        let newest = view.recent(Revision(from), self.limits.slice_bytes);
        let read = newest.map_or_else(|| view.history(Revision(from), self.limits.slice_bytes), Ok);
        let history = match read {
            Ok(history) => history,
            Err(Error::Compacted { compacted }) => {
                self.followers().into_iter().for_each(|name| self.cancel(name, compacted));
                self.advance(compacted.0, now);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let wanted = wanted(&self.interests.followed, &self.interests, &history.events);
        let mut batch = Batch::new(&view, &history.events, self.limits.fragment_bytes);
        let told: Vec<(Vec<Piece>, Vec<Name>)> = wanted
            .into_iter()
            .map(|(number, events)| {
                let shared = self.interests.get(number);
                Ok((batch.pieces(&shared.interest, &events)?, shared.followers.iter().copied().collect()))
            })
            .collect::<Result<_, Error>>()?;
        // Now, for whoever can't be told stands where this slice began, and that is behind; but not before it was settled
        // who is told, for who begins with the next slice is not.
        self.advance(history.next.0, now);
        for (pieces, names) in told {
            for name in names {
                if !self.tell(name, &pieces, history.next.0 - 1) {
                    self.displace(name);
                    self.place(name, from, now);
                }
            }
        }
        Ok(())
    }

    /// Raises the followers' next revision, and lets those who waited for one of the revisions below it begin.
    fn advance(&mut self, next: i64, now: Time) {
        assert!(next > self.next, "the followers go from revision {} to {next}", self.next);
        self.next = next;
        while let Some(entry) = self.waiting.first_entry().filter(|entry| *entry.key() <= next) {
            let (start, names) = entry.remove_entry();
            names.into_iter().for_each(|name| self.place(name, start, now));
        }
    }

    fn followers(&self) -> Vec<Name> {
        let of_stream = |(id, stream): (&StreamId, &super::hub::Stream)| -> Vec<Name> {
            let following = stream.watchers.iter().filter(|(_, watcher)| watcher.place == Place::Following);
            following.map(|(watch_id, _)| (*id, *watch_id)).collect()
        };
        self.streams.iter().flat_map(of_stream).collect()
    }

    /// Tells those who lag at one revision a slice of what they have missed; false if nobody lags who can be told.
    fn catch_up(&mut self, now: Time) -> Result<bool, Error> {
        let Some(from) = self.round.pop_front() else { return Ok(false) };
        let names = self.lagging.remove(&from).unwrap_or_default();
        // They are nowhere until they are placed again.
        let (names, full): (Vec<Name>, Vec<Name>) = names.into_iter().partition(|name| self.has_room(name.0));
        full.into_iter().for_each(|name| self.block(name, from));
        if names.is_empty() {
            return Ok(true);
        }
        let view = self.view.clone();
        let mut history = match view.history(Revision(from), self.limits.slice_bytes) {
            Ok(history) => history,
            Err(Error::Compacted { compacted }) => {
                names.into_iter().for_each(|name| self.cancel(name, compacted));
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        self.up_to_the_followers(&mut history);
        assert!(history.next.0 > from, "the history at {from} leads to {}", history.next);

        let mut by_interest: BTreeMap<u64, Vec<Name>> = BTreeMap::new();
        for name in names {
            by_interest.entry(self.interest_of(name)).or_default().push(name);
        }
        let mut index = Index::default();
        by_interest.keys().for_each(|number| index.insert(&self.interests.get(*number).interest, *number));
        let mut wanted = wanted(&index, &self.interests, &history.events);
        let mut batch = Batch::new(&view, &history.events, self.limits.fragment_bytes);
        for (number, names) in by_interest {
            let events = wanted.remove(&number).unwrap_or_default();
            let pieces = batch.pieces(&self.interests.get(number).interest, &events)?;
            for name in names {
                let next = if self.tell(name, &pieces, history.next.0 - 1) { history.next.0 } else { from };
                self.place(name, next, now);
            }
        }
        Ok(true)
    }

    /// Nobody is told what the followers have not been told.
    fn up_to_the_followers(&self, history: &mut History) {
        history.events.truncate(history.events.partition_point(|event| event.revision() < self.next));
        history.next = history.next.min(Revision(self.next));
    }

    fn interest_of(&self, (id, watch_id): Name) -> u64 {
        let watcher = self.streams.get(&id).and_then(|stream| stream.watchers.get(&watch_id));
        watcher.unwrap_or_else(|| unreachable!("watcher {watch_id} of stream {id} is placed and gone")).interest
    }

    /// Puts answers into a watcher's queue; false, and nothing was put, if the queue is full. `told` is the revision up to
    /// which this tells.
    fn tell(&mut self, (id, watch_id): Name, pieces: &[Piece], told: i64) -> bool {
        let Some(stream) = self.streams.get_mut(&id).filter(|_| !pieces.is_empty()) else { return true };
        self.touched.insert(id);
        if stream.level() >= self.limits.queue_bytes {
            return false;
        }
        for Piece { encoded, count, fragment } in pieces.iter().cloned() {
            if let Some(watcher) = stream.watchers.get_mut(&watch_id) {
                watcher.told = true;
                watcher.delivered += u64::from(count);
            }
            let what = What::Events { encoded, count, fragment };
            stream.say(Answer { watch_id, revision: Revision(told), what });
        }
        true
    }

    fn has_room(&mut self, id: StreamId) -> bool {
        self.touched.insert(id);
        self.streams.get_mut(&id).is_some_and(|stream| stream.level() < self.limits.queue_bytes)
    }

    fn block(&mut self, (id, watch_id): Name, next: i64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.blocked.insert(watch_id);
        if let Some(watcher) = stream.watchers.get_mut(&watch_id) {
            watcher.place = Place::Blocked(next);
        }
    }

    /// Lets a stream's blocked watchers lag again.
    pub(super) fn unblock(&mut self, id: StreamId, now: Time) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let place = |watch_id: i64| stream.watchers.get(&watch_id).map(|watcher| (watch_id, watcher.place));
        let blocked: Vec<_> = std::mem::take(&mut stream.blocked).into_iter().filter_map(place).collect();
        for (watch_id, place) in blocked {
            if let Place::Blocked(next) = place {
                self.place((id, watch_id), next, now);
            }
        }
    }

    /// Tells a watcher that what comes next for it is compacted, and ends it.
    fn cancel(&mut self, name: Name, compacted: Revision) {
        self.remove(name);
        self.say(name.0, name.1, 0, What::Compacted(compacted));
    }

    /// Gives a watcher that stands nowhere its place at revision `next`.
    pub(super) fn place(&mut self, name: Name, next: i64, now: Time) {
        let Some(watcher) = self.streams.get_mut(&name.0).and_then(|stream| stream.watchers.get_mut(&name.1)) else {
            return;
        };
        let lags = next < self.next;
        if lags && self.behind.contains(&(watcher.since, name)) {
            // It has lagged before; since then.
        } else if lags {
            watcher.since = now;
            self.behind.insert((now, name));
        } else {
            self.behind.remove(&(watcher.since, name));
        }
        match next.cmp(&self.next) {
            std::cmp::Ordering::Equal => {
                watcher.place = Place::Following;
                self.interests.follow(watcher.interest, name);
            }
            std::cmp::Ordering::Greater => {
                watcher.place = Place::Waiting(next);
                self.waiting.entry(next).or_default().insert(name);
            }
            std::cmp::Ordering::Less => {
                watcher.place = Place::Lagging(next);
                self.lagging
                    .entry(next)
                    .or_insert_with(|| {
                        self.round.push_back(next);
                        Default::default()
                    })
                    .insert(name);
            }
        }
    }

    /// Takes a watcher from its place.
    pub(super) fn displace(&mut self, name: Name) {
        let Some(stream) = self.streams.get_mut(&name.0) else { return };
        let Some(watcher) = stream.watchers.get(&name.1) else { return };
        let shelf = match watcher.place {
            Place::Following => return self.interests.unfollow(watcher.interest, name),
            Place::Blocked(_) => {
                stream.blocked.remove(&name.1);
                return;
            }
            Place::Waiting(next) => (&mut self.waiting, next),
            Place::Lagging(next) => (&mut self.lagging, next),
        };
        let (places, next) = shelf;
        if let Some(names) = places.get_mut(&next) {
            names.remove(&name);
            // Where somebody lags there is a turn to come; it finds nobody.
            if names.is_empty() && matches!(watcher.place, Place::Waiting(_)) {
                places.remove(&next);
            }
        }
    }
}

/// Which of `events` each interest in `index` wants to be told.
fn wanted(index: &Index, interests: &Interests, events: &[Event]) -> BTreeMap<u64, Vec<usize>> {
    let mut wanted: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (number, event) in events.iter().enumerate() {
        index.each(&event.kv.key, &mut |interest| {
            if interests.get(interest).interest.wants(event) {
                wanted.entry(interest).or_default().push(number);
            }
        });
    }
    wanted
}
