// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The scripts in a package's `bin/`: two lines each, no logic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::template::render as render_template;
use crate::base::tool::Tool;
use crate::plan::Plan;

const TEMPLATE: &str = include_str!("script.sh.hbs");

/// A script that a package can have in its `bin/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Script {
    /// Runs the VM, in the foreground.
    Run,
    /// Stops the VM, and returns when it has ended.
    Shutdown,
    /// Attaches to the virtio-console.
    Console,
    /// Makes the VM's taps and links, as root.
    TapUp,
    /// Removes them.
    TapDown,
    /// Serves the shared directories.
    Virtiofsd,
    /// Connects the VM to the host's network.
    Uplink,
    /// Hands the PCI devices to VFIO, as root.
    PciSetup,
}

impl Script {
    /// Its file name, microvm.nix's, and the verb with which it calls this program, if
    /// this program built the package.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Run => ("microvm-run", "run"),
            Self::Shutdown => ("microvm-shutdown", "shutdown"),
            Self::Console => ("microvm-console", "console"),
            Self::TapUp => ("tap-up", "tap-up"),
            Self::TapDown => ("tap-down", "tap-down"),
            Self::Virtiofsd => ("virtiofsd-run", "virtiofsd"),
            Self::Uplink => ("uplink-run", "uplink"),
            Self::PciSetup => ("pci-setup", "pci-setup"),
        }
    }

    /// Its path in a package.
    pub(super) fn path(self) -> PathBuf {
        Path::new("bin").join(self.names().0)
    }

    /// Its path in the package in `directory`.
    pub fn within(self, directory: &Path) -> PathBuf {
        directory.join(self.path())
    }
}

/// The scripts of a plan's package.
pub(super) fn of(plan: &Plan) -> Vec<Script> {
    let mut scripts = vec![Script::Run, Script::Shutdown, Script::Console];
    if !plan.interfaces.is_empty() {
        scripts.extend([Script::TapUp, Script::TapDown]);
    }
    if !plan.shares.is_empty() {
        scripts.push(Script::Virtiofsd);
    }
    if plan.uplink.is_some() {
        scripts.push(Script::Uplink);
    }
    if !plan.pci_devices.is_empty() {
        scripts.push(Script::PciSetup);
    }
    scripts
}

/// The text of a script in the package of a plan.
pub(super) fn render(plan: &Plan, script: Script) -> String {
    /// The scripts of all VMs are the same, so each is rendered once.
    static RENDERED: Mutex<BTreeMap<Script, (String, String)>> = Mutex::new(BTreeMap::new());
    let program =
        plan.tool(Tool::MicrovmSpectrum).and_then(|p| p.to_str()).unwrap_or(Tool::MicrovmSpectrum.as_str());
    let mut rendered = RENDERED.lock().unwrap_or_else(PoisonError::into_inner);
    match rendered.get(&script) {
        Some((of, text)) if of == program => text.clone(),
        _ => {
            let (_, verb) = script.names();
            let data = serde_json::json!({ "program": program, "verb": verb });
            let text = render_template(TEMPLATE, &data);
            rendered.insert(script, (program.to_owned(), text.clone()));
            text
        }
    }
}
