//! The keys that a load writes and reads, and the value.
//!
//! Key `i` is `bench/` and `i` in decimal, padded with zeros to `--key-size`, so that keys sort by number and all have one
//! length. The prefix is one that a person sees in `quorate get --prefix ''` and can delete.

use crate::rng::{Rng, Seed};
use bytes::{BufMut, Bytes, BytesMut};

/// What every key starts with.
pub const PREFIX: &str = "bench/";

/// A set of keys of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    size: usize,
    count: u64,
}

impl Keys {
    /// `count` keys of `size` bytes.
    ///
    /// # Errors
    /// If there would be none, or if they don't fit into that size; the text says which size would do.
    pub fn new(size: usize, count: u64) -> Result<Keys, String> {
        let last =
            count.checked_sub(1).ok_or("a key space of 0 keys leaves nothing to do: give --key-space 1 or more")?;
        let least = PREFIX.len() + last.to_string().len();
        if size < least {
            return Err(format!("{count} keys don't fit into {size} bytes each: give --key-size {least} or more"));
        }
        Ok(Keys { size, count })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Key number `i`, wrapping round at the end of the key space.
    pub fn key(&self, i: u64) -> Bytes {
        let mut key = BytesMut::with_capacity(self.size);
        key.put_slice(PREFIX.as_bytes());
        key.put_bytes(b'0', self.size - PREFIX.len());
        let (mut rest, mut at) = (i % self.count, self.size);
        while rest > 0 {
            at -= 1;
            key[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        key.freeze()
    }
}

/// A value of `size` bytes that doesn't compress.
pub fn value(size: usize) -> Bytes {
    let mut dice = Rng::new(Seed(0x7661_6c75));
    let mut value = Vec::with_capacity(size + 8);
    while value.len() < size {
        value.extend_from_slice(&dice.next_u64().to_le_bytes());
    }
    value.truncate(size);
    value.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_padded_and_wrap_round() {
        let keys = Keys::new(10, 1000).unwrap();
        assert_eq!(keys.key(0), "bench/0000");
        assert_eq!(keys.key(42), "bench/0042");
        assert_eq!(keys.key(999), "bench/0999");
        assert_eq!(keys.key(1001), keys.key(1));
    }

    #[test]
    fn a_key_space_that_does_not_fit_is_refused_with_the_size_that_would() {
        assert!(Keys::new(9, 1000).is_ok());
        assert!(Keys::new(8, 1000).unwrap_err().contains("--key-size 9"));
        assert!(Keys::new(8, 0).unwrap_err().contains("--key-space"));
    }

    #[test]
    fn a_value_has_the_size_asked_for() {
        for size in [0, 1, 8, 255, 256] {
            assert_eq!(value(size).len(), size);
        }
    }
}
