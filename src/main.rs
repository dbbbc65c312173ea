//! The porch: flags in, exit code out. It translates and decides nothing.

use std::process::ExitCode;

use clap::Parser;

use dynarust::cli::{Cli, Command};
use dynarust::config::Config;
use dynarust::exit::Exit;
use dynarust::{ask, backup, compact, inspect, logger, node, storage, transfer};

/// A seventh less CPU a write than the C library's, measured: most of it is sled's small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(command) = cli.command {
        let done = match command {
            Command::Backup(flags) => return told(backup::fetch(&flags)),
            Command::Compact(flags) => {
                logger::start();
                node::end_on_panic();
                return match compact::run(&flags) {
                    Ok(()) => Exit::Stopped.into(),
                    Err(e) => fail(e.exit(), &e.advised()),
                };
            }
            Command::Export(flags) => {
                return match transfer::export(&flags, node::now_ms(), node::random()) {
                    Ok(told) => {
                        eprintln!("{told}");
                        Exit::Stopped.into()
                    }
                    Err(e) => fail(e.exit(), &e.to_string()),
                };
            }
            Command::Import(flags) => {
                return match transfer::import(&flags, node::now_ms) {
                    Ok(told) => {
                        println!("{told}");
                        Exit::Stopped.into()
                    }
                    Err(e) => fail(e.exit(), &e.to_string()),
                };
            }
            Command::TryOpen(flags) => {
                logger::start();
                node::end_on_panic();
                return match storage::opens(&flags.dir) {
                    Ok(()) => Exit::Stopped.into(),
                    Err(e) => fail(e.exit(), &e.to_string()),
                };
            }
            Command::Healthcheck(target) => ask::ready(&target),
            Command::Inspect(flags) => {
                return match inspect::run(&flags, node::now_ms(), node::random()) {
                    Ok(code) => code.into(),
                    Err(e) => fail(e.exit(), &e.to_string()),
                };
            }
            Command::Leave(flags) => ask::leave(&flags).map(|told| println!("{told}")),
            Command::Restore(flags) => {
                return told(backup::restore(&flags, node::now_ms, node::random));
            }
        };
        return match done {
            Ok(()) => Exit::Stopped.into(),
            Err(why) => fail(Exit::Unforeseen, &why),
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

fn told(done: Result<String, backup::Error>) -> ExitCode {
    match done {
        Ok(text) => {
            println!("{text}");
            Exit::Stopped.into()
        }
        Err(e) => fail(e.exit(), &e.to_string()),
    }
}
