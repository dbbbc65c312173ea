//! Who is let in: whoever shows the secret of the cluster, and nobody else.

use std::process::Command;

use crate::cluster::{SETTLED, alive, get, id, put, shows, state};
use crate::support::{Node, SOON, wait_until};

#[test]
fn only_who_knows_the_secret_is_a_peer() {
    let dirs = tempfile::tempdir().unwrap();
    let file = |name: &str, secret: &str| {
        let path = dirs.path().join(name);
        std::fs::write(&path, secret).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "correct-horse\n"), file("wrong", "battery-staple\n"));
    let first = Node::start(&dirs.path().join("a"), &["--cluster-secret-file", &right]);
    let address = first.address.to_string();
    let second = Node::start(&dirs.path().join("b"), &[&address, "--cluster-secret-file", &right]);
    put(&first, "k", "x");
    shows(&second, "k", Some("x"));
    for flags in [vec![address.as_str()], vec![address.as_str(), "--cluster-secret-file", &wrong]] {
        let name = format!("stranger{}", flags.len());
        let stranger = Node::start(&dirs.path().join(name), &flags);
        wait_until(SOON, "it is refused", || stranger.log().contains("the cluster secret is missing"));
        let ready = stranger.request("GET", "/ready", "");
        let why = format!("can't join by {address}: the cluster secret is missing");
        assert!(ready.status == 503 && ready.text().contains(&why), "{}", ready.text());
        assert_eq!(stranger.request("GET", "/key/k", "").status, 404);
    }
    assert!(first.log().contains("shows no cluster secret: it is refused"), "{}", first.log());
    for path in ["/cluster/message", "/cluster/leave", "/cluster/nothing"] {
        for headers in [&[][..], &[("Authorization", "Bearer battery-staple")]] {
            let answer = first.request_with("POST", path, headers, b"");
            assert_eq!(answer.status, 401, "{path}: {}", answer.text());
            assert_eq!(answer.json()["type"], "urn:dynarust:problem:unauthorized");
        }
    }
    let shown = [("Authorization", "Bearer correct-horse")];
    // Nor does anybody else take a member out, or learn whether there is one of this name.
    for member in [id(&second), "00000000000000aa".into(), "nobody".into()] {
        let path = format!("/membership/{member}");
        for headers in [&[][..], &[("Authorization", "Bearer battery-staple")]] {
            let answer = first.request_with("DELETE", &path, headers, b"");
            assert_eq!(answer.status, 401, "{path}: {}", answer.text());
            assert_eq!(answer.json()["type"], "urn:dynarust:problem:unauthorized");
        }
        let known = first.request_with("DELETE", &path, &shown, b"").status;
        assert_eq!(known == 200, member == id(&second), "{path}: {known}");
    }
    wait_until(SOON, "it is evicted", || state(&first, &id(&second)) == "none");
    assert_eq!(second.stop().code(), Some(0));
    let second = Node::start(&dirs.path().join("b"), &[&address, "--cluster-secret-file", &right]);
    wait_until(SETTLED, "it is back", || {
        [&first, &second].iter().all(|node| alive(&get(node.address, "/membership")) == 2)
    });
    assert_eq!(first.request_with("POST", "/cluster/message", &shown, b"rubbish").status, 400);
    assert_eq!(first.request_with("GET", "/cluster/message", &shown, b"").status, 405);
    let leave = |flags: &[&str]| {
        let mut command = Command::new(crate::support::binary());
        let told = command.args(["leave", "--address", &address]).args(flags).output().unwrap();
        let said = if told.status.success() { told.stdout } else { told.stderr };
        (told.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = leave(&[]);
    assert_eq!((code, said.contains("give --cluster-secret-file")), (Some(1), true), "{said}");
    assert_eq!(get(first.address, "/membership")["members"].as_array().unwrap().len(), 2);
    let (code, said) = leave(&["--cluster-secret-file", &right]);
    assert_eq!((code, said.contains("\"members_that_know\":1")), (Some(0), true), "{said}");
    wait_until(SETTLED, "the other is alone", || {
        get(second.address, "/membership")["members"].as_array().unwrap().len() == 1
    });
}

/// One node after the other: at any time each takes what any other shows.
#[test]
fn a_secret_is_replaced_while_the_cluster_goes_on() {
    let dirs = tempfile::tempdir().unwrap();
    let file = dirs.path().join("secret");
    let start = |number: usize, join: &[&str]| {
        let flags = [join, &["--cluster-secret-file", file.to_str().unwrap()]].concat();
        Node::start(&dirs.path().join(number.to_string()), &flags)
    };
    std::fs::write(&file, "old\n").unwrap();
    let first = start(0, &[]);
    let address = first.address.to_string();
    let mut nodes = vec![first, start(1, &[&address])];
    let together = |nodes: &[Node], key: &str| {
        wait_until(SETTLED, "they are together", || {
            nodes.iter().all(|node| alive(&get(node.address, "/membership")) == 2)
        });
        for (number, node) in nodes.iter().enumerate() {
            put(node, &format!("{key}{number}"), "x");
            nodes.iter().for_each(|other| shows(other, &format!("{key}{number}"), Some("x")));
        }
    };
    together(&nodes, "begin");
    for (step, text) in ["old\nnew\n", "new\nold\n", "new\n"].into_iter().enumerate() {
        std::fs::write(&file, text).unwrap();
        for number in 0..2 {
            let node = nodes.remove(number);
            assert_eq!(node.stop().code(), Some(0));
            nodes.insert(number, start(number, &[]));
            together(&nodes, &format!("step{step}-{number}-"));
        }
    }
    assert!(nodes.iter().all(|node| !node.log().contains("it is refused")), "{}", nodes[0].log());
    let old = [("Authorization", "Bearer old")];
    assert_eq!(nodes[0].request_with("POST", "/cluster/message", &old, b"").status, 401);
}

/// Else one with a secret would join those who have none, and then shut them out.
#[test]
fn a_secret_is_not_shown_to_those_who_have_none() {
    let dirs = tempfile::tempdir().unwrap();
    let secret = dirs.path().join("secret");
    std::fs::write(&secret, "correct-horse\n").unwrap();
    let secret = secret.to_str().unwrap();
    let open = Node::start(&dirs.path().join("a"), &[]);
    let address = open.address.to_string();
    let shown = [("Authorization", "Bearer correct-horse")];
    let answer = open.request_with("POST", "/cluster/leave", &shown, b"");
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert_eq!(answer.json()["type"], "urn:dynarust:problem:unauthorized");
    assert!(answer.text().contains("this node has none"), "{}", answer.text());
    let told = "shows a cluster secret, where this node has none: it is refused";
    assert!(open.log().contains(told), "{}", open.log());
    let closed = Node::start(&dirs.path().join("b"), &[&address, "--cluster-secret-file", secret]);
    wait_until(SOON, "it is refused", || {
        closed.log().contains("the cluster secret is missing there or here")
    });
    for node in [&open, &closed] {
        assert_eq!(get(node.address, "/membership")["members"].as_array().unwrap().len(), 1);
    }
    let mut command = Command::new(crate::support::binary());
    command.args(["leave", "--address", &address, "--cluster-secret-file", secret]);
    let told = command.output().unwrap();
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(
        (told.status.code(), said.contains("another cluster secret, or none")),
        (Some(1), true),
        "{said}"
    );
}
