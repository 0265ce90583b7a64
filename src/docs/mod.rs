//! The long-form pages: decisions, differences from etcd, and what went wrong.

/// Why the house is as it is, one decision a section.
#[doc = include_str!("decisions/decisions.md")]
pub mod decisions {}

/// Where it behaves otherwise than etcd on purpose, and the flag that gives etcd's way.
#[doc = include_str!("differences.md")]
pub mod differences {}

/// What is checked, how, and what checks the checks.
#[doc = include_str!("how_we_know.md")]
pub mod how_we_know {}

/// Every bug that was found, the law it broke, how to see it again, and what mended it.
#[doc = include_str!("bugs.md")]
pub mod bugs {}

/// Mistakes put in on purpose, and which test notices each.
#[doc = include_str!("mutants.md")]
///
#[doc = include_str!("mutants_table.md")]
pub mod mutants {}

/// Mutants made by rule that no test of the room sees, and why.
#[doc = include_str!("survivors.md")]
pub mod survivors {}
