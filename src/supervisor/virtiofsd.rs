// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The virtio-fs servers of a VM's shared directories, one virtiofsd each.
//!
//! A server's socket is bound and listening before virtiofsd starts and is
//! inherited by it, and the directory that it serves is its working directory,
//! entered through the descriptor that the walk of the link ended at. So there
//! is no moment at which a socket is missing or a path could be swapped.
//! Options: virtiofsd's README, versions 1.13 and later.

mod mount;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};

use mount::PrivateMount;
pub use mount::mount_whole_proc;

use crate::base::problem::{Problem, Problems};
use crate::directory::boundary::Resolved;
use crate::directory::definition::{Exposure, owner};
use crate::plan::runtime::{is_bound, remove_socket};
use crate::plan::{Plan, SharePlan};
use crate::system::process::{Identity, Process};

/// The descriptor number at which virtiofsd finds its socket.
const SOCKET_FD: i32 = 3;
/// The user that serves root's directories when root starts the server: the
/// kernel's "nobody" (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;
/// How often to look whether a server is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// virtiofsd's own limit of open files.
const MAX_OPEN_FILES: u64 = 1_000_000;
/// All user ids there are, as a count.
const ALL_IDS: u32 = u32::MAX;

/// A shared directory, opened.
#[derive(Debug)]
pub struct OpenShare {
    tag: String,
    socket: String,
    directory: OwnedFd,
    owner: Identity,
    /// The user and the group that own the same in the guest.
    in_guest: Identity,
}

/// What only root can do for a server.
#[derive(Debug, Clone, Default)]
pub struct Privileges {
    /// The user that the sockets are given to.
    pub client: Option<u32>,
    /// Where to mount the shared directories, without set-user-id and devices, for
    /// the servers alone; in a mount namespace of this process.
    pub mounts: Option<PathBuf>,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// The share's tag.
    pub tag: String,
    /// virtiofsd.
    pub process: Process,
    socket: String,
    _mount: Option<PrivateMount>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill();
        remove_socket(&self.socket);
    }
}

/// Follows the links of those shares that are `wanted`, by their tags, and that
/// have no server in this directory yet.
///
/// Waits up to `patience` for a server to end: one that was just killed keeps its
/// socket for a moment.
///
/// # Errors
/// Every share whose link does not lead to a directory that may be shared.
pub fn open_unserved(
    plan: &Plan,
    wanted: &dyn Fn(&str) -> bool,
    patience: Duration,
) -> Result<Vec<OpenShare>, Problems> {
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
            Ok(found) => {
                let in_guest = Identity { user: share.guest_uid, group: share.guest_gid };
                open.push(OpenShare { in_guest, ..OpenShare::new(&share.tag, &share.socket, found) });
            }
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
    owner::check_links(&shown, &found)?;
    Ok(found)
}

impl OpenShare {
    fn new(tag: &str, socket: &str, found: Resolved) -> Self {
        let ordinary = |id: u32| if id == 0 { NOBODY } else { id };
        let owner = Identity { user: ordinary(found.stat.st_uid), group: ordinary(found.stat.st_gid) };
        let in_guest = Identity { user: 0, group: 0 };
        Self { tag: tag.to_owned(), socket: socket.to_owned(), directory: found.fd, owner, in_guest }
    }

    /// Opens a directory that an administrator named; its links are trusted.
    ///
    /// # Errors
    /// When it cannot be opened, or is no directory.
    pub fn of_administrator(tag: &str, socket: &str, source: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(source, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self::new(
            tag,
            socket,
            Resolved { fd, path: source.to_owned(), stat, through: Vec::new(), links: Vec::new() },
        ))
    }

    /// The share's tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Starts the virtiofsd `program` for this share; its socket listens when
    /// this returns.
    ///
    /// # Errors
    /// Which step failed: the mount, the socket, or the start of the program.
    pub fn serve(self, program: &Path, privileges: &Privileges) -> io::Result<Server> {
        let Self { tag, socket, directory, owner, in_guest } = self;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        let mount = privileges.mounts.as_ref().map(|mounts| {
            PrivateMount::of(&directory, mounts.join(format!("{socket}.mount")))
                .map_err(failed(&format!("the directory of the share '{tag}' cannot be mounted")))
        });
        let mount = mount.transpose()?;
        let directory = mount.as_ref().map_or(&directory, |mount| &mount.root);
        remove_socket(&socket);
        let listener =
            UnixListener::bind(&socket).map_err(failed(&format!("the socket {socket} cannot be created")))?;
        if privileges.client.is_some() {
            std::os::unix::fs::lchown(&socket, privileges.client, None)
                .map_err(failed(&format!("the socket {socket} cannot be given away")))?;
        }
        let identity = rustix::process::geteuid().is_root().then_some(owner);
        let user = identity.unwrap_or_else(|| Identity {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
        });
        let mut command = Command::new(program);
        command
            .args(arguments(user, in_guest))
            // Entered by the child before its descriptors are closed.
            .current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let spawned = Process::spawn(command, vec![(OwnedFd::from(listener), SOCKET_FD)], identity);
        match spawned {
            Ok(process) => Ok(Server { tag, process, socket, _mount: mount }),
            Err(error) => {
                remove_socket(&socket);
                let what = format!("{} cannot be started as user {}", program.display(), user.user);
                Err(failed(&what)(error))
            }
        }
    }
}

/// How many files a server may hold open: what virtiofsd asks for by itself, or
/// less where this process cannot give it; virtiofsd would warn of that.
fn open_files() -> u64 {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    hard.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES)
}

/// virtiofsd's arguments, for a server that runs as `user`.
///
/// Whatever user the guest claims to be, files are used and created as one
/// ordinary user of the host: the one that runs the VM or, when that is root, the
/// directory's owner. virtiofsd's own translation of user ids is not enough for
/// that: it changes who owns a new file, not which files may be read, written
/// and removed. It decides whose the user's own files are `in_guest`, where the
/// kernel checks permissions before it asks the server.
fn arguments(user: Identity, in_guest: Identity) -> Vec<String> {
    // Inside the server's user namespace, its user is root.
    let map = |id: u32| format!(":0:{id}:1:");
    let squash = format!("squash-guest:0:0:{ALL_IDS}");
    let mut arguments = vec![
        format!("--fd={SOCKET_FD}"),
        "--shared-dir=.".to_owned(),
        "--sandbox=namespace".to_owned(),
        "--log-level=warn".to_owned(),
        // They need a capability that the server does not have.
        "--inode-file-handles=never".to_owned(),
        format!("--rlimit-nofile={}", open_files()),
        format!("--uid-map={}", map(user.user)),
        format!("--gid-map={}", map(user.group)),
        format!("--translate-uid={squash}"),
        format!("--translate-gid={squash}"),
    ];
    for (kind, id) in [("uid", in_guest.user), ("gid", in_guest.group)] {
        // Root is what the user is there without it.
        if id != 0 {
            arguments.push(format!("--translate-{kind}=host:0:{id}:1"));
        }
    }
    arguments
}
