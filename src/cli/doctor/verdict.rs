//! From facts to a verdict per endpoint: the first stage that fails, with its figures, why, and what mends it.
//!
//! Pure: no clock, no socket, so every verdict is a line of a table in the tests.

use super::facts::{Dial, Probe, Reached, Read, Scene, Told, bare};
use crate::cli::lab_file::{LabNode, LabState};
use crate::cli::output::plural;
use crate::proto::etcdserverpb as pb;
use crate::time::Duration;

/// A linearizable read that took longer is named slow.
const SLOW_READ: Duration = Duration::from_millis(300);

/// One sync in a hundred that takes longer, in microseconds, makes a disk a slow one.
const SLOW_SYNC_US: u64 = 100_000;

/// The stages, in the order in which they are passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The name has an address.
    Dns,
    /// A connection is made.
    Tcp,
    /// It is not encrypted.
    Tls,
    /// HTTP/2 is spoken.
    Http2,
    /// etcd's calls are answered.
    Grpc,
    /// A leader is known.
    Leader,
    /// A quorum stands behind it.
    Quorum,
    /// There is room for writes.
    Space,
    /// It is fast enough.
    Speed,
}

impl Stage {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Dns => "dns",
            Stage::Tcp => "tcp",
            Stage::Tls => "tls",
            Stage::Http2 => "http/2",
            Stage::Grpc => "grpc",
            Stage::Leader => "leader",
            Stage::Quorum => "quorum",
            Stage::Space => "space",
            Stage::Speed => "speed",
        }
    }
}

/// What is wrong with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The first stage that fails.
    pub stage: Stage,
    /// What, with figures, and why.
    pub what: String,
    /// What mends it.
    pub fix: Option<String>,
}

/// What is thought of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `host:port`.
    pub endpoint: String,
    /// What is wrong, or how well it is.
    pub outcome: Result<String, Finding>,
}

impl Verdict {
    /// Whether the endpoint serves, be it slowly.
    pub fn serves(&self) -> bool {
        self.outcome.as_ref().err().is_none_or(|finding| finding.stage == Stage::Speed)
    }

    /// Whether a member speaks there at all.
    pub fn answers(&self) -> bool {
        self.outcome.as_ref().err().is_none_or(|finding| finding.stage >= Stage::Leader)
    }
}

fn found(stage: Stage, what: impl Into<String>, fix: impl Into<Option<String>>) -> Finding {
    Finding { stage, what: what.into(), fix: fix.into() }
}

/// The verdicts: one for each endpoint that was given, in their order, and one for each member that answers nowhere and
/// was not given.
pub fn judge(scene: &Scene) -> Vec<Verdict> {
    let cluster = Cluster::of(scene);
    let verdict = |probe: &Probe| Verdict { endpoint: probe.endpoint.clone(), outcome: cluster.examine(probe) };
    let silent = cluster.members.iter().filter(|member| !cluster.answers(member.id));
    let silent = silent.filter_map(|member| {
        let given = |url: &String| scene.asked.iter().any(|probe| probe.endpoint == bare(url));
        if member.client_ur_ls.iter().any(given) {
            return None;
        }
        let first = scene.announced.iter().find(|probe| announces(member, &probe.endpoint))?;
        let mut verdict = verdict(first);
        if let Err(finding) = &mut verdict.outcome {
            finding.what = format!("{}: {}", name(member), finding.what);
        }
        Some(verdict)
    });
    scene.asked.iter().map(verdict).chain(silent).collect()
}

/// The cluster as the members that answer describe it.
struct Cluster<'a> {
    scene: &'a Scene,
    id: u64,
    members: &'a [pb::Member],
    told: Vec<&'a Told>,
}

fn name(member: &pb::Member) -> String {
    if member.name.is_empty() { format!("member {:x}", member.id) } else { member.name.clone() }
}

fn announces(member: &pb::Member, endpoint: &str) -> bool {
    member.client_ur_ls.iter().any(|url| bare(url) == endpoint)
}

fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn told(probe: &Probe) -> Option<&Told> {
    match &probe.reached {
        Reached::Member(told) => Some(told),
        _ => None,
    }
}

impl<'a> Cluster<'a> {
    fn of(scene: &'a Scene) -> Cluster<'a> {
        let told: Vec<&Told> = scene.asked.iter().chain(&scene.announced).filter_map(told).collect();
        let id = told.first().map_or(0, |told| told.cluster());
        let members = told.iter().map(|told| &told.members[..]).max_by_key(|members| members.len()).unwrap_or_default();
        Cluster { scene, id, members, told }
    }

    fn answers(&self, member: u64) -> bool {
        self.told.iter().any(|told| told.id() == member)
    }

    fn name(&self, id: u64) -> String {
        self.members.iter().find(|member| member.id == id).map_or_else(|| format!("member {id:x}"), name)
    }

    fn node(&self, endpoint: &str) -> Option<&LabNode> {
        self.scene.lab.as_ref()?.node_at(endpoint)
    }

    fn examine(&self, probe: &Probe) -> Result<String, Finding> {
        match &probe.reached {
            Reached::Member(told) => self.ask(&probe.endpoint, told),
            _ => Err(self.not_a_member(probe)),
        }
    }

    /// The stages before a member speaks.
    fn not_a_member(&self, probe: &Probe) -> Finding {
        let endpoint = &probe.endpoint;
        let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
        match &probe.reached {
            Reached::NoAddress(why) => {
                let fix = format!("check the spelling; what this host knows of the name: getent hosts {host}");
                found(Stage::Dns, format!("the name {host} has no address: {why}"), fix)
            }
            Reached::NoConnection(Dial::Refused) => {
                found(Stage::Tcp, "connection refused: the host is there, and nothing listens", self.start(endpoint))
            }
            Reached::NoConnection(Dial::TimedOut(after)) => found(
                Stage::Tcp,
                format!("no connection within {after:?}: the host is down, or a firewall swallows what is sent"),
                format!("see whether the host answers: ping {host}; then let port {port} through its firewall"),
            ),
            Reached::NoConnection(Dial::Other(why)) => found(
                Stage::Tcp,
                format!("no connection: {}", why.to_lowercase()),
                format!("see how to get there: ip route get {host}"),
            ),
            Reached::Silent(after) => {
                let holder = || format!("see whose port it is, on that host: ss -ltnp 'sport = :{port}'");
                let fix = self.node(endpoint).map_or_else(holder, |_| self.start(endpoint));
                let what = format!(
                    "it takes connections and says nothing for {after:?}: its process is frozen or starved, or is no server"
                );
                found(Stage::Http2, what, fix)
            }
            Reached::Tls => found(
                Stage::Tls,
                "it speaks TLS, and this client does not yet",
                format!("etcdctl --endpoints https://{endpoint} --cacert CA.crt endpoint health"),
            ),
            Reached::Web(line) => found(
                Stage::Http2,
                format!("a web server that speaks no HTTP/2 answers ({line}): this is no member's client port"),
                "give a member's client address: --endpoints HOST:2379".to_owned(),
            ),
            Reached::Stranger(said) => {
                let said =
                    if said.is_empty() { "hangs up without a word".to_owned() } else { format!("says \"{said}\"") };
                let fix = format!("see what listens on that host: ss -ltnp 'sport = :{port}'");
                found(Stage::Http2, format!("who answers {said}: this is no member's client port"), fix)
            }
            Reached::PeerPort(members) => peer_port(port, members),
            Reached::NoApi(said) => found(
                Stage::Grpc,
                format!("it speaks gRPC and knows none of etcd's calls ({said})"),
                "give a member's client address: --endpoints HOST:2379".to_owned(),
            ),
            Reached::Mute(after) => found(
                Stage::Grpc,
                format!("it speaks HTTP/2, and told nothing of itself within {after:?}: its process is starved"),
                "see what keeps that host busy: top".to_owned(),
            ),
            Reached::Refuses(said) if said.contains("server stopped") => {
                found(Stage::Grpc, "the member is stopping; when it has ended, start it again", self.start(endpoint))
            }
            Reached::Refuses(said) => found(Stage::Grpc, format!("it refuses to tell how it is: {said}"), None),
            Reached::Member(_) => unreachable!("asked by `examine`"),
        }
    }

    /// How to get a member going that clients reach at `endpoint`.
    fn start(&self, endpoint: &str) -> String {
        if let Some(node) = self.node(endpoint) {
            return match node.state {
                LabState::Paused => format!("quorate dev resume {}", node.name),
                LabState::Starting => format!("it is starting; see how: quorate dev logs {}", node.name),
                LabState::Running | LabState::Stopped | LabState::Killed | LabState::Exited => {
                    format!("quorate dev start {}", node.name)
                }
            };
        }
        if let Some(member) = self.members.iter().find(|member| announces(member, endpoint)) {
            return format!(
                "start {} where it runs (systemctl start quorate); its log says why it ended",
                name(member)
            );
        }
        let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
        let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        if local && self.members.is_empty() {
            return "start a local cluster: quorate dev\n       or say where one is: --endpoints HOST:PORT".to_owned();
        }
        format!("start the member there (systemctl start quorate), or see what listens: ss -ltnp 'sport = :{port}'")
    }

    /// The stages of a member that speaks.
    fn ask(&self, endpoint: &str, told: &Told) -> Result<String, Finding> {
        let own = self.name(told.id());
        if told.cluster() != self.id {
            let what = format!("{own} is of another cluster ({:x}, not {:x})", told.cluster(), self.id);
            return Err(found(Stage::Grpc, what, "give the endpoints of one cluster".to_owned()));
        }
        let leader = told.status.leader;
        if leader == 0 {
            return Err(self.without_leader(&own, told));
        }
        if let Read::Failed(_) | Read::Silent(_) = told.read {
            return Err(self.unread(&own, leader, told));
        }
        if let Some(alarm) = told.status.errors.iter().find(|error| error.contains("alarm:")) {
            if alarm.contains("alarm:CORRUPT") {
                let what = format!("{} is raised: the members' states differ, and writes are refused", alarm.trim());
                let fix = format!(
                    "find the member that is right (quorate status), replace the others (quorate member replace), then: \
                     etcdctl --endpoints {endpoint} alarm disarm"
                );
                return Err(found(Stage::Quorum, what, fix));
            }
            let what = format!("{} is raised: writes that need room are refused", alarm.trim());
            let fix = format!("give it room, then: etcdctl --endpoints {endpoint} alarm disarm");
            return Err(found(Stage::Space, what, fix));
        }
        self.speed(&own, told)
    }

    /// `None` if enough voters answer; else what lacks, and what brings it back.
    fn lacking(&self) -> Option<(String, Option<String>)> {
        let voters: Vec<&pb::Member> = self.members.iter().filter(|member| !member.is_learner).collect();
        let (up, down): (Vec<&pb::Member>, Vec<&pb::Member>) =
            voters.iter().partition(|member| self.answers(member.id));
        let quorum = voters.len() / 2 + 1;
        if up.len() >= quorum {
            return None;
        }
        let lack = quorum - up.len();
        let names: Vec<String> = up.iter().map(|member| name(member)).collect();
        let silent: Vec<String> = down.iter().map(|member| self.silence(member)).collect();
        let only = if names.len() == 1 { "answers" } else { "answer" };
        let what = format!(
            "of {} only {} {only}; a quorum is {quorum}, so {lack} more {} needed: {}",
            plural(voters.len() as u64, "voter"),
            list(&names),
            if lack == 1 { "is" } else { "are" },
            silent.join("; ")
        );
        let commands: Vec<String> =
            down.iter().take(lack).filter_map(|m| Some(self.start(bare(m.client_ur_ls.first()?)))).collect();
        let separator = if self.scene.lab.is_some() { " && " } else { "; " };
        Some((what, (!commands.is_empty()).then(|| commands.join(separator))))
    }

    /// Where a member does not answer, and why.
    fn silence(&self, member: &pb::Member) -> String {
        let mut probes = self.scene.asked.iter().chain(&self.scene.announced);
        let Some(probe) = probes.find(|probe| announces(member, &probe.endpoint)) else {
            return format!("{} has announced no address", name(member));
        };
        let why = match &probe.reached {
            Reached::NoConnection(Dial::Refused) => "refuses connections".to_owned(),
            Reached::Silent(after) => format!("takes connections and says nothing for {after:?}"),
            Reached::Member(other) => format!("is not where {} answers", self.name(other.id())),
            _ => self.not_a_member(probe).what,
        };
        format!("{} ({}) {why}", name(member), probe.endpoint)
    }

    fn without_leader(&self, own: &str, told: &Told) -> Finding {
        let term = told.status.raft_term;
        if let Some((lacking, fix)) = self.lacking() {
            return found(Stage::Leader, format!("{own} knows no leader (term {term}): {lacking}"), fix);
        }
        let elsewhere = self.told.iter().find(|other| other.status.leader != 0 && other.status.leader != told.id());
        match elsewhere {
            Some(other) => {
                let leader = self.name(other.status.leader);
                let term = other.status.raft_term;
                self.cut_off(
                    Stage::Leader,
                    told,
                    format!("{own} knows no leader, though {leader} leads the others (term {term})"),
                )
            }
            None => {
                let what = format!(
                    "{own} knows no leader (term {term}), though enough members answer: an election is under way, or they \
                     can't reach each other"
                );
                found(
                    Stage::Leader,
                    what,
                    format!("try again; if it stays so, let them reach each other: {}", self.peer_urls(told)),
                )
            }
        }
    }

    /// A member that the others go on without.
    fn cut_off(&self, stage: Stage, told: &Told, what: String) -> Finding {
        let peers = told.inspect.iter().flat_map(|inspect| &inspect.peers);
        let lost: Vec<String> = peers.filter(|peer| !peer.connected).map(|peer| self.name(peer.member_id)).collect();
        let cut = match lost.is_empty() {
            true => ": it is cut off from them".to_owned(),
            false => format!(": it is cut off, and has no connection to {}", list(&lost)),
        };
        found(stage, what + &cut, format!("let it reach, from its host, {}", self.peer_urls(told)))
    }

    /// Where the other members listen to each other.
    fn peer_urls(&self, told: &Told) -> String {
        let others = self.members.iter().filter(|member| member.id != told.id());
        let urls: Vec<String> = others.filter_map(|member| member.peer_ur_ls.first().cloned()).collect();
        list(&urls)
    }

    /// A leader is known, and a linearizable read does not go through.
    fn unread(&self, own: &str, leader: u64, told: &Told) -> Finding {
        let name = self.name(leader);
        let failed = match &told.read {
            Read::Failed(said) => format!("a linearizable read failed ({said})"),
            Read::Silent(after) => format!("a linearizable read had no answer within {after:?}"),
            Read::Took(_) | Read::Untried => "a linearizable read failed".to_owned(),
        };
        if let Some((lacking, fix)) = self.lacking() {
            return found(Stage::Quorum, format!("{own} takes {name} for the leader, but {failed}: {lacking}"), fix);
        }
        if !self.answers(leader) {
            let member = self.members.iter().find(|member| member.id == leader);
            let silence = member.map_or_else(|| format!("{name} is unknown"), |member| self.silence(member));
            let fix = member.and_then(|member| Some(self.start(bare(member.client_ur_ls.first()?))));
            return found(
                Stage::Quorum,
                format!("{failed}: the leader is gone, and the others elect another: {silence}"),
                fix,
            );
        }
        let others_read = self.told.iter().any(|other| other.id() != told.id() && matches!(other.read, Read::Took(_)));
        if others_read {
            return self.cut_off(Stage::Quorum, told, format!("{failed} through {own}, and others serve it"));
        }
        let what = format!("{failed}: enough members answer, but no quorum confirmed that {name} leads");
        found(
            Stage::Quorum,
            what,
            format!("try again; if it stays so, let members reach each other: {}", self.peer_urls(told)),
        )
    }

    /// How fast a member is that serves.
    fn speed(&self, own: &str, told: &Told) -> Result<String, Finding> {
        let sync = told.inspect.as_ref().map_or(0, |inspect| inspect.sync_p99_us);
        let took = match told.read {
            Read::Took(took) => took,
            Read::Untried | Read::Failed(_) | Read::Silent(_) => Duration::ZERO,
        };
        if sync > SLOW_SYNC_US {
            let what = format!(
                "{own} works, but its disk is slow: of 100 syncs one takes {} or more",
                millis(Duration::from_micros(sync))
            );
            let fix = "give its data directory a disk of its own, an SSD if it has none".to_owned();
            return Err(found(Stage::Speed, what, fix));
        }
        if took > SLOW_READ {
            let what = format!("{own} works, but slowly: a linearizable read took {}", millis(took));
            return Err(found(
                Stage::Speed,
                what,
                "see what keeps the members' hosts or the network busy: quorate status".to_owned(),
            ));
        }
        let role = if told.status.leader == told.id() {
            "leads".to_owned()
        } else {
            format!("follows {}", self.name(told.status.leader))
        };
        Ok(format!("{own} {role} (term {}); a linearizable read took {}", told.status.raft_term, millis(took)))
    }
}

fn peer_port(port: &str, members: &[pb::Member]) -> Finding {
    let is_at = |url: &String| url.rsplit_once(':').is_some_and(|(_, at)| at.trim_end_matches('/') == port);
    let own = members.iter().find(|member| member.peer_ur_ls.iter().any(is_at));
    let who = own.map_or_else(|| "a member".to_owned(), name);
    let client = own.and_then(|member| member.client_ur_ls.first());
    let fix = client.map_or("give the member's client address: --endpoints HOST:2379".to_owned(), |url| {
        format!("--endpoints {}", bare(url))
    });
    found(Stage::Grpc, format!("port {port} is where {who} talks to the other members, not to clients"), fix)
}

fn millis(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros < 10_000 {
        format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
    } else {
        format!("{} ms", micros / 1000)
    }
}
