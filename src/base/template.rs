// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Rendering the templates of scripts and unit files.

use std::sync::{LazyLock, Mutex, PoisonError};

use handlebars::{
    Context, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason, no_escape,
};
use serde::Serialize;

/// The text of `template`, which is part of this program, with `data` filled in.
pub fn render(template: &str, data: &impl Serialize) -> String {
    Data::new(data).fill(template)
}

/// What is filled into several templates.
pub struct Data(Context);

impl Data {
    /// The data of these templates.
    pub fn new(data: &impl Serialize) -> Self {
        // Serializing cannot fail: it is the program's own data, with texts as keys.
        Self(Context::wraps(data).unwrap_or_else(|_| Context::null()))
    }

    /// The text of `template`, which is part of this program, with the data filled in.
    pub fn fill(&self, template: &str) -> String {
        fill(template, &self.0)
    }
}

fn fill(template: &str, data: &Context) -> String {
    static TEMPLATES: LazyLock<Mutex<Handlebars<'static>>> = LazyLock::new(|| {
        let mut templates = Handlebars::new();
        templates.set_strict_mode(true);
        templates.register_escape_fn(no_escape);
        templates.register_helper("sh", Box::new(sh));
        Mutex::new(templates)
    });
    let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
    // Parses each template once, however many VMs there are; its text is its name.
    if !templates.has_template(template) && templates.register_template_string(template, template).is_err() {
        return String::new();
    }
    // Rendering cannot fail: the tests render every template.
    let mut text = templates.render_with_context(template, data).unwrap_or_default();
    // Handlebars reserves 8 KiB.
    text.shrink_to_fit();
    text
}

/// `{{sh value}}`: writes a value as one word for a shell.
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
