// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum completion`: what a shell does when its user presses Tab.
//!
//! The script of a shell calls this program for the words that can follow, VM names
//! included. The names of files come from the shell, which quotes them rightly.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use clap::{Args, CommandFactory as _, ValueEnum, ValueHint};
use clap_complete::CompletionCandidate;
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Shells, Zsh};

use super::{Cli, Exit, report};
use crate::state::directory::DEFAULT_STATE_DIRECTORY;
use crate::state::installed::Installed;

/// With this variable, the program prints what can follow instead of running.
const VARIABLE: &str = "_MICROVM_SPECTRUM_COMPLETE";
const PROGRAM: &str = "microvm-spectrum";

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell that reads the script
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

pub(super) fn run(args: &CompletionArgs) -> anyhow::Result<Exit> {
    let script = script(args.shell)?;
    report::to_stdout("the script", |out| out.write_all(script.as_bytes()))?;
    Ok(Exit::Fine)
}

fn script(shell: Shell) -> io::Result<String> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Fish => &Fish,
        Shell::Zsh => &Zsh,
    };
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)?;
    let script = String::from_utf8(script).map_err(io::Error::other)?;
    Ok(match shell {
        // Where no word of the program's can follow, a file can.
        Shell::Bash => script.replace(" -o bashdefault ", " -o default "),
        Shell::Fish => script.replace(" --exclusive ", " "),
        // zsh runs the file itself at the first Tab.
        Shell::Zsh => {
            let or_files = "values' other\n    else\n        _files\n    fi";
            let first =
                "[[ $funcstack[1] != _microvm-spectrum ]] || _clap_dynamic_completer_microvm_spectrum\n";
            script.replace("values' other\n    fi", or_files) + first
        }
    })
}

/// Answers a shell's question, if this process was started for it; then it ends here.
pub(super) fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).shells(Shells(&[&Bash, &Fish, &Zsh])).complete();
}

/// The command line, whose paths are completed by the shell.
fn command() -> clap::Command {
    fn without_paths(command: clap::Command) -> clap::Command {
        let hint = |arg: clap::Arg| {
            if arg.get_action().takes_values() { arg.value_hint(ValueHint::Other) } else { arg }
        };
        command.mut_args(hint).mut_subcommands(without_paths)
    }
    without_paths(Cli::command())
}

/// The names of installed VMs that begin as `typed`.
pub(super) fn vm_names(typed: &OsStr) -> Vec<CompletionCandidate> {
    let names = Installed::read(Path::new(DEFAULT_STATE_DIRECTORY)).names();
    let begins = |name: &str| typed.to_str().is_some_and(|typed| name.starts_with(typed));
    names.iter().map(|name| name.as_str()).filter(|name| begins(name)).map(CompletionCandidate::new).collect()
}
