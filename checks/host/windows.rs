// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Windows of installed VMs in the sessions of persons: real user managers, and
//! compositors with security contexts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::compositor::{CONFIGURATION, DISPLAY, ENVIRONMENT, application_ids, count, pixels_of};
use crate::support::guest::part;
use crate::support::installed::{Host, INSTALLED};
use crate::support::program::{Ran, copy};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::{wait_for, wait_or_explain};

/// Where sway is, in the machine.
const SWAY: &str = "/opt/sway";
/// The protocols that sway withholds from what it knows to be sandboxed, and that a
/// guest must not have: to capture the screen, to read and set the clipboard unseen, to
/// cover other windows, to type and to click, to see and control other windows, to lock
/// the session, and to pass for another sandbox.
const WITHHELD: [&str; 8] = [
    "zwlr_screencopy_manager_v1",
    "zwlr_data_control_manager_v1",
    "zwlr_layer_shell_v1",
    "zwp_virtual_keyboard_manager_v1",
    "zwlr_virtual_pointer_manager_v1",
    "zwlr_foreign_toplevel_manager_v1",
    "ext_session_lock_manager_v1",
    "wp_security_context_manager_v1",
];
/// Connects to a socket, and says so with its status.
const CONNECT: &str = "use IO::Socket::UNIX; exit !IO::Socket::UNIX->new(Peer => $ARGV[0])";

/// A machine for persons with compositors.
struct Desk {
    host: Host,
}

/// A person of a desk.
#[derive(Clone, Copy)]
struct Person {
    name: &'static str,
    uid: u32,
}

const ALICE: Person = Person { name: "alice", uid: 2001 };
const BOB: Person = Person { name: "bob", uid: 2002 };

impl Desk {
    fn new(settings: &str) -> Self {
        let host = Host::new();
        let machine = &host.machine;
        machine.mkdir(SWAY);
        machine.ok(&["mount", "--bind", part("SWAY").to_str().unwrap(), SWAY]);
        // Where the VMs' users can execute it.
        let qemu = "/usr/local/bin/qemu-rutabaga";
        copy(part("RUTABAGA_QEMU"), &machine.path(qemu));
        fs::set_permissions(machine.path(qemu), fs::Permissions::from_mode(0o755)).unwrap();
        host.configure(settings);
        let path = "/etc/microvm-spectrum/config.toml";
        machine.write(path, &machine.read(path).replace(part("QEMU").to_str().unwrap(), qemu));
        machine.write(
            "/etc/sway.conf",
            &format!(
                "{CONFIGURATION}exec 'systemctl --user import-environment WAYLAND_DISPLAY && \
                 systemctl --user start sway-session.target'\n"
            ),
        );
        let environment = ENVIRONMENT.join(" ");
        machine.write(
            "/etc/systemd/user/sway.service",
            &format!(
                "[Service]\nEnvironment={environment}\nExecStart={SWAY}/bin/sway --config /etc/sway.conf\n"
            ),
        );
        machine.write(
            "/etc/systemd/user/sway-session.target",
            "[Unit]\nBindsTo=graphical-session.target sway.service\nAfter=sway.service\n",
        );
        Self { host }
    }

    /// A desk whose first person has a session and a VM `mail`, which runs.
    fn with_mail_of_alice() -> Self {
        let desk = Self::new("[vm.mail]\nwayland-user = 'alice'\n");
        desk.log_in(ALICE);
        desk.vm("mail");
        desk.host.sync();
        desk.host.start("mail");
        desk
    }

    /// Lets a person log in, with a compositor and the service that offers it to VMs.
    fn log_in(&self, person: Person) {
        let (name, id) = (person.name, person.uid.to_string());
        self.host.ok(&["groupadd", "--gid", &id, name]);
        self.host.ok(&["useradd", "--create-home", "--uid", &id, "--gid", &id, name]);
        self.host.ok(&["systemctl", "start", &format!("user@{id}.service")]);
        self.user_manager(person, &["enable", "microvm-spectrum-wayland.service"]).exits(0);
        self.start_compositor(person);
    }

    fn user_manager(&self, person: Person, arguments: &[&str]) -> Ran {
        self.in_session(person, &[&["systemctl", "--user"], arguments].concat())
    }

    fn start_compositor(&self, person: Person) {
        self.user_manager(person, &["start", "sway.service"]).exits(0);
        wait_or_explain(
            &format!("the session of {}", person.name),
            || {
                let state = self.user_manager(person, &["is-active", "microvm-spectrum-wayland.service"]);
                (state.stdout.trim() == "active").then_some(())
            },
            || self.user_manager(person, &["status", "--no-pager", "--lines=30"]).stdout,
        );
    }

    /// Runs a program in the session of a person, as that person.
    fn in_session(&self, person: Person, line: &[&str]) -> Ran {
        let session = format!(
            "export XDG_RUNTIME_DIR=/run/user/{} WAYLAND_DISPLAY={DISPLAY} HOME=/home/{}\n\
             export SWAYSOCK=$(ls -t $XDG_RUNTIME_DIR/sway-ipc.*.sock 2>/dev/null | head -n 1)\nexec \"$@\"",
            person.uid, person.name
        );
        self.host.machine.try_as(person.uid, person.uid, &[&["sh", "-c", &session, "sh"], line].concat())
    }

    /// Adds a VM that shows windows.
    fn vm(&self, name: &str) {
        fs::write(self.host.vm(name).join("wayland"), "").unwrap();
    }

    /// How many pixels of each of the guests' colours are on the screen of a person.
    fn pixels(&self, person: Person) -> [usize; 4] {
        let picture = format!("/run/user/{}/picture.ppm", person.uid);
        self.in_session(person, &[&format!("{SWAY}/bin/grim"), "-t", "ppm", &picture]).exits(0);
        count(&fs::read(self.host.machine.path(&picture)).unwrap())
    }

    #[track_caller]
    fn wait_windows(&self, person: Person, windows: usize) {
        wait_or_explain(
            &format!("{windows} windows on the screen of {}", person.name),
            || (self.pixels(person) == pixels_of(windows)).then_some(()),
            || format!("pixels: {:?}", self.pixels(person)),
        );
    }

    /// What the compositor of a person knows of its windows.
    fn tree(&self, person: Person) -> serde_json::Value {
        let tree = self.in_session(person, &[&format!("{SWAY}/bin/swaymsg"), "-t", "get_tree"]).exits(0);
        serde_json::from_str(&tree.stdout).unwrap()
    }

    /// Shows a window of a VM's guest, until it is hidden.
    fn show(&self, vm: &str, application: &str) {
        self.host.in_guest(vm, &format!("(show-window show {application} >/tmp/shown 2>&1 &)"));
    }

    fn hide(&self, vm: &str) {
        self.host.in_guest(vm, "killall show-window; while pidof show-window; do sleep 0.1; done");
    }

    /// Whether a user can connect to the socket of a VM.
    fn connects(&self, uid: u32, vm: &str) -> bool {
        self.host.machine.try_as(uid, uid, &["perl", "-e", CONNECT, &socket(vm)]).status == 0
    }

    /// The user id of a running VM.
    fn uid(&self, vm: &str) -> u32 {
        self.host.ok(&["stat", "--format=%u", &format!("/run/microvm/{vm}")]).parse().unwrap()
    }
}

fn socket(vm: &str) -> String {
    format!("/run/microvm-spectrum-wayland/{vm}/wayland.sock")
}

#[test]
fn a_vm_shows_windows_in_the_session_of_its_person_and_gets_nothing_else() {
    needs!(is_possible());
    let desk = Desk::new("[vm.mail]\nwayland-user = 'alice'\n[vm.other]\nwayland-user = 'bob'\n");
    // This sway tells nobody which sandbox a window is from; so it prints what it is told.
    let told = "[Service]\nEnvironment=WAYLAND_DEBUG=server\n";
    desk.host.machine.write("/etc/systemd/user/sway.service.d/told.conf", told);
    desk.log_in(ALICE);
    desk.log_in(BOB);
    desk.vm("mail");
    desk.vm("other");
    desk.host.sync();
    desk.host.start("mail");
    desk.host.start("other");

    desk.show("mail", "letter");
    desk.wait_windows(ALICE, 1);
    desk.show("other", "thing");
    desk.wait_windows(BOB, 1);
    assert_eq!(desk.pixels(ALICE), pixels_of(1), "bob's VM is on the screen of alice");
    assert_eq!(application_ids(&desk.tree(ALICE)), ["letter"]);
    for (person, vm, other) in [(ALICE, "mail", "other"), (BOB, "other", "mail")] {
        desk.host.ok(&["journalctl", "--sync"]);
        let said = desk.host.ok(&["journalctl", "--output=cat", &format!("_UID={}", person.uid)]);
        for told in [
            r#"set_sandbox_engine("microvm-spectrum")"#.to_owned(),
            format!("set_app_id(\"microvm-spectrum.{vm}\")"),
            format!("set_instance_id(\"{vm}\")"),
        ] {
            assert!(said.contains(&told), "the compositor of {} was not told {told}", person.name);
        }
        assert!(!said.contains(&format!("set_instance_id(\"{other}\")")), "{} has {other}", person.name);
    }
    desk.hide("mail");
    desk.wait_windows(ALICE, 0);

    // What is withheld is neither offered nor given: the guest tries every number.
    let globals = desk.host.in_guest("mail", "show-window globals");
    assert!(globals.contains(" xdg_wm_base"), "{globals}");
    for withheld in WITHHELD {
        assert!(!globals.contains(withheld), "{withheld} is offered:\n{globals}");
    }
    // The shell may tell of the end of the window, too.
    let numbers = globals.lines().filter_map(|line| line.strip_prefix("global ")?.split(' ').next());
    let last: u32 = numbers.map(|number| number.parse().unwrap()).max().unwrap();
    let tried = desk.host.in_guest(
        "mail",
        &format!(
            "for n in $(seq 1 {last}); do echo \"$n $(show-window bind $n zwlr_screencopy_manager_v1)\"; done"
        ),
    );
    assert_eq!(tried.matches("refused: invalid").count(), usize::try_from(last).unwrap(), "{tried}");
    // That protocol is there, as for the pictures.
    assert_eq!(desk.pixels(ALICE), [0; 4]);

    // Its socket is for this VM alone.
    let (mail, other) = (desk.uid("mail"), desk.uid("other"));
    assert!(desk.connects(mail, "mail") && desk.connects(other, "other"));
    for stranger in [other, BOB.uid, 65534] {
        assert!(!desk.connects(stranger, "mail"), "{stranger} connects to the socket of mail");
    }
    assert!(!desk.connects(mail, "other"));
}

#[test]
fn a_person_cannot_take_the_windows_of_another_persons_vm() {
    needs!(is_possible());
    let desk = Desk::new("[vm.mail]\nwayland-user = 'alice'\n");
    desk.log_in(BOB);
    desk.vm("mail");
    desk.host.ok(&["useradd", "--create-home", "--uid", "2001", "--user-group", "alice"]);
    desk.host.sync();
    desk.host.start("mail");
    // Nobody offers it a compositor, and the guest's attempt harms nothing.
    desk.show("mail", "letter");
    assert_eq!(desk.host.in_guest("mail", "echo still here"), "still here");
    desk.hide("mail");
    let directory = "/run/microvm-spectrum-wayland/mail";
    for attempt in [
        format!("ls {directory}"),
        format!("touch {directory}/x"),
        format!("rmdir {directory} || mv {directory} /run/user/2002/"),
        "mkdir /run/microvm-spectrum-wayland/new".to_owned(),
        format!("ln -s /run/user/2002/{DISPLAY} {}", socket("mail")),
        format!(
            "perl -e 'use IO::Socket::UNIX; exit !IO::Socket::UNIX->new(Local => \"{}\", Listen => 1)'",
            socket("mail")
        ),
        format!("{INSTALLED} host mount-wayland mail --vm 2002 --session 2002"),
    ] {
        assert_ne!(desk.in_session(BOB, &["sh", "-c", &attempt]).status, 0, "{attempt}");
    }
    assert_eq!(desk.pixels(BOB), [0; 4]);
    assert!(!desk.host.machine.path(&socket("mail")).exists());
    assert_eq!(desk.host.state("mail"), "running");
}

#[test]
fn windows_come_back_with_the_session() {
    needs!(is_possible());
    let desk = Desk::with_mail_of_alice();
    desk.show("mail", "first");
    desk.wait_windows(ALICE, 1);
    let status = desk.host.run(&["status", "mail", "--json"]).exits(0).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["windows"], serde_json::json!({"user": ALICE.uid, "compositor": true}));
    let is_there = || desk.host.machine.path(&socket("mail")).exists();
    for end in [["stop", "sway.service"].as_slice(), &["kill", "--signal=KILL", "sway.service"]] {
        desk.user_manager(ALICE, end).exits(0);
        wait_for("the end of the offer", || (!is_there()).then_some(()));
        assert_eq!(desk.host.in_guest("mail", "echo still here"), "still here");
        desk.start_compositor(ALICE);
        wait_for("a new offer", || is_there().then_some(()));
        desk.hide("mail");
        desk.show("mail", "again");
        desk.wait_windows(ALICE, 1);
    }
    assert_eq!(desk.host.boots("mail"), 1);
}

#[test]
fn a_guests_reset_in_a_unit_leaves_its_windows_working() {
    needs!(is_possible());
    let desk = Desk::with_mail_of_alice();
    desk.show("mail", "before");
    desk.wait_windows(ALICE, 1);
    desk.host.last_words("mail", "reboot -f");
    desk.host.wait_boots("mail", 2);
    desk.wait_windows(ALICE, 0);
    desk.show("mail", "after");
    desk.wait_windows(ALICE, 1);
}
