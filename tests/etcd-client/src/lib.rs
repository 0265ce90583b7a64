//! Nothing here: see `tests/against_a_cluster.rs`.
