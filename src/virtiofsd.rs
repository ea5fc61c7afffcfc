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
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FileType;

use crate::boundary::Resolved;
use crate::definition::exposes_definitions;
use crate::manifest::{Plan, SharePlan};
use crate::problem::{Problem, Problems};
use crate::process::Process;
use crate::runtime::{is_bound, remove_socket};
use crate::tool::Tool;

/// The descriptor number at which virtiofsd finds its socket.
const SOCKET_FD: i32 = 3;
/// Whom root serves the directories of root as, so that a guest's root is
/// never the host's: the kernel's "nobody" (`/proc/sys/kernel/overflowuid`).
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
    for share in plan.shares.iter().filter(|share| wanted(&share.tag) && !is_served(share)) {
        match open_share(plan, share) {
            Ok(directory) => open.push(OpenShare { share, directory }),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.has_errors() { Err(problems) } else { Ok(open) }
}

fn open_share(plan: &Plan, share: &SharePlan) -> Result<Resolved, Problem> {
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
    match exposes_definitions(boundary, &plan.definition.directory, &found) {
        Some(why) => Err(Problem::error(
            &shown,
            format!("leads to {}, {why}: the guest could rewrite VM definitions", found.path.display()),
            "share a directory of its own, apart from the VM directories",
        )),
        None => Ok(found),
    }
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
        let mut command = Command::new(program);
        command
            .args(arguments(
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
                &self.directory,
            ))
            // Entered by the child before its descriptors are closed.
            .current_dir(format!("/proc/self/fd/{}", self.directory.fd.as_raw_fd()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let spawned = Process::spawn(command, vec![(OwnedFd::from(listener), SOCKET_FD)]);
        match spawned {
            Ok(process) => Ok(Server { tag, process, socket }),
            Err(error) => {
                remove_socket(&socket);
                Err(told(&format!("{} cannot be started", program.display()))(error))
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

/// virtiofsd's arguments, for a server that runs as `user` and `group`.
///
/// Whoever the guest says it is, files are used and made as one user of the
/// host: the one who runs the VM, or the directory's owner if root does.
fn arguments(user: u32, group: u32, directory: &Resolved) -> Vec<String> {
    let mut arguments = vec![
        format!("--fd={SOCKET_FD}"),
        "--shared-dir=.".to_owned(),
        "--sandbox=namespace".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--rlimit-nofile={}", open_files()),
    ];
    let mut both = |option: &str, uid: String, gid: String| {
        arguments.push(format!("--{}={uid}", option.replace('*', "uid")));
        arguments.push(format!("--{}={gid}", option.replace('*', "gid")));
    };
    let squash = |id: u32| format!("squash-guest:0:{id}:{ALL_IDS}");
    if user == 0 {
        let owner = |id: u32| if id == 0 { NOBODY } else { id };
        let (uid, gid) = (owner(directory.stat.st_uid), owner(directory.stat.st_gid));
        let show = |id: u32| format!("host:{id}:0:1");
        both("translate-*", squash(uid), squash(gid));
        both("translate-*", show(uid), show(gid));
    } else {
        // Inside the server's user namespace, its user is root.
        let map = |id: u32| format!(":0:{id}:1:");
        both("*-map", map(user), map(group));
        both("translate-*", squash(0), squash(0));
    }
    arguments
}
