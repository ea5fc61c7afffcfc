// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync`, disturbed at every call that changes a file.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use crate::stage::{Stage, Task};
use crate::state::{
    Generation, Which, assert_nothing_lost, assert_whole, leases, unnumbered, without_leases,
};
use crate::support::program::{Ran, run};
use crate::support::tree::{Tree, assert_same};
use crate::trace::Call;

/// A stage, with what an undisturbed `sync` makes of it.
struct Rehearsed {
    stage: Stage,
    done: Tree,
    ran: Ran,
    /// The calls that change something, and the end.
    calls: Vec<Call>,
    /// Those that only look at something that is there.
    looks: Vec<Call>,
    /// Which of them makes the new generation the current one.
    switch: Option<usize>,
}

impl Rehearsed {
    fn new(task: Task) -> Self {
        let stage = Stage::new(task);
        stage.reset();
        let (ran, calls) = stage.trace();
        let done = stage.found();
        let end = calls.iter().filter(|call| call.name == "exit_group").count();
        assert_eq!(end, 1);
        let looked_at = |path: &PathBuf| path.starts_with(&stage.place);
        let looks = calls.iter().filter(|call| !call.changes && call.paths.iter().any(looked_at));
        let looks = looks.filter(|call| call.name != "close").cloned().collect();
        let calls: Vec<_> =
            calls.into_iter().filter(|call| call.changes || call.name == "exit_group").collect();
        for call in calls.iter().filter(|call| call.name != "exit_group") {
            let elsewhere =
                call.paths.iter().find(|path| path.is_absolute() && !path.starts_with(&stage.place));
            assert_eq!(elsewhere, None, "{call:?}");
        }
        let current = stage.own().join("current");
        let switch =
            calls.iter().position(|call| call.name.starts_with("rename") && call.paths[1] == current);
        assert_eq!(switch.is_none(), task == Task::CleanUp);
        // Once more changes nothing.
        let again = run(&mut stage.sync());
        assert_eq!((again.status, &again.stderr), (ran.status, &ran.stderr));
        assert_same(&done, &stage.found(), "the second time");
        let different = Generation::of(stage.base()) != Generation::of(&done);
        assert_eq!(different, task != Task::CleanUp);
        Self { stage, done, ran, calls, looks, switch }
    }

    /// Puts everything as it was before; returns the packages and what their files are.
    fn reset(&self) -> BTreeMap<PathBuf, u64> {
        self.stage.reset();
        self.packages()
    }

    fn packages(&self) -> BTreeMap<PathBuf, u64> {
        let entries = std::fs::read_dir(self.stage.own().join("packages")).into_iter().flatten();
        let inode = |entry: std::fs::DirEntry| (entry.path(), entry.metadata().unwrap().ino());
        entries.map(|entry| inode(entry.unwrap())).collect()
    }

    /// Asserts that no package was taken away and made again: it was in use meanwhile.
    #[track_caller]
    fn has_rewritten_none(&self, before: &BTreeMap<PathBuf, u64>) {
        for (path, inode) in self.packages() {
            assert!(before.get(&path).is_none_or(|before| *before == inode), "{}", path.display());
        }
    }

    /// Asserts that what is there is whole.
    #[track_caller]
    fn is_whole(&self) -> Which {
        assert_whole(&self.stage, self.stage.base(), &self.done, &self.stage.found())
    }

    /// Asserts that `sync`, undisturbed, makes of what is there what it should be.
    #[track_caller]
    fn converges(&self) {
        let again = run(&mut self.stage.sync());
        assert_eq!((again.status, &again.stderr), (self.ran.status, &self.ran.stderr));
        assert_same(&unnumbered(&self.done), &unnumbered(&self.stage.found()), "the next sync");
    }

    /// Asserts that `sync` with the old configuration makes the old of what is there.
    #[track_caller]
    fn goes_back(&self) {
        run(&mut self.stage.sync_old()).exits(0).has_no_complaint();
        let found = self.stage.found();
        let mine = leases(&found);
        assert!(mine == leases(self.stage.base()) || mine == leases(&self.done), "{mine:?}");
        assert_same(&without_leases(self.stage.base()), &without_leases(&found), "the way back");
    }
}

/// Says past the test harness how much was tried.
pub fn tell(task: Task, what: &str, points: usize, more: &str) {
    let _ = writeln!(std::io::stderr(), "crash safety: {task:?}, {what}: {points} points{more}");
}

/// Where it was tried, when an assertion fails.
pub struct Trying<'a>(pub &'a str, pub &'a Call);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} at {} {}: {}", self.0, self.1.name, self.1.number, self.1.text);
        }
    }
}

/// Kills before every call; after one is before the next, since nothing else changes files.
fn killed(task: Task) {
    let rehearsed = Rehearsed::new(task);
    let stage = &rehearsed.stage;
    let (mut kept, mut twice) = (0, 0);
    for (index, call) in rehearsed.calls.iter().enumerate() {
        let _trying = Trying("killed", call);
        let before = rehearsed.reset();
        let output = stage.inject("signal=KILL", call);
        assert_eq!(output.status.signal(), Some(9));
        rehearsed.has_rewritten_none(&before);
        let which = rehearsed.is_whole();
        let switched = rehearsed.switch.is_some_and(|switch| index > switch);
        if rehearsed.switch.is_some() {
            assert_eq!(which, if switched { Which::New } else { Which::Old });
        }
        kept += usize::from(!switched);
        // Every so often the next one is killed, too, or the administrator thinks better of it.
        if index % 3 == 1 {
            let again = &rehearsed.calls[index * 7 % rehearsed.calls.len()];
            let _trying = Trying("killed again", again);
            if stage.inject_if_reached("signal=KILL", again).is_some() {
                rehearsed.is_whole();
                twice += 1;
            }
        }
        // A link's id that was leased is not given back.
        if index % 3 == 2 && matches!(task, Task::Add | Task::Change | Task::Remove) {
            rehearsed.goes_back();
        }
        rehearsed.converges();
    }
    let before = rehearsed.switch.map(|_| format!(", {kept} before the switch")).unwrap_or_default();
    tell(task, "killed", rehearsed.calls.len(), &format!("{before}, {twice} killed twice"));
    assert!(rehearsed.calls.len() >= task.least_calls());
    assert!(twice > 0);
}

/// Lets every call fail.
fn failing(task: Task, error: &str, said: &str) {
    let rehearsed = Rehearsed::new(task);
    let stage = &rehearsed.stage;
    let points: Vec<_> = rehearsed.calls.iter().filter(|call| call.changes).collect();
    // Where nothing is switched, all that is needed is the lock.
    let lock = points.iter().position(|call| call.name == "flock").unwrap();
    let last_needed = rehearsed.switch.unwrap_or(lock);
    let mut refused = 0;
    for (index, call) in points.iter().enumerate() {
        let _trying = Trying(error, call);
        let before = rehearsed.reset();
        let ran = Ran::of(stage.inject(&format!("error={error}"), call), "sync");
        rehearsed.has_rewritten_none(&before);
        let which = rehearsed.is_whole();
        if index <= last_needed {
            assert_eq!(ran.stdout, "", "it did nothing");
            assert_eq!(ran.status, 3, "{}", ran.stderr);
            assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
            let path = stage.place.to_str().unwrap();
            assert!(ran.stderr.contains(path) && ran.stderr.contains(said), "{}", ran.stderr);
            if rehearsed.switch.is_some() {
                assert_eq!(which, Which::Old);
            }
            refused += 1;
        } else {
            assert!(rehearsed.switch.is_none() || which == Which::New);
            if index == last_needed + 1 {
                // A crash may bring the old generation back, so nothing of it is removed.
                assert_eq!((call.name.as_str(), ran.status), ("fsync", 3));
                let says = |line: &str| line.contains("/current: cannot be written") && line.contains(said);
                assert_eq!(ran.stderr.lines().filter(|line| says(line)).count(), 1, "{}", ran.stderr);
                let found = stage.found();
                let gone: Vec<_> = stage.base().keys().filter(|path| !found.contains_key(*path)).collect();
                assert!(gone.is_empty(), "{gone:?}");
            } else {
                // What does no harm is removed the next time.
                assert_eq!((ran.status, &ran.stderr), (rehearsed.ran.status, &rehearsed.ran.stderr));
            }
        }
        // It was not killed, so it has removed what it began with.
        let names: Vec<_> = stage.found().into_keys().filter(|path| is_temporary(path)).collect();
        assert!(index > last_needed || task == Task::CleanUp || names.is_empty(), "{names:?}");
        rehearsed.converges();
    }
    tell(task, error, points.len(), &format!(", {refused} refused"));
    assert!(points.len() + 1 >= task.least_calls());
}

/// Lets every call fail that only looks at what is there.
fn unreadable(task: Task) {
    let rehearsed = Rehearsed::new(task);
    let stage = &rehearsed.stage;
    let mut refused = 0;
    for call in &rehearsed.looks {
        let _trying = Trying("EIO", call);
        let before = rehearsed.reset();
        let ran = Ran::of(stage.inject("error=EIO", call), "sync");
        rehearsed.has_rewritten_none(&before);
        let found = stage.found();
        assert_nothing_lost(stage, stage.base(), &found);
        if (ran.status, &ran.stderr) == (rehearsed.ran.status, &rehearsed.ran.stderr) {
            rehearsed.is_whole();
        } else {
            assert_eq!(ran.status, 3, "{}", ran.stderr);
            assert!(ran.stderr.contains(stage.place.to_str().unwrap()), "{}", ran.stderr);
            // A VM whose folder cannot be looked at may be left out.
            Generation::of(&found);
            refused += 1;
        }
        rehearsed.converges();
    }
    tell(task, "EIO where it only looks", rehearsed.looks.len(), &format!(", {refused} refused"));
    assert!(rehearsed.looks.len() >= 100 && refused > 10);
}

/// Whether it has a name that it does not keep.
pub fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".tmp") && !path.starts_with("state/.hidden")
}

macro_rules! tasks {
    ($($name:ident: $task:ident,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn killed() {
                super::killed(Task::$task);
            }

            #[test]
            fn no_space() {
                failing(Task::$task, "ENOSPC", "No space left on device");
            }

            #[test]
            fn bad_disk() {
                failing(Task::$task, "EIO", "Input/output error");
            }
        }
    )*};
}

tasks! {
    first: First,
    add: Add,
    change: Change,
    remove: Remove,
    clean_up: CleanUp,
    link: Link,
}

#[test]
fn what_cannot_be_looked_at_is_not_taken_for_missing() {
    // The task with everything in it: VMs that are removed, and some that run.
    unreadable(Task::Change);
}
