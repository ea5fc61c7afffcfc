// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Looking at the state directory, where a file that is missing and one that cannot
//! be looked at are two different things.

use std::io;
use std::path::Path;

use crate::base::problem::is_hosts;

/// Whether an error says that there is no such file, or none of the wanted type.
pub fn is_missing(error: &io::Error) -> bool {
    // This program can look at its own files; so one that it may not look at is another's.
    !is_hosts(error)
}

/// Turns the error that a file is missing, see [`is_missing`], into `None`.
///
/// # Errors
/// Every other error of `result`.
pub fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_missing(&error) => Ok(None),
        result => result.map(Some),
    }
}

/// Whether `path` is a directory, or leads to one.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_directory(path: &Path) -> io::Result<bool> {
    Ok(unless_missing(path.metadata())?.is_some_and(|found| found.is_dir()))
}

/// The names in a directory that are UTF-8; this program makes no others.
///
/// # Errors
/// When it cannot be listed.
pub fn names(directory: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}
