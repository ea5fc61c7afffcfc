// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum console`, and the package's `microvm-console`

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Uid};

use super::{Exit, StateArgs, fail, report};
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::package::{Script, Whose, whose};
use crate::plan::Plan;
use crate::plan::runtime::{Lock, SocketNames};
use crate::state::directory::RUNTIME_DIRECTORY;
use crate::supervisor::console::{self, DETACH_KEY, Detached};

/// How long one exchange with a VMM may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct ConsoleArgs {
    /// The VM's name
    name: String,

    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &ConsoleArgs) -> Exit {
    let installed = args.state.installed();
    let name = match installed.known(&args.name) {
        Ok(name) => name,
        Err(error) => return fail(&error.into()),
    };
    let package = installed.package(&name);
    match enter_as_its_user(&name) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return does_not_run(&name),
        Err(error) => {
            let remedy =
                if error.kind() == io::ErrorKind::PermissionDenied { " (only root may)" } else { "" };
            report::line(&format!("the console of {name} cannot be reached: {error}{remedy}"));
            return Exit::Host;
        }
    }
    match whose(&package, Script::Console) {
        Ok(Whose::Ours(plan)) => attach(&plan),
        // A script of its own would be a process of the VM's user on this terminal,
        // which whoever else has that user's id could take from it.
        Ok(Whose::Script(_) | Whose::Files(_)) => {
            report::line(&format!("the package of {name} has no console that this program knows"));
            Exit::Input
        }
        Err(error) => {
            report::line(&printable(error.to_string()));
            Exit::Input
        }
    }
}

fn does_not_run(name: &VmName) -> Exit {
    report::line(&format!("{name} does not run; microvm-spectrum start {name} starts it"));
    Exit::Input
}

/// Goes to the directory where a VM runs and, for root, becomes the VM's user:
/// what is there is that user's, and nothing of it is used with root's rights.
fn enter_as_its_user(name: &VmName) -> io::Result<()> {
    let path = Path::new(RUNTIME_DIRECTORY).join(name.as_str());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&path, flags, Mode::empty())?;
    let owner = rustix::fs::fstat(&directory)?;
    if rustix::process::geteuid().is_root() {
        let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
        // There is no other thread yet.
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
    }
    Ok(rustix::process::fchdir(&directory)?)
}

/// Attaches to the console of the VM that runs in this directory.
pub(super) fn attach(plan: &Plan) -> Exit {
    // The lock is for this user alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let sockets = SocketNames::new(&plan.name);
    if !Lock::is_held(&sockets.run_lock()) {
        report::line(&format!("{} does not run in this directory", plan.name));
        return Exit::Input;
    }
    // Two readers would share the guest's output between them.
    let _lock = match Lock::try_take(&sockets.console_lock()) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            report::line(&format!("somebody is attached to the console of {} already", plan.name));
            return Exit::Host;
        }
        Err(error) => {
            report::line(&format!("the console of {} cannot be locked: {error}", plan.name));
            return Exit::Host;
        }
    };
    let opened = plan.hypervisor.implementation().open_console(plan, &sockets, EXCHANGE_TIMEOUT);
    if let Ok(console) = &opened
        && rustix::termios::isatty(rustix::stdio::stdin())
    {
        debug_assert_eq!(DETACH_KEY, b']' - 0x40);
        report::line(&format!("attached to the console of {}; Ctrl-] detaches", plan.name));
        if let Some(hint) = console::size_hint(console) {
            report::line(&format!("the guest is not told the size of this window; in the guest: {hint}"));
        }
    }
    match opened.and_then(console::attach) {
        Ok(Detached::ByKey) => {
            let _ = writeln!(io::stderr());
            report::line("detached");
            Exit::Fine
        }
        Ok(Detached::ByGuest | Detached::BySignal) => Exit::Fine,
        Err(error) => {
            report::line(&printable(format!("the console of {}: {error}", plan.name)));
            Exit::Host
        }
    }
}
