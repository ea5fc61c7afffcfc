// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The passt that connects a VM to the host's network.
//!
//! passt needs no privileges: what the guest sends comes out of its own sockets, so that the guest
//! reaches what this user's processes reach. Options: `passt(1)`, of 2023 and later.

use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::output::{self, LastLine};
use super::{Outcome, no_thread};
use crate::base::tool::Tool;
use crate::hypervisor;
use crate::plan::Plan;
use crate::plan::runtime::{is_bound, is_foreign, remove_socket};
use crate::plan::uplink::{GATEWAY, GUEST, NETMASK, Protocol, UplinkPlan};
use crate::system::poll;
use crate::system::process::Process;

/// How long passt may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often to look whether it does.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The gateway's MAC address. passt takes that of an interface of the host otherwise.
const GATEWAY_MAC: &str = "02:00:c0:00:00:01";

/// A passt that runs.
#[derive(Debug)]
pub(super) struct Passt {
    process: Process,
    socket: String,
}

impl Drop for Passt {
    fn drop(&mut self) {
        self.process.kill();
        remove_socket(&self.socket);
    }
}

/// Starts a passt for the uplink of a VM, if it has one, unless another process has started one in
/// this directory. It listens when this returns, and ends when the VMM disconnects; then it calls
/// `ended` from another thread.
pub(super) fn start(
    plan: &Plan,
    ended: impl FnOnce(io::Result<ExitStatus>) + Send + 'static,
) -> Result<Option<Passt>, Outcome> {
    let Some(uplink) = plan.uplink.as_ref().filter(|uplink| !is_bound(&uplink.socket)) else {
        return Ok(None);
    };
    let socket = uplink.socket.clone();
    if is_foreign(&socket) {
        let why = format!("the socket {socket} of the uplink belongs to another user");
        return Err(Outcome::HostFailed(why));
    }
    remove_socket(&socket);
    let mut command = command(plan, uplink);
    command.arg("--one-off").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let process = Process::spawn(foreground(command), Vec::new(), None)
        .map_err(|error| Outcome::HostFailed(format!("passt cannot be started: {error}")))?;
    let mut passt = Passt { process, socket };
    let last_words = LastLine::default();
    if let Some(pipe) = passt.process.take_stderr() {
        let who = format!("{}: passt", plan.name);
        output::pass_lines(pipe, who, last_words.clone(), || {}).map_err(no_thread)?;
    }
    let deadline = Instant::now() + START_TIMEOUT;
    let has_ended =
        || -> io::Result<bool> { poll::is_readable(&passt.process.pidfd()?, Some(LOOK_INTERVAL)) };
    while !is_bound(&passt.socket) {
        if has_ended().unwrap_or(true) || Instant::now() >= deadline {
            let words = last_words.get().map(|line| format!(": {line}")).unwrap_or_default();
            return Err(Outcome::HostFailed(format!("passt does not connect the uplink{words}")));
        }
    }
    passt.process.on_end(ended).map_err(no_thread)?;
    Ok(Some(passt))
}

/// Checks that a passt listens in this directory.
pub(super) fn check_served(plan: &Plan) -> Result<(), Outcome> {
    match &plan.uplink {
        Some(uplink) if !is_bound(&uplink.socket) => {
            Err(Outcome::HostFailed("no passt serves the uplink".to_owned()))
        }
        _ => Ok(()),
    }
}

/// passt for a VM with an uplink, in the working directory. It goes into the background when it
/// listens.
pub fn command(plan: &Plan, uplink: &UplinkPlan) -> Command {
    let vhost_user = hypervisor::description(plan.hypervisor).uplink_is_vhost_user();
    let mut command = Command::new(plan.tool(Tool::Passt).unwrap_or(Tool::Passt.as_str().as_ref()));
    command.args(arguments(uplink, vhost_user));
    command
}

/// The same, staying in the foreground.
pub fn foreground(mut command: Command) -> Command {
    command.arg("--foreground");
    command
}

fn arguments(uplink: &UplinkPlan, vhost_user: bool) -> Vec<String> {
    let mut arguments = vec!["--quiet".to_owned(), "--ipv4-only".to_owned()];
    if vhost_user {
        arguments.push("--vhost-user".to_owned());
    }
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("--socket", uplink.socket.clone());
    // Nothing is taken from an interface of the host, so that passt starts where there is no network
    // yet, and the guest keeps its addresses in every network.
    option("--interface", "lo".to_owned());
    option("--address", GUEST.to_string());
    option("--netmask", NETMASK.to_string());
    option("--gateway", GATEWAY.to_string());
    option("--mac-addr", GATEWAY_MAC.to_owned());
    // The host's resolver may listen on its loopback alone.
    option("--dns-forward", GATEWAY.to_string());
    for port in &uplink.ports {
        let of = if port.protocol == Protocol::Udp { "--udp-ports" } else { "--tcp-ports" };
        option(of, format!("{}/{}:{}", port.address, port.host, port.guest));
    }
    // Otherwise the gateway's address is that of the host's loopback.
    arguments.extend(["--no-map-gw", "--no-dhcp-search"].map(str::to_owned));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::name::VmName;

    #[test]
    fn passt_is_given_all_that_it_would_take_from_the_host() {
        let ports = ["127.0.0.1:8080:80", "0.0.0.0:53:5353/udp"].map(|port| port.parse().unwrap());
        let uplink = UplinkPlan::new(&VmName::new("netvm").unwrap(), &ports);
        let expected = "--quiet --ipv4-only --vhost-user --socket netvm.uplink.sock --interface lo --address 192.0.0.2 \
                        --netmask 255.255.255.248 --gateway 192.0.0.1 --mac-addr 02:00:c0:00:00:01 \
                        --dns-forward 192.0.0.1 --tcp-ports 127.0.0.1/8080:80 --udp-ports 0.0.0.0/53:5353 \
                        --no-map-gw --no-dhcp-search";
        assert_eq!(arguments(&uplink, true).join(" "), expected);
        assert!(!arguments(&uplink, false).contains(&"--vhost-user".to_owned()));
    }
}
