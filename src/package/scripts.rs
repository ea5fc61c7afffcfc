// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The scripts in a package's `bin/`: two lines each, no logic.

use std::sync::LazyLock;

use handlebars::{Context, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason};

use crate::manifest::Plan;
use crate::tool::Tool;

const TEMPLATE: &str = include_str!("../templates/script.sh.hbs");

/// The names of a plan's scripts, and what each tells the program to do.
pub(super) fn of(plan: &Plan) -> Vec<(&'static str, &'static str)> {
    let mut scripts =
        vec![("microvm-run", "run"), ("microvm-shutdown", "shutdown"), ("microvm-console", "console")];
    if !plan.shares.is_empty() {
        scripts.push(("virtiofsd-run", "virtiofsd"));
    }
    scripts
}

/// The text of the script that calls the program with `verb`.
pub(super) fn render(plan: &Plan, verb: &str) -> String {
    static TEMPLATES: LazyLock<Handlebars<'static>> = LazyLock::new(|| {
        let mut templates = Handlebars::new();
        templates.set_strict_mode(true);
        templates.register_helper("sh", Box::new(sh));
        templates
    });
    let program =
        plan.tool(Tool::MicrovmSpectrum).and_then(|p| p.to_str()).unwrap_or(Tool::MicrovmSpectrum.as_str());
    let data = serde_json::json!({ "program": program, "verb": verb });
    // The template is part of this program and every test renders it.
    TEMPLATES.render_template(TEMPLATE, &data).unwrap_or_default()
}

/// `{{{sh value}}}`: a value as one word of a shell's command line.
fn sh(
    helper: &Helper<'_>,
    _: &Handlebars<'_>,
    _: &Context,
    _: &mut RenderContext<'_, '_>,
    out: &mut dyn Output,
) -> HelperResult {
    let value = helper.param(0).and_then(|p| p.value().as_str()).unwrap_or_default();
    let word = shlex::try_quote(value).map_err(|e| RenderErrorReason::Other(e.to_string()))?;
    Ok(out.write(&word)?)
}
