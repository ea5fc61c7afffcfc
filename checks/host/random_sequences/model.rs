// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The model: what must be true of a host after what has been done to it. It is
//! told what was done, and of the host's answers only the numbers that it cannot
//! know: new leases and generations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub type Name = &'static str;
/// In their order, which `n`, a provider by habit, ends.
pub const NAMES: [Name; 4] = ["a", "b", "c", "n"];
pub const SOURCES: [Source; 3] = [Source::Own, Source::User, Source::Later];

/// A source, in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Own,
    User,
    Later,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub source: Source,
    pub name: Name,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::Own => "own",
            Source::User => "user",
            Source::Later => "later",
        };
        write!(f, "{source}/{}", self.name)
    }
}

/// A VM directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Which of two kernels it links to.
    pub kernel: u8,
    /// How many images were written before its own.
    pub image: u64,
    /// Without a kernel.
    pub broken: bool,
    pub providers: BTreeSet<Name>,
}

/// What the configuration says of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub autostart: bool,
    pub restart_if_changed: bool,
    pub more_memory: bool,
    pub uid: Option<u32>,
}

/// What makes a package the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub id: Id,
    kernel: u8,
    more_memory: bool,
    links: Vec<(Name, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runnable {
    pub uid: u32,
    pub package: Package,
    autostart: bool,
    restart_if_changed: bool,
    kernel: u8,
    image: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Runnable(Runnable),
    Broken,
    Blocked,
    Unavailable(Option<Runnable>),
    Shadowed,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    pub vms: BTreeMap<Id, State>,
    /// VMs that are gone and have a lease, with their user ids.
    gone: BTreeMap<Id, Option<u32>>,
    /// What those were that cannot run and still do.
    kept: BTreeMap<Id, Runnable>,
    mounted: bool,
}

type DropIn = (Id, u32, Vec<Name>);

/// What systemd has read last.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The drop-ins: the VM, its user id and its providers.
    drop_ins: BTreeMap<Name, DropIn>,
    autostart: BTreeSet<Name>,
}

/// What a VM that runs was started with.
#[derive(Debug, Clone)]
pub struct Started {
    pub id: Id,
    pub uid: u32,
    pub package: Package,
    generation: u64,
    kernel: u8,
    image: u64,
    /// systemd's name for this run, once it was seen.
    pub invocation: Option<String>,
}

/// The numbers that the model takes from the host.
#[derive(Debug, Default)]
pub struct Numbers {
    pub generation: u64,
    pub uids: BTreeMap<String, u32>,
    pub links: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Default)]
pub struct Model {
    /// The VM directories; those of `later` also while it is not mounted.
    pub files: BTreeMap<Id, Definition>,
    pub settings: BTreeMap<Id, Settings>,
    pub mounted: bool,
    pub uids: BTreeMap<Id, u32>,
    links: BTreeMap<(Id, Name), String>,
    accounts: BTreeSet<u32>,
    pub catalog: Catalog,
    pub generation: u64,
    known: Known,
    /// The VMs that `sync` has started because they start with the host.
    asked: BTreeSet<Name>,
    pub running: BTreeMap<Name, Started>,
    /// VMs whose own units failed.
    failed: BTreeSet<Name>,
    /// VMs that were not started because their drop-ins are outdated, so that another unit failed.
    refused: BTreeSet<Name>,
    /// VMs that have run.
    ran: BTreeSet<Id>,
}

/// What comes of a start.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    Runs,
    Skipped,
    Fails,
}

impl Model {
    /// A host where `sync` has found nothing at all.
    pub fn empty(generation: u64) -> Self {
        let catalog = Catalog { mounted: true, ..Catalog::default() };
        Self { mounted: true, catalog, generation, ..Self::default() }
    }

    // --- What is done. Each returns the exit status that it must have.

    /// `sync`, with or without telling systemd.
    pub fn sync(&mut self, tell: bool, numbers: &Numbers) -> i32 {
        let vms = self.scan(numbers);
        // What has never run may lose its leases when it is gone.
        let never_ran = |id: &Id| !vms.contains_key(id) && !self.ran.contains(id);
        let lost = self.leased().into_iter().filter(|id| !numbers.uids.contains_key(&id.to_string()));
        for id in lost.filter(never_ran).collect::<Vec<_>>() {
            self.uids.remove(&id).map(|uid| self.accounts.remove(&uid));
            self.links.retain(|(client, _), _| *client != id);
        }
        let gone = self.leased().into_iter().filter(|id| !vms.contains_key(id));
        let gone = gone.map(|id| (id, self.uids.get(&id).copied())).collect();
        let catalog = Catalog { kept: self.kept(&vms), vms, gone, mounted: self.mounted };
        self.check_leases(numbers);
        let wrong = catalog.vms.values().any(|state| matches!(state, State::Broken | State::Blocked));
        if catalog != self.catalog {
            assert!(numbers.generation > self.generation, "something has changed, and no new generation");
        } else if !wrong {
            // Why one is broken may have changed, which is not modelled.
            assert_eq!(numbers.generation, self.generation, "nothing has changed");
        }
        (self.catalog, self.generation) = (catalog, numbers.generation);
        if tell {
            // Nothing will start what is gone, so it does not stay failed either.
            let exist: BTreeSet<_> = self.catalog.vms.keys().map(|id| id.name).collect();
            let gone: BTreeSet<_> = self.catalog.gone.keys().map(|id| id.name).collect();
            for failed in [&mut self.failed, &mut self.refused] {
                failed.retain(|name| exist.contains(name) || !gone.contains(name));
            }
            self.tell();
        }
        i32::from(wrong)
    }

    /// Those that still run keep what they were.
    fn kept(&self, vms: &BTreeMap<Id, State>) -> BTreeMap<Id, Runnable> {
        let cannot = vms.iter().filter(|(_, state)| matches!(state, State::Broken | State::Blocked));
        let runs = |id: &Id| self.running.get(id.name).is_some_and(|started| started.id == *id);
        let kept = cannot.filter(|(id, _)| runs(id)).filter_map(|(id, _)| {
            let was = self.catalog.was(*id)?;
            (self.uids.get(id) == Some(&was.uid)).then_some((*id, was))
        });
        kept.collect()
    }

    fn scan(&mut self, numbers: &Numbers) -> BTreeMap<Id, State> {
        // In the order of the configuration's tables.
        let declared = self.settings.iter().filter_map(|(id, settings)| Some((*id, settings.uid?)));
        let declared: BTreeMap<_, _> = declared.map(|(id, uid)| (id.to_string(), (id, uid))).collect();
        let mut refused = BTreeSet::new();
        for (id, uid) in declared.into_values() {
            let is_anothers = self.uids.iter().any(|(other, leased)| *other != id && *leased == uid);
            let runs = self.running.values().any(|started| started.id != id && started.uid == uid);
            if is_anothers || runs {
                refused.insert(id);
            } else {
                self.uids.insert(id, uid);
            }
        }
        let mut vms = BTreeMap::new();
        for name in NAMES {
            let mut is_taken = false;
            for source in SOURCES {
                let id = Id { source, name };
                let is_away = source == Source::Later && !self.mounted;
                let was = self.catalog.vms.get(&id).cloned();
                let state = match (is_away, was, self.files.get(&id).cloned()) {
                    (true, None, _) | (false, _, None) => continue,
                    _ if is_taken => State::Shadowed,
                    (true, Some(_), _) => State::Unavailable(self.catalog.was(id)),
                    (false, _, Some(definition)) => self.plan(id, &definition, &refused, numbers),
                };
                is_taken = true;
                vms.insert(id, state);
            }
        }
        block(&mut vms);
        // Only what can run has leases.
        for (id, state) in &vms {
            let State::Runnable(runnable) = state else { continue };
            assert_ne!(runnable.uid, 0, "no user id for {id}");
            self.uids.insert(*id, runnable.uid);
            for (provider, link) in &runnable.package.links {
                assert_ne!(link, "", "no link id for {id} to {provider}");
                self.links.insert((*id, *provider), link.clone());
            }
        }
        vms
    }

    fn plan(&self, id: Id, definition: &Definition, refused: &BTreeSet<Id>, numbers: &Numbers) -> State {
        if definition.broken {
            return State::Broken;
        }
        let lease = |provider: &Name| {
            let leased =
                || numbers.links.get(&id.to_string()).and_then(|links| links.get(*provider)).cloned();
            (*provider, self.links.get(&(id, provider)).cloned().or_else(leased).unwrap_or_default())
        };
        let links = definition.providers.iter().map(lease).collect();
        if refused.contains(&id) {
            return State::Broken;
        }
        let leased = || numbers.uids.get(&id.to_string());
        let uid = self.uids.get(&id).or_else(leased).copied().unwrap_or_default();
        let settings = self.settings.get(&id).cloned().unwrap_or_default();
        State::Runnable(Runnable {
            uid,
            package: Package { id, kernel: definition.kernel, more_memory: settings.more_memory, links },
            autostart: settings.autostart,
            restart_if_changed: settings.restart_if_changed,
            kernel: definition.kernel,
            image: definition.image,
        })
    }

    /// What the host has leased is what it should, and was never another's meanwhile.
    fn check_leases(&self, numbers: &Numbers) {
        let uids: BTreeMap<_, _> = self.uids.iter().map(|(id, uid)| (id.to_string(), *uid)).collect();
        assert_eq!(numbers.uids, uids, "user ids");
        let mut links: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for ((id, provider), link) in &self.links {
            links.entry(id.to_string()).or_default().insert((*provider).to_owned(), link.clone());
        }
        assert_eq!(numbers.links, links, "link ids");
        let different: BTreeSet<_> = self.uids.values().collect();
        assert_eq!(different.len(), self.uids.len(), "two have the same user id: {:?}", self.uids);
        let different: BTreeSet<_> = self.links.values().collect();
        assert_eq!(different.len(), self.links.len(), "two have the same link id: {:?}", self.links);
        for started in self.running.values() {
            let other = self.uids.iter().find(|(id, uid)| **uid == started.uid && **id != started.id);
            assert_eq!(other, None, "{} runs with the user id {}", started.id, started.uid);
        }
    }

    pub fn leased(&self) -> BTreeSet<Id> {
        self.uids.keys().copied().chain(self.links.keys().map(|(id, _)| *id)).collect()
    }

    fn tell(&mut self) {
        self.accounts.extend(self.catalog.runnable().map(|(_, runnable)| runnable.uid));
        self.reload();
        let catalog = self.catalog.clone();
        let ran = self.running.clone();
        for (name, started) in &ran {
            if !catalog.vms.contains_key(&started.id) {
                self.running.remove(name);
            }
        }
        let autostart = catalog.runnable().filter(|(_, runnable)| runnable.autostart);
        let autostart: BTreeSet<_> = autostart.map(|(id, _)| id.name).collect();
        for name in autostart.difference(&std::mem::replace(&mut self.asked, autostart.clone())) {
            self.start_unit(name);
        }
        for (name, started) in &ran {
            let now = catalog.runnable().find(|(id, _)| *id == started.id);
            if now.is_some_and(|(_, now)| now.restart_if_changed) && !self.stale(started).is_empty() {
                self.running.remove(name);
                self.start_unit(name);
            }
        }
    }

    /// `systemctl daemon-reload`
    pub fn reload(&mut self) {
        let drop_ins = self.catalog.vms.keys().filter_map(|id| {
            let runnable = self.catalog.was(*id)?;
            Some((id.name, drop_in(*id, &runnable)))
        });
        let autostart = self.catalog.runnable().filter(|(_, runnable)| runnable.autostart);
        self.known =
            Known { drop_ins: drop_ins.collect(), autostart: autostart.map(|(id, _)| id.name).collect() };
    }

    /// `start`
    pub fn start(&mut self, name: Name) -> i32 {
        if !self.is_usable(name) {
            return 1;
        }
        self.start_usable(name)
    }

    fn start_usable(&mut self, name: Name) -> i32 {
        self.forget_failure(name);
        if self.start_unit(name) == Start::Runs { 0 } else { 3 }
    }

    /// `stop`
    pub fn stop(&mut self, name: Name) -> i32 {
        if !self.is_usable(name) {
            return 1;
        }
        self.running.remove(name);
        0
    }

    /// `restart`
    pub fn restart(&mut self, name: Name) -> i32 {
        if !self.is_usable(name) {
            return 1;
        }
        self.running.remove(name);
        self.start_usable(name)
    }

    /// `forget`
    pub fn forget(&mut self, id: Id) -> i32 {
        let runs = self.running.get(id.name).is_some_and(|started| started.id == id);
        if !self.leased().contains(&id) || self.catalog.vms.contains_key(&id) || runs {
            return 1;
        }
        if !self.catalog.vms.keys().any(|other| other.name == id.name) {
            self.forget_failure(id.name);
        }
        if let Some(uid) = self.uids.remove(&id) {
            self.accounts.remove(&uid);
        }
        self.links.retain(|(client, _), _| *client != id);
        // What it left behind is counted no more.
        self.ran.remove(&id);
        0
    }

    /// `systemctl reset-failed`
    pub fn reset_failed(&mut self) {
        self.failed.clear();
        self.refused.clear();
    }

    fn forget_failure(&mut self, name: Name) {
        self.failed.remove(name);
        self.refused.remove(name);
    }

    /// Whether a VM's name may be given to `start` and `stop`.
    fn is_usable(&self, name: Name) -> bool {
        let can_run = self.catalog.runnable().any(|(id, _)| id.name == name);
        can_run || self.running.contains_key(name)
    }

    /// systemd starts a unit, and those that it wants.
    fn start_unit(&mut self, name: Name) -> Start {
        let known = self.known.drop_ins.get(name).cloned();
        for provider in known.iter().flat_map(|(.., providers)| providers) {
            self.start_unit(provider);
        }
        if self.running.contains_key(name) {
            return Start::Runs;
        }
        let Some((id, now)) = self.catalog.runnable().find(|(id, _)| id.name == name) else {
            return Start::Skipped;
        };
        let (id, now) = (id, now.clone());
        // It never starts as another user, or with other providers than it has now; what has
        // changed in others does not matter.
        if known != Some(drop_in(id, &now)) {
            self.refused.insert(name);
            return Start::Fails;
        }
        self.forget_failure(name);
        let can_start = self.accounts.contains(&now.uid) && (id.source != Source::Later || self.mounted);
        let Some(definition) = self.files.get(&id).filter(|definition| !definition.broken && can_start)
        else {
            self.failed.insert(name);
            return Start::Fails;
        };
        let started = Started {
            id,
            uid: now.uid,
            package: now.package,
            generation: self.generation,
            kernel: definition.kernel,
            image: definition.image,
            invocation: None,
        };
        self.ran.insert(started.id);
        self.running.insert(name, started);
        Start::Runs
    }

    // --- What must be true.

    fn stale(&self, started: &Started) -> Vec<String> {
        let found = self.catalog.of_name(started.id.name);
        let Some((id, state)) = found else { return Vec::new() };
        if id != started.id {
            return vec![format!("{id} has taken its name")];
        }
        let State::Runnable(now) = state else { return Vec::new() };
        let mut why = Vec::new();
        if now.package != started.package {
            why.push("its definition or its settings have changed".to_owned());
        }
        if now.uid != started.uid {
            why.push(format!("its user id is {} now", now.uid));
        }
        if self.generation != started.generation {
            if now.kernel != started.kernel {
                why.push("vmlinux has changed".to_owned());
            }
            if now.image != started.image {
                why.push("blk/root.img has changed".to_owned());
            }
        }
        why
    }

    /// Everything that can be seen of the host; `packages` has the packages' names.
    pub fn facts(&self, packages: &BTreeMap<Package, String>) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        let uid = |uid: Option<u32>| uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
        let mut row = |id: String, state: &str, stale: &[String], user: Option<u32>, autostart: bool| {
            let text = format!("{state}, user {}, autostart {autostart}, stale {stale:?}", uid(user));
            facts.insert(format!("list: {id}"), text);
        };
        for (id, state) in &self.catalog.vms {
            let started = self.running.get(id.name).filter(|_| !matches!(state, State::Shadowed));
            let stale = started.map(|started| self.stale(started)).unwrap_or_default();
            let (alone, user, autostart) = match state {
                State::Runnable(now) => {
                    let failed = self.failed.contains(id.name) || self.refused.contains(id.name);
                    let alone = if failed { "failed" } else { "stopped" };
                    (alone, Some(now.uid), now.autostart)
                }
                State::Broken => ("broken", None, false),
                State::Blocked => ("blocked", None, false),
                State::Unavailable(last) => ("unavailable", last.as_ref().map(|last| last.uid), false),
                State::Shadowed => ("shadowed", None, false),
            };
            row(id.to_string(), started.map_or(alone, |_| "running"), &stale, user, autostart);
        }
        for name in self.running.keys().filter(|name| !self.catalog.vms.keys().any(|id| id.name == **name)) {
            row(format!("-/{name}"), "running", &[], None, false);
        }
        // Who was forgotten since the last sync is gone at once.
        let leased = self.leased();
        for (id, user) in self.catalog.gone.iter().filter(|(id, _)| leased.contains(id)) {
            row(id.to_string(), "removed", &[], *user, false);
        }
        for (name, started) in &self.running {
            let package = packages.get(&started.package).map_or("-", String::as_str);
            facts.insert(format!("unit: {name}"), format!("active, user {}", started.uid));
            facts.insert(format!("booted: {name}"), package.to_owned());
            facts.insert(format!("started: {name}"), format!("{}, user {}", started.id, started.uid));
        }
        for name in self.failed.iter() {
            facts.insert(format!("unit: {name}"), "failed".to_owned());
        }
        for (id, now) in self.catalog.runnable() {
            let package = packages.get(&now.package).map_or("-", String::as_str);
            facts.insert(format!("current: {}", id.name), package.to_owned());
        }
        for (name, (_, user, providers)) in &self.known.drop_ins {
            let text = format!("user {user}, {providers:?}");
            facts.insert(format!("drop-in: {name}"), text);
        }
        for name in &self.known.autostart {
            facts.insert(format!("wanted: {name}"), String::new());
        }
        facts
    }
}

impl Catalog {
    pub fn runnable(&self) -> impl Iterator<Item = (Id, &Runnable)> {
        self.vms.iter().filter_map(|(id, state)| match state {
            State::Runnable(runnable) => Some((*id, runnable)),
            _ => None,
        })
    }

    /// What a VM was when it could run.
    fn was(&self, id: Id) -> Option<Runnable> {
        match self.vms.get(&id)? {
            State::Runnable(now) => Some(now.clone()),
            State::Unavailable(last) => last.clone(),
            _ => self.kept.get(&id).cloned(),
        }
    }

    fn of_name(&self, name: Name) -> Option<(Id, &State)> {
        let named = self.vms.iter().find(|(id, state)| id.name == name && !matches!(state, State::Shadowed));
        named.map(|(id, state)| (*id, state))
    }
}

fn drop_in(id: Id, runnable: &Runnable) -> DropIn {
    (id, runnable.uid, runnable.package.links.iter().map(|(provider, _)| *provider).collect())
}

/// No VM runs whose providers do not, or are of a later source, or that would need itself.
fn block(vms: &mut BTreeMap<Id, State>) {
    let mut runs: BTreeMap<Name, Source> = BTreeMap::new();
    loop {
        let more = vms.iter().filter_map(|(id, state)| match state {
            State::Runnable(now) => {
                let may = |provider: &Name| runs.get(provider).is_some_and(|source| *source <= id.source);
                let all = now.package.links.iter().all(|(provider, _)| may(provider));
                (all && !runs.contains_key(id.name)).then_some((id.name, id.source))
            }
            _ => None,
        });
        let more: Vec<_> = more.collect();
        if more.is_empty() {
            break;
        }
        runs.extend(more);
    }
    for (id, state) in vms {
        if matches!(state, State::Runnable(_)) && !runs.contains_key(id.name) {
            *state = State::Blocked;
        }
    }
}
