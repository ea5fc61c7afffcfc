// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! From the text of the configuration to its values, with every mistake in one go.

use std::path::Path;

use serde::Deserialize as _;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use super::Config;
use super::check::Mistake;
use crate::base::problem::{Problem, Problems};

/// Reads the text of the file at `path`.
///
/// # Errors
/// A mistake of TOML's syntax, or else every value and every key that is wrong.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, Problems> {
    let problem = |key: &str, error: &Error| {
        let (line, column) = error.span().map_or((1, 1), |span| position(text, span.start));
        let place = format!("{}:{line}:{column}", path.display());
        let cause = if key.is_empty() { "" } else { ": " };
        let cause = format!("{key}{cause}{}", error.message());
        Problem::error(place, cause, "correct it; microvm-spectrum-config(5) has every key")
    };
    let mut table = DeTable::parse(text).map_err(|error| problem("", &error))?;
    let (mut problems, mut taken_out) = (Problems::default(), Vec::<String>::new());
    // The deserializer ends at the first mistake, so each is taken out before the next.
    loop {
        let error = match Config::deserialize(Deserializer::from(table.clone())) {
            Ok(config) => return problems.or(config),
            Err(error) => error,
        };
        let key = error.span().and_then(|span| take_out(table.get_mut(), span.start));
        let field = error.message().strip_prefix("missing field `").and_then(|it| it.strip_suffix('`'));
        let was_there = |field: &str| taken_out.iter().any(|key| key.ends_with(&format!(".{field}")));
        if !field.is_some_and(was_there) {
            problems.push(problem(key.as_deref().unwrap_or_default(), &error));
        }
        match key {
            Some(key) => taken_out.push(key),
            None => return Err(problems),
        }
    }
}

/// The problems that mistakes in the text of the file at `path` are, each at its place.
pub(super) fn placed(path: &Path, text: &str, mistakes: Vec<Mistake>) -> Problems {
    let mut problems = Problems::default();
    let table = if mistakes.is_empty() { None } else { DeTable::parse(text).ok() };
    let place = |keys: &[String]| {
        let byte = table.as_ref().and_then(|table| byte_of(table.get_ref(), keys)).unwrap_or_default();
        position(text, byte)
    };
    for Mistake { at, other, mut cause, remedy } in mistakes {
        let mut at = place(&at);
        if let Some(mut other) = other.map(|other| place(&other)) {
            if other > at {
                std::mem::swap(&mut at, &mut other);
            }
            cause += &format!(" (see line {}, too)", other.0);
        }
        problems.error(format!("{}:{}:{}", path.display(), at.0, at.1), cause, remedy);
    }
    problems
}

/// Where the value at this path of keys begins, or else the innermost table around it.
fn byte_of(table: &DeTable<'_>, keys: &[String]) -> Option<usize> {
    let (first, rest) = keys.split_first()?;
    let value = table.get(first.as_str())?;
    Some(byte_in(value.get_ref(), rest).unwrap_or(value.span().start))
}

fn byte_in(value: &DeValue<'_>, keys: &[String]) -> Option<usize> {
    match value {
        DeValue::Table(table) => byte_of(table, keys),
        DeValue::Array(values) => {
            let (index, rest) = keys.split_first()?;
            let value = values.get(index.parse::<usize>().ok()?)?;
            Some(byte_in(value.get_ref(), rest).unwrap_or(value.span().start))
        }
        _ => None,
    }
}

/// Removes the innermost entry at a byte of the text; returns its key.
fn take_out(table: &mut DeTable<'_>, byte: usize) -> Option<String> {
    let mut here = None;
    for (name, value) in table.iter_mut() {
        let is_here = name.span().contains(&byte) || value.span().contains(&byte);
        if let Some(inner) = take_out_of(value.get_mut(), byte) {
            return Some(format!("{}{inner}", shown(name.get_ref())));
        }
        if is_here {
            here = Some(name.clone());
        }
    }
    let name = here?;
    table.remove(&name).map(|_| shown(name.get_ref()))
}

/// Like [`take_out`], of a value; the key begins with what joins it to the value's own.
/// The elements of arrays have none: the place in the file tells them apart.
fn take_out_of(value: &mut DeValue<'_>, byte: usize) -> Option<String> {
    match value {
        DeValue::Table(table) => Some(format!(".{}", take_out(table, byte)?)),
        DeValue::Array(values) => {
            if let Some(inner) = values.iter_mut().find_map(|value| take_out_of(value.get_mut(), byte)) {
                return Some(inner);
            }
            values.iter().find(|value| value.span().contains(&byte))?;
            let all = std::mem::replace(values, DeArray::new());
            *values = all.into_iter().filter(|value| !value.span().contains(&byte)).collect();
            Some(String::new())
        }
        _ => None,
    }
}

/// A key as TOML writes it.
fn shown(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("\"{key}\"") }
}

/// The line and column of a byte, both counted from 1; a column is a character.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}
