// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! How a VM's run ended.

use std::fmt;

use crate::base::printable::printable;
use crate::base::problem::{Problem, Problems};
use crate::system::systemd::KILLED;

/// How a VM's run ended, with an exit status for the process that started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered off (status 0).
    PoweredOff,
    /// The VM directory has changed and is now wrong, or leads elsewhere (status 1).
    InputRefused(Problems),
    /// The host failed, for the reason given (status 3).
    HostFailed(String),
    /// The host lacks what the VM needs (status 3).
    HostIncomplete(Problems),
    /// The guest's kernel panicked (status 4).
    Panicked,
    /// The VMM ended without its guest (status 5).
    VmmFailed(String),
    /// The VMM ended, or did not answer, before the VM ran (status 6).
    NotStarted(String),
    /// The server of a shared directory ended (status 7).
    ShareFailed {
        /// The share's tag.
        tag: String,
        /// How virtiofsd ended.
        status: String,
    },
    /// passt, which connects the VM to the host's network, ended as it says (status 7).
    UplinkFailed(String),
    /// The VMM was killed because the guest did not power off (status 8).
    Killed(String),
}

impl Outcome {
    /// The exit status of `microvm-run`.
    pub fn status(&self) -> u8 {
        match self {
            Self::PoweredOff => 0,
            Self::InputRefused(_) => 1,
            Self::HostFailed(_) | Self::HostIncomplete(_) => 3,
            Self::Panicked => 4,
            Self::VmmFailed(_) => 5,
            Self::NotStarted(_) => 6,
            Self::ShareFailed { .. } | Self::UplinkFailed(_) => 7,
            Self::Killed(_) => KILLED,
        }
    }

    /// The problems that caused it, sorted; empty for outcomes of other kinds.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::InputRefused(problems) | Self::HostIncomplete(problems) => problems.clone().into_sorted(),
            _ => Vec::new(),
        }
    }
}

/// One line that explains the outcome.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered off"),
            Self::InputRefused(_) => f.write_str("not started: the VM directory has errors"),
            Self::HostFailed(why) => write!(f, "not started: {}", printable(why)),
            Self::HostIncomplete(_) => f.write_str("not started: the host lacks what the VM needs"),
            Self::Panicked => f.write_str("the guest's kernel panicked"),
            Self::VmmFailed(why) => write!(f, "the virtual machine monitor failed: {}", printable(why)),
            Self::NotStarted(why) => {
                write!(f, "the virtual machine monitor did not start: {}", printable(why))
            }
            Self::ShareFailed { tag, status } => {
                write!(
                    f,
                    "the server of the shared directory '{}' ended: {}",
                    printable(tag),
                    printable(status)
                )
            }
            Self::UplinkFailed(status) => {
                write!(f, "passt, which connects it to the host's network, ended: {}", printable(status))
            }
            Self::Killed(why) => write!(f, "the virtual machine monitor was killed: {}", printable(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_one_line() {
        let text = "a\nb\x1b".to_owned();
        for outcome in [
            Outcome::VmmFailed(text.clone()),
            Outcome::NotStarted(text.clone()),
            Outcome::HostFailed(text.clone()),
            Outcome::ShareFailed { tag: text.clone(), status: text.clone() },
            Outcome::UplinkFailed(text.clone()),
            Outcome::Killed(text),
        ] {
            assert!(!outcome.to_string().contains(['\n', '\x1b']), "{outcome}");
            assert!(outcome.status() > 2);
        }
    }
}
