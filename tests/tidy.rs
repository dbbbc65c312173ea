//! The house rules, as a test: every message says what to do instead.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, tests at its bottom included.
const LINES_MAX: usize = 600;
/// Longest line, in characters.
const COLUMNS_MAX: usize = 130;

fn sources(of: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut todo: Vec<PathBuf> = of.iter().map(|folder| root.join(folder)).collect();
    let mut files = Vec::new();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).expect("a folder").map(|file| file.expect("a file").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            files.push((path.strip_prefix(root).expect("inside").to_owned(), text));
        }
    }
    assert!(!files.is_empty(), "no sources found");
    files
}

/// The lines before the test module.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"))
}

fn complain(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let faults = sources(&["src", "migrations", "tests", "benches"]).into_iter();
    let faults = faults.filter(|(_, text)| !text.starts_with("//! "));
    complain(
        faults
            .map(|(path, _)| {
                format!("{}: begin with a //! header: what it does, what it must never do", path.display())
            })
            .collect(),
    );
}

#[test]
fn files_and_lines_stay_short() {
    let mut faults = Vec::new();
    for (path, text) in sources(&["src", "migrations", "tests", "benches"]) {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines: find the second room in it", path.display()));
        }
        for (number, line) in (1..).zip(text.lines()) {
            if line.chars().count() > COLUMNS_MAX {
                faults.push(format!(
                    "{}:{number}: longer than {COLUMNS_MAX} columns: break it",
                    path.display()
                ));
            }
        }
    }
    complain(faults);
}

#[test]
fn nothing_is_left_undone_or_unwrapped() {
    let banned = [
        ("TODO", "do it, or file an issue"),
        ("FIXME", "fix it, or file an issue"),
        ("todo!", "do it"),
        ("unimplemented!", "do it"),
        ("dbg!", "log it, or remove it"),
        (".unwrap()", "handle it, or expect() with the reason why it can't fail"),
        ("#[allow(", "use #[expect(…, reason = …)]"),
        ("println!", "use log, or let main print"),
    ];
    let mut faults = Vec::new();
    for (path, text) in sources(&["src", "migrations"]) {
        for (number, line) in (1..).zip(code(&text)) {
            for (word, instead) in banned {
                let printed_by_main = word == "println!" && path == Path::new("src/main.rs");
                if line.contains(word) && !printed_by_main {
                    faults.push(format!("{}:{number}: {word}: {instead}", path.display()));
                }
            }
        }
    }
    complain(faults);
}

#[test]
fn rooms_import_only_from_the_floors_below() {
    // The rooms that a room must not know, by the words that would give it away.
    let floors: [(&str, &[&str]); 8] = [
        ("src/limits.rs", &["crate::"]),
        ("src/metrics.rs", &["crate::"]),
        (
            "src/replica",
            &["sled", "tokio", "actix", "std::time", "std::fs", "crate::storage", "crate::api", "log::"],
        ),
        ("src/storage", &["actix", "crate::api", "crate::server", "crate::node", "crate::config"]),
        (
            "src/backup",
            &["sled::", "tokio", "actix", "reqwest", "crate::api", "crate::network", "crate::cli"],
        ),
        ("src/api", &["sled::", "crate::server", "crate::node", "crate::config"]),
        ("src/transfer", &["sled::", "actix", "crate::network", "crate::server", "crate::node"]),
        ("src/inspect", &["sled::", "tokio", "actix", "crate::api", "crate::network", "crate::node"]),
    ];
    let mut faults = Vec::new();
    for (room, strangers) in floors {
        for (path, text) in sources(&[room]) {
            for (number, line) in (1..).zip(text.lines()) {
                let prose = line.trim_start().starts_with("//");
                for stranger in strangers.iter().filter(|stranger| !prose && line.contains(**stranger)) {
                    faults.push(format!(
                        "{}:{number}: {stranger} is on a higher floor: move what both need down",
                        path.display()
                    ));
                }
            }
        }
    }
    for (path, text) in sources(&["src"]) {
        let word = text.lines().any(|line| line.contains("unsafe ") && !line.trim_start().starts_with("//"));
        if word && path != Path::new("src/storage/durable.rs") {
            faults.push(format!("{}: unsafe code lives in src/storage/durable.rs only", path.display()));
        }
    }
    complain(faults);
}

#[test]
fn migrations_freeze_their_world() {
    let faults = sources(&["migrations"]).into_iter().filter(|(_, text)| text.contains("crate::"));
    complain(
        faults.map(|(path, _)| format!("{}: import sled and nothing of ours", path.display())).collect(),
    );
}

#[test]
fn the_documents_name_every_route_and_flag() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let routes = fs::read_to_string(root.join("src/api/mod.rs")).expect("the routes");
    let paths =
        routes.split('"').filter(|text| text.starts_with('/') && text.len() > 1 && !text.contains(' '));
    let mut faults = Vec::new();
    for path in paths {
        let named = path.split('{').next().expect("a first part").trim_end_matches('/');
        if !readme.contains(named) {
            faults.push(format!("README.md: name the route {path}"));
        }
    }
    let lines = readme.lines().count();
    if lines > 150 {
        faults.push(format!("README.md: {lines} lines: keep it under 150, the rest belongs into docs/"));
    }
    complain(faults);
}
