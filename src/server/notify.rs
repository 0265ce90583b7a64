//! Talking to systemd: ready, alive, what goes on, stopping. What `deploy/systemd/quorate.service` relies on.
//!
//! A service of `Type=notify` gets the address of a datagram socket in `NOTIFY_SOCKET` and writes lines `KEY=value` to it
//! (sd_notify(3)); with `WatchdogSec=` it also gets `WATCHDOG_USEC`, and is killed if it stays silent for longer. Without
//! the variable nothing is ever said, so a member that is started by hand, by a container or by the lab is none the wiser.
//!
//! - `READY=1` comes when the ports are served, not when there is a leader: else starting the first of three members would
//!   hang until somebody starts the second.
//! - `WATCHDOG=1` comes only after the node's thread has answered and both disk workers have begun a new turn: a process
//!   whose sockets work and whose disk hangs is dead. It says nothing of leaders, peers or speed.
//! - `STATUS=` is the line that `systemctl status` shows.
//!
//! Messages are lost in silence: a service must not fail because nobody listens.
//!
//! Absent: `FDSTORE`, `RELOADING`, `EXTEND_TIMEOUT_USEC` (the unit sets no limit to a start, because a long log is no
//! failure).

use crate::time::Duration;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where to say things, if anybody asked for them.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The watchdog's patience.
    pub watchdog: Option<Duration>,
}

impl Notifier {
    /// What the service's environment asks for.
    pub fn from_environment() -> Notifier {
        let variable = |name: &str| std::env::var(name).ok();
        let watchdog = patience(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), watchdog)
    }

    /// A notifier to `socket`: a path, or a name in the abstract namespace behind an `@`.
    pub fn new(socket: Option<&OsStr>, watchdog: Option<Duration>) -> Notifier {
        let socket = socket.filter(|name| !name.is_empty()).and_then(|name| {
            let opened = address(name).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
            opened.map_err(|error| tracing::warn!(?name, %error, "NOTIFY_SOCKET can't be used")).ok()
        });
        if let Some((socket, _)) = &socket {
            // A full queue must not stop a member.
            let _ = socket.set_nonblocking(true);
        }
        Notifier { watchdog: watchdog.filter(|_| socket.is_some()), socket }
    }

    /// The ports are served.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The node's thread and the disk workers live.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// The member is on its way out.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// One line for people.
    pub fn status(&self, line: &str) {
        self.say(&format!("STATUS={}", line.replace('\n', " ")));
    }

    fn say(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        _ => Err(std::io::Error::other("it is neither a path nor an abstract name")),
    }
}

/// The watchdog's patience, if the variables speak to this process: they may have been inherited from a parent.
fn patience(usec: Option<String>, pid: Option<String>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    Some(Duration::from_micros(usec?.parse().ok()?)).filter(|patience| !patience.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt as _;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("quorate-notify-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (listener, given) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ] {
            let notifier = Notifier::new(Some(&given), Some(Duration::from_secs(1)));
            assert!(notifier.watchdog.is_some());
            notifier.ready();
            notifier.status("leader\nREADY=0");
            notifier.alive();
            notifier.stopping();
            let said = [(); 4].map(|()| received(&listener));
            assert_eq!(said, ["READY=1", "STATUS=leader READY=0", "WATCHDOG=1", "STOPPING=1"]);
        }
    }

    #[test]
    fn nobody_is_told_who_did_not_ask() {
        for name in [None, Some(""), Some("relative"), Some("/nowhere/to/be/found")] {
            let notifier = Notifier::new(name.map(OsStr::new), None);
            notifier.ready();
            assert!(notifier.watchdog.is_none());
        }
        assert!(Notifier::new(None, Some(Duration::from_secs(1))).watchdog.is_none());
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed() {
        let usec = || Some("30000000".to_string());
        let pid = |pid: &str| Some(pid.to_string());
        assert_eq!(patience(usec(), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(patience(usec(), pid("7"), 7), Some(Duration::from_secs(30)));
        assert_eq!(patience(usec(), pid("8"), 7), None);
        assert_eq!(patience(None, None, 7), None);
        assert_eq!(patience(pid("0"), None, 7), None);
        assert_eq!(patience(pid("soon"), None, 7), None);
    }
}
