//! The table of `open.rs`, row by row.

use super::super::marks::{Adopted, Quarantined};
use super::*;
use crate::ids::WriteSeq;
use crate::machine::{Content, Machine};
use crate::raft::HardState;
use crate::raft::quorum::Configuration;
use crate::storage::key::{Family, Key};

pub(super) fn at(index: u64, term: u64) -> Position {
    Position { index: Index(index), term: Term(term) }
}

fn ready(seq: u64) -> Ready {
    Ready { seq: WriteSeq(seq), hard_state: None, compact_to: None, truncate_from: None, entries: Vec::new() }
}

/// What a member left.
#[derive(Clone, Default)]
pub(super) struct Disks {
    raft: MemoryEngine,
    state: MemoryEngine,
}

impl Disks {
    /// A log of no-ops of these terms, one record each.
    pub(super) fn log(self, terms: &[u64]) -> Disks {
        let mut log = self.log_store();
        for (index, term) in (1..).zip(terms) {
            let hard_state = Some(HardState { term: Term(*term), vote: None });
            let entry = Entry::new(at(index, *term), EntryKind::Noop, RequestId::default(), Default::default());
            log.persist(&[Ready { hard_state, entries: vec![entry], ..ready(index) }]).unwrap();
        }
        self
    }

    /// A configuration follows in the log, in term 1.
    fn changed(self, configuration: &Configuration) -> Disks {
        let (mut log, recovered) = LogStore::open(Arc::new(self.raft.clone()), 0, Incarnation(0)).unwrap();
        let position = at(recovered.last.index.next().0, 1);
        let data = configuration.encode(&[]);
        let entry = Entry::new(position, EntryKind::Configuration, RequestId::default(), data);
        log.persist(&[Ready { entries: vec![entry], ..ready(1) }]).unwrap();
        self
    }

    fn log_store(&self) -> LogStore {
        LogStore::open(Arc::new(self.raft.clone()), usize::MAX, Incarnation(0)).unwrap().0
    }

    /// Cut at the bottom up to `index`.
    fn compacted(self, index: u64) -> Disks {
        self.log_store().persist(&[Ready { compact_to: Some(Index(index)), ..ready(1) }]).unwrap();
        self
    }

    /// A state that has applied no-ops of these terms.
    fn applied(self, terms: &[u64]) -> Disks {
        let mut machine = Machine::open(Arc::new(self.state.clone()), Vec::new()).unwrap();
        for (index, term) in (1..).zip(terms) {
            machine.apply(at(index, *term), Content::Nothing).unwrap();
        }
        let mut ops = Vec::new();
        machine.seal(&mut ops);
        execute(&self.state, &ops);
        self
    }

    /// The state was taken over up to here.
    fn adopted(self, up_to: Position) -> Disks {
        let mut ops = Vec::new();
        Adopted(up_to).put(&mut ops);
        execute(&self.state, &ops);
        self
    }

    /// The state that was here was wrong.
    fn quarantined(self, applied: u64) -> Disks {
        let (applied, checkpoint) = (Index(applied), Index(4));
        let mut ops = Vec::new();
        Quarantined { applied, checkpoint, found: 1, truth: 2 }.put(&mut ops);
        execute(&self.state, &ops);
        self
    }

    pub(super) fn marked(self, last: Position) -> Disks {
        let mut ops = Vec::new();
        AckedMark { last, term: last.term, incarnation: Incarnation(5) }.put(&mut ops);
        execute(&self.state, &ops);
        self
    }

    /// Member 1 of so many founders.
    pub(super) fn open(&self, founders: u64) -> Result<Opened, Unopened> {
        self.open_with(founders, config_of(MemberId(1)))
    }

    fn open_with(&self, founders: u64, config: Config) -> Result<Opened, Unopened> {
        let meta = meta(founders);
        let (raft, state) = (Arc::new(self.raft.clone()), Arc::new(self.state.clone()));
        open(Opening { meta, raft, state, config, seed: Seed(1), now: Time(0) })
    }

    fn refusal(&self, founders: u64) -> Unopened {
        self.open(founders).map(|_| ()).unwrap_err()
    }

    fn can_be_made_again(&self, founders: u64) -> bool {
        let outcome = can_be_made_again(&meta(founders), Arc::new(self.raft.clone()));
        if let Err(Halt(why)) = &outcome {
            assert!(why.contains("the only member") && why.contains("quorate snapshot restore"), "{why}");
        }
        outcome.is_ok()
    }
}

fn meta(founders: u64) -> Meta {
    let initial = |id| InitialMember { id: MemberId(id), name: String::new(), peer_urls: vec![] };
    let members = (1..=founders).map(initial).collect();
    Meta { cluster: ClusterId(7), member: MemberId(1), disk: DiskId(101), members }
}

/// Whether it asks for votes when it hears nobody.
fn campaigns(node: &mut Node) -> bool {
    let mut effects = Vec::new();
    (0..20_000).step_by(50).for_each(|ms| node.advance(Time::from_millis(ms), &mut effects).unwrap());
    node.status().role != RoleName::Follower
}

#[test]
fn a_compacted_log_goes_on_where_the_state_is() {
    for applied in [2, 3, 5] {
        let disks = Disks::default().log(&[1, 1, 2, 2, 3]).compacted(2).applied(&[1, 1, 2, 2, 3][..applied]);
        let Opened { mut node, log } = disks.open(3).unwrap();
        assert_eq!((log.base(), node.raft().log_base()), (at(2, 1), at(2, 1)));
        assert_eq!((node.applied().index.0, node.raft().status().last), (applied as u64, at(5, 3)));
        assert!(!node.raft().is_hollow() && campaigns(&mut node));
    }
}

#[test]
fn a_state_that_ends_before_the_log_begins_is_taken_over_where_there_are_others() {
    for applied in 0..2 {
        let disks = Disks::default().log(&[1, 1, 2, 2]).compacted(2).applied(&[1, 1][..applied]);
        let mut node = disks.open(3).unwrap().node;
        assert!(node.raft().is_hollow());
        assert!(!campaigns(&mut node), "it could lead nobody through what it can't apply");
        assert_eq!(node.applied().index.0, applied as u64);
        let Unopened::Member(Halt(why)) = disks.refusal(1) else { panic!("nobody can send another state") };
        assert!(why.contains("only what follows 2@1") && why.contains("only member"), "{why}");
    }
}

#[test]
fn a_hollow_member_acknowledges_but_applies_nothing() {
    let disks = Disks::default().log(&[1, 1, 2, 2]).compacted(2);
    let opened = disks.open(3).unwrap();
    let mut member =
        ShortLog { raft: disks.raft, state: disks.state, node: opened.node, log: opened.log, now: Time(0) };
    member.hear(2, at(4, 2), &[2], 5);
    let status = member.node.status();
    assert_eq!((status.persisted, status.commit, status.applied), (Index(5), Index(5), Index(0)));
    assert_eq!(member.node.deadline().min(Time(1)), Time(1), "it does not ask for turns in which it does nothing");
}

#[test]
fn a_hollow_member_does_not_wake_for_compactions() {
    let disks = Disks::default().log(&[1, 1, 2, 2]).compacted(2);
    let auto_compaction = AutoCompaction::Periodic(Duration::from_secs(2));
    let space = SpaceConfig { auto_compaction, ..SpaceConfig::default() };
    let opened = disks.open_with(3, Config { space, ..config_of(MemberId(1)) }).unwrap();
    let mut member =
        ShortLog { raft: disks.raft, state: disks.state, node: opened.node, log: opened.log, now: Time(0) };
    for second in 1..10 {
        member.now = Time::from_millis(1000 * second);
        member.hear(2, at(4, 2), &[], 4);
        assert!(member.node.deadline() > member.now, "what it waits for comes from the leader");
    }
}

#[test]
fn a_joiner_is_hollow() {
    let mut node = Disks::default().open(0).unwrap().node;
    assert!(node.raft().is_hollow() && !campaigns(&mut node));
    assert!(!Disks::default().open(1).unwrap().node.raft().is_hollow(), "the first member of a cluster is none");
    let disks = Disks::default().log(&[1, 1]).applied(&[1, 1]).adopted(at(2, 1));
    assert!(!disks.open(0).unwrap().node.raft().is_hollow(), "nor is one that has taken over a state");
}

#[test]
fn a_log_that_does_not_lead_to_the_adopted_state_begins_anew_after_it() {
    let terms = [1, 1, 2, 2];
    // Ends before it; has another term there; was emptied half-way by an earlier try.
    for log in [&[][..], &[1, 1], &[1, 1, 1, 1, 1], &[1]] {
        let disks = Disks::default().log(log).applied(&terms).adopted(at(4, 2));
        let Opened { node, log } = disks.open(3).unwrap();
        assert_eq!((log.base(), node.raft().log_base()), (at(4, 2), at(4, 2)));
        assert_eq!((node.applied(), node.raft().status().last), (at(4, 2), at(4, 2)));
        assert!(log.hard_state().term >= Term(2), "a log never begins after a term that is not known");
        drop(log);
        let (_, again) =
            LogStore::open(Arc::new(disks.raft.clone()), usize::MAX, Incarnation(0)).expect("a lawful log");
        assert_eq!((again.base, again.last), (at(4, 2), at(4, 2)));
    }
}

#[test]
fn a_log_that_leads_to_the_adopted_state_stays() {
    let terms = [1, 1, 2, 2, 2];
    for (compacted, applied) in [(0, 4), (3, 4), (4, 4), (0, 5)] {
        let disks = Disks::default().log(&terms).compacted(compacted).applied(&terms[..applied]).adopted(at(4, 2));
        let node = disks.open(3).unwrap().node;
        assert_eq!((node.raft().log_base().index.0, node.raft().status().last), (compacted, at(5, 2)));
    }
    // The adoption was long ago: what the log lost since is not made good by it.
    let lost = Disks::default().log(&[1, 1]).applied(&terms).adopted(at(4, 2));
    let Unopened::Member(Halt(why)) = lost.refusal(3) else { panic!("the state is sound") };
    assert!(why.contains("the state was made from entry 5@2"), "{why}");
    assert_eq!(lost.log_store().base(), at(0, 0), "a refusal changes nothing");
}

#[test]
fn every_crash_while_the_log_begins_anew_ends_there() {
    let disks = || Disks::default().log(&[1, 1, 1, 1, 1, 1]).compacted(2).applied(&[1, 1, 2, 2]).adopted(at(4, 2));
    let whole = disks();
    whole.raft.sync().unwrap();
    whole.raft.fail_syncs_after(2); // the incarnation's and the term's; the reset's fails
    whole.refusal(3);
    let writes = whole.raft.unsynced();
    assert!(writes > 4, "{writes} writes of the reset");
    for keep in 0..=writes {
        let disks = disks();
        disks.raft.sync().unwrap();
        disks.raft.fail_syncs_after(2);
        disks.refusal(3);
        disks.raft.crash(keep);
        let Opened { node, log } = disks.open(3).unwrap();
        assert_eq!((log.base(), node.raft().status().last), (at(4, 2), at(4, 2)), "kept {keep}");
    }
}

#[test]
fn an_adopted_state_does_not_make_good_what_the_log_lost_beyond_it() {
    let disks = Disks::default().log(&[1, 1]).applied(&[1, 1, 2]).adopted(at(3, 2)).marked(at(6, 2));
    let node = &mut disks.open(3).unwrap().node;
    assert_eq!(node.raft().lost_mark(), Some(at(6, 2)));
    assert!(!campaigns(node));
}

#[test]
fn rot_of_the_state_is_told_apart_from_all_else() {
    let sound = || Disks::default().log(&[1, 1]).applied(&[1, 1]).adopted(at(1, 1)).marked(at(2, 1));
    sound().open(3).unwrap();
    let record = Family::Record.key(Index(1), 0);
    for key in [record, Key::AckedMark, Key::Adopted] {
        for byte in [0, 4, 13] {
            let disks = sound();
            disks.state.flip(&key.encode(), byte, 4);
            let Unopened::State(Halt(why)) = disks.refusal(3) else { panic!("{key:?} is the state's") };
            assert!(why.contains("the state database"), "{why}");
        }
    }
    let short = Disks::default().log(&[1, 1]).applied(&[1]).adopted(at(2, 1));
    let Unopened::State(Halt(why)) = short.refusal(3) else { panic!("its end is lost") };
    assert!(why.contains("taken over up to 2@1, but ends at 1@1"), "{why}");
    let log = Family::Log.key(Index(1), 0);
    for key in [log, Key::HardState, Key::Incarnation] {
        let disks = sound();
        disks.raft.flip(&key.encode(), 13, 4);
        let Unopened::Member(Halt(why)) = disks.refusal(3) else { panic!("{key:?} is the log's") };
        assert!(why.contains("quorate serve --join") && why.contains("must not vote"), "{why}");
    }
}

#[test]
fn who_the_others_are_is_said_by_the_log_and_not_by_the_founders() {
    let of = |voters: &[u64]| Configuration::new(voters.iter().copied().map(MemberId));
    let grown = of(&[1]).enter([1, 2, 3].map(MemberId), []);
    let shrunk = of(&[1, 2, 3]).enter([MemberId(1)], []).leave();
    // The configuration's entry is there still, or went.
    for compacted in [2, 3, 4] {
        let disks = |newest| Disks::default().log(&[1, 1]).changed(newest).changed(newest).compacted(compacted);
        let grew = disks(&grown);
        assert!(grew.can_be_made_again(1));
        let node = grew.open(1).unwrap().node;
        assert!(node.raft().is_hollow() && node.raft().configuration() == &grown);
        let alone = disks(&shrunk);
        assert!(!alone.can_be_made_again(3));
        let Unopened::Member(Halt(why)) = alone.refusal(3) else { panic!("nobody can send another state") };
        assert!(why.contains("only member"), "{why}");
    }
    assert!(!Disks::default().log(&[1, 1, 1]).compacted(2).can_be_made_again(1));
    assert!(Disks::default().log(&[1, 1, 1]).can_be_made_again(1), "from its own log");
    let joined = Disks::default().log(&[1, 1, 1]).compacted(2);
    assert!(joined.can_be_made_again(0), "who joined has others");
    let rotten = Disks::default().log(&[1, 1, 1]);
    rotten.raft.flip(&Family::Log.key(Index(2), 0).encode(), 13, 4);
    let Err(Halt(why)) = can_be_made_again(&meta(3), Arc::new(rotten.raft)) else { panic!("the log is rotten") };
    assert!(why.contains("must not vote"), "{why}");
}

#[test]
fn a_short_log_is_no_end_for_a_founder_whose_cluster_grew() {
    let grown = Configuration::new([MemberId(1)]).enter([1, 2, 3].map(MemberId), []);
    let disks = Disks::default().log(&[1, 1]).changed(&grown).marked(at(9, 1));
    assert_eq!(disks.open(1).unwrap().node.raft().lost_mark(), Some(at(9, 1)));
}

#[test]
fn a_state_in_quarantine_is_not_made_again_from_the_log() {
    // Others have told that it is wrong, so there are others, whatever the founders were.
    for (members, mark) in [(3, 5), (3, 9), (1, 5), (1, 9)] {
        for base in [0, 2] {
            let disks = Disks::default().log(&[1; 5]).compacted(base).marked(at(mark, 1)).quarantined(5);
            let mut node = disks.open(members).unwrap().node;
            let status = node.status();
            assert!(node.is_hollow() && !campaigns(&mut node), "{members} members, log from {base}");
            assert_eq!((status.applied, status.checkpoint.differs), (Index(0), Some(Index(4))));
        }
    }
}

#[test]
fn who_goes_on_alone_by_decree_needs_a_state_or_the_whole_log() {
    for (base, refusal) in [(0, None), (2, Some("it has no state"))] {
        let disks = Disks::default().log(&[1; 5]).compacted(base).marked(at(5, 1)).quarantined(5);
        let (raft, state) = (Arc::new(disks.raft.clone()), Arc::new(disks.state.clone()));
        let outcome = recover::decree(&meta(3), raft, state);
        match refusal {
            Some(refusal) => assert!(outcome.unwrap_err().contains(refusal)),
            None => assert!(outcome.is_ok() && campaigns(&mut disks.open(3).unwrap().node)),
        }
    }
}
