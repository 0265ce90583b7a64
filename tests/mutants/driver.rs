//! Stands in for the binary in a copy of the tree (see `tests/mutants.rs`): `mutant <base> <most> [worlds]` simulates from seed
//! `base` on, up to the first that breaks a law. Says how many it took, which law, and which one is broken in the same world when
//! that law is off, `-` if none is; or `none`.
//!
//! Of ten worlds, seven are the bare core and three whole members, and most are fierce. `worlds` says otherwise: `core` or `full`,
//! then how many members if that matters, then kinds of trouble of which there is much, as in `full 2 members crash`; one world
//! of ten is a usual one, or if `usual` is among the words all are.

use quorate::sim::plan::{Kind, Plan, Profile, Wishes};
use quorate::sim::{Options, verify};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A world that takes so long does not end: most take less than a second.
const ENDLESS: Duration = Duration::from_secs(90);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [base, most, worlds @ ..] = &words[..] else { panic!("mutant <base> <most> [worlds]") };
    let number = |word: &String| word.parse::<u64>().expect("a number");
    let (base, most, wished) = (number(base), number(most), worlds.split_first().map(wished));
    static TAKEN: AtomicU64 = AtomicU64::new(1);
    std::thread::spawn(move || {
        let mut seen = 0;
        while seen < TAKEN.load(Ordering::Relaxed) {
            seen = TAKEN.load(Ordering::Relaxed);
            std::thread::sleep(ENDLESS);
        }
        if seen <= most {
            println!("{seen} endless -");
        }
        std::process::exit(0);
    });
    for taken in 1..=most {
        TAKEN.store(taken, Ordering::Relaxed);
        let (profile, fierce) = match taken % 10 {
            2 => (Profile::Full, false),
            5 | 8 => (Profile::Full, true),
            0 | 6 => (Profile::Core, false),
            _ => (Profile::Core, true),
        };
        let (profile, wishes) = match &wished {
            Some((profile, wishes)) => (*profile, Wishes { fierce: wishes.fierce && taken % 10 != 0, ..wishes.clone() }),
            None => (profile, Wishes { fierce, ..Wishes::default() }),
        };
        let plan = Plan::draw(profile, base + taken, &wishes);
        let broken = |off| verify(&plan, &Options { off, ..Options::default() }).violation.map(|found| found.law);
        if let Some(law) = broken(Vec::new()) {
            println!("{taken} {law} endless");
            TAKEN.store(most + 1, Ordering::Relaxed);
            let other = broken(vec![law]).map_or("-", |other| other.name());
            println!("{taken} {law} {other}");
            return;
        }
    }
    println!("none");
}

/// Which worlds are meant.
fn wished((profile, words): (&String, &[String])) -> (Profile, Wishes) {
    let profile = match profile.as_str() {
        "core" => Profile::Core,
        "full" => Profile::Full,
        other => panic!("{other} is no profile"),
    };
    let mut wishes = Wishes { fierce: true, ..Wishes::default() };
    for word in words {
        match Kind::ALL.into_iter().find(|kind| kind.name() == word) {
            Some(kind) => wishes.more.push(kind),
            None if word == "usual" => wishes.fierce = false,
            None => wishes.nodes = Some(word.parse().expect("a kind of trouble, or how many members")),
        }
    }
    (profile, wishes)
}
