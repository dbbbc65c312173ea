//! Hosts of their own for nodes: network namespaces on a bridge, so that the way from one node to another can be cut while
//! clients still reach both. The bridge is in a namespace as well: a packet filter of the machine, such as a container
//! engine's, has no say there. The kernel of some machines does not allow it: then the tests say so.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};

/// Some hosts on one network; taken away when dropped. Declare them before the nodes that run on them.
pub struct Hosts {
    name: String,
    net: u8,
    count: usize,
}

impl Hosts {
    /// `Err` says why there can be none here.
    pub fn new(count: usize) -> Result<Hosts, String> {
        // Two processes, and two tests of one, must not take each other's.
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let net =
            (std::process::id() as u8).wrapping_mul(4).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let hosts = Hosts { name: format!("dy{net}"), net, count };
        hosts.build().map(|()| hosts)
    }

    fn build(&self) -> Result<(), String> {
        let Hosts { name, net, count } = self;
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link add bridge type bridge"))?;
        ip(&format!("-n {name} link set bridge up"))?;
        ip(&format!("link add {name} type veth peer name here netns {name}"))?;
        ip(&format!("-n {name} link set here master bridge up"))?;
        ip(&format!("addr add 10.213.{net}.254/24 dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        for number in 0..*count {
            let (host, port) = (self.host(number), format!("port{number}"));
            ip(&format!("netns add {host}"))?;
            ip(&format!("-n {name} link add {port} type veth peer name eth0 netns {host}"))?;
            ip(&format!("-n {name} link set {port} master bridge up"))?;
            ip(&format!("-n {host} addr add {}/24 dev eth0", self.address(number)))?;
            ip(&format!("-n {host} link set lo up"))?;
            ip(&format!("-n {host} link set eth0 up"))?;
        }
        Ok(())
    }

    fn host(&self, number: usize) -> String {
        format!("{}h{number}", self.name)
    }

    /// Where a host is reached.
    pub fn address(&self, number: usize) -> String {
        format!("10.213.{}.{}", self.net, number + 1)
    }

    /// Runs the binary on a host, with arguments that are to be added.
    pub fn run(&self, number: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(number)]).arg(crate::support::binary());
        command
    }

    /// What runs a node on a host. It listens on all addresses, as in a container.
    pub fn command(&self) -> impl Fn(usize, &Path, &[&str]) -> Command + 'static {
        let name = self.name.clone();
        let net = self.net;
        move |number, dir, flags| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &format!("{name}h{number}")]).arg(crate::support::binary());
            command.arg(format!("10.213.{net}.{}:6660", number + 1)).arg("--data-dir").arg(dir).args(flags);
            command
        }
    }

    /// From now on nothing goes from the one host to the other; the other way is not cut.
    pub fn cut(&self, from: usize, to: usize) {
        let (host, to) = (self.host(from), self.address(to));
        ip(&format!("-n {host} route replace blackhole {to}/32")).expect("a route can be cut");
    }

    /// All ways are open.
    pub fn heal(&self) {
        for from in 0..self.count {
            for to in 0..self.count {
                let _ = ip(&format!("-n {} route del blackhole {}/32", self.host(from), self.address(to)));
            }
        }
    }

    /// Pulls or plugs in a host's cable.
    pub fn link(&self, number: usize, up: bool) {
        let to = if up { "up" } else { "down" };
        ip(&format!("-n {} link set port{number} {to}", self.name)).expect("a link can be set");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for number in 0..self.count {
            let _ = ip(&format!("netns del {}", self.host(number)));
        }
        // Its links go with it, this end of them too.
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let ran = Command::new("ip").args(arguments.split(' ')).output();
    let Output { status, stderr, .. } = ran.map_err(|e| format!("`ip` can't be run: {e}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("`ip {arguments}`: {}", String::from_utf8_lossy(&stderr).trim())),
    }
}
