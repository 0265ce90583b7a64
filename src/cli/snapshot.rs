//! `snapshot save`, `status`, `verify` and `restore`: the store as a file, and a cluster from such a file.
//!
//! The file is what `Maintenance.Snapshot` streams (`machine/snapshot.rs` has the format); every byte of it is under a
//! checksum, and all of it is verified whenever it is written or read. A file has its name only once it is whole and durable.
//!
//! A restore makes data directories of *new* members: of one, as etcdutl does on each machine, or of all members of the
//! cluster at once. The same file gives the same state and the same disk ids wherever it is restored, so directories that were
//! made on different machines fit together, and a member of the old cluster that still lives somewhere does not fit in. The
//! revision leaps ahead (`--bump-revision`), so that watchers of the old cluster notice.
//!
//! Left out: etcd's own files (pages of bbolt), other places than files.

use super::exit::{BAD_ARGS, ERROR, Failure, INVALID_INPUT};
use super::output::{self, Format, plural, size};
use super::{Global, block_on, json};
use crate::checksum::crc;
use crate::client::Client;
use crate::ids::{DiskId, MemberId, Revision};
use crate::machine::{Contents, Head, Item, Member, SnapshotReader, Standing};
use crate::node::restore;
use crate::proto::etcdserverpb as pb;
use crate::rng::mix;
use crate::server::config::{CalledAs, Config};
use crate::server::flags;
use crate::storage::directory::{Directory, Expected};
use crate::storage::sled::Options;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Bytes that are read from a file at a time.
const PIECE: usize = 1 << 20;
/// sled's cache while a directory is made.
const CACHE_BYTES: u64 = 32 << 20;
/// What stands for a member's name in `--data-dir`.
const NAME: &str = "{name}";

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
            let found = read(file, &mut |_, _| {})?;
            output::print(format!("{}: whole and undamaged, {}\n", file.display(), found.text()))
        }
        SnapshotCommand::Restore(args) => make(args),
    }
}

/// What a file turned out to hold.
struct Found {
    head: Head,
    contents: Contents,
    bytes: u64,
    /// Of the whole file.
    hash: u32,
}

impl Found {
    fn text(&self) -> String {
        let Found { head, contents, bytes, .. } = self;
        let (keys, leases) = (plural(contents.keys, "key"), plural(contents.leases, "lease"));
        format!("revision {}, {keys}, {leases}, {}", head.revision, length(*bytes))
    }
}

fn length(bytes: u64) -> String {
    size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// A failure that speaks of a file.
fn io_failure(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let what = format!("{what} {}", path.display());
    move |error| Failure::new(ERROR, format!("{what}: {error}"))
}

/// A bar on a terminal, nothing elsewhere.
fn bar(length: u64, what: &str) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
    let bar = if io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(what.to_owned())
}

// ---- save

fn save(client: &Client, file: &Path) -> Result<(), Failure> {
    let aside = PathBuf::from(format!("{}.part", file.display()));
    let saved = block_on(receive(client, &aside))?;
    if saved.is_err() {
        // What did not become a snapshot is nobody's.
        _ = fs::remove_file(&aside);
    }
    let found = saved?;
    fs::rename(&aside, file).map_err(io_failure("renaming to", file))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(io_failure("syncing", parent))?;
    anstream::eprintln!("{}", found.text());
    output::print(format!("Snapshot saved at {}\n", file.display()))
}

/// Writes the stream into a new file, verifying it on the way, and makes it durable.
async fn receive(client: &Client, path: &Path) -> Result<Found, Failure> {
    let mut stream = client.snapshot().await?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).map_err(io_failure("writing", path))?;
    let (mut reader, mut bytes, mut hash, mut bar) = (SnapshotReader::default(), 0, 0, None);
    while let Some(pb::SnapshotResponse { blob, remaining_bytes, .. }) =
        stream.message().await.map_err(|status| broken(&status))?
    {
        reader.push(&blob, &mut |_, _| {}).map_err(|damage| {
            let fix = "only Quorate's own snapshots are saved; etcd's are, by: etcdctl snapshot save";
            Failure::new(ERROR, format!("what the server sends is no snapshot: {damage}")).fix(fix)
        })?;
        file.write_all(&blob).map_err(io_failure("writing", path))?;
        bytes += blob.len() as u64;
        hash = crate::checksum::crc_append(hash, &blob);
        let bar = bar.get_or_insert_with(|| self::bar(bytes + remaining_bytes, "saving"));
        bar.set_position(bytes);
    }
    let (head, contents) = reader.finish().map_err(|damage| Failure::new(ERROR, damage.to_string()))?;
    file.sync_all().map_err(io_failure("syncing", path))?;
    bar.into_iter().for_each(|bar| bar.finish_and_clear());
    Ok(Found { head, contents, bytes, hash })
}

fn broken(status: &tonic::Status) -> Failure {
    Failure::new(ERROR, format!("the snapshot broke off: {}", status.message())).fix("take it again")
}

// ---- status and verify

/// Reads a file to its end and verifies all of it; tells `visit` what is in it, and where.
fn read(path: &Path, visit: &mut dyn FnMut(Item, std::ops::Range<u64>)) -> Result<Found, Failure> {
    let mut file = File::open(path).map_err(io_failure("reading", path))?;
    let whole = file.metadata().map_or(0, |metadata| metadata.len());
    let bar = bar(whole, "reading");
    let (mut reader, mut piece, mut bytes, mut hash) = (SnapshotReader::default(), vec![0; PIECE], 0, crc(b""));
    let damaged = |damage: crate::machine::Damage| {
        let fix = "take another one: quorate snapshot save FILE; of several copies, keep the one that verifies";
        Failure::new(INVALID_INPUT, format!("{}: {damage}", path.display())).fix(fix)
    };
    loop {
        let length = file.read(&mut piece).map_err(io_failure("reading", path))?;
        if length == 0 {
            break;
        }
        reader.push(&piece[..length], visit).map_err(damaged)?;
        hash = crate::checksum::crc_append(hash, &piece[..length]);
        bytes += length as u64;
        bar.set_position(bytes);
    }
    bar.finish_and_clear();
    let (head, contents) = reader.finish().map_err(damaged)?;
    Ok(Found { head, contents, bytes, hash })
}

fn status(format: Format, file: &Path) -> Result<(), Failure> {
    let found = read(file, &mut |_, _| {})?;
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

// ---- restore

/// Where a pair lies in the file.
struct Place {
    revision: i64,
    at: u64,
    length: u32,
}

fn make(args: &RestoreArgs) -> Result<(), Failure> {
    let everyone = args.data_dir.contains(NAME);
    if everyone && args.name.is_some() {
        let fix = format!("leave --name out to make all directories, or write the member's own for {NAME}");
        return Err(Failure::new(BAD_ARGS, format!("--data-dir has {NAME} in it and --name names one member")).fix(fix));
    }
    let founding = founding(args)?;
    let made: Vec<_> = founding
        .members
        .iter()
        .filter(|member| everyone || member.id == founding.member)
        .map(|member| (member, PathBuf::from(args.data_dir.replace(NAME, &member.name))))
        .collect();
    for (_, path) in &made {
        let occupied = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            let fix = "a restore makes new members: give a directory that does not exist, or move that one away";
            return Err(Failure::new(ERROR, format!("{} is not empty", path.display())).fix(fix));
        }
    }
    let (mut leases, mut places) = (Vec::new(), Vec::new());
    let found = read(&args.file, &mut |item, frame| match item {
        Item::Lease(..) => leases.push(item),
        Item::Pair(pair) => {
            let length = u32::try_from(frame.end - frame.start).unwrap_or(u32::MAX);
            places.push(Place { revision: pair.mod_revision, at: frame.start, length });
        }
        Item::Head(_) | Item::Member(_) => {}
    })?;
    places.sort_unstable_by_key(|place| (place.revision, place.at));
    let bump = i64::try_from(args.bump_revision).ok().and_then(|bump| found.head.revision.0.checked_add(bump));
    let revision =
        bump.map(Revision).ok_or_else(|| Failure::new(BAD_ARGS, "--bump-revision leaps beyond the last revision"))?;
    let disks: Vec<Member> = founding.members.iter().map(|member| new_member(member, &found)).collect();
    let source = Source { file: &args.file, leases: &leases, places: &places };
    for (member, path) in &made {
        let disk = disk_id(member.id, &found);
        let expected = Expected { cluster: founding.cluster, member: member.id, members: founding.members.clone() };
        let applied = make_one(&source, path, &expected, disk, disks.clone(), revision)
            .map_err(|why| Failure::new(ERROR, format!("{}: {why}", path.display())))?;
        anstream::eprintln!(
            "{}: {} at {}, entry {applied}",
            member.name,
            plural(found.contents.keys, "key"),
            path.display()
        );
    }
    let mut text = format!("restored revision {} as {revision}\n", found.head.revision);
    for (member, path) in &made {
        text +=
            &format!("start {}: quorate serve --name {} --data-dir {} …\n", member.name, member.name, path.display());
    }
    output::print(text)
}

/// Who founds the cluster, by the flags that `quorate serve` knows too.
fn founding(args: &RestoreArgs) -> Result<crate::server::config::Bootstrap, Failure> {
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

fn new_member(member: &crate::storage::directory::InitialMember, found: &Found) -> Member {
    Member {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: Vec::new(),
        disk: Some(disk_id(member.id, found)),
        standing: Standing::Voter,
    }
}

/// The same wherever this file is restored, and another one for each file: a member of the old cluster is on none of these.
fn disk_id(member: MemberId, found: &Found) -> DiskId {
    DiskId(mix(member.0 ^ mix(u64::from(found.hash) << 32 ^ found.bytes ^ found.head.revision.0.unsigned_abs())))
}

/// What is restored, in the order of revisions.
struct Source<'a> {
    file: &'a Path,
    leases: &'a [Item],
    places: &'a [Place],
}

fn make_one(
    source: &Source<'_>,
    path: &Path,
    expected: &Expected,
    disk: DiskId,
    members: Vec<Member>,
    revision: Revision,
) -> Result<String, String> {
    let mut directory = Directory::open(path, Some(expected), disk).map_err(|refusal| refusal.to_string())?;
    let options = || Options::new(CACHE_BYTES);
    let databases = directory.databases(options(), options()).map_err(|refusal| refusal.to_string())?;
    let file = File::open(source.file).map_err(|error| error.to_string())?;
    let bar = bar(source.places.iter().map(|place| u64::from(place.length)).sum(), "restoring");
    let mut leases = source.leases.iter();
    let mut places = source.places.iter();
    let mut next = || {
        if let Some(lease) = leases.next() {
            return Ok(Some(lease.clone()));
        }
        let Some(place) = places.next() else { return Ok(None) };
        let mut frame = vec![0; place.length as usize];
        file.read_exact_at(&mut frame, place.at).map_err(|error| error.to_string())?;
        bar.inc(u64::from(place.length));
        Item::read(&frame).map(Some).ok_or_else(|| "the file changed while it was read".to_string())
    };
    let restored = restore(databases.raft, databases.state, members, revision, &mut next);
    bar.finish_and_clear();
    restored.map(|applied| applied.to_string())
}
