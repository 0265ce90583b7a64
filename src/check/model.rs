//! What one operation does.
