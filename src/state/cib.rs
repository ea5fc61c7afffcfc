// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The VMs of a cluster as Pacemaker's configuration has them: its cluster information base
//! (CIB), in XML for `cibadmin`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::base::name::VmName;
use crate::state::catalog::Catalog;

/// The operations of a VM: name, role, interval and timeout, the times in seconds.
///
/// A start may take the 90 s of its unit and those of its helpers, a stop the 60 s of its
/// unit. A `monitor` waits while systemd starts or restarts the VM. The one of stopped VMs
/// finds those that run where the cluster did not start them.
pub const OPERATIONS: [(&str, Option<&str>, u32, u32); 4] = [
    ("start", None, 0, 150),
    ("stop", None, 0, 120),
    ("monitor", None, 10, 60),
    ("monitor", Some("Stopped"), 45, 60),
];

/// The id of a VM's resource. No VM's name is an XML id by itself when it begins with a digit.
pub fn resource(vm: &VmName) -> String {
    format!("vm-{vm}")
}

/// The resources and constraints of all VMs that the cluster manages; `node` is this host,
/// where the PCI devices are that `catalog` gives to VMs.
///
/// Ids have the VM's name or the link's id at their end and a prefix for what they are, so no
/// two are equal.
pub fn of(catalog: &Catalog, node: &str) -> String {
    let managed = || catalog.known().filter(|(_, runnable)| runnable.cluster);
    let of_cluster: BTreeSet<_> = managed().map(|(vm, _)| &vm.name).collect();
    let mut text = "<configuration>\n  <resources>\n".to_owned();
    for (vm, _) in managed() {
        primitive(&mut text, &vm.name);
    }
    text += "  </resources>\n  <constraints>\n";
    for (vm, runnable) in managed() {
        let client = resource(&vm.name);
        for link in runnable.links.iter().filter(|link| of_cluster.contains(&link.provider)) {
            let (id, provider) = (link.id, resource(&link.provider));
            // A client that cannot start does not move its provider, and with it all other clients,
            // from host to host. One with PCI devices can start on one host alone.
            let influence = (!runnable.devices.is_empty()).to_string();
            element(
                &mut text,
                "rsc_colocation",
                &[
                    ("id", &format!("colocation-{id}")),
                    ("rsc", &client),
                    ("with-rsc", &provider),
                    ("score", "INFINITY"),
                    ("influence", &influence),
                ],
            );
            // A client keeps running while its provider restarts.
            element(
                &mut text,
                "rsc_order",
                &[
                    ("id", &format!("order-{id}")),
                    ("first", &provider),
                    ("then", &client),
                    ("kind", "Optional"),
                ],
            );
        }
        if !runnable.devices.is_empty() {
            let name = &vm.name;
            let _ = writeln!(text, "    <rsc_location id=\"location-{name}\" rsc=\"{client}\">");
            let _ = writeln!(text, "      <rule id=\"rule-{name}\" score=\"-INFINITY\">");
            let expression = format!("expression-{name}");
            let of_host =
                [("id", expression.as_str()), ("attribute", "#uname"), ("operation", "ne"), ("value", node)];
            text += "    ";
            element(&mut text, "expression", &of_host);
            text += "      </rule>\n    </rsc_location>\n";
        }
    }
    text + "  </constraints>\n</configuration>\n"
}

fn primitive(text: &mut String, name: &VmName) {
    let _ = writeln!(
        text,
        "    <primitive id=\"{}\" class=\"ocf\" provider=\"microvm-spectrum\" type=\"vm\">",
        resource(name)
    );
    let _ = writeln!(text, "      <instance_attributes id=\"attributes-{name}\">");
    let _ = writeln!(text, "        <nvpair id=\"name-{name}\" name=\"name\" value=\"{name}\"/>");
    *text += "      </instance_attributes>\n      <operations>\n";
    for (operation, role, interval, timeout) in OPERATIONS {
        let prefix = role.map_or(operation, |_| "stopped");
        let (id, interval, timeout) =
            (format!("{prefix}-{name}"), format!("{interval}s"), format!("{timeout}s"));
        let mut attributes =
            vec![("id", id.as_str()), ("name", operation), ("interval", &interval), ("timeout", &timeout)];
        attributes.extend(role.map(|role| ("role", role)));
        *text += "    ";
        element(text, "op", &attributes);
    }
    *text += "      </operations>\n    </primitive>\n";
}

fn element(text: &mut String, name: &str, attributes: &[(&str, &str)]) {
    let _ = write!(text, "    <{name}");
    for (key, value) in attributes {
        let _ = write!(text, " {key}=\"{}\"", escaped(value));
    }
    *text += "/>\n";
}

/// A text as an attribute's value between quotes. What XML cannot have is replaced.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for c in value.chars() {
        match c {
            '&' => text += "&amp;",
            '<' => text += "&lt;",
            '>' => text += "&gt;",
            '"' => text += "&quot;",
            '\t' | '\n' | '\r' => drop(write!(text, "&#{};", u32::from(c))),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => text.push(char::REPLACEMENT_CHARACTER),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::link::id::LinkId;

    /// The elements and their attributes, by what each text says that is no part of them.
    fn elements(xml: &str) -> Vec<(String, BTreeMap<String, String>)> {
        let unescaped = |value: &str| {
            let mut text = value.to_owned();
            for (entity, c) in [
                ("&#9;", "\t"),
                ("&#10;", "\n"),
                ("&#13;", "\r"),
                ("&lt;", "<"),
                ("&gt;", ">"),
                ("&quot;", "\""),
            ] {
                text = text.replace(entity, c);
            }
            text.replace("&amp;", "&")
        };
        let mut open = Vec::new();
        let mut found = Vec::new();
        for tag in xml.split_inclusive('>').map(str::trim).filter(|tag| !tag.is_empty()) {
            let inside = tag.strip_prefix('<').unwrap().strip_suffix('>').unwrap();
            assert!(!inside.contains(['<', '\n']), "{inside}");
            if let Some(name) = inside.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let (element, closed) = inside.strip_suffix('/').map_or((inside, false), |inside| (inside, true));
            let (name, mut rest) = element.split_once(' ').unwrap_or((element, ""));
            let mut attributes = BTreeMap::new();
            while let Some((key, after)) = rest.split_once("=\"") {
                let (value, after) = after.split_once('"').unwrap();
                assert!(attributes.insert(key.to_owned(), unescaped(value)).is_none());
                rest = after.trim_start();
            }
            assert_eq!(rest, "", "{inside}");
            if !closed {
                open.push(name.to_owned());
            }
            found.push((name.to_owned(), attributes));
        }
        assert!(open.is_empty());
        found
    }

    /// VMs, each with its providers, whether it is the cluster's, and whether it has a device.
    fn catalog(vms: &BTreeMap<String, (Vec<String>, bool, bool)>) -> Catalog {
        let mut number = 0;
        let vms: Vec<_> = vms
            .iter()
            .enumerate()
            .map(|(index, (name, (providers, cluster, device)))| {
                let links = providers.iter().map(|provider| {
                    number += 1;
                    let id = LinkId::new(number).unwrap();
                    json!({"provider": provider, "id": id, "ipv4": id.client_ipv4()})
                });
                let links: Vec<_> = links.collect();
                let devices = if *device { vec!["0000:01:00.0"] } else { vec![] };
                json!({
                    "name": name, "source": "user", "directory": "/d", "state": "runnable",
                    "uid": 70_000 + index, "hypervisor": "qemu", "package": name, "autostart": false,
                    "cluster": cluster, "links": links, "devices": devices, "files": [],
                })
            })
            .collect();
        serde_json::from_value(
            json!({"version": 1, "generation": 1, "sources": [], "vms": vms, "leases": []}),
        )
        .unwrap()
    }

    #[test]
    fn a_host_without_a_cluster_has_none() {
        let vms = BTreeMap::from([("a".to_owned(), (vec![], false, true))]);
        let names: Vec<_> = elements(&of(&catalog(&vms), "here")).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["configuration", "resources", "constraints"]);
    }

    proptest! {
        #[test]
        fn every_vm_is_there_once_and_each_constraint_names_what_is_there(
            vms in prop::collection::btree_map(
                "([ab0-]{0,2}(monitor|stopped|name)-?[a._]|[0-9_a][a.-]{0,2})".prop_filter("a name", |name| VmName::new(name).is_ok()),
                (prop::collection::btree_set(0..12usize, 0..4), any::<bool>(), any::<bool>()),
                0..12,
            ),
            node in "([a-z<>&\"'\n\t]|\\PC){0,12}",
        ) {
            let names: Vec<_> = vms.keys().cloned().collect();
            let vms: BTreeMap<_, _> = vms.into_iter().map(|(name, (providers, cluster, device))| {
                let providers = providers.iter().filter_map(|index| names.get(*index)).filter(|p| **p != name);
                (name.clone(), (providers.cloned().collect::<Vec<_>>(), cluster, device))
            }).collect();
            let xml = of(&catalog(&vms), &node);
            let all = elements(&xml);
            let with = |element: &str, key: &str| {
                let of_name = all.iter().filter(|(name, _)| name == element);
                of_name.map(|(_, attributes)| attributes[key].clone()).collect::<Vec<_>>()
            };
            let resources = with("primitive", "id");
            let expected: Vec<_> = vms.iter().filter(|(_, vm)| vm.1).map(|(name, _)| format!("vm-{name}")).collect();
            prop_assert_eq!(&resources, &expected);
            let ids: Vec<_> = all.iter().filter_map(|(_, attributes)| attributes.get("id")).collect();
            prop_assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{}", xml);
            let is_id = |id: &&&String| !id.starts_with(|c: char| c != '_' && !c.is_ascii_alphabetic());
            prop_assert!(ids.iter().all(|id| is_id(&id)), "{}", xml);
            for (_, attributes) in &all {
                for key in ["rsc", "with-rsc", "first", "then"] {
                    prop_assert!(attributes.get(key).is_none_or(|id| resources.contains(id)), "{}", xml);
                }
            }
            let mut links: Vec<_> = vms.iter().filter(|(_, vm)| vm.1).flat_map(|(client, vm)| {
                let of_cluster = vm.0.iter().filter(|provider| vms[*provider].1);
                of_cluster.map(move |provider| (format!("vm-{client}"), format!("vm-{provider}")))
            }).collect();
            links.sort();
            let mut found: Vec<_> =
                with("rsc_colocation", "rsc").into_iter().zip(with("rsc_colocation", "with-rsc")).collect();
            found.sort();
            prop_assert_eq!(found, links);
            for (client, influence) in with("rsc_colocation", "rsc").iter().zip(with("rsc_colocation", "influence")) {
                prop_assert_eq!(influence, vms[client.strip_prefix("vm-").unwrap()].2.to_string());
            }
            let with_device = vms.values().filter(|vm| vm.1 && vm.2).count();
            let nodes = with("expression", "value");
            prop_assert_eq!(nodes.len(), with_device);
            for found in nodes {
                prop_assert_eq!(found, node.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}"));
            }
        }
    }
}
