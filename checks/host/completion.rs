// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The Tab key, in real shells on real terminals.

use crate::support::installed::{Host, INSTALLED};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::terminal::Terminal;

/// The shells, how they start without anybody's settings, and what makes them complete.
const SHELLS: [(&str, &[&str], &str); 3] = [
    ("bash", &["--norc", "--noprofile", "-i"], "source SCRIPT"),
    ("zsh", &["--no-rcs", "-i"], "autoload -Uz compinit; compinit -u -D; source SCRIPT"),
    ("fish", &["--no-config", "--private"], "source SCRIPT"),
];

#[test]
fn a_shell_completes_commands_names_and_files() {
    needs!(is_possible());
    let host = Host::new();
    for name in ["appvm-mail", "net"] {
        host.vm(name);
    }
    host.sync();
    // A file whose name is a command for a shell that takes it as it is.
    let directory = "/srv/files";
    host.machine.write(&format!("{directory}/evil$(touch pwned)"), "");
    for (shell, options, load) in SHELLS {
        let script = format!("/srv/completion.{shell}");
        host.ok(&["sh", "-c", &format!("{INSTALLED} completion {shell} >{script}")]);
        let mut command = host.machine.command(shell, options);
        command.env("TERM", "xterm").env("PS1", "$ ");
        let terminal = Terminal::start(&command, 24, 160);
        terminal.type_text(&format!("cd {directory}; {}; echo 're''ady'\r", load.replace("SCRIPT", &script)));
        terminal.wait_for("ready");
        terminal.type_text("microvm-spectrum rest\t");
        terminal.wait_for("restart");
        terminal.type_text("appv\t");
        terminal.wait_for("appvm-mail");
        terminal.type_text("\x15microvm-spectrum build ev\t");
        terminal.wait_for("evil");
        terminal.type_text("--no-such-option\r");
        terminal.wait_for("no-such-option' found");
        assert!(!host.machine.path(&format!("{directory}/pwned")).exists(), "{shell}: {}", terminal.text());
        terminal.type_text("exit\r");
    }
}
