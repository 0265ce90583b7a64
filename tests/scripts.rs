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
//! From the literature, numbered as the scripts' first lines quote them (5A.1 …). What speaks of snapshots, membership
//! and learners (6, 7, 13, 14, 18–21, 24) waits for those; 26 and later are for real processes.
//!
//! | scenario | scripts |
//! |---|---|
//! | 1 durable grant | `vote_is_durable`, `vote_within_a_term` |
//! | 2 figure 8 | `figure_8` |
//! | 3 up-to-date vote | `vote_up_to_date` (asked), `vote_checks_the_log_again` (voted) |
//! | 4 pre-vote does no harm | `prevote_does_no_harm` |
//! | 5 leader of a lower term | `term_that_ran_ahead`, `stale_candidate_low_term` |
//! | 8 reordered shorter append | `append_late_and_short`: acknowledged is what was ever verified against this leader, so 10 where others say 5 |
//! | 9 divergent tails | `figure_7` |
//! | 10 window full | `window_full`: the empty append needs no room, so it need not wait for a heartbeat |
//! | 11 async disk ABA | `disk_overwritten_and_back` |
//! | 12 leader's slow disk | `disk_stall_of_the_leader` |
//! | 15 ReadIndex before the no-op | `read_before_the_noop` |
//! | 16 read on a minority leader | `read_on_a_minority_leader`: the read does not fail, it asks the new leader |
//! | 17 batch of reads | `reads_share_a_round`, `reads_by_the_thousand` |
//! | 22 transfer | `transfer`, `transfer_to_one_behind`, `transfer_to_a_dead_one`, `transfer_dies_with_the_role` |
//! | 23 uncommitted limit | `uncommitted_limit` |
//! | 25 ancient traffic | `ancient_traffic`, `ancient_traffic_of_ten_terms` |
//!
//! # Verbs
//!
//! | verb | meaning |
//! |---|---|
//! | `cluster n1 n2 n3 [timeout=1s] [inflight=N] …` | members with empty disks, started; `down` leaves them unstarted |
//! | `disk n1 term=T [vote=n2] log="1 1 2"` | (before `start`) a disk as earlier terms may have left it |
//! | `start n1 …`, `crash n1 [torn]`, `restart n1 [lose=N] [floor=5@3] [applied=N]` | lives; a crash loses what is not durable |
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
use quorate::rng::{Rng, Seed};
use quorate::time::Duration;
use std::error::Error;
use world::{Filter, Id, World};

type Fallible<T> = Result<T, Box<dyn Error>>;

fn id(name: &str) -> Fallible<Id> {
    let number = name.strip_prefix('n').ok_or_else(|| format!("not a member: {name}"))?;
    Ok(number.parse()?)
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
        members.iter().for_each(|n| self.world.add(*n));
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
                let line = format!("n{n}     disk: term={} vote={vote} [{}]", disk.hard.term, entries.join(", "));
                self.world.line(line);
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
    append_late_and_short
    append_lost_is_noticed
    append_probe_once
    caught_up_after_unreachable
    check_quorum
    commit_not_beyond_the_verified
    disk_overwritten_and_back
    disk_reports_late
    disk_stall_of_a_follower
    disk_stall_of_the_leader
    election
    far_behind_reads_the_disk
    figure_7
    figure_8
    former_life_is_not_heard
    forward_once
    forward_not_refused_by_a_former_leader
    hint_granter_holds_back
    hint_killed_leader
    hint_live_stream_refuses
    hint_newborn_asks_soon
    hint_once_per_leader_life
    hint_three_retries
    late_answers_move_nothing
    match_never_goes_back
    one_way_cut
    prevote_does_no_harm
    prevote_grants_the_known_leader
    prevote_late_answer
    read_answer_to_a_former_life
    read_asks_again
    read_before_the_noop
    read_on_a_minority_leader
    read_waits_until_applied
    reads_by_the_thousand
    reads_need_a_quorum
    reads_share_a_round
    restart_is_follower
    restarted_follower_keeps_its_log
    session_ends_with_the_life
    short_log
    single_member_waits_for_its_disk
    space_low
    stale_candidate_low_term
    sticky_while_the_leader_lives
    term_before_entries
    term_that_ran_ahead
    transfer
    transfer_dies_with_the_role
    transfer_to_a_dead_one
    transfer_to_one_behind
    uncommitted_limit
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
