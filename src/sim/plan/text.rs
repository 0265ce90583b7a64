//! A plan as text: one line a setting, one line a fault, `#` begins a comment.
//!
//! What `Display` writes, `FromStr` reads. Times are in milliseconds with three digits behind the point, so a plan that was
//! drawn loses its nanoseconds when it is written: the text is the plan that counts from then on. Members are counted from 1
//! where people read.

use super::{Fault, Group, History, Load, Logs, MAX_NODES, Noise, Plan, Planned, Profile, Timers, Way, Wish, Wishes};
use crate::node::AutoCompaction;
use crate::time::{Duration, Time};
use std::fmt;
use std::str::FromStr;

fn ms(duration: Duration) -> String {
    let us = duration.as_micros();
    format!("{}.{:03}ms", us / 1000, us % 1000)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, nodes, spares, noise, load, timers, .. } = self;
        let profile = if self.profile == Profile::Core { "core" } else { "full" };
        writeln!(f, "profile {profile}\nseed {seed}\nnodes {nodes}\nspares {spares}\nlength {}", ms(self.length))?;
        writeln!(f, "heartbeat {}\nelection {}\ntiny {}", ms(timers.heartbeat), ms(timers.election), self.tiny)?;
        writeln!(
            f,
            "noise loss={} duplicate={} reorder={} replay={} flip={} delay_us={} disk_us={} turn_us={} drift_ppm={}",
            noise.loss,
            noise.duplicate,
            noise.reorder,
            noise.replay,
            noise.flip,
            noise.delay_us,
            noise.disk_us,
            noise.turn_us,
            noise.drift_ppm
        )?;
        writeln!(f, "load clients={} think_us={} rest={}", load.clients, load.think_us, ms(load.rest))?;
        writeln!(f, "owners {}", self.owners)?;
        let History { compact, old, auto, quota } = self.history;
        let auto = match auto {
            AutoCompaction::Off => "off".to_string(),
            AutoCompaction::Revisions(kept) => kept.to_string(),
            AutoCompaction::Periodic(retention) => ms(retention),
        };
        writeln!(f, "history compact={compact} old={old} auto={auto} quota={quota}")?;
        let Logs { every, keep, bytes, piece } = self.log;
        writeln!(f, "log every={every} keep={keep} bytes={bytes} piece={piece}\ncheckpoints {}", self.checkpoints)?;
        if self.fierce {
            writeln!(f, "fierce true")?;
        }
        self.faults.iter().try_for_each(|planned| writeln!(f, "{planned}"))
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = ms(self.at.since(Time(0)));
        write!(f, "@{at} {} ", ms(self.span))?;
        match &self.fault {
            Fault::Crash { node, keep, told } => write!(f, "crash n{} keep={keep} told={told}", node + 1),
            Fault::Leader { way } => write!(f, "leader {}", way.name()),
            Fault::Pause { node, sleeps } => write!(f, "pause n{} sleeps={sleeps}", node + 1),
            Fault::Split { side } => write!(f, "split side={side}"),
            Fault::Cut { from, to } => write!(f, "cut n{} n{}", from + 1, to + 1),
            Fault::Clog { from, to } => write!(f, "clog n{} n{}", from + 1, to + 1),
            Fault::Mute { group } => write!(f, "mute {}", group.name()),
            Fault::Hint { node, peer } => write!(f, "hint n{} n{}", node + 1, peer + 1),
            Fault::Jump { node } => write!(f, "jump n{}", node + 1),
            Fault::Slow { node, factor } => write!(f, "slow n{} factor={factor}", node + 1),
            Fault::Error { node, log } => write!(f, "error n{} log={log}", node + 1),
            Fault::Space { node } => write!(f, "space n{}", node + 1),
            Fault::Rot { node, place } => write!(f, "rot n{} place={place}", node + 1),
            Fault::Tear { node, log, keep } => write!(f, "tear n{} log={log} keep={keep}", node + 1),
            Fault::Wipe { node } => write!(f, "wipe n{}", node + 1),
            Fault::Lose { node } => write!(f, "lose n{}", node + 1),
            Fault::Bend { side } => write!(f, "bend side={side}"),
            Fault::Up { node } => write!(f, "up n{}", node + 1),
            Fault::Change { wish, pick, pinned } => write!(f, "change {} pick={pick} pinned={pinned}", wish.name()),
            Fault::Transfer { node, to: None } => write!(f, "transfer n{}", node + 1),
            Fault::Transfer { node, to: Some(to) } => write!(f, "transfer n{} n{}", node + 1, to + 1),
        }
    }
}

/// The words of one line.
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl Words<'_> {
    fn word(&mut self) -> Result<&str, String> {
        self.0.next().ok_or_else(|| "the line ends too early".to_string())
    }

    fn number<T: FromStr>(text: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("{text:?} is not what belongs here"))
    }

    fn value<T: FromStr>(&mut self) -> Result<T, String> {
        Words::number(self.word()?)
    }

    fn named<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        let word = self.word()?;
        let value = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        Words::number(value.ok_or_else(|| format!("{name}=… belongs here, not {word:?}"))?)
    }

    fn span_of(text: &str) -> Result<Duration, String> {
        let wrong = || format!("{text:?} is no time: 12.345ms would be one");
        let number = text.strip_suffix("ms").ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let part = format!("{part:0<3}");
        let (whole, part) = (whole.parse::<u64>().map_err(|_| wrong())?, part.parse::<u64>().map_err(|_| wrong())?);
        Ok(Duration::from_millis(whole) + Duration::from_micros(part))
    }

    fn span(&mut self) -> Result<Duration, String> {
        Words::span_of(self.word()?)
    }

    fn node(&mut self) -> Result<usize, String> {
        let word = self.word()?;
        let number: Option<usize> = word.strip_prefix('n').and_then(|number| number.parse().ok());
        number.and_then(|n| n.checked_sub(1)).ok_or_else(|| format!("{word:?} is no member: n1 would be one"))
    }

    fn fault(&mut self) -> Result<Fault, String> {
        let kind = self.word()?.to_string();
        Ok(match kind.as_str() {
            "crash" => Fault::Crash { node: self.node()?, keep: self.named("keep")?, told: self.named("told")? },
            "leader" => {
                let name = self.word()?.to_string();
                let way = Way::ALL.into_iter().find(|way| way.name() == name);
                Fault::Leader { way: way.ok_or_else(|| format!("{name:?} is no way to lose a leader"))? }
            }
            "pause" => Fault::Pause { node: self.node()?, sleeps: self.named("sleeps")? },
            "split" => Fault::Split { side: self.named("side")? },
            "cut" => Fault::Cut { from: self.node()?, to: self.node()? },
            "clog" => Fault::Clog { from: self.node()?, to: self.node()? },
            "mute" => {
                let name = self.word()?.to_string();
                let group = Group::ALL.into_iter().find(|group| group.name() == name);
                Fault::Mute { group: group.ok_or_else(|| format!("{name:?} is no group of messages"))? }
            }
            "hint" => Fault::Hint { node: self.node()?, peer: self.node()? },
            "jump" => Fault::Jump { node: self.node()? },
            "slow" => Fault::Slow { node: self.node()?, factor: self.named("factor")? },
            "error" => Fault::Error { node: self.node()?, log: self.named("log")? },
            "space" => Fault::Space { node: self.node()? },
            "rot" => Fault::Rot { node: self.node()?, place: self.named("place")? },
            "tear" => Fault::Tear { node: self.node()?, log: self.named("log")?, keep: self.named("keep")? },
            "wipe" => Fault::Wipe { node: self.node()? },
            "lose" => Fault::Lose { node: self.node()? },
            "bend" => Fault::Bend { side: self.named("side")? },
            "up" => Fault::Up { node: self.node()? },
            "change" => {
                let name = self.word()?.to_string();
                let wish = Wish::ALL.into_iter().find(|wish| wish.name() == name);
                let wish = wish.ok_or_else(|| format!("{name:?} is nothing that an operator wants"))?;
                Fault::Change { wish, pick: self.named("pick")?, pinned: self.named("pinned")? }
            }
            "transfer" => {
                let node = self.node()?;
                let to = if self.0.clone().next().is_some() { Some(self.node()?) } else { None };
                Fault::Transfer { node, to }
            }
            other => return Err(format!("{other:?} is no fault")),
        })
    }
}

impl FromStr for Plan {
    type Err = String;

    /// Reads what [`Plan`]'s `Display` wrote; `#` begins a comment.
    fn from_str(text: &str) -> Result<Plan, String> {
        let mut plan = Plan::draw(Profile::Core, 0, &Wishes::default());
        plan.faults.clear();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                plan.take(line).map_err(|e| format!("line {}: {e}", number + 1))?;
            }
        }
        let places = plan.nodes.saturating_add(plan.spares);
        if plan.nodes == 0 || places > MAX_NODES {
            return Err(format!("{places} members: 1 to {MAX_NODES} can be simulated"));
        }
        if plan.profile == Profile::Core && plan.spares > 0 {
            return Err("spares: the members of a bare core are those that it begins with".to_string());
        }
        let Timers { heartbeat, election } = &plan.timers;
        if *heartbeat < Duration::from_millis(1) || *election < *heartbeat * 2 {
            return Err(format!("heartbeat {heartbeat:?}, election {election:?}: at least 1 ms, and twice that"));
        }
        if plan.load.clients == 0 || !(1..=60_000_000).contains(&plan.load.think_us) {
            return Err("load: at least 1 client, which thinks for 1 to 60000000 us".to_string());
        }
        if plan.log.piece == 0 {
            return Err("log: a piece has at least 1 byte".to_string());
        }
        if plan.checkpoints == 0 {
            return Err("checkpoints: at least 1 entry lies between two".to_string());
        }
        if let Some(planned) = plan.faults.iter().find(|planned| planned.members().any(|node| node >= places)) {
            return Err(format!("{planned}: there are {places} members"));
        }
        plan.faults.sort_by_key(|planned| planned.at);
        Ok(plan)
    }
}

impl Plan {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let mut words = Words(line.split_whitespace());
        let first = words.word()?.to_string();
        if let Some(at) = first.strip_prefix('@') {
            let at = Time(0) + Words::span_of(at)?;
            let span = words.span()?;
            self.faults.push(Planned { at, span, fault: words.fault()? });
            return Ok(());
        }
        match first.as_str() {
            "profile" => {
                self.profile = match words.word()? {
                    "core" => Profile::Core,
                    "full" => Profile::Full,
                    other => return Err(format!("{other:?} is no profile: core or full")),
                }
            }
            "seed" => self.seed = words.value()?,
            "nodes" => self.nodes = words.value()?,
            "spares" => self.spares = words.value()?,
            "length" => self.length = words.span()?,
            "heartbeat" => self.timers.heartbeat = words.span()?,
            "election" => self.timers.election = words.span()?,
            "tiny" => self.tiny = words.value()?,
            "fierce" => self.fierce = words.value()?,
            "owners" => self.owners = words.value()?,
            "checkpoints" => self.checkpoints = words.value()?,
            "noise" => {
                self.noise = Noise {
                    loss: words.named("loss")?,
                    duplicate: words.named("duplicate")?,
                    reorder: words.named("reorder")?,
                    replay: words.named("replay")?,
                    flip: words.named("flip")?,
                    delay_us: words.named("delay_us")?,
                    disk_us: words.named("disk_us")?,
                    turn_us: words.named("turn_us")?,
                    drift_ppm: words.named("drift_ppm")?,
                }
            }
            "load" => {
                let (clients, think_us) = (words.named("clients")?, words.named("think_us")?);
                let rest = words.named::<String>("rest")?;
                self.load = Load { clients, think_us, rest: Words::span_of(&rest)? };
            }
            "history" => {
                let (compact, old) = (words.named("compact")?, words.named("old")?);
                let auto = words.named::<String>("auto")?;
                let auto = match auto.as_str() {
                    "off" => AutoCompaction::Off,
                    time if time.ends_with("ms") => AutoCompaction::Periodic(Words::span_of(time)?),
                    kept => AutoCompaction::Revisions(Words::number(kept)?),
                };
                self.history = History { compact, old, auto, quota: words.named("quota")? };
            }
            "log" => {
                let (every, keep) = (words.named("every")?, words.named("keep")?);
                self.log = Logs { every, keep, bytes: words.named("bytes")?, piece: words.named("piece")? };
            }
            other => return Err(format!("{other:?} is not known")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        for seed in 0..300 {
            let profile = if seed % 2 == 0 { Profile::Core } else { Profile::Full };
            let wishes = Wishes { fierce: seed % 3 == 0, ..Wishes::default() };
            let plan = Plan::draw(profile, seed, &wishes);
            assert_eq!(plan.to_string().parse::<Plan>().unwrap(), plan);
        }
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_told_with_its_line() {
        let wrong = |text: &str| text.parse::<Plan>().unwrap_err();
        assert_eq!(wrong("nodes 3\nfrob 1"), "line 2: \"frob\" is not known");
        assert_eq!(
            wrong("# a comment\n@1ms 2ms crash n0 keep=0 told=true"),
            "line 2: \"n0\" is no member: n1 would be one"
        );
        assert_eq!(wrong("nodes 12"), "12 members: 1 to 9 can be simulated");
        assert_eq!(wrong("nodes 1\n@1ms 1ms jump n2"), "@1.000ms 1.000ms jump n2: there are 1 members");
        assert_eq!(wrong("election 0ms"), "heartbeat 100ms, election 0ns: at least 1 ms, and twice that");
        assert_eq!(wrong("nodes 5\nspares 5"), "10 members: 1 to 9 can be simulated");
        assert!(wrong("profile core\nspares 1").starts_with("spares: the members of a bare core"));
        assert_eq!(
            wrong("@1ms 1ms change all pick=1 pinned=true"),
            "line 1: \"all\" is nothing that an operator wants"
        );
        assert!(wrong("load clients=0 think_us=5 rest=0ms").starts_with("load: at least 1 client"));
        assert_eq!(wrong("@1 1ms jump n1"), "line 1: \"1\" is no time: 12.345ms would be one");
    }
}
