// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `console` at a real terminal.

use crate::support::installed::{Host, INSTALLED};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::terminal::Terminal;
use crate::support::waiting::wait_for;

#[test]
fn a_console_is_a_terminal_for_one_user_at_a_time() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("appvm");
    host.sync();
    host.run(&["console", "appvm"])
        .exits(1)
        .complains(&["appvm does not run; microvm-spectrum start appvm starts it"]);
    host.run(&["console", "apvm"]).exits(1).complains(&["there is no VM 'apvm'; did you mean appvm?"]);
    host.start("appvm");
    let attach = || Terminal::start(&host.machine.command(INSTALLED, ["console", "appvm"]), 40, 132);

    let mut first = attach();
    first.wait_for("attached to the console of appvm; Ctrl-] detaches");
    first.wait_for("in the guest: stty rows 40 cols 132");
    wait_for("raw mode", || first.is_raw().then_some(()));
    first.type_text("echo 'one''two'\r");
    first.wait_for("onetwo");
    // What a user of a terminal takes for granted: Ctrl-C is the guest's.
    first.type_text(
        "stty -isig -icanon; echo 're''ady'; dd bs=1 count=1 2>&- | tr '\\003' C; stty isig icanon\r",
    );
    first.wait_for("ready");
    first.type_text("\x03");
    first.wait_for("C");

    let mut second = attach();
    second.wait_for("another process is attached to the console of appvm already");
    assert_eq!(second.end().code(), Some(3));

    first.type_text("\x1d");
    first.wait_for("detached");
    assert_eq!(first.end().code(), Some(0));
    assert!(!first.is_raw(), "the terminal is as it was");

    // Again, and what is typed arrives in the same guest.
    let mut third = attach();
    third.wait_for("Ctrl-] detaches");
    third.type_text("echo 'fo''ur'\r");
    third.wait_for("four");
    // The program gets SIGTERM: the terminal is restored all the same.
    host.ok(&["pkill", "--full", "--", &format!("^{INSTALLED} console")]);
    third.end();
    assert!(!third.is_raw());

    // A terminal that is gone leaves the console to the next.
    let mut fourth = attach();
    fourth.wait_for("Ctrl-] detaches");
    fourth.hang_up();
    fourth.end();
    let mut fifth = attach();
    fifth.wait_for("Ctrl-] detaches");
    // The VM ends, and the console with it.
    host.run(&["stop", "appvm"]).exits(0);
    assert_eq!(fifth.end().code(), Some(0));
    assert!(!fifth.is_raw());
}
