// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum command`

use std::path::PathBuf;

use clap::Args;

use super::{Exit, report};
use crate::base::printable::printable;
use crate::hypervisor;
use crate::hypervisor::description::FilePaths;
use crate::package;

#[derive(Debug, Args)]
pub(super) struct CommandArgs {
    /// The runner package
    #[arg(value_name = "OUT")]
    package: PathBuf,
}

/// Prints one option a line, as a shell would take it. It names the files, which the
/// supervisor hands over as open descriptors.
pub(super) fn run(args: &CommandArgs) -> anyhow::Result<Exit> {
    let plan = package::load(&args.package)?;
    let words = hypervisor::description(plan.hypervisor).command(&plan, &FilePaths::of(&plan));
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let word = shell_word(&word.to_string_lossy());
        if index > 0 {
            text.push_str(if word.starts_with('-') { " \\\n  " } else { " " });
        }
        text.push_str(&word);
    }
    report::to_stdout("the command line", |out| writeln!(out, "{text}"))?;
    Ok(Exit::Fine)
}

/// A word that a shell reads back as it was and a terminal shows safely.
fn shell_word(word: &str) -> String {
    let shown = printable(word);
    // Its backslashes are doubled; otherwise the printable form is the word itself.
    if shown.replace("\\\\", "\\") == word {
        shlex::try_quote(word).map_or(shown, |quoted| quoted.into_owned())
    } else {
        // Bash's form for what cannot be shown: $'...'.
        let mut quoted = String::from("$'");
        for c in word.chars() {
            match c {
                '\'' | '\\' => quoted.extend(['\\', c]),
                c if printable(c.to_string()) == c.to_string() => quoted.push(c),
                c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
            }
        }
        quoted.push('\'');
        quoted
    }
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn a_shell_reads_every_word_back() {
        for word in [
            "plain",
            "two words",
            "it's",
            "a\\b",
            "$(x) `y` !z",
            "line\nfeed",
            "\u{1b}[2J\\'",
            "ü\u{202e}",
            "",
        ] {
            let shown = shell_word(word);
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
            let script = format!("printf %s {shown}");
            let output =
                std::process::Command::new("bash").arg("-c").arg(script).env("LC_ALL", "C.UTF-8").output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word);
        }
    }
}
