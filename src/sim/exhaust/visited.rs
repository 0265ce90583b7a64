//! The set of states seen, as 64-bit fingerprints in one flat table.
//!
//! Hundreds of millions of them must fit in memory, and nothing is ever asked of them but "was this there": open addressing
//! with linear steps, eight bytes a slot, doubled when two thirds are taken. Zero marks a free slot.

/// See the module's essay.
pub(super) struct Visited {
    slots: Vec<u64>,
    taken: u64,
}

impl Visited {
    pub(super) fn new() -> Visited {
        Visited { slots: vec![0; 1 << 16], taken: 0 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.taken
    }

    /// Notes a fingerprint; says whether it is new.
    pub(super) fn insert(&mut self, fingerprint: u64) -> bool {
        if self.taken * 3 >= self.slots.len() as u64 * 2 {
            let doubled = vec![0; self.slots.len() * 2];
            let old = std::mem::replace(&mut self.slots, doubled);
            old.into_iter().filter(|known| *known != 0).for_each(|known| {
                self.place(known);
            });
        }
        let new = self.place(fingerprint.max(1));
        self.taken += u64::from(new);
        new
    }

    fn place(&mut self, fingerprint: u64) -> bool {
        let mask = self.slots.len() - 1;
        let mut at = fingerprint as usize & mask;
        while self.slots[at] != 0 {
            if self.slots[at] == fingerprint {
                return false;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = fingerprint;
        true
    }
}
