//! `quorate status`: a verdict first, then a row per member, then what is wrong and what to do about it.
//!
//! Everything that can be asked is asked at once: the member list, every endpoint (given, listed by a member, or named by
//! the lab's file), and one linearizable read, which is the proof that the cluster works. What came back is judged by pure
//! functions, so the verdicts are tested without a cluster.
//!
//! It works on any etcd as well; what only Quorate tells (sync times, state digests) is left blank there.

use super::exit::{BAD_CONNECTION, Doctor, Failure, SERVER, UNHEALTHY};
use super::lab_file::{self, LabFile, LabState};
use super::output::{Format, plural, print, size, write};
use super::{Global, block_on, go_duration, member};
use crate::client::{Client, Error, Options};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate as own;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use tonic::Code;

/// How long a member may take to answer before it counts as down: a person is waiting.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

/// A member further behind than this is named among the problems.
const LAG_MAX: u64 = 1000;

/// `quorate status`.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate status\n  quorate status -w json --endpoints 10.0.0.1:2379\n\n\
    Exit code: 0 if the cluster works (HEALTHY or DEGRADED), 5 if it does not, 2 if nobody answered.")]
pub struct Args {}

/// What one endpoint said, or why it did not.
#[derive(Clone, Debug)]
struct Answer {
    endpoint: String,
    status: Result<pb::StatusResponse, String>,
    /// Only a Quorate answers this.
    inspect: Option<own::InspectResponse>,
}

/// All that was heard.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// The endpoints that were given, without scheme.
    given: Vec<String>,
    members: Vec<pb::Member>,
    answers: Vec<Answer>,
    /// Why the linearizable read failed.
    read_error: Option<String>,
    lab: Option<LabFile>,
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    name: String,
    role: String,
    endpoint: String,
    id: u64,
    voter: bool,
    up: bool,
    version: String,
    term: u64,
    index: u64,
    applied: u64,
    lag: u64,
    sync_p99_us: Option<u64>,
    db_bytes: i64,
    digest: Option<u64>,
    /// The highest cluster level that it knows; `None` if it did not say.
    level: Option<u32>,
    /// Whether members at the same applied index have the same digest; `None` if there is nobody to compare with.
    agrees: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Healthy,
    Degraded,
    Unavailable,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Healthy => "HEALTHY",
            Verdict::Degraded => "DEGRADED",
            Verdict::Unavailable => "UNAVAILABLE",
        }
    }
}

/// Something that is wrong, and the command that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    what: String,
    next: Option<String>,
}

/// What is made of it.
#[derive(Clone, Debug)]
struct Report {
    verdict: Verdict,
    cluster_id: u64,
    voters: usize,
    can_lose: usize,
    leader: Option<Row>,
    leader_since: Option<Duration>,
    rows: Vec<Row>,
    problems: Vec<Problem>,
    /// The cluster's level, as far as anyone has applied it.
    level: Option<u32>,
}

/// Runs `quorate status`.
pub fn run(global: &Global, _args: Args) -> Result<(), Failure> {
    if global.write_out == Format::Fields {
        return Err(Failure::new(SERVER, "status has no fields form").fix("use -w simple, table or json"));
    }
    let client = global.client()?;
    let lab = lab_file::running().unwrap_or_default().filter(|lab| is_meant(lab, client.endpoints()));
    let heard = block_on(hear(&client, lab))?;
    if heard.answers.iter().all(|answer| answer.status.is_err()) {
        let tried: Vec<String> = heard
            .answers
            .iter()
            .map(|answer| format!("{}: {}", answer.endpoint, answer.status.as_ref().err().map_or("", String::as_str)))
            .collect();
        let failure = Failure::new(BAD_CONNECTION, format!("UNAVAILABLE: nobody answered ({})", tried.join(", ")));
        let failure = failure.fix(match heard.lab {
            Some(_) => "see the lab's members: quorate dev ps",
            None => "start a local cluster: quorate dev\n       or say where one is: --endpoints HOST:PORT",
        });
        return Err(failure.doctor(Doctor::Instead));
    }
    let report = judge(&heard);
    match global.write_out {
        Format::Json => write((to_json(&report).to_string() + "\n").as_bytes())?,
        Format::Simple | Format::Table | Format::Fields => {
            print(to_text(&report, global.write_out == Format::Table))?;
        }
    }
    match report.verdict {
        Verdict::Healthy | Verdict::Degraded => Ok(()),
        Verdict::Unavailable => Err(Failure::silent(UNHEALTHY)),
    }
}

/// Whether any of `endpoints` is the lab's: whoever asks about another cluster must not hear of the lab.
fn is_meant<'a>(lab: &LabFile, mut endpoints: impl Iterator<Item = &'a str>) -> bool {
    endpoints.any(|endpoint| lab.node_at(endpoint).is_some())
}

fn bare(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

async fn hear(client: &Client, lab: Option<LabFile>) -> Heard {
    let options = Options { command_timeout: ANSWER_WITHIN, try_timeout: ANSWER_WITHIN / 3, ..Options::default() };
    let given: Vec<String> = client.endpoints().map(str::to_owned).collect();
    // The endpoints were parsed once already, so this can only succeed.
    let client = Client::new(&given, options).map_or_else(|_| client.clone(), Client::fail_fast);
    let members = client.member_list(false).await.map(|list| list.members).unwrap_or_default();
    let mut endpoints: Vec<String> = Vec::new();
    let listed = members.iter().flat_map(|member| member.client_ur_ls.iter().cloned());
    let in_lab = lab.iter().flat_map(LabFile::endpoints);
    for endpoint in given.iter().cloned().chain(listed).chain(in_lab) {
        if !endpoints.iter().any(|known| bare(known) == bare(&endpoint)) {
            endpoints.push(endpoint);
        }
    }
    let ask = |client: Client, endpoint: String| async move {
        let (status, inspect) = tokio::join!(client.status(&endpoint), client.inspect(&endpoint));
        let status = status.map_err(|e| e.cause().trim_start_matches(&format!("{endpoint}: ")).to_owned());
        Answer { endpoint: bare(&endpoint).to_owned(), status, inspect: inspect.ok() }
    };
    let read = client.range(pb::RangeRequest { key: "health".into(), ..Default::default() });
    let (answers, read) = tokio::join!(member::at_once(&client, endpoints, ask), read);
    let read_error = match read {
        Ok(_) => None,
        Err(Error::Rejected(status)) if status.code() == Code::PermissionDenied => None,
        Err(e) => Some(e.cause()),
    };
    let given = given.iter().map(|endpoint| bare(endpoint).to_owned()).collect();
    Heard { given, members, answers, read_error, lab }
}

fn judge(heard: &Heard) -> Report {
    let mut rows = rows(heard);
    compare_digests(&mut rows);
    let voters = rows.iter().filter(|row| row.voter).count();
    let up = rows.iter().filter(|row| row.voter && row.up).count();
    let quorum = voters / 2 + 1;
    let leader = rows.iter().filter(|row| row.up && row.role == "leader").max_by_key(|row| row.term).cloned();
    let problems = problems(heard, &rows, up.checked_sub(quorum), leader.is_some());
    let verdict = match problems.is_empty() {
        _ if up < quorum || leader.is_none() || heard.read_error.is_some() => Verdict::Unavailable,
        true => Verdict::Healthy,
        false => Verdict::Degraded,
    };
    let header = |answer: &Answer| answer.status.as_ref().ok().and_then(|status| status.header);
    let since = |row: &Row| {
        let inspects = heard.answers.iter().filter_map(|answer| answer.inspect.as_ref());
        inspects.filter(|inspect| inspect.member_id == row.id).map(|i| Duration::from_millis(i.leader_since_ms)).next()
    };
    Report {
        verdict,
        cluster_id: heard.answers.iter().find_map(header).map_or(0, |header| header.cluster_id),
        voters,
        can_lose: up.saturating_sub(quorum),
        leader_since: leader.as_ref().and_then(since),
        leader,
        rows,
        problems,
        level: heard.answers.iter().filter_map(|answer| Some(answer.inspect.as_ref()?.cluster_level)).max(),
    }
}

/// A row per member; an answer from somebody who is no member (of another cluster, or removed) has none.
fn rows(heard: &Heard) -> Vec<Row> {
    let commit = |answer: &Answer| answer.status.as_ref().map_or(0, |status| status.raft_index);
    let newest = heard.answers.iter().map(commit).max().unwrap_or(0);
    // Who joins is a member to etcd's clients, and votes only later: who knows most tells.
    let inspects = heard.answers.iter().filter_map(|answer| answer.inspect.as_ref());
    let told = inspects.filter(|inspect| !inspect.voters.is_empty()).max_by_key(|inspect| inspect.applied_index);
    let votes = |member: &pb::Member| told.map_or(!member.is_learner, |told| told.voters.contains(&member.id));
    let row = |member: &pb::Member| {
        let mine = heard.answers.iter().find(|answer| {
            let id =
                answer.status.as_ref().ok().and_then(|status| status.header.as_ref()).map(|header| header.member_id);
            id == Some(member.id)
        });
        let mut row = Row { id: member.id, voter: votes(member), ..Row::default() };
        row.name = if member.name.is_empty() { format!("{:x}", member.id) } else { member.name.clone() };
        row.role = "down".to_owned();
        // A member may have addresses for several networks: this one's is the one that was given.
        let urls = || member.client_ur_ls.iter().map(|url| bare(url));
        let own = urls().find(|url| heard.given.iter().any(|given| given == url)).or(urls().next());
        row.endpoint = own.unwrap_or_default().to_owned();
        let Some((answer, Ok(status))) = mine.map(|answer| (answer, answer.status.as_ref())) else { return row };
        row.up = true;
        row.role = match status.leader {
            _ if status.is_learner => "learner",
            leader if leader == member.id => "leader",
            0 => "no leader",
            _ => "follower",
        }
        .to_owned();
        row.endpoint = answer.endpoint.clone();
        row.version = status.version.clone();
        (row.term, row.index, row.applied) = (status.raft_term, status.raft_index, status.raft_applied_index);
        row.db_bytes = status.db_size;
        if let Some(inspect) = &answer.inspect {
            row.role = match (status.is_learner, row.voter) {
                (true, _) => "learner".to_owned(),
                (false, false) => "joining".to_owned(),
                (false, true) => inspect.role.clone(),
            };
            row.version = inspect.version.clone();
            (row.term, row.index, row.applied) = (inspect.term, inspect.last_index, inspect.applied_index);
            row.sync_p99_us = Some(inspect.sync_p99_us);
            row.db_bytes += i64::try_from(inspect.log_bytes).unwrap_or(i64::MAX);
            row.digest = Some(inspect.digest);
            row.level = Some(inspect.level);
        }
        row.lag = newest.saturating_sub(row.applied);
        row
    };
    let mut rows: Vec<Row> = heard.members.iter().map(row).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// Members that have applied the same entries must be in the same state.
fn compare_digests(rows: &mut [Row]) {
    let mut at: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for row in rows.iter() {
        if let Some(digest) = row.digest {
            at.entry(row.applied).or_default().push(digest);
        }
    }
    for row in rows.iter_mut().filter(|row| row.digest.is_some()) {
        let digests = &at[&row.applied];
        row.agrees = (digests.len() > 1).then(|| digests.iter().all(|digest| *digest == digests[0]));
    }
}

/// Whose state a quorum has found to be wrong.
fn quarantined(name: &str, checkpoint: u64) -> String {
    format!(
        "{name} is in quarantine: after entry {checkpoint} it had another state than a quorum. It votes, but serves nothing \
         until it has taken over the leader's"
    )
}

/// How far a member has taken over a state, and when it will be done.
fn installs(row: &Row, told: &own::InstallStatus, rows: &[Row]) -> String {
    let of = rows.iter().find(|row| row.id == told.from).map_or("the leader", |row| &row.name);
    let bytes = |bytes: u64| size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let (done, total) = (told.done_bytes, told.total_bytes.max(told.done_bytes).max(1));
    let rate = u128::from(done) * 1000 / u128::from(told.elapsed_ms.max(1));
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    let left =
        if rate == 0 { "an unknown time".to_owned() } else { format!("about {} s", (total - done).div_ceil(rate)) };
    let history = [(told.resumed, "went on with another sender"), (told.begun.saturating_sub(1), "began anew")];
    let history = history.iter().filter(|(count, _)| *count > 0);
    let history: String = history.map(|(count, what)| format!("It {what} {}. ", plural(*count, "time"))).collect();
    let effect = if told.hollow { "It serves nothing until then." } else { "Until then it serves what it had." };
    format!(
        "{} takes over the state of {of}: {} of about {} ({} %), {}/s, {left} left. {history}{effect}",
        row.name,
        bytes(done),
        bytes(total),
        u128::from(done) * 100 / u128::from(total),
        bytes(rate),
    )
}

fn problems(heard: &Heard, rows: &[Row], spare: Option<usize>, has_leader: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |what: String, next: Option<String>| problems.push(Problem { what, next });
    if heard.members.is_empty() {
        add("no member could list the members".to_owned(), None);
    }
    for row in rows.iter().filter(|row| !row.up) {
        let effect = match spare {
            _ if !row.voter => "It is a learner: nothing depends on it.",
            None => "Too few members are up: writes and linearizable reads are refused.",
            Some(0) => "Losing one more member stops writes.",
            Some(_) => "The cluster works without it.",
        };
        let (cause, next) = why_down(heard, row);
        add(format!("{} does not answer at {}: {cause}. {effect}", row.name, row.endpoint), next);
    }
    for (endpoint, cause) in silent_strangers(heard) {
        add(format!("{endpoint}, which was given and which no member has announced, does not answer: {cause}"), None);
    }
    if !has_leader && spare.is_some() {
        add(
            "enough members are up, but none leads: an election is under way, or they can't reach each other"
                .to_owned(),
            None,
        );
    } else if let Some(error) = &heard.read_error {
        add(format!("a linearizable read failed: {error}"), None);
    }
    for row in rows.iter().filter(|row| row.agrees == Some(false)) {
        add(
            format!(
                "{} has another state than its peers after entry {}: {:016x}",
                row.name,
                row.applied,
                row.digest.unwrap_or(0)
            ),
            None,
        );
    }
    let inspects = || heard.answers.iter().filter_map(|answer| answer.inspect.as_ref());
    let install =
        |id: u64| inspects().filter(|inspect| inspect.member_id == id).find_map(|inspect| inspect.install.as_ref());
    for inspect in inspects().filter(|inspect| inspect.differing_checkpoint > 0) {
        if let Some(row) = rows.iter().find(|row| row.id == inspect.member_id) {
            add(quarantined(&row.name, inspect.differing_checkpoint), None);
        }
    }
    for (row, told) in rows.iter().filter_map(|row| Some((row, install(row.id)?))) {
        add(installs(row, told, rows), None);
    }
    for row in rows.iter().filter(|row| row.up && row.lag > LAG_MAX && install(row.id).is_none()) {
        add(format!("{} is {} entries behind", row.name, row.lag), None);
    }
    for answer in &heard.answers {
        for error in answer.status.iter().flat_map(|status| &status.errors) {
            add(format!("{}: {}", answer.endpoint, error.trim()), None);
        }
        let known = |id| heard.members.iter().any(|member| member.id == id);
        match answer.status.as_ref().ok().and_then(|status| status.header.as_ref()) {
            Some(header) if !heard.members.is_empty() && !known(header.member_id) => {
                add(
                    format!("{} answers, but is no member of this cluster ({:x})", answer.endpoint, header.member_id),
                    None,
                );
            }
            _ => {}
        }
    }
    problems
}

/// Endpoints that were given and are silent, and whose they are nobody knows: no member has announced them.
fn silent_strangers(heard: &Heard) -> impl Iterator<Item = (&str, &str)> {
    let announced =
        |endpoint: &str| heard.members.iter().any(|m| m.client_ur_ls.iter().any(|url| bare(url) == endpoint));
    heard.answers.iter().filter_map(move |answer| match &answer.status {
        Err(cause) if heard.given.contains(&answer.endpoint) && !announced(&answer.endpoint) => {
            Some((answer.endpoint.as_str(), cause.as_str()))
        }
        Ok(_) | Err(_) => None,
    })
}

/// Why a member does not answer, and what brings it back: in the lab, the command.
fn why_down(heard: &Heard, row: &Row) -> (String, Option<String>) {
    let answer = heard.answers.iter().find(|answer| answer.endpoint == row.endpoint);
    let cause = match answer.map(|answer| &answer.status) {
        Some(Err(cause)) => cause.clone(),
        Some(Ok(_)) => "somebody else answers there".to_owned(),
        None => "it has announced no address yet".to_owned(),
    };
    let next = match heard.lab.as_ref().map(|lab| lab.node_at(&row.endpoint)) {
        Some(node) => node.map(|node| match node.state {
            LabState::Paused => format!("quorate dev resume {}", node.name),
            LabState::Starting | LabState::Running => format!("quorate dev logs {}", node.name),
            LabState::Stopped | LabState::Killed | LabState::Exited => format!("quorate dev start {}", node.name),
        }),
        None => Some(format!("start {} where it runs; if it ends by itself, its log says why", row.name)),
    };
    (cause, next)
}

fn to_text(report: &Report, boxed: bool) -> String {
    let colour = match report.verdict {
        Verdict::Healthy => anstyle::AnsiColor::Green,
        Verdict::Degraded => anstyle::AnsiColor::Yellow,
        Verdict::Unavailable => anstyle::AnsiColor::Red,
    };
    let bold = colour.on_default().bold();
    let can_lose = match report.verdict {
        Verdict::Unavailable => String::new(),
        _ => format!(" · can lose {}", plural(report.can_lose as u64, "more member")),
    };
    let leader = report.leader.as_ref().map_or("no leader".to_owned(), |leader| {
        let whole_seconds = |since: Duration| Duration::from_secs(since.as_secs());
        let since = report.leader_since.map(|since| format!(", {}", go_duration::format(whole_seconds(since))));
        format!("leader {} (term {}{})", leader.name, leader.term, since.unwrap_or_default())
    });
    let verdict = report.verdict.name();
    let voters = plural(report.voters as u64, "voter");
    let mut text =
        format!("{bold}{verdict}{bold:#}  cluster {:x} · {voters}{can_lose} · {leader}\n", report.cluster_id);
    text += &to_table(&report.rows, boxed);
    if let Some(waits) = waits_for_upgrade(report) {
        _ = writeln!(text, "{waits}");
    }
    for problem in &report.problems {
        _ = writeln!(text, "{bold}!{bold:#} {}", problem.what);
        if let Some(next) = &problem.next {
            _ = writeln!(text, "  next: {next}");
        }
    }
    text
}

/// Who holds the cluster at its level, if others know a higher one.
fn waits_for_upgrade(report: &Report) -> Option<String> {
    let (level, newest) = (report.level?, report.rows.iter().filter_map(|row| row.level).max()?);
    let holds = report.rows.iter().filter(|row| row.level.is_none_or(|known| known < newest));
    let holds: Vec<String> = holds.map(|row| format!("{} ({})", row.name, known(row))).collect();
    let waits = level < newest && !holds.is_empty();
    waits.then(|| format!("level {level}: it rises to {newest} when every member knows that; {}", holds.join(", ")))
}

fn known(row: &Row) -> String {
    row.level.map_or("did not say".to_owned(), |level| format!("knows up to {level}"))
}

fn to_table(rows: &[Row], boxed: bool) -> String {
    const TITLES: [&str; 11] =
        ["NAME", "ROLE", "ENDPOINT", "VER", "TERM", "INDEX", "APPLIED", "LAG", "SYNC p99", "DB", "STATE HASH"];
    let mut table = Table::new();
    table.load_style(if boxed { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING });
    table.set_header(TITLES);
    for row in rows {
        let blank = || "-".to_owned();
        let shown = |text: String| if row.up { text } else { blank() };
        let hash = match (row.digest, row.agrees) {
            (None, _) => blank(),
            (Some(_), Some(true)) => format!("✓ @{}", row.applied),
            (Some(_), Some(false)) => format!("✗ @{}", row.applied),
            (Some(digest), None) => format!("{:08x} @{}", digest >> 32, row.applied),
        };
        let sync = match row.sync_p99_us {
            None => blank(),
            Some(us) if us < 1000 => format!("{us} µs"),
            Some(us) => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        };
        table.add_row([
            row.name.clone(),
            row.role.clone(),
            row.endpoint.clone(),
            shown(row.version.clone()),
            shown(row.term.to_string()),
            shown(row.index.to_string()),
            shown(row.applied.to_string()),
            shown(row.lag.to_string()),
            sync,
            shown(size(row.db_bytes)),
            hash,
        ]);
    }
    for column in 4..=9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if !boxed && let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn to_json(report: &Report) -> serde_json::Value {
    let row = |row: &Row| {
        json!({
            "name": row.name, "id": format!("{:x}", row.id), "role": row.role, "endpoint": row.endpoint, "up": row.up,
            "voter": row.voter, "version": row.version, "term": row.term, "index": row.index, "applied": row.applied,
            "lag": row.lag, "sync_p99_us": row.sync_p99_us, "db_bytes": row.db_bytes,
            "digest": row.digest.map(|digest| format!("{digest:016x}")), "agrees": row.agrees,
            "level": row.level,
        })
    };
    let problem = |problem: &Problem| json!({ "what": problem.what, "next": problem.next });
    json!({
        "verdict": report.verdict.name(),
        "cluster_id": format!("{:x}", report.cluster_id),
        "level": report.level,
        "voters": report.voters,
        "can_lose": report.can_lose,
        "leader": report.leader.as_ref().map(|leader| &leader.name),
        "term": report.leader.as_ref().map(|leader| leader.term),
        "leader_since_ms": report.leader_since.map(|since| since.as_millis()),
        "members": report.rows.iter().map(row).collect::<Vec<_>>(),
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three members, the third leads; `down` don't answer.
    fn heard(down: &[u64]) -> Heard {
        let members = (1..=3).map(|id| pb::Member {
            id,
            name: format!("n{id}"),
            client_ur_ls: vec![format!("http://127.0.0.1:{id}")],
            ..Default::default()
        });
        let answers = (1..=3).map(|id| Answer {
            endpoint: format!("127.0.0.1:{id}"),
            status: if down.contains(&id) {
                Err("connection refused".to_owned())
            } else {
                let header = pb::ResponseHeader { cluster_id: 0xabc, member_id: id, ..Default::default() };
                let status = pb::StatusResponse { header: Some(header), leader: 3, raft_term: 2, ..Default::default() };
                Ok(pb::StatusResponse { raft_index: 9, raft_applied_index: 9, version: "3.5.30".into(), ..status })
            },
            inspect: None,
        });
        Heard { members: members.collect(), answers: answers.collect(), ..Default::default() }
    }

    fn digest(heard: &mut Heard, id: u64, digest: u64) {
        let role = if id == 3 { "leader" } else { "follower" }.to_owned();
        let inspect = own::InspectResponse { member_id: id, applied_index: 9, digest, role, ..Default::default() };
        heard.answers[id as usize - 1].inspect = Some(inspect);
    }

    #[test]
    fn who_takes_over_a_state_says_how_long_that_takes() {
        let mut heard = heard(&[]);
        digest(&mut heard, 1, 7);
        let install = own::InstallStatus {
            from: 3,
            done_bytes: 30_000_000,
            total_bytes: 120_000_000,
            elapsed_ms: 10_000,
            hollow: true,
            begun: 1,
            ..Default::default()
        };
        let told = |heard: &mut Heard, install: own::InstallStatus| {
            heard.answers[0].inspect.as_mut().unwrap().install = Some(install);
            let report = judge(heard);
            assert_eq!(report.verdict, Verdict::Degraded);
            report.problems[0].what.clone()
        };
        let begins = "n1 takes over the state of n3: 30 MB of about 120 MB (25 %), 3.0 MB/s, about 30 s left. ";
        let effect = "It serves nothing until then.";
        assert_eq!(told(&mut heard, install), format!("{begins}{effect}"));
        let history = "It went on with another sender 1 time. It began anew 2 times. ";
        let tried = own::InstallStatus { begun: 3, resumed: 1, ..install };
        assert_eq!(told(&mut heard, tried), format!("{begins}{history}{effect}"));
    }

    #[test]
    fn who_is_in_quarantine_is_named() {
        let mut heard = heard(&[]);
        digest(&mut heard, 1, 7);
        heard.answers[0].inspect.as_mut().unwrap().differing_checkpoint = 1024;
        let report = judge(&heard);
        assert_eq!(report.verdict, Verdict::Degraded);
        let told = &report.problems[0].what;
        assert!(told.starts_with("n1 is in quarantine: after entry 1024 it had another state"), "{told}");
    }

    #[test]
    fn a_member_that_joins_is_no_voter_yet() {
        let mut heard = heard(&[]);
        digest(&mut heard, 1, 7);
        heard.answers[0].inspect.as_mut().unwrap().voters = vec![2, 3];
        let report = judge(&heard);
        assert_eq!((report.voters, report.can_lose), (2, 0));
        assert!(report.rows.iter().any(|row| row.role == "joining" && !row.voter), "{:?}", report.rows);
    }

    #[test]
    fn verdicts_follow_the_voters_and_the_read() {
        let verdict = |heard: &Heard| {
            let report = judge(heard);
            (report.verdict, report.can_lose, report.problems.len())
        };
        assert_eq!(verdict(&heard(&[])), (Verdict::Healthy, 1, 0));
        assert_eq!(verdict(&heard(&[1])), (Verdict::Degraded, 0, 1));
        assert_eq!(verdict(&heard(&[1, 2])), (Verdict::Unavailable, 0, 2));
        assert_eq!(
            verdict(&heard(&[3])),
            (Verdict::Unavailable, 0, 2),
            "a leader that is named but silent leads nobody"
        );
        let unread = Heard { read_error: Some("etcdserver: request timed out".into()), ..heard(&[]) };
        assert_eq!(verdict(&unread), (Verdict::Unavailable, 1, 1));
    }

    #[test]
    fn a_learner_counts_for_nothing() {
        let mut heard = heard(&[1]);
        heard.members[0].is_learner = true;
        let report = judge(&heard);
        assert_eq!((report.verdict, report.voters, report.can_lose), (Verdict::Degraded, 2, 0));
        assert!(report.problems[0].what.contains("nothing depends on it"), "{:?}", report.problems);
    }

    #[test]
    fn who_holds_the_cluster_at_its_level_is_named() {
        let mut heard = heard(&[]);
        (1..=3).for_each(|id| digest(&mut heard, id, 7));
        let told = |heard: &Heard| waits_for_upgrade(&judge(heard));
        assert_eq!(told(&heard), None);
        for answer in &mut heard.answers[1..] {
            answer.inspect.as_mut().unwrap().level = 1;
        }
        let waits = "level 0: it rises to 1 when every member knows that; n1 (knows up to 0)";
        assert_eq!((told(&heard).as_deref(), judge(&heard).verdict), (Some(waits), Verdict::Healthy));
        heard.answers.iter_mut().for_each(|answer| answer.inspect.as_mut().unwrap().cluster_level = 1);
        assert_eq!(told(&heard), None);
    }

    #[test]
    fn states_that_differ_are_named() {
        let mut heard = heard(&[]);
        (1..=3).for_each(|id| digest(&mut heard, id, 7));
        assert_eq!(judge(&heard).verdict, Verdict::Healthy);
        assert!(judge(&heard).rows.iter().all(|row| row.agrees == Some(true)));
        digest(&mut heard, 2, 8);
        let report = judge(&heard);
        assert_eq!(report.verdict, Verdict::Degraded);
        assert!(report.problems.iter().any(|problem| problem.what.contains("n2 has another state")), "{report:?}");
    }

    /// A lab of one member, killed.
    fn lab() -> LabFile {
        let node = lab_file::LabNode {
            name: "n1".into(),
            client_url: "http://127.0.0.1:1".into(),
            peer_url: String::new(),
            pid: 0,
            data_dir: "/".into(),
            log_path: "/".into(),
            command: vec!["quorate".into(), "serve".into()],
            state: LabState::Killed,
        };
        LabFile { version: 1, pid: 0, started_unix_us: 0, dir: "/".into(), nodes: vec![node] }
    }

    #[test]
    fn a_down_member_is_named_at_the_address_that_was_given() {
        let mut heard = Heard { given: vec!["127.0.0.1:1".into()], ..heard(&[1]) };
        heard.members[0].client_ur_ls = vec!["http://n1:2379".into(), "http://127.0.0.1:1".into()];
        let said = |heard: &Heard| judge(heard).problems.iter().map(|p| p.what.clone()).collect::<Vec<_>>();
        let effect = "Losing one more member stops writes.";
        assert_eq!(said(&heard), [format!("n1 does not answer at 127.0.0.1:1: connection refused. {effect}")]);
        // Only the other network's address was announced: the given one is nobody's, and is not passed over.
        heard.members[0].client_ur_ls.pop();
        let stranger = "127.0.0.1:1, which was given and which no member has announced, does not answer";
        assert_eq!(said(&heard)[1], format!("{stranger}: connection refused"));
    }

    #[test]
    fn the_lab_is_spoken_of_only_to_those_who_ask_its_members() {
        assert!(is_meant(&lab(), ["10.0.0.1:2379", "127.0.0.1:1"].into_iter()));
        assert!(!is_meant(&lab(), ["10.0.0.1:2379", "127.0.0.1:2"].into_iter()));
    }

    #[test]
    fn a_down_member_of_the_lab_comes_with_the_command_that_starts_it() {
        let report = judge(&Heard { lab: Some(lab()), ..heard(&[1]) });
        let text = anstream::adapter::strip_str(&to_text(&report, false)).to_string();
        let expected = "\
DEGRADED  cluster abc · 3 voters · can lose 0 more members · leader n3 (term 2)
NAME  ROLE      ENDPOINT     VER     TERM  INDEX  APPLIED  LAG  SYNC p99   DB  STATE HASH
n1    down      127.0.0.1:1  -          -      -        -    -         -    -  -
n2    follower  127.0.0.1:2  3.5.30     2      9        9    0         -  0 B  -
n3    leader    127.0.0.1:3  3.5.30     2      9        9    0         -  0 B  -
! n1 does not answer at 127.0.0.1:1: connection refused. Losing one more member stops writes.
  next: quorate dev start n1
";
        assert_eq!(text, expected);
        assert_eq!(to_json(&report)["problems"][0]["next"], "quorate dev start n1");
    }
}
