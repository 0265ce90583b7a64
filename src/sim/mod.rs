//! Shell two: whole clusters in one thread, with every fault there is, from one seed.
