// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Child processes that run beside this one and never outlive it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Gid, Pid, PidfdFlags, Signal, Uid, WaitId, WaitIdOptions};

/// The PATH of children: they are started by absolute paths and need little.
const CHILD_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

/// A child in a process group of its own, killed when this value is dropped
/// and, by the kernel, when this process dies.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    group: Pid,
    child: Option<Child>,
}

/// A descriptor that a child inherits, and its number there.
pub type Inherited = (OwnedFd, i32);

/// A user that a child, or this process, becomes for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The user id.
    pub user: u32,
    /// The group id.
    pub group: u32,
}

impl Identity {
    /// Makes this thread the user's, without further groups. Allocates nothing.
    ///
    /// # Errors
    /// When this user may not become the other.
    pub fn assume(self) -> io::Result<()> {
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        Ok(rustix::thread::set_thread_res_uid(user, user, user)?)
    }
}

impl Process {
    /// Starts `command` with a clean environment and the descriptors `inherited`,
    /// as the user `identity` if there is one.
    ///
    /// The child enters its working directory before that, with this process' rights.
    ///
    /// Must be called by the main thread: the kernel ties a child's life to
    /// that of the *thread* that started it (`PR_SET_PDEATHSIG(2const)`).
    ///
    /// # Errors
    /// When the program cannot be executed, or not as that user.
    pub fn spawn(
        mut command: Command,
        inherited: Vec<Inherited>,
        identity: Option<Identity>,
    ) -> io::Result<Self> {
        // Signals from the terminal are for the supervisor alone.
        command.env_clear().env("PATH", CHILD_PATH).process_group(0);
        let mappings =
            inherited.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        prepare(&mut command, identity);
        let child = command.spawn()?;
        let group = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(group, PidfdFlags::empty())?;
        Ok(Self { pidfd, group, child: Some(child) })
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
    }

    /// A descriptor that can be read when the child has ended (`pidfd_open(2)`).
    ///
    /// # Errors
    /// When there can be no further descriptor.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// The pipe at the child's standard output, once.
    pub fn take_stdout(&mut self) -> Option<File> {
        let pipe = self.child.as_mut()?.stdout.take()?;
        Some(OwnedFd::from(pipe).into())
    }

    /// The pipe at the child's standard error, once.
    pub fn take_stderr(&mut self) -> Option<File> {
        let pipe = self.child.as_mut()?.stderr.take()?;
        Some(OwnedFd::from(pipe).into())
    }

    /// Calls `ended` from another thread when the child has ended; once.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn on_end(&mut self, ended: impl FnOnce(io::Result<ExitStatus>) + Send + 'static) -> io::Result<()> {
        let pidfd = self.pidfd.try_clone()?;
        let group = self.group;
        if let Some(child) = self.child.take() {
            in_background(move || ended(reap(child, &pidfd, group)))?;
        }
        Ok(())
    }

    /// Asks the child to end.
    pub fn terminate(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM);
    }

    /// Kills the child, and with its end whatever it started.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(child) = self.child.take() {
            let _ = reap(child, &self.pidfd, self.group);
        }
    }
}

/// Waits for the end of a child and kills what is left of its group.
///
/// Until this process has waited for the child, no other process gets its number.
fn reap(mut child: Child, pidfd: &OwnedFd, group: Pid) -> io::Result<ExitStatus> {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), ended));
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    child.wait()
}

/// Runs `work` in a thread of its own.
///
/// # Errors
/// When there can be no further thread.
pub fn in_background(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().spawn(work).map(drop)
}

/// Closes the descriptors that this process was started with, but for standard
/// input, output and error, in all its children.
///
/// Must be called before there is another thread.
#[allow(unsafe_code)]
pub fn keep_descriptors() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> = open.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: borrowed for this one call, which only sets a flag, and fails if
        // the number is not open (that of the listing itself, for one).
        let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC);
    }
}

/// Makes the files and sockets that this process creates from here on accessible
/// to its user alone.
pub fn keep_files_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Keeps the memory and the descriptors of this process from all others but root's, those
/// of its own user included. Its children do not inherit it.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_memory_private() -> io::Result<()> {
    // PR_SET_DUMPABLE(2const); ptrace(2), "Ptrace access mode checking".
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[allow(unsafe_code)]
fn prepare(command: &mut Command, identity: Option<Identity>) {
    let parent = rustix::process::getpid();
    let set = move || {
        if let Some(identity) = identity {
            identity.assume()?;
        }
        // After that, since the kernel forgets it when the user changes.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        match rustix::process::getppid() {
            Some(now) if now == parent => Ok(()),
            _ => Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error())),
        }
    };
    // SAFETY: the closure runs between fork and exec, where the child has one
    // thread, and only makes system calls; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(set) };
}
