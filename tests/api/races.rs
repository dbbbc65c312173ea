//! Conditional and causal writes by many threads at once: no increment is lost, one creator wins, no sibling
//! disappears.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::helpers::{Keys, entry, etag, fresh, node, problem, removed, written};
use crate::support::Client;

const THREADS: usize = 8;

fn together(work: impl Fn(usize, &mut Client) + Sync) {
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (work, start) = (&work, &start);
            scope.spawn(move || {
                let mut client = node().client();
                start.wait();
                work(thread, &mut client);
            });
        }
    });
}

#[test]
fn no_increment_is_lost() {
    const EACH: usize = 40;
    let path = format!("/key/{}", fresh("count"));
    written(&node().request("PUT", &path, "{\"value\":0}"), &[201]);
    let lost = AtomicUsize::new(0);
    together(|_, client| {
        let mut done = 0;
        while done < EACH {
            let read = entry(&client.request("GET", &path, &[], b"").expect("an answer"));
            let next = read.value.parse::<usize>().expect("a count") + 1;
            let body = format!("{{\"value\":{next}}}");
            let headers = [("If-Match", etag(&read.version))];
            let headers = headers.each_ref().map(|(n, v)| (*n, v.as_str()));
            let answer = client.request("PUT", &path, &headers, body.as_bytes()).expect("an answer");
            if answer.status == 412 {
                lost.fetch_add(1, Ordering::Relaxed);
            } else {
                written(&answer, &[200]);
                done += 1;
            }
        }
    });
    assert_eq!(entry(&node().request("GET", &path, "")).value, (THREADS * EACH).to_string());
    assert!(lost.into_inner() > 0, "nobody raced anybody: this test proved nothing");
}

#[test]
fn without_a_condition_increments_would_be_lost() {
    // The same loop without If-Match must lose some: otherwise the test above can't fail.
    let path = format!("/key/{}", fresh("count"));
    written(&node().request("PUT", &path, "{\"value\":0}"), &[201]);
    together(|_, client| {
        for _ in 0..40 {
            let read = entry(&client.request("GET", &path, &[], b"").expect("an answer"));
            let next = read.value.parse::<usize>().expect("a count") + 1;
            let body = format!("{{\"value\":{next}}}");
            written(&client.request("PUT", &path, &[], body.as_bytes()).expect("an answer"), &[200]);
        }
    });
    let end: usize = entry(&node().request("GET", &path, "")).value.parse().expect("a count");
    assert!(end < THREADS * 40, "{end}");
}

#[test]
fn exactly_one_creator_wins() {
    for round in 0..25 {
        let path = format!("/key/{}", fresh("create"));
        let winners = std::sync::Mutex::new(Vec::new());
        together(|thread, client| {
            let body = format!("{{\"value\":{thread}}}");
            let answer = client.request("PUT", &path, &[("If-None-Match", "*")], body.as_bytes());
            let answer = answer.expect("an answer");
            if answer.status == 412 {
                problem(&answer, 412, "precondition-failed");
            } else {
                winners.lock().unwrap().push((thread, written(&answer, &[201]).version));
            }
        });
        let winners = winners.into_inner().unwrap();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        let read = entry(&node().request("GET", &path, ""));
        assert_eq!((read.value, read.version), (winners[0].0.to_string(), winners[0].1.clone()));
    }
}

#[test]
fn exactly_one_deleter_wins() {
    for round in 0..15 {
        let path = format!("/key/{}", fresh("remove"));
        written(&node().request("PUT", &path, "{\"value\":1}"), &[201]);
        let wins = AtomicUsize::new(0);
        together(|_, client| {
            let answer = client.request("DELETE", &path, &[], b"").expect("an answer");
            if answer.status == 404 {
                problem(&answer, 404, "not-found");
            } else {
                removed(&answer);
                wins.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(wins.into_inner(), 1, "round {round}");
        problem(&node().request("GET", &path, ""), 404, "not-found");
    }
}

#[test]
fn writes_that_saw_the_same_version_all_stay() {
    let path = format!("/key/{}", fresh("siblings"));
    let seen = written(&node().request("PUT", &path, "{\"value\":\"base\"}"), &[201]).version;
    together(|thread, client| {
        let body = format!("{{\"value\":{thread}}}");
        let answer = client.request("PUT", &path, &[("Causality-Token", &seen)], body.as_bytes());
        written(&answer.expect("an answer"), &[200]);
    });
    let read = entry(&node().request("GET", &path, ""));
    let mut values: BTreeSet<String> = read.conflicts.iter().map(|c| c.value.clone()).collect();
    values.insert(read.value);
    assert_eq!(
        values,
        (0..THREADS).map(|t| t.to_string()).collect(),
        "every one of them, and the base is gone"
    );
}

#[test]
fn a_reader_sees_its_own_thread_s_writes_at_once() {
    together(|thread, client| {
        let path = format!("/key/{}", fresh("own"));
        for round in 0..25 {
            let value = format!("\"{thread}-{round}\"");
            let body = format!("{{\"value\":{value}}}");
            let wrote =
                written(&client.request("PUT", &path, &[], body.as_bytes()).expect("an answer"), &[200, 201]);
            let read = entry(&client.request("GET", &path, &[], b"").expect("an answer"));
            assert_eq!((read.version, read.value), (wrote.version, value));
        }
        removed(&client.request("DELETE", &path, &[], b"").expect("an answer"));
        problem(&client.request("GET", &path, &[], b"").expect("an answer"), 404, "not-found");
    });
}

#[test]
fn a_conditional_read_shows_what_its_condition_names() {
    let path = format!("/key/{}", fresh("large"));
    let body = format!("{{\"value\":{:?}}}", "x".repeat(300_000));
    written(&node().request("PUT", &path, &body), &[201]);
    let (kept, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    together(|thread, client| {
        for _ in 0..40 {
            if thread < 2 {
                written(&client.request("PUT", &path, &[], body.as_bytes()).expect("an answer"), &[200]);
                continue;
            }
            let head = client.request("HEAD", &path, &[], b"").expect("an answer");
            let tag = head.header("etag").expect("a tag").to_owned();
            let answer = client.request("GET", &path, &[("If-Match", &tag)], b"").expect("an answer");
            match answer.status {
                412 => refused.fetch_add(1, Ordering::Relaxed),
                _ => {
                    assert_eq!(answer.header("etag"), Some(tag.as_str()), "{}", answer.status);
                    kept.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    });
    let (kept, refused) = (kept.into_inner(), refused.into_inner());
    assert!(kept > 0 && refused > 0, "{kept} kept, {refused} refused: this test proved nothing");
}
