// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What `sync` has to do: what is there before, and what shall be there after.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::program::{Ran, TOOLS, call, finish, quiet, run};
use crate::support::tree::{self, Tree};
use crate::support::vm_directory::Partition;
use crate::support::waiting::wait_for;
use crate::trace::{self, Call};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Everything, where nothing is, not even the directory above.
    First,
    /// Two VMs more, one of them a client of a provider that is there.
    Add,
    /// A VM of each kind: added, changed, removed while it runs, broken, shadowed.
    Change,
    /// Three VMs less, one of which runs.
    Remove,
    /// Nothing but to remove what killed programs have left.
    CleanUp,
    /// Another id for a link: leases change.
    Link,
    /// To forget two VMs that are gone; the others are of `sync`, this is of `forget`.
    Forget,
}

impl Task {
    /// How many calls that change files it takes at least: a VM alone takes 20.
    pub fn least_calls(self) -> usize {
        match self {
            Self::First | Self::Change => 100,
            Self::Add => 60,
            Self::Link | Self::Remove => 40,
            Self::CleanUp | Self::Forget => 10,
        }
    }
}

/// A task in a directory of its own.
pub struct Stage {
    guard: tempfile::TempDir,
    task: Task,
    /// All that `sync` may change, and what stands beside it.
    pub place: PathBuf,
    base: Tree,
    old: PathBuf,
    new: PathBuf,
}

fn source(name: &str, path: &Path) -> String {
    format!("[[source]]\nkind = 'user-partition'\nname = '{name}'\npath = '{}'\n", path.display())
}

impl Stage {
    /// Sets the stage, in memory where there is some.
    pub fn new(task: Task) -> Self {
        let guard = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let root = guard.path().canonicalize().unwrap();
        let [stays, first, second] = ["stays", "first", "second"].map(|name| {
            let partition = Partition::at(&root.join(name));
            let source = source(if name == "stays" { "stays" } else { "user" }, &partition.root);
            (partition, source)
        });
        for name in ["netvm", "app", "same"] {
            stays.0.vm(name).image("root.img", b"");
        }
        for (partition, names) in [(&first, &["gone", "p", "same"][..]), (&second, &["q", "r", "same"])] {
            for name in names {
                partition.0.vm(name).image("root.img", b"");
            }
        }
        for client in [stays.0.vm("app"), second.0.vm("r"), first.0.vm("p")] {
            client.provider("netvm");
        }
        if task == Task::Change {
            second.0.vm("r").without("vmlinux");
        }
        // What sync remembers of these depends on the time: here, it always can.
        let made = SystemTime::now();
        wait_for("the VM directories are older than what has just changed", || {
            made.elapsed().is_ok_and(|age| age > Duration::from_millis(2_500)).then_some(())
        });
        let (old, new) = match task {
            Task::First | Task::CleanUp | Task::Link => (vec![&stays.1], vec![&stays.1]),
            Task::Add => (vec![&stays.1], vec![&stays.1, &second.1]),
            Task::Change => (vec![&stays.1, &first.1], vec![&stays.1, &second.1]),
            Task::Remove | Task::Forget => (vec![&stays.1, &first.1], vec![&stays.1]),
        };
        let settings = match task {
            Task::Change => "[vm.'stays/app']\nmemory = 64\n",
            Task::Link => "[vm.'stays/app']\nlinks = { netvm = '1234' }\n",
            _ => "",
        };
        let tools: String = TOOLS.iter().map(|tool| format!("{tool} = '/usr/bin/{tool}'\n")).collect();
        let configs = [("old", old, ""), ("new", new, settings)].map(|(name, sources, settings)| {
            let sources: String = sources.into_iter().map(String::as_str).collect();
            let path = root.join(name).with_extension("toml");
            fs::write(&path, format!("{sources}{settings}[tools]\n{tools}")).unwrap();
            path
        });
        let [old, new] = configs;
        let mut stage = Self { guard, task, place: root.join("place"), base: Tree::new(), old, new };
        if task != Task::First {
            stage.furnish();
            stage.base = tree::read(&stage.place);
        }
        stage
    }

    /// Makes what is there before: the old VMs, and what is not this program's.
    fn furnish(&self) {
        let (state, own) = (self.state(), self.own());
        run(&mut self.sync_old()).exits(0).has_no_complaint();
        if self.task == Task::Forget {
            run(&mut self.sync()).exits(0).has_no_complaint();
        }
        let text = |path: PathBuf| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "precious").unwrap();
        };
        // Another program's, in every place where that can be.
        text(self.place.join("beside/file"));
        text(state.join("notes"));
        text(state.join(".hidden/.file.1.tmp"));
        text(state.join("foreign/flake"));
        symlink("/nix/store/foreign", state.join("foreign/current")).unwrap();
        text(state.join("app/volume.img"));
        let booted = |name: &str| {
            let package = own.join("current/vms").join(name).canonicalize().unwrap();
            symlink(package, state.join(name).join("booted")).unwrap();
        };
        booted("app");
        if matches!(self.task, Task::Change | Task::Remove) {
            booted("gone");
            text(state.join("gone/volume.img"));
        }
        if self.task == Task::CleanUp {
            text(own.join("packages/app-0/bin/microvm-run"));
            symlink("nowhere", own.join("packages/app-0/link")).unwrap();
            text(own.join("generations/7/catalog.json"));
            symlink("generations/7", own.join(".current.123.tmp")).unwrap();
            text(own.join(".leases.json.123.tmp"));
            symlink("nowhere", state.join("netvm/.current.123.tmp")).unwrap();
        }
    }

    /// What is not this program's, which it must leave as it is.
    pub fn is_precious(&self, path: &Path) -> bool {
        let precious = [
            "beside",
            "state/notes",
            "state/.hidden",
            "state/foreign",
            "state/app/volume.img",
            "state/gone/volume.img",
        ];
        precious.iter().any(|precious| path.starts_with(precious))
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.place.join("state")
    }

    /// What belongs to the program alone.
    pub fn own(&self) -> PathBuf {
        self.state().join(".microvm-spectrum")
    }

    /// What is there before.
    pub fn base(&self) -> &Tree {
        &self.base
    }

    /// Puts everything as it was before.
    pub fn reset(&self) {
        match fs::remove_dir_all(&self.place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.unwrap(),
        }
        tree::write(&self.place, &self.base);
    }

    /// What is there now.
    pub fn found(&self) -> Tree {
        let mut found = if self.place.exists() { tree::read(&self.place) } else { Tree::new() };
        // What sync remembers depends on the time, and may be lost.
        found.retain(|path, _| !path.ends_with(".microvm-spectrum/known.json"));
        found
    }

    /// An undisturbed call of `sync`.
    pub fn sync(&self) -> Command {
        self.sync_with(&self.new)
    }

    /// Back to how it was before.
    pub fn sync_old(&self) -> Command {
        self.sync_with(&self.old)
    }

    fn sync_with(&self, config: &Path) -> Command {
        let mut command = call(["sync", "--no-systemd", "--config"]);
        command.arg(config).arg("--state-dir").arg(self.state());
        command
    }

    /// A call of `forget`.
    pub fn forget(&self) -> Command {
        let mut command = call(["forget", "--no-systemd", "user/gone", "user/p", "--state-dir"]);
        command.arg(self.state());
        command
    }

    /// Calls the program under strace, with these options; returns what it left, and the trace.
    fn traced(&self, options: &[String]) -> (Output, String) {
        let log = self.guard.path().join("trace");
        // Only the owner may use what it makes, unless it sees to that itself.
        let _ = fs::remove_file(&log);
        let mut command = quiet("sh");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(["-c", "umask 077 && exec \"$@\"", "sh", "strace", "-f", "-y", "-s", "8"]);
        command.args(["--signal=none", "-o"]).arg(&log).args(options);
        let program = if self.task == Task::Forget { self.forget() } else { self.sync() };
        command.arg(program.get_program()).args(program.get_args());
        let output = finish(&mut command);
        let trace = fs::read_to_string(&log).unwrap_or_default();
        let ran = output.status.signal().is_some() || !trace.is_empty();
        assert!(ran, "strace did not run: {}", String::from_utf8_lossy(&output.stderr));
        (output, trace)
    }

    /// Calls the program undisturbed and returns its calls.
    pub fn trace(&self) -> (Ran, Vec<Call>) {
        let (output, trace) = self.traced(&[]);
        (Ran::of(output, "the program"), trace::read(&trace))
    }

    /// Calls the program, with this injected at a call: `signal=KILL`, or `error=EIO`.
    #[track_caller]
    pub fn inject(&self, what: &str, call: &Call) -> Output {
        self.inject_if_reached(what, call)
            .unwrap_or_else(|| panic!("{} {} was not reached", call.name, call.number))
    }

    /// Like [`Stage::inject`], where it is not sure that there is such a call.
    pub fn inject_if_reached(&self, what: &str, call: &Call) -> Option<Output> {
        let Call { name, number, .. } = call;
        let mut options = vec![format!("--trace={name}"), format!("--inject={name}:{what}:when={number}")];
        // Faster, since no other call stops the program; but then strace sends no signals.
        if !what.starts_with("signal") {
            options.push("--seccomp-bpf".to_owned());
        }
        let (output, trace) = self.traced(&options);
        // strace ends as the program does, and then writes no more.
        let reached = output.status.signal() == Some(9) || trace.contains("(INJECTED)");
        reached.then_some(output)
    }
}
