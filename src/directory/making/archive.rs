// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A root file system as a stream: an archive of tar's, to which the guest package is added.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use tar::{Archive, Builder, EntryType, Header};

use super::guest;

/// Copies the archive `from`, with the guest package unless it has that already. `tags` are
/// those of the VM's shared directories.
///
/// # Errors
/// When it is no archive, or is that of a container's image with its layers
/// ([`io::ErrorKind::InvalidData`]), and when reading or writing fails.
pub(super) fn copy(from: impl Read, to: &mut impl Write, tags: &[&str]) -> io::Result<()> {
    let mut found = BTreeSet::new();
    let mut sbin_is_link = false;
    let mut archive = Archive::new(from);
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let name = normal(&entry.path_bytes());
        sbin_is_link |= name == "sbin" && entry.header().entry_type() == EntryType::Symlink;
        if is_of_interest(&name) {
            found.insert(name);
        }
        to.write_all(entry.header().as_bytes())?;
        let length = io::copy(&mut entry, to)?;
        let padding = length.next_multiple_of(512).saturating_sub(length);
        io::copy(&mut io::repeat(0).take(padding), to)?;
    }
    let has = |name: &str| found.contains(name);
    if guest::LAYERS.iter().any(|name| has(name)) && !guest::MOUNT_POINTS.iter().any(|name| has(name)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it holds the layers of a container's image; export a container instead (docker export, podman export)",
        ));
    }
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no root file system"));
    }
    let mut to = Builder::new(to);
    for name in guest::MOUNT_POINTS.iter().filter(|name| !has(name)) {
        directory(&mut to, name, if *name == "tmp" { 0o1777 } else { 0o755 })?;
    }
    if !tags.is_empty() && !has(guest::SHARES) {
        directory(&mut to, "etc/microvm-spectrum", 0o755)?;
        let text: String = tags.iter().map(|tag| format!("{tag}\n")).collect();
        file(&mut to, guest::SHARES, 0o644, text.as_bytes())?;
    }
    if !has(guest::SCRIPT) {
        let systemd = guest::SYSTEMD.iter().any(|name| has(name));
        directory(&mut to, "usr/lib/microvm-spectrum", 0o755)?;
        let units = guest::UNITS.iter().filter(|_| systemd);
        for guest::File { path, mode, content } in guest::FILES.iter().chain(units) {
            file(&mut to, path, *mode, content.as_bytes())?;
        }
        for (path, target) in guest::UNIT_LINKS.iter().filter(|(path, _)| systemd && !has(path)) {
            link(&mut to, path, target)?;
        }
        if systemd && !has(guest::MACHINE_ID) {
            file(&mut to, guest::MACHINE_ID, 0o444, b"")?;
        }
        if !guest::INITS.iter().any(|name| has(name)) {
            let init = if sbin_is_link { "usr/sbin/init" } else { "sbin/init" };
            link(&mut to, init, &format!("/{}", guest::SCRIPT))?;
        }
    }
    to.finish()
}

/// The name of an entry as the constants have it.
fn normal(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    name.trim_start_matches("./").trim_matches('/').to_owned()
}

fn is_of_interest(name: &str) -> bool {
    [guest::SCRIPT, guest::SHARES, guest::MACHINE_ID].contains(&name)
        || guest::UNIT_LINKS.iter().any(|(path, _)| *path == name)
        || [&guest::SYSTEMD[..], &guest::INITS, &guest::MOUNT_POINTS, &guest::LAYERS].concat().contains(&name)
        || ["bin", "etc", "usr"].contains(&name.split('/').next().unwrap_or_default()) && !name.contains('/')
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// Adds a directory.
///
/// # Errors
/// When writing fails.
pub(super) fn directory(to: &mut Builder<impl Write>, path: &str, mode: u32) -> io::Result<()> {
    to.append_data(&mut header(EntryType::Directory, mode), path, io::empty())
}

/// Adds a regular file.
///
/// # Errors
/// When writing fails.
pub(super) fn file(to: &mut Builder<impl Write>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = header(EntryType::Regular, mode);
    header.set_size(content.len() as u64);
    to.append_data(&mut header, path, content)
}

/// Adds a symbolic link.
///
/// # Errors
/// When writing fails.
pub(super) fn link(to: &mut Builder<impl Write>, path: &str, target: &str) -> io::Result<()> {
    to.append_link(&mut header(EntryType::Symlink, 0o777), path, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(names: &[&str]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        for name in names {
            file(&mut archive, name, 0o644, b"x").unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn copied(names: &[&str], tags: &[&str]) -> Vec<String> {
        let mut to = Vec::new();
        copy(made(names).as_slice(), &mut to, tags).unwrap();
        let mut archive = Archive::new(to.as_slice());
        archive.entries().unwrap().map(|entry| normal(&entry.unwrap().path_bytes())).collect()
    }

    #[test]
    fn a_system_gets_what_it_lacks() {
        let bare = copied(&["etc/passwd", "usr"], &["home"]);
        for name in ["proc", "usr/lib/microvm-spectrum/microvm-guest", "sbin/init", guest::SHARES] {
            assert!(bare.iter().any(|found| found == name), "{name}: {bare:?}");
        }
        let systemd = copied(&["usr/lib/systemd/systemd", "usr/sbin/init", "tmp"], &[]);
        assert_eq!(systemd.iter().filter(|name| name.ends_with("sbin/init")).count(), 1);
        assert_eq!(systemd.iter().filter(|name| *name == "tmp").count(), 1);
        assert!(systemd.iter().any(|name| name.ends_with("wants/microvm-guest.service")), "{systemd:?}");
        assert!(systemd.iter().any(|name| name == guest::MACHINE_ID), "{systemd:?}");
        let own = copied(&["bin", guest::SCRIPT], &[]);
        assert_eq!(own.iter().filter(|name| *name == guest::SCRIPT).count(), 1);
        assert!(!own.iter().any(|name| name == "sbin/init"));
    }

    #[test]
    fn what_is_no_root_file_system_is_refused() {
        for (bytes, why) in [
            (made(&["oci-layout", "manifest.json"]), "docker export"),
            (made(&["a", "b"]), "no root file system"),
            (Vec::new(), "no root file system"),
        ] {
            let error = copy(bytes.as_slice(), &mut Vec::new(), &[]).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(copy([7_u8; 2048].as_slice(), &mut Vec::new(), &[]).is_err());
    }
}
