//! A state that is taken over from others is theirs: by chance, and where chance seldom goes.

use super::*;
use crate::machine::takeover::{Misfit, Prefix, read_records};

/// Whoever takes over, with what `node::install` keeps.
struct Taker {
    engine: MemoryEngine,
    prefix: Prefix,
    swept: Revision,
    least: Index,
    /// The rest of a sender's under which the last piece was read.
    rest: Option<(usize, usize)>,
    begun: usize,
}

impl Taker {
    fn new() -> Taker {
        let (engine, prefix) = (MemoryEngine::new(), Prefix::default());
        Taker { engine, prefix, swept: Revision(i64::MAX), least: Index(0), rest: None, begun: 1 }
    }

    fn begin_anew(&mut self) {
        *self = Taker { begun: self.begun + 1, ..Taker::new() };
    }

    /// One piece; whether the whole state is there.
    fn ask(&mut self, sender: &mut Sender, max_bytes: usize) -> bool {
        let rest = Some((sender.number, sender.rests));
        sender.rest();
        let machine = &sender.disk.store.machine;
        if !machine.is_at_rest() {
            return false;
        }
        if self.rest != rest {
            let is_new = self.prefix.reached().index == Index(0);
            if !is_new && machine.rewritten_for() > self.swept {
                self.begin_anew();
            }
            self.rest = rest;
            self.swept = self.swept.min(machine.swept());
            self.least = self.least.max(sender.applied);
        }
        let (from, below) = (self.prefix.reached().index.next(), machine.first_unwritten());
        let records = read_records(&sender.disk.store.engine, from, below, max_bytes).unwrap();
        for (first, record) in records {
            let mut ops = Vec::new();
            match self.prefix.take(first, &record, &mut ops) {
                Ok(()) => insert(&self.engine, ops),
                Err(Misfit::Rewritten) => {
                    self.begin_anew();
                    return false;
                }
                Err(Misfit::Rot(why)) => panic!("{why}"),
            }
        }
        let reached = self.prefix.reached().index;
        reached.next() >= below && reached >= self.least
    }
}

/// A member with records to give.
struct Sender {
    disk: Lagging,
    number: usize,
    /// How often its sweep has come to rest.
    rests: usize,
    resting: bool,
    /// What was applied when it last did.
    applied: Index,
}

impl Sender {
    fn new(number: usize) -> Sender {
        let disk = Lagging { store: Store::new(), sealed: Vec::new() };
        Sender { disk, number, rests: 0, resting: false, applied: Index(0) }
    }

    fn rest(&mut self) {
        let machine = &mut self.disk.store.machine;
        if !self.resting {
            machine.pin();
            (self.resting, self.applied) = (true, machine.applied().index);
        }
    }

    fn go_on(&mut self) {
        if std::mem::take(&mut self.resting) {
            self.rests += 1;
            self.disk.store.machine.unpin();
        }
    }

    fn apply(&mut self, op: &command::Op) {
        drop(self.disk.store.apply(op.clone()));
    }

    /// Writes all that was applied, and sweeps for so many slices.
    fn write(&mut self, slices: usize) {
        self.disk.seal();
        while !self.disk.sealed.is_empty() {
            self.disk.written();
        }
        for _ in 0..slices {
            self.disk.sweep();
            self.disk.written();
        }
    }

    fn crash(&mut self) {
        self.go_on();
        self.disk.reopen();
        self.rests += 1;
    }
}

#[derive(Clone, Debug)]
enum Move {
    Apply(command::Op),
    Write(usize, usize),
    /// A sender's sweep goes on.
    GoOn(usize),
    Crash(usize),
    /// A piece of so many bytes from this one.
    Ask(usize, usize),
}

fn some_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        16 => some_command().prop_map(Move::Apply),
        6 => (0..2usize, 0..9usize).prop_map(|(sender, slices)| Move::Write(sender, slices)),
        2 => (0..2usize).prop_map(Move::GoOn),
        1 => (0..2usize).prop_map(Move::Crash),
        8 => (0..2usize, 0..400usize).prop_map(|(sender, bytes)| Move::Ask(sender, bytes)),
    ]
}

/// The state of the one is the other's, now and after all that may be swept is.
fn compare(taken: &MemoryEngine, sender: &Sender, model: &Model) -> Result<(), TestCaseError> {
    let of = &sender.disk.store.machine;
    let mut disk = Lagging { store: Store::open(taken.clone()), sealed: Vec::new() };
    let oldest = model.oldest().max(2);
    for sweep in [false, true] {
        if sweep {
            disk.sweep_all();
            disk.reopen();
        }
        let machine = &disk.store.machine;
        prop_assert_eq!((machine.applied(), machine.digest()), (of.applied(), of.digest()));
        prop_assert_eq!(machine.members(), of.members());
        prop_assert_eq!(machine.view().alarms(), of.view().alarms());
        prop_assert_eq!(leases(machine), model.shown_leases());
        prop_assert_eq!(everything(machine), model.everything());
        prop_assert_eq!(told(machine, model, oldest, 100), model.changes(oldest));
    }
    for revision in model.oldest() as i64..=of.view().revision().0 {
        let hash = |machine: &Machine| machine.view().hash(Revision(revision));
        prop_assert_eq!(hash(&disk.store.machine), hash(of));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..ProptestConfig::default() })]

    /// From two members that write, sweep and crash meanwhile, in pieces of any size.
    #[test]
    fn what_is_taken_over_is_the_senders_state(moves in vec(some_move(), 1..120), last in 0..2usize) {
        let (mut senders, mut model) = ([Sender::new(0), Sender::new(1)], Model::new());
        let mut taker = Taker::new();
        let mut at = Index(0);
        for step in moves {
            match step {
                Move::Apply(op) => {
                    at = at.next();
                    drop(model.apply(at, &op));
                    senders.iter_mut().for_each(|sender| sender.apply(&op));
                }
                Move::Write(sender, slices) => senders[sender].write(slices),
                Move::GoOn(sender) => senders[sender].go_on(),
                Move::Crash(sender) => senders[sender].crash(),
                Move::Ask(sender, bytes) => drop(taker.ask(&mut senders[sender], bytes)),
            }
        }
        let sender = &mut senders[last];
        noop(&mut sender.disk.store.machine);
        sender.write(0);
        let mut asked = 0;
        while !taker.ask(sender, 300) {
            asked += 1;
            prop_assert!(asked < 1000, "it comes to an end");
        }
        compare(&taker.engine, sender, &model)?;
    }
}

/// A put, or with an empty value the deletion, of a key by itself.
fn write(key: &str, value: &str) -> command::Op {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match value {
        "" => command::Op::DeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }),
        value => command::Op::Put(PutRequest { key, value: value.to_string().into(), ..Default::default() }),
    }
}

/// Two members that write every entry to a record of its own.
fn two(ops: &[command::Op]) -> [Sender; 2] {
    let mut senders = [Sender::new(0), Sender::new(1)];
    for op in ops {
        for sender in &mut senders {
            sender.apply(op);
            sender.write(0);
        }
    }
    senders
}

fn each(senders: &mut [Sender; 2], ops: &[command::Op]) {
    for op in ops {
        for sender in senders.iter_mut() {
            sender.apply(op);
            sender.write(0);
        }
    }
}

#[test]
fn a_sender_that_swept_more_begins_anew_and_one_that_did_not_goes_on() {
    for sweeps in [false, true] {
        let mut senders = two(&[write("a", "1"), write("b", "1"), write("c", "1"), write("a", "")]);
        let mut taker = Taker::new();
        assert!(!taker.ask(&mut senders[0], 1), "the first record of four");
        each(&mut senders, &[write("d", "1"), command::Op::Compact(Compact { revision: 6 })]);
        if sweeps {
            // It says no more that the key is gone.
            senders[1].write(9);
        }
        while !taker.ask(&mut senders[1], 1) {}
        assert_eq!(taker.begun, 1 + usize::from(sweeps));
        let taken = Store::open(taker.engine.clone());
        assert_eq!(taken.machine.view().range(&all_keys()).unwrap().kvs.len(), 3, "b, c and d");
    }
}

fn all_keys() -> RangeRequest {
    let (key, range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
    RangeRequest { key, range_end, ..Default::default() }
}

#[test]
fn a_lease_that_ended_behind_the_mark_is_not_back() {
    let grant = |id| command::Op::GrantLease(GrantLease { id, ttl: 60 });
    let mut senders = two(&[grant(7), write("a", "1"), write("a", "2"), command::Op::Compact(Compact { revision: 3 })]);
    senders[0].write(9);
    let mut taker = Taker::new();
    assert!(!taker.ask(&mut senders[0], 1));
    // No revision is made: the mark is not behind it.
    each(&mut senders, &[command::Op::RevokeLease(RevokeLease { id: 7, term: 0, known: 0 })]);
    senders[1].write(9);
    assert_eq!(senders.each_ref().map(|sender| sender.disk.store.machine.swept()), [Revision(3); 2]);
    while !taker.ask(&mut senders[1], 1) {}
    assert_eq!(taker.begun, 1);
    let taken = Store::open(taker.engine.clone());
    assert_eq!(taken.machine.view().leases(), []);
    // It goes when the mark is.
    each(&mut senders, &[write("a", "3"), write("a", "4"), command::Op::Compact(Compact { revision: 5 })]);
    let records = |sender: &Sender| sender.disk.store.engine.len();
    let before = records(&senders[1]);
    senders[1].write(9);
    assert_eq!(records(&senders[1]), before, "it rests");
    senders[1].go_on();
    senders[1].write(9);
    assert!(records(&senders[1]) < before, "{before} before");
}

#[test]
fn a_prefix_that_lacks_what_was_replaced_later_is_no_state() {
    let mut senders = two(&[write("a", "1"), write("b", "1")]);
    // The one is ahead, and its record of the first value has been swept.
    for op in [write("a", "2"), command::Op::Compact(Compact { revision: 4 })] {
        senders[0].apply(&op);
        senders[0].write(0);
    }
    senders[0].write(9);
    let mut taker = Taker::new();
    assert!(!taker.ask(&mut senders[0], 1), "a husk");
    assert!(taker.prefix.reached().index >= Index(1));
    assert!(!taker.ask(&mut senders[1], 9999), "the other one has not applied what replaced it");
    assert_eq!(taker.prefix.reached().index, Index(2));
    for op in [write("a", "2"), command::Op::Compact(Compact { revision: 4 })] {
        senders[1].apply(&op);
        senders[1].write(0);
    }
    while !taker.ask(&mut senders[1], 9999) {}
    let taken = Store::open(taker.engine.clone());
    assert_eq!(everything(&taken.machine), everything(&senders[0].disk.store.machine));
}

#[test]
fn a_record_is_cut_where_the_prefix_ends() {
    let ops: Vec<command::Op> = (0..9).map(|n| write(&format!("k{}", n % 4), &n.to_string())).collect();
    let mut senders = [Sender::new(0), Sender::new(1)];
    for (at, op) in ops.iter().enumerate() {
        senders.iter_mut().for_each(|sender| sender.apply(op));
        (at % 2 == 0).then(|| senders[0].write(0));
        (at % 5 == 4).then(|| senders[1].write(0));
    }
    senders.iter_mut().for_each(|sender| sender.write(0));
    let mut taker = Taker::new();
    for turn in 0.. {
        if taker.ask(&mut senders[turn % 2], 1) {
            break;
        }
    }
    assert_eq!(taker.begun, 1);
    let taken = Store::open(taker.engine.clone());
    assert_eq!(taken.machine.digest(), senders[0].disk.store.machine.digest());
    assert_eq!(everything(&taken.machine), everything(&senders[0].disk.store.machine));
    // The second one gave its second record without the entry that the first one had given: there is one more.
    assert!(taker.engine.len() > senders[1].disk.store.engine.len());
}

#[test]
fn what_is_not_what_was_written_or_does_not_follow_is_not_taken() {
    let mut senders = two(&[write("a", "1"), write("b", "1"), write("a", "2"), write("c", "1")]);
    each(&mut senders, &[command::Op::Compact(Compact { revision: 4 })]);
    senders[0].write(9);
    for sender in &senders {
        let store = &sender.disk.store;
        let records = read_records(&store.engine, Index(1), Index(6), 9999).unwrap();
        assert!(records.len() >= 4);
        let mut prefix = Prefix::default();
        let mut ops = Vec::new();
        assert!(matches!(prefix.take(records[1].0, &records[1].1, &mut ops), Err(Misfit::Rot(_))), "a gap");
        assert!(matches!(prefix.take(Index(1), &records[1].1, &mut ops), Err(Misfit::Rot(_))), "of another place");
        for (first, record) in &records {
            for byte in 0..record.len() {
                let mut rotten = record.to_vec();
                rotten[byte] ^= 0x20;
                let taken = prefix.clone().take(*first, &rotten.into(), &mut Vec::new());
                assert!(matches!(taken, Err(Misfit::Rot(_))), "byte {byte} of {first}: {taken:?}");
            }
            assert_eq!(prefix.take(*first, record, &mut ops), Ok(()));
            let (before, reached) = (ops.len(), prefix.reached());
            assert_eq!(prefix.take(*first, record, &mut ops), Ok(()));
            assert_eq!((ops.len(), prefix.reached()), (before, reached), "passed over the second time");
        }
        assert_eq!(prefix.reached(), store.machine.applied());
    }
    // An older state's record does not follow a later one's.
    let other = two(&[write("z", "1"), write("z", "2")]);
    let of = |sender: &Sender| read_records(&sender.disk.store.engine, Index(1), Index(3), 9999).unwrap();
    let mut prefix = Prefix::default();
    assert_eq!(prefix.take(Index(1), &of(&other[0])[0].1, &mut Vec::new()), Ok(()));
    assert!(matches!(prefix.take(Index(2), &of(&senders[1])[1].1, &mut Vec::new()), Err(Misfit::Rot(_))));
}

#[test]
fn the_record_that_holds_an_entry_is_found_however_long_it_is() {
    let mut store = Store::new();
    for _ in 0..1000 {
        noop(&mut store.machine);
    }
    store.write();
    store.apply(write("a", "1")).unwrap();
    store.write();
    let first_of = |from, below| read_records(&store.engine, Index(from), Index(below), 1).unwrap();
    let firsts: Vec<Index> = read_records(&store.engine, Index(1), Index(1002), usize::MAX)
        .unwrap()
        .into_iter()
        .map(|(first, _)| first)
        .collect();
    for from in [1, 2, 63, 64, 65, 500, 1000, 1001] {
        let holder = firsts.iter().rev().find(|first| first.0 <= from).unwrap();
        assert_eq!(first_of(from, 1002).iter().map(|(first, _)| *first).collect::<Vec<_>>(), [*holder]);
    }
    assert_eq!(first_of(1002, 1002), []);
    assert_eq!(read_records(&MemoryEngine::new(), Index(70), Index(99), 1).unwrap(), []);
}
