//! Stands in for the binary in a copy of the tree (see `tests/mutants.rs`): `mutant <base> <most>` simulates from seed
//! `base` on, up to the first that breaks a law: of ten worlds, seven are the bare core and three whole members, and most are fierce. Says
//! how many it took, which law, and which one is broken in the same world when that law is off, `-` if none is; or `none`.

use quorate::sim::plan::{Plan, Profile, Wishes};
use quorate::sim::{Options, verify};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A world that takes so long does not end: most take less than a second.
const ENDLESS: Duration = Duration::from_secs(90);

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).map(|number| number.parse().expect("a number")).collect();
    let [base, most] = numbers[..] else { panic!("mutant <base> <most>") };
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
        let plan = Plan::draw(profile, base + taken, &Wishes { fierce, ..Wishes::default() });
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
