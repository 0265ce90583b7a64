//! `snapshot save`, `status`, `verify` and `restore`: the store as a file, and a cluster from such a file.
//!
//! The file is what `Maintenance.Snapshot` streams (`machine/snapshot.rs` has the format). What is done to files and
//! directories is `offline`'s work; here are the words.
//!
//! A restore makes data directories of *new* members: of one, as etcdutl does on each machine, or of all members of the
//! cluster at once. The revision leaps ahead (`--bump-revision`), so that watchers of the old cluster notice.
//!
//! Left out: etcd's own files (pages of bbolt), other places than files.

use super::exit::{BAD_ARGS, ERROR, Failure, INVALID_INPUT};
use super::output::{self, Format, plural, size};
use super::{Global, block_on, json};
use crate::client::Client;
use crate::ids::Revision;
use crate::offline::Trouble;
use crate::offline::restore::{NAME, Source, Target, is_occupied, place_of};
use crate::offline::snapshot::{Found, Saving, open, read};
use crate::proto::etcdserverpb as pb;
use crate::server::config::{Bootstrap, CalledAs, Config};
use crate::server::flags;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

/// `quorate snapshot ...`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate snapshot save backup.snap\n  quorate snapshot status backup.snap -w table\n  \
    quorate snapshot restore backup.snap --data-dir '/var/lib/quorate/{name}' \\\n    \
    --initial-cluster n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380"
)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum SnapshotCommand {
    /// Write the store, as it is at one revision, into a file.
    Save {
        /// The file; one that is there is replaced, once the new one is whole.
        file: PathBuf,
    },
    /// What is in a file.
    Status {
        /// The file.
        file: PathBuf,
    },
    /// Whether a file is whole and undamaged.
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// Make data directories of new members from a file.
    Restore(RestoreArgs),
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    quorate snapshot restore backup.snap --data-dir '/var/lib/quorate/{name}' \\\n    \
    --initial-cluster n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380\n  \
    quorate snapshot restore backup.snap --data-dir /var/lib/quorate --name n1 \\\n    \
    --initial-advertise-peer-urls http://10.0.0.1:2380 --initial-cluster n1=http://10.0.0.1:2380,...\n\n\
The first makes the directories of all members, to be moved to where they belong; the second that of one member, and is run \
with the same file on each member's machine.")]
struct RestoreArgs {
    /// The file.
    file: PathBuf,
    /// The directory to make; with {name} in it: one for each member.
    #[arg(long)]
    data_dir: String,
    /// The member whose directory is made.
    #[arg(long)]
    name: Option<String>,
    /// The members of the new cluster, with their peer URLs.
    #[arg(long)]
    initial_cluster: Option<String>,
    /// Tells clusters of the same members apart.
    #[arg(long)]
    initial_cluster_token: Option<String>,
    /// The peer URLs of the member whose directory is made.
    #[arg(long)]
    initial_advertise_peer_urls: Option<String>,
    /// How far the revision leaps, so that watchers of the old cluster notice. 0: it does not.
    #[arg(long, default_value_t = 1_000_000_000)]
    bump_revision: u64,
    /// Accepted for etcdutl's sake: what is before the restored revision is always compacted away.
    #[arg(long, hide = true)]
    mark_compacted: bool,
}

/// Runs `quorate snapshot`.
pub fn run(global: &Global, args: &SnapshotArgs) -> Result<(), Failure> {
    match &args.command {
        SnapshotCommand::Save { file } => save(&global.client()?, file),
        SnapshotCommand::Status { file } => status(global.write_out, file),
        SnapshotCommand::Verify { file } => {
            let found = look(file)?;
            output::print(format!("{}: whole and undamaged, {}\n", file.display(), text(&found)))
        }
        SnapshotCommand::Restore(args) => make(args),
    }
}

fn text(found: &Found) -> String {
    let Found { head, contents, bytes, .. } = found;
    let (keys, leases) = (plural(contents.keys, "key"), plural(contents.leases, "lease"));
    format!("revision {}, {keys}, {leases}, {}", head.revision, length(*bytes))
}

fn length(bytes: u64) -> String {
    size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn failure(trouble: &Trouble) -> Failure {
    match trouble {
        Trouble::Damaged(why) => Failure::new(INVALID_INPUT, why.as_str())
            .fix("take another one: quorate snapshot save FILE; of several copies, keep the one that verifies"),
        Trouble::Newer(why) => Failure::new(INVALID_INPUT, why.as_str())
            .fix("read it with the release that wrote it; if that is this one (quorate version), it is damaged: take another one"),
        Trouble::Etcds(why) => Failure::new(INVALID_INPUT, why.as_str()).fix(
            "restore it for an etcd (etcdutl snapshot restore), and copy its keys: quorate mirror QUORATES_ENDPOINT \
             --endpoints ETCDS_ENDPOINT",
        ),
        Trouble::Failed(why) => Failure::new(ERROR, why.as_str()),
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(length: u64, what: &str) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
    let bar = if io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(what.to_owned())
}

/// Reads and verifies a file.
fn look(file: &Path) -> Result<Found, Failure> {
    let bar = bar(0, "reading");
    let opened = open(file).map_err(|trouble| failure(&trouble))?;
    let found = read(&opened, file, &mut |done, whole| show(&bar, done, whole), &mut |_, _| {});
    bar.finish_and_clear();
    found.map_err(|trouble| failure(&trouble))
}

fn show(bar: &ProgressBar, done: u64, whole: u64) {
    bar.set_length(whole);
    bar.set_position(done);
}

fn save(client: &Client, file: &Path) -> Result<(), Failure> {
    let found = block_on(receive(client, file))??;
    anstream::eprintln!("{}", text(&found));
    output::print(format!("Snapshot saved at {}\n", file.display()))
}

async fn receive(client: &Client, file: &Path) -> Result<Found, Failure> {
    let mut stream = client.snapshot().await?;
    let mut saving = Saving::begin(file).map_err(|trouble| failure(&trouble))?;
    let bar = bar(0, "saving");
    let mut bytes = 0;
    let broken = |status: tonic::Status| {
        Failure::new(ERROR, format!("the snapshot broke off: {}", status.message())).fix("take it again")
    };
    while let Some(pb::SnapshotResponse { blob, remaining_bytes, .. }) = stream.message().await.map_err(broken)? {
        saving.push(&blob).map_err(|trouble| {
            failure(&trouble).fix("only Quorate's own snapshots are saved; etcd's are, by: etcdctl snapshot save")
        })?;
        bytes += blob.len() as u64;
        show(&bar, bytes, bytes + remaining_bytes);
    }
    let found = saving.finish().map_err(|trouble| failure(&trouble));
    bar.finish_and_clear();
    found
}

fn status(format: Format, file: &Path) -> Result<(), Failure> {
    let found = look(file)?;
    let Found { head, contents, bytes, hash } = &found;
    let row = [format!("{hash:x}"), head.revision.to_string(), contents.keys.to_string(), length(*bytes)];
    output::print(match format {
        Format::Json => {
            json::text(&serde_json::json!({
                "hash": hash, "revision": head.revision.0, "totalKey": contents.keys, "totalSize": bytes,
                "leases": contents.leases, "members": contents.members, "cluster_id": head.cluster.0,
                "compact_revision": head.compacted.0, "applied_index": head.applied.index.0,
            })) + "\n"
        }
        Format::Table => output::table(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"], &[row]),
        Format::Fields => format!(
            "\"Hash\" : {hash}\n\"Revision\" : {}\n\"Keys\" : {}\n\"Size\" : {bytes}\n",
            head.revision, contents.keys
        ),
        Format::Simple => row.join(", ") + "\n",
    })
}

fn make(args: &RestoreArgs) -> Result<(), Failure> {
    let everyone = args.data_dir.contains(NAME);
    if everyone && args.name.is_some() {
        let fix = format!("leave --name out to make all directories, or write the member's own for {NAME}");
        return Err(Failure::new(BAD_ARGS, format!("--data-dir has {NAME} in it and --name names one member")).fix(fix));
    }
    let founding = founding(args)?;
    let wanted = founding.members.iter().filter(|member| everyone || member.id == founding.member);
    let made: Vec<_> = wanted.map(|member| (member, place_of(&args.data_dir, &member.name))).collect();
    if let Some((_, path)) = made.iter().find(|(_, path)| is_occupied(path)) {
        let fix = "a restore makes new members: give a directory that does not exist, or move that one away";
        return Err(Failure::new(ERROR, format!("{} is not empty", path.display())).fix(fix));
    }
    let bar = bar(0, "reading");
    let source = Source::open(&args.file, &mut |done, whole| show(&bar, done, whole));
    let source = source.map_err(|trouble| failure(&trouble))?;
    let before = source.found().head.revision;
    let bump = i64::try_from(args.bump_revision).ok().and_then(|bump| before.0.checked_add(bump));
    let revision = bump.ok_or_else(|| Failure::new(BAD_ARGS, "--bump-revision leaps beyond the last revision"))?;
    let target = Target { cluster: founding.cluster, members: founding.members.clone(), revision: Revision(revision) };
    for (member, path) in &made {
        bar.set_message(format!("restoring {}", member.name));
        let made = target.make(&source, member, path, &mut |done, whole| show(&bar, done, whole));
        made.map_err(|trouble| failure(&trouble))?;
    }
    bar.finish_and_clear();
    let mut text =
        format!("restored {}: revision {before} is {revision} now\n", plural(source.found().contents.keys, "key"));
    for (member, path) in &made {
        text += &format!("quorate serve --name {} --data-dir {} …\n", member.name, path.display());
    }
    output::print(text)
}

/// Who founds the cluster, by the flags that `quorate serve` knows too.
fn founding(args: &RestoreArgs) -> Result<Bootstrap, Failure> {
    let first = args.initial_cluster.as_deref().and_then(|all| all.split_once('=')).map(|(name, _)| name.to_owned());
    let name = args.name.clone().or(first);
    let own_urls = args.initial_advertise_peer_urls.clone().or_else(|| {
        let all = args.initial_cluster.as_deref()?;
        let own = all.split(',').filter_map(|pair| pair.split_once('=')).filter(|(n, _)| Some(*n) == name.as_deref());
        Some(own.map(|(_, url)| url).collect::<Vec<_>>().join(","))
    });
    let given = [
        ("--name", name),
        ("--initial-cluster", args.initial_cluster.clone()),
        ("--initial-cluster-token", args.initial_cluster_token.clone()),
        ("--initial-advertise-peer-urls", own_urls.filter(|urls| !urls.is_empty())),
    ];
    let words = given.into_iter().filter_map(|(flag, value)| value.map(|value| format!("{flag}={value}")));
    let command = flags::augment(clap::Command::new("restore"));
    let wrong = |text: String| Failure::new(BAD_ARGS, text);
    let matches = command
        .try_get_matches_from(std::iter::once("restore".to_owned()).chain(words))
        .map_err(|error| wrong(error.to_string()))?;
    let config = Config::new(&flags::given(&matches), CalledAs::Quorate).map_err(|error| wrong(error.0))?;
    config.bootstrap().map_err(|error| wrong(error.0))
}
