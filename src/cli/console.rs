// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum console`, and the package's `microvm-console`

use std::io::{self, Write as _};

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::completion::vm_names;
use super::{Exit, StateArgs, fail, report};
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::package::{Script, Whose, whose};
use crate::plan::Plan;
use crate::supervisor::console::{self, Attachable, ConsoleError, Detached};

#[derive(Debug, Args)]
pub(super) struct ConsoleArgs {
    /// The VM's name
    #[arg(add = ArgValueCompleter::new(vm_names))]
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
    match console::become_its_user(&name) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return does_not_run(&name),
        Err(error) => {
            let remedy =
                if error.kind() == io::ErrorKind::PermissionDenied { " (only root may do this)" } else { "" };
            report::line(&format!("the console of {name} cannot be reached: {error}{remedy}"));
            return Exit::Host;
        }
    }
    match whose(&package, Script::Console) {
        Ok(Whose::Ours(plan)) => attach(&plan),
        // A script of the package would run on this terminal as the VM's user, whose
        // other processes could take it over.
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

/// Attaches to the console of the VM that runs in this directory.
pub(super) fn attach(plan: &Plan) -> Exit {
    match announce_and_attach(plan) {
        Ok(Detached::ByKey) => {
            let _ = writeln!(io::stderr());
            report::line("detached");
            Exit::Fine
        }
        Ok(Detached::ByGuest | Detached::BySignal | Detached::ByEndOfInput) => Exit::Fine,
        Err(error) => {
            report::line(&printable(error.to_string()));
            match error {
                ConsoleError::NotRunning(_) => Exit::Input,
                _ => Exit::Host,
            }
        }
    }
}

fn announce_and_attach(plan: &Plan) -> Result<Detached, ConsoleError> {
    let console = Attachable::open(plan)?;
    if rustix::termios::isatty(rustix::stdio::stdin()) {
        report::line(&format!("attached to the console of {}; Ctrl-] detaches", plan.name));
        if let Some(hint) = console.size_hint() {
            report::line(&format!(
                "the guest does not know the size of this window; run in the guest: {hint}"
            ));
        }
    }
    console.attach(&|| {
        // The terminal may be raw.
        let _ = write!(io::stderr(), "\r");
        report::line(&format!(
            "nothing answers on the console of {0}: perhaps no shell runs on its hvc0; \
             microvm-spectrum log {0} shows its serial console",
            plan.name
        ));
    })
}
