//! What a comparison comes to: how many keys stand how, in words, as an object, as an exit code.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{Directory, INCOMPARABLE, beyond};
use crate::inspect::shown::Tone;
use crate::inspect::{Error, Out, shown, summary};
use crate::replica::Standing;

/// The exit codes of two that hold the same, that differ as may be, and that differ by no rule.
const ALIKE: u8 = 0;
const DIFFER: u8 = 1;
const FAULT: u8 = 3;

/// How one key stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stands {
    /// By what each has heard.
    As(Standing),
    /// One name stands for two versions.
    NameTwice,
    /// The entry of one of them, or of both, can't be read.
    Damaged([bool; 2]),
}

impl Stands {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Stands::As(Standing::Alike) => "alike",
            Stands::As(Standing::Ahead) => "ahead",
            Stands::As(Standing::GoneHere) => "gone here",
            Stands::As(Standing::Behind) => "behind",
            Stands::As(Standing::GoneThere) => "gone there",
            Stands::As(Standing::Concurrent) => "concurrent",
            Stands::As(Standing::Diverged) => "DIVERGED",
            Stands::NameTwice => "NAME TWICE",
            Stands::Damaged([true, true]) => "damaged",
            Stands::Damaged([true, false]) => "damaged here",
            Stands::Damaged(_) => "damaged there",
        }
    }

    /// The same for programs.
    pub fn name(self) -> String {
        self.word().to_lowercase().replace(' ', "-")
    }

    /// How it is shown.
    pub fn tone(self) -> Tone {
        match self {
            Stands::As(Standing::Diverged) | Stands::NameTwice | Stands::Damaged(_) => Tone::Bad,
            Stands::As(_) => Tone::Plain,
        }
    }

    fn is_fault(self) -> bool {
        matches!(self, Stands::As(Standing::Diverged) | Stands::NameTwice)
    }

    fn is_damaged(self) -> bool {
        matches!(self, Stands::Damaged(_))
    }
}

/// What the whole comes to.
#[derive(Default)]
pub struct Sum {
    /// Keys and members of which at least one holds something.
    pub keys: u64,
    /// Those that differ and were not shown.
    pub left_out: u64,
    differ: BTreeMap<Stands, u64>,
}

impl Sum {
    /// One more that is not alike.
    pub fn add(&mut self, stands: Stands) {
        *self.differ.entry(stands).or_default() += 1;
    }

    /// How many keys are not alike.
    pub fn differ(&self) -> u64 {
        self.differ.values().sum()
    }

    fn of(&self, those: impl Fn(Stands) -> bool) -> u64 {
        self.differ.iter().filter(|(stands, _)| those(**stands)).map(|(_, count)| count).sum()
    }

    /// With what the process ends.
    pub fn exit(&self) -> u8 {
        match (self.of(Stands::is_fault), self.of(Stands::is_damaged), self.differ()) {
            (1.., _, _) => FAULT,
            (0, 1.., _) => INCOMPARABLE as u8,
            (0, 0, 1..) => DIFFER,
            (0, 0, 0) => ALIKE,
        }
    }

    /// For programs.
    pub fn object(&self, sides: &[Directory; 2]) -> Json {
        let side = |side: &Directory| {
            let last = &side.about.summary;
            json!({
                "dir": side.path.display().to_string(),
                "node": side.about.node.to_string(),
                "cluster": (side.about.cluster.0 != 0).then(|| side.about.cluster.to_string()),
                "format": side.store.manifest.format,
                "version_vector": summary::vector(&last.vv),
                "digest": last.totals.digest.to_string(),
            })
        };
        let differ: BTreeMap<String, u64> =
            self.differ.iter().map(|(stands, count)| (stands.name(), *count)).collect();
        let [here, there] = sides;
        let (one, two) = (&here.about.summary.vv, &there.about.summary.vv);
        json!({
            "alike": self.differ() == 0,
            "compared": self.keys,
            "differ": differ,
            "faults": self.of(Stands::is_fault),
            "left_out": self.left_out,
            "here": side(here),
            "there": side(there),
            "here_lacks": beyond(two, one),
            "there_lacks": beyond(one, two),
        })
    }

    /// For people.
    pub fn show(&self, prefix: Option<&str>, out: &mut Out) -> Result<(), Error> {
        let keys = self.keys;
        let what = if prefix.is_none() { "keys and members" } else { "keys" };
        if self.differ() == 0 {
            return match prefix {
                Some(prefix) if keys == 0 => {
                    let prefix = shown::key(prefix.as_bytes());
                    out.line(&format!("nothing to compare: neither holds a key that begins with '{prefix}'"))
                }
                _ => out.toned(Tone::Good, &format!("alike: both hold the same of {keys} {what}")),
            };
        }
        if self.left_out > 0 {
            out.line(&format!("… and {} more keys that differ", self.left_out))?;
        }
        let differ: Vec<String> =
            self.differ.iter().map(|(stands, count)| format!("{count} {}", stands.word())).collect();
        out.line("")?;
        out.line(&format!("{} of {keys} {what} differ: {}", self.differ(), differ.join(", ")))?;
        for (count, what) in [
            (
                self.of(|stands| stands == Stands::As(Standing::Diverged)),
                "differ though neither lacks anything of them: one has lost something, or kept what it had seen go",
            ),
            (
                self.of(|stands| stands == Stands::NameTwice),
                "hold two versions under one name: a value is damaged, or two nodes have written as one",
            ),
        ] {
            if count > 0 {
                out.toned(Tone::Bad, &format!("FAULT: {count} {what}"))?;
            }
        }
        match self.of(Stands::is_damaged) {
            0 => Ok(()),
            damaged => {
                out.toned(Tone::Bad, &format!("{damaged} are damaged and can't be compared: see verify"))
            }
        }
    }
}
