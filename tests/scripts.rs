//! Golden scripts for the Raft core: one file per law, each a small drama that can be read aloud.
//!
//! A script (`tests/scripts/raft/*`) drives a whole cluster by hand and holds the printed trace. What makes them worth the
//! reading is that *every order is an input*: which message arrives first, which is lost or comes twice, and when a disk
//! finishes a write. The world behind the verbs (`scripts/world.rs`) also checks the laws of Raft after every turn, so a
//! script can't record a violation of those.
//!
//! # How to read a trace
//!
//! ```text
//! n1@1→n2   Append s1#1 after 0@0 [1@1] commit=0     delivered; n1 says it in term 1
//! n1@1⋯n2   …                                        sent by this verb and still on its way
//! n2@1⌛n1   …, after w1                              said, but held until the sender's write 1 is durable
//! n1@1✗n2   …                                        lost
//! n2     writes w1 term=1 vote=n1 [1@1]              handed to the disk by this verb, not durable
//! n2     wrote w1 …                                  durable
//! ```
//!
//! `3@2` is index 3 of term 2; `s1#2` is the second append of session 1; `c1.2` is the second campaign of the asker's first
//! life. The last line of a verb's output is what it left open.
//!
//! # How to change one
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test scripts` writes what the core does now into the files. Then read the diff line by
//! line against the protocol: a golden file that records a bug is worse than none. A new script is a new file whose name
//! is added to the list below.
//!
//! # The scenarios that every core must pass
//!
//! From the literature, numbered as the scripts' first lines quote them (5A.1 …); 26 and later are for real processes.
//!
//! | scenario | scripts |
//! |---|---|
//! | 1 durable grant | `vote_is_durable`, `vote_within_a_term` |
//! | 2 figure 8 | `figure_8` |
//! | 3 up-to-date vote | `vote_up_to_date` (asked), `vote_checks_the_log_again` (voted) |
//! | 4 pre-vote does no harm | `prevote_does_no_harm` |
//! | 5 leader of a lower term | `term_that_ran_ahead`, `stale_candidate_low_term` |
//! | 6 removed node is quiet | `removed_while_away` (what it learns, it learns from the others' doors), `removed_are_told` |
//! | 7 learner vote | `learner_must_vote`, `unknown_member_votes` |
//! | 8 reordered shorter append | `append_late_and_short`: acknowledged is what was ever verified against this leader, so 10 where others say 5 |
//! | 9 divergent tails | `figure_7` |
//! | 10 window full | `window_full`: the empty append needs no room, so it need not wait for a heartbeat |
//! | 11 async disk ABA | `disk_overwritten_and_back` |
//! | 12 leader's slow disk | `disk_stall_of_the_leader` |
//! | 13 snapshot at the tip | `compacted_follower_installs` |
//! | 14 snapshot then old append | `append_below_the_base`, `committed_is_never_replaced`, `base_is_never_replaced` |
//! | 15 ReadIndex before the no-op | `read_before_the_noop` |
//! | 16 read on a minority leader | `read_on_a_minority_leader`: the read does not fail, it asks the new leader |
//! | 17 batch of reads | `reads_share_a_round`, `reads_by_the_thousand` |
//! | 18 joint replace of two | `joint_replace_of_two`, `joint_elections_need_both` |
//! | 19 leader removes itself | `leader_removes_itself`, `leader_removes_itself_alone` |
//! | 20 config rollback | `configuration_rolled_back` |
//! | 21 Ongaro guard | `change_waits_for_the_term` |
//! | 22 transfer | `transfer`, `transfer_to_one_behind`, `transfer_to_a_dead_one`, `transfer_dies_with_the_role` |
//! | 23 uncommitted limit | `uncommitted_limit` |
//! | 24 crash at every write of install | `install_crashes`: one step here; the steps are the storage's and the simulator's |
//! | 25 ancient traffic | `ancient_traffic`, `ancient_traffic_of_ten_terms` |
//!
//! # Verbs
//!
//! | verb | meaning |
//! |---|---|
//! | `cluster n1 n2 n3 [timeout=1s] [inflight=N] …` | members with empty disks, started; `down` leaves them unstarted |
//! | `disk n1 term=T [vote=n2] log="1 1 2"` | (before `start`) a disk as earlier terms may have left it |
//! | `start n1 …`, `crash n1 [torn]`, `restart n1 [lose=N] [floor=5@3] [applied=N]` | lives; a crash loses what is not durable |
//! | `join n4` | a member with an empty disk that knows nobody, started |
//! | `compact n1 5` | n1's shell lets the log up to 5 go |
//! | `install n3 from=n1 [at=5]` | n3 is opened again on n1's state, as after it has taken that over |
//! | `change n1 voters=n1,n2 [learners=n3,n4+] [version=N]` | proposes a configuration; `+` becomes a voter by itself |
//! | `members [n1]`, `caught-up n1 n4` | who belongs to the cluster, by whose log; whether n1 would let n4 vote |
//! | `campaign n1`, `tick n1` | moves n1's clock, and no other, to its next deadline |
//! | `advance [n1 …] 100ms` | moves all (or these) clocks, stopping at each deadline |
//! | `run 3s` | everything at once: clocks, messages, disks; prints events only |
//! | `elect n1` | an election that n1 wins, all told silently |
//! | `propose n1 x …`, `forward n2 x …`, `read n1 r1 … [count=N]` | requests; `fill n1 count=N bytes=N` many |
//! | `deliver`, `drop`, `dup` `[from=] [to=] [type=] [term=] [skip=N] [n=N]` | messages on their way |
//! | `replay […] [life=N] [shuffle=SEED]` | delivers again what ever left a member, in disorder if told so |
//! | `write n1 [N]`, `stall n1`, `unstall n1` | finishes n1's (oldest N) writes; `stabilize` passes over a stalled disk |
//! | `again n1 w1` | n1's disk reports write 1 once more |
//! | `lost n2 n1 [life=N]`, `unreachable n1 n2`, `space n1 low`, `transfer n1 [n2]` | what the shell tells the core |
//! | `partition n1 n2`, `cut n1 n2`, `heal` | these from the others; one way; none |
//! | `stabilize [n1 n2]` | delivers and writes (among these) until nothing is left; no clock moves |
//! | `load n1` | reads what n1's core asked its disk for |
//! | `status [n1]`, `disk-of n1`, `patience n1` | what there is to see |

#[path = "scripts/print.rs"]
mod print;
#[path = "scripts/world.rs"]
mod world;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command, Context};
use quorate::ids::{Incarnation, Index, MemberId, Position, Term, WriteSeq};
use quorate::raft::Change;
use quorate::raft::quorum::Promotion;
use quorate::rng::{Rng, Seed};
use quorate::time::Duration;
use std::collections::BTreeMap;
use std::error::Error;
use world::{Filter, Id, World};

type Fallible<T> = Result<T, Box<dyn Error>>;

fn id(name: &str) -> Fallible<Id> {
    let number = name.strip_prefix('n').ok_or_else(|| format!("not a member: {name}"))?;
    Ok(number.parse()?)
}

fn ids(text: &str) -> Fallible<Vec<Id>> {
    text.split(',').map(id).collect()
}

/// `n4,n5+`: the second becomes a voter by itself.
fn learners(text: &str) -> Fallible<BTreeMap<MemberId, Promotion>> {
    let learner = |name: &str| {
        let promotion = if name.ends_with('+') { Promotion::WhenCaughtUp } else { Promotion::OnRequest };
        Ok((MemberId(id(name.trim_end_matches('+'))?), promotion))
    };
    text.split(',').map(learner).collect()
}

fn duration(text: &str) -> Fallible<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return Ok(Duration::from_millis(ms.parse()?));
    }
    let seconds = text.strip_suffix('s').ok_or_else(|| format!("not a duration: {text}"))?;
    Ok(Duration::from_secs(seconds.parse()?))
}

fn position(text: &str) -> Fallible<Position> {
    let (index, term) = text.split_once('@').ok_or_else(|| format!("not a position: {text}"))?;
    Ok(Position { index: Index(index.parse()?), term: Term(term.parse()?) })
}

/// What is left of a command's arguments.
struct Args<'a>(ArgumentConsumer<'a>);

impl Args<'_> {
    fn word(&mut self) -> Option<String> {
        self.0.next_pos().map(String::from)
    }

    fn need(&mut self) -> Fallible<String> {
        self.word().ok_or_else(|| "an argument is missing".into())
    }

    fn member(&mut self) -> Fallible<Id> {
        id(&self.need()?)
    }

    fn words(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.word()).collect()
    }

    fn members(&mut self) -> Fallible<Vec<Id>> {
        self.words().iter().map(|name| id(name)).collect()
    }

    fn key<T>(&mut self, key: &str, parse: impl Fn(&str) -> Fallible<T>) -> Fallible<Option<T>> {
        self.0.take_key(key).map(parse).transpose()
    }

    fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(&mut self, key: &str) -> Fallible<Option<T>> {
        self.key(key, |text| Ok(text.parse()?))
    }

    fn filter(&mut self) -> Fallible<Filter> {
        Ok(Filter {
            from: self.key("from", id)?,
            to: self.key("to", id)?,
            kind: self.key("type", |kind| Ok(kind.to_string()))?,
            term: self.number("term")?,
            life: self.number("life")?,
            skip: self.number("skip")?.unwrap_or(0),
            count: self.number("n")?,
        })
    }
}

#[derive(Default)]
struct Script {
    world: World,
    reads: u64,
}

impl Script {
    fn execute(&mut self, verb: &str, a: &mut Args) -> Fallible<()> {
        match verb {
            "cluster" => self.cluster(a)?,
            "disk" => self.disk(a)?,
            "start" => a.members()?.into_iter().for_each(|n| self.world.start(n, None)),
            "crash" => match (a.member()?, a.word().as_deref()) {
                (n, None) => self.world.crash(n),
                (n, Some("torn")) => self.world.crash_torn(n),
                _ => return Err("crash n1 [torn]".into()),
            },
            "restart" => self.restart(a)?,
            "join" => a.members()?.into_iter().for_each(|n| {
                self.world.add(n, true);
                self.world.start(n, None);
            }),
            "install" => {
                let (from, at) = (a.key("from", id)?.ok_or("from is missing")?, a.number("at")?);
                self.world.install(a.member()?, from, at.map(Index));
            }
            "compact" => {
                let (n, to) = (a.member()?, a.need()?.parse()?);
                self.world.raft(n).compact_to(Index(to));
                self.world.turn(n);
            }
            "change" => self.change(a)?,
            "campaign" | "tick" => self.world.tick(a.member()?),
            "elect" => self.elect(a)?,
            "advance" => self.advance(a)?,
            "run" => self.run_all(a)?,
            "propose" | "forward" | "fill" | "read" => self.request(verb, a)?,
            "deliver" | "drop" | "dup" | "replay" => self.network(verb, a)?,
            "write" => {
                let (n, count) = (a.member()?, a.word());
                let count = count.map_or(Ok(usize::MAX), |count| count.parse())?;
                self.world.write(n, count);
            }
            "load" => self.world.load(a.member()?),
            "stall" => self.world.member(a.member()?).stalled = true,
            "unstall" => self.world.member(a.member()?).stalled = false,
            "again" => {
                let (n, write) = (a.member()?, a.need()?);
                self.world.report(n, WriteSeq(write.trim_start_matches('w').parse()?));
            }
            "stabilize" => {
                let members = a.members()?;
                let members = if members.is_empty() { self.world.ids() } else { members };
                self.world.stabilize(&members);
            }
            "partition" | "cut" | "heal" => self.partition(verb, a)?,
            "lost" | "unreachable" | "space" | "transfer" => self.tell(verb, a)?,
            _ => self.show(verb, a)?,
        }
        Ok(())
    }

    // ---- lives

    fn cluster(&mut self, a: &mut Args) -> Fallible<()> {
        self.world.limits = world::Limits {
            timeout: a.key("timeout", duration)?,
            inflight: a.number("inflight")?,
            inflight_bytes: a.number("inflight_bytes")?,
            append: a.number("append")?,
            uncommitted: a.number("uncommitted")?,
            memory: a.number("memory")?,
        };
        let down = a.key("down", |_| Ok(()))?.is_some();
        let members = a.members()?;
        members.iter().for_each(|n| self.world.add(*n, false));
        if !down {
            members.into_iter().for_each(|n| self.world.start(n, None));
        }
        Ok(())
    }

    fn disk(&mut self, a: &mut Args) -> Fallible<()> {
        let terms = |text: &str| -> Fallible<Vec<u64>> { text.split_whitespace().map(|t| Ok(t.parse()?)).collect() };
        let (log, vote) = (a.key("log", terms)?.unwrap_or_default(), a.key("vote", id)?);
        let term = a.number("term")?.ok_or("term is missing")?;
        for n in a.members()? {
            self.world.set_disk(n, term, vote, &log);
        }
        Ok(())
    }

    fn restart(&mut self, a: &mut Args) -> Fallible<()> {
        let (floor, lose, applied) = (a.key("floor", position)?, a.number("lose")?, a.number("applied")?);
        let n = a.member()?;
        if self.world.is_up(n) {
            self.world.crash(n);
        }
        let m = self.world.member(n);
        m.disk.entries.truncate(m.disk.entries.len() - lose.unwrap_or(0usize));
        m.applied = applied.map_or(m.applied, Index);
        self.world.start(n, floor);
        Ok(())
    }

    // ---- time

    fn advance(&mut self, a: &mut Args) -> Fallible<()> {
        let mut words = a.words();
        let by = duration(&words.pop().ok_or("a duration is missing")?)?;
        let members = words.iter().map(|name| id(name)).collect::<Fallible<Vec<Id>>>()?;
        let members = if members.is_empty() { self.world.ids() } else { members };
        members.into_iter().for_each(|n| self.world.sleep(n, by));
        Ok(())
    }

    fn run_all(&mut self, a: &mut Args) -> Fallible<()> {
        let time = duration(&a.need()?)?;
        self.world.quiet = true;
        self.world.run(time);
        self.world.show_open();
        self.world.quiet = false;
        Ok(())
    }

    /// Lets one member campaign and everything that follows happen, without a word. It must win.
    fn elect(&mut self, a: &mut Args) -> Fallible<()> {
        let n = a.member()?;
        self.world.tick(n);
        let members = self.world.ids();
        self.world.stabilize(&members);
        self.world.lines.clear();
        self.world.show_open();
        assert!(self.world.raft(n).is_leader(), "n{n} was not elected");
        Ok(())
    }

    // ---- requests

    fn request(&mut self, verb: &str, a: &mut Args) -> Fallible<()> {
        let (count, bytes) = (a.number("count")?.unwrap_or(1usize), a.number("bytes")?);
        let grows = a.key("grows", |text| Ok(text != "no"))?.unwrap_or(true);
        let n = a.member()?;
        if verb == "read" {
            for name in a.words() {
                self.world.member(n).reads.insert(self.reads + 1, name);
                for _ in 0..count {
                    self.reads += 1;
                    self.world.raft(n).read(self.reads);
                }
            }
            self.world.turn(n);
            return Ok(());
        }
        let commands: Vec<Bytes> = match verb {
            "fill" => vec![Bytes::from(vec![b'x'; bytes.unwrap_or(1usize)]); count],
            _ => a.words().into_iter().map(Bytes::from).collect(),
        };
        for data in commands {
            let request = self.world.next_request(n);
            if verb == "forward" {
                let sequence = request.sequence;
                let left = self.world.raft(n).forward(request, data, grows);
                if !left {
                    self.world.line(format!("n{n}     keeps #{sequence}: no leader"));
                }
            } else if !self.world.raft(n).is_leader() {
                self.world.line(format!("n{n}     does not lead"));
            } else if let Err(reason) = self.world.raft(n).propose(request, data, grows) {
                self.world.line(format!("n{n}     refuses: {reason:?}"));
            }
        }
        self.world.turn(n);
        Ok(())
    }

    fn change(&mut self, a: &mut Args) -> Fallible<()> {
        let version = a.number("version")?;
        let voters = a.key("voters", ids)?.unwrap_or_default();
        let learners = a.key("learners", learners)?.unwrap_or_default();
        let n = a.member()?;
        let version = version.unwrap_or(self.world.raft(n).configuration().version());
        let voters = voters.into_iter().map(MemberId).collect();
        let (request, clock) = (self.world.next_request(n), self.world.member(n).clock);
        let change = Change { version, voters, learners };
        if let Err(refusal) = self.world.raft(n).propose_change(clock, request, &change, b"") {
            self.world.line(format!("n{n}     refuses: {refusal:?}"));
        }
        self.world.turn(n);
        Ok(())
    }

    // ---- the network

    fn network(&mut self, verb: &str, a: &mut Args) -> Fallible<()> {
        let filter = a.filter()?;
        if verb == "replay" {
            let mut ancient = self.world.ancient(&filter);
            if let Some(seed) = a.number("shuffle")? {
                let mut rng = Rng::new(Seed(seed));
                for i in 1..ancient.len() {
                    ancient.swap(i, rng.below(i as u64 + 1) as usize);
                }
            }
            ancient.into_iter().for_each(|envelope| self.world.hear(envelope));
            return Ok(());
        }
        if verb == "dup" {
            self.world.copy(&filter);
            return Ok(());
        }
        let taken = self.world.take(&filter);
        assert!(!taken.is_empty(), "no message matches");
        for flying in taken {
            match verb {
                "deliver" => self.world.hear(flying.envelope),
                _ => self.world.lose(&flying.envelope),
            }
        }
        Ok(())
    }

    fn partition(&mut self, verb: &str, a: &mut Args) -> Fallible<()> {
        match verb {
            "heal" => self.world.cuts.clear(),
            "cut" => {
                let link = (a.member()?, a.member()?);
                self.world.cuts.insert(link);
            }
            _ => {
                let side = a.members()?;
                for other in self.world.ids().into_iter().filter(|n| !side.contains(n)) {
                    for n in &side {
                        self.world.cuts.extend([(*n, other), (other, *n)]);
                    }
                }
            }
        }
        Ok(())
    }

    /// What a shell tells a member.
    fn tell(&mut self, verb: &str, a: &mut Args) -> Fallible<()> {
        let life = a.number("life")?;
        let n = a.member()?;
        let clock = self.world.member(n).clock;
        match verb {
            "lost" => {
                let peer = a.member()?;
                let life = life.unwrap_or(self.world.member(peer).life);
                self.world.raft(n).peer_lost(clock, MemberId(peer), Incarnation(life));
            }
            "unreachable" => {
                let peer = a.member()?;
                self.world.raft(n).peer_unreachable(MemberId(peer));
            }
            "space" => {
                let low = a.need()? == "low";
                self.world.raft(n).set_accepting(!low);
            }
            _ => {
                let target = a.word().map(|name| id(&name)).transpose()?;
                let line = match self.world.raft(n).transfer(clock, target.map(MemberId)) {
                    Ok(target) => format!("n{n}     hands over to n{target}"),
                    Err(error) => format!("n{n}     does not hand over: {error:?}"),
                };
                self.world.line(line);
            }
        }
        self.world.turn(n);
        Ok(())
    }

    // ---- what there is to see

    fn show(&mut self, verb: &str, a: &mut Args) -> Fallible<()> {
        match verb {
            "status" => {
                let wanted = a.members()?;
                let wanted = if wanted.is_empty() { self.world.ids() } else { wanted };
                for n in wanted {
                    let line = match &self.world.member(n).raft {
                        Some(raft) => print::status(n, raft),
                        None => format!("n{n}   down"),
                    };
                    self.world.line(line);
                }
            }
            "disk-of" => {
                let n = a.member()?;
                let disk = &self.world.member(n).disk;
                let vote = disk.hard.vote.map_or("–".into(), |v| format!("n{v}"));
                let entries: Vec<String> = disk.entries.iter().map(print::entry).collect();
                let base = if disk.base.index.0 > 0 { format!(" base={}", disk.base) } else { String::new() };
                let line = format!("n{n}     disk: term={} vote={vote}{base} [{}]", disk.hard.term, entries.join(", "));
                self.world.line(line);
            }
            "members" => {
                let wanted = a.members()?;
                let wanted = if wanted.is_empty() { self.world.ids() } else { wanted };
                for n in wanted.into_iter().filter(|n| self.world.is_up(*n)).collect::<Vec<Id>>() {
                    let line = print::membership(n, self.world.raft(n));
                    self.world.line(line);
                }
            }
            "caught-up" => {
                let (n, peer) = (a.member()?, a.member()?);
                let clock = self.world.member(n).clock;
                let is = self.world.raft(n).is_caught_up(clock, MemberId(peer));
                self.world.line(format!("n{n}     says of n{peer}: {}", if is { "caught up" } else { "behind" }));
            }
            "patience" => {
                for n in a.members()? {
                    let clock = self.world.member(n).clock;
                    let timeout = self.world.limits.timeout.unwrap_or(Duration::from_secs(1));
                    let wait = print::until(self.world.raft(n).deadline(), clock);
                    self.world.line(format!("n{n}     waits {}", print::patience(wait, timeout)));
                }
            }
            _ => return Err(format!("no such verb: {verb}").into()),
        }
        Ok(())
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Fallible<String> {
        let mut args = Args(command.consume_args());
        let outcome = self.execute(&command.name, &mut args);
        self.world.show_open();
        let lines = std::mem::take(&mut self.world.lines);
        outcome?;
        args.0.reject_next()?;
        Ok(lines.join("\n"))
    }
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() -> std::io::Result<()> {
                goldenscript::run(&mut Script::default(), concat!("tests/scripts/raft/", stringify!($name)))
            }
        )*

        #[test]
        fn every_script_is_run() -> std::io::Result<()> {
            let listed = [$(stringify!($name)),*];
            for file in std::fs::read_dir("tests/scripts/raft")? {
                let name = file?.file_name().into_string().expect("a script's name is UTF-8");
                assert!(listed.contains(&name.as_str()), "tests/scripts/raft/{name} is not in the list of tests/scripts.rs");
            }
            Ok(())
        }
    };
}

scripts! {
    ack_is_what_was_verified
    ancient_traffic
    ancient_traffic_of_ten_terms
    append_below_the_base
    append_late_and_short
    append_lost_is_noticed
    append_probe_once
    base_is_never_replaced
    caught_up_after_unreachable
    change_refusals
    change_waits_for_the_term
    check_quorum
    commit_not_beyond_the_verified
    committed_is_never_replaced
    compacted_follower_installs
    compaction_keeps_the_last_entry
    compaction_up_to_a_load
    compaction_while_a_load_is_out
    compaction_while_a_probe_is_out
    configuration_rolled_back
    configuration_survives_a_restart
    conflict_hint_below_the_base
    disk_overwritten_and_back
    disk_reports_late
    disk_stall_of_a_follower
    disk_stall_of_the_leader
    election
    far_behind_reads_the_disk
    figure_7
    figure_8
    former_life_is_not_heard
    forward_not_refused_by_a_former_leader
    forward_once
    hint_granter_holds_back
    hint_killed_leader
    hint_live_stream_refuses
    hint_newborn_asks_soon
    hint_once_per_leader_life
    hint_three_retries
    install_brings_a_configuration
    install_by_a_deposed_leader
    install_crashes
    install_is_a_probe
    install_is_told_again
    install_where_the_log_parted
    joint_elections_need_both
    joint_is_left_by_the_next_leader
    joint_replace_of_two
    late_answers_move_nothing
    leader_removes_itself
    leader_removes_itself_alone
    learner_campaigns_never
    learner_counts_nowhere
    learner_must_vote
    match_never_goes_back
    one_way_cut
    prevote_does_no_harm
    prevote_grants_the_known_leader
    prevote_late_answer
    promotion_waits_for_the_log
    read_answer_to_a_former_life
    read_asks_again
    read_before_the_noop
    read_on_a_minority_leader
    read_waits_until_applied
    read_round_of_those_who_stay
    reads_by_the_thousand
    reads_need_a_quorum
    reads_share_a_round
    removed_are_left_alone_while_others_read
    removed_are_told
    removed_while_away
    restart_is_follower
    restarted_follower_keeps_its_log
    session_ends_with_the_life
    short_log
    shrink_to_one_and_grow
    single_member_waits_for_its_disk
    space_low
    stale_candidate_low_term
    sticky_while_the_leader_lives
    stranger_is_heard
    term_before_entries
    term_that_ran_ahead
    transfer
    transfer_dies_with_the_role
    transfer_to_a_dead_one
    transfer_to_one_behind
    uncommitted_limit
    unknown_member_votes
    unreachable_before_the_first_append
    vote_checks_the_log_again
    vote_is_durable
    vote_once_per_term
    vote_survives_the_leader
    vote_up_to_date
    vote_within_a_term
    votes_are_sets
    window_full
}
