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
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};

use crate::base::problem::{Problem, Problems};
use crate::directory::boundary::Resolved;
use crate::directory::definition::Exposure;
use crate::plan::runtime::{is_bound, remove_socket};
use crate::plan::{Plan, SharePlan};
use crate::system::process::{Identity, Process};

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

/// A shared directory, opened.
#[derive(Debug)]
pub struct OpenShare {
    tag: String,
    socket: String,
    directory: OwnedFd,
    owner: Identity,
}

/// What root does for servers that others run by themselves do not have.
#[derive(Debug, Clone, Default)]
pub struct Privileges {
    /// The user whom the sockets are for, instead of the one who makes them.
    pub client: Option<u32>,
    /// Where shared directories are mounted, without set-user-id and devices,
    /// for the servers alone; in a mount namespace of this process.
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
/// nobody serves here yet.
///
/// A server counts only if it is still there after `patience`: one that was
/// just killed keeps its socket for a moment.
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
            Ok(found) => open.push(OpenShare::new(&share.tag, &share.socket, found)),
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

impl OpenShare {
    fn new(tag: &str, socket: &str, found: Resolved) -> Self {
        let ordinary = |id: u32| if id == 0 { NOBODY } else { id };
        let owner = Identity { user: ordinary(found.stat.st_uid), group: ordinary(found.stat.st_gid) };
        Self { tag: tag.to_owned(), socket: socket.to_owned(), directory: found.fd, owner }
    }

    /// Opens a directory that an administrator named, whose links are his.
    ///
    /// # Errors
    /// The system's error.
    pub fn of_administrator(tag: &str, socket: &str, source: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(source, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self::new(tag, socket, Resolved { fd, path: source.to_owned(), stat, through: Vec::new() }))
    }

    /// The share's tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Starts the virtiofsd `program` for this share; its socket listens when
    /// this returns.
    ///
    /// # Errors
    /// The system's error, with what was tried.
    pub fn serve(self, program: &Path, privileges: &Privileges) -> io::Result<Server> {
        let Self { tag, socket, directory, owner } = self;
        let told = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        let mount = privileges.mounts.as_ref().map(|mounts| {
            PrivateMount::of(&directory, mounts.join(format!("{socket}.mount")))
                .map_err(told(&format!("the directory of the share '{tag}' cannot be mounted")))
        });
        let mount = mount.transpose()?;
        let directory = mount.as_ref().map_or(&directory, |mount| &mount.root);
        remove_socket(&socket);
        let listener =
            UnixListener::bind(&socket).map_err(told(&format!("the socket {socket} cannot be made")))?;
        if privileges.client.is_some() {
            std::os::unix::fs::lchown(&socket, privileges.client, None)
                .map_err(told(&format!("the socket {socket} cannot be given away")))?;
        }
        let identity = rustix::process::geteuid().is_root().then_some(owner);
        let user = identity.unwrap_or_else(|| Identity {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
        });
        let mut command = Command::new(program);
        command
            .args(arguments(user))
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
                Err(told(&what)(error))
            }
        }
    }
}

/// A directory mounted a second time, without set-user-id files and devices,
/// and without what is mounted beneath it.
#[derive(Debug)]
struct PrivateMount {
    path: PathBuf,
    root: OwnedFd,
}

impl PrivateMount {
    /// Mounts `directory` at `path`, which is made. It is the directory itself
    /// that is mounted, wherever its path leads meanwhile.
    fn of(directory: &OwnedFd, path: PathBuf) -> io::Result<Self> {
        use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
        // What a killed predecessor has left went with its mount namespace.
        let _ = std::fs::remove_dir(&path);
        std::fs::DirBuilder::new().create(&path)?;
        let clone =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = rustix::mount::open_tree(directory, "", clone)?;
        let flags = mount_flags(&tree)? | MountFlags::NOSUID | MountFlags::NODEV;
        let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree, "", rustix::fs::CWD, &path, whole)?;
        // From here on it is unmounted again, whatever happens.
        let mount = Self { path, root: tree };
        // What somebody mounts beneath the directory later does not come here, either.
        rustix::mount::mount_change(&mount.path, MountPropagationFlags::PRIVATE)?;
        rustix::mount::mount_remount(&mount.path, flags | MountFlags::BIND, "")?;
        Ok(mount)
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Mounts a whole `/proc` at `path`, which is made, for the servers' sake.
///
/// In its own namespaces virtiofsd mounts a `/proc`, which the kernel allows
/// only to those who see one already of which nothing is hidden
/// (`mount_too_revealing` in Linux' `fs/namespace.c`); units hide parts of it.
///
/// # Errors
/// The system's error.
pub fn mount_whole_proc(path: &Path) -> io::Result<()> {
    use rustix::mount::MountFlags;
    std::fs::DirBuilder::new().create(path)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", path, "proc", flags, None)?)
}

/// The flags that a mount has, which a remount would take away.
fn mount_flags(mount: &OwnedFd) -> io::Result<rustix::mount::MountFlags> {
    use rustix::fs::StatVfsMountFlags as Found;
    use rustix::mount::MountFlags;
    let found = rustix::fs::fstatvfs(mount)?.f_flag;
    let pairs = [
        (Found::RDONLY, MountFlags::RDONLY),
        (Found::NOEXEC, MountFlags::NOEXEC),
        (Found::NOATIME, MountFlags::NOATIME),
        (Found::NODIRATIME, MountFlags::NODIRATIME),
        (Found::RELATIME, MountFlags::RELATIME),
    ];
    Ok(pairs.into_iter().filter(|(one, _)| found.contains(*one)).map(|(_, other)| other).collect())
}

/// How many files a server may hold open: what virtiofsd asks for by itself,
/// or less where this process cannot give it, of which it would warn.
fn open_files() -> u64 {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    hard.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES)
}

/// virtiofsd's arguments, for a server that runs as `user`.
///
/// Whoever the guest says it is, files are used and made as one ordinary user of
/// the host: the one who runs the VM or, when that is root, the directory's
/// owner. virtiofsd's own translation of user ids is not enough for that: it
/// changes who owns what is made, not what may be read, written and removed.
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
