//! Snapshot files that are not what was written: each is refused, with what is wrong and where, and nothing of a restore is left.

use super::Trouble;
use super::restore::{Source, Target};
use super::snapshot::{Found, open, read};
use crate::ids::{ClusterId, MemberId, Revision};
use crate::machine::{Item, Level, Machine, Member, Portion, Restoring};
use crate::proto::mvccpb::KeyValue;
use crate::storage::directory::{Directory, Expected, InitialMember, Refusal, UNFINISHED};
use crate::storage::memory::MemoryEngine;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Pairs by key: the revisions go the other way.
fn pairs() -> impl Iterator<Item = KeyValue> {
    (0..8).map(|n| {
        let (key, value) = (format!("k{n}").into(), vec![b'a' + n; 20].into());
        let revision = 20 - i64::from(n);
        KeyValue { key, value, create_revision: revision, mod_revision: revision, version: 1, lease: 0 }
    })
}

/// A snapshot's bytes.
fn taken() -> Vec<u8> {
    let engine = Arc::new(MemoryEngine::new());
    let founder = Member { id: MemberId(1), ..Member::default() };
    let mut restoring = Restoring::begin(engine.clone(), vec![founder], Revision(30), Level::FIRST).unwrap();
    let mut by_revision: Vec<KeyValue> = pairs().collect();
    by_revision.reverse();
    by_revision.into_iter().for_each(|pair| restoring.take(&Item::Pair(pair)).unwrap());
    restoring.finish().unwrap();
    let machine = Machine::open(engine, Vec::new()).unwrap();
    let (mut snapshot, mut bytes) = (machine.view().snapshot(ClusterId(7)), Vec::new());
    loop {
        match snapshot.step().unwrap() {
            Portion::Measured => {}
            Portion::Blob { blob, .. } => bytes.extend_from_slice(&blob),
            Portion::Sum(sum) => {
                bytes.extend_from_slice(&sum);
                return bytes;
            }
        }
    }
}

fn look(path: &Path) -> Result<Found, Trouble> {
    read(&open(path)?, path, &mut |_, _| {}, &mut |_, _| {})
}

/// Both ways to read a file say the same.
fn refusal(path: &Path) -> Trouble {
    let refused = look(path).unwrap_err();
    assert_eq!(Source::open(path, &mut |_, _| {}).err().unwrap(), refused);
    let told = refused.to_string();
    assert!(told.contains(&path.display().to_string()), "{told}");
    refused
}

#[test]
fn whatever_is_wrong_with_a_file_is_said_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup.snap");
    let bytes = taken();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        refusal(&path)
    };
    fs::write(&path, &bytes).unwrap();
    assert_eq!(look(&path).unwrap().contents.keys, 8);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        // A flipped version may be another release's.
        match refused(&flipped) {
            Trouble::Damaged(told) => assert!(told.contains("is damaged at byte "), "byte {at}: {told}"),
            Trouble::Newer(told) => {
                assert!((8..12).contains(&at) && told.contains("its format is"), "byte {at}: {told}")
            }
            other => panic!("byte {at}: {other:?}"),
        }
        let Trouble::Damaged(told) = refused(&bytes[..at]) else { panic!("cut at byte {at}") };
        let why = if at == 0 { "it is empty" } else { "before its end" };
        assert!(told.ends_with(why), "cut at byte {at}: {told}");
    }
    let Trouble::Damaged(told) = refused(&[&bytes[..], &[0]].concat()) else { panic!("one byte more") };
    assert!(told.ends_with("there is something after its end"), "{told}");
    // As bbolt's first page begins.
    let head = [&[0; 8][..], &4_u16.to_le_bytes(), &[0; 6], &0xED0C_DAED_u32.to_le_bytes(), &2_u32.to_le_bytes()];
    let mut page = head.concat();
    page.resize(4096, 0);
    assert!(matches!(refused(&page), Trouble::Etcds(_)));
    let Trouble::Failed(told) = refusal(dir.path()) else { panic!("a directory") };
    assert!(told.contains("is a directory"), "{told}");
    let Trouble::Failed(told) = refusal(&dir.path().join("none")) else { panic!("no file") };
    assert!(told.contains("No such file"), "{told}");
}

fn member() -> InitialMember {
    InitialMember { id: MemberId(1), name: "n1".to_owned(), peer_urls: vec!["http://n1:2380".to_owned()] }
}

fn target() -> Target {
    Target { cluster: ClusterId(8), members: vec![member()], revision: Revision(100) }
}

fn expected() -> Expected {
    Expected { cluster: ClusterId(8), member: MemberId(1), members: vec![member()] }
}

#[test]
fn what_changes_between_the_two_readings_is_not_restored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup.snap");
    let bytes = taken();
    let value = bytes.windows(20).position(|window| window == [b'c'; 20]).unwrap();
    for place in [dir.path().join("new"), dir.path().join("empty")] {
        let was_there = place.ends_with("empty");
        if was_there {
            fs::create_dir(&place).unwrap();
        }
        fs::write(&path, &bytes).unwrap();
        let source = Source::open(&path, &mut |_, _| {}).unwrap();
        let mut other = bytes.clone();
        other[value] = b'C';
        // A whole snapshot it is, as far as its sum goes.
        let end = other.len() - 32;
        let sum = Sha256::digest(&other[..end]);
        other[end..].copy_from_slice(&sum);
        fs::write(&path, &other).unwrap();
        let Err(Trouble::Failed(told)) = target().make(&source, &member(), &place, &mut |_, _| {}) else {
            panic!("it was restored")
        };
        assert!(told.contains("the snapshot changed while it was read: at byte "), "{told}");
        assert_eq!(place.exists(), was_there);
        assert!(!was_there || fs::read_dir(&place).unwrap().next().is_none(), "it is as empty as it was");
        // With the file as it was there is nothing in the way.
        fs::write(&path, &bytes).unwrap();
        let position = target().make(&source, &member(), &place, &mut |_, _| {}).unwrap();
        assert!(position.index.0 > 0 && !place.join(UNFINISHED).exists());
        let opened = Directory::open(&place, Some(&expected()), crate::ids::DiskId(1)).unwrap();
        assert!(!opened.is_fresh() && opened.meta().member == MemberId(1));
    }
}

/// Whenever a restore is killed, what it leaves is no member's: nobody begins an empty cluster there, or serves a half.
#[test]
fn a_restore_that_is_killed_leaves_no_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (path, place) = (dir.path().join("backup.snap"), dir.path().join("new"));
    fs::write(&path, taken()).unwrap();
    let source = Source::open(&path, &mut |_, _| {}).unwrap();
    let mut looks = 0;
    let refused = || {
        let refused = Directory::open(&place, Some(&expected()), crate::ids::DiskId(1)).unwrap_err();
        assert!(matches!(&refused, Refusal::Foreign { found, .. } if found == UNFINISHED), "{refused}");
        assert!(refused.to_string().contains("empty the directory and restore again"), "{refused}");
    };
    let made = target().make(&source, &member(), &place, &mut |_, _| {
        refused();
        looks += 1;
    });
    assert!(made.is_ok() && looks == 8);
    // Moved out in part.
    fs::create_dir(place.join(UNFINISHED)).unwrap();
    fs::rename(place.join("META"), place.join(UNFINISHED).join("META")).unwrap();
    refused();
}
