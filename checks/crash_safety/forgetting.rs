// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `forget`, disturbed at every call that changes a file: both VMs are forgotten,
//! or none, and nothing else is changed.

use std::os::unix::process::ExitStatusExt as _;

use crate::points::{Trying, is_temporary, tell};
use crate::stage::{Stage, Task};
use crate::state::{leases, unnumbered};
use crate::support::program::{Ran, run};
use crate::support::tree::{Tree, assert_same};
use crate::trace::Call;

/// A tree without what the next `sync` removes.
fn kept(tree: Tree) -> Tree {
    tree.into_iter().filter(|(path, _)| !is_temporary(path)).collect()
}

struct Rehearsed {
    stage: Stage,
    calls: Vec<Call>,
    /// The trees when it was not done, and when it was.
    trees: [Tree; 2],
    /// What `sync` makes of each.
    synced: [Tree; 2],
}

impl Rehearsed {
    fn new() -> Self {
        let stage = Stage::new(Task::Forget);
        stage.reset();
        run(&mut stage.sync()).exits(0).has_no_complaint();
        let unforgotten = stage.found();
        stage.reset();
        let (ran, calls) = stage.trace();
        ran.exits(0).complains(&["user/gone is forgotten", "user/p is forgotten"]);
        let done = stage.found();
        assert_ne!(leases(stage.base()), leases(&done));
        run(&mut stage.sync()).exits(0).has_no_complaint();
        let synced = [unforgotten, stage.found()].map(|tree| unnumbered(&tree));
        let calls: Vec<_> =
            calls.into_iter().filter(|call| call.changes || call.name == "exit_group").collect();
        assert!(calls.len() >= Task::Forget.least_calls(), "{}", calls.len());
        let trees = [stage.base().clone(), done];
        Self { stage, calls, trees, synced }
    }

    /// Asserts that all is as before, or as after; returns which.
    #[track_caller]
    fn which(&self) -> usize {
        let found = kept(self.stage.found());
        let which = usize::from(leases(&found) != leases(&self.trees[0]));
        assert_same(&self.trees[which], &found, "neither before nor after");
        which
    }

    /// Asserts that the next calls do what is left to do.
    #[track_caller]
    fn converges(&self, which: usize, once_more: bool) {
        if once_more {
            // What is forgotten already is not known any more.
            run(&mut self.stage.forget()).exits(i32::from(which == 1));
        }
        run(&mut self.stage.sync()).exits(0).has_no_complaint();
        let expected = &self.synced[usize::from(once_more || which == 1)];
        assert_same(expected, &unnumbered(&self.stage.found()), "the next sync");
    }
}

#[test]
fn killed() {
    let rehearsed = Rehearsed::new();
    let mut done = 0;
    for (index, call) in rehearsed.calls.iter().enumerate() {
        let _trying = Trying("killed", call);
        rehearsed.stage.reset();
        assert_eq!(rehearsed.stage.inject("signal=KILL", call).status.signal(), Some(9));
        let which = rehearsed.which();
        done += which;
        rehearsed.converges(which, index % 2 == 0);
    }
    tell(Task::Forget, "killed", rehearsed.calls.len(), &format!(", {done} of them when it was done"));
    assert!(done > 0);
}

fn failing(error: &str, said: &str) {
    let rehearsed = Rehearsed::new();
    let stage = &rehearsed.stage;
    let points: Vec<_> = rehearsed.calls.iter().filter(|call| call.changes).collect();
    for (index, call) in points.iter().enumerate() {
        let _trying = Trying(error, call);
        stage.reset();
        let ran = Ran::of(stage.inject(&format!("error={error}"), call), "forget").exits(3);
        assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(stage.place.to_str().unwrap()) && ran.stderr.contains(said));
        let which = rehearsed.which();
        // When the directory cannot be synced, it is done for now.
        assert_eq!(which == 1, call.name == "fsync");
        assert!(!stage.found().into_keys().any(|path| is_temporary(&path)));
        rehearsed.converges(which, index % 2 == 0);
    }
    tell(Task::Forget, error, points.len(), "");
}

#[test]
fn no_space() {
    failing("ENOSPC", "No space left on device");
}

#[test]
fn bad_disk() {
    failing("EIO", "Input/output error");
}
