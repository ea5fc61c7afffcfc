// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What this program writes when systemd calls it as a generator
//! (`systemd.generator(7)`): the drop-ins of the catalog's VMs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::network;
use super::{DROP_IN, GENERATED, UnitPathError, UnitPaths, sources};
use crate::base::name::VmName;
use crate::base::template::Data;
use crate::plan::uplink::PortForward;
use crate::state::catalog::{Catalog, CatalogError, CatalogVm, Runnable, VmState};
use crate::state::directory::StateDirectory;
use crate::system::durable;
use crate::system::trust::{self, Untrusted};

/// The template of `microvm@`'s drop-in.
const TEMPLATE: &str = include_str!("templates/drop-in.conf.hbs");
/// The template of `microvm-tap-interfaces@`'s drop-in, the same for all VMs.
const TAPS_TEMPLATE: &str = include_str!("templates/drop-in-taps.conf.hbs");
/// The template of `microvm-uplink@`'s drop-in.
const UPLINK_TEMPLATE: &str = include_str!("templates/drop-in-uplink.conf.hbs");
/// What the drop-in of `microvm@` has besides where a cluster manages VMs.
const CLUSTER_TEMPLATE: &str = include_str!("templates/drop-in-cluster.conf.hbs");
/// The last line of `microvm@`'s drop-in.
const KEY_TEMPLATE: &str = "# It starts only as long as the catalog gives it the same key: {{key}}\n";
/// The drop-in of Pacemaker.
const PACEMAKER: &str = include_str!("templates/drop-in-pacemaker.conf");
/// The target for the VMs that start with the host.
pub const TARGET: &str = "microvms.target";
/// The directory of links to the units that it starts.
const TARGET_WANTS: &str = "microvms.target.wants";

/// The file there that holds the generation of the catalog; systemd reads no unit from
/// a file of this name.
const GENERATION: &str = ".microvm-spectrum-generation";

/// The generation of the catalog that systemd has read, if any.
pub fn generation_of_systemd() -> Option<u64> {
    std::fs::read_to_string(Path::new(GENERATED).join(GENERATION)).ok()?.trim_end().parse().ok()
}

/// The VMs that systemd starts with the host, by the catalog that it has read.
pub fn autostarted() -> BTreeSet<VmName> {
    let wants = std::fs::read_dir(Path::new(GENERATED).join(TARGET_WANTS));
    let names = wants.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        VmName::new(name.to_str()?.strip_prefix("microvm@")?.strip_suffix(".service")?).ok()
    });
    names.collect()
}

/// Why there are no drop-ins.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A user other than root could have written the catalog.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The catalog cannot be used.
    #[error("{} {error}", .path.display())]
    Catalog {
        /// The catalog.
        path: PathBuf,
        /// What is wrong with it.
        error: CatalogError,
    },
    /// A path cannot be part of a unit file.
    #[error(transparent)]
    Path(#[from] UnitPathError),
    /// They cannot be written.
    #[error("{} cannot be written: {error}", .path.display())]
    Io {
        /// Their directory.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// Writes the drop-ins of all VMs of a state directory into `directory`, for units
/// that call the program at `program`. Writes nothing if there is no catalog, because
/// no VM was ever installed or the state directory is not mounted yet.
///
/// # Errors
/// See [`GenerateError`].
pub fn generate(state: &StateDirectory, program: &Path, directory: &Path) -> Result<(), GenerateError> {
    let path = match trust::resolve(&state.catalog()) {
        Err(Untrusted::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        path => path?,
    };
    let catalog = Catalog::read(&path).map_err(|error| GenerateError::Catalog { path, error })?;
    let paths = UnitPaths::new(program, state.root())?;
    write_drop_ins(&paths, &catalog, directory)
        .map_err(|error| GenerateError::Io { path: directory.to_owned(), error })
}

/// Writes the drop-ins of a catalog's VMs into the directory of a generator, the links
/// by which [`TARGET`] starts those that start with the host, and last the generation.
///
/// It syncs nothing: the directory is in memory, and systemd empties it before.
fn write_drop_ins(paths: &UnitPaths, catalog: &Catalog, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let output = durable::open_directory(directory)?;
    let wants = Path::new(TARGET_WANTS);
    let network_namespace = network::is_used().then_some(network::PATH);
    let clusters = of_cluster(catalog);
    let keys = Keys::default();
    if !clusters.is_empty() {
        let pacemaker = Path::new("pacemaker.service.d");
        make_directory(&output, pacemaker)?;
        std::fs::write(directory.join(pacemaker).join(DROP_IN), PACEMAKER)?;
    }
    let mut taps: Option<PathBuf> = None;
    for (vm, runnable) in catalog.known() {
        let vms = drop_in_data(vm, runnable, &clusters);
        let data = DropIn { key: keys.of(&vms), vm: vms, network_namespace, paths };
        let cluster = data.vm.get("cluster").map(|_| CLUSTER_TEMPLATE);
        let data = Data::new(&data);
        let place = |unit: &str| {
            let directory = PathBuf::from(format!("{unit}@{}.service.d", vm.name));
            make_directory(&output, &directory)?;
            Ok::<_, io::Error>(directory.join(DROP_IN))
        };
        let write = |path: &Path, text: &str| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o666);
            File::from(rustix::fs::openat(&output, path, flags, mode)?).write_all(text.as_bytes())
        };
        if network_namespace.is_some() {
            let path = place("microvm-tap-interfaces")?;
            match &taps {
                // A hard link: systemd takes no drop-in from a relative symbolic link.
                Some(first) => rustix::fs::linkat(&output, first, &output, path, AtFlags::empty())?,
                None => {
                    write(&path, &data.fill(TAPS_TEMPLATE))?;
                    taps = Some(path);
                }
            }
        }
        if runnable.uplink.is_some() {
            write(&place("microvm-uplink")?, &data.fill(UPLINK_TEMPLATE))?;
        }
        // Last, with its key at the end: a VM whose drop-ins are incomplete does not start.
        let cluster = cluster.map(|it| data.fill(it)).unwrap_or_default();
        write(&place("microvm")?, &[data.fill(TEMPLATE), cluster, data.fill(KEY_TEMPLATE)].concat())?;
        if runnable.autostart && matches!(vm.state, VmState::Runnable(_)) {
            make_directory(&output, wants)?;
            let link = wants.join(format!("microvm@{}.service", vm.name));
            rustix::fs::symlinkat("../microvm@.service", &output, link)?;
        }
    }
    sources::write(catalog, directory)?;
    std::fs::write(directory.join(GENERATION), format!("{}\n", catalog.generation))
}

/// Creates a directory, which may exist.
fn make_directory(parent: &OwnedFd, path: &Path) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, path, Mode::from_raw_mode(0o777)) {
        Err(error) if error != Errno::EXIST => Err(error.into()),
        _ => Ok(()),
    }
}

/// What is filled into the templates of a VM's drop-ins.
#[derive(Serialize)]
struct DropIn<'a> {
    #[serde(flatten)]
    vm: Value,
    key: String,
    network_namespace: Option<&'a str>,
    #[serde(flatten)]
    paths: &'a UnitPaths,
}

/// The VMs that the cluster manages.
fn of_cluster(catalog: &Catalog) -> BTreeSet<&VmName> {
    catalog.known().filter(|(_, runnable)| runnable.cluster).map(|(vm, _)| &vm.name).collect()
}

/// What the drop-ins of a VM say of it; `clusters` are the VMs that the cluster manages.
fn drop_in_data(vm: &CatalogVm, runnable: &Runnable, clusters: &BTreeSet<&VmName>) -> Value {
    let providers = runnable.links.iter().map(|link| &link.provider);
    // Here the cluster alone starts its VMs.
    let (of_cluster, providers): (Vec<_>, Vec<_>) = providers.partition(|name| clusters.contains(name));
    let session = runnable.wayland.and_then(|wayland| {
        let user = wayland.user?;
        Some(json!({"uid": user, "without_security_context": wayland.without_security_context}))
    });
    let uplink = runnable.uplink.as_ref().map(|uplink| {
        let loopback = uplink.ports.iter().any(|port| port.address.is_loopback());
        json!({"loopback": loopback, "privileged": uplink.ports.iter().any(PortForward::is_privileged)})
    });
    let mut data = json!({
        "name": vm.name,
        "source": vm.source,
        "uid": runnable.uid,
        "providers": providers,
        "devices": !runnable.devices.is_empty(),
        "session": session,
        "uplink": uplink,
    });
    if runnable.cluster || !of_cluster.is_empty() {
        let cluster = json!({"manages": runnable.cluster, "providers": of_cluster});
        data.as_object_mut().map(|data| data.insert("cluster".to_owned(), cluster));
    }
    data
}

/// Makes words that differ when the drop-ins of VMs do.
struct Keys(Sha256);

impl Default for Keys {
    fn default() -> Self {
        let mut templates = Sha256::new();
        for template in [TEMPLATE, TAPS_TEMPLATE, UPLINK_TEMPLATE] {
            templates.update(template);
        }
        Self(templates)
    }
}

impl Keys {
    /// The word for a VM: hexadecimal digits.
    fn of(&self, data: &Value) -> String {
        let mut digest = self.0.clone();
        digest.update(data.get("cluster").map_or("", |_| CLUSTER_TEMPLATE));
        digest.update(data.to_string());
        digest.finalize().iter().take(16).fold(String::new(), |mut word, byte| {
            let _ = write!(word, "{byte:02x}");
            word
        })
    }
}

/// The drop-in of a VM that systemd has read, if there is one.
///
/// # Errors
/// When it cannot be read.
pub fn drop_in_of_systemd(name: &VmName) -> io::Result<Option<String>> {
    let directory = Path::new(GENERATED).join(format!("microvm@{name}.service.d"));
    durable::if_present(std::fs::read_to_string(directory.join(DROP_IN)))
}

/// Whether a VM can run, and this drop-in has the key that the catalog gives it now, in its last line.
///
/// It concerns this VM alone: whatever changes in others, it can start.
pub fn is_current(catalog: &Catalog, name: &VmName, drop_in: &str) -> bool {
    let clusters = of_cluster(catalog);
    let is = |vm, now| {
        let key = Keys::default().of(&drop_in_data(vm, now, &clusters));
        drop_in.strip_suffix('\n').is_some_and(|text| text.ends_with(&key))
    };
    catalog.runnable().any(|(vm, now)| vm.name == *name && is(vm, now))
}
