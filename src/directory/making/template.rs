// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Small systems: busybox and the guest package, and what a network provider needs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::Builder;

use super::{archive, image};
use crate::base::problem::Problem;
use crate::system::program;

/// What a VM is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Template {
    /// A VM whose network the VM netvm provides
    App,
    /// A VM that provides others with a network: give it an uplink
    Netvm,
}

/// The files of this host that a small system is made of.
#[derive(Debug)]
pub(super) struct Parts {
    applets: BTreeSet<String>,
    /// Where each file is there, without a slash at the beginning, and here.
    files: BTreeMap<String, PathBuf>,
}

impl Template {
    /// Finds busybox, nft for a network provider, and their libraries.
    ///
    /// # Errors
    /// When one is missing, or does not say what it needs.
    pub(super) fn find_parts(self, path: &OsStr) -> Result<Parts, Problem> {
        let mut directories = path.to_owned();
        directories.push(":/usr/sbin:/sbin");
        let busybox = image::find("busybox", "busybox-static or busybox", path)?;
        let mut parts = Parts { applets: BTreeSet::new(), files: BTreeMap::new() };
        let told = |error| {
            Problem::host(&busybox, format!("does not say what it can do: {error}"), "install it again")
        };
        let listed = program::output(Command::new(&busybox).arg("--list"), "").map_err(told)?;
        let listed = String::from_utf8_lossy(&listed);
        parts.applets =
            listed.lines().filter(|name| !["busybox", "init"].contains(name)).map(str::to_owned).collect();
        parts.add("bin/busybox", &busybox, path)?;
        if self == Self::Netvm {
            let nft = image::find("nft", "nftables", &directories)?;
            parts.add("usr/sbin/nft", &nft, path)?;
        }
        Ok(parts)
    }
}

impl Parts {
    /// Adds a program and the libraries that it loads, where these are on this host.
    fn add(&mut self, name: &str, program: &Path, path: &OsStr) -> Result<(), Problem> {
        self.files.insert(name.to_owned(), program.to_owned());
        let ldd = image::find("ldd", "libc-bin", path)?;
        // It fails for one that loads none.
        let listed = program::output(Command::new(ldd).arg(program), "").unwrap_or_default();
        for line in String::from_utf8_lossy(&listed).lines() {
            let library = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(library) = library {
                self.files.insert(library.trim_start_matches('/').to_owned(), library.into());
            }
        }
        Ok(())
    }

    /// All as an archive.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn archive(&self) -> io::Result<Vec<u8>> {
        let mut to = Builder::new(Vec::new());
        let mut directories =
            BTreeSet::from(["etc", "home", "root", "sbin", "srv", "var"].map(str::to_owned));
        let parents = self.files.keys().flat_map(|name| Path::new(name).ancestors().skip(1));
        directories
            .extend(parents.filter_map(Path::to_str).filter(|name| !name.is_empty()).map(str::to_owned));
        for name in &directories {
            archive::directory(&mut to, name, 0o755)?;
        }
        for (name, path) in &self.files {
            archive::file(&mut to, name, 0o755, &fs::read(path)?)?;
        }
        for applet in &self.applets {
            archive::link(&mut to, &format!("bin/{applet}"), "busybox")?;
        }
        archive::file(&mut to, "etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n")?;
        archive::file(&mut to, "etc/group", 0o644, b"root:x:0:\n")?;
        to.into_inner()
    }
}
