// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The hosts of the cluster, and the network between them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command};

use crate::fencing::{AGENT, Fencing, REQUESTS, kill};
use crate::sampling::{Sampler, monitors};
use crate::support::installed::Host;
use crate::support::links::client;
use crate::support::waiting::wait_or_explain;

pub const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// The provider, and its clients.
pub const VMS: [&str; 3] = ["net", "app-a", "app-b"];

/// Pacemaker's options, and its way to fence.
const OPTIONS: &str = r#"<configuration>
  <crm_config><cluster_property_set id="options">
    <nvpair id="stonith-enabled" name="stonith-enabled" value="true"/>
  </cluster_property_set></crm_config>
  <resources>
    <primitive id="fencing" class="stonith" type="fence_machine"><instance_attributes id="fencing-attributes">
      <nvpair id="fencing-hosts" name="pcmk_host_list" value="node1 node2 node3"/>
      <nvpair id="fencing-check" name="pcmk_host_check" value="static-list"/>
    </instance_attributes></primitive>
  </resources>
  <rsc_defaults><meta_attributes id="rsc-defaults">
    <nvpair id="stickiness" name="resource-stickiness" value="100"/>
  </meta_attributes></rsc_defaults>
</configuration>"#;

/// How often each VM has come up, by the number of the host.
pub type Boots = BTreeMap<usize, [usize; 3]>;

pub struct Node {
    pub index: usize,
    pub host: Host,
}

pub struct Cluster {
    nodes: [Option<Node>; 3],
    /// A process that keeps the network namespace between the hosts.
    hub: Child,
    fencing: Fencing,
    sampler: Option<Sampler>,
}

impl Cluster {
    /// Boots three hosts that have the VMs, and waits until they are a cluster.
    pub fn start() -> Self {
        // It ends with this thread, also when the test fails.
        let hub = ["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"];
        let hub = Command::new("setpriv").args(hub).spawn().unwrap();
        let mut cluster = Self {
            nodes: [None, None, None],
            hub,
            fencing: Fencing::start(),
            sampler: Some(Sampler::start()),
        };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        wait_or_explain(
            "the network between hosts",
            || {
                let namespace = std::fs::read_link(format!("/proc/{}/ns/net", cluster.hub.id())).ok()?;
                (namespace != own).then_some(())
            },
            String::new,
        );
        cluster.network(&["link", "add", "hub", "type", "bridge"]);
        cluster.network(&["link", "set", "hub", "up"]);
        cluster.boot_missing();
        cluster.wait_online(3);
        cluster
    }

    /// Calls `ip` in the network between hosts.
    fn network(&self, arguments: &[&str]) {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.hub.id().to_string(), "--net", "ip"]).args(arguments);
        assert!(command.status().unwrap().success(), "{arguments:?}");
    }

    /// Boots the hosts that are not there, which then join the cluster.
    pub fn boot_missing(&mut self) {
        let missing: Vec<_> = (0..NODES.len()).filter(|index| self.nodes[*index].is_none()).collect();
        let booted: Vec<_> = std::thread::scope(|scope| {
            let boots: Vec<_> = missing.iter().map(|index| scope.spawn(|| boot(*index))).collect();
            boots.into_iter().map(|boot| boot.join().unwrap()).collect()
        });
        for node in booted {
            let (port, pid) = (format!("port{}", node.index), node.host.machine.pid.to_string());
            self.network(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
            self.network(&["link", "set", &port, "master", "hub", "up"]);
            let address = format!("10.9.8.{}/24", node.index + 1);
            node.host.ok(&["ip", "address", "add", &address, "dev", "eth0"]);
            node.host.ok(&["ip", "link", "set", "eth0", "up"]);
            self.fencing.add(NODES[node.index], node.host.machine.pid);
            node.host.ok(&["systemctl", "start", "--no-block", "corosync.service", "pacemaker.service"]);
            let index = node.index;
            self.nodes[index] = Some(node);
        }
    }

    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Gives the VMs to the cluster.
    pub fn give_vms(&self) {
        let host = &self.running().next().unwrap().host;
        host.machine.write("/srv/options.xml", OPTIONS);
        let modify = "cibadmin --modify --allow-create --scope configuration";
        host.ok(&["sh", "-c", &format!("{modify} --xml-file /srv/options.xml")]);
        host.ok(&["sh", "-c", &format!("microvm-spectrum graph --format cib | {modify} --xml-pipe")]);
    }

    /// Where all VMs run, if they do.
    fn place(&self) -> Option<&Node> {
        let monitors = monitors();
        self.running().find(|node| {
            let Ok(namespace) = std::fs::read_link(format!("/proc/{}/ns/pid", node.host.machine.pid)) else {
                return false;
            };
            VMS.iter().all(|vm| monitors.iter().any(|(name, place)| name == vm && *place == namespace))
        })
    }

    /// The host where all VMs run.
    #[track_caller]
    pub fn home(&self) -> &Node {
        wait_or_explain("all VMs to run on one host", || self.place(), || self.explain())
    }

    /// How often each VM has come up, on each host.
    pub fn boots(&self) -> Boots {
        self.running().map(|node| (node.index, VMS.map(|vm| node.host.boots(vm)))).collect()
    }

    /// Waits until all VMs have come up since `before` on another host than `not`.
    #[track_caller]
    pub fn wait_ready(&self, before: &Boots, not: Option<usize>) {
        wait_or_explain(
            "all VMs to be ready",
            || {
                let home = self.place().filter(|home| Some(home.index) != not)?;
                let before = before.get(&home.index).copied().unwrap_or_default();
                let is_ready = |(vm, before): (&str, usize)| home.host.boots(vm) > before;
                VMS.into_iter().zip(before).all(is_ready).then_some(())
            },
            || self.explain(),
        );
    }

    /// Waits until so many hosts are online.
    #[track_caller]
    pub fn wait_online(&self, number: usize) {
        let all = format!("Online: [ {} ]", NODES[..number].join(" "));
        let sees = |node: &Node| node.host.machine.run(&["crm_mon", "--one-shot"]).stdout.contains(&all);
        wait_or_explain(&all, || self.running().all(sees).then_some(()), || self.explain());
    }

    /// What the cluster says of itself.
    pub fn explain(&self) -> String {
        let Some(node) = self.running().next() else { return String::new() };
        node.host.machine.run(&["crm_mon", "--one-shot", "--inactive"]).stdout
    }

    /// The hosts that were fenced, in their order.
    pub fn fenced(&self) -> Vec<&'static str> {
        self.fencing.fenced()
    }

    /// Kills a host, as a power failure would.
    pub fn kill(&mut self, index: usize) {
        kill(self.nodes[index].as_ref().unwrap().host.machine.pid);
        self.bury(index);
    }

    /// Forgets a host that was killed.
    pub fn bury(&mut self, index: usize) {
        self.fencing.remove(NODES[index]);
        self.nodes[index].take().unwrap().host.machine.kill_keeper();
    }

    /// Cuts a host off from the others.
    pub fn cut_off(&self, index: usize) {
        self.network(&["link", "set", &format!("port{index}"), "down"]);
    }

    /// Has a host power off; fails if it does not.
    pub fn shut_down(&mut self, index: usize) {
        drop(self.nodes[index].take().unwrap());
        self.fencing.remove(NODES[index]);
    }

    /// Ends the cluster; no VM may ever have run twice.
    pub fn end(mut self) -> String {
        let looks = self.sampler.take().unwrap().end();
        let nodes = std::mem::take(&mut self.nodes);
        // Not by their shutdowns: the last ones could not leave a cluster without quorum.
        for node in nodes.into_iter().flatten() {
            node.host.machine.kill_keeper();
        }
        self.fencing.end();
        self.hub.kill().unwrap();
        self.hub.wait().unwrap();
        assert!(looks > 100, "{looks}");
        format!("no VM ever ran twice, by {looks} looks at all of them")
    }
}

fn boot(index: usize) -> Node {
    let host = Host::new();
    host.vm("net");
    client(&host, "app-a", &["net"]);
    client(&host, "app-b", &["net"]);
    host.ok(&["hostname", NODES[index]]);
    let machine = &host.machine;
    machine.write("/etc/hostname", NODES[index]);
    machine.mkdir(REQUESTS);
    machine.write("/usr/sbin/fence_machine", AGENT);
    let mode = |path: &str, mode| {
        std::fs::set_permissions(machine.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("/usr/sbin/fence_machine", 0o755);
    host.ok(&["mkdir", "--parents", "/usr/lib/ocf/resource.d"]);
    let agents = "/usr/local/lib/ocf/resource.d/microvm-spectrum";
    host.ok(&["ln", "--symbolic", "--force", agents, "/usr/lib/ocf/resource.d/"]);
    let nodes: String = NODES
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let number = index + 1;
            format!(
                "  node {{\n    name: {name}\n    nodeid: {number}\n    ring0_addr: 10.9.8.{number}\n  }}\n"
            )
        })
        .collect();
    machine.write(
        "/etc/corosync/corosync.conf",
        &format!(
            "totem {{\n  version: 2\n  cluster_name: test\n  transport: knet\n  token: 3000\n}}\n\
             nodelist {{\n{nodes}}}\nquorum {{\n  provider: corosync_votequorum\n}}\n\
             logging {{\n  to_syslog: yes\n  to_stderr: no\n}}\n"
        ),
    );
    Node { index, host }
}
