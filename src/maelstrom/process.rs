//! A node as a process: lines from stdin, lines to stdout, time from the clock.
//!
//! One thread reads and does nothing else; the other owns the node. It sleeps until a line is there or the node's deadline
//! has come, takes every line that is there, closes the turn, and writes what came out with one flush. When stdin ends, or
//! nobody reads stdout any more, the process has done its work.

use super::{Maelstrom, Settings};
use crate::clock::Clock;
use crate::node::Halt;
use crate::time::Time;
use std::io::{self, BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

/// Runs a node until its stdin ends.
///
/// # Errors
/// The node can't go on, or the system has no thread to give: a sentence.
pub fn run(settings: Settings) -> Result<(), String> {
    let (sender, lines) = channel();
    let reader = std::thread::Builder::new().name("stdin".into()).spawn(move || read(&sender));
    reader.map_err(|error| format!("no thread to read stdin: {error}"))?;
    turns(Maelstrom::new(settings), &lines)
}

/// What is no UTF-8 is no message either: it goes on as it is shown, and is refused like any other line that is none.
fn read(lines: &Sender<String>) {
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    while stdin.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        if !text.is_empty() && lines.send(text).is_err() {
            return;
        }
        line.clear();
    }
}

fn turns(mut node: Maelstrom, lines: &Receiver<String>) -> Result<(), String> {
    let clock = Clock::new();
    let mut out = Vec::new();
    loop {
        let first = match node.deadline() {
            Time::NEVER => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
            deadline => lines.recv_timeout(deadline.since(clock.now())),
        };
        if first == Err(RecvTimeoutError::Disconnected) {
            return Ok(());
        }
        let now = clock.now();
        for line in first.into_iter().chain(lines.try_iter()) {
            node.handle(now, &line).map_err(|Halt(why)| why)?;
        }
        node.advance(now, &mut out).map_err(|Halt(why)| why)?;
        match write(&out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(|error| format!("stdout: {error}"))?,
        }
        out.clear();
    }
}

fn write(lines: &[String]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for line in lines {
        stdout.write_all(line.as_bytes())?;
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}
