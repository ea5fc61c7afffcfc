// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a passt can do, found out by asking it: its help lists its options. Versions are dates, and
//! those of distributions have other forms.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::system::program::{self, ProgramError};

/// How long passt may take to print its help.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether `passt` can serve Cloud Hypervisor: since 2024_11. One that cannot be executed here,
/// because it is only on the host that will run the VM, counts as one that can.
pub fn has_vhost_user(passt: &Path) -> bool {
    has_option(passt, "--vhost-user")
}

/// Whether `passt` refuses what a guest sends to addresses of the loopback: those that have this
/// option, since 2024_08.
pub fn guards_loopback(passt: &Path) -> bool {
    has_option(passt, "--map-host-loopback")
}

fn has_option(passt: &Path, option: &str) -> bool {
    match program::output_until(Command::new(passt).arg("--help"), Instant::now() + PROBE_TIMEOUT) {
        Ok(help) => lists(&String::from_utf8_lossy(&help), option),
        Err(ProgramError::NotExecuted { .. }) => true,
        // Those before 2024 end so when they are asked for help.
        Err(_) => false,
    }
}

/// Whether this help names the option.
fn lists(help: &str, option: &str) -> bool {
    help.split_whitespace().any(|word| word == option)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn goes_by_the_options_in_the_help() {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = |name: &str, script: &str| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let new = stand_in("new", "echo '  --vhost-user\tEnable it'; echo '  --map-host-loopback ADDR'");
        assert!(has_vhost_user(&new) && guards_loopback(&new));
        let former = stand_in("former", "echo '  --vhost-users  x'");
        assert!(!has_vhost_user(&former) && !guards_loopback(&former));
        let old = stand_in("old", "echo '  --vhost-user'; exit 1");
        assert!(!has_vhost_user(&old));
        // It is on the host that will run the VM.
        assert!(has_vhost_user(Path::new("/nonexistent/passt")));
    }
}
