//! Stands in for the binary in a copy of the tree (see `tests/mutants.rs`): `mutant <base> <most>` simulates from seed
//! `base` on, every other one the bare core and every other one the whole member, up to the first that breaks a law. Says
//! how many it took and which law, or `none`.

use quorate::sim::plan::{Plan, Profile, Wishes};
use quorate::sim::{Options, verify};

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).map(|number| number.parse().expect("a number")).collect();
    let [base, most] = numbers[..] else { panic!("mutant <base> <most>") };
    for taken in 1..=most {
        let profile = if taken % 2 == 1 { Profile::Core } else { Profile::Full };
        let plan = Plan::draw(profile, base + taken, &Wishes::default());
        // The number is told first, in case that the run does not end.
        println!("{taken}");
        if let Some(violation) = verify(&plan, &Options::default()).violation {
            println!("{taken} {}", violation.law);
            return;
        }
    }
    println!("none");
}
