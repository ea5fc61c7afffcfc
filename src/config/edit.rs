// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Setting a key of one VM in the configuration's file; comments and order stay.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use toml_edit::{DocumentMut, Item, Table, TomlError};

use super::{Config, Refused};
use crate::base::name::{SourceName, VmId};
use crate::system::durable;

/// Why a key was not set. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file is a link, which something else manages, such as NixOS.
    #[error("it is a link, so something else manages it")]
    Link,
    /// It cannot be read or replaced.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not TOML.
    #[error(transparent)]
    Syntax(#[from] TomlError),
    /// `vm`, or the VM in it, is not a table.
    #[error("its settings of VMs are not in tables")]
    NotATable,
    /// The configuration would have a mistake.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Sets `key` of a VM to true in the configuration at `path`.
///
/// # Errors
/// See [`EditError`].
pub fn enable(path: &Path, vm: &VmId, key: &str) -> Result<(), EditError> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        return Err(EditError::Link);
    }
    let text = enabled(&fs::read_to_string(path)?, vm, key)?;
    // As it will be read.
    Config::of_text(path, &text)?;
    Ok(durable::replace_file(path, &text, metadata.permissions().mode() & 0o7777)?)
}

/// The configuration `text` with `key` of a VM set to true.
fn enabled(text: &str, vm: &VmId, key: &str) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    let implicit = || {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    };
    let tables =
        document.entry("vm").or_insert_with(implicit).as_table_like_mut().ok_or(EditError::NotATable)?;
    let (short, long) = (vm.name.to_string(), vm.to_string());
    let is_short = tables.contains_key(&short)
        && !tables.contains_key(&long)
        && vm.source != SourceName::configuration();
    let table = tables.entry(if is_short { &short } else { &long });
    let table = table.or_insert_with(|| Item::Table(Table::new()));
    table.as_table_like_mut().ok_or(EditError::NotATable)?.insert(key, toml_edit::value(true));
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_else_stays() {
        let vm: VmId = "user/netvm".parse().unwrap();
        let source = "# the sources\n[[source]]\nname = \"user\" # mine\n";
        for (before, after) in [
            (String::new(), "[vm.\"user/netvm\"]\nuplink = true\n".to_owned()),
            (source.to_owned(), format!("{source}\n[vm.\"user/netvm\"]\nuplink = true\n")),
            (
                format!("{source}[vm.netvm]\nmemory = 64 # enough\n[defaults]\nmemory = 512\n"),
                format!(
                    "{source}[vm.netvm]\nmemory = 64 # enough\nuplink = true\n[defaults]\nmemory = 512\n"
                ),
            ),
            (
                "vm.\"user/netvm\" = { uplink = false }\n".to_owned(),
                "vm.\"user/netvm\" = { uplink = true }\n".to_owned(),
            ),
        ] {
            assert_eq!(enabled(&before, &vm, "uplink").unwrap(), after);
        }
        assert!(matches!(enabled("vm = 3\n", &vm, "uplink"), Err(EditError::NotATable)));
        assert!(matches!(enabled("vm = \n", &vm, "uplink"), Err(EditError::Syntax(_))));
    }

    #[test]
    fn a_file_that_would_be_refused_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        let vm: VmId = "user/netvm".parse().unwrap();
        let text = "[[source]]\nkind = 'builtin'\nname = 'user'\npath = '/srv/vms'\n";
        fs::write(&path, text).unwrap();
        assert!(matches!(enable(&path, &vm, "no-such-key"), Err(EditError::Refused(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        enable(&path, &vm, "autostart").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("[vm.\"user/netvm\"]\nautostart = true\n"));
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(enable(&link, &vm, "autostart"), Err(EditError::Link)));
    }
}
