//! The command line, as typed: names, help and environment twins. What it means is decided in `config.rs`.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::limits;
use crate::replica::NodeId;

/// A key-value store that starts with one command: every acknowledged write is on the disk.
///
/// Start a node, write a key, read it back:
///
///   DynaRust 127.0.0.1:6660
///   curl -X PUT http://127.0.0.1:6660/key/mykey -d '{"value": "mydata"}'
///   curl http://127.0.0.1:6660/key/mykey
#[derive(Parser, Debug)]
#[command(name = "DynaRust", version, verbatim_doc_comment)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do instead of running a node.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run a node.
    #[command(flatten)]
    pub node: Node,
}

/// Lines that fit a terminal of 80 columns: a longer one would be broken there, and lose its place below the others.
const EXIT_CODES: &str = "\
RUST_LOG sets the log level: error, warn, info (default), debug.

Exit codes:
  0  stopped as asked
  1  unforeseen
  2  wrong usage
  3  the data directory is refused: foreign, locked, newer format, unwritable
  4  the data directory is damaged
  5  the storage failed while running: restart
  6  can't listen on the address";

/// The command line, read. Ends the process when that can't be.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        let value = matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation);
        if let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg).filter(|_| value) {
            let (flag, rest) = arg.split_at(arg.find(' ').unwrap_or(arg.len()));
            let shown = ContextValue::String(as_given(flag) + rest);
            error.insert(ContextKind::InvalidArg, shown);
        }
        error.exit()
    })
}

/// A flag, and its twin in the environment if it was given by that.
pub fn as_given(flag: &str) -> String {
    let twin = format!("DYNARUST_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
    let named = |arg: std::ffi::OsString| arg.to_string_lossy().split('=').next() == Some(flag);
    match std::env::var_os(&twin) {
        Some(_) if !std::env::args_os().any(named) => format!("{twin}, which stands for {flag}"),
        _ => flag.to_owned(),
    }
}

/// Variables in the environment that look like twins of flags and are none: most likely misspelt.
pub fn unknown_variables() -> Vec<String> {
    let command = Cli::command();
    let all = command.get_arguments().chain(command.get_subcommands().flat_map(clap::Command::get_arguments));
    let known: Vec<&OsStr> = all.filter_map(clap::Arg::get_env).collect();
    let set = std::env::vars_os().map(|(name, _)| name);
    let unknown = set.filter(|name| !known.contains(&name.as_os_str()));
    unknown.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("DYNARUST_")).collect()
}

/// Subcommands never take a listen address.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Write all that a running node holds at one moment into a file
    Backup(Backup),
    /// Rewrite the data directory of a stopped node, whose files only ever grow, into as little as it takes
    Compact(Compact),
    /// Write keys to stdout, a line of JSON each: those of a running node, or of the directory of a stopped one
    Export(Export),
    /// Ask a running node whether it is ready: exit code 0 if it is, 1 if not
    Healthcheck(Target),
    /// Write keys to a running node: an export, or the text file of the first DynaRust
    Import(Import),
    /// Look into the data directory of a stopped node, or into a copy of one; not a byte of it is changed
    Inspect(Inspect),
    /// Open a data directory as a start does, and say by the exit code whether it opens: for `--rejoin-empty`
    #[command(hide = true)]
    TryOpen(TryOpen),
    /// Tell a running node to leave its cluster and stop; what it holds stays in its directory
    Leave(Leave),
    /// Make a new node's data directory of a backup: all of it, or nothing
    Restore(Restore),
}

/// Flags of `backup`.
#[derive(Args, Debug)]
pub struct Backup {
    /// The node, as HOST:PORT or http://HOST:PORT
    #[arg(value_name = "URL")]
    pub node: String,
    /// The file, which must not be there yet; - writes it to the standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

impl Backup {
    /// Does it go to the standard output? Then nothing else does.
    pub fn to_stdout(&self) -> bool {
        self.output.as_os_str() == "-" || self.output.as_os_str() == "/dev/stdout"
    }
}

/// Flags of `restore`.
#[derive(Args, Debug)]
pub struct Restore {
    /// The backup; - reads it from the standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The new node's data directory, which must be empty or not there
    #[arg(long, value_name = "DIR", env = "DYNARUST_DATA_DIR")]
    pub data_dir: PathBuf,
    /// The node is to go into the cluster of which the backup is, where what was changed and deleted since stays so; else
    /// it begins a cluster of its own with what the backup holds
    #[arg(long)]
    pub into_cluster: bool,
}

/// What to export.
#[derive(Args, Debug)]
pub struct Export {
    /// A node, as HOST:PORT or http://HOST:PORT; or a data directory, which is not changed
    #[arg(value_name = "DIR|URL")]
    pub from: String,
    /// Only keys that begin so
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// Only keys that come after this one: the key of the last whole line, to go on where an export was cut off
    #[arg(long, value_name = "KEY")]
    pub after: Option<String>,
    /// Where the private copy of a directory is made; by default where temporary files go
    #[arg(long, value_name = "DIR", env = "DYNARUST_WORK_DIR")]
    pub work_dir: Option<PathBuf>,
    /// How long a node that does not answer is tried again before the export ends
    #[arg(long, value_name = "N", default_value_t = limits::RETRY_SECONDS_DEFAULT)]
    pub retry_seconds: u64,
}

/// What to import, and how.
#[derive(Args, Debug)]
pub struct Import {
    /// The node, as HOST:PORT or http://HOST:PORT
    #[arg(value_name = "URL")]
    pub node: String,
    /// The file; by default, and for -, the standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What is in the file
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    pub format: Format,
    /// Leave keys as they are that are there already
    #[arg(long)]
    pub if_absent: bool,
    /// Write nothing: check every line, and say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Begin with this line, to go on where an import has stopped
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub from_line: u64,
    /// Writes under way at a time
    #[arg(long, value_name = "N", default_value_t = limits::IMPORT_CONNECTIONS.0 as u64,
        value_parser = clap::value_parser!(u64).range(1..=limits::IMPORT_CONNECTIONS.1 as u64))]
    pub connections: u64,
    /// How long a node that does not answer is tried again before the import ends
    #[arg(long, value_name = "N", default_value_t = limits::RETRY_SECONDS_DEFAULT)]
    pub retry_seconds: u64,
}

/// What lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// {"key": …, "value": …, "expires_at"?: …}, as export writes them
    Ndjson,
    /// key=value, as in storage.db of the first DynaRust
    FirstDynarust,
}

/// Which directory to compact.
#[derive(Args, Debug)]
pub struct Compact {
    /// The data directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// For programs: one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which directory to open.
#[derive(Args, Debug)]
pub struct TryOpen {
    /// The data directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Which directory to look into, and for what.
#[derive(Args, Debug)]
pub struct Inspect {
    /// The data directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where the private copy is made that is opened (salvage makes none); by default where temporary files go
    #[arg(long, value_name = "DIR", global = true, env = "DYNARUST_WORK_DIR")]
    pub work_dir: Option<PathBuf>,
    /// For programs: one JSON object, or one a line of what is listed
    #[arg(long, global = true)]
    pub json: bool,
    /// What to show.
    #[command(subcommand)]
    pub what: What,
}

/// What `inspect` shows.
#[derive(Subcommand, Debug)]
pub enum What {
    /// Whose it is, how far it got, what is in it and what it takes
    Summary,
    /// The live keys
    Keys(Keys),
    /// Every version of one key; exit code 0: readers see one, 1: they see none, or not all of it can be read
    Get(Get),
    /// The events of the log, by origin and number
    Changes(Changes),
    /// The members of the cluster
    Members,
    /// The keys that have siblings
    Conflicts(Conflicts),
    /// Everything that must fit together; exit code 0: it does, 1: findings, 2: it can't be looked at
    Verify,
    /// What another node's directory holds otherwise, key by key, and which of the two is ahead; exit code 0: they hold the same,
    /// 1: they differ, as nodes do that have yet to hear from each other, 2: they can't be compared, 3: they differ by no rule,
    /// which is a fault
    Diff(Diff),
    /// What can still be read of a directory that does not open, into a file; exit code 0: all of it, 1: something was skipped,
    /// 2: nothing can be read
    Salvage(Salvage),
}

/// Flags of `inspect keys`.
#[derive(Args, Debug)]
pub struct Keys {
    /// Only keys that begin so
    #[arg(long)]
    pub prefix: Option<String>,
    /// So many at most
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// With version, time, size, siblings and expiry
    #[arg(long)]
    pub long: bool,
}

/// Flags of `inspect diff`.
#[derive(Args, Debug)]
pub struct Diff {
    /// The other data directory
    #[arg(value_name = "OTHER")]
    pub other: PathBuf,
    /// Only keys that begin so, and no members
    #[arg(long)]
    pub prefix: Option<String>,
    /// Show so many keys at most; the others are counted
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

/// Flags of `inspect salvage`.
#[derive(Args, Debug)]
pub struct Salvage {
    /// The file that is made: a line of JSON for each key; what exists already is never overwritten
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Flags of `inspect get`.
#[derive(Args, Debug)]
pub struct Get {
    /// The key
    pub key: String,
    /// The key is as the lists show it, with the escapes of JSON, such as new\nline
    #[arg(long)]
    pub escaped: bool,
    /// Only the value that is shown to readers, as it was written; not with --json
    #[arg(long)]
    pub raw: bool,
}

/// Flags of `inspect conflicts`.
#[derive(Args, Debug)]
pub struct Conflicts {
    /// So many keys at most
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

/// Flags of `inspect changes`.
#[derive(Args, Debug)]
pub struct Changes {
    /// Only events that this node made
    #[arg(long, value_name = "ID", value_parser = node_id)]
    pub origin: Option<NodeId>,
    /// Only events with a higher number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub after: u64,
    /// Only events of this key
    #[arg(long, value_name = "KEY")]
    pub follow_key: Option<String>,
    /// That key is as the lists show it, with the escapes of JSON, such as new\nline
    #[arg(long, requires = "follow_key")]
    pub escaped: bool,
    /// So many events at most
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

fn node_id(text: &str) -> Result<NodeId, String> {
    text.parse().map_err(|_| "not a node's id: expected 16 hex digits, as members lists them".into())
}

/// Whom to tell to leave.
#[derive(Args, Debug)]
pub struct Leave {
    /// The node.
    #[command(flatten)]
    pub target: Target,
    /// A file with the secret that all nodes of the cluster know
    #[arg(long, value_name = "FILE", env = "DYNARUST_CLUSTER_SECRET_FILE")]
    pub cluster_secret_file: Option<PathBuf>,
}

/// Which node to ask: who leaves both out is told of both.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct Target {
    /// Where the node listens; by default what it wrote into its data directory
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// The data directory of the node
    #[arg(long, value_name = "DIR", env = "DYNARUST_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Flags of a node.
#[derive(Args, Debug)]
pub struct Node {
    /// Address to listen on, such as 127.0.0.1:6660 or 0.0.0.0:6660; port 0 takes a free one
    #[arg(required = true, value_name = "LISTEN")]
    pub listen: Option<String>,
    /// Members of a cluster to join, as HOST:PORT: one that answers is enough, and only the first time
    #[arg(value_name = "JOIN")]
    pub join: Vec<String>,
    /// Where the data lives; by default data/ and the listen address as given
    #[arg(long, value_name = "DIR", env = "DYNARUST_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where other nodes reach this one, as HOST:PORT; by default what it listens on, or what they see
    #[arg(long, value_name = "HOST:PORT", env = "DYNARUST_ADVERTISE")]
    pub advertise: Option<String>,
    /// A file with the secret that all nodes of the cluster know
    #[arg(long, value_name = "FILE", env = "DYNARUST_CLUSTER_SECRET_FILE")]
    pub cluster_secret_file: Option<PathBuf>,
    /// Leave the cluster when the node is told to stop
    #[arg(long, env = "DYNARUST_LEAVE_ON_EXIT", value_parser = BoolishValueParser::new())]
    pub leave_on_exit: bool,
    /// If the data directory does not open, move it aside and take everything from JOIN, under a new id
    #[arg(long, env = "DYNARUST_REJOIN_EMPTY", value_parser = BoolishValueParser::new())]
    pub rejoin_empty: bool,
    /// Longest value, in bytes of its JSON text
    #[arg(long, value_name = "BYTES", env = "DYNARUST_MAX_VALUE_BYTES", default_value_t = limits::VALUE_BYTES_DEFAULT)]
    pub max_value_bytes: usize,
    /// Most connections at a time; further clients wait
    #[arg(long, value_name = "N", env = "DYNARUST_MAX_CONNECTIONS", default_value_t = limits::CONNECTIONS_DEFAULT)]
    pub max_connections: usize,
    /// Time for a request's head to arrive, and again for its body
    #[arg(long, value_name = "MS", env = "DYNARUST_REQUEST_TIMEOUT_MS", default_value_t = limits::REQUEST_TIMEOUT_MS_DEFAULT)]
    pub request_timeout_ms: u64,
    /// How long a connection may stay open without a request
    #[arg(long, value_name = "MS", env = "DYNARUST_IDLE_TIMEOUT_MS", default_value_t = limits::IDLE_TIMEOUT_MS_DEFAULT)]
    pub idle_timeout_ms: u64,
    /// How many writes may wait for the disk; more are answered 503
    #[arg(long, value_name = "N", env = "DYNARUST_WRITE_QUEUE", default_value_t = limits::WRITE_QUEUE_DEFAULT)]
    pub write_queue: usize,
    /// Page cache of the storage engine; the process takes 25 to 45 MiB more, and about 80 bytes a key
    #[arg(long, value_name = "MIB", env = "DYNARUST_CACHE_MIB", default_value_t = limits::CACHE_MIB_DEFAULT)]
    pub cache_mib: u64,
    /// How much of the log of changes is kept although every member has it
    #[arg(long, value_name = "MIB", env = "DYNARUST_LOG_MIB", default_value_t = limits::LOG_MIB_DEFAULT)]
    pub log_mib: u64,
    /// How much of it is kept for a member that lacks it; one that lacks more is sent everything anew
    #[arg(long, value_name = "MIB", env = "DYNARUST_LOG_HELD_MIB", default_value_t = limits::LOG_HELD_MIB_DEFAULT)]
    pub log_held_mib: u64,
    /// A member that has been away for longer no longer holds back what deletes leave behind
    #[arg(long, value_name = "HOURS", env = "DYNARUST_FORGET_AFTER_HOURS", default_value_t = limits::FORGET_AFTER_HOURS_DEFAULT)]
    pub forget_after_hours: u64,
    /// Free disk space below which writes are answered 507 [default: 5 % of the file system, at least 8, at most 256]
    #[arg(long, value_name = "MIB", env = "DYNARUST_DISK_RESERVE_MIB")]
    pub disk_reserve_mib: Option<u64>,
    /// A commit that is not on the disk by then ends the process
    #[arg(long, value_name = "MS", env = "DYNARUST_COMMIT_DEADLINE_MS", default_value_t = limits::COMMIT_DEADLINE_MS_DEFAULT)]
    pub commit_deadline_ms: u64,
}
