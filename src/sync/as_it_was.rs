// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whether everything is as it was when a round changed nothing: then the next one has
//! nothing to do but to report the same.
//!
//! It counts only where each VM can run or is shadowed, and its package is in the state
//! directory: then what a round decides depends on nothing but what is compared here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Surroundings;
use crate::base::problem::{Problem, Problems};
use crate::config::location::Opened;
use crate::config::{AcceleratorChoice, Config, SourceConfig};
use crate::directory::known::{Look, Moment, Notes, Seen, Storage, Tree, note};
use crate::plan::pci::{self, PciAddress};
use crate::plan::{Accelerator, HypervisorName};
use crate::state::catalog::{Catalog, CatalogVm, VmState};
use crate::state::look::names;
use crate::system::accounts;

/// What a round that changed nothing looked at besides VM directories, and what it reported.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The digest of what it was given.
    given: String,
    sources: Vec<SourceSeen>,
    answers: Answers,
    /// The state directory and its packages.
    tree: Tree,
    problems: Vec<Problem>,
}

/// A source that could be listed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceSeen {
    root: PathBuf,
    real: PathBuf,
    directory: Seen,
    disk: u64,
}

impl SourceSeen {
    fn look(source: &SourceConfig, storage: &mut Storage) -> Option<Self> {
        let Opened { root, real, directory: opened } = source.open().ok()?;
        let directory = Seen::new(&rustix::fs::fstat(&opened).ok()?);
        let disk = storage.of(directory.device(), opened.as_fd())?;
        Some(Self { root, real, directory, disk })
    }
}

/// What the host answered where VMs need it.
#[derive(Debug, Serialize, Deserialize)]
struct Answers {
    accelerator: Option<Accelerator>,
    shows_windows: bool,
    has_vhost_user: bool,
    devices: Vec<PciAddress>,
    /// The user ids of the users whose sessions show windows.
    sessions: BTreeMap<String, Option<u32>>,
}

impl Answers {
    /// What the VMs of a catalog, which can run, need of the host.
    fn of(config: &Config, host: &Surroundings<'_>, catalog: &Catalog) -> Option<Self> {
        let (mut accelerator, mut has_vhost_user) = (None, false);
        let (mut devices, mut sessions) = (Vec::new(), BTreeMap::new());
        for (vm, runnable) in catalog.runnable() {
            let settings = config.settings(&vm.id());
            if runnable.hypervisor == HypervisorName::Qemu
                && settings.accel.and_then(AcceleratorChoice::chosen).is_none()
            {
                accelerator.get_or_insert_with(host.accelerator);
            }
            has_vhost_user |=
                runnable.uplink.is_some() && runnable.hypervisor == HypervisorName::CloudHypervisor;
            devices.extend(&runnable.devices);
            if let (Some(_), Some(user)) = (&runnable.wayland, settings.wayland_user) {
                let uid = accounts::user_id(&user).ok()?;
                sessions.insert(user, uid);
            }
        }
        let shows_windows = catalog.runnable().any(|(_, runnable)| runnable.wayland.is_some());
        Some(Self { accelerator, shows_windows, has_vhost_user, devices, sessions })
    }

    /// Whether the host answers the same.
    fn hold(&self, host: &Surroundings<'_>) -> bool {
        let mut absent = Problems::default();
        pci::check_present(Path::new(pci::SYS), &self.devices, &mut absent);
        absent.count() == 0
            && self.accelerator.is_none_or(|it| it == (host.accelerator)())
            && (!self.shows_windows || (host.shows_windows)().is_ok())
            && (!self.has_vhost_user || (host.has_vhost_user)())
            && self.sessions.iter().all(|(user, uid)| accounts::user_id(user).is_ok_and(|now| now == *uid))
    }
}

/// What the record of a round is made of.
pub(super) struct Ended<'a> {
    pub config: &'a Config,
    pub host: &'a Surroundings<'a>,
    pub catalog: &'a Catalog,
    pub problems: &'a Problems,
    /// The paths of all packages in their directory, and of what is looked at in each.
    pub packages: Vec<(&'a str, Vec<PathBuf>)>,
}

impl Record {
    /// What to remember of a round that began at this moment; nothing if that is in doubt.
    pub fn of(ended: &Ended<'_>, moment: &Moment) -> Option<Self> {
        let Ended { config, host, catalog, problems, .. } = ended;
        let can_run = |vm: &CatalogVm| matches!(vm.state, VmState::Runnable(_) | VmState::Shadowed { .. });
        if host.nix_store.is_some() || !catalog.vms.iter().all(can_run) || problems.has_host_errors() {
            return None;
        }
        let mut storage = Storage::default();
        let sources = config.sources.iter().map(|source| {
            let seen = SourceSeen::look(source, &mut storage)?;
            moment.is_settled(seen.directory.changed()).then_some(seen)
        });
        Some(Self {
            given: given(config, host),
            sources: sources.collect::<Option<_>>()?,
            answers: Answers::of(config, host, catalog)?,
            tree: ended.tree(moment)?,
            problems: (*problems).clone().into_sorted(),
        })
    }

    /// What that round reported, if everything is the same.
    pub fn holds(self, config: &Config, host: &Surroundings<'_>) -> Option<Problems> {
        let mut storage = Storage::default();
        let mut looks = config.sources.iter().map(|source| SourceSeen::look(source, &mut storage));
        let are_same = self.sources.iter().all(|was| looks.next().flatten().as_ref() == Some(was));
        let holds = self.given == given(config, host)
            && are_same
            && Look::new(self.tree).all_holds(&[])
            && self.answers.hold(host);
        let mut problems = Problems::default();
        problems.extend(self.problems);
        holds.then_some(problems)
    }
}

impl Ended<'_> {
    /// The state directory, if nothing in it is left to do: all folders of VMs, the leases, the
    /// current generation and the packages, and with units the accounts.
    fn tree(&self, moment: &Moment) -> Option<Tree> {
        let Self { host: Surroundings { state, for_units, .. }, catalog, packages, .. } = self;
        let mut notes = Notes::new(moment.clone());
        let generation = catalog.generation.to_string();
        let there = |directory: PathBuf| Some(names(&directory).ok()?.into_iter().collect::<BTreeSet<_>>());
        let all: BTreeSet<_> = packages.iter().map(|(name, _)| (*name).to_owned()).collect();
        let needed: BTreeSet<_> =
            catalog.runnable().filter_map(|(_, now)| Some(now.package.name()?.to_owned())).collect();
        let is_clean = catalog.runnable().all(|(vm, _)| !state.vm(&vm.name).is_symlink())
            && there(state.packages())? == all
            && all == needed
            && needed.len() == catalog.runnable().count()
            && there(state.generations())? == BTreeSet::from([generation]);
        if !is_clean {
            return None;
        }
        let current = state.generation(catalog.generation);
        let own = [
            state.current_generation(),
            state.leases(),
            state.generations(),
            current.join("catalog.json"),
            current.join("vms"),
            current,
        ];
        let own = own.iter().map(|path| path.strip_prefix(state.root()).map(Path::to_owned).ok());
        // Its own directory changes with what is remembered.
        let folders = names(state.root()).ok()?.into_iter().map(PathBuf::from);
        let folders = folders.filter(|folder| Some(folder.as_os_str()) != state.own().file_name());
        let paths = own.chain(folders.map(Some)).collect::<Option<Vec<_>>>()?;
        note(&mut notes, state.root(), paths)?;
        let within = packages.iter().flat_map(|(_, paths)| paths);
        note(&mut notes, &state.packages(), within)?;
        if *for_units {
            let nothing: [&Path; 0] = [];
            note(&mut notes, Path::new(accounts::DIRECTORY), nothing)?;
        }
        Some(notes.take_tree())
    }
}

/// The digest of what a round is given, besides files.
fn given(config: &Config, host: &Surroundings<'_>) -> String {
    let Surroundings { state, architecture, tools, for_units, nix_store, .. } = host;
    let processors = std::thread::available_parallelism().ok();
    let uid = rustix::process::geteuid().as_raw();
    let real = state.root().canonicalize().ok();
    let given = (config, state, real, architecture, tools, for_units, nix_store, processors, uid);
    let mut digest = Digesting(Sha256::new());
    let _ = write!(digest, "{given:?}");
    digest.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Digesting(Sha256);

impl std::fmt::Write for Digesting {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

/// What is looked at in a package of these files and directories: its manifest, which says
/// all, and each directory that files or links are in.
pub(super) fn within(package: &str, paths: &[String]) -> Vec<PathBuf> {
    let parents: BTreeSet<_> = paths.iter().filter_map(|path| Path::new(path).parent()).collect();
    let paths = paths.iter().map(Path::new);
    let directories =
        paths.filter_map(|path| if parents.contains(path) { Some(path) } else { path.parent() });
    let looked_at: BTreeSet<_> = directories.collect();
    let manifest = std::iter::once(Path::new(crate::package::MANIFEST));
    manifest.chain(looked_at).map(|path| Path::new(package).join(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::architecture::Architecture;
    use crate::state::directory::StateDirectory;

    #[test]
    fn another_answer_of_the_host_is_noticed() {
        let holds = |answers: &Answers, accelerator: Accelerator, windows: bool, vhost_user: bool| {
            let host = Surroundings {
                state: &StateDirectory::at(Path::new("/nowhere")),
                architecture: Architecture::X86_64,
                tools: &BTreeMap::new(),
                accelerator: &|| accelerator,
                shows_windows: &|| if windows { Ok(()) } else { Err("no".to_owned()) },
                has_vhost_user: &|| vhost_user,
                for_units: false,
                nix_store: None,
                progress: &|_, _| (),
            };
            answers.hold(&host)
        };
        let none = || Answers {
            accelerator: None,
            shows_windows: false,
            has_vhost_user: false,
            devices: Vec::new(),
            sessions: BTreeMap::new(),
        };
        let session = |user: &str, uid| BTreeMap::from([(user.to_owned(), uid)]);
        let all = Answers {
            accelerator: Some(Accelerator::Kvm),
            shows_windows: true,
            has_vhost_user: true,
            sessions: session("root", Some(0)),
            ..none()
        };
        assert!(holds(&all, Accelerator::Kvm, true, true));
        assert!(!holds(&all, Accelerator::Tcg, true, true));
        assert!(!holds(&all, Accelerator::Kvm, false, true));
        assert!(!holds(&all, Accelerator::Kvm, true, false));
        // What no VM needs may change.
        assert!(holds(&none(), Accelerator::Tcg, false, false));
        for (name, uid, same) in [("root", Some(1), false), ("root", None, false), ("no user", None, true)] {
            let answers = Answers { sessions: session(name, uid), ..none() };
            assert_eq!(holds(&answers, Accelerator::Tcg, false, false), same, "{name} {uid:?}");
        }
        let gone = Answers { devices: vec!["ffff:ff:1f.7".parse().unwrap()], ..none() };
        assert!(!holds(&gone, Accelerator::Tcg, false, false));
    }
}
