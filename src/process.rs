// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Child processes that never outlive this one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

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

impl Process {
    /// Starts `command` with a clean environment and the descriptors `inherited`.
    ///
    /// Must be called by the main thread: the kernel ties a child's life to
    /// that of the *thread* that started it (`PR_SET_PDEATHSIG(2const)`).
    ///
    /// # Errors
    /// The system's error.
    pub fn spawn(mut command: Command, inherited: Vec<Inherited>) -> io::Result<Self> {
        // Signals from the terminal are for the supervisor alone.
        command.env_clear().env("PATH", CHILD_PATH).process_group(0);
        let mappings =
            inherited.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        die_with_parent(&mut command);
        let child = command.spawn()?;
        let group = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(group, PidfdFlags::empty())?;
        Ok(Self { pidfd, group, child: Some(child) })
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
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
    pub fn on_end(&mut self, ended: impl FnOnce(io::Result<ExitStatus>) + Send + 'static) {
        if let (Some(child), Ok(pidfd)) = (self.child.take(), self.pidfd.try_clone()) {
            let group = self.group;
            std::thread::spawn(move || ended(reap(child, &pidfd, group)));
        }
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
/// As long as nobody has waited for the child, its number cannot be another's.
fn reap(mut child: Child, pidfd: &OwnedFd, group: Pid) -> io::Result<ExitStatus> {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), ended));
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    child.wait()
}

#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let set = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        match rustix::process::getppid() {
            Some(now) if now == parent => Ok(()),
            _ => Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error())),
        }
    };
    // SAFETY: the closure runs between fork and exec and makes two system
    // calls; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(set) };
}
