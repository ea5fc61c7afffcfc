// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The scripts in a package's `bin/`: two lines each, no logic.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::base::template::render as render_template;
use crate::base::tool::Tool;
use crate::plan::Plan;

const TEMPLATE: &str = include_str!("script.sh.hbs");

/// The names of a plan's scripts, and what each tells the program to do.
pub(super) fn of(plan: &Plan) -> Vec<(&'static str, &'static str)> {
    let mut scripts =
        vec![("microvm-run", "run"), ("microvm-shutdown", "shutdown"), ("microvm-console", "console")];
    if !plan.interfaces.is_empty() {
        scripts.extend([("tap-up", "tap-up"), ("tap-down", "tap-down")]);
    }
    if !plan.shares.is_empty() {
        scripts.push(("virtiofsd-run", "virtiofsd"));
    }
    if !plan.pci_devices.is_empty() {
        scripts.push(("pci-setup", "pci-setup"));
    }
    scripts
}

/// The text of the script that calls the program with `verb`.
pub(super) fn render(plan: &Plan, verb: &'static str) -> String {
    /// The scripts of all VMs are the same, so that each is rendered once.
    static RENDERED: Mutex<BTreeMap<&'static str, (String, String)>> = Mutex::new(BTreeMap::new());
    let program =
        plan.tool(Tool::MicrovmSpectrum).and_then(|p| p.to_str()).unwrap_or(Tool::MicrovmSpectrum.as_str());
    let mut rendered = RENDERED.lock().unwrap_or_else(PoisonError::into_inner);
    match rendered.get(verb) {
        Some((of, text)) if of == program => text.clone(),
        _ => {
            let text = render_template(TEMPLATE, &serde_json::json!({ "program": program, "verb": verb }));
            rendered.insert(verb, (program.to_owned(), text.clone()));
            text
        }
    }
}
