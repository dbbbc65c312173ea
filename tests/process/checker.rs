//! Negative controls of the checker: forged histories, each breaking one law of `history.rs`, must be found
//! guilty, and honest ones must not.

use crate::history::{History, Seen, value_text};

fn version(seq: u32) -> String {
    format!("00000000000000aa-{seq}")
}

fn value(number: u32, seq: u32) -> Seen {
    Seen::Value { text: value_text(0, number, 40), version: version(seq) }
}

/// One key, with `puts` acknowledged puts numbered and versioned from 1.
fn history(puts: u32) -> History {
    let mut history = History::new(2);
    for number in 1..=puts {
        assert_eq!(history.submit(0, Some(40)), number);
        history.acknowledge(0, number, &version(number)).expect("honest");
    }
    history
}

fn guilty(verdict: Result<(), String>, law: &str) {
    let why = verdict.expect_err("must be found guilty");
    assert!(why.contains(law), "{why} should say {law:?}");
}

#[test]
fn honest_histories_pass() {
    let mut it = history(2);
    it.recovered(0, &value(2, 2)).expect("what was acknowledged");
    assert_eq!(it.submit(0, Some(40)), 3);
    let floor = it.floor(0);
    it.read(0, floor, &value(2, 2)).expect("not there yet");
    it.read(0, floor, &value(3, 3)).expect("there, not acknowledged yet");
    it.recovered(0, &value(3, 3)).expect("kept, as a reader has seen it");
    assert_eq!(it.submit(0, None), 4);
    it.recovered(0, &value(3, 3)).expect("an unacknowledged delete may be lost");
    assert_eq!(it.submit(0, None), 5);
    it.recovered(0, &Seen::Absent).expect("or have happened");
    assert!(!it.present(0) && it.settled(0));
}

#[test]
fn a_lost_acknowledged_put_is_found() {
    guilty(history(1).recovered(0, &Seen::Absent), "lost");
    guilty(history(2).recovered(0, &value(1, 1)), "older than promised");
}

#[test]
fn a_delete_undone_is_found() {
    let mut it = history(1);
    let number = it.submit(0, None);
    it.acknowledge(0, number, &version(2)).expect("honest");
    guilty(it.recovered(0, &value(1, 1)), "older than promised");
}

#[test]
fn a_value_taken_back_after_a_reader_saw_it_is_found() {
    let mut it = history(1);
    it.submit(0, Some(40));
    it.read(0, it.floor(0), &value(2, 2)).expect("honest so far");
    guilty(it.recovered(0, &value(1, 1)), "older than promised");

    let mut it = history(1);
    it.submit(0, None);
    it.read(0, it.floor(0), &Seen::Absent).expect("honest so far");
    guilty(it.recovered(0, &value(1, 1)), "older than promised");
}

#[test]
fn a_stale_read_is_found() {
    let mut it = history(2);
    guilty(it.read(0, it.floor(0), &value(1, 1)), "older than promised");
}

#[test]
fn a_write_back_from_the_dead_is_found() {
    let mut it = history(1);
    it.submit(0, Some(40));
    it.recovered(0, &value(1, 1)).expect("the second did not make it");
    guilty(it.recovered(0, &value(2, 2)), "gone or never was");

    let mut it = history(1);
    let number = it.submit(0, Some(40));
    it.refuse(0, number);
    guilty(it.recovered(0, &value(number, 2)), "gone or never was");
}

#[test]
fn a_version_used_twice_is_found() {
    let mut it = history(1);
    let number = it.submit(0, Some(40));
    guilty(it.acknowledge(0, number, &version(1)), "names write");

    let mut it = history(1);
    let number = it.submit(1, Some(40));
    guilty(it.acknowledge(1, number, &version(1)), "names write");

    let mut it = history(1);
    guilty(it.recovered(0, &value(1, 7)), "and now");
}

#[test]
fn a_damaged_or_foreign_value_is_found() {
    let mut it = history(1);
    let forged = |text: String| Seen::Value { text, version: version(1) };
    let whole = value_text(0, 1, 40);
    guilty(it.recovered(0, &forged(whole.replace(&whole[20..22], "!!"))), "damaged");
    guilty(it.recovered(0, &forged(value_text(1, 1, 40))), "value of key 1");
    guilty(it.recovered(0, &forged("\"mydata\"".to_owned())), "nobody wrote");
}
