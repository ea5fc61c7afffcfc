// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum start`, `stop` and `restart`

use std::collections::BTreeSet;

use clap::Args;
use clap_complete::ArgValueCompleter;
use indicatif::{ProgressBar, ProgressStyle};

use super::completion::vm_names;
use super::{Exit, StateArgs, fail, report};
use crate::base::name::VmName;
use crate::supervisor::DEFAULT_STOP_TIMEOUT;
use crate::system::control::{Stopping, Verb, control, stop_out_of_order};

#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The VMs' names
    #[arg(required_unless_present = "all", value_name = "NAME", add = ArgValueCompleter::new(vm_names))]
    names: Vec<String>,

    /// Take every VM: start all that can run, stop or restart all that run
    #[arg(long, conflicts_with = "names")]
    all: bool,

    /// Take also VMs that the cluster manages, without asking it; they may run on another host
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(verb: Verb, args: &ControlArgs) -> anyhow::Result<Exit> {
    let installed = args.state.installed();
    let mut names = match (args.all, verb) {
        (false, _) => Vec::new(),
        (true, Verb::Start) => installed.able_to_run(),
        (true, Verb::Stop | Verb::Restart) => installed.running(),
    };
    let of_cluster = installed.of_cluster();
    names.retain(|name| args.force || !of_cluster.contains(name));
    let mut exit = Exit::Fine;
    for name in &args.names {
        match if args.force { installed.usable(name) } else { installed.controlled(name, verb) } {
            Ok(name) => names.push(name),
            Err(error) => exit = fail(&error.into()),
        }
    }
    if exit == Exit::Fine && !names.is_empty() {
        if verb == Verb::Stop {
            stop_out_of_order(names.iter().filter(|name| of_cluster.contains(name)));
        }
        let mut waiting = Waiting::default();
        let done = control(verb, &names, |stopping| waiting.show(stopping));
        waiting.bar.take().iter().for_each(ProgressBar::finish_and_clear);
        done?;
    }
    Ok(exit)
}

/// Says which guests take long to power off: on a terminal in a line that counts down,
/// elsewhere in one line for each.
#[derive(Default)]
struct Waiting {
    bar: Option<ProgressBar>,
    said: BTreeSet<VmName>,
}

impl Waiting {
    fn show(&mut self, stopping: &[Stopping]) {
        // It is, where standard error is no terminal that can go back in a line.
        let bar = self.bar.get_or_insert_with(bar);
        if !bar.is_hidden() {
            let all: Vec<_> = stopping.iter().map(|it| line(it, "in")).collect();
            bar.set_message(all.join(", "));
        } else {
            for it in stopping.iter().filter(|it| self.said.insert(it.name.clone())) {
                report::line(&line(it, "after"));
            }
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{wide_msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What a guest is waited for, and that it is killed `in` the time that is left or `after` all of it.
fn line(Stopping { name, time, what }: &Stopping, when: &str) -> String {
    if what.raw().is_empty() {
        return format!("{name}: stopping");
    }
    let time = if when == "in" { DEFAULT_STOP_TIMEOUT.saturating_sub(*time) } else { DEFAULT_STOP_TIMEOUT };
    format!("{name}: {}; it is killed {when} {} s", what.printable(), time.as_secs())
}
