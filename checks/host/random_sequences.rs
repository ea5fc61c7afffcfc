// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Random sequences of what an administrator, the sources and systemd can do,
//! each step compared with a simple model of what must then be true.
//!
//! Where the guest does not matter it is not there: in most sequences a small
//! program replaces QEMU, and only answers the supervisor. All else is
//! real, and some sequences have real guests.
//!
//! `MICROVM_SPECTRUM_TEST_SEED=7` replays the sequence 7, `7-99` runs these.

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use model::{Definition, Id, Model, NAMES, Name, Numbers, Package, SOURCES, Settings, Source};

use crate::support::guest::part;
use crate::support::installed::{Host, INSTALLED, PARTITION};
use crate::support::random::Random;
use crate::support::skip::needs;
use crate::support::systemd_machine::{alone, is_possible};

/// How many sequences there are, and which of them have real guests: one of so
/// many.
const SEQUENCES: u64 = 200;
const REAL_EVERY: u64 = 25;
/// How many steps a sequence has.
const STEPS: std::ops::RangeInclusive<u64> = 5..=11;
/// Each machine does its share of the sequences.
const MACHINES: usize = 4;
/// How long it may take until something that was begun is done.
const PATIENCE: Duration = Duration::from_secs(300);

const STATE: &str = "/var/lib/microvms";
const STAND_IN: &str = "/usr/local/bin/stand-in";
const GENERATED: &str = "/run/systemd/generator";
/// User ids that settings ask for, before and among those that others get.
const DECLARED: [u32; 2] = [69_000, 70_002];

/// Why something is stale.
const STALE: [&str; 5] = [
    "has taken its name",
    "its definition or its settings have changed",
    "its user id is",
    "vmlinux has changed",
    "blk/root.img has changed",
];
/// What else must be seen.
const STATES: [&str; 9] = [
    "running",
    "running and removed",
    "stopped",
    "failed",
    "broken",
    "blocked",
    "unavailable",
    "shadowed",
    "removed",
];

/// What a step changed, in the machine: all that one has to see of it, in one go.
const LOOK: &str = "{ timeout 300 microvm-spectrum list --all --json && systemctl show \
    --property=Id,ActiveState,InvocationID,UID,Job 'microvm@*.service'; }";

#[test]
fn random_sequences_follow_a_simple_model() {
    needs!(is_possible());
    let _alone = alone();
    let begun = Instant::now();
    let seeds = seeds();
    let (next, real, steps) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let seen = Mutex::new(BTreeMap::<String, usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..MACHINES.min(seeds.len()) {
            scope.spawn(|| {
                let mut world = World::new();
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    steps.fetch_add(world.sequence(*seed), Ordering::Relaxed);
                    real.fetch_add(usize::from(world.is_real), Ordering::Relaxed);
                }
                for (what, times) in &world.seen {
                    *seen.lock().unwrap().entry(what.clone()).or_default() += times;
                }
            });
        }
    });
    let real = real.into_inner();
    let stood_in = seeds.len() - real;
    let _ = writeln!(
        std::io::stderr(),
        "{} random sequences of {} steps in all: {stood_in} with a stand-in for QEMU, {real} with real guests; {:.0?}",
        seeds.len(),
        steps.into_inner(),
        begun.elapsed()
    );
    let seen = seen.into_inner().unwrap();
    let _ = writeln!(std::io::stderr(), "seen in them: {seen:?}");
    if std::env::var_os("MICROVM_SPECTRUM_TEST_SEED").is_none() {
        let never: Vec<_> = STALE.iter().chain(&STATES).filter(|what| !seen.contains_key(**what)).collect();
        assert!(never.is_empty(), "never seen: {never:?}");
    }
}

fn seeds() -> Vec<u64> {
    let Ok(text) = std::env::var("MICROVM_SPECTRUM_TEST_SEED") else { return (0..SEQUENCES).collect() };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    (first.parse().unwrap()..=last.parse().unwrap()).collect()
}

/// A machine, and the model of it.
struct World {
    // Dropped before the machine.
    shell: Shell,
    host: Host,
    model: Model,
    /// What has been done, to be shown.
    done: Done,
    is_real: bool,
    images: u64,
    /// The packages' names, as the host calls them.
    packages: BTreeMap<Package, String>,
    /// The last run of each VM.
    invocations: BTreeMap<Name, String>,
    /// How often there was what.
    seen: BTreeMap<String, usize>,
}

/// A shell in the machine, to get there once and not for each command.
struct Shell {
    shell: Child,
    answers: BufReader<ChildStdout>,
}

impl Shell {
    fn new(host: &Host) -> Self {
        let mut command = host.machine.command("sh", [] as [&str; 0]);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        Self { shell, answers }
    }

    /// Runs one command line, and returns its status and all that it printed.
    fn run(&mut self, line: &str) -> (i32, String) {
        let input = self.shell.stdin.as_mut().unwrap();
        writeln!(input, "{line} 2>&1 </dev/null; echo \"<status $?>\"").unwrap();
        let mut text = String::new();
        loop {
            let begun = text.len();
            assert!(
                self.answers.read_line(&mut text).unwrap() > 0,
                "the shell has ended after {line}: {text}"
            );
            let status = text[begun..].strip_prefix("<status ").and_then(|rest| rest.strip_suffix(">\n"));
            if let Some(status) = status {
                let status = status.parse().unwrap();
                text.truncate(begun);
                return (status, text);
            }
        }
    }

    #[track_caller]
    fn ok(&mut self, line: &str) -> String {
        let (status, text) = self.run(line);
        assert_eq!(status, 0, "{line}: {text}");
        text
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Shows what has been done when something was wrong.
#[derive(Default)]
struct Done(String);

impl Drop for Done {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        host.machine.write(STAND_IN, include_str!("random_sequences/stand-in.pl"));
        fs::set_permissions(host.machine.path(STAND_IN), fs::Permissions::from_mode(0o755)).unwrap();
        // Every reload would run these, and nothing here is of theirs.
        host.machine.mkdir("/etc/systemd/system-generators");
        for generator in fs::read_dir(host.machine.path("/usr/lib/systemd/system-generators")).unwrap() {
            let mask = Path::new("/etc/systemd/system-generators").join(generator.unwrap().file_name());
            symlink("/dev/null", host.machine.path(mask.to_str().unwrap())).unwrap();
        }
        let kernel = host.machine.path(&format!("{PARTITION}/vmlinux"));
        fs::copy(&kernel, kernel.with_extension("1")).unwrap();
        fs::rename(&kernel, kernel.with_extension("0")).unwrap();
        for directory in ["/srv/own", "/srv/stick/svc/data", "/media/later"] {
            host.machine.mkdir(directory);
        }
        host.ok(&["mount", "--bind", "/srv/stick", "/media/later"]);
        let mut world = Self {
            shell: Shell::new(&host),
            host,
            model: Model::empty(0),
            done: Done::default(),
            is_real: false,
            images: 0,
            packages: BTreeMap::new(),
            invocations: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        world.configure();
        world.host.sync();
        world.model = Model::empty(world.numbers().generation);
        world
    }

    /// One sequence, and how many steps it had. Nothing is left of it.
    fn sequence(&mut self, seed: u64) -> usize {
        let mut random = Random(seed);
        self.is_real = seed.is_multiple_of(REAL_EVERY);
        self.done.0 = format!("MICROVM_SPECTRUM_TEST_SEED={seed} runs this again:\n");
        self.configure();
        let steps = *STEPS.start() + random.below(STEPS.end() - STEPS.start() + 1);
        for _ in 0..steps {
            let looked_at = loop {
                if let Some(looked_at) = self.step(&mut random) {
                    break looked_at;
                }
            };
            if looked_at {
                self.compare();
            }
        }
        self.converge();
        self.tidy();
        usize::try_from(steps).unwrap()
    }

    /// After two syncs there is nothing to do, and nothing superfluous.
    fn converge(&mut self) {
        // What the first has stopped is still noted while it does.
        for _ in 0..2 {
            self.sync(true);
            self.compare();
        }
        let (_, plan) = self.shell.run(&format!("timeout 300 {INSTALLED} sync --dry-run"));
        assert!(plan.lines().any(|line| line == "nothing to do"), "{plan}");
        let used = self.model.catalog.runnable().map(|(_, runnable)| &runnable.package);
        let used = used.chain(self.model.running.values().map(|started| &started.package));
        let used: BTreeSet<_> = used.map(|package| self.packages[package].clone()).collect();
        assert_eq!(self.names(&format!("{STATE}/.microvm-spectrum/packages")), used);
        let generation = self.model.generation.to_string();
        assert_eq!(
            self.names(&format!("{STATE}/.microvm-spectrum/generations")),
            BTreeSet::from([generation])
        );
        let folders =
            self.model.catalog.runnable().map(|(id, _)| id.name).chain(self.model.running.keys().copied());
        let mut folders: BTreeSet<_> = folders.map(str::to_owned).collect();
        folders.insert(".microvm-spectrum".to_owned());
        assert_eq!(self.names(STATE), folders);
    }

    /// Takes everything away again.
    fn tidy(&mut self) {
        self.say("all is removed");
        for id in self.model.files.keys().copied().collect::<Vec<_>>() {
            fs::remove_dir_all(self.path(id)).unwrap();
        }
        self.model.files.clear();
        self.model.settings.clear();
        self.configure();
        if !self.model.mounted {
            self.mount(true);
        }
        self.sync(true);
        self.compare();
        for id in self.model.leased() {
            self.model.forget(id);
        }
        self.shell.ok(&format!("timeout 300 {INSTALLED} forget --source own --source user --source later"));
        // Start limits end, too.
        self.shell.ok("systemctl reset-failed");
        self.model.reset_failed();
        self.packages.clear();
    }

    fn say(&mut self, what: &str) {
        let _ = writeln!(self.done.0, "  {what}");
    }

    // --- What is done.

    /// Does something; none if that could not be done now. What only changes files
    /// stays unseen until something else is done, and then it is false.
    fn step(&mut self, random: &mut Random) -> Option<bool> {
        let name = random.pick(&NAMES).unwrap();
        let id = Id { source: random.pick(&SOURCES).unwrap(), name };
        let present: Vec<_> = self.model.files.keys().copied().collect();
        // Those that run have more to lose.
        let running: Vec<_> = self.model.running.values().map(|started| started.id).collect();
        let running: Vec<_> = running.into_iter().filter(|id| present.contains(id)).collect();
        let chosen = if random.one_in(2) { random.pick(&running) } else { None };
        let chosen = chosen.or_else(|| random.pick(&present));
        let able: Vec<_> = self.model.catalog.runnable().map(|(id, _)| id.name).collect();
        let able = random.pick(&able).filter(|_| !random.one_in(4)).unwrap_or(name);
        let changed = |done: bool| done.then_some(false);
        // Something runs in most of them before more happens.
        let missing = match () {
            () if present.len() < 3 => Some(0),
            () if self.model.catalog.runnable().next().is_none() => Some(54),
            () if running.is_empty() => Some(77),
            () => None,
        };
        match missing.filter(|_| !random.one_in(3)).unwrap_or_else(|| random.below(100)) {
            0..16 => return changed(self.add(id, random)),
            16..30 => return changed(self.change(chosen?, random)),
            30..40 => {
                self.set(chosen.filter(|_| !random.one_in(5)).unwrap_or(id), random);
                return Some(false);
            }
            40..45 => return changed(self.remove(chosen?)),
            45..49 => return changed(self.rename(chosen?, Id { name, ..chosen? })),
            49..54 => {
                self.mount(!self.model.mounted);
                return Some(false);
            }
            54..70 => self.sync(true),
            70..77 => self.sync(false),
            77..87 => self.control("start", able),
            87..91 => self.control("stop", able),
            91..94 => self.control("restart", able),
            94..97 => {
                self.say("systemctl daemon-reload");
                self.shell.ok("systemctl daemon-reload");
                self.model.reload();
            }
            _ => {
                let leased: Vec<_> = self.model.uids.keys().copied().collect();
                let id = random.pick(&leased).unwrap_or(id);
                let status = self.model.forget(id);
                self.run(&format!("forget {id}"), status);
            }
        }
        Some(true)
    }

    fn add(&mut self, id: Id, random: &mut Random) -> bool {
        if self.model.files.contains_key(&id) {
            return false;
        }
        let others: Vec<_> = NAMES.into_iter().filter(|name| *name != id.name).collect();
        let provider = if random.one_in(3) { random.pick(&others) } else { Some("n") };
        let provider = provider.filter(|name| *name != id.name && random.one_in(3));
        let definition = Definition {
            kernel: 0,
            image: 0,
            broken: random.one_in(8),
            providers: provider.into_iter().collect(),
        };
        self.say(&format!("add {id}: {definition:?}"));
        let directory = self.path(id);
        fs::create_dir_all(directory.join("blk")).unwrap();
        fs::create_dir_all(directory.join("providers/net")).unwrap();
        for provider in &definition.providers {
            fs::write(directory.join("providers/net").join(provider), "").unwrap();
        }
        if !definition.broken {
            self.link_kernel(id, 0);
        }
        self.model.files.insert(id, definition);
        self.write_image(id);
        true
    }

    /// Changes a VM directory.
    fn change(&mut self, id: Id, random: &mut Random) -> bool {
        let mut definition = self.model.files[&id].clone();
        match random.below(6) {
            0..2 => {
                self.say(&format!("replace the image of {id}"));
                self.write_image(id);
                return true;
            }
            2 => {
                if definition.broken {
                    return false;
                }
                definition.kernel = 1 - definition.kernel;
                self.link_kernel(id, definition.kernel);
            }
            3 => {
                definition.broken = !definition.broken;
                if definition.broken {
                    fs::remove_file(self.path(id).join("vmlinux")).unwrap();
                } else {
                    self.link_kernel(id, definition.kernel);
                }
            }
            _ => {
                let provider = random.pick(&NAMES).unwrap();
                let path = self.path(id).join("providers/net").join(provider);
                if provider == id.name {
                    return false;
                } else if definition.providers.remove(provider) {
                    fs::remove_file(path).unwrap();
                } else {
                    fs::write(path, "").unwrap();
                    definition.providers.insert(provider);
                }
            }
        }
        self.say(&format!("change {id}: {definition:?}"));
        self.model.files.insert(id, definition);
        true
    }

    /// Changes the settings of a VM, which may be there or not.
    fn set(&mut self, id: Id, random: &mut Random) {
        let taken: Vec<_> = self.model.settings.values().filter_map(|settings| settings.uid).collect();
        let free: Vec<_> = DECLARED.into_iter().filter(|uid| !taken.contains(uid)).collect();
        let settings = self.model.settings.entry(id).or_default();
        match random.below(6) {
            0..2 => settings.autostart ^= true,
            2 => settings.restart_if_changed ^= true,
            3 => settings.more_memory ^= true,
            _ => settings.uid = if settings.uid.is_some() { None } else { random.pick(&free) },
        }
        let text = format!("set {id}: {settings:?}");
        self.say(&text);
        self.configure();
    }

    fn remove(&mut self, id: Id) -> bool {
        self.say(&format!("remove {id}"));
        fs::remove_dir_all(self.path(id)).unwrap();
        self.model.files.remove(&id);
        true
    }

    fn rename(&mut self, from: Id, to: Id) -> bool {
        if self.model.files.contains_key(&to) || self.model.files[&from].providers.contains(to.name) {
            return false;
        }
        self.say(&format!("rename {from} to {to}"));
        fs::rename(self.path(from), self.path(to)).unwrap();
        let definition = self.model.files.remove(&from).unwrap();
        self.model.files.insert(to, definition);
        true
    }

    fn mount(&mut self, mounted: bool) {
        self.say(if mounted { "mount later" } else { "unmount later" });
        if mounted {
            self.shell.ok("mount --bind /srv/stick /media/later");
        } else {
            // VMs have files of it open.
            self.shell.ok("umount --lazy /media/later");
        }
        self.model.mounted = mounted;
    }

    fn sync(&mut self, tell: bool) {
        let line = if tell { "sync" } else { "sync --no-systemd" };
        self.say(line);
        let (status, said) = self.shell.run(&format!("timeout 300 {INSTALLED} {line}"));
        let expected = self.model.sync(tell, &self.numbers());
        assert_eq!(status, expected, "{said}");
        self.name_packages();
    }

    fn control(&mut self, verb: &str, name: Name) {
        let status = match verb {
            "start" => self.model.start(name),
            "stop" => self.model.stop(name),
            _ => self.model.restart(name),
        };
        self.run(&format!("{verb} {name}"), status);
    }

    fn run(&mut self, line: &str, expected: i32) {
        self.say(&format!("{line} (must exit {expected})"));
        let (status, said) = self.shell.run(&format!("timeout 300 {INSTALLED} {line}"));
        assert_eq!(status, expected, "{said}");
    }

    fn path(&self, id: Id) -> PathBuf {
        let directory = match id.source {
            Source::Own => "/srv/own".to_owned(),
            Source::User => format!("{PARTITION}/svc/data"),
            // Also when it is mounted nowhere.
            Source::Later => "/srv/stick/svc/data".to_owned(),
        };
        self.host.machine.path(&format!("{directory}/{}", id.name))
    }

    fn link_kernel(&self, id: Id, kernel: u8) {
        let link = self.path(id).join("vmlinux");
        let _ = fs::remove_file(&link);
        symlink(format!("{PARTITION}/vmlinux.{kernel}"), link).unwrap();
    }

    /// A new file in the place of a VM's image.
    fn write_image(&mut self, id: Id) {
        let image = self.path(id).join("blk/root.img");
        let new = image.with_extension("new");
        if self.is_real {
            fs::copy(part("ROOT"), &new).unwrap();
        } else {
            fs::write(&new, [0; 4096]).unwrap();
        }
        fs::rename(new, image).unwrap();
        self.images += 1;
        self.model.files.get_mut(&id).unwrap().image = self.images;
    }

    fn configure(&self) {
        let qemu = part("QEMU");
        let qemu = if self.is_real { qemu.to_str().unwrap() } else { STAND_IN };
        let source = |kind: &str, name: &str, path: &str| {
            format!(
                "[[source]]\nkind = '{kind}'\nname = '{name}'\npath = '{path}'\nallow = ['{PARTITION}']\n\
                 autostart = true\n"
            )
        };
        let mut text = source("user-partition", "user", PARTITION);
        text += &source("user-partition", "later", "/media/later");
        // Written last, it comes first: it is built in.
        text += &source("builtin", "own", "/srv/own");
        text += &format!(
            "[defaults]\nhypervisor = 'qemu'\naccel = 'tcg'\nmemory = 128\n[tools]\nqemu-system-x86_64 = '{qemu}'\n"
        );
        for (id, Settings { autostart, restart_if_changed, more_memory, uid }) in &self.model.settings {
            let memory = if *more_memory { 160 } else { 128 };
            let _ = writeln!(text, "[vm.'{id}']\nautostart = {autostart}\nmemory = {memory}");
            let _ = writeln!(text, "restart-if-changed = {restart_if_changed}");
            let _ = uid.map(|uid| writeln!(text, "uid = {uid}"));
        }
        self.host.machine.write("/etc/microvm-spectrum/config.toml", &text);
    }

    // --- What is seen.

    /// Reads what is there of a JSON file of the state directory.
    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.host.machine.read(&format!("{STATE}/.microvm-spectrum/{name}"))).unwrap()
    }

    fn numbers(&self) -> Numbers {
        let leases = self.host.machine.path(&format!("{STATE}/.microvm-spectrum/leases.json"));
        let leases = if leases.exists() { self.json("leases.json") } else { Value::Null };
        let map = |value: &Value| serde_json::from_value(value.clone()).unwrap_or_default();
        Numbers {
            generation: self.json("current/catalog.json")["generation"].as_u64().unwrap(),
            uids: map(&leases["uids"]),
            links: serde_json::from_value(leases["links"].clone()).unwrap_or_default(),
        }
    }

    /// Learns what packages are called: each has a name of its own, and keeps it.
    fn name_packages(&mut self) {
        let catalog = self.json("current/catalog.json");
        for (id, runnable) in self.model.catalog.runnable() {
            let vms = catalog["vms"].as_array().unwrap();
            let vm = vms.iter().find(|vm| vm["name"] == id.name && vm["state"] == "runnable");
            let name =
                vm.unwrap_or_else(|| panic!("{id} cannot run: {catalog:#}"))["package"].as_str().unwrap();
            let other = self.packages.insert(runnable.package.clone(), name.to_owned());
            assert!(other.as_ref().is_none_or(|other| other == name), "{id}: {other:?}, {name}");
        }
        let different: BTreeSet<_> = self.packages.values().collect();
        assert_eq!(different.len(), self.packages.len(), "{:#?}", self.packages);
    }

    fn names(&self, directory: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.host.machine.path(directory)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Waits until everything is as the model has it.
    fn compare(&mut self) {
        let expected = self.model.facts(&self.packages);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (facts, invocations) = self.look();
            let wrong = self.wrong_invocations(&invocations);
            if facts == expected && wrong.is_empty() {
                self.count(&facts);
                for (name, invocation) in invocations {
                    if let Some(started) = self.model.running.get_mut(name) {
                        started.invocation = Some(invocation.clone());
                        self.invocations.insert(name, invocation);
                    }
                }
                return;
            }
            if Instant::now() > deadline {
                let mut text = String::new();
                for key in expected.keys().chain(facts.keys()).collect::<BTreeSet<_>>() {
                    let (expected, found) = (expected.get(key), facts.get(key));
                    if expected != found {
                        let _ = writeln!(text, "{key}: expected {expected:?}, found {found:?}");
                    }
                }
                panic!("not as it must be:\n{text}{wrong}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Counts what there is, so that nothing is taken for tested that never was.
    fn count(&mut self, facts: &BTreeMap<String, String>) {
        for (key, fact) in facts.iter().filter(|(key, _)| key.starts_with("list: ")) {
            let state = fact.split(',').next().unwrap();
            let state = if key.contains("-/") { "running and removed" } else { state };
            *self.seen.entry(state.to_owned()).or_default() += 1;
            for what in STALE.into_iter().filter(|what| fact.contains(what)) {
                *self.seen.entry(what.to_owned()).or_default() += 1;
            }
        }
    }

    /// What runs was not started again behind its user's back, and what was to be
    /// started again was.
    fn wrong_invocations(&self, found: &BTreeMap<Name, String>) -> String {
        let mut text = String::new();
        for (name, started) in &self.model.running {
            let is = found.get(name);
            let right = match &started.invocation {
                Some(_) => is == started.invocation.as_ref(),
                None => is != self.invocations.get(name),
            };
            if !right {
                let _ = writeln!(text, "the run of {name}: {is:?} after {:?}", self.invocations.get(name));
            }
        }
        text
    }

    /// All facts, as [`Model::facts`] has them, and systemd's names of runs.
    fn look(&mut self) -> (BTreeMap<String, String>, BTreeMap<Name, String>) {
        let (mut facts, mut invocations) = (BTreeMap::new(), BTreeMap::new());
        let looked = self.shell.ok(LOOK);
        let (list, units) = looked.split_once("\n}\n").unwrap();
        let list: Value = serde_json::from_str(&format!("{list}\n}}")).unwrap();
        for row in list["vms"].as_array().unwrap() {
            let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
            let user = row["uid"].as_u64().map_or_else(|| "-".to_owned(), |uid| uid.to_string());
            let stale: Vec<String> = serde_json::from_value(row["stale"].clone()).unwrap();
            let fact =
                format!("{}, user {user}, autostart {}, stale {stale:?}", text("state"), row["autostart"]);
            let key = format!("list: {}/{}", text("source"), text("name"));
            assert_eq!(facts.insert(key, fact), None, "twice: {list:#}");
        }
        for unit in units.trim().split("\n\n").filter(|unit| !unit.is_empty()) {
            let fields: BTreeMap<_, _> = unit.lines().filter_map(|line| line.split_once('=')).collect();
            let name = fields["Id"].trim_start_matches("microvm@").trim_end_matches(".service");
            let job = fields.get("Job").filter(|job| !job.is_empty());
            let fact = match (fields["ActiveState"], job) {
                ("inactive", None) => continue,
                ("active", None) => format!("active, user {}", fields["UID"]),
                (state, None) => state.to_owned(),
                (state, Some(_)) => format!("{state}, and a job is waiting"),
            };
            facts.insert(format!("unit: {name}"), fact);
            if let Some(name) = NAMES.into_iter().find(|known| *known == name) {
                invocations.insert(name, fields["InvocationID"].to_owned());
            }
        }
        self.look_at_files(&mut facts);
        (facts, invocations)
    }

    fn look_at_files(&self, facts: &mut BTreeMap<String, String>) {
        let link = |path: &str| {
            let target = fs::read_link(self.host.machine.path(path)).ok()?;
            Some(target.file_name().unwrap().to_str().unwrap().to_owned())
        };
        for name in NAMES {
            if let Some(package) = link(&format!("{STATE}/{name}/booted")) {
                facts.insert(format!("booted: {name}"), package);
            }
            let vms = format!("{STATE}/.microvm-spectrum/generations/{}/vms", self.model.generation);
            if let Some(package) = link(&format!("{vms}/{name}")) {
                assert_eq!(
                    fs::read_link(self.host.machine.path(&format!("{STATE}/{name}/current"))).unwrap(),
                    Path::new(&format!("../.microvm-spectrum/current/vms/{name}"))
                );
                facts.insert(format!("current: {name}"), package);
            }
            let record = self.host.machine.path(&format!("/run/microvm-spectrum/started/{name}.json"));
            if let Ok(text) = fs::read_to_string(record) {
                let record: Value = serde_json::from_str(&text).unwrap();
                let text = format!("{}, user {}", record["vm"].as_str().unwrap(), record["uid"]);
                facts.insert(format!("started: {name}"), text);
            }
            let drop_in = format!("{GENERATED}/microvm@{name}.service.d/50-microvm-spectrum.conf");
            if let Ok(text) = fs::read_to_string(self.host.machine.path(&drop_in)) {
                let after = |start: &str| {
                    let lines = text.lines().filter_map(|line| line.strip_prefix(start));
                    lines.map(str::to_owned).collect::<Vec<_>>()
                };
                let providers = after("Wants=microvm@");
                let providers: Vec<_> =
                    providers.iter().map(|unit| unit.trim_end_matches(".service")).collect();
                let text = format!("user {}, {providers:?}", after("User=").join(","));
                facts.insert(format!("drop-in: {name}"), text);
            }
            let wants = format!("{GENERATED}/microvms.target.wants/microvm@{name}.service");
            if self.host.machine.path(&wants).is_symlink() {
                facts.insert(format!("wanted: {name}"), String::new());
            }
        }
    }
}
