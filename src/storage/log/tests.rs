//! What the module's essay promises, as tests.

use super::super::memory::MemoryEngine;
use super::*;
use crate::ids::{Incarnation, RequestId, WriteSeq};
use crate::raft::EntryKind;
use proptest::prelude::*;

fn entry(index: u64, term: u64, data: impl Into<Bytes>) -> Entry {
    let position = Position { index: Index(index), term: Term(term) };
    let id = RequestId { origin: MemberId(7), incarnation: Incarnation(2), sequence: index };
    Entry::new(position, EntryKind::Command, id, data.into())
}

fn ready(seq: u64) -> Ready {
    Ready { seq: WriteSeq(seq), hard_state: None, compact_to: None, truncate_from: None, entries: Vec::new() }
}

fn term(term: u64) -> Option<HardState> {
    Some(HardState { term: Term(term), vote: Some(MemberId(1)) })
}

fn open(engine: &MemoryEngine) -> Result<(LogStore, Recovered), OpenError> {
    LogStore::open(Arc::new(engine.clone()), usize::MAX, Incarnation(0))
}

/// A log of one-byte entries, one record each, of the given terms.
fn log_of(terms: &[u64]) -> (MemoryEngine, LogStore) {
    let engine = MemoryEngine::new();
    let (mut store, _) = open(&engine).unwrap();
    for (index, at) in (1..).zip(terms) {
        let write = Ready { hard_state: term(*at), entries: vec![entry(index, *at, "x")], ..ready(index) };
        store.persist(&[write]).unwrap();
    }
    (engine, store)
}

fn put_start(engine: &MemoryEngine, index: u64, term: u64) {
    let mut ops = Vec::new();
    let base = Position { index: Index(index), term: Term(term) };
    put_ops(|_| Key::LogStart.encode(), &encode_start(base), &mut ops);
    let Op::Put(key, value) = &ops[0] else { panic!("{ops:?}") };
    engine.put(key, value).unwrap();
}

fn compact(seq: u64, to: u64) -> Ready {
    Ready { compact_to: Some(Index(to)), ..ready(seq) }
}

fn refusal(engine: &MemoryEngine) -> String {
    match open(engine) {
        Err(OpenError::Corrupt(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fresh_log_is_empty_and_lives_are_counted() {
    let engine = MemoryEngine::new();
    for life in 1..=3 {
        let (_, recovered) = open(&engine).unwrap();
        assert_eq!(recovered.incarnation, Incarnation(life));
        assert_eq!(engine.unsynced(), 0, "the incarnation is durable when open returns");
        assert_eq!((recovered.hard_state, recovered.last), (HardState::default(), Position::default()));
        engine.crash(0);
    }
}

#[test]
fn a_batch_is_one_record_and_one_sync() {
    let engine = MemoryEngine::new();
    let (mut store, _) = open(&engine).unwrap();
    let (keys, syncs) = (engine.len(), engine.syncs());
    let batch = [
        Ready { hard_state: term(1), entries: vec![entry(1, 1, "a"), entry(2, 1, "b")], ..ready(1) },
        Ready { entries: vec![entry(3, 1, "c")], ..ready(2) },
        ready(3),
        Ready { entries: vec![entry(4, 1, "d")], ..ready(4) },
    ];
    let persisted = store.persist(&batch).unwrap().unwrap();
    assert_eq!(persisted, Persisted { seq: WriteSeq(4), last: batch[3].entries[0].position });
    assert_eq!((engine.len() - keys, engine.syncs() - syncs), (2, 1), "a hard state and one record");
    assert_eq!(store.read(Index(2), usize::MAX).unwrap().len(), 3);
    assert_eq!(store.persist(&[]).unwrap(), None);
}

#[test]
fn the_hard_state_is_on_the_disk_before_its_entries() {
    let engine = MemoryEngine::new();
    let (mut store, _) = open(&engine).unwrap();
    engine.fail_syncs_after(0);
    store.persist(&[Ready { hard_state: term(5), entries: vec![entry(1, 5, "a")], ..ready(1) }]).unwrap_err();
    assert_eq!(engine.unsynced(), 2);
    engine.crash(1);
    let (_, recovered) = open(&engine).unwrap();
    assert_eq!((recovered.hard_state.term, recovered.last.index), (Term(5), Index(0)));
}

#[test]
fn a_record_is_frozen() {
    let engine = MemoryEngine::new();
    let (mut store, _) = open(&engine).unwrap();
    let noop = Position { index: Index(1), term: Term(3) };
    let entries = vec![Entry::new(noop, EntryKind::Noop, RequestId::default(), Bytes::new()), entry(2, 4, "hi")];
    store.persist(&[Ready { hard_state: term(4), entries, ..ready(1) }]).unwrap();
    let value = get_value(&engine, log_key(Index(1))).unwrap().unwrap();
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = "01 02000000 0000000000000000 \
         0300000000000000 00 0000000000000000 0000000000000000 0000000000000000 1f397d69 00000000 \
         0400000000000000 01 0700000000000000 0200000000000000 0200000000000000 75bac520 02000000 6869";
    assert_eq!(hex, expected.replace(' ', ""));
    let value = get_value(&engine, |_| Key::HardState.encode()).unwrap().unwrap();
    assert_eq!(value[..], [4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_entry_above_the_cap_has_a_record_of_its_own() {
    let engine = MemoryEngine::new();
    let (mut store, _) = open(&engine).unwrap();
    let big = Bytes::from(vec![9; 3 * MAX_VALUE]);
    let entries = vec![entry(1, 1, "a"), entry(2, 1, big.clone()), entry(3, 1, "c"), entry(4, 1, "d")];
    store.persist(&[Ready { hard_state: term(1), entries: entries.clone(), ..ready(1) }]).unwrap();
    assert_eq!(store.records, BTreeMap::from([(Index(1), 1), (Index(2), 4), (Index(3), 1)]));
    assert_eq!(open(&engine).unwrap().1.tail, entries);
    // Cut after it, then at it.
    store.persist(&[Ready { truncate_from: Some(Index(4)), ..ready(2) }]).unwrap();
    store.persist(&[Ready { truncate_from: Some(Index(2)), entries: vec![entry(2, 1, "b")], ..ready(3) }]).unwrap();
    assert_eq!(open(&engine).unwrap().1.tail, [entry(1, 1, "a"), entry(2, 1, "b")]);
}

#[test]
fn the_tail_is_the_newest_entries() {
    let (engine, _) = log_of(&[1, 1, 1, 2, 2]);
    let size = entry(1, 1, "x").size();
    for (bytes, kept) in [(0, 0), (1, 1), (2 * size, 2), (2 * size + 1, 3), (99 * size, 5)] {
        let (_, recovered) = LogStore::open(Arc::new(engine.clone()), bytes, Incarnation(0)).unwrap();
        let indexes: Vec<u64> = recovered.tail.iter().map(|entry| entry.position.index.0).collect();
        assert_eq!(indexes, (6 - kept..=5).collect::<Vec<_>>());
        assert_eq!(recovered.terms, [(Index(1), Term(1)), (Index(4), Term(2))]);
    }
}

#[test]
fn a_read_is_cut_but_never_empty() {
    let (_, store) = log_of(&[1, 1, 1, 2, 2]);
    let size = entry(1, 1, "x").size();
    for (from, bytes, read) in [(1, 0, 1), (2, 2 * size, 2), (2, 2 * size + 1, 2), (4, usize::MAX, 2), (6, 1, 0)] {
        let found = store.read(Index(from), bytes).unwrap();
        assert_eq!(found.len(), read, "from {from}, {bytes} bytes");
        assert!(found.iter().zip(from..).all(|(entry, index)| entry.position.index == Index(index)));
    }
}

#[test]
fn a_fault_is_final() {
    for fail in [MemoryEngine::fail_syncs_after, MemoryEngine::fail_writes_after] {
        let (engine, mut store) = log_of(&[1, 1]);
        fail(&engine, 0);
        let next = Ready { entries: vec![entry(3, 1, "x")], ..ready(3) };
        let fault = store.persist(std::slice::from_ref(&next)).unwrap_err();
        engine.crash(0);
        // The disk is well again; what the store believes about it is not.
        assert_eq!(store.persist(&[next]).unwrap_err(), fault);
        assert_eq!(store.read(Index(1), 1).unwrap_err(), fault);
        assert_eq!(open(&engine).unwrap().1.last.index, Index(2));
    }
}

#[test]
fn a_rotten_record_is_refused_with_its_index() {
    for byte in [0, 5, 12, 20, 40, 60] {
        let (engine, store) = log_of(&[1, 1, 2, 2]);
        engine.flip(&log_key(Index(3))(0), byte, 1);
        let why = store.read(Index(2), usize::MAX).unwrap_err();
        assert!(why.to_string().contains("index 3"), "byte {byte}: {why}");
        let why = refusal(&engine);
        assert!(why.contains("index 3") && why.contains("new id"), "byte {byte}: {why}");
    }
}

#[test]
fn what_no_writer_would_write_is_refused() {
    let rewrite = |engine: &MemoryEngine, key: &dyn Fn(u16) -> Bytes, value: &[u8]| {
        let mut ops = Vec::new();
        put_ops(key, value, &mut ops);
        let Op::Put(key, value) = &ops[0] else { panic!("{ops:?}") };
        engine.put(key, value).unwrap();
    };
    let record = |first: u64, prev_term: u64, entry: &Entry| {
        let mut packing = Packing::default();
        packing.begin(Index(first), Term(prev_term));
        packing.push(entry);
        packing.finish();
        packing.bytes
    };
    type Damage<'a> = Box<dyn Fn(&MemoryEngine) + 'a>;
    let cases: [(&str, Damage<'_>); 12] = [
        ("index 2: the next record begins at 3", Box::new(|e| e.delete(&log_key(Index(2))(0)).unwrap())),
        ("index 2: the next record begins at 1", Box::new(|e| put_start(e, 1, 1))),
        (
            "index 3: it was written after term 1, but follows 2@2",
            Box::new(|e| {
                e.delete(&log_key(Index(1))(0)).unwrap();
                e.delete(&log_key(Index(2))(0)).unwrap();
                put_start(e, 2, 2);
            }),
        ),
        (
            "index 4: the log begins after 4@9, the newest term known is 3",
            Box::new(|e| {
                (1..=4).for_each(|first| e.delete(&log_key(Index(first))(0)).unwrap());
                put_start(e, 4, 9);
            }),
        ),
        (
            "index 1: its term is 1, the newest term known is 0",
            Box::new(|e| e.delete(&Key::HardState.encode()).unwrap()),
        ),
        ("damaged at Incarnation: it is gone", Box::new(|e| e.delete(&Key::Incarnation.encode()).unwrap())),
        (
            "index 4: its term is 3, the newest term known is 2",
            Box::new(|e| {
                rewrite(e, &|_| Key::HardState.encode(), &encode_hard_state(term(2).unwrap()));
                rewrite(e, &log_key(Index(3)), &record(3, 1, &entry(3, 2, "x")));
                rewrite(e, &log_key(Index(4)), &record(4, 2, &entry(4, 3, "x")));
            }),
        ),
        (
            "index 3: 3@1 follows 2@2",
            Box::new(|e| {
                rewrite(e, &log_key(Index(2)), &record(2, 1, &entry(2, 2, "x")));
                rewrite(e, &log_key(Index(3)), &record(3, 2, &entry(3, 1, "x")));
            }),
        ),
        (
            "index 2: it was written after term 7, but follows 1@1",
            Box::new(|e| {
                rewrite(e, &log_key(Index(2)), &record(2, 7, &entry(2, 1, "x")));
            }),
        ),
        (
            "index 2: its layout is version Some(9)",
            Box::new(|e| {
                rewrite(e, &log_key(Index(2)), &[9, 0, 0]);
            }),
        ),
        (
            "index 2: entry 2@1 is not what its leader made",
            Box::new(|e| {
                let mut rotten = entry(2, 1, "x");
                rotten.checksum ^= 1;
                rewrite(e, &log_key(Index(2)), &record(2, 1, &rotten));
            }),
        ),
        ("at HardState", Box::new(|e| e.flip(&Key::HardState.encode(), 15, 4))),
    ];
    for (expected, damage) in cases {
        let (engine, _) = log_of(&[1, 1, 3, 3]);
        damage(&engine);
        let why = refusal(&engine);
        assert!(why.contains(expected), "expected {expected}, got {why}");
    }
}

#[test]
#[should_panic(expected = "entry 3@1 does not follow 1@1")]
fn a_gap_is_an_assertion() {
    let (_, mut store) = log_of(&[1]);
    let _ = store.persist(&[Ready { entries: vec![entry(3, 1, "x")], ..ready(2) }]);
}

#[test]
#[should_panic(expected = "entry 2@9 after 1@1")]
fn an_entry_above_the_hard_states_term_is_an_assertion() {
    let (_, mut store) = log_of(&[1]);
    let _ = store.persist(&[Ready { entries: vec![entry(2, 9, "x")], ..ready(2) }]);
}

#[test]
#[should_panic(expected = "vote: Some(MemberId(2))")]
fn a_second_vote_in_a_term_is_an_assertion() {
    let (_, mut store) = log_of(&[1]);
    let hard_state = Some(HardState { term: Term(1), vote: Some(MemberId(2)) });
    let _ = store.persist(&[Ready { hard_state, ..ready(2) }]);
}

#[test]
fn compaction_removes_whole_records_from_the_bottom_but_never_the_last_one() {
    let (engine, mut store) = log_of(&[1, 1, 2]);
    store.persist(&[Ready { entries: vec![entry(4, 2, "x"), entry(5, 2, "x")], ..ready(4) }]).unwrap();
    for (to, base, term, records) in [(0, 0, 0, 4), (2, 2, 1, 2), (1, 2, 1, 2), (4, 3, 2, 1), (5, 3, 2, 1)] {
        store.persist(&[compact(5, to)]).unwrap();
        assert_eq!(store.base(), Position { index: Index(base), term: Term(term) }, "up to {to}");
        assert_eq!(store.records.len(), records, "up to {to}");
        assert_eq!(engine.len(), 2 + records);
        let (_, recovered) = open(&engine).unwrap();
        assert_eq!((recovered.base, recovered.last), (store.base(), store.last));
        assert_eq!(recovered.terms, store.terms);
        assert_eq!(recovered.terms.first().map(|run| run.0), Some(store.base().index.next()));
        assert!(store.read(Index(base.max(1)), 1).unwrap().is_empty() || base == 0, "what is gone is not read");
        assert_eq!(store.read(Index(base + 1), 1).unwrap()[0].position.index, Index(base + 1));
    }
}

#[test]
fn what_is_left_over_goes_with_the_next_batches() {
    let many = 3 * COMPACTED_RECORDS_PER_BATCH as u64;
    let (engine, mut store) = log_of(&vec![1; many as usize]);
    store.persist(&[compact(many + 1, many)]).unwrap();
    assert_eq!(store.base().index.0, COMPACTED_RECORDS_PER_BATCH as u64);
    for seq in 2..=4 {
        store.persist(&[ready(many + seq)]).unwrap();
    }
    assert_eq!((store.base().index.0, store.records.len(), engine.len()), (many - 1, 1, 3));
}

#[test]
fn an_emptied_log_remembers_where_it_begins() {
    let (engine, mut store) = log_of(&[1, 1, 2]);
    store.persist(&[compact(4, 2)]).unwrap();
    store.persist(&[Ready { truncate_from: Some(Index(3)), ..ready(5) }]).unwrap();
    let base = Position { index: Index(2), term: Term(1) };
    let (mut store, recovered) = open(&engine).unwrap();
    assert_eq!((recovered.base, recovered.last), (base, base));
    // Of the base's own term: a run all the same.
    store.persist(&[Ready { entries: vec![entry(3, 1, "x")], ..ready(1) }]).unwrap();
    assert_eq!(open(&engine).unwrap().1.terms, [(Index(3), Term(1))]);
}

#[test]
fn a_reset_log_is_empty_and_begins_where_it_was_told() {
    for to in [0, 2, 3, 9] {
        let (engine, mut store) = log_of(&[1, 1, 2]);
        let to = Position { index: Index(to), term: Term(to.min(2)) };
        store.reset(to).unwrap();
        assert_eq!(engine.unsynced(), 0);
        let (mut store, recovered) = open(&engine).unwrap();
        assert_eq!((recovered.base, recovered.last, recovered.tail.len()), (to, to, 0));
        let next = entry(to.index.0 + 1, 2, "x");
        store.persist(&[Ready { entries: vec![next.clone()], ..ready(1) }]).unwrap();
        assert_eq!(open(&engine).unwrap().1.tail, [next]);
    }
}

#[test]
#[should_panic(expected = "a log that begins after 9@3 under")]
fn a_reset_to_an_unknown_term_is_an_assertion() {
    let (_, mut store) = log_of(&[1, 1, 2]);
    let _ = store.reset(Position { index: Index(9), term: Term(3) });
}

// ---- the property: every crash leaves a state that some prefix of the writes leads to ----

/// One Ready, before it is made to fit the log it meets.
#[derive(Clone, Debug)]
struct Step {
    new_term: bool,
    /// Entries up to so far from the end may go.
    compact: Option<u64>,
    truncate: Option<u64>,
    sizes: Vec<usize>,
}

/// What is synced at once: a batch of Readies, and then perhaps a reset, which ends so much later (or earlier) than the log.
type Synced = (Vec<Step>, Option<u64>);

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![20 => 0..40usize, 2 => 20_000..60_000usize, 1 => 90_000..250_000usize];
    let (compact, truncate) = (prop::option::weighted(0.3, 0..12u64), prop::option::weighted(0.3, 0..12u64));
    (any::<bool>(), compact, truncate, prop::collection::vec(size, 0..6))
        .prop_map(|(new_term, compact, truncate, sizes)| Step { new_term, compact, truncate, sizes })
}

fn synced() -> impl Strategy<Value = Synced> {
    (prop::collection::vec(step(), 1..4), prop::option::weighted(0.15, 0..20u64))
}

/// A log as it may be found: with as much of what may go as there is.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    base: Position,
    log: Vec<Entry>,
    /// Up to here it may have gone.
    may_go: Index,
}

impl Model {
    fn last(&self) -> Position {
        self.log.last().map_or(self.base, |entry| entry.position)
    }

    /// Without the entries up to `base`, which may have gone.
    fn after(&self, base: Index) -> Option<Model> {
        let gone = base.0.checked_sub(self.base.index.0)? as usize;
        if gone > 0 && (base > self.may_go || gone > self.log.len()) {
            return None;
        }
        let base = gone.checked_sub(1).map_or(self.base, |last| self.log[last].position);
        Some(Model { base, log: self.log[gone..].to_vec(), ..self.clone() })
    }

    /// Whether `found` is this log, compacted as far as may be.
    fn is(&self, found: &Model) -> bool {
        self.after(found.base.index).is_some_and(|own| Model { may_go: Index(0), ..own } == *found)
    }

    /// The Ready that `step` is here; every state that a crash may leave on the way is pushed to `states`.
    fn take(&mut self, seq: u64, step: &Step, persisted: Index, states: &mut Vec<Model>) -> Ready {
        let mut out = ready(seq);
        // No entry is of term 0.
        if step.new_term || self.hard_state.term == Term(0) {
            self.hard_state = term(self.hard_state.term.0 + 1).unwrap();
            out.hard_state = Some(self.hard_state);
            states.push(self.clone());
        }
        if let Some(back) = step.compact {
            // What is not durable yet is not compacted.
            let to = Index(self.last().index.0.saturating_sub(back)).min(persisted);
            out.compact_to = Some(to);
            self.may_go = self.may_go.max(to);
            states.push(self.clone());
        }
        if let Some(back) = step.truncate {
            let from = self.last().index.0.saturating_sub(back).max(self.base.index.max(self.may_go).0 + 1);
            out.truncate_from = Some(Index(from));
            while self.last().index >= Index(from) {
                self.log.pop();
                states.push(self.clone());
            }
        }
        for size in &step.sizes {
            let index = self.last().index.0 + 1;
            let new = entry(index, self.hard_state.term.0, vec![seq as u8; *size]);
            out.entries.push(new.clone());
            self.log.push(new);
            states.push(self.clone());
        }
        out
    }

    /// The log is reset.
    fn reset(&mut self, ahead: u64, states: &mut Vec<Model>) -> Position {
        let index = Index((self.last().index.0 + ahead).saturating_sub(10));
        let to = Position { index, term: self.hard_state.term };
        while self.log.pop().is_some() {
            states.push(self.clone());
        }
        (self.base, self.may_go) = (to, Index(0));
        states.push(self.clone());
        to
    }
}

fn recover(engine: &MemoryEngine) -> (LogStore, Model) {
    let (store, recovered) = open(engine).unwrap();
    let terms = recovered.tail.iter().map(|entry| (entry.position.index, entry.position.term));
    let mut runs: Vec<(Index, Term)> = terms.collect();
    runs.dedup_by_key(|(_, term)| *term);
    assert_eq!(recovered.terms, runs);
    let Recovered { hard_state, base, tail: log, .. } = recovered;
    let found = Model { hard_state, base, log, may_go: Index(0) };
    assert_eq!(recovered.last, found.last());
    (store, found)
}

/// Runs all batches, the last one without its sync. Returns the engine, the state at the last sync, and the states that
/// a crash may leave since, in order.
fn run(batches: &[Synced]) -> (MemoryEngine, Vec<Model>) {
    let engine = MemoryEngine::new();
    let (mut store, mut model) = recover(&engine);
    let mut states = vec![model.clone()];
    let mut seq = 0;
    for (number, (batch, reset)) in batches.iter().enumerate() {
        let torn = number + 1 == batches.len();
        if torn {
            // The last sync of the two that a batch and a reset make.
            engine.fail_syncs_after(u64::from(reset.is_some()));
        }
        let persisted = model.last().index;
        states = vec![model.clone()];
        let mut readies = Vec::new();
        for step in batch {
            seq += 1;
            // What this batch cuts off was durable only before it.
            let persisted = persisted.min(model.last().index);
            readies.push(model.take(seq, step, persisted, &mut states));
        }
        let outcome = store.persist(&readies);
        assert_eq!(outcome.is_err(), torn && reset.is_none());
        if let Ok(persisted) = outcome {
            assert_eq!(persisted, Some(Persisted { seq: WriteSeq(seq), last: model.last() }));
            let mut firsts = store.records.keys().skip(1);
            assert!(firsts.next().is_none_or(|second| second.prev() > model.may_go), "what may go went");
        }
        if let Some(ahead) = reset {
            states = vec![model.clone()];
            let to = model.reset(*ahead, &mut states);
            assert_eq!(store.reset(to).is_err(), torn);
        }
    }
    (engine, states)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_crash_leaves_a_prefix(
        batches in prop::collection::vec(synced(), 1..5),
        after in step(),
    ) {
        let (whole, states) = run(&batches);
        let mut earliest = 0;
        for keep in 0..=whole.unsynced() {
            let (engine, _) = run(&batches);
            engine.crash(keep);
            let (mut store, found) = recover(&engine);
            let at = states[earliest..].iter().position(|state| state.is(&found));
            prop_assert!(at.is_some(), "kept {keep}: {found:?}");
            earliest += at.unwrap_or(0);
            prop_assert!(found.log.iter().all(|entry| entry.position.term <= found.hard_state.term));
            if keep == whole.unsynced() {
                prop_assert!(states.last().is_some_and(|last| last.is(&found)));
            }
            // Life goes on over what the crash left.
            let mut model = found;
            let next = model.take(1, &after, model.last().index, &mut Vec::new());
            store.persist(&[next]).unwrap();
            let (store, found) = recover(&engine);
            prop_assert!(model.is(&found), "{:?} is not {:?}", found, model);
            for (skipped, first) in found.log.iter().enumerate() {
                let read = store.read(first.position.index, 500).unwrap();
                prop_assert!(!read.is_empty() && found.log[skipped..].starts_with(&read));
            }
            let slots: usize = store.records.values().map(|slots| usize::from(*slots)).sum();
            let start = usize::from(engine.get(&Key::LogStart.encode()).unwrap().is_some());
            prop_assert_eq!(engine.len(), 2 + start + slots, "nothing is left lying about");
        }
    }
}

// ---- who belongs to the cluster ----

/// Of one founder, on the way to three members, and of three.
fn configurations() -> [Configuration; 3] {
    let founder = Configuration::new([MemberId(1)]);
    let joint = founder.enter((1..=3).map(MemberId), []);
    [founder, joint.clone(), joint.leave()]
}

/// A log of a no-op, the joint configuration, the simple one and two commands: one record each.
fn log_that_grew() -> (MemoryEngine, LogStore) {
    let (engine, mut store) = log_of(&[1]);
    let [_, joint, simple] = configurations();
    let change = |index, configuration: Configuration| {
        let position = Position { index: Index(index), term: Term(1) };
        let data = configuration.encode(b"who they are");
        Entry::new(position, EntryKind::Configuration, RequestId::default(), data)
    };
    for entry in [change(2, joint), change(3, simple), entry(4, 1, "x"), entry(5, 1, "x")] {
        store.persist(&[Ready { entries: vec![entry.clone()], ..ready(entry.position.index.0) }]).unwrap();
    }
    (engine, store)
}

fn known(engine: &MemoryEngine) -> [Option<Configuration>; 2] {
    let recovered = open(engine).unwrap().1;
    [recovered.configuration, recovered.newest_configuration]
}

#[test]
fn the_newest_configuration_outlives_its_entry() {
    let [_, joint, simple] = configurations().map(Some);
    let (engine, mut store) = log_that_grew();
    assert_eq!(known(&engine), [None, simple.clone()]);
    store.persist(&[compact(6, 2)]).unwrap();
    assert_eq!(known(&engine), [joint, simple.clone()]);
    let writes = engine.unsynced();
    engine.fail_syncs_after(0);
    store.persist(&[compact(7, 5)]).unwrap_err();
    assert_eq!(engine.unsynced() - writes, 3, "the configuration, and two records");
    for keep in 0..=3 {
        let (engine, mut store) = log_that_grew();
        store.persist(&[compact(6, 2)]).unwrap();
        engine.fail_syncs_after(0);
        store.persist(&[compact(7, 5)]).unwrap_err();
        engine.crash(keep);
        assert_eq!(known(&engine)[1], simple, "kept {keep}");
    }
    let (engine, mut store) = log_that_grew();
    store.persist(&[compact(6, 5)]).unwrap();
    store.reset(Position { index: Index(9), term: Term(1) }).unwrap();
    assert_eq!(known(&engine), [simple.clone(), simple]);
}

#[test]
fn a_truncation_takes_a_configuration_back() {
    let [founder, joint, simple] = configurations();
    let (engine, mut store) = log_that_grew();
    store.persist(&[Ready { truncate_from: Some(Index(3)), ..ready(6) }]).unwrap();
    assert_eq!(known(&engine)[1], Some(joint.clone()));
    store.note(&founder).unwrap();
    store.note(&joint).unwrap();
    assert_eq!(known(&engine)[0], None, "nothing newer than what the log says");
    store.note(&simple).unwrap();
    assert_eq!(known(&engine)[0], Some(simple.clone()));
    // An older one that goes does not take its place.
    store.persist(&[Ready { entries: vec![entry(3, 1, "x"), entry(4, 1, "x")], ..ready(7) }]).unwrap();
    store.persist(&[compact(8, 2)]).unwrap();
    assert_eq!(known(&engine)[0], Some(simple));
}
