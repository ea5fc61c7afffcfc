// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum graph`

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Exit, StateArgs, report};
use crate::base::name::VmName;
use crate::state::cib;
use crate::state::network::{Network, Provider};

#[derive(Debug, Args)]
pub(super) struct GraphArgs {
    /// How to draw it [default: tree on a terminal, dot elsewhere]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Print one JSON document
    #[arg(long, conflicts_with = "format")]
    json: bool,

    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Tree,
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
    /// Resources and constraints of Pacemaker, for cibadmin
    Cib,
}

/// The version of the JSON document that `--json` prints.
const GRAPH_VERSION: u32 = 1;

#[derive(Serialize)]
struct Graph<'a> {
    version: u32,
    #[serde(flatten)]
    network: &'a Network<'a>,
}

pub(super) fn run(args: &GraphArgs) -> anyhow::Result<Exit> {
    let catalog = args.state.catalog()?;
    let network = Network::of(&catalog);
    let default = if io::stdout().is_terminal() { Format::Tree } else { Format::Dot };
    let text = match args.format.unwrap_or(default) {
        _ if args.json => {
            serde_json::to_string_pretty(&Graph { version: GRAPH_VERSION, network: &network })? + "\n"
        }
        Format::Tree => tree(&network),
        Format::Dot => dot(&network),
        Format::Mermaid => mermaid(&network),
        Format::Cib => cib::of(&catalog, &host_name()?),
    };
    report::to_stdout("the graph", |out| out.write_all(text.as_bytes()))?;
    Ok(Exit::Fine)
}

/// The name that Pacemaker has for this host unless the administrator gives it another.
fn host_name() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/hostname";
    let name = std::fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?;
    Ok(name.trim_end().to_owned())
}

// Names of VMs need no escaping in any of these (`VmName`).

fn dot(network: &Network<'_>) -> String {
    let mut text = "digraph \"networks\" {\n  rankdir=LR;\n".to_owned();
    for vm in network.runnable() {
        let _ = writeln!(text, "  \"{}\";", vm.name);
    }
    for (client, provider) in network.links() {
        let _ = writeln!(text, "  \"{client}\" -> \"{}\" [label=\"{}\"];", provider.name, address(provider));
    }
    // Dashed: it cannot run, and why.
    for vm in network.blocked() {
        let _ = writeln!(text, "  \"{}\" [style=dashed];", vm.name);
        for provider in &vm.providers {
            let _ = writeln!(text, "  \"{}\" -> \"{}\" [style=dashed];", vm.name, provider.name);
        }
    }
    text + "}\n"
}

/// A link's address and id.
fn address(provider: &Provider<'_>) -> String {
    match (&provider.ipv4, &provider.link) {
        (Some(ipv4), Some(link)) => format!("{ipv4} ({link})"),
        _ => String::new(),
    }
}

fn mermaid(network: &Network<'_>) -> String {
    // A name may be a keyword of Mermaid, a number cannot.
    let numbers: BTreeMap<_, _> =
        network.runnable().enumerate().map(|(number, vm)| (vm.name, number)).collect();
    let mut text = "graph LR\n".to_owned();
    for (name, number) in &numbers {
        let _ = writeln!(text, "  vm{number}[\"{name}\"]");
    }
    for (client, provider) in network.links() {
        if let (Some(client), Some(number)) = (numbers.get(client), numbers.get(provider.name)) {
            let _ = writeln!(text, "  vm{client} -- \"{}\" --> vm{number}", address(provider));
        }
    }
    for (number, vm) in network.blocked().enumerate() {
        let _ = writeln!(text, "  blocked{number}[\"{} (blocked)\"]", vm.name);
    }
    text
}

/// Each VM that has no network provider, with its clients beneath it.
fn tree(network: &Network<'_>) -> String {
    let mut drawing = Tree::default();
    for (client, provider) in network.links() {
        drawing.clients.entry(provider.name).or_default().push((client, provider));
    }
    for vm in network.runnable().filter(|vm| vm.providers.is_empty()) {
        let _ = writeln!(drawing.text, "{}", vm.name);
        drawing.branches(vm.name, "");
    }
    for vm in network.blocked() {
        let why = vm.problems.first().map(|problem| problem.cause.as_str()).unwrap_or_default();
        let _ = writeln!(drawing.text, "{}  blocked: {why}", vm.name);
    }
    drawing.text
}

#[derive(Default)]
struct Tree<'a> {
    clients: BTreeMap<&'a VmName, Vec<(&'a VmName, &'a Provider<'a>)>>,
    drawn: BTreeSet<&'a VmName>,
    text: String,
}

impl Tree<'_> {
    /// Draws the clients of a VM, and theirs, but each only once: there can be very
    /// many paths from one VM to another.
    fn branches(&mut self, provider: &VmName, indent: &str) {
        let own = self.clients.get(provider).cloned().unwrap_or_default();
        for (index, (client, link)) in own.iter().enumerate() {
            let (branch, below) =
                if index + 1 == own.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let again = !self.drawn.insert(client) && self.clients.contains_key(client);
            let more = if again { "  (its clients are above)" } else { "" };
            let _ = writeln!(self.text, "{indent}{branch}{client}  {}{more}", address(link));
            if !again {
                self.branches(client, &format!("{indent}{below}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::id::LinkId;
    use crate::state::catalog::Catalog;
    use serde_json::json;

    fn catalog(text: &str) -> Catalog {
        let mut number = 0;
        let vms = text.split_whitespace().map(|vm| {
            let (client, providers) = vm.split_once(':').unwrap();
            let links = providers.split(',').filter(|p| !p.is_empty()).map(|provider| {
                number += 1;
                let id: LinkId = format!("a5{number:02x}").parse().unwrap();
                json!({"provider": provider, "id": id, "ipv4": id.client_ipv4()})
            });
            let links: Vec<_> = links.collect();
            json!({
                "name": client, "source": "user", "directory": "/d", "state": "runnable", "uid": 70_000,
                "hypervisor": "qemu", "package": client, "autostart": false, "links": links, "files": [],
            })
        });
        let vms: Vec<_> = vms.collect();
        serde_json::from_value(
            json!({"version": 1, "generation": 1, "sources": [], "vms": vms, "leases": []}),
        )
        .unwrap()
    }

    #[test]
    fn draws_which_vm_provides_which() {
        let catalog = catalog("app-a:netvm app-b:netvm,vpn end: netvm: vpn:netvm");
        let network = Network::of(&catalog);
        assert_eq!(
            tree(&network),
            "end\n\
             netvm\n\
             ├─ app-a  100.64.165.1 (a501)\n\
             ├─ app-b  100.64.165.2 (a502)\n\
             └─ vpn  100.64.165.4 (a504)\n\
             \u{20}  └─ app-b  100.64.165.3 (a503)\n"
        );
        assert_eq!(
            dot(&network),
            "digraph \"networks\" {\n  rankdir=LR;\n  \"app-a\";\n  \"app-b\";\n  \"end\";\n  \"netvm\";\n  \"vpn\";\n\
             \u{20} \"app-a\" -> \"netvm\" [label=\"100.64.165.1 (a501)\"];\n\
             \u{20} \"app-b\" -> \"netvm\" [label=\"100.64.165.2 (a502)\"];\n\
             \u{20} \"app-b\" -> \"vpn\" [label=\"100.64.165.3 (a503)\"];\n\
             \u{20} \"vpn\" -> \"netvm\" [label=\"100.64.165.4 (a504)\"];\n}\n"
        );
        // However many paths there are, the drawing stays small.
        let layers: String =
            (1..12).map(|n| format!("v{n}a:v{0}a,v{0}b v{n}b:v{0}a,v{0}b ", n - 1)).collect();
        let layered = self::catalog(&format!("v0a: v0b: {layers}"));
        let drawn = tree(&Network::of(&layered));
        assert!(drawn.lines().count() < 100 && drawn.contains("v3a  100.64.165.9 (a509)"), "{drawn}");
        // `end` is a keyword of Mermaid.
        let mermaid = mermaid(&network);
        assert!(mermaid.starts_with("graph LR\n  vm0[\"app-a\"]\n"), "{mermaid}");
        assert!(
            mermaid.contains("  vm2[\"end\"]\n")
                && mermaid.contains("  vm1 -- \"100.64.165.3 (a503)\" --> vm4\n")
        );
    }
}
