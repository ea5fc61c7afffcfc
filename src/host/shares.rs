// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Serving a VM's shared directories, as root, for the VM's user.
//!
//! The sockets are in a directory of root's own, each for that user alone.

use std::path::{Path, PathBuf};

use super::{HostError, become_script, io_error, trust, trusted_package, vm_user};
use crate::base::name::VmName;
use crate::base::problem::{Problem, Problems};
use crate::base::tool::{self, Tool};
use crate::package::{self, LoadError, MANIFEST};
use crate::state::directory::StateDirectory;
use crate::supervisor::virtiofsd::{self, OpenShare, Privileges};
use crate::supervisor::{self, Again, Outcome, Serving};

/// Serves the shared directories of a VM in the working directory, until a
/// signal comes; they are mounted there, in this process' own mount namespace.
///
/// A package of microvm.nix brings its own `bin/virtiofsd-run`, which this
/// process becomes; one of the older convention only names directories and
/// sockets in `share/microvm/virtiofs`.
///
/// # Errors
/// See [`HostError`]; else how serving ended.
pub fn serve_shares(state: &StateDirectory, name: &VmName) -> Result<Outcome, HostError> {
    let package = trusted_package(state, name)?;
    let prepare = || {
        virtiofsd::mount_whole_proc(Path::new("proc.mount"))
            .map_err(io_error("/proc cannot be mounted again"))
    };
    let privileges = Privileges { client: Some(vm_user()?), mounts: Some(PathBuf::from(".")) };
    let served = if package.join(MANIFEST).exists() {
        let plan =
            package::load(&package).map_err(|error: LoadError| HostError::Package(error.to_string()))?;
        let program = plan.tool(Tool::Virtiofsd).map(PathBuf::from).unwrap_or_default();
        let serving = Serving { name, program, privileges };
        let open = |wanted: &dyn Fn(&str) -> bool| {
            virtiofsd::open_unserved(&plan, wanted, std::time::Duration::ZERO)
        };
        prepare()?;
        supervisor::serve(&serving, &open, &Again::Always)
    } else if package.join("bin/virtiofsd-run").exists() {
        return Err(become_script(&trust::resolve(&package.join("bin/virtiofsd-run"))?, &[]));
    } else {
        let shares = shares_of_files(&package)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = tool::find_all(&Default::default(), &path)
            .remove(&Tool::Virtiofsd)
            .ok_or_else(|| HostError::Package("there is no virtiofsd in PATH".to_owned()))?;
        let serving = Serving { name, program, privileges };
        let open = |wanted: &dyn Fn(&str) -> bool| open_files(&shares, wanted);
        prepare()?;
        supervisor::serve(&serving, &open, &Again::Always)
    };
    Ok(served.unwrap_or_else(|outcome| outcome))
}

/// A share of the older convention.
struct ShareFile {
    tag: String,
    source: PathBuf,
    socket: String,
}

fn shares_of_files(package: &Path) -> Result<Vec<ShareFile>, HostError> {
    let directory = package.join("share/microvm/virtiofs");
    let read = |path: PathBuf| {
        let told = io_error(format!("{} cannot be read", path.display()));
        std::fs::read_to_string(path).map(|text| text.trim_end_matches('\n').to_owned()).map_err(told)
    };
    let entries = std::fs::read_dir(&directory).map_err(io_error(format!("{}", directory.display())))?;
    let mut shares = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error(format!("{}", directory.display())))?;
        let tag = entry.file_name().to_string_lossy().into_owned();
        let source = PathBuf::from(read(entry.path().join("source"))?);
        let socket = read(entry.path().join("socket"))?;
        if socket.is_empty() || socket.contains('/') || socket.starts_with('.') {
            return Err(HostError::Package(format!(
                "the socket '{socket}' of the share '{tag}' is no plain name"
            )));
        }
        shares.push(ShareFile { tag, source, socket });
    }
    shares.sort_by(|a, b| a.tag.cmp(&b.tag));
    Ok(shares)
}

fn open_files(shares: &[ShareFile], wanted: &dyn Fn(&str) -> bool) -> Result<Vec<OpenShare>, Problems> {
    let (mut open, mut problems) = (Vec::new(), Problems::default());
    for ShareFile { tag, source, socket } in shares.iter().filter(|share| wanted(&share.tag)) {
        match OpenShare::of_administrator(tag, socket, source) {
            Ok(share) => open.push(share),
            Err(error) => problems.push(Problem::error(
                source,
                format!("cannot be shared as '{tag}': {error}"),
                "make it a directory",
            )),
        }
    }
    if problems.has_errors() { Err(problems) } else { Ok(open) }
}
