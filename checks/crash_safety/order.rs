// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The order in which `sync` changes files: what is not synced may be lost with
//! the power, whatever came after it.

use std::path::{Path, PathBuf};

use crate::stage::{Stage, Task};
use crate::trace::Call;

const TASKS: [Task; 6] = [Task::First, Task::Add, Task::Change, Task::Remove, Task::CleanUp, Task::Link];

/// The calls that change files, and these among them.
struct Order {
    stage: Stage,
    calls: Vec<Call>,
}

impl Order {
    fn of(task: Task) -> Self {
        let stage = Stage::new(task);
        stage.reset();
        let (_, calls) = stage.trace();
        Self { stage, calls: calls.into_iter().filter(|call| call.changes).collect() }
    }

    /// Where something is renamed to this name of the program's own, at most once.
    fn rename_to(&self, name: &str) -> Option<usize> {
        let path = self.stage.own().join(name);
        let is_it = |call: &Call| call.name.starts_with("rename") && call.paths.last() == Some(&path);
        let mut found = self.calls.iter().enumerate().filter(|(_, call)| is_it(call)).map(|(index, _)| index);
        let index = found.next();
        assert_eq!(found.next(), None, "{name} is replaced twice");
        index
    }

    /// Asserts that all is synced right before a rename, and the rename right after it.
    #[track_caller]
    fn is_durable(&self, rename: usize) {
        let [before, after] = [rename - 1, rename + 1].map(|index| &self.calls[index]);
        assert_eq!((before.name.as_str(), before.succeeded()), ("syncfs", true), "{before:?}");
        assert!(before.paths[0].starts_with(&self.stage.place), "{before:?}");
        let directory = self.calls[rename].paths[1].parent().unwrap();
        assert_eq!((after.name.as_str(), after.succeeded()), ("fsync", true), "{after:?}");
        assert_eq!(after.paths, [directory]);
    }
}

#[test]
fn everything_is_synced_before_the_one_rename_and_nothing_is_removed_before_that_is() {
    for task in TASKS {
        let order = Order::of(task);
        let Some(switch) = order.rename_to("current") else {
            // Who was killed may not have synced it.
            assert_eq!(task, Task::CleanUp);
            let find = |name: &str| order.calls.iter().position(|call| call.name.starts_with(name)).unwrap();
            let sync = &order.calls[find("fsync")];
            assert_eq!(sync.paths, [order.stage.own()]);
            assert!(find("fsync") < find("unlink"), "{:?}", order.calls);
            continue;
        };
        order.is_durable(switch);
        let (before, after) = order.calls.split_at(switch);
        // Written: packages, the catalog, and before anything uses them the leases.
        let written = |path: &dyn Fn(&Path) -> bool| {
            before.iter().filter(|call| call.name == "write" && call.paths.iter().any(|p| path(p))).count()
        };
        assert_eq!(written(&|path| path.ends_with("catalog.json")), 1);
        let manifests = written(&|path| path.ends_with("manifest.json"));
        assert_eq!(manifests > 0, task != Task::Remove, "{task:?}");
        // Before the switch only what `sync` itself has just made is changed.
        let was_there = |path: &PathBuf| {
            let path = path.strip_prefix(&order.stage.place).unwrap_or_else(|_| panic!("{}", path.display()));
            order.stage.base().contains_key(path)
        };
        for call in before.iter().filter(|call| call.succeeded()) {
            let may = match call.name.as_str() {
                // The lock and the leases.
                "open" | "openat" | "flock" | "chmod" | "fchmod" => {
                    call.paths.iter().any(|p| p.ends_with("lock")) || !call.paths.iter().any(was_there)
                }
                "rename" => {
                    call.paths[1] == order.stage.own().join("leases.json") || !was_there(&call.paths[1])
                }
                "symlink" | "symlinkat" => !was_there(&call.paths[1]),
                "syncfs" | "fsync" => true,
                _ => !call.paths.iter().any(was_there),
            };
            assert!(may, "{task:?}: {call:?} before the switch");
        }
        // After it only removals; a VM's folder gets a temporary name for that.
        for call in &after[2..] {
            let removes = match call.name.as_str() {
                "rename" => call.paths[1].to_str().unwrap().ends_with(".tmp"),
                name => ["unlink", "unlinkat", "rmdir"].contains(&name),
            };
            assert!(removes, "{task:?}: {call:?} after the switch");
        }
    }
}

#[test]
fn leases_are_durable_before_anything_that_uses_them_is_written() {
    for task in TASKS {
        let order = Order::of(task);
        let rename = order.rename_to("leases.json");
        let expected = !matches!(task, Task::Remove | Task::CleanUp);
        assert_eq!(rename.is_some(), expected, "{task:?}");
        let Some(rename) = rename else { continue };
        order.is_durable(rename);
        let beneath = |directory: &str| {
            let directory = order.stage.own().join(directory);
            let inside = |path: &PathBuf| path.starts_with(&directory) && *path != directory;
            order.calls.iter().position(|call| call.paths.iter().any(inside)).unwrap()
        };
        assert!(rename + 1 < beneath("packages"), "{task:?}");
        assert!(rename + 1 < beneath("generations"), "{task:?}");
    }
    let forgetting = Order::of(Task::Forget);
    forgetting.is_durable(forgetting.rename_to("leases.json").unwrap());
}
