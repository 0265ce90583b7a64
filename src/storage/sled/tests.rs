//! sled under the durability law: what it keeps, what it refuses, and what is noticed.

use super::*;
use crate::storage::Op;
use crate::storage::key::{Family, delete_ops, put_ops, scan_values, slots};

const CACHE: u64 = 8 << 20;

fn open(dir: &Path) -> Result<SledEngine, Unopenable> {
    SledEngine::open(dir, Options::new(CACHE))
}

fn log_key(first: u64) -> Bytes {
    Key::Log { first: crate::ids::Index(first), chunk: 0 }.encode()
}

#[test]
fn it_keeps_the_engines_contract() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir.path().join("db")).unwrap();
    for first in [3, 1, 2] {
        engine.put(&log_key(first), &first.to_le_bytes()).unwrap();
    }
    engine.delete(&log_key(2)).unwrap();
    engine.delete(&log_key(9)).unwrap();
    engine.sync().unwrap();
    assert_eq!(engine.get(&log_key(3)).unwrap().as_deref(), Some(&3u64.to_le_bytes()[..]));
    assert_eq!(engine.get(&log_key(2)).unwrap(), None);
    let mut seen = Vec::new();
    engine
        .scan(&log_key(0), &log_key(u64::MAX), &mut |key, _| {
            seen.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, [log_key(1), log_key(3)]);
    assert!(engine.size_on_disk() > 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_sync_after_a_write_is_a_barrier() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let before = barriers();
    for first in 1..=10 {
        engine.put(&log_key(first), b"x").unwrap();
        engine.sync().unwrap();
    }
    assert!(barriers() >= before + 10, "{} barriers for 10 syncs", barriers() - before);
}

#[test]
fn the_largest_values_make_no_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let value = vec![7; MAX_VALUE + SLOT_HEADER];
    for first in 1..=100 {
        engine.put(&log_key(first), &value).unwrap();
    }
    engine.sync().unwrap();
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_half_written_snapshot_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    engine.put(&log_key(1), b"x").unwrap();
    engine.sync().unwrap();
    drop(engine);
    let left = dir.path().join("snap.00000000000000FF.generating");
    fs::write(&left, b"half").unwrap();
    assert_eq!(open(dir.path()).unwrap().get(&log_key(1)).unwrap().as_deref(), Some(&b"x"[..]));
    assert!(!left.exists());
}

#[test]
fn a_rotten_snapshot_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    for life in 1..=3 {
        open(dir.path()).unwrap().put(&log_key(life), b"x").unwrap();
    }
    let found = snapshots(dir.path()).unwrap();
    assert!(!found.is_empty());
    for path in &found {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(path, bytes).unwrap();
    }
    let engine = open(dir.path()).unwrap();
    for life in 1..=3 {
        assert_eq!(engine.get(&log_key(life)).unwrap().as_deref(), Some(&b"x"[..]), "{life}");
    }
    let aside = fs::read_dir(dir.path()).unwrap();
    assert!(aside.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("rotten-snap.")));
}

#[test]
fn an_open_that_panics_or_hangs_is_a_fault() {
    let panicked = on_own_thread(OPEN_DEADLINE, || -> sled::Result<()> { panic!("page {}", 7) });
    assert!(matches!(panicked, Err(Failed::Panicked(why)) if why == "page 7"));
    assert!(matches!(guarded::<()>(|| panic!("page 8")), Err(Failed::Panicked(why)) if why == "page 8"));
    assert!(!is_guarded());
    let (never, wait) = mpsc::channel::<()>();
    let late = on_own_thread(Duration::from_millis(1), move || {
        let _ = wait.recv();
        Ok(())
    });
    assert!(matches!(late, Err(Failed::Late)));
    drop(never);
    // What may be sound is not rot: nobody sets it aside.
    let rotten = [Failed::Panicked(String::new()), Failed::Corrupt(String::new())];
    assert!(rotten.into_iter().all(|failed| matches!(failed.of("it"), Unopenable::Rotten(_))));
    let unknown = [Failed::Late, Failed::Other("no permission".into())];
    assert!(unknown.into_iter().all(|failed| matches!(failed.of("it"), Unopenable::Fault(_))));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// A database of three lives that wrote 1,000 values each, and a fourth one that only looked: sled's snapshot speaks of all
/// pages, and none is read before it is asked for.
fn lived_in(dir: &Path) {
    for life in 1..=3 {
        let engine = SledEngine::open(dir, SMALL).unwrap();
        (1..=1000).for_each(|first| engine.put(&log_key(first), &value(first, life)).unwrap());
    }
    drop(SledEngine::open(dir, SMALL).unwrap());
}

const SMALL: Options = Options { segment_size: 512 << 10, cache_bytes: CACHE };

fn value(first: u64, life: u8) -> Vec<u8> {
    [&first.to_le_bytes()[..], &vec![life; first as usize % 900]].concat()
}

/// Reads all there is.
fn read(dir: &Path) -> Result<u64, Unopenable> {
    let engine = SledEngine::open(dir, SMALL)?;
    let mut found = 0;
    engine.scan(&log_key(0), &log_key(u64::MAX), &mut |_, read| {
        found += 1;
        assert!(read[..] == value(found, 3), "{found}");
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Wherever a bit flips, a reader of all of it gets what was written, or a fault.
#[test]
fn rot_that_sled_finds_or_panics_of_is_a_fault() {
    const FLIPS: usize = 60;
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    lived_in(&whole);
    let sound = fs::read(whole.join("db")).unwrap();
    let written: Vec<usize> = (0..sound.len()).filter(|at| sound[*at] != 0).collect();
    let (mut unopenable, mut unreadable) = (0, 0);
    for flip in 0..FLIPS {
        let rotten = dir.path().join(flip.to_string());
        copy(&whole, &rotten);
        let mut bytes = sound.clone();
        bytes[written[written.len() * flip / FLIPS]] ^= 1 << (flip % 8);
        fs::write(rotten.join("db"), bytes).unwrap();
        match read(&rotten) {
            Ok(found) => assert_eq!(found, 1000),
            Err(Unopenable::Rotten(_)) => unopenable += 1,
            Err(Unopenable::Fault(fault)) => unreadable += u32::from(fault.why.contains("its files are damaged")),
        }
        fs::remove_dir_all(rotten).unwrap();
    }
    assert!(unopenable > 0 && unreadable > 0, "{unopenable} and {unreadable} of {FLIPS}");
}

#[test]
fn a_log_that_ends_before_its_snapshot_is_rotten() {
    let dir = tempfile::tempdir().unwrap();
    lived_in(dir.path());
    assert_eq!(read(dir.path()), Ok(1000));
    let db = dir.path().join("db");
    let mut bytes = fs::read(&db).unwrap();
    bytes[SMALL.segment_size..].fill(0);
    fs::write(&db, bytes).unwrap();
    for start in 1..=2 {
        let outcome = read(dir.path());
        assert!(matches!(outcome, Err(Unopenable::Rotten(_))), "at start {start}: {outcome:?}");
    }
}

#[test]
fn rotten_settings_are_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().put(&log_key(1), b"x").unwrap();
    let conf = dir.path().join("conf");
    let sound = fs::read(&conf).unwrap();
    for byte in 0..sound.len() {
        let mut rotten = sound.clone();
        rotten[byte] ^= 4;
        fs::write(&conf, rotten).unwrap();
        assert_eq!(open(dir.path()).unwrap().get(&log_key(1)).unwrap().as_deref(), Some(&b"x"[..]), "{byte}");
        assert!(fs::read(&conf).unwrap() == sound);
    }
    assert!(snapshots(dir.path()).unwrap().len() == 1, "it is the settings alone");
}

#[test]
fn another_segment_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let refused = SledEngine::open(dir.path(), Options { segment_size: 1 << 20, cache_bytes: CACHE }).unwrap_err();
    assert!(matches!(&refused, Unopenable::Fault(fault) if fault.why.contains("8388608")), "{refused}");
}

#[test]
fn space_is_reclaimed_without_sleds_flusher() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SledEngine::open(dir.path(), Options { segment_size: 512 << 10, cache_bytes: CACHE }).unwrap();
    let (live, total, value) = (500_u64, 40_000_u64, [5; 4096]);
    for first in 0..total {
        engine.put(&log_key(first), &value).unwrap();
        if first >= live {
            engine.delete(&log_key(first - live)).unwrap();
        }
        if first % 64 == 0 {
            engine.sync().unwrap();
        }
    }
    // 2 MB live. The file is about 10 MB, and jumps when a starved thread holds freed segments back; never reclaiming
    // would take several times of all that was put, since sled rewrites leaves.
    let size = engine.size_on_disk();
    assert!(size < total * value.len() as u64, "{size} bytes on disk");
}

/// How often each of sled's threads was switched to.
#[cfg(target_os = "linux")]
fn switches() -> std::collections::BTreeMap<String, u64> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let of_sled = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("sled-io-"));
    let count = |task: PathBuf| {
        let status = fs::read_to_string(task.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        (task.to_string_lossy().into_owned(), line.trim().parse().unwrap())
    };
    tasks.filter(of_sled).map(count).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn most_of_sleds_threads_are_not_woken_by_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir.path().join("db")).unwrap();
    let sync = |times: u64| {
        for n in 0..times {
            engine.put(&log_key(1), &n.to_le_bytes()).unwrap();
            engine.sync().unwrap();
        }
    };
    // Until the last of them rests.
    let resting = loop {
        let before = switches();
        sync(64);
        let after = switches();
        let resting = after.iter().filter(|(thread, count)| before.get(*thread) == Some(count)).count();
        if resting >= 4 || after.values().sum::<u64>() > 100_000 {
            break resting;
        }
    };
    assert_eq!((resting, switches().len()), (4, 7));
    assert!(!dir.path().join("db.resting").exists());
}

/// How much sled has written in all lives of a database: what its newest snapshot says of how far its log goes.
fn written(dir: &Path) -> u64 {
    drop(SledEngine::open(dir, SMALL).unwrap());
    let lsn = |path: &PathBuf| u64::from_str_radix(path.extension()?.to_str()?, 16).ok();
    snapshots(dir).unwrap().iter().filter_map(lsn).max().unwrap()
}

fn records(engine: &SledEngine) -> Vec<(u64, Bytes)> {
    let mut found = Vec::new();
    let orphans = scan_values(engine, Family::Log, crate::ids::Index(0), &mut |first, _, value| {
        found.push((first.0, value));
        ControlFlow::Continue(())
    });
    assert_eq!(orphans, Ok(Vec::new()), "a divider is seen");
    found
}

#[test]
fn a_large_record_is_written_little_more_than_once() {
    const KEPT: u64 = 100;
    for step in [1, 3, 64] {
        let dir = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(dir.path(), SMALL).unwrap();
        let (count, value) = (1000, [7; 6000]);
        for n in 1..=count {
            engine.put(&log_key(n * step), &value).unwrap();
            if n > KEPT {
                engine.delete(&log_key((n - KEPT) * step)).unwrap();
            }
        }
        drop(engine);
        let (written, put) = (written(dir.path()), count * value.len() as u64);
        assert!(written < put * 2, "{written} bytes for {put}, each {step} indexes");
    }
}

#[test]
fn dividers_are_not_seen_and_go_with_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let key = |first: u64| move |chunk| Key::Log { first: crate::ids::Index(first), chunk }.encode();
    let value = |first: u64| vec![first as u8; 1500 + (first as usize % 3) * 2 * MAX_VALUE];
    let run = |engine: &SledEngine, ops: &mut Vec<Op>| {
        for op in ops.drain(..) {
            match op {
                Op::Put(key, value) => engine.put(&key, &value).unwrap(),
                Op::Delete(key) => engine.delete(&key).unwrap(),
            }
        }
    };
    let engine = open(dir.path()).unwrap();
    let (mut ops, mut held) = (Vec::new(), std::collections::BTreeMap::new());
    // As logs do: further, back a little, on from there by another step.
    for first in (1..60).chain((40..200).step_by(5)).chain(190..240) {
        let above: Vec<u64> = held.range(first..).map(|(first, _)| *first).rev().collect();
        for above in above {
            let old: Vec<u8> = held.remove(&above).unwrap();
            delete_ops(key(above), slots(old.len()), &mut ops);
        }
        put_ops(key(first), &value(first), &mut ops);
        held.insert(first, value(first));
        run(&engine, &mut ops);
    }
    let held: Vec<(u64, Bytes)> = held.into_iter().map(|(first, value)| (first, value.into())).collect();
    assert_eq!(records(&engine), held);
    let slots_held =
        |held: &[(u64, Bytes)]| held.iter().map(|(_, value)| usize::from(slots(value.len()))).sum::<usize>();
    assert!(engine.db.len() > slots_held(&held) + 50, "there are no dividers");
    drop(engine);
    let engine = open(dir.path()).unwrap();
    assert_eq!(records(&engine), held);
    for (first, value) in &held {
        delete_ops(key(*first), slots(value.len()), &mut ops);
    }
    run(&engine, &mut ops);
    assert_eq!(records(&engine), []);
    // The probe, and what is still ahead or waits for deletions that follow.
    let left = engine.db.len();
    assert!(left <= 1 + 6 * 9 + 2 * 9, "{left} keys are left");
}
