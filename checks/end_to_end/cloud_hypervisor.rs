// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The supervisor with Cloud Hypervisor's habits.
//!
//! Cloud Hypervisor needs KVM and is in no registry, so CI cannot execute it.
//! A stand-in for it does what version 53 was seen to do, to
//! keep the supervisor's side of it from breaking unseen. They are no proof that
//! Cloud Hypervisor does so: that is `make check-cloud-hypervisor`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::PROGRAM;
use crate::support::running_vm::{Place, Running, kill};
use crate::support::waiting::wait_for;

/// Events as Cloud Hypervisor writes them, one JSON object each, to descriptor 3.
const EVENTS: &str = r#"
event() { printf '{"timestamp":{"secs":0,"nanos":1},"source":"%s","event":"%s","properties":null}\n\n' "$1" "$2" >&3; }
event vmm starting; event vm booting
"#;

/// The API: one call after another. Without `answers` it takes calls and is silent; with `refuses`
/// its answer is no.
const API: &str = r#"
perl -MIO::Socket::UNIX -e '
my $api = IO::Socket::UNIX->new(Local => "ch.control.sock", Listen => 5) or die;
open(my $up, ">", "answers");
while (my $client = $api->accept) {
    my ($head, $line) = ("", "");
    while (defined($line = <$client>) && $line ne "\r\n") { $head .= $line; }
    if ($head =~ /vm.power-button/) { open(my $pressed, ">", "pressed"); }
    my $status = -e "refuses" ? 500 : 200;
    if (-e "answers") { print $client "HTTP/1.1 $status \r\nContent-Length: 2\r\n\r\n{}"; }
    else { push @silent, $client; next; }
}' 3>&- &
while ! test -e answers; do sleep 0.05; done
"#;

struct StandIns {
    place: Place,
    run: PathBuf,
}

impl StandIns {
    fn new() -> Self {
        let place = Place::new();
        let run = place.run_directory("run");
        Self { place, run }
    }

    fn script(&self, name: &str, text: &str) -> String {
        let path = self.place.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        format!("{name}={}", path.display())
    }

    /// Builds a package whose Cloud Hypervisor does what `behaviour` says.
    fn build(&self, behaviour: &str, share: bool) -> PathBuf {
        let mut vm = self.place.partition.vm("ch").image("root.img", b"data");
        if share {
            self.place.shared("home");
            vm = vm.share("home", "/ext/home");
        }
        let text =
            format!("#!/bin/sh\n{EVENTS}\n{API}\ntouch ch.control.sock.lock\nevent vm booted\n{behaviour}");
        let output = self.place.dir.path().join("ch.package");
        let result = Command::new(PROGRAM)
            .arg("build")
            .arg(&vm.path)
            .arg("--output")
            .arg(&output)
            .args(["--tool", &self.script("cloud-hypervisor", &text)])
            .args(["--tool".to_owned(), format!("virtiofsd={}", self.place.virtiofsd().display())])
            .output()
            .unwrap();
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        output
    }

    fn start(&self, package: &Path) -> Running {
        let running = Running::start(package, &self.run);
        running.messages.wait_for("ch: running in cloud-hypervisor (kvm)");
        running
    }

    /// Removes the stand-ins' own files, so that what is left is the supervisor's.
    fn tidy(&self) {
        for name in ["answers", "pressed", "refuses"] {
            let _ = fs::remove_file(self.run.join(name));
        }
    }
}

fn end(stand_ins: &StandIns, mut running: Running, status: i32, line: &str) -> String {
    running.look();
    running.wait();
    stand_ins.tidy();
    let ended = running.end();
    ended.assert(status, line);
    ended.messages
}

#[test]
fn the_guest_powers_off_and_the_vmm_stays() {
    let stand_ins = StandIns::new();
    let wait = "while ! test -e pressed; do sleep 0.05; done\nevent vm shutdown\nexec sleep 1000";
    let package = stand_ins.build(wait, false);
    let running = stand_ins.start(&package);
    running.signal("TERM");
    end(&stand_ins, running, 0, "ch: the guest powered off");
}

#[test]
fn a_crash_ends_both_however_long_it_takes() {
    let stand_ins = StandIns::new();
    let crash = "while ! test -e pressed; do sleep 0.05; done\nrm answers\nevent vm shutdown\nsleep 1\nevent vm deleted\nevent vmm shutdown\nexit 0";
    let package = stand_ins.build(crash, false);
    let running = stand_ins.start(&package);
    fs::write(stand_ins.run.join("pressed"), "").unwrap();
    end(
        &stand_ins,
        running,
        5,
        "ch: the virtual machine monitor failed: cloud-hypervisor ended with exit status: 0",
    );
}

#[test]
fn the_guest_panics_and_the_vmm_stays() {
    let stand_ins = StandIns::new();
    let package = stand_ins.build("event guest panic\nexec sleep 1000", false);
    let running = stand_ins.start(&package);
    end(&stand_ins, running, 4, "ch: the guest's kernel panicked");
}

#[test]
fn a_reset_leaves_the_shares_and_comes_again() {
    let stand_ins = StandIns::new();
    // A client that connects and goes is what virtiofsd sees of a reset.
    let reset = "event vm rebooting
connect() { perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new(Peer => \"ch.virtiofs-0.sock\")'; }
connect; sleep 1; while ! connect 2>/dev/null; do sleep 0.1; done
event vm rebooted
while ! test -e pressed; do sleep 0.05; done
event vm shutdown; exec sleep 1000";
    let package = stand_ins.build(reset, true);
    let running = stand_ins.start(&package);
    running.messages.wait_for("ch: the guest was reset");
    running.signal("TERM");
    end(&stand_ins, running, 0, "ch: the guest powered off");
}

#[test]
fn a_reset_that_the_vmm_fails_to_do_is_done_by_another_vmm() {
    let stand_ins = StandIns::new();
    // As where the tap of a link is gone.
    let reset = "while ! test -e pressed; do
if test -e reset; then rm reset; event vm rebooting; echo 'Error: VmReboot' >&2; exit 1; fi
sleep 0.05
done
event vm shutdown; exec sleep 1000";
    let package = stand_ins.build(reset, true);
    let running = stand_ins.start(&package);
    fs::write(stand_ins.run.join("reset"), "").unwrap();
    running.messages.wait_for("ch: the guest was reset");
    wait_for("the next VMM", || {
        let started = running.messages.text().matches("ch: running in cloud-hypervisor (kvm)").count();
        (started == 2).then_some(())
    });
    running.signal("TERM");
    end(&stand_ins, running, 0, "ch: the guest powered off");
}

#[test]
fn a_silent_api_does_not_keep_the_supervisor_from_killing_the_vmm() {
    let stand_ins = StandIns::new();
    let package = stand_ins.build("exec sleep 1000", false);
    let running = stand_ins.start(&package);
    fs::remove_file(stand_ins.run.join("answers")).unwrap();
    running.signal("TERM");
    wait_for("the power button", || stand_ins.run.join("pressed").exists().then_some(()));
    running.signal("TERM");
    let messages = end(&stand_ins, running, 8, "a second signal ended the guest's time to power off");
    assert!(!messages.contains("did not answer"), "it waited for an answer: {messages}");
}

#[test]
fn a_power_button_that_cannot_be_pressed() {
    let stand_ins = StandIns::new();
    let package = stand_ins.build("exec sleep 1000", false);
    let running = stand_ins.start(&package);
    fs::write(stand_ins.run.join("refuses"), "").unwrap();
    running.signal("TERM");
    running.messages.wait_for("ch: the power button cannot be pressed: ");
    running.signal("TERM");
    end(&stand_ins, running, 8, "a second signal ended the guest's time to power off");
}

#[test]
fn a_guest_whose_share_is_gone_gets_no_time_to_power_off() {
    let stand_ins = StandIns::new();
    let package = stand_ins.build("exec sleep 1000", true);
    let mut servers = Running::script(&package, "virtiofsd-run", &stand_ins.run, &[]);
    wait_for("the servers", || stand_ins.run.join("ch.virtiofs.sock").exists().then_some(()));
    let mut running = Running::script(&package, "microvm-run", &stand_ins.run, &["--external-virtiofsd"]);
    running.messages.wait_for("ch: running in cloud-hypervisor (kvm)");
    // As systemd does, which stops the VM because its servers have failed.
    running.signal("TERM");
    running.messages.wait_for("pressing the guest's power button");
    kill(servers.process("--shared-dir"), "KILL");
    servers.wait();
    running.wait();
    stand_ins.tidy();
    let gone = "ch: the server of the shared directory 'home' ended: the process that serves it has ended";
    running.look();
    running.end().assert(7, gone);
}

#[test]
fn the_vmm_is_killed() {
    let stand_ins = StandIns::new();
    let package = stand_ins.build("exec sleep 1000", false);
    let mut running = stand_ins.start(&package);
    kill(running.process("sleep"), "KILL");
    end(&stand_ins, running, 5, "cloud-hypervisor ended with signal: 9");
}

#[test]
fn a_vmm_that_closes_its_events_and_lives_on_is_ended() {
    let stand_ins = StandIns::new();
    let package = stand_ins.build("exec 3>&-\nexec sleep 1000", false);
    let running = stand_ins.start(&package);
    end(&stand_ins, running, 5, "no events from the VMM: it closed its control socket");
}
