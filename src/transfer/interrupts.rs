//! What asks a command to end, Ctrl-C or SIGTERM: so that it can say how far it is, or take away what it has begun. Once they
//! are watched these signals end the process no longer by themselves.

use std::future::poll_fn;
use std::task::Poll;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Error, runtime};

/// How often the process was asked to end.
pub struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    /// Counts from now on, whatever the thread that asks is doing.
    pub fn watch() -> Result<Interrupts, Error> {
        let cant = |e: std::io::Error| Error::Node(format!("can't watch for signals: {e}"));
        let (counts, count) = watch::channel(0);
        let runtime = runtime()?;
        let entered = runtime.enter();
        let mut int = signal(SignalKind::interrupt()).map_err(cant)?;
        let mut term = signal(SignalKind::terminate()).map_err(cant)?;
        drop(entered);
        let count_them = move || {
            while !counts.is_closed() {
                runtime.block_on(poll_fn(|cx| {
                    let any = int.poll_recv(cx).is_ready() || term.poll_recv(cx).is_ready();
                    if any { Poll::Ready(()) } else { Poll::Pending }
                }));
                counts.send_modify(|count| *count += 1);
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(count_them).map_err(cant)?;
        Ok(Interrupts(count))
    }

    /// How often it was until now.
    pub fn count(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits until it was asked more often than so.
    pub async fn beyond(&mut self, seen: u32) {
        if self.0.wait_for(|count| *count > seen).await.is_err() {
            // Nobody counts any more.
            std::future::pending().await
        }
    }
}
