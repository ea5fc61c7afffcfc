// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Leases: whatever comes and goes, in whatever ranges, no two VMs ever have
//! the same user id, and none changes.

use std::collections::{BTreeMap, BTreeSet};

use microvm_spectrum::base::name::{SourceName, VmId, VmName};
use microvm_spectrum::config::UidRange;
use microvm_spectrum::state::leases::{Leases, NoUidLeft};
use proptest::prelude::*;

/// A question: a VM's user id, in a range, while others are taken.
#[derive(Debug, Clone)]
struct Asked {
    id: VmId,
    range: UidRange,
    taken: BTreeSet<u32>,
}

/// A small world, so that everything happens: ranges overlap and end.
fn asked() -> impl Strategy<Value = Asked> {
    let id = "[ab]/[a-e]".prop_map(|text| text.parse().unwrap());
    let range =
        (70_000..70_012_u32, 0..6_u32).prop_map(|(first, more)| UidRange { first, last: first + more });
    let taken = proptest::collection::btree_set(70_000..70_018_u32, 0..6);
    (id, range, taken).prop_map(|(id, range, taken)| Asked { id, range, taken })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_two_vms_have_the_same(all in proptest::collection::vec(asked(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.json");
        let mut leases = Leases::default();
        let mut given: BTreeMap<VmId, u32> = BTreeMap::new();
        for (step, Asked { id, range, taken }) in all.iter().enumerate() {
            let free: BTreeSet<u32> = (range.first..=range.last)
                .filter(|uid| !taken.contains(uid) && !given.values().any(|other| other == uid))
                .collect();
            let result = leases.uid(id, &mut leases.search(range), |uid| Ok(taken.contains(&uid)));
            match given.get(id) {
                Some(uid) => prop_assert_eq!(result, Ok(*uid), "it changed"),
                None if free.is_empty() => prop_assert_eq!(result, Err(NoUidLeft)),
                None => {
                    let uid = result.unwrap();
                    prop_assert!(free.contains(&uid), "{} is not free", uid);
                    given.insert(id.clone(), uid);
                }
            }
            // From time to time, the program ends and begins again.
            if step % 16 == 0 {
                std::fs::write(&path, serde_json::to_string(&leases).unwrap()).unwrap();
                let read = Leases::read(&path).unwrap();
                // What is remembered of the leases is what they say.
                prop_assert_eq!(&leases, &read);
                leases = read;
            }
        }
        let text = serde_json::to_value(&leases).unwrap();
        let found: BTreeMap<VmId, u32> = serde_json::from_value(text["uids"].clone()).unwrap();
        prop_assert_eq!(found, given);
    }

    #[test]
    fn an_id_is_two_names_and_nothing_else(text in "[ab/.%_\\-\n ü]{0,9}") {
        let parts: Vec<_> = text.split('/').collect();
        let named = matches!(parts.as_slice(), [source, name] if VmName::new(source).is_ok() && VmName::new(name).is_ok());
        let parsed = text.parse::<VmId>();
        prop_assert_eq!(parsed.is_ok(), named);
        if let Ok(id) = parsed {
            prop_assert_eq!(&id.source, &SourceName::new(parts[0]).unwrap());
            prop_assert_eq!(id.name.as_str(), parts[1]);
            prop_assert_eq!(id.to_string(), text.clone());
        }
        let json = serde_json::from_value::<VmId>(serde_json::Value::String(text));
        prop_assert_eq!(json.is_ok(), named);
    }
}
