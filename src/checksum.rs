//! The one checksum: CRC-32C, which today's processors compute in hardware.
//!
//! It guards against rot and torn writes, not against malice. An entry's checksum is made where the entry is made and
//! travels with it, to the log, over the wire and to the machine, so that a flipped bit anywhere on the way is seen before
//! the entry is applied or sent on. What is stored beside data it covers is always the value over *everything* else.

/// The checksum of `bytes`.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Continues a checksum: `crc_append(crc(a), b) == crc(a ++ b)`.
pub fn crc_append(so_far: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(so_far, bytes)
}
