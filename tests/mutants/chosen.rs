//! Stands in a copy of the tree beside the rooms (see `tests/mutants.rs`): which mutant this process is.

use std::sync::OnceLock;

/// Whether `number` was chosen: by the environment variable `MUTANT`, once for the life of the process.
pub fn is(number: u32) -> bool {
    static CHOSEN: OnceLock<u32> = OnceLock::new();
    let read = || std::env::var("MUTANT").map_or(0, |number| number.parse().expect("a number"));
    *CHOSEN.get_or_init(read) == number
}

/// What a function gives that returns `impl Iterator`: each of its bodies has a type of its own.
pub enum Either<A, B> {
    /// The body that was asked about.
    One(A),
    /// The others.
    Other(B),
}

impl<T, A: Iterator<Item = T>, B: Iterator<Item = T>> Iterator for Either<A, B> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Either::One(one) => one.next(),
            Either::Other(other) => other.next(),
        }
    }
}
