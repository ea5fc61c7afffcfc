// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `docs/catalog.schema.json` means what it says: a validator of the part of
//! JSON Schema that it uses, which refuses to overlook a word that it does not know.

use std::path::Path;

use serde_json::{Value, json};

/// Words that only explain.
const REMARKS: [&str; 4] = ["$schema", "$defs", "title", "description"];

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/catalog.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Asserts that `catalog` is one.
#[track_caller]
pub fn assert_valid(catalog: &Value) {
    let schema = schema();
    if let Err(why) = valid(&schema, &schema, catalog) {
        panic!("{why}\nin {catalog:#}");
    }
}

fn valid(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let object = schema.as_object().unwrap();
    for (word, rule) in object.iter().filter(|(word, _)| !REMARKS.contains(&word.as_str())) {
        let holds = match word.as_str() {
            "type" => match rule {
                Value::Array(types) => types.iter().any(|name| is_a(name.as_str().unwrap(), value)),
                name => is_a(name.as_str().unwrap(), value),
            },
            "anyOf" => rule.as_array().unwrap().iter().any(|rule| valid(root, rule, value).is_ok()),
            // What a missing one stands for.
            "default" => true,
            "const" => value == rule,
            "minimum" => value.as_u64().is_none_or(|number| number >= rule.as_u64().unwrap()),
            "maximum" => value.as_u64().is_none_or(|number| number <= rule.as_u64().unwrap()),
            "format" => match rule.as_str().unwrap() {
                "uint32" => {
                    value.is_null() || value.as_u64().is_some_and(|number| u32::try_from(number).is_ok())
                }
                "uint64" => value.is_u64(),
                "int64" => value.is_i64(),
                "ipv4" => value.as_str().unwrap().parse::<std::net::Ipv4Addr>().is_ok(),
                other => panic!("an unknown format: {other}"),
            },
            "pattern" => {
                assert_eq!(rule, "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$");
                is_name(value.as_str().unwrap_or_default())
            }
            "$ref" => {
                let definition = rule.as_str().unwrap().strip_prefix('#').unwrap();
                valid(root, root.pointer(definition).unwrap(), value)?;
                true
            }
            "required" => {
                let names = rule.as_array().unwrap().iter();
                names.map(|name| name.as_str().unwrap()).all(|name| value.get(name).is_some())
            }
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    if let Some(property) = value.get(name) {
                        valid(root, rule, property).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(rule, false);
                let known = object["properties"].as_object().unwrap();
                value.as_object().is_none_or(|value| value.keys().all(|name| known.contains_key(name)))
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    valid(root, rule, item)?;
                }
                true
            }
            "oneOf" => {
                rule.as_array().unwrap().iter().filter(|rule| valid(root, rule, value).is_ok()).count() == 1
            }
            other => panic!("an unknown word: {other}"),
        };
        if !holds {
            return Err(format!("{value} breaks the rule {word}: {rule}"));
        }
    }
    Ok(())
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("an unknown type: {other}"),
    }
}

fn is_name(text: &str) -> bool {
    let later = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&text.len()) && text.bytes().all(later) && !text.starts_with(['.', '-'])
}

/// A catalog with a VM in each state.
fn example() -> Value {
    let file = json!({"entry": "vmlinux", "device": 1, "inode": 2, "size": 3, "modified": -4, "changed": 5});
    json!({"version": 1, "generation": 7, "sources": [
        {"name": "s", "kind": "builtin", "directory": "/s"},
        {"name": "t", "kind": "user-partition", "directory": "/t/svc/data", "partuuid": "1a2b3c4d-01",
         "problem": {"path": "/t", "cause": "c", "remedy": "r"}},
    ], "leases": [
        {"vm": "t/gone", "uid": 70001, "links": [{"provider": "net", "id": "a547", "ipv4": "100.64.165.71"}]},
    ], "vms": [
        {"name": "a", "source": "s", "directory": "/a", "state": "runnable", "uid": 70000, "package": "a-1",
         "hypervisor": "qemu", "autostart": true, "files": [file],
         "links": [{"provider": "net", "id": "a546", "ipv4": "100.64.165.70"}]},
        {"name": "b", "source": "s", "directory": "/b", "state": "broken",
         "problems": [{"path": "/b", "cause": "c", "remedy": "r"}]},
        {"name": "b", "source": "t", "directory": "/b", "state": "shadowed", "by": "s"},
        {"name": "c", "source": "t", "directory": "/c", "state": "blocked", "providers": ["net"],
         "problems": [{"path": "/c", "cause": "c", "remedy": "r"}]},
        {"name": "d", "source": "t", "directory": "/d", "state": "unavailable", "last": null,
         "problems": [{"path": "/t", "cause": "c", "remedy": "r"}]},
    ]})
}

#[test]
fn the_schema_tells_a_catalog_from_something_else() {
    assert_valid(&example());
    let schema = schema();
    for (place, wrong) in [
        ("/version", json!(2)),
        ("/generation", json!(-1)),
        ("/generation", json!("7")),
        ("/more", json!(1)),
        ("/sources/0/kind", json!("disk")),
        ("/sources/1/problem", json!("away")),
        ("/leases/0/vm", json!(1)),
        ("/vms/0/files/0/size", json!(-1)),
        ("/vms/3/providers/0", json!("a b")),
        ("/vms", json!({})),
        ("/vms/0/name", json!("a/b")),
        ("/vms/0/name", json!(".")),
        ("/vms/0/source", json!("a\nb")),
        ("/vms/0/state", json!("running")),
        ("/vms/0/uid", json!(4_294_967_296_u64)),
        ("/vms/0/uid", Value::Null),
        ("/vms/0/hypervisor", json!("xen")),
        ("/vms/0/autostart", json!("yes")),
        ("/vms/0/links/0/provider", json!("a b")),
        ("/vms/0/links/0/ipv4", json!("100.64.165.700")),
        ("/vms/1/problems/0/path", json!(1)),
        ("/vms/2/by", json!("")),
    ] {
        let mut catalog = example();
        match catalog.pointer_mut(place) {
            Some(found) => *found = wrong.clone(),
            None => drop(catalog.as_object_mut().unwrap().insert(place[1..].to_owned(), wrong.clone())),
        }
        assert!(valid(&schema, &schema, &catalog).is_err(), "{place}: {wrong}");
    }
    for missing in ["version", "generation", "sources", "vms", "leases"] {
        let mut catalog = example();
        catalog.as_object_mut().unwrap().remove(missing);
        assert!(valid(&schema, &schema, &catalog).is_err(), "{missing}");
    }
}
