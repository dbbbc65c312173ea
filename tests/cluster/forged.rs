//! What no node says: messages of strangers and of members that lie, where no secret keeps them out. Nothing of it may end a
//! node, hold it up, or take from it what it has.

use crate::cluster::{Cluster, SETTLED, free_address, get, id, put, shows};
use crate::support::{Node, Response, SOON, binary, wait_until};
use dynarust::limits::{JOIN_BYTES_MAX, ORIGINS_JOIN_MAX, ORIGINS_MAX, PEER_ANSWER_MS, SEQ_MAX};
use dynarust::replica::{
    Change, Digest, Dot, Entry, Frame, Hlc, Kind, NodeId, Range, Value, Version, VersionVector,
};
use serde::Serialize;
use std::process::Command;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// As in `network/wire.rs`, which nobody else can write.
#[derive(Serialize, Clone)]
struct Envelope {
    cluster: NodeId,
    from: NodeId,
    run: u64,
    now_ms: u64,
    address: String,
    body: Message,
}

#[derive(Serialize, Clone)]
enum Message {
    Frame(NodeId, Frame),
    #[expect(dead_code, reason = "it holds the place of the variant")]
    Sweep,
    Join {
        members: u64,
        since_ms: Option<u64>,
        claim: Claim,
        for_ms: u64,
        vv: VersionVector,
        ticket: Option<Ticket>,
        left: Option<NodeId>,
        advertise: Option<String>,
        port: u16,
    },
}

/// Of whom is asked: the process, and when.
type Ticket = (u64, u64);

/// The front of an answer, and what the others are not read for.
type Answer = (NodeId, NodeId, u64, u64, String, u32, Ticket);

#[derive(Serialize, Clone, Copy)]
enum Claim {
    Unaware { mark: Option<Dot> },
    Again { record: Dot },
}

/// It knows nothing of an earlier membership.
const NEW: Claim = Claim::Unaware { mark: None };

fn bytes(protocol: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"DYNA".to_vec();
    bytes.extend(protocol.to_be_bytes());
    bytes.extend(xxh3_64(body).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn say(node: &Node, envelope: &impl Serialize) -> Response {
    let body = postcard::to_stdvec(envelope).expect("it can be encoded");
    post(node, &bytes(dynarust::network::PROTOCOL, &body))
}

fn post(node: &Node, bytes: &[u8]) -> Response {
    node.request_with("POST", "/cluster/message", &[], bytes)
}

/// The refusal in an answer, or what else it is, as text.
fn answer(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

/// The ticket in an answer.
fn ticket(response: &Response) -> Ticket {
    let body = response.body.get(14..).expect("a message");
    let (.., ticket): Answer = postcard::take_from_bytes(body).expect("a ticket").0;
    ticket
}

/// Somebody who speaks the language.
struct Rogue {
    cluster: NodeId,
    target: NodeId,
    me: NodeId,
}

impl Rogue {
    fn before(node: &Node) -> Rogue {
        let cluster = get(node.address, "/membership")["cluster"].as_str().unwrap().parse().unwrap();
        Rogue { cluster, target: id(node).parse().unwrap(), me: NodeId(0xbad) }
    }

    fn envelope(&self, body: Message) -> Envelope {
        let now_ms = u64::MAX / 2 + 1;
        Envelope { cluster: self.cluster, from: self.me, run: 1, now_ms, address: "127.0.0.1:1".into(), body }
    }

    fn joins(&self, node: &Node, advertise: &str) -> Response {
        self.claims(node, advertise, None, NEW)
    }

    /// Asks on, for the membership since then, by a record that nobody has seen.
    fn asks_on(&self, node: &Node, since_ms: u64) -> Response {
        let record = Dot::new(self.me, SEQ_MAX);
        self.claims(node, "127.0.0.1:1", Some(since_ms), Claim::Again { record })
    }

    /// Asks as a node that is alone.
    fn claims(&self, node: &Node, advertise: &str, since_ms: Option<u64>, claim: Claim) -> Response {
        self.asks(node, |ticket| self.alone(ticket, advertise, since_ms, (claim, 0)))
    }

    /// Asks twice, as everybody must.
    fn asks(&self, node: &Node, join: impl Fn(Option<Ticket>) -> Message) -> Response {
        let told = say(node, &self.envelope(join(None)));
        say(node, &self.envelope(join(Some(ticket(&told)))))
    }

    fn alone(
        &self,
        ticket: Option<Ticket>,
        advertise: &str,
        since_ms: Option<u64>,
        (claim, for_ms): (Claim, u64),
    ) -> Message {
        let (advertise, vv) = (Some(advertise.to_owned()), VersionVector::new());
        Message::Join { members: 1, since_ms, claim, for_ms, vv, ticket, left: None, advertise, port: 1 }
    }

    fn frame(
        &self,
        vv: &[(NodeId, u64)],
        ranges: Vec<Range>,
        entries: Vec<(Kind, Vec<u8>, Entry)>,
    ) -> Envelope {
        let vv = vv.iter().map(|(origin, seq)| Dot::new(*origin, *seq)).collect();
        let frame = Frame { sender: self.me, vv, digest: Digest::default(), ranges, entries };
        self.envelope(Message::Frame(self.target, frame))
    }
}

fn range(origin: NodeId, after: u64, through: u64) -> Range {
    Range { origin, after, through, changes: Vec::new() }
}

/// Entries travel as they are, ahead of the vector at times: who has read one goes on with that key at once.
#[test]
fn who_has_read_what_is_ahead_of_the_vector_need_not_wait_to_see_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &[]);
    let rogue = Rogue::before(&node);
    assert!(answer(&rogue.joins(&node, "127.0.0.1:1")).contains("127.0.0.1:1"));
    let dot = Dot::new(rogue.me, 5);
    let version = Version { dot, hlc: Hlc(1), expires_at_ms: None, value: Value::Inline(b"\"y\"".to_vec()) };
    let entry = Entry::from_parts(vec![version], [dot].into_iter().collect());
    let changes = vec![Change { seq: 1, kind: Kind::Data, key: b"k".to_vec() }];
    let first = Range { origin: rogue.me, after: 0, through: 1, changes };
    let said = answer(&say(
        &node,
        &rogue.frame(&[(rogue.me, 5)], vec![first], vec![(Kind::Data, b"k".to_vec(), entry)]),
    ));
    assert!(!said.contains("can't be"), "{said}");
    let read = node.request("GET", "/key/k", "");
    assert_eq!(read.status, 200);
    let session = [("Session-Token", read.header("session-token").expect("a token"))];
    let status = |method: &str, path: &str, body: &str| {
        node.request_with(method, path, &session, body.as_bytes()).status
    };
    assert_eq!(status("GET", "/key/k?timeout_ms=0", ""), 200);
    assert_eq!(status("PUT", "/key/k?timeout_ms=0", "{\"value\": 1}"), 200);
    assert_eq!(
        status("GET", "/key/other?timeout_ms=0", ""),
        504,
        "what it has not got may be of any other key"
    );
}

/// Anybody may ask to be taken in, and what is sent takes many times its bytes in memory.
#[test]
fn a_question_to_be_taken_in_is_small() {
    let cluster = Cluster::start(1);
    let rogue = Rogue::before(cluster.node(0));
    let asks = |events: u64| {
        let mut join = rogue.alone(None, "127.0.0.1:1", None, (NEW, 0));
        if let Message::Join { vv, .. } = &mut join {
            *vv = (1..=events).map(|origin| Dot::new(NodeId(origin << 40), 1)).collect();
        }
        say(cluster.node(0), &rogue.envelope(join))
    };
    assert_eq!(asks(1_000).status, 200);
    let told = asks(JOIN_BYTES_MAX as u64);
    assert!(told.status == 400 && told.text().contains("to be taken in"), "{}", told.text());
}

/// A commit writes whose events a node has into one item, which must stay small enough for sled to sync it; and a session's token
/// names them all.
#[test]
fn a_cluster_has_events_of_so_many_nodes_only() {
    /// More than a node makes in years.
    const EVENTS: u64 = 10_u64.pow(12);
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &[]);
    let rogue = Rogue::before(&node);
    assert!(answer(&rogue.joins(&node, "127.0.0.1:1")).contains("127.0.0.1:1"));
    let of = |origins: std::ops::RangeInclusive<usize>| {
        let origins = || origins.clone().map(|origin| NodeId((origin as u64) << 40));
        let vv: Vec<_> = origins().map(|origin| (origin, EVENTS)).collect();
        let ranges = origins().map(|origin| range(origin, 0, EVENTS)).collect();
        answer(&say(&node, &rogue.frame(&vv, ranges, Vec::new())))
    };
    let known = || get(node.address, "/stats")["version_vector"].as_object().unwrap().len();
    assert!(of(1..=ORIGINS_MAX + 1).contains("too many nodes"));
    assert!(known() < 3);
    of(1..=ORIGINS_JOIN_MAX);
    assert!(known() > ORIGINS_JOIN_MAX);
    assert!(of(ORIGINS_JOIN_MAX + 1..=2 * ORIGINS_JOIN_MAX).contains("too many nodes"));
    of(ORIGINS_JOIN_MAX + 1..=ORIGINS_MAX - 2);
    for n in 0..100 {
        assert_eq!(put(&node, &format!("k{n}"), "x").status, 201);
    }
    assert!((ORIGINS_MAX - 2..=ORIGINS_MAX).contains(&known()), "{}", known());
    assert_eq!(get(node.address, "/stats")["disk"]["blobs_files"], 0);
    let read = node.request("GET", "/key/k1", "");
    let session = [("Session-Token", read.header("session-token").expect("a token"))];
    let read = node.request_with("GET", "/key/k1", &session, b"");
    assert_eq!(read.status, 200, "{}", read.text());
    let other = Rogue { me: NodeId(0xbed), ..Rogue::before(&node) };
    assert!(answer(&other.joins(&node, "127.0.0.1:2")).contains("as many as it takes in"));
}

#[test]
fn strangers_and_garbage_change_nothing() {
    let cluster = Cluster::start(1);
    let node = cluster.node(0);
    put(node, "k", "x");
    let before = get(node.address, "/stats")["version_vector"].clone();
    let rogue = Rogue::before(node);
    let frame = rogue.frame(&[(rogue.me, 7)], vec![range(rogue.me, 0, 7)], Vec::new());
    let told = say(node, &frame);
    assert!(told.status == 200 && told.body.len() < 100, "a stranger is refused: {}", answer(&told));
    let body = postcard::to_stdvec(&frame).unwrap();
    for length in 0..body.len() {
        // Of a stranger no more is read than who it is.
        let told = post(node, &bytes(dynarust::network::PROTOCOL, &body[..length]));
        assert!(told.status == 400 || told.body.len() < 100, "{length} bytes: {}", answer(&told));
    }
    for rubbish in [&b""[..], b"DYNA", &[0xff; 4_000]] {
        assert_eq!(post(node, rubbish).status, 400);
        assert_eq!(post(node, &bytes(dynarust::network::PROTOCOL, rubbish)).status, 400);
    }
    for address in [
        "",
        "nowhere",
        "http://evil.example/",
        "a/b:1",
        "a b:1",
        "x@y:1",
        "0.0.0.0:1",
        ":1",
        "a:0",
        "a:99999",
    ] {
        let said = answer(&rogue.joins(node, address));
        assert!(said.contains("no address"), "{address:?}: {said}");
    }
    assert!(answer(&rogue.joins(node, &format!("{}:1", "a".repeat(100_000)))).contains("no address"));
    assert_eq!(get(node.address, "/membership")["members"].as_array().unwrap().len(), 1);
    assert_eq!(get(node.address, "/stats")["version_vector"], before);
}

/// Sorting them is work; that each was put in its place made it the square of that, before anybody asked who sends.
#[test]
fn a_huge_vector_out_of_order_holds_nobody_up() {
    #[derive(Serialize)]
    struct Raw(NodeId, NodeId, u64, u64, String, u8, NodeId, NodeId, Vec<(u64, u64)>);
    let cluster = Cluster::start(1);
    let node = cluster.node(0);
    let rogue = Rogue::before(node);
    let vv: Vec<(u64, u64)> = (1..=1_000_000).rev().map(|origin| (origin, 1)).collect();
    let began = Instant::now();
    let to = rogue.target;
    say(node, &Raw(rogue.cluster, rogue.me, 1, 1, String::new(), 0, to, rogue.me, vv));
    assert!(began.elapsed() < SOON / 3, "{:?}", began.elapsed());
}

/// It is a member, since anybody may be one, and claims what nobody has.
#[test]
fn a_member_that_lies_takes_nothing_from_others() {
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &[]);
    put(&node, "k", "x");
    let rogue = Rogue::before(&node);
    assert!(answer(&rogue.joins(&node, "127.0.0.1:1")).contains("127.0.0.1:1"));
    let (target, other) = (rogue.target, NodeId(7));
    // Of a vector that does not have it.
    for lie in
        [range(target, 0, u64::MAX), range(other, 0, u64::MAX), range(target, 3, 2), range(NodeId(0), 0, 1)]
    {
        let said = answer(&say(&node, &rogue.frame(&[(rogue.me, 1)], vec![lie.clone()], Vec::new())));
        assert!(said.contains("can't be"), "{lie:?}: {said}");
    }
    // Of the end of all numbers, and of the last that is believed.
    let last = |seq: u64| {
        let dot = Dot::new(rogue.me, seq);
        let value = Value::Inline(b"\"y\"".to_vec());
        let version = Version { dot, hlc: Hlc(u64::MAX), expires_at_ms: Some(u64::MAX), value };
        let entry = Entry::from_parts(vec![version], [dot].into_iter().collect());
        let changes = vec![Change { seq, kind: Kind::Data, key: b"far".to_vec() }];
        let all = Range { origin: rogue.me, after: 0, through: seq, changes };
        let vv = [(rogue.me, seq), (other, seq), (NodeId(8), seq)];
        answer(&say(&node, &rogue.frame(&vv, vec![all], vec![(Kind::Data, b"far".to_vec(), entry)])))
    };
    let said = last(u64::MAX);
    assert!(said.contains("can't be"), "{said}");
    let said = last(SEQ_MAX);
    assert!(!said.contains("can't be"), "{said}");
    for path in ["/membership", "/stats", "/conflicts", &format!("/membership/{}", rogue.me), "/key/far"] {
        assert_eq!(node.request("GET", path, "").status, 200, "{path}");
    }
    assert_eq!(put(&node, "l", "z").status, 201);
    assert_eq!(put(&node, "far", "z").status, 200);
    // What is on the disk can be read again.
    node.kill();
    let node = Node::start(dirs.path(), &[]);
    for (key, value) in [("k", "x"), ("l", "z"), ("far", "z")] {
        shows(&node, key, Some(value));
    }
}

/// Who stood still reads what all of them have sent, in any order, when it goes on.
#[test]
fn late_messages_of_earlier_processes_are_no_twin() {
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &[]);
    let rogue = Rogue::before(&node);
    assert!(answer(&rogue.joins(&node, "127.0.0.1:1")).contains("127.0.0.1:1"));
    let speaks = |run: u64| {
        let frame = rogue.frame(&[(rogue.me, 1)], Vec::new(), Vec::new());
        assert_eq!(say(&node, &Envelope { run, ..frame }).status, 200);
    };
    let found_out = || node.log().contains("two processes run under");
    [3, 1, 3, 2, 3, 1, 3, 2, 3].into_iter().for_each(speaks);
    assert!(!found_out(), "{}", node.log());
    // Those who go on are two.
    wait_until(SETTLED, "they are found out", || {
        [4, 3].into_iter().for_each(speaks);
        found_out()
    });
}

/// A node that was just taken in asks on until others know it. An eviction meanwhile ends the membership that it asks on for, and
/// the answer says so; it is in again only when it is started again.
#[test]
fn who_asks_on_after_its_eviction_is_not_in_again() {
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &[]);
    let rogue = Rogue::before(&node);
    let members = || get(node.address, "/membership")["members"].as_array().unwrap().len();
    let path = format!("/membership/{}", rogue.me);
    let evicts = || assert_eq!(node.request("DELETE", &path, "").status, 200);
    let tells_of_eviction = |told: &str| told.contains("127.0.0.1:1") && told.contains("evicted_at_ms");
    assert!(answer(&rogue.joins(&node, "127.0.0.1:1")).contains("127.0.0.1:1"));
    let first = node_now_ms();
    let told = answer(&rogue.asks_on(&node, first));
    assert!(!tells_of_eviction(&told) && members() == 2, "{told}");
    evicts();
    for since_ms in [1, first - 5_000] {
        let told = answer(&rogue.asks_on(&node, since_ms));
        assert!(tells_of_eviction(&told) && members() == 1, "{since_ms}: {told}");
    }
    assert!(!tells_of_eviction(&answer(&rogue.joins(&node, "127.0.0.1:1"))));
    assert_eq!(members(), 2, "it was started again");
    evicts();
    // It was taken in since, by a member that is not heard of yet, whatever that one's clock says.
    for ahead in [3_600_000, u64::MAX / 2] {
        let since_ms = node_now_ms() + ahead;
        let told = answer(&rogue.asks_on(&node, since_ms));
        assert!(!tells_of_eviction(&told) && members() == 2, "{told}");
        evicts();
        // What was ended is the membership since then. A time that no clock shows is not taken.
        rogue.asks_on(&node, since_ms);
        assert_eq!(members(), if ahead == 3_600_000 { 1 } else { 2 }, "{ahead}");
    }
    evicts();
    assert_eq!(members(), 1);
    // Nor does one that never heard of the node make another membership of it.
    let elsewhere = Rogue { me: NodeId(0xbad2), ..rogue };
    elsewhere.asks_on(&node, 1);
    let shown = get(node.address, "/membership")["members"].to_string();
    assert!(shown.contains("1970-01-01T00:00:00.001Z"), "{shown}");
}

/// What is read late was asked before whatever happened since: it is asked again.
#[test]
fn nobody_is_taken_in_by_an_old_question() {
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &[]);
    let rogue = Rogue::before(&node);
    let members = || get(node.address, "/membership")["members"].as_array().unwrap().len();
    let asks = |with| say(&node, &rogue.envelope(rogue.alone(with, "127.0.0.1:1", None, (NEW, 0))));
    let (run, at_ms) = ticket(&asks(None));
    assert_eq!(members(), 1);
    for old in [(run, at_ms + 3_600_000), (run ^ 1, at_ms), (run, u64::MAX)] {
        let (of, later) = ticket(&asks(Some(old)));
        assert!(of == run && later >= at_ms && members() == 1, "{old:?}");
    }
    wait_until(SETTLED, "it is old", || ticket(&asks(None)).1 > at_ms + PEER_ANSWER_MS);
    let (_, later) = ticket(&asks(Some((run, at_ms))));
    assert_eq!(members(), 1);
    asks(Some((run, later)));
    assert_eq!(members(), 2);
}

/// Nobody told it anything since it was started: an eviction counts if it was after that, whatever the node's own clock says, and
/// if it is another one than that from which it came back. So it is with one whose first answer was lost, and that knows of no
/// membership at all.
#[test]
fn who_was_evicted_since_it_was_started_is_not_in_again() {
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &[]);
    let rogue = Rogue::before(&node);
    let members = || get(node.address, "/membership")["members"].as_array().unwrap().len();
    for (number, cluster) in [rogue.cluster, NodeId(0xc)].into_iter().enumerate() {
        let rogue = Rogue { cluster, me: NodeId(0xbad + number as u64), ..rogue };
        let asks = |mark: Option<Dot>, for_ms: u64| {
            let claim = Claim::Unaware { mark };
            let join = |ticket| rogue.alone(ticket, "127.0.0.1:1", Some(1), (claim, for_ms));
            rogue.asks(&node, join);
            members() == 2
        };
        let evict = || {
            assert_eq!(node.request("DELETE", &format!("/membership/{}", rogue.me), "").status, 200);
            let seen = get(node.address, "/stats")["version_vector"][rogue.target.to_string()].as_u64();
            Dot::new(rogue.target, seen.unwrap())
        };
        assert!(asks(None, u64::MAX), "nobody evicted it");
        let mark = evict();
        assert!(!asks(None, 60_000) && !asks(None, u64::MAX));
        assert!(!asks(Some(Dot::new(rogue.target, 1)), u64::MAX), "it came back from another one");
        assert!(asks(Some(mark), u64::MAX), "it came back from this one");
        evict();
        assert!(asks(None, 0), "it was started after that");
        evict();
    }
}

/// A member asks a node that is alone to come to its cluster, which is another way to be taken in: it is ready when it has what
/// there is. What can't be is refused before anything has changed.
#[test]
fn an_empty_node_that_is_asked_to_come_is_ready_when_it_has_what_there_is() {
    let (dirs, nobody) = (tempfile::tempdir().unwrap(), free_address().to_string());
    let node = Node::start(dirs.path(), &[&nobody]);
    let rogue = Rogue { cluster: NodeId(0xc), ..Rogue::before(&node) };
    let shown = |what: &str| get(node.address, "/membership")[what].to_string();
    let before = shown("cluster");
    let comes_with = |advertise: &str, vv: VersionVector| {
        let vv = || vv.clone();
        let join = |ticket| match rogue.alone(ticket, advertise, Some(1), (NEW, 0)) {
            Message::Join { since_ms, claim, for_ms, ticket, left, advertise, port, .. } => {
                Message::Join { members: 2, since_ms, claim, for_ms, vv: vv(), ticket, left, advertise, port }
            }
            other => other,
        };
        answer(&rogue.asks(&node, join))
    };
    let comes = |advertise: &str, seq| comes_with(advertise, [Dot::new(rogue.me, seq)].into_iter().collect());
    let many = (1..=ORIGINS_MAX as u64 + 1).map(|origin| Dot::new(NodeId(origin), 1)).collect();
    assert!(comes_with("127.0.0.1:1", many).contains("too many nodes"));
    assert!(comes("0.0.0.0:1", 9).contains("no address of a node"));
    assert!(comes("127.0.0.1:1", u64::MAX).contains("no node has made"));
    assert_eq!(shown("cluster"), before);
    comes("127.0.0.1:1", 9);
    assert!(shown("cluster") == format!("\"{}\"", rogue.cluster) && shown("members").contains("127.0.0.1:1"));
    let ready = node.request("GET", "/ready", "");
    assert!(ready.status == 503 && ready.text().contains("it is being sent"), "{}", ready.text());
}

/// Its record is gone where it was seen before: so is its membership. Another one may not have heard of that yet.
#[test]
fn who_asks_on_after_it_left_is_not_in_again() {
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &[]);
    let rogue = Rogue::before(&node);
    let members = || get(node.address, "/membership")["members"].as_array().unwrap().len();
    assert!(answer(&rogue.joins(&node, "127.0.0.1:1")).contains("127.0.0.1:1"));
    let leaves = |seq: u64, seen: &[Dot]| {
        let key = rogue.me.0.to_be_bytes().to_vec();
        let dot = Dot::new(rogue.me, seq);
        let entry = Entry::from_parts(Vec::new(), seen.iter().copied().chain([dot]).collect());
        let changes = vec![Change { seq, kind: Kind::Membership, key: key.clone() }];
        let all = Range { origin: rogue.me, after: seq - 1, through: seq, changes };
        let said = answer(&say(
            &node,
            &rogue.frame(&[(rogue.me, seq)], vec![all], vec![(Kind::Membership, key, entry)]),
        ));
        assert!(!said.contains("can't be"), "{said}");
    };
    let record = Dot::new(
        rogue.target,
        get(node.address, "/stats")["version_vector"][rogue.target.to_string()].as_u64().unwrap(),
    );
    leaves(1, &[record]);
    wait_until(SETTLED, "it has left", || members() == 1);
    let asks = |record| rogue.claims(&node, "127.0.0.1:1", Some(node_now_ms()), Claim::Again { record });
    asks(record);
    asks(Dot::new(rogue.me, 1));
    assert_eq!(members(), 1);
    asks(Dot::new(rogue.me, 2));
    assert_eq!(members(), 2, "a record that nobody here has seen");
}

/// What is remembered of an eviction goes when every member has it and it is old; until then a record that comes up late is none.
#[test]
fn an_eviction_is_forgotten_when_all_have_it_and_it_is_old() {
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &[]);
    let rogue = Rogue::before(&node);
    assert!(answer(&rogue.joins(&node, "127.0.0.1:1")).contains("127.0.0.1:1"));
    let now = node_now_ms();
    let records = [
        // They are looked at in this order: when the old one goes, the other has been looked at as well.
        (NodeId(7), format!(r#"{{"address":"127.0.0.1:1","joined_at_ms":1,"evicted_at_ms":{now}}}"#)),
        (NodeId(8), format!(r#"{{"address":"127.0.0.1:1","joined_at_ms":1,"evicted_at_ms":{}}}"#, 1)),
    ];
    let (mut changes, mut entries) = (Vec::new(), Vec::new());
    for (seq, (id, text)) in (1..).zip(records) {
        let (dot, key) = (Dot::new(rogue.me, seq), id.0.to_be_bytes().to_vec());
        let version =
            Version { dot, hlc: Hlc(1), expires_at_ms: None, value: Value::Inline(text.into_bytes()) };
        let entry = Entry::from_parts(vec![version], [dot].into_iter().collect());
        changes.push(Change { seq, kind: Kind::Membership, key: key.clone() });
        entries.push((Kind::Membership, key, entry));
    }
    let all = Range { origin: rogue.me, after: 0, through: 2, changes };
    let said = answer(&say(&node, &rogue.frame(&[(rogue.me, 2)], vec![all], entries)));
    assert!(!said.contains("can't be"), "{said}");
    let versions = || get(node.address, "/stats")["versions"].as_u64().expect("a number");
    let members = || get(node.address, "/membership")["members"].as_array().unwrap().len();
    assert_eq!((versions(), members()), (4, 2), "two members and two marks");
    wait_until(SETTLED, "the old one is gone", || versions() < 4);
    assert_eq!((versions(), members()), (3, 2));
    node.stop();
    let shown =
        Command::new(binary()).arg("inspect").arg(dirs.path()).args(["members", "--json"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let marks: Vec<&str> = shown.lines().filter(|line| line.contains("evicted_at")).collect();
    assert!(matches!(marks[..], [mark] if mark.contains("0000000000000007")), "{shown}");
}

fn node_now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis() as u64
}
