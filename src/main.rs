//! The porch: flags in, exit code out. It translates and decides nothing.

use std::process::ExitCode;

use dynarust::cli::Command;
use dynarust::config::Config;
use dynarust::exit::Exit;
use dynarust::{ask, compact, inspect, logger, node, storage, transfer};

/// A seventh less CPU a write than the C library's, measured: most of it is sled's small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = dynarust::cli::parse();
    if let Some(command) = cli.command {
        let unforeseen = |why: &String| (Exit::Unforeseen, why.clone());
        return match command {
            Command::Backup(flags) => {
                let tell = |told| if flags.to_stdout() { eprintln!("{told}") } else { println!("{told}") };
                end(transfer::backup(&flags).map(tell), outside)
            }
            Command::Compact(flags) => {
                logger::start();
                node::end_on_panic();
                end(compact::run(&flags), |e| (e.exit(), e.advised()))
            }
            Command::Export(flags) => {
                let done = transfer::export(&flags, node::now_ms(), node::random());
                end(done.map(|told| eprintln!("{told}")), outside)
            }
            Command::Healthcheck(target) => end(ask::ready(&target), unforeseen),
            Command::Import(flags) => {
                end(transfer::import(&flags, node::now_ms).map(|told| println!("{told}")), outside)
            }
            Command::Inspect(flags) => match inspect::run(&flags, node::now_ms(), node::random()) {
                Ok(code) => code.into(),
                Err(e) => fail(e.exit(), &e.to_string()),
            },
            Command::Leave(flags) => end(ask::leave(&flags).map(|told| println!("{told}")), unforeseen),
            Command::Restore(flags) => {
                let done = transfer::restore(&flags, node::now_ms, node::random);
                end(done.map(|told| println!("{told}")), outside)
            }
            Command::TryOpen(flags) => {
                logger::start();
                node::end_on_panic();
                end(storage::opens(&flags.dir), |e| (e.exit(), e.to_string()))
            }
        };
    }
    let config = match Config::of(cli.node) {
        Ok(config) => config,
        Err(wrong) => return fail(Exit::Usage, &wrong.to_string()),
    };
    logger::start();
    for name in dynarust::cli::unknown_variables() {
        log::warn!("the variable {name} is no twin of a flag: it does nothing");
    }
    match node::run(config) {
        Ok(()) => Exit::Stopped.into(),
        Err(end) => fail(end.exit, &end.to_string()),
    }
}

fn fail(exit: Exit, why: &str) -> ExitCode {
    eprintln!("error: {why}");
    exit.into()
}

/// Nothing is left to say, or what the error says.
fn end<E>(done: Result<(), E>, says: impl Fn(&E) -> (Exit, String)) -> ExitCode {
    match done.map_err(|e| says(&e)) {
        Ok(()) => Exit::Stopped.into(),
        Err((exit, why)) => fail(exit, &why),
    }
}

fn outside(error: &transfer::Error) -> (Exit, String) {
    (error.exit(), error.to_string())
}
