//! Which ports a lab uses.
//!
//! etcd's own development set-up has its members at 2379, 22379 and 32379, with the peers one port above; so has the lab,
//! and whoever knows the one finds their way in the other. If one of the ports is taken, the whole set moves by a
//! thousand, and the lab says so.

use std::net::{Ipv4Addr, TcpListener};

/// How far each member's ports are from the first member's.
const OFFSETS: [u32; 7] = [0, 20_000, 30_000, 40_000, 50_000, 10_000, 60_000];
/// How far the set moves if a port is taken.
const SHIFT: u32 = 1000;
/// How often it moves before the lab gives up.
const SHIFTS_MAX: u32 = 20;

/// Members a lab may have: more would not vote faster, and the ports run out.
pub const MEMBERS_MAX: usize = OFFSETS.len();

/// The ports of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// For clients.
    pub client: u16,
    /// For the other members.
    pub peer: u16,
}

/// The ports of `members` members from `base` on; `None` if they end above 65535.
pub fn set(base: u16, members: usize) -> Option<Vec<Ports>> {
    let port = |offset: u32| u16::try_from(u32::from(base) + offset).ok();
    OFFSETS
        .get(..members)?
        .iter()
        .map(|&offset| Some(Ports { client: port(offset)?, peer: port(offset + 1)? }))
        .collect()
}

/// The first set from `base` on that `is_free`, and its base.
///
/// # Errors
/// A sentence with the way out, if there is none.
pub fn choose(base: u16, members: usize, is_free: impl Fn(u16) -> bool) -> Result<(u16, Vec<Ports>), String> {
    let mut taken = None;
    for shift in 0..SHIFTS_MAX {
        let Some(base) = u16::try_from(u32::from(base) + shift * SHIFT).ok() else { break };
        let Some(ports) = set(base, members) else { break };
        match ports.iter().flat_map(|ports| [ports.client, ports.peer]).find(|&port| !is_free(port)) {
            None => return Ok((base, ports)),
            Some(port) => taken = taken.or(Some(port)),
        }
    }
    Err(match taken {
        Some(port) => format!("port {port} is taken, and so is one of every set of ports above: give another --port"),
        None => format!("port {base} leaves no room below 65536 for {members} members: give a smaller --port"),
    })
}

/// Whether nobody listens on this port of the loopback.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(ports: &[Ports]) -> Vec<u16> {
        ports.iter().map(|ports| ports.client).collect()
    }

    #[test]
    fn the_ports_are_those_of_etcds_development_set_up() {
        let ports = set(2379, 3).unwrap();
        assert_eq!(clients(&ports), [2379, 22379, 32379]);
        assert!(ports.iter().all(|ports| ports.peer == ports.client + 1));
    }

    #[test]
    fn every_lab_that_may_be_asked_for_has_ports_of_its_own() {
        let ports = set(2379, MEMBERS_MAX).unwrap();
        let mut all: Vec<u16> = ports.iter().flat_map(|ports| [ports.client, ports.peer]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2 * MEMBERS_MAX);
        assert_eq!(set(2379, MEMBERS_MAX + 1), None);
    }

    #[test]
    fn the_whole_set_moves_if_one_port_is_taken() {
        assert_eq!(choose(2379, 3, |_| true).unwrap().0, 2379);
        let (base, ports) = choose(2379, 3, |port| port != 32380 && port != 3379).unwrap();
        assert_eq!((base, clients(&ports)), (4379, vec![4379, 24379, 34379]));
    }

    #[test]
    fn a_lab_without_ports_is_told_the_way_out() {
        assert!(choose(2379, 3, |_| false).unwrap_err().contains("port 2379 is taken"));
        assert!(choose(60_000, 3, |_| true).unwrap_err().contains("smaller --port"));
    }

    #[test]
    fn a_listener_takes_its_port() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
