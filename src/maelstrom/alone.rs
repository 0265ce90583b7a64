//! What a node answers by itself: `echo` and `unique-ids`.
//!
//! An id is the node's name, a number drawn when the process started, and a count: unique without asking anyone, so a
//! partition changes nothing. The number keeps two lives of one node apart, which share a name and begin to count anew.

use super::protocol::{Body, Error, body, field};

/// Hands out ids.
#[derive(Debug)]
pub struct Ids {
    prefix: String,
    count: u64,
}

impl Ids {
    /// Of the node `name` in the life that drew `nonce`.
    pub fn new(name: &str, nonce: u64) -> Ids {
        Ids { prefix: format!("{name}-{nonce:x}"), count: 0 }
    }

    /// An id that nobody else has, nor this node again.
    pub fn next(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.prefix, self.count)
    }

    /// Answers a request of the workload `unique-ids`.
    ///
    /// # Errors
    /// It is not `generate`.
    pub fn request(&mut self, kind: &str) -> Result<Body, Error> {
        match kind {
            "generate" => Ok(body("generate_ok", [("id", self.next().into())])),
            _ => Err(Error::not_supported(kind, "unique-ids")),
        }
    }
}

/// Answers a request of the workload `echo`.
///
/// # Errors
/// It is not `echo`, or says nothing.
pub fn echo(kind: &str, request: &Body) -> Result<Body, Error> {
    match kind {
        "echo" => Ok(body("echo_ok", [("echo", field(request, "echo")?.clone())])),
        _ => Err(Error::not_supported(kind, "echo")),
    }
}
