//! How much memory answers to ranges may take.
//!
//! A range without a limit answers with all it finds, which may be all there is. So whoever answers ranges holds a
//! [`Budget`]: so much for one answer, so much for all at once. A range pays out of its [`Share`] *before* it loads values,
//! for their lengths stand in the index; what it can't pay, it does not hold. A share gives back what it took when it is
//! dropped, which is when the answer has left.
//!
//! A key that is asked for by name is free: it is no larger than the put that made it. So is what the machine reads for a
//! command, since members with different budgets must do the same; its size is estimated before it is proposed
//! ([`View::charge_txn`](super::View::charge_txn)).
//!
//! Invariant: the shares never hold more together than the budget allows.
//!
//! Left out: waiting for room. Who is refused may ask again, or ask for less.

use super::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What ranges may take, in bytes.
#[derive(Debug, Default)]
pub struct Budget {
    one: u64,
    together: u64,
    taken: AtomicU64,
}

impl Budget {
    /// So much for one answer, and so much for all together; 0 is no limit.
    pub fn new(one: u64, together: u64) -> Budget {
        let limit = |bytes| if bytes == 0 { u64::MAX } else { bytes };
        Budget { one: limit(one), together: limit(together), taken: AtomicU64::new(0) }
    }
}

/// What one answer took.
#[derive(Debug, Default)]
pub struct Share {
    budget: Option<Arc<Budget>>,
    held: u64,
}

impl Share {
    /// Nothing yet, of `budget`.
    pub fn of(budget: &Arc<Budget>) -> Share {
        Share { budget: Some(Arc::clone(budget)), held: 0 }
    }

    /// As much as it takes.
    pub fn unlimited() -> Share {
        Share::default()
    }

    /// What it holds, in bytes.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Takes `bytes` more, or nothing.
    ///
    /// # Errors
    /// The answer would be too large, or there is no room for it now.
    pub fn take(&mut self, bytes: u64) -> Result<(), Error> {
        let all = self.held.saturating_add(bytes);
        if let Some(budget) = &self.budget {
            if all > budget.one {
                return Err(Error::RangeTooLarge { bytes: all, limit: budget.one });
            }
            let more = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= budget.together);
            if budget.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
                return Err(Error::RangesTooLarge { bytes: all, limit: budget.together });
            }
        }
        self.held = all;
        Ok(())
    }

    /// Gives back all but `bytes`.
    pub fn keep(&mut self, bytes: u64) {
        let rest = self.held.saturating_sub(bytes);
        if let Some(budget) = &self.budget {
            budget.taken.fetch_sub(rest, Ordering::Relaxed);
        }
        self.held -= rest;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_and_all_answers_have_a_limit_and_give_back_what_they_took() {
        let budget = Arc::new(Budget::new(60, 100));
        let (mut first, mut second) = (Share::of(&budget), Share::of(&budget));
        assert_eq!(first.take(61), Err(Error::RangeTooLarge { bytes: 61, limit: 60 }));
        assert_eq!((first.take(50), first.take(10)), (Ok(()), Ok(())));
        assert_eq!(first.take(1), Err(Error::RangeTooLarge { bytes: 61, limit: 60 }));
        assert_eq!(second.take(41), Err(Error::RangesTooLarge { bytes: 41, limit: 100 }));
        assert_eq!(second.take(40), Ok(()));
        first.keep(55);
        assert_eq!((first.held(), second.take(5), budget.taken.load(Ordering::Relaxed)), (55, Ok(()), 100));
        drop(first);
        assert_eq!(second.take(15), Ok(()));
        drop(second);
        assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn zero_is_no_limit() {
        let mut share = Share::of(&Arc::new(Budget::new(0, 0)));
        assert_eq!(share.take(u64::MAX), Ok(()));
        assert_eq!(Share::unlimited().take(u64::MAX), Ok(()));
    }
}
