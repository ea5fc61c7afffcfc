// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The virtio-fs servers of a VM's shared directories, one virtiofsd each.
//!
//! A server's socket is bound and listening before virtiofsd starts and is
//! inherited by it, and the directory that it serves is its working directory,
//! entered through the descriptor that the walk of the link ended at. So there
//! is no moment at which a socket is missing or a path could be swapped.
//! Options: virtiofsd's README, versions 1.13 and later.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FileType;

use crate::boundary::Resolved;
use crate::definition::Exposure;
use crate::manifest::{Plan, SharePlan};
use crate::problem::{Problem, Problems};
use crate::process::{Identity, Process};
use crate::runtime::{is_bound, remove_socket};
use crate::tool::Tool;

/// The descriptor number at which virtiofsd finds its socket.
const SOCKET_FD: i32 = 3;
/// Whom root serves the directories of root as: the kernel's "nobody" (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;
/// How often to look whether a server is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// virtiofsd's own limit of open files.
const MAX_OPEN_FILES: u64 = 1_000_000;
/// All user ids there are, as a count.
const ALL_IDS: u32 = u32::MAX;

/// A shared directory, resolved anew.
#[derive(Debug)]
pub struct OpenShare<'a> {
    /// The share.
    pub share: &'a SharePlan,
    directory: Resolved,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// The share's tag.
    pub tag: String,
    /// virtiofsd.
    pub process: Process,
    socket: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill();
        remove_socket(&self.socket);
    }
}

/// Follows the links of those shares that are `wanted`, by their tags, and that
/// nobody serves here yet.
///
/// A server counts only if it is still there after `patience`: one that was
/// just killed keeps its socket for a moment.
///
/// # Errors
/// Every share whose link does not lead to a directory that may be shared.
pub fn open_unserved<'a>(
    plan: &'a Plan,
    wanted: impl Fn(&str) -> bool,
    patience: Duration,
) -> Result<Vec<OpenShare<'a>>, Problems> {
    let mut problems = Problems::default();
    let mut open = Vec::new();
    let deadline = Instant::now() + patience;
    let is_served = |share: &SharePlan| loop {
        match is_bound(&share.socket) {
            true if Instant::now() < deadline => std::thread::sleep(LOOK_INTERVAL),
            served => break served,
        }
    };
    let exposure = exposure(plan);
    for share in plan.shares.iter().filter(|share| wanted(&share.tag) && !is_served(share)) {
        match open_share(plan, share, &exposure) {
            Ok(directory) => open.push(OpenShare { share, directory }),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.has_errors() { Err(problems) } else { Ok(open) }
}

/// What none of the VM's shares may give its guest.
fn exposure(plan: &Plan) -> Exposure {
    let entries = plan.images.iter().map(|image| &image.entry);
    let entries: Vec<_> = entries.chain(plan.shares.iter().map(|s| &s.entry)).map(PathBuf::from).collect();
    Exposure::of(&plan.definition.boundary, &plan.definition.directory, &entries)
}

fn open_share(plan: &Plan, share: &SharePlan, exposure: &Exposure) -> Result<Resolved, Problem> {
    let boundary = &plan.definition.boundary;
    let relative = plan.relative(&share.entry);
    let shown = boundary.user_partition.join(&relative);
    let found = boundary.resolve(&relative).map_err(|e| e.problem(&shown))?;
    if found.file_type() != FileType::Directory {
        return Err(Problem::error(
            &shown,
            "does not lead to a directory",
            "make it lead to the directory to share",
        ));
    }
    exposure.check(&shown, &found)?;
    Ok(found)
}

impl OpenShare<'_> {
    /// Starts virtiofsd for this share; its socket listens when this returns.
    ///
    /// # Errors
    /// The system's error, with what was tried.
    pub fn serve(self, plan: &Plan) -> io::Result<Server> {
        let tag = self.share.tag.clone();
        let socket = self.share.socket.clone();
        let told = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        remove_socket(&socket);
        let listener =
            UnixListener::bind(&socket).map_err(told(&format!("the socket {socket} cannot be made")))?;
        let program =
            plan.tool(Tool::Virtiofsd).ok_or_else(|| io::Error::other("the package names no virtiofsd"))?;
        let identity = identity(&self.directory);
        let user = identity.unwrap_or_else(|| Identity {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
        });
        let mut command = Command::new(program);
        command
            .args(arguments(user))
            // Entered by the child before its descriptors are closed.
            .current_dir(format!("/proc/self/fd/{}", self.directory.fd.as_raw_fd()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let spawned = Process::spawn(command, vec![(OwnedFd::from(listener), SOCKET_FD)], identity);
        match spawned {
            Ok(process) => Ok(Server { tag, process, socket }),
            Err(error) => {
                remove_socket(&socket);
                let what = format!("{} cannot be started as user {}", program.display(), user.user);
                Err(told(&what)(error))
            }
        }
    }
}

/// How many files a server may hold open: what virtiofsd asks for by itself,
/// or less where this process cannot give it, of which it would warn.
fn open_files() -> u64 {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    hard.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES)
}

/// The user whom a server runs as, if it is another than this process'.
///
/// Whoever the guest says it is, files are used and made as one ordinary user of
/// the host: the one who runs the VM or, when that is root, the directory's
/// owner. virtiofsd's own translation of user ids is not enough for that: it
/// changes who owns what is made, not what may be read, written and removed.
fn identity(directory: &Resolved) -> Option<Identity> {
    let ordinary = |id: u32| if id == 0 { NOBODY } else { id };
    let (user, group) = (ordinary(directory.stat.st_uid), ordinary(directory.stat.st_gid));
    rustix::process::geteuid().is_root().then_some(Identity { user, group })
}

/// virtiofsd's arguments, for a server that runs as `user`.
fn arguments(user: Identity) -> Vec<String> {
    // Inside the server's user namespace, its user is root.
    let map = |id: u32| format!(":0:{id}:1:");
    let squash = format!("squash-guest:0:0:{ALL_IDS}");
    vec![
        format!("--fd={SOCKET_FD}"),
        "--shared-dir=.".to_owned(),
        "--sandbox=namespace".to_owned(),
        "--log-level=warn".to_owned(),
        // They take a capability that the server does not have.
        "--inode-file-handles=never".to_owned(),
        format!("--rlimit-nofile={}", open_files()),
        format!("--uid-map={}", map(user.user)),
        format!("--gid-map={}", map(user.group)),
        format!("--translate-uid={squash}"),
        format!("--translate-gid={squash}"),
    ]
}
