//! `watch`: what happens to keys, as it happens, with etcdctl's words and output.
//!
//! Every watch is a task of its own that tells one loop, and the loop prints, runs the command that was given for each
//! event, and with `-i` reads further watches from stdin. A connection that breaks is talk (stderr), not the end: the watch
//! goes on where it stood.

use super::exit::{BAD_ARGS, ERROR, Failure, INVALID_INPUT, UNHEALTHY};
use super::output::{Printer, quote};
use super::txn::words;
use super::{Global, block_on};
use crate::client::{self, Client, End, Told, prefix_range};
use crate::proto::etcdserverpb as pb;
use clap::Parser;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;
use tokio::sync::mpsc;

/// How a watch ends that the server ended: etcdctl's code.
const CANCELED: u8 = UNHEALTHY;

/// `quorate watch`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate watch --prefix app/\n  quorate watch hello --rev 7 --prev-kv\n  \
    quorate watch hello -- sh -c 'echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_VALUE'\n  \
    quorate watch --ls\n\n\
The command runs once for each event, with ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and ETCD_WATCH_VALUE (in double \
quotes, as Go writes text) and ETCD_WATCH_REVISION in its environment. If it fails, the watch ends.")]
pub struct WatchArgs {
    #[command(flatten)]
    watch: One,
    /// Read watches from stdin, one a line (`watch KEY ...`); `progress` asks up to which revision all is told.
    #[arg(short, long)]
    interactive: bool,
    /// See who watches what on which member, and how far behind (Quorate only).
    #[arg(long, conflicts_with_all = ["key", "interactive", "command"])]
    ls: bool,
}

/// One watch: a command line, or a line of `watch -i`.
#[derive(Clone, Debug, clap::Args)]
struct One {
    /// The key.
    #[arg(env = "ETCDCTL_WATCH_KEY", hide_env = true)]
    key: Option<OsString>,
    /// Watch all keys from KEY up to this one.
    #[arg(env = "ETCDCTL_WATCH_RANGE_END", hide_env = true)]
    range_end: Option<OsString>,
    /// What to run for each event.
    #[arg(last = true)]
    command: Vec<OsString>,
    /// Watch all keys that start with KEY.
    #[arg(long)]
    prefix: bool,
    /// Begin with this revision; 0: with what happens from now on.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    rev: i64,
    /// Print the pair as it was before, too.
    #[arg(long)]
    prev_kv: bool,
    /// Let the server say now and then up to which revision all is told, even if nothing happens.
    #[arg(long)]
    progress_notify: bool,
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    watch: One,
}

impl One {
    fn request(self) -> Result<(pb::WatchCreateRequest, Vec<OsString>), Failure> {
        let Some(key) = self.key else {
            return Err(Failure::new(BAD_ARGS, "no key to watch")
                .fix("name one: quorate watch KEY\n       or all of them: quorate watch --prefix \"\""));
        };
        if self.prefix && self.range_end.is_some() {
            return Err(Failure::new(BAD_ARGS, "--prefix says where the range ends: leave RANGE_END out"));
        }
        let key = key.into_vec();
        let (key, range_end) = if self.prefix {
            prefix_range(&key)
        } else {
            (key.into(), self.range_end.map(|end| end.into_vec().into()).unwrap_or_default())
        };
        let request = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: self.rev,
            prev_kv: self.prev_kv,
            progress_notify: self.progress_notify,
            ..Default::default()
        };
        Ok((request, self.command))
    }
}

/// Runs `quorate watch`.
pub fn run(global: &Global, args: WatchArgs) -> Result<(), Failure> {
    if args.ls {
        return super::watchers::run(global);
    }
    let printer = Printer::without_table(global)?;
    let client = global.client()?;
    let first = match args.interactive && args.watch.key.is_none() {
        true => None,
        false => Some(args.watch.request()?),
    };
    block_on(async {
        let mut input = args.interactive.then(lines);
        let mut watches = Watches::new(client, printer);
        if let Some((request, command)) = first {
            watches.add(request, command);
        }
        loop {
            tokio::select! {
                Some(news) = watches.heard.recv() => watches.tell(news, args.interactive).await?,
                line = next_line(&mut input) => match line? {
                    Some(line) => watches.take_line(&line)?,
                    None => return Err(Failure::new(INVALID_INPUT, "the input ended, and with it the watches")),
                },
            }
        }
    })?
}

/// The lines of stdin. A thread of its own reads them and is not waited for: nobody can call it back from a terminal.
fn lines() -> mpsc::Receiver<std::io::Result<String>> {
    let (tell, heard) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    });
    heard
}

async fn next_line(input: &mut Option<mpsc::Receiver<std::io::Result<String>>>) -> Result<Option<String>, Failure> {
    match input {
        Some(lines) => Ok(lines.recv().await.transpose()?),
        None => std::future::pending().await,
    }
}

/// What one of the watches was told.
struct News {
    place: usize,
    told: Result<Told, client::Error>,
    /// Where the watch stands.
    position: i64,
}

/// The watches that run.
struct Watches {
    client: Client,
    printer: Printer,
    commands: Vec<Vec<OsString>>,
    /// A word to any of these makes its watch ask for progress.
    progress: Vec<mpsc::Sender<()>>,
    tell: mpsc::Sender<News>,
    heard: mpsc::Receiver<News>,
}

impl Watches {
    fn new(client: Client, printer: Printer) -> Watches {
        let (tell, heard) = mpsc::channel(1);
        Watches { client, printer, commands: Vec::new(), progress: Vec::new(), tell, heard }
    }

    fn add(&mut self, request: pb::WatchCreateRequest, command: Vec<OsString>) {
        let place = self.commands.len();
        let (ask, mut asked) = mpsc::channel(1);
        self.commands.push(command);
        self.progress.push(ask);
        let mut watch = self.client.watch(request);
        let tell = self.tell.clone();
        tokio::spawn(async move {
            loop {
                let told = tokio::select! {
                    told = watch.next() => told,
                    Some(()) = asked.recv() => {
                        watch.ask_progress().await;
                        continue;
                    }
                };
                let last = matches!(told, Err(_) | Ok(Told::End(..)));
                let news = News { place, told, position: watch.position() };
                if tell.send(news).await.is_err() || last {
                    return;
                }
            }
        });
    }

    fn take_line(&mut self, line: &str) -> Result<(), Failure> {
        let invalid = |why: &str| {
            anstream::eprintln!("Invalid command {} ({why})", line.trim());
            Ok(())
        };
        let words = match words(line) {
            Ok(words) => words,
            Err(why) => return invalid(&why),
        };
        match words.first().map(String::as_str) {
            Some("watch") => {}
            Some("progress") => {
                // One that was asked already and did not come to it is as good as asked.
                self.progress.iter().for_each(|ask| _ = ask.try_send(()));
                return Ok(());
            }
            Some(_) => return invalid("only support watch"),
            None => return invalid("watch and progress supported"),
        }
        let parsed = Line::try_parse_from(&words[1..]);
        let parsed =
            parsed.map_err(|e| Failure::new(BAD_ARGS, format!("{}: {}", line.trim(), super::txn::in_a_line(&e))))?;
        if parsed.watch.key.is_none() {
            return invalid("command type or key is not provided");
        }
        let (request, command) = parsed.watch.request()?;
        self.add(request, command);
        Ok(())
    }

    async fn tell(&self, news: News, interactive: bool) -> Result<(), Failure> {
        match news.told? {
            Told::Open => Ok(()),
            Told::Lost(why) => {
                anstream::eprintln!("the connection broke ({}); going on from revision {}", why.cause(), news.position);
                Ok(())
            }
            Told::News(answer) => {
                self.printer.watch(&answer)?;
                run_for_each(&self.commands[news.place], &answer).await
            }
            Told::End(answer, end) => {
                self.printer.watch(&answer)?;
                let failure = ended(end);
                if interactive {
                    anstream::eprintln!("{failure}");
                    return Ok(());
                }
                Err(failure)
            }
        }
    }
}

/// What the end of a watch means for whoever started it.
fn ended(end: End) -> Failure {
    match end {
        End::Compacted(oldest) => Failure::new(
            CANCELED,
            format!(
                "watch was canceled (etcdserver: mvcc: required revision has been compacted): the oldest revision to \
                 watch from is {oldest}"
            ),
        )
        .fix(format!("read the keys as they are now, then watch from there: --rev {oldest} or later, or none")),
        End::Canceled(why) => Failure::new(CANCELED, format!("watch was canceled ({why})")),
    }
}

async fn run_for_each(command: &[OsString], answer: &pb::WatchResponse) -> Result<(), Failure> {
    let [program, args @ ..] = command else { return Ok(()) };
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    for event in &answer.events {
        let kv = event.kv.clone().unwrap_or_default();
        let status = tokio::process::Command::new(program)
            .args(args)
            .env("ETCD_WATCH_REVISION", revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", quote(event.r#type().as_str_name().as_bytes()))
            .env("ETCD_WATCH_KEY", quote(&kv.key))
            .env("ETCD_WATCH_VALUE", quote(&kv.value))
            .stdin(Stdio::null())
            .status()
            .await;
        let why = match status {
            Ok(status) if status.success() => continue,
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        };
        return Err(Failure::new(ERROR, format!("the command {program:?} failed ({why}), and with it the watch")));
    }
    Ok(())
}
