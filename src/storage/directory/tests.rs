//! What the module's essay promises, as tests.

use super::*;
use crate::storage::sled::SledEngine;
use tempfile::TempDir;

const OPTIONS: Options = Options { segment_size: 1 << 20, cache_bytes: 1 << 20 };

fn expected() -> Expected {
    let member = |id, name: &str| InitialMember {
        id: MemberId(id),
        name: name.into(),
        peer_urls: vec![format!("http://{name}:2380"), format!("http://{name}.local:2380")],
    };
    Expected { cluster: ClusterId(0xc1), member: MemberId(1), members: vec![member(1, "n1"), member(2, "n \"2\"\n")] }
}

fn open(path: &Path) -> Result<Directory, Refusal> {
    Directory::open(path, Some(&expected()), DiskId(0xd15c))
}

/// A directory in which a member has begun and stopped.
fn lived_in() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().databases(OPTIONS, OPTIONS).unwrap();
    dir
}

fn listing(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_fresh_directory_is_made_and_found_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    let mut made = open(&path).unwrap();
    assert!(made.is_fresh());
    made.databases(OPTIONS, OPTIONS).unwrap();
    assert!(!made.is_fresh());
    let meta = made.meta().clone();
    assert_eq!((meta.disk, &meta.members), (DiskId(0xd15c), &expected().members));
    drop(made);
    for mode in [&path, &path.join(RAFT), &path.join(STATE)].map(|p| fs::metadata(p).unwrap().permissions().mode()) {
        assert_eq!(mode & 0o777, 0o700);
    }
    assert_eq!(listing(&path), [LOCK, META, RAFT, STATE]);

    // Later flags, and later dice, change nothing.
    let later = Expected { members: Vec::new(), ..expected() };
    let found = Directory::open(&path, Some(&later), DiskId(7)).unwrap();
    assert_eq!((found.meta(), found.is_fresh()), (&meta, false));
    drop(found);
    assert_eq!(Directory::open(&path, None, DiskId(7)).unwrap().meta(), &meta);
}

#[test]
fn a_half_made_directory_is_made_again() {
    type Crash = fn(&Path);
    let cases: [(&str, Crash); 5] = [
        ("before anything", |path| fs::remove_dir_all(path).unwrap()),
        ("a volume that mkfs made", |path| fs::create_dir(path.join("lost+found")).unwrap()),
        ("after the lock", |path| fs::write(path.join(LOCK), "1").unwrap()),
        ("after a directory", |path| fs::create_dir(path.join(RAFT)).unwrap()),
        ("in the middle of META", |path| {
            fs::create_dir(path.join(RAFT)).unwrap();
            fs::create_dir(path.join(STATE)).unwrap();
            fs::write(path.join(META_ASIDE), "quorate data dir").unwrap();
        }),
    ];
    for (case, crash) in cases {
        let dir = tempfile::tempdir().unwrap();
        crash(dir.path());
        let mut made = open(dir.path()).unwrap_or_else(|refusal| panic!("{case}: {refusal}"));
        made.databases(OPTIONS, OPTIONS).unwrap_or_else(|refusal| panic!("{case}: {refusal}"));
        assert!(!dir.path().join(META_ASIDE).exists(), "{case}");
    }

    // META is there, the databases were not yet handed out: nothing was promised.
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    drop(SledEngine::open(&dir.path().join(RAFT), OPTIONS).unwrap());
    let mut again = Directory::open(dir.path(), Some(&expected()), DiskId(7)).unwrap();
    assert_eq!(again.meta().disk, DiskId(0xd15c));
    again.databases(OPTIONS, OPTIONS).unwrap();
}

#[test]
fn a_lost_state_is_no_refusal() {
    let dir = lived_in();
    fs::remove_dir_all(dir.path().join(STATE)).unwrap();
    open(dir.path()).unwrap().databases(OPTIONS, OPTIONS).unwrap();
}

/// Opens directory and databases; what it refuses, it must leave as it was.
fn refusal(case: &str, path: &Path, expected: Option<&Expected>) -> Refusal {
    let before = path.is_dir().then(|| (listing(path), fs::read(path.join(META)).ok()));
    let opened = Directory::open(path, expected, DiskId(9));
    let refusal = match opened.and_then(|mut directory| directory.databases(OPTIONS, OPTIONS)) {
        Err(refusal) => refusal,
        Ok(_) => panic!("{case}: opened"),
    };
    assert_eq!(path.is_dir().then(|| (listing(path), fs::read(path.join(META)).ok())), before, "{case}");
    refusal
}

#[test]
fn each_refusal_says_what_why_and_the_way_out() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, [&str; 2]); 14] = [
        (
            "a file",
            |path| {
                fs::remove_dir_all(path).unwrap();
                fs::write(path, "x").unwrap();
            },
            ["is not a directory", "--data-dir"],
        ),
        (
            "etcd's",
            |path| {
                fs::remove_dir_all(path).unwrap();
                fs::create_dir_all(path.join("member/wal")).unwrap();
            },
            ["looks like etcd's", "empty directory"],
        ),
        (
            "foreign files",
            |path| {
                fs::remove_dir_all(path).unwrap();
                fs::create_dir(path).unwrap();
                fs::write(path.join("photo.jpg"), "x").unwrap();
            },
            ["\"photo.jpg\"", "empty directory"],
        ),
        ("empty META", |path| fs::write(path.join(META), "").unwrap(), ["cut off", "backup"]),
        (
            "half a META",
            |path| {
                let text = fs::read_to_string(path.join(META)).unwrap();
                fs::write(path.join(META), &text[..text.len() - 10]).unwrap();
            },
            ["checksum is wrong", "backup"],
        ),
        (
            "a flipped bit in META",
            |path| {
                let text = fs::read_to_string(path.join(META)).unwrap();
                fs::write(path.join(META), text.replace("\"c1\"", "\"c3\"")).unwrap();
            },
            ["checksum is wrong", "backup"],
        ),
        (
            "another first line",
            |path| {
                let text = fs::read_to_string(path.join(META)).unwrap();
                fs::write(path.join(META), text.replace("quorate", "quarante")).unwrap();
            },
            ["first line", "backup"],
        ),
        ("no text", |path| fs::write(path.join(META), b"\xff\xfe\n").unwrap(), ["no text", "backup"]),
        (
            "a newer format",
            |path| {
                let body = "{}\n";
                let sum = checksum(FORMAT + 1, body.as_bytes());
                let text = format!("quorate data directory, format {}, crc32c {sum:08x}\n{body}", FORMAT + 1);
                fs::write(path.join(META), text).unwrap();
            },
            ["a newer Quorate", "that version or a later"],
        ),
        ("no META", |path| fs::remove_file(path.join(META)).unwrap(), ["META is gone", "backup"]),
        ("no raft", |path| fs::remove_dir_all(path.join(RAFT)).unwrap(), ["forgotten its votes", "under a new id"]),
        (
            "an emptied raft",
            |path| {
                fs::remove_dir_all(path.join(RAFT)).unwrap();
                fs::create_dir(path.join(RAFT)).unwrap();
            },
            ["forgotten its votes", "under a new id"],
        ),
        (
            "a new database as raft",
            |path| {
                fs::remove_dir_all(path.join(RAFT)).unwrap();
                drop(SledEngine::open(&path.join(RAFT), OPTIONS).unwrap());
            },
            ["forgotten its votes", "under a new id"],
        ),
        (
            "another directory's raft",
            |path| {
                let other = tempfile::tempdir().unwrap();
                Directory::open(other.path(), Some(&expected()), DiskId(0xbad))
                    .unwrap()
                    .databases(OPTIONS, OPTIONS)
                    .unwrap();
                fs::remove_dir_all(path.join(RAFT)).unwrap();
                copy(&other.path().join(RAFT), &path.join(RAFT));
            },
            ["disk bad, META says d15c", "belongs here"],
        ),
    ];
    for (case, damage, words) in cases {
        let dir = lived_in();
        damage(dir.path());
        let sentence = refusal(case, dir.path(), Some(&expected())).to_string();
        for word in words.into_iter().chain([dir.path().to_str().unwrap()]) {
            assert!(sentence.contains(word), "{case}: no {word:?} in: {sentence}");
        }
    }
}

#[test]
fn another_identity_is_refused() {
    let dir = lived_in();
    let other = Expected { cluster: ClusterId(0xc2), ..expected() };
    let sentence = refusal("cluster", dir.path(), Some(&other)).to_string();
    assert!(sentence.contains("cluster c1") && sentence.contains("cluster c2"), "{sentence}");
    let other = Expected { member: MemberId(2), ..expected() };
    let sentence = refusal("member", dir.path(), Some(&other)).to_string();
    assert!(sentence.contains("member 1") && sentence.contains("member 2"), "{sentence}");
}

#[test]
fn nothing_there_and_nobody_expected_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    for path in [parent.path(), &parent.path().join("absent")] {
        assert!(matches!(refusal("absent", path, None), Refusal::Missing { .. }));
    }
}

#[test]
fn a_locked_directory_names_its_holder() {
    let dir = lived_in();
    let held = open(dir.path()).unwrap();
    let sentence = refusal("locked", dir.path(), Some(&expected())).to_string();
    let pid = std::process::id();
    assert!(sentence.contains(&format!("by process {pid}")) && sentence.contains(&format!("kill {pid}")), "{sentence}");
    drop(held);
    open(dir.path()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn put(engine: &dyn Engine, value: &'static [u8]) {
    let mut ops = Vec::new();
    put_ops(|_| Key::AckedMark.encode(), value, &mut ops);
    let [Op::Put(key, value)] = &ops[..] else { panic!("{ops:?}") };
    engine.put(key, value).unwrap();
    engine.sync().unwrap();
}

/// What [`put`] put into the current state of a member that begins its next life.
fn found(path: &Path) -> Option<Vec<u8>> {
    let state = open(path).unwrap().databases(OPTIONS, OPTIONS).unwrap().state;
    get_value(&*state, |_| Key::AckedMark.encode()).unwrap().map(|value| value.to_vec())
}

/// A life in which a state with this in it is staged, and perhaps adopted.
fn stage(path: &Path, value: &'static [u8], adopt: bool) {
    let directory = open(path).unwrap();
    let mut staging = directory.staging(OPTIONS);
    for value in [b"nothing", value] {
        staging.begin().unwrap();
        let mut ops = Vec::new();
        put_ops(|_| Key::AckedMark.encode(), value, &mut ops);
        staging.write(&ops).unwrap();
    }
    if adopt {
        staging.adopt(false).unwrap();
    }
}

#[test]
fn an_adopted_state_takes_the_place_of_the_former_one() {
    let dir = lived_in();
    put(&*open(dir.path()).unwrap().databases(OPTIONS, OPTIONS).unwrap().state, b"zero");
    stage(dir.path(), b"half", false);
    assert_eq!(listing(dir.path()), [LOCK, META, RAFT, "staging", STATE]);
    assert_eq!(found(dir.path()).as_deref(), Some(&b"zero"[..]), "what is only staged is not the state");
    assert_eq!(listing(dir.path()), [LOCK, META, RAFT, STATE], "and goes");
    for (value, now) in [(b"one.", "state-1"), (b"two.", "state-2")] {
        stage(dir.path(), value, true);
        assert_eq!(found(dir.path()).as_deref(), Some(&value[..]));
        assert_eq!(listing(dir.path()), ["CURRENT", LOCK, META, RAFT, now]);
    }
}

#[test]
fn a_current_that_says_nothing_is_answered_with_the_oldest_state() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 5] = [
        ("a flipped bit", |path| {
            let mut text = fs::read(path).unwrap();
            let last = text.len() - 2;
            text[last] ^= 1;
            fs::write(path, text).unwrap();
        }),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("no text", |path| fs::write(path, b"\xff\n").unwrap()),
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("names what is not there", |path| {
            let body = "state-9\n";
            fs::write(path, format!("quorate state directory, crc32c {:08x}\n{body}", crc(body.as_bytes()))).unwrap();
        }),
    ];
    for (case, damage) in cases {
        // A member that runs on its first state, and on one that it adopted.
        let dir = lived_in();
        stage(dir.path(), b"one", true);
        assert!(found(dir.path()).is_some());
        damage(&dir.path().join("CURRENT"));
        assert_eq!(found(dir.path()).as_deref(), Some(&b"one"[..]), "{case}");

        // The moment after an adoption: both are there.
        let dir = lived_in();
        put(&*open(dir.path()).unwrap().databases(OPTIONS, OPTIONS).unwrap().state, b"zero");
        stage(dir.path(), b"one", true);
        damage(&dir.path().join("CURRENT"));
        assert_eq!(found(dir.path()).as_deref(), Some(&b"zero"[..]), "{case}");
        assert_eq!(found(dir.path()).as_deref(), Some(&b"zero"[..]), "{case}, again");
    }
}

#[test]
fn a_state_that_cannot_be_read_is_set_aside_and_kept() {
    let dir = lived_in();
    for aside in ["state.rotten", "state.rotten-2"] {
        put(&*open(dir.path()).unwrap().databases(OPTIONS, OPTIONS).unwrap().state, b"old");
        let mut directory = open(dir.path()).unwrap();
        assert_eq!(directory.set_state_aside().unwrap(), dir.path().join(aside));
        directory.databases(OPTIONS, OPTIONS).unwrap();
        drop(directory);
        assert_eq!(found(dir.path()), None, "an empty one begins");
        assert!(dir.path().join(aside).join("db").exists());
    }
    stage(dir.path(), b"new", true);
    assert_eq!(found(dir.path()).as_deref(), Some(&b"new"[..]));
    assert_eq!(listing(dir.path()), ["CURRENT", LOCK, META, RAFT, "state-1", "state.rotten", "state.rotten-2"]);
}

#[test]
fn a_former_state_that_is_evidence_is_kept() {
    let dir = lived_in();
    put(&*open(dir.path()).unwrap().databases(OPTIONS, OPTIONS).unwrap().state, b"wrong");
    for (aside, now) in [("state.rotten", "state-1"), ("state-1.rotten", "state-2")] {
        let mut staging = open(dir.path()).unwrap().staging(OPTIONS);
        staging.begin().unwrap();
        staging.adopt(true).unwrap();
        assert_eq!(found(dir.path()), None, "an empty one takes its place");
        assert!(dir.path().join(aside).join("db").exists() && dir.path().join(now).exists());
    }
    stage(dir.path(), b"new", true);
    assert_eq!(found(dir.path()).as_deref(), Some(&b"new"[..]));
    assert_eq!(listing(dir.path()), ["CURRENT", LOCK, META, RAFT, "state-1.rotten", "state-3", "state.rotten"]);
}

#[test]
fn rot_of_the_state_is_told_apart() {
    for name in [STATE, RAFT] {
        let dir = lived_in();
        let engine = SledEngine::open(&dir.path().join(name), OPTIONS).unwrap();
        let key = Key::Disk.encode();
        let mut value = engine.get(&key).unwrap().unwrap().to_vec();
        value[13] ^= 1;
        engine.put(&key, &value).unwrap();
        engine.sync().unwrap();
        drop(engine);
        match open(dir.path()).unwrap().databases(OPTIONS, OPTIONS) {
            Err(Refusal::RottenState { fault }) => assert!(name == STATE, "{fault}"),
            Err(Refusal::RottenLog { fault }) => assert!(name == RAFT, "{fault}"),
            Err(other) => panic!("{name}: {other}"),
            Ok(_) => panic!("{name}: opened"),
        }
    }
}

#[test]
fn a_directory_that_was_refused_stays_refused() {
    let dir = lived_in();
    declare_stale(dir.path(), "n1: life 4 of member 7 came after its life 5").unwrap();
    for _ in 0..2 {
        let Err(refusal @ Refusal::Stale { .. }) = open(dir.path()) else { panic!("it was refused once") };
        let said = refusal.to_string();
        assert!(said.contains("n1: life 4 of member 7") && said.contains("quorate serve --join"), "{said}");
    }
}
