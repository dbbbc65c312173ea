//! SIGKILL at random moments under load, and inside start-up, again and again on one directory: every
//! acknowledged operation is there afterwards, nothing that was deleted comes back, nothing that a reader saw is
//! taken back, no version is used twice, and the node serves again in under a second.

use crate::random::{Random, rounds, seed};
use crate::support::Node;
use crate::workload::Workload;
use crate::{alone, say};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const WRITERS: usize = 64;
const READERS: usize = 4;
const KEYS_EACH: usize = 16;
const SERVING_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn sigkill_loses_nothing() {
    let _alone = alone();
    let seed = seed();
    let rounds = rounds("DYNARUST_KILL_ROUNDS", 200);
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = Random::new(seed);
    let mut workload = Workload::new(random.next(), WRITERS, READERS, KEYS_EACH);
    let mut starts = Vec::new();
    let mut inside_start = 0;
    for round in 0..rounds {
        let context = format!("round {round} of {rounds}, DYNARUST_SEED={seed}");
        if round > 0 && random.chance(25) {
            let typical = starts.iter().sum::<Duration>() / starts.len() as u32;
            inside_start += u64::from(kill_inside_start(dir.path(), &mut random, typical));
        }
        let begun = Instant::now();
        let node = Node::launch(Node::command(dir.path(), &[]))
            .unwrap_or_else(|log| panic!("{context}: does not start again\n{log}"));
        starts.push(begun.elapsed());
        workload.audit(&node);
        workload.acquit(&context);
        assert!(begun.elapsed() < Duration::from_secs(30), "{context}: the audit takes too long");

        let mut crowd = workload.connect(&node);
        let (acknowledged, moment) = (workload.acknowledged, Instant::now());
        if random.chance(50) {
            let until = moment + Duration::from_millis(random.between(1, 600));
            crowd.run(&mut workload, until, |_| false);
        } else {
            let wanted = acknowledged + random.between(1, 2000);
            crowd.run(&mut workload, moment + Duration::from_secs(1), |w| w.acknowledged >= wanted);
        }
        node.signal(libc::SIGKILL);
        workload.stopped = true;
        assert!(
            crowd.drain(&mut workload, Duration::from_secs(10)),
            "{context}: connections outlive the node"
        );
        node.kill();
        workload.acquit(&context);
    }
    let node = Node::start(dir.path(), &[]);
    workload.audit(&node);
    workload.acquit(&format!("after the last round, DYNARUST_SEED={seed}"));
    assert_eq!(node.stop().code(), Some(0), "SIGTERM after all that");
    let node = Node::start(dir.path(), &[]);
    workload.audit(&node);
    workload.acquit(&format!("after a stop as asked, DYNARUST_SEED={seed}"));

    starts.sort();
    let (median, longest) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    say(&format!(
        "kill: {rounds} rounds ({inside_start} more kills inside start-up), {} acknowledged, {} reads, nothing lost; \
         start: median {median:?}, longest {longest:?}",
        workload.acknowledged, workload.reads
    ));
    assert!(workload.acknowledged > rounds * 20, "hardly any load: {}", workload.acknowledged);
    assert!(workload.reads > rounds, "hardly any reads: {}", workload.reads);
    // One start in a hundred may have had to wait for a machine that others keep busy.
    let nearly_all = starts[(starts.len() - 1) * 99 / 100];
    assert!(nearly_all < SERVING_WITHIN, "starts took up to {nearly_all:?} (median {median:?})");
    assert!(longest < SERVING_WITHIN * 3, "a start took {longest:?} (median {median:?})");
}

/// Starts a node and kills it at a random moment before it serves, or shortly after; true when it was before.
fn kill_inside_start(dir: &Path, random: &mut Random, within: Duration) -> bool {
    let mut command = Node::command(dir, &[]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the node's binary starts");
    // Not to wait for anything: the length of this pause is the random moment itself.
    std::thread::sleep(Duration::from_micros(random.below(within.as_micros() as u64)));
    let ended = child.try_wait().expect("the child can be waited for");
    child.kill().expect("it can be killed");
    let output = child.wait_with_output().expect("its log can be read");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(ended.is_none(), "it ended by itself inside start-up: {ended:?}\n{log}");
    !log.contains("serving address=")
}
