//! Starts and stops everything, in order; knows every room and does no work. The only place that reads the wall clock and
//! draws random numbers.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::App;
use crate::config::Config;
use crate::exit::Exit;
use crate::limits::{LEAVE_MS, STOP_GRACE_MS};
use crate::metrics::Metrics;
use crate::network::{self, Door, Left, Network, Stays};
use crate::peers::Peers;
use crate::storage::{self, FORMAT, Settings, Store};
use crate::{rejoin, server, storage::panic_exit};

/// Why a node ended, and the line that says so.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub struct End {
    /// The exit code.
    pub exit: Exit,
    line: String,
}

impl From<storage::Error> for End {
    fn from(error: storage::Error) -> End {
        End { exit: error.exit(), line: error.advised() }
    }
}

impl From<network::Error> for End {
    fn from(error: network::Error) -> End {
        match error {
            network::Error::Storage(error) => error.into(),
            error => End { exit: Exit::Unforeseen, line: error.to_string() },
        }
    }
}

/// Runs a node until it is asked to stop.
pub fn run(config: Config) -> Result<(), End> {
    end_on_panic();
    raise_file_limit();
    refuse_huge_pages();
    actix_web::rt::System::new().block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), End> {
    let started = Instant::now();
    let unforeseen = |e: &dyn std::fmt::Display| End { exit: Exit::Unforeseen, line: e.to_string() };
    // A signal while the node starts waits for its turn: then the node stops at once, as cleanly as later.
    let mut signals = Signals::new().map_err(|e| unforeseen(&e))?;
    let cant = |line: String| End { exit: Exit::Address, line };
    let listener = server::listen(config.listen).map_err(|e| {
        let advice = match e.kind() {
            ErrorKind::AddrInUse => "stop who does, or give another address",
            ErrorKind::AddrNotAvailable => "it is no address of this machine; 0.0.0.0 listens on all of them",
            ErrorKind::PermissionDenied => "ports below 1024 need a privilege; give a higher one",
            _ => "give another address",
        };
        cant(format!("can't listen on {}: {e}; {advice}", config.listen))
    })?;
    let address = listener.local_addr().map_err(|e| cant(format!("can't tell the address: {e}")))?;
    let metrics = Arc::new(Metrics::default());
    let peers = Arc::new(Peers::default());
    let (value_bytes_max, request_timeout) = (config.value_bytes_max, config.request_timeout);
    let app = App::new(address, value_bytes_max, request_timeout, metrics.clone(), peers.clone(), now_ms);
    let app = Arc::new(app);
    let door = Arc::new(Door::new(config.secret.clone()));
    if config.secret.is_none() && !address.ip().is_loopback() {
        log::warn!(
            "anybody who reaches {address} can join this cluster, read and change everything: give all nodes the same \
             --cluster-secret-file, and keep the port from strangers"
        );
    }
    // The server answers from now on: 503, until the store is open.
    let server = server::serve(listener, app.clone(), door.clone(), &config)
        .map_err(|e| cant(format!("can't serve: {e}")))?;
    let handle = server.handle();
    let server = actix_web::rt::spawn(server);
    let settings = Settings {
        directory: config.data_dir.clone(),
        cache_bytes: config.cache_bytes,
        reserve_bytes: config.disk_reserve_bytes,
        queue: config.write_queue,
        log_kept_bytes: config.log_kept_bytes,
        log_held_bytes: config.log_held_bytes,
        forget_after: config.forget_after,
        commit_deadline: config.commit_deadline,
        now_ms,
        random,
    };
    let asked = config.clone();
    let open = move || {
        if asked.rejoin_empty {
            rejoin::make_way(&asked, now_ms(), random)?;
        }
        Store::open(&settings, metrics)
    };
    let opened = tokio::task::spawn_blocking(open).await;
    let store = opened.map_err(|e| unforeseen(&e))??;
    store.tell(address)?;
    let settings = network::Settings {
        listen: address,
        advertise: config.advertise.clone(),
        join: config.join.clone(),
        secret: config.secret.clone(),
        started,
        now_ms,
        random,
    };
    let network = Network::start(store.clone(), peers, settings, &door).await?;
    // It may have taken another id, which whoever looks into the directory should know.
    store.tell(address)?;
    app.open(store.clone());
    log::info!(
        "serving address={address} data-dir={} format={FORMAT} keys={} recovery-ms={}",
        store.directory_shown(),
        store.published().totals.keys,
        started.elapsed().as_millis()
    );
    let (left, began) = loop {
        let asked = tokio::select! {
            () = signals.received() => false,
            () = door.asked_to_leave() => true,
        };
        let began = Instant::now();
        let left = match asked || config.leave_on_exit {
            true => leave(&app, &network, !asked, began).await,
            false => Err(Stays::Stops),
        };
        let stops = !asked || left.is_ok();
        door.tell(&left, stops);
        if stops {
            break (left, began);
        }
    };
    log::info!("stopping: finishing {} requests under way", app.under_way());
    handle.pause().await;
    app.stop();
    drain(&app, began).await;
    // Answers that were just made get out.
    tokio::time::sleep(Duration::from_millis(50)).await;
    handle.stop(false).await;
    let _ = server.await;
    let closing = store.clone();
    let _ = tokio::task::spawn_blocking(move || closing.close()).await;
    log::info!("stopped: everything acknowledged is on the disk");
    match left {
        Err(Stays::Holds(why)) => {
            Err(End { exit: Exit::Unforeseen, line: format!("stopped, but still a member: {why}") })
        }
        _ => Ok(()),
    }
}

/// Leaves the cluster, until the node is started again if it `returns`; or serves on, and says why. It `began` then.
async fn leave(app: &App, network: &Network, returns: bool, began: Instant) -> Left {
    // First no more writes: one that is taken after the others have let this node go would be theirs never.
    app.stop();
    drain(app, began).await;
    let left = network.leave(returns, began + Duration::from_millis(LEAVE_MS)).await;
    match &left {
        Ok(told) => log::info!("this node has left its cluster; {told} other members know"),
        Err(why) => {
            let level = if matches!(why, Stays::Holds(_)) { log::Level::Error } else { log::Level::Info };
            log::log!(level, "this node does not leave: {why}");
            if !returns {
                app.resume();
            }
        }
    }
    left
}

/// Waits for the requests that are under way since it `began`, for as long as they may take.
async fn drain(app: &App, began: Instant) {
    let deadline = began + Duration::from_millis(STOP_GRACE_MS);
    while app.under_way() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What asks the node to stop.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Milliseconds since 1970, by the wall clock; 0 before that.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// 64 random bits; ends the process when the system has none.
#[expect(clippy::disallowed_methods, reason = "the one place that draws random numbers")]
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    if let Err(e) = getrandom::fill(&mut bytes) {
        storage::end_process(Exit::Unforeseen, &format!("the system gives no random numbers: {e}"));
    }
    u64::from_be_bytes(bytes)
}

/// A panic anywhere ends the process: what other threads would go on with is not what was meant.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location();
        let exit = place.map_or(Exit::Unforeseen, |place| panic_exit(place.file()));
        let what = panic.payload_as_str().unwrap_or("no message").replace('\n', " ");
        let at = place.map(ToString::to_string).unwrap_or_default();
        end_with_advice(exit, &format!("panic: {what} (at {at})"));
    }));
}

/// Ends the process at once, with a line that says what to do.
pub fn end_with_advice(exit: Exit, why: &str) -> ! {
    let advice = match exit {
        Exit::Damaged => &format!("{}{}", storage::OPENED, storage::CHOICES),
        Exit::Failed => "; restart to recover the last commit",
        _ => "; this is a bug, please report it",
    };
    storage::end_process(exit, &format!("{why}{advice}"))
}

/// The allocator would ask for pages of 2 MiB: whoever touches one first waits while all of it is cleared, which took a commit
/// up to 7 ms where memory is that of a virtual machine, and what of it is not used counts as well.
fn refuse_huge_pages() {
    if let Err(e) = rustix::thread::disable_transparent_huge_pages(true) {
        log::debug!("huge pages stay: {e}");
    }
}

/// Every connection takes a file: the soft limit is often only 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        log::warn!("the limit of open files stays at {:?}: {e}", limit.current);
    }
}
