// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum graph`

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::Ipv4Addr;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::vms::Vms;
use super::{Exit, StateArgs, report};
use crate::base::name::{SourceName, VmName};
use crate::state::catalog::{Catalog, CatalogLink, CatalogProblem, CatalogVm, VmState};

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
}

/// The version of the JSON document that `--json` prints.
const GRAPH_VERSION: u32 = 1;

#[derive(Serialize)]
struct Graph<'a> {
    version: u32,
    vms: Vec<Node<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    name: &'a VmName,
    source: &'a SourceName,
    state: &'static str,
    providers: Vec<Provider<'a>>,
    problems: &'a [CatalogProblem],
}

#[derive(Serialize)]
struct Provider<'a> {
    name: &'a VmName,
    /// The link's id and the address, once it has one.
    link: Option<&'a str>,
    ipv4: Option<Ipv4Addr>,
}

pub(super) fn run(args: &GraphArgs) -> Exit {
    let vms = Vms::of(&args.state.state_dir);
    let Some(catalog) = &vms.catalog else {
        report::line("no VM is installed: see microvm-spectrum-sync(1)");
        return Exit::Input;
    };
    if args.json {
        return finish(json(catalog));
    }
    let format = args.format.unwrap_or(if io::stdout().is_terminal() { Format::Tree } else { Format::Dot });
    let text = match format {
        Format::Tree => tree(catalog),
        Format::Dot => dot(catalog),
        Format::Mermaid => mermaid(catalog),
    };
    finish(text)
}

fn finish(text: String) -> Exit {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            report::line(&format!("the graph cannot be written: {error}"));
            Exit::Host
        }
        _ => Exit::Fine,
    }
}

/// All links, with their clients.
fn links(catalog: &Catalog) -> impl Iterator<Item = (&VmName, &CatalogLink)> {
    catalog.runnable().flat_map(|(vm, runnable)| runnable.links.iter().map(move |link| (&vm.name, link)))
}

/// The VMs that lack a provider, with the providers that they should have.
fn blocked(catalog: &Catalog) -> impl Iterator<Item = (&CatalogVm, &[VmName])> {
    catalog.vms.iter().filter_map(|vm| match &vm.state {
        VmState::Blocked { providers, .. } => Some((vm, providers.as_slice())),
        _ => None,
    })
}

fn json(catalog: &Catalog) -> String {
    let is_shown = |vm: &&CatalogVm| !matches!(vm.state, VmState::Shadowed { .. });
    let vms = catalog.vms.iter().filter(is_shown).map(|vm| {
        let providers = match &vm.state {
            VmState::Runnable(runnable) | VmState::Unavailable { last: Some(runnable), .. } => {
                let links = runnable.links.iter().map(|CatalogLink { provider, id, ipv4 }| Provider {
                    name: provider,
                    link: Some(id),
                    ipv4: Some(*ipv4),
                });
                links.collect()
            }
            VmState::Blocked { providers, .. } => {
                providers.iter().map(|name| Provider { name, link: None, ipv4: None }).collect()
            }
            _ => Vec::new(),
        };
        let (state, problems) = (vm.state.as_str(), vm.problems());
        Node { name: &vm.name, source: &vm.source, state, providers, problems }
    });
    let graph = Graph { version: GRAPH_VERSION, vms: vms.collect() };
    // Only string keys and no floating-point numbers, so this cannot fail.
    serde_json::to_string_pretty(&graph).unwrap_or_default() + "\n"
}

// Names of VMs need no escaping in any of these (`VmName`).

fn dot(catalog: &Catalog) -> String {
    let mut text = "digraph \"networks\" {\n  rankdir=LR;\n".to_owned();
    for (vm, _) in catalog.runnable() {
        let _ = writeln!(text, "  \"{}\";", vm.name);
    }
    for (client, CatalogLink { provider, id, ipv4 }) in links(catalog) {
        let _ = writeln!(text, "  \"{client}\" -> \"{provider}\" [label=\"{ipv4} ({id})\"];");
    }
    // Dashed: it cannot run, and why.
    for (vm, providers) in blocked(catalog) {
        let _ = writeln!(text, "  \"{}\" [style=dashed];", vm.name);
        for provider in providers {
            let _ = writeln!(text, "  \"{}\" -> \"{provider}\" [style=dashed];", vm.name);
        }
    }
    text + "}\n"
}

fn mermaid(catalog: &Catalog) -> String {
    // A name could be one of Mermaid's words, a number cannot.
    let numbers: BTreeMap<_, _> =
        catalog.runnable().enumerate().map(|(number, (vm, _))| (&vm.name, number)).collect();
    let mut text = "graph LR\n".to_owned();
    for (name, number) in &numbers {
        let _ = writeln!(text, "  vm{number}[\"{name}\"]");
    }
    for (client, CatalogLink { provider, id, ipv4 }) in links(catalog) {
        if let (Some(client), Some(provider)) = (numbers.get(client), numbers.get(provider)) {
            let _ = writeln!(text, "  vm{client} -- \"{ipv4} ({id})\" --> vm{provider}");
        }
    }
    for (number, (vm, _)) in blocked(catalog).enumerate() {
        let _ = writeln!(text, "  blocked{number}[\"{} (blocked)\"]", vm.name);
    }
    text
}

/// Each VM that takes its network from nobody, with its clients beneath it.
fn tree(catalog: &Catalog) -> String {
    let mut clients: BTreeMap<&VmName, Vec<(&VmName, &CatalogLink)>> = BTreeMap::new();
    for (client, link) in links(catalog) {
        clients.entry(&link.provider).or_default().push((client, link));
    }
    let have_providers: BTreeSet<_> = links(catalog).map(|(client, _)| client).collect();
    let (mut text, mut drawn) = (String::new(), BTreeSet::new());
    for (vm, _) in catalog.runnable().filter(|(vm, _)| !have_providers.contains(&vm.name)) {
        let _ = writeln!(text, "{}", vm.name);
        branches(&clients, &vm.name, "", &mut drawn, &mut text);
    }
    for (vm, _) in blocked(catalog) {
        let why = vm.problems().first().map(|problem| problem.cause.as_str()).unwrap_or_default();
        let _ = writeln!(text, "{}  blocked: {why}", vm.name);
    }
    text
}

/// Draws the clients of a VM, and theirs, unless they were drawn already: there
/// can be very many ways from one VM to another.
fn branches<'a>(
    clients: &BTreeMap<&VmName, Vec<(&'a VmName, &'a CatalogLink)>>,
    provider: &VmName,
    indent: &str,
    drawn: &mut BTreeSet<&'a VmName>,
    text: &mut String,
) {
    let own = clients.get(provider).map(Vec::as_slice).unwrap_or_default();
    for (index, (client, link)) in own.iter().enumerate() {
        let (branch, below) = if index + 1 == own.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let again = !drawn.insert(client) && clients.contains_key(client);
        let more = if again { "  (its clients are above)" } else { "" };
        let _ = writeln!(text, "{indent}{branch}{client}  {} ({}){more}", link.ipv4, link.id);
        if !again {
            branches(clients, client, &format!("{indent}{below}"), drawn, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::HypervisorName;
    use crate::state::catalog::{CATALOG_VERSION, Runnable};

    fn catalog(text: &str) -> Catalog {
        let mut number = 0;
        let vms = text.split_whitespace().map(|vm| {
            let (client, providers) = vm.split_once(':').unwrap();
            let links = providers.split(',').filter(|p| !p.is_empty()).map(|provider| {
                number += 1;
                let id: crate::link::id::LinkId = format!("a5{number:02x}").parse().unwrap();
                let provider = VmName::new(provider).unwrap();
                CatalogLink { provider, id: id.to_string(), ipv4: id.client_ipv4() }
            });
            let state = VmState::Runnable(Runnable {
                uid: 70_000,
                hypervisor: HypervisorName::Qemu,
                package: client.to_owned(),
                autostart: false,
                restart_if_changed: false,
                files: Vec::new(),
                devices: Vec::new(),
                links: links.collect(),
            });
            let source = SourceName::new("user").unwrap();
            CatalogVm { name: VmName::new(client).unwrap(), source, directory: "/d".to_owned(), state }
        });
        let (sources, leases) = (Vec::new(), Vec::new());
        Catalog { version: CATALOG_VERSION, generation: 1, sources, vms: vms.collect(), leases }
    }

    #[test]
    fn draws_who_provides_whom() {
        let catalog = catalog("app-a:netvm app-b:netvm,vpn end: netvm: vpn:netvm");
        assert_eq!(
            tree(&catalog),
            "end\n\
             netvm\n\
             ├─ app-a  100.64.165.1 (a501)\n\
             ├─ app-b  100.64.165.2 (a502)\n\
             └─ vpn  100.64.165.4 (a504)\n\
             \u{20}  └─ app-b  100.64.165.3 (a503)\n"
        );
        assert_eq!(
            dot(&catalog),
            "digraph \"networks\" {\n  rankdir=LR;\n  \"app-a\";\n  \"app-b\";\n  \"end\";\n  \"netvm\";\n  \"vpn\";\n\
             \u{20} \"app-a\" -> \"netvm\" [label=\"100.64.165.1 (a501)\"];\n\
             \u{20} \"app-b\" -> \"netvm\" [label=\"100.64.165.2 (a502)\"];\n\
             \u{20} \"app-b\" -> \"vpn\" [label=\"100.64.165.3 (a503)\"];\n\
             \u{20} \"vpn\" -> \"netvm\" [label=\"100.64.165.4 (a504)\"];\n}\n"
        );
        // However many ways there are, the drawing stays small.
        let layers: String =
            (1..12).map(|n| format!("v{n}a:v{0}a,v{0}b v{n}b:v{0}a,v{0}b ", n - 1)).collect();
        let drawn = tree(&self::catalog(&format!("v0a: v0b: {layers}")));
        assert!(drawn.lines().count() < 100 && drawn.contains("v3a  100.64.165.9 (a509)"), "{drawn}");
        // `end` is a word of Mermaid's.
        let mermaid = mermaid(&catalog);
        assert!(mermaid.starts_with("graph LR\n  vm0[\"app-a\"]\n"), "{mermaid}");
        assert!(
            mermaid.contains("  vm2[\"end\"]\n")
                && mermaid.contains("  vm1 -- \"100.64.165.3 (a503)\" --> vm4\n")
        );
    }
}
