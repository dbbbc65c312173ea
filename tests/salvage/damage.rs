//! What can happen to a directory on a bad disk, and which bytes of the log it hits.

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::random::Random;

/// A sort of damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Damage {
    Bits,
    Zeros,
    Junk,
    Mixed,
    Cut,
    Missing,
    Several,
}

pub const ALL: [Damage; 7] =
    [Damage::Bits, Damage::Zeros, Damage::Junk, Damage::Mixed, Damage::Cut, Damage::Missing, Damage::Several];

impl Damage {
    pub fn name(self) -> &'static str {
        match self {
            Damage::Bits => "1 to 16 bits flipped",
            Damage::Zeros => "1 to 6 blocks of 4 KiB zeroed",
            Damage::Junk => "1 to 6 sectors of junk",
            Damage::Mixed => "blocks of 4 KiB swapped",
            Damage::Cut => "the end cut off",
            Damage::Missing => "files missing or junk beside the log",
            Damage::Several => "several of these",
        }
    }
}

const BLOCK: u64 = 4 << 10;
const SEGMENT: u64 = 2 << 20;

/// Damages a directory; the bytes of the log that are not what they were.
pub fn inflict(damage: Damage, dir: &Path, random: &mut Random) -> Vec<Range<u64>> {
    let db = dir.join("store/db");
    let file = OpenOptions::new().read(true).write(true).open(&db).expect("the log");
    let length = file.metadata().expect("its length").len();
    let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).expect("it can be written");
    let get = |at: u64, count: u64| {
        let mut bytes = vec![0; count as usize];
        file.read_exact_at(&mut bytes, at).expect("it can be read");
        bytes
    };
    let block = |random: &mut Random| {
        let at = random.below(length.div_ceil(BLOCK)) * BLOCK;
        at..(at + BLOCK).min(length)
    };
    match damage {
        Damage::Bits => {
            let times = random.between(1, 16);
            let flip = |_| {
                let at = random.below(length);
                put(at, &[get(at, 1)[0] ^ 1 << random.below(8)]);
                at..at + 1
            };
            (0..times).map(flip).collect()
        }
        Damage::Zeros => {
            let times = random.between(1, 6);
            let zero = |_| {
                let hit = block(random);
                put(hit.start, &vec![0; (hit.end - hit.start) as usize]);
                hit
            };
            (0..times).map(zero).collect()
        }
        Damage::Junk => {
            let times = random.between(1, 6);
            let junk = |_| {
                let at = random.below(length / 512) * 512;
                let bytes: Vec<u8> = (0..512).map(|_| random.next() as u8).collect();
                put(at, &bytes);
                at..at + 512
            };
            (0..times).map(junk).collect()
        }
        Damage::Mixed => {
            let mut hit = Vec::new();
            for _ in 0..random.between(1, 4) {
                let (one, other) = (block(random), block(random));
                let count = (one.end - one.start).min(other.end - other.start);
                let (first, second) = (get(one.start, count), get(other.start, count));
                put(one.start, &second);
                put(other.start, &first);
                hit.extend([one, other]);
            }
            hit
        }
        Damage::Cut => {
            let at = random.below(length);
            // At the end of a segment nothing shows that it was cut.
            let at = if random.chance(30) { at / SEGMENT * SEGMENT } else { at };
            file.set_len(at).expect("it can be cut");
            std::iter::once(at..length).collect()
        }
        Damage::Missing => {
            let snapshots = fs::read_dir(dir.join("store")).expect("it can be listed");
            let snapshots = snapshots.map(|file| file.expect("a file").path());
            let mut beside: Vec<_> =
                ["MANIFEST", "PROGRESS", "LOCK", "store/conf"].iter().map(|name| dir.join(name)).collect();
            beside.extend(snapshots.filter(|path| path.display().to_string().contains("snap.")));
            for path in beside {
                match random.below(4) {
                    0 => drop(fs::remove_file(path)),
                    1 => fs::write(path, b"junk").expect("it can be written"),
                    2 => fs::write(path, b"").expect("it can be written"),
                    _ => {}
                }
            }
            Vec::new()
        }
        Damage::Several => {
            let some = [Damage::Bits, Damage::Zeros, Damage::Junk, Damage::Mixed, Damage::Missing];
            let mut hit = Vec::new();
            for _ in 0..random.between(2, 4) {
                hit.extend(inflict(some[random.index(some.len())], dir, random));
            }
            hit
        }
    }
}
