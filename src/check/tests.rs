//! Histories, good and bad.
