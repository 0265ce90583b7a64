//! Where a watch stands: what to ask for after a broken connection, and what of the answers is new.
//!
//! A watch is a promise over many connections: every event from its first revision on, in order, none twice, none left
//! out. The server keeps that promise within one stream; this file keeps it across streams. It is a value: answers go in,
//! and out come what is new and the request that opens the next stream.
//!
//! Invariants:
//! - everything below [`Resume::next`] in the watched range was delivered, and nothing from it on;
//! - [`Resume::next`] never falls;
//! - a watch that can't go on without a gap ends, and says why ([`End::Compacted`]).
//!
//! What it rests on: a server ends no message in the middle of a revision unless fragments were asked for, and they never
//! are. Left out: fragments, and several watches on one stream (streams share the connection anyway).

use crate::proto::etcdserverpb as pb;

/// Why a watch can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// What comes next was compacted away; the oldest revision that can be watched is this one.
    Compacted(i64),
    /// The server's reason.
    Canceled(String),
}

/// What one answer is to the watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing that was not known.
    Known,
    /// The stream stands: from here on nothing is missed.
    Open,
    /// Events, or (without any) the news that all is delivered up to its header's revision.
    News(pb::WatchResponse),
    /// The last answer, and what it means.
    End(pb::WatchResponse, End),
}

/// A watch's place in the history.
#[derive(Clone, Debug)]
pub struct Resume {
    request: pb::WatchCreateRequest,
}

impl Resume {
    /// The place at which `request` begins.
    pub fn new(request: pb::WatchCreateRequest) -> Resume {
        Resume { request: pb::WatchCreateRequest { fragment: false, ..request } }
    }

    /// The first revision that was not delivered; 0 until the server has said which one "now" is.
    pub fn next(&self) -> i64 {
        self.request.start_revision
    }

    /// What opens the next stream.
    pub fn request(&self) -> pb::WatchCreateRequest {
        self.request.clone()
    }

    /// Takes one answer.
    pub fn take(&mut self, mut answer: pb::WatchResponse) -> Step {
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        if answer.canceled {
            let end = match answer.compact_revision {
                0 => End::Canceled(answer.cancel_reason.clone()),
                compacted => End::Compacted(compacted),
            };
            return Step::End(answer, end);
        }
        if answer.created {
            // From now on: "now" is the revision at which the server opened the watch.
            if self.next() == 0 {
                self.delivered(revision);
            }
            return Step::Open;
        }
        if answer.events.is_empty() {
            self.delivered(revision);
            return Step::News(answer);
        }
        let next = self.next();
        answer.events.retain(|event| mod_revision(event) >= next);
        match answer.events.iter().map(mod_revision).max() {
            None => Step::Known,
            Some(last) => {
                self.delivered(last);
                Step::News(answer)
            }
        }
    }

    fn delivered(&mut self, revision: i64) {
        self.request.start_revision = self.request.start_revision.max(revision.saturating_add(1));
    }
}

fn mod_revision(event: &crate::proto::mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb;

    fn watch(start_revision: i64) -> Resume {
        Resume::new(pb::WatchCreateRequest { key: "k".into(), start_revision, fragment: true, ..Default::default() })
    }

    fn answer(revision: i64, events: &[i64]) -> pb::WatchResponse {
        let event = |revision: &i64| mvccpb::Event {
            kv: Some(mvccpb::KeyValue { mod_revision: *revision, ..Default::default() }),
            ..Default::default()
        };
        pb::WatchResponse {
            header: Some(pb::ResponseHeader { revision, ..Default::default() }),
            events: events.iter().map(event).collect(),
            ..Default::default()
        }
    }

    fn created(revision: i64) -> pb::WatchResponse {
        pb::WatchResponse { created: true, ..answer(revision, &[]) }
    }

    fn news(step: Step) -> Vec<i64> {
        match step {
            Step::News(answer) => answer.events.iter().map(mod_revision).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_watch_from_now_goes_on_from_where_it_began_even_if_nothing_came() {
        let mut watch = watch(0);
        assert_eq!(watch.request().start_revision, 0);
        assert!(!watch.request().fragment);
        assert_eq!(watch.take(created(7)), Step::Open);
        assert_eq!(watch.request().start_revision, 8);
        // The next member is further: what was missed in between is asked for, not skipped.
        assert_eq!(watch.take(created(20)), Step::Open);
        assert_eq!(watch.request().start_revision, 8);
    }

    #[test]
    fn a_watch_goes_on_behind_its_last_event_and_not_behind_the_stores_revision() {
        let mut watch = watch(3);
        assert_eq!(watch.take(created(90)), Step::Open);
        assert_eq!(watch.next(), 3);
        // The store is at 90, but of this range only 5 was delivered so far.
        assert_eq!(news(watch.take(answer(90, &[3, 5, 5]))), [3, 5, 5]);
        assert_eq!(watch.next(), 6);
    }

    #[test]
    fn what_a_new_stream_repeats_is_dropped() {
        let mut watch = watch(3);
        assert_eq!(news(watch.take(answer(9, &[4, 5]))), [4, 5]);
        assert_eq!(news(watch.take(answer(9, &[4, 5, 6]))), [6]);
        assert_eq!(watch.take(answer(9, &[4, 6])), Step::Known);
        assert_eq!(watch.next(), 7);
    }

    #[test]
    fn progress_moves_the_place_on_and_never_back() {
        let mut watch = watch(3);
        assert_eq!(news(watch.take(answer(50, &[]))), Vec::<i64>::new());
        assert_eq!(watch.next(), 51);
        assert_eq!(news(watch.take(answer(40, &[]))), Vec::<i64>::new());
        assert_eq!(watch.next(), 51);
    }

    #[test]
    fn the_end_says_why() {
        let canceled = |compact_revision: i64, reason: &str| pb::WatchResponse {
            canceled: true,
            compact_revision,
            cancel_reason: reason.to_owned(),
            ..answer(9, &[])
        };
        let end = |answer: pb::WatchResponse| match watch(3).take(answer) {
            Step::End(_, end) => end,
            other => panic!("{other:?}"),
        };
        assert_eq!(end(canceled(5, "compacted")), End::Compacted(5));
        assert_eq!(end(canceled(0, "permission denied")), End::Canceled("permission denied".to_owned()));
        // etcd refuses a watch that it can't open with both marks set.
        let refused = pb::WatchResponse { created: true, ..canceled(0, "duplicate") };
        assert_eq!(end(refused), End::Canceled("duplicate".to_owned()));
    }
}
