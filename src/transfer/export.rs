//! Keys to stdout. From a node it asks again after the last whole line when the connection is cut; a line that has not come
//! whole is never written.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use reqwest::{StatusCode, Version};

use super::retry::Retry;
use super::{Error, address, beginning, client, detail, no_address, stdout_is_read, told, wait};
use crate::api::{line, listed};
use crate::ask;
use crate::cli::Export;
use crate::exit::Exit;
use crate::limits::LINE_BYTES_MAX;
use crate::replica::{Kind, Value};
use crate::storage::{self, Offline};
use crate::told::{Told, count};

/// Writes them; what came of it. A private copy of a directory has a `name` that nothing else has.
pub fn export(flags: &Export, now_ms: u64, name: u64) -> Result<String, Error> {
    if flags.from.is_empty() {
        return Err(Error::Usage("nothing is named to export: give HOST:PORT, or a data directory".into()));
    }
    stdout_is_read().map_err(Error::Output)?;
    let mut sink = Sink {
        to: BufWriter::with_capacity(SINK_BYTES, io::stdout().lock()),
        keys: 0,
        last: Vec::new(),
        of: None,
        told: Told::new("exporting"),
    };
    let done = match address(&flags.from) {
        Some(node) => wait(of_node(flags, &node, &mut sink)),
        None if flags.from.contains("://") => Err(no_address(&flags.from)),
        None => of_directory(flags, now_ms, name, &mut sink),
    };
    // What is whole is worth having, however it ended.
    let flushed = sink.to.flush().map_err(Error::Output);
    let (keys, written) = (sink.keys, count(sink.keys, "key"));
    match done.and(flushed) {
        Ok(()) => Ok(format!("{}, all of them", count(keys, "key"))),
        // Who reads the first lines only has seen enough.
        Err(Error::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok("the reader has seen enough".into()),
        Err(Error::Output(e)) => Err(Error::Output(e).part(
            "what was written may end within a line: take that away, and go on with --after and the key of the last whole one"
                .into(),
        )),
        Err(why) if keys == 0 => Err(why),
        Err(why) => Err(why.part(match sink.last_key().filter(|key| !key.contains(['\'', '\n', '\r', '\0'])) {
            Some(key) => format!("not all was written: {written}; go on with --after '{key}'"),
            None => format!("not all was written: {written}; go on with --after and the key of the last line"),
        })),
    }
}

/// Bytes that are written to stdout at a time, about.
const SINK_BYTES: usize = 256 << 10;

/// Where lines go.
struct Sink<'a> {
    to: BufWriter<StdoutLock<'a>>,
    keys: u64,
    /// The last line.
    last: Vec<u8>,
    /// How many keys there will be, about.
    of: Option<u64>,
    told: Told,
}

impl Sink<'_> {
    /// Takes whole lines, at least one.
    fn take(&mut self, lines: &[u8]) -> Result<(), Error> {
        self.to.write_all(lines).map_err(Error::Output)?;
        let before = lines[..lines.len() - 1].iter().rposition(|byte| *byte == b'\n');
        self.last.clear();
        self.last.extend_from_slice(&lines[before.map_or(0, |at| at + 1)..]);
        self.keys += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        let part = self.of.filter(|of| *of > 0).map(|of| (self.keys as f64 / of as f64).min(1.0));
        self.told.counted(self.keys, "keys", part);
        Ok(())
    }

    /// The key of the last line.
    fn last_key(&self) -> Option<String> {
        let members = listed(&self.last).ok()?;
        serde_json::from_str(members.iter().find(|member| member.name == "key")?.text).ok()
    }
}

/// Of the directory of a stopped node.
fn of_directory(flags: &Export, now_ms: u64, name: u64, sink: &mut Sink) -> Result<(), Error> {
    let from = PathBuf::from(&flags.from);
    storage::panics_are_told(Exit::Damaged, move || from.clone());
    let work_dir = flags.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut told = Told::new("copying");
    let copied = &mut |done, of| told.copied(done, of);
    let opened = Offline::open(Path::new(&flags.from), (&work_dir, name), copied);
    let store = opened.map_err(|error| match ask::written(Path::new(&flags.from)) {
        Ok(address) => storage::Error::Refused(format!(
            "{error}; or export what the node has: DynaRust export {address}"
        )),
        Err(_) => error,
    })?;
    if flags.prefix.is_empty() && flags.after.is_none() {
        sink.of = Some(store.about()?.summary.totals.keys);
    }
    let place = (flags.prefix.as_bytes(), flags.after.as_deref().map(str::as_bytes));
    let mut text = Vec::new();
    store.entries(Kind::Data, place, |key, entry| {
        let damaged =
            || storage::Error::Damaged(format!("what the key '{}' holds is damaged", key.escape_ascii()));
        let mut shown = Vec::with_capacity(1);
        for mut version in entry.ok_or_else(damaged)?.into_visible(now_ms) {
            let text = match &mut version.value {
                Value::Inline(text) => std::mem::take(text),
                Value::Chunked { .. } => store.text(&version)?.ok_or_else(damaged)?,
            };
            shown.push((version, text));
        }
        if !shown.is_empty() {
            text.clear();
            line(&mut text, key, &shown);
            sink.take(&text)?;
        }
        Ok(true)
    })
}

/// Of a running node.
async fn of_node(flags: &Export, node: &str, sink: &mut Sink<'_>) -> Result<(), Error> {
    let http = client()?;
    if flags.prefix.is_empty() && flags.after.is_none() {
        sink.of = keys(&http, node).await;
    }
    let mut retry = Retry::new(flags.retry_seconds);
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let (mut after, mut said) = (flags.after.clone(), String::new());
    loop {
        let mut url = format!("http://{node}/keys?prefix={}", encoded(&flags.prefix));
        if let Some(after) = &after {
            url = format!("{url}&after={}", encoded(after));
        }
        let before = sink.keys;
        let why = match pull(&http, &url, &mut after, sink).await {
            Ok(()) => return Ok(()),
            Err(Trouble::Lasting(error)) => return Err(error),
            Err(Trouble::Passing(why)) => format!("{node}: {why}"),
        };
        if sink.keys > before {
            retry.succeed();
        }
        let note = format!("{why}, after {}; trying again", count(sink.keys, "key"));
        if note != said {
            // Once, until it changes.
            sink.told.note(&note);
            said = note;
        }
        if !retry.again().await {
            return Err(Error::Node(format!("{why}, for {} s", flags.retry_seconds)));
        }
    }
}

/// What to do about it.
enum Trouble {
    /// Ask again.
    Passing(String),
    /// Asking again would not help.
    Lasting(Error),
}

/// Takes in one answer, to its end; its keys come `after` one, which becomes the last of them.
async fn pull(
    http: &reqwest::Client,
    url: &str,
    after: &mut Option<String>,
    sink: &mut Sink<'_>,
) -> Result<(), Trouble> {
    let passing = |e: reqwest::Error| Trouble::Passing(told(&e));
    let mut answer = http.get(url).send().await.map_err(passing)?;
    let lines = answer.headers().get(CONTENT_TYPE).is_some_and(|is| is == "application/x-ndjson");
    match answer.status() {
        StatusCode::OK if lines => {}
        StatusCode::OK | StatusCode::NOT_FOUND => {
            return Err(Trouble::Lasting(Error::Node(format!(
                "{url} is no list of keys: is it a DynaRust, of this release?"
            ))));
        }
        status => {
            let why = format!("it answers {status}: {}", detail(&beginning(answer).await.map_err(passing)?));
            return Err(match status {
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Trouble::Passing(why),
                _ => Trouble::Lasting(Error::Node(why)),
            });
        }
    }
    if !ends(&answer) {
        return Err(Trouble::Lasting(Error::Node(format!(
            "{url} answers without chunks or a length, so one that was cut off would look whole: ask the node itself, by HTTP/1.1"
        ))));
    }
    // The beginning of a line whose end has not come.
    let mut rest = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(passing)? {
        let whole = piece.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole > 0 {
            rest.extend_from_slice(&piece[..whole]);
            check(&rest, after)
                .map_err(|what| Trouble::Lasting(Error::Node(format!("{url} sends {what}"))))?;
            sink.take(&rest).map_err(Trouble::Lasting)?;
            rest.clear();
        }
        rest.extend_from_slice(&piece[whole..]);
        if rest.len() > LINE_BYTES_MAX {
            return Err(Trouble::Lasting(Error::Node(format!("{url} sends a line without an end"))));
        }
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err(Trouble::Passing("its answer ends within a line".into())),
    }
}

/// Does this answer have an end of its own, and not that of its connection?
fn ends(answer: &reqwest::Response) -> bool {
    let chunks = answer.headers().contains_key(TRANSFER_ENCODING) && answer.version() != Version::HTTP_10;
    chunks || answer.headers().contains_key(CONTENT_LENGTH)
}

/// Whole lines must be of keys, each of which comes `after` the one before it.
fn check(lines: &[u8], after: &mut Option<String>) -> Result<(), &'static str> {
    for line in lines[..lines.len() - 1].split(|byte| *byte == b'\n') {
        let key = line.strip_prefix(b"{\"key\":").filter(|_| line.ends_with(b"}"));
        // The text of a key, whatever follows it: an import reads the rest.
        let key =
            key.and_then(|text| serde_json::Deserializer::from_slice(text).into_iter::<String>().next());
        let Some(Ok(key)) = key else { return Err("what is no list of keys") };
        if after.as_ref().is_some_and(|after| *after >= key) {
            return Err("keys that are not in their order");
        }
        *after = Some(key);
    }
    Ok(())
}

/// How many keys the node has, if it says so: only progress depends on it.
async fn keys(http: &reqwest::Client, node: &str) -> Option<u64> {
    let stats = http.get(format!("http://{node}/stats")).send().await.ok()?;
    let stats = beginning(stats).await.ok()?;
    serde_json::from_slice::<serde_json::Value>(&stats).ok()?["keys"].as_u64()
}
