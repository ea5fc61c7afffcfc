// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A user's session and the VMs that may show windows there: the real user service under a
//! real user manager, with a real compositor. What a VM would do at its socket, a
//! program of its user does.

use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;

use serde_json::Value;
use wayland_client::globals::{GlobalListContents, registry_queue_init};
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_compositor::WlCompositor;
use wayland_client::protocol::wl_registry::WlRegistry;
use wayland_client::protocol::wl_shm::{Format, WlShm};
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection, Dispatch, EventQueue, Proxy, QueueHandle, delegate_noop};
use wayland_protocols::xdg::shell::client::xdg_surface::{self, XdgSurface};
use wayland_protocols::xdg::shell::client::xdg_toplevel::XdgToplevel;
use wayland_protocols::xdg::shell::client::xdg_wm_base::XdgWmBase;

use crate::support::guest::part;
use crate::support::installed::INSTALLED;
use crate::support::program::{PROGRAM, Ran};
use crate::support::skip::needs;
use crate::support::systemd_machine::{Machine, is_possible};
use crate::support::waiting::{wait_for, wait_or_explain};

/// The people, and the users of VMs.
const ALICE: u32 = 2001;
const BOB: u32 = 2002;
const VM: u32 = 70_000;
const OTHER_VM: u32 = 70_001;

/// What the compositor keeps from VMs: pictures of the screen, others' clipboards and keyboards,
/// panels, the lock of the session, and making contexts for others.
const WITHHELD: [&str; 6] = [
    "zwlr_screencopy_manager_v1",
    "zwlr_data_control_manager_v1",
    "zwp_virtual_keyboard_manager_v1",
    "zwlr_layer_shell_v1",
    "ext_session_lock_manager_v1",
    "wp_security_context_manager_v1",
];

/// A machine with two people, one of whom has a session.
struct Session {
    machine: Machine,
}

impl Session {
    fn new() -> Self {
        let machine = Machine::boot_with(&["--bind", &format!("{}:/opt/sway", part("SWAY").display())]);
        let to = machine.path(INSTALLED);
        std::fs::copy(PROGRAM, &to).unwrap();
        machine.ok(&["chmod", "755", INSTALLED]);
        machine.ok(&[INSTALLED, "units", "--output", "/usr/local/lib"]);
        machine
            .write("/etc/sway-headless.conf", "exec systemctl --user import-environment WAYLAND_DISPLAY\n");
        machine.write(
            "/etc/systemd/user/compositor.service",
            "[Service]\nEnvironment=WLR_BACKENDS=headless WLR_RENDERER=pixman WLR_LIBINPUT_NO_DEVICES=1 WAYLAND_DEBUG=server\n\
             ExecStart=/opt/sway/bin/sway --config /etc/sway-headless.conf\n",
        );
        for (name, uid) in [("alice", ALICE), ("bob", BOB)] {
            machine.ok(&["useradd", "--create-home", "--uid", &uid.to_string(), name]);
            machine.ok(&["systemctl", "start", &format!("user@{uid}.service")]);
        }
        Self { machine }
    }

    /// A command of a person's, in the session.
    fn run(&self, uid: u32, line: &[&str]) -> Ran {
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{uid}");
        self.machine.try_as(uid, uid, &[&["env", &runtime, "WAYLAND_DISPLAY=wayland-1"], line].concat())
    }

    #[track_caller]
    fn systemctl(&self, uid: u32, arguments: &[&str]) -> String {
        self.run(uid, &[&["systemctl", "--user"], arguments].concat()).exits(0).stdout
    }

    /// Starts the compositor of Alice's session, and waits until her user manager knows it.
    fn start_compositor(&self) {
        self.systemctl(ALICE, &["start", "compositor"]);
        wait_for("the compositor", || {
            let known = self.systemctl(ALICE, &["show-environment"]).contains("WAYLAND_DISPLAY=wayland-1");
            let listens = UnixStream::connect(self.machine.path("/run/user/2001/wayland-1")).is_ok();
            (known && listens).then_some(())
        });
    }

    /// Root's step when a VM starts.
    fn vm_starts(&self, name: &str, vm: u32, uid: u32, more: &[&str]) {
        let (vm, uid) = (vm.to_string(), uid.to_string());
        let verb = [INSTALLED, "host", "mount-wayland", name, "--vm", &vm, "--session", &uid];
        self.machine.run(&[verb.as_slice(), more].concat()).exits(0).says_nothing();
    }

    /// Root's step when it has ended.
    fn vm_ends(&self, name: &str) {
        self.machine.run(&[INSTALLED, "host", "clear-booted", name]).exits(0).says_nothing();
    }

    fn has_socket(&self, name: &str) -> bool {
        self.machine.path(&socket(name)).exists()
    }

    #[track_caller]
    fn wait_socket(&self, name: &str, there: bool) {
        wait_or_explain(
            &format!("the socket of {name} is there: {there}"),
            || (self.has_socket(name) == there).then_some(()),
            || self.said(),
        );
    }

    /// What the user service has said.
    fn said(&self) -> String {
        self.said_by("microvm-spectrum-wayland")
    }

    fn said_by(&self, service: &str) -> String {
        self.machine.ok(&["journalctl", "--sync"]);
        let unit = format!("_SYSTEMD_USER_UNIT={service}.service");
        self.machine.ok(&["journalctl", "--quiet", "--no-pager", "--output=cat", &unit])
    }

    /// Whether a user may connect to a VM's socket.
    fn may_connect(&self, uid: u32, gid: u32, name: &str) -> bool {
        let (path, user) = (socket(name), format!("{uid}"));
        let connect = "use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; \
            exit(connect($s, sockaddr_un($ARGV[0])) ? 0 : $!{EACCES} ? 7 : 8)";
        match self.machine.try_as(uid, gid, &["perl", "-MErrno", "-e", connect, &path]).status {
            0 => true,
            7 => false,
            other => panic!("user {user} at {path}: {other}"),
        }
    }

    /// The windows that the compositor has, as it describes them.
    fn windows(&self) -> Vec<Value> {
        let find =
            "export SWAYSOCK=$(echo /run/user/2001/sway-ipc.*); exec /opt/sway/bin/swaymsg -t get_tree";
        let tree = self.run(ALICE, &["sh", "-c", find]).exits(0).stdout;
        let mut waiting = vec![serde_json::from_str::<Value>(&tree).unwrap()];
        let mut windows = Vec::new();
        while let Some(node) = waiting.pop() {
            for children in ["nodes", "floating_nodes"] {
                waiting.extend(node[children].as_array().into_iter().flatten().cloned());
            }
            if node["pid"].is_number() {
                windows.push(node);
            }
        }
        windows
    }
}

fn socket(name: &str) -> String {
    format!("/run/microvm-spectrum-wayland/{name}/wayland.sock")
}

/// A client of a compositor.
struct Client {
    queue: EventQueue<Shown>,
    globals: wayland_client::globals::GlobalList,
}

/// Whether the compositor has let a window be drawn.
#[derive(Default)]
struct Shown(bool);

impl Dispatch<WlRegistry, GlobalListContents> for Shown {
    fn event(
        _: &mut Self,
        _: &WlRegistry,
        _: <WlRegistry as Proxy>::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

impl Dispatch<XdgSurface, ()> for Shown {
    fn event(
        shown: &mut Self,
        surface: &XdgSurface,
        event: xdg_surface::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            surface.ack_configure(serial);
            shown.0 = true;
        }
    }
}

delegate_noop!(Shown: WlCompositor);
delegate_noop!(Shown: WlShmPool);
delegate_noop!(Shown: ignore WlShm);
delegate_noop!(Shown: ignore WlBuffer);
delegate_noop!(Shown: ignore WlSurface);
delegate_noop!(Shown: ignore XdgWmBase);
delegate_noop!(Shown: ignore XdgToplevel);

impl Client {
    fn connect(session: &Session, path: &str) -> Self {
        let stream = UnixStream::connect(session.machine.path(path)).unwrap();
        let connection = Connection::from_socket(stream).unwrap();
        let (globals, queue) = registry_queue_init(&connection).unwrap();
        Self { queue, globals }
    }

    fn offers(&self, interface: &str) -> bool {
        self.globals.contents().with_list(|all| all.iter().any(|global| global.interface == interface))
    }

    /// Shows a window, whose pixels are in a file that the compositor gets by a descriptor.
    fn show_window(&mut self) {
        let handle = self.queue.handle();
        let compositor: WlCompositor = self.globals.bind(&handle, 4..=4, ()).unwrap();
        let shm: WlShm = self.globals.bind(&handle, 1..=1, ()).unwrap();
        let shell: XdgWmBase = self.globals.bind(&handle, 1..=1, ()).unwrap();
        let surface = compositor.create_surface(&handle, ());
        let window = shell.get_xdg_surface(&surface, &handle, ());
        let toplevel = window.get_toplevel(&handle, ());
        toplevel.set_app_id("firefox".to_owned());
        surface.commit();
        let mut shown = Shown::default();
        while !shown.0 {
            self.queue.blocking_dispatch(&mut shown).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * 64 * 4).unwrap();
        let pool = shm.create_pool(file.as_fd(), 64 * 64 * 4, &handle, ());
        let buffer = pool.create_buffer(0, 64, 64, 64 * 4, Format::Xrgb8888, &handle, ());
        surface.attach(Some(&buffer), 0, 0);
        surface.commit();
        self.queue.roundtrip(&mut shown).unwrap();
    }

    /// Whether the compositor still answers.
    fn is_alive(&mut self) -> bool {
        self.queue.roundtrip(&mut Shown::default()).is_ok()
    }
}

#[test]
fn a_session_offers_its_compositor_to_the_vms_of_its_user() {
    needs!(is_possible());
    let session = Session::new();
    let verify = ["systemd-analyze", "verify", "--user", "--man=no", "microvm-spectrum-wayland.service"];
    session.run(ALICE, &verify).exits(0).says_nothing();
    // The service comes before the compositor, and before the first VM.
    session.systemctl(ALICE, &["start", "microvm-spectrum-wayland"]);
    let absent = "no compositor is yet at /run/user/2001/wayland-0";
    wait_or_explain(absent, || session.said().contains(absent).then_some(()), || session.said());
    session.vm_starts("early", VM, ALICE, &[]);
    session.vm_starts("bobs", OTHER_VM, BOB, &[]);
    session.systemctl(ALICE, &["stop", "microvm-spectrum-wayland"]);
    assert!(!session.has_socket("early"));
    session.start_compositor();
    session.systemctl(ALICE, &["start", "microvm-spectrum-wayland"]);
    session.wait_socket("early", true);
    session.vm_starts("late", OTHER_VM, ALICE, &[]);
    session.wait_socket("late", true);

    // The directory is the person's and the VM's, and nobody else's.
    let found = session.machine.path("/run/microvm-spectrum-wayland/early").metadata().unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (ALICE, VM, 0o2710));
    let found = session.machine.path(&socket("early")).symlink_metadata().unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (ALICE, VM, 0o660));
    assert!(session.may_connect(VM, VM, "early"));
    assert!(session.may_connect(OTHER_VM, OTHER_VM, "late"));
    assert!(!session.may_connect(OTHER_VM, OTHER_VM, "early"));
    assert!(!session.may_connect(VM, VM, "late"));
    assert!(!session.may_connect(BOB, BOB, "early"));
    // Alice cannot take Bob's VM, nor make a directory for another, nor fill the host's memory.
    assert!(!session.has_socket("bobs"));
    for line in ["touch ../bobs/wayland.sock", "mkdir ../mine", "mv ../bobs ../mine", "ln -s . ../mine"] {
        let line = format!("cd /run/microvm-spectrum-wayland/early && {line}");
        assert_ne!(session.run(ALICE, &["sh", "-c", &line]).status, 0, "{line}");
    }
    let fill = "cd /run/microvm-spectrum-wayland/early && ! head -c 1M /dev/zero >zeros && stat -c %s zeros && rm zeros";
    let filled = session.run(ALICE, &["sh", "-c", fill]).exits(0).stdout;
    assert!(filled.trim().parse::<u32>().unwrap() <= 64 << 10, "{filled}");

    // The compositor knows whose the window is, and keeps what VMs must not have.
    let (mut vm, own) =
        (Client::connect(&session, &socket("early")), Client::connect(&session, "/run/user/2001/wayland-1"));
    for interface in WITHHELD {
        assert_eq!((own.offers(interface), vm.offers(interface)), (true, false), "{interface}");
    }
    for interface in ["wl_compositor", "wl_shm", "xdg_wm_base", "wl_data_device_manager"] {
        assert!(vm.offers(interface), "{interface}");
    }
    vm.show_window();
    let window = wait_for("the window", || session.windows().pop());
    assert_eq!(window["app_id"], "firefox", "what the guest says");
    // This version of sway shows it nowhere, but libwayland reports what it is told.
    for told in [
        "set_sandbox_engine(\"microvm-spectrum\")",
        "set_app_id(\"microvm-spectrum.early\")",
        "set_instance_id(\"early\")",
        "set_app_id(\"microvm-spectrum.late\")",
    ] {
        wait_for(told, || session.said_by("compositor").contains(&format!(".{told}")).then_some(()));
    }

    // A VM that ends, and starts again.
    session.vm_ends("early");
    assert!(!session.machine.path("/run/microvm-spectrum-wayland/early").exists());
    session.vm_starts("early", VM, ALICE, &[]);
    session.wait_socket("early", true);
    assert!(vm.is_alive(), "what is open stays open");

    // The compositor is killed, and comes back: so does the socket.
    session.systemctl(ALICE, &["kill", "--signal=KILL", "compositor"]);
    session.wait_socket("early", false);
    session.wait_socket("late", false);
    assert!(!vm.is_alive());
    session.systemctl(ALICE, &["reset-failed", "compositor"]);
    session.start_compositor();
    session.wait_socket("early", true);
    session.wait_socket("late", true);
    assert!(!Client::connect(&session, &socket("early")).offers("zwlr_screencopy_manager_v1"));

    // The service is killed, and comes back.
    session.systemctl(ALICE, &["kill", "--signal=KILL", "microvm-spectrum-wayland"]);
    wait_for("the service again", || {
        (session
            .systemctl(ALICE, &["show", "--value", "--property=NRestarts", "microvm-spectrum-wayland"])
            .trim()
            == "1")
            .then_some(())
    });
    wait_for("the socket", || {
        UnixStream::connect(session.machine.path(&socket("early"))).is_ok().then_some(())
    });
    session.systemctl(ALICE, &["stop", "microvm-spectrum-wayland"]);
    assert!(!session.has_socket("early") && !session.has_socket("late"));
    for name in ["early", "late", "bobs"] {
        session.vm_ends(name);
    }
    assert_eq!(session.machine.ok(&["ls", "-A", "/run/microvm-spectrum-wayland"]), "");
}

#[test]
fn a_compositor_without_security_contexts_is_refused_unless_the_administrator_allows_it() {
    needs!(is_possible());
    let session = Session::new();
    session.start_compositor();
    session.systemctl(ALICE, &["start", "microvm-spectrum-wayland"]);
    session.vm_starts("outer", VM, ALICE, &[]);
    session.wait_socket("outer", true);
    // What a VM sees of a compositor is one that has no security contexts.
    let display = format!("WAYLAND_DISPLAY={}", socket("outer"));
    let unit = "microvm-spectrum-wayland.service";
    session.machine.write(
        "/run/systemd/user/second.service",
        &format!(
            "[Service]\nType=notify\nEnvironment={display}\nExecStart={INSTALLED} host offer-compositor\n"
        ),
    );
    session.systemctl(ALICE, &["daemon-reload"]);
    // The first service would offer its own to these VMs.
    session.systemctl(ALICE, &["kill", "--signal=STOP", unit]);
    session.systemctl(ALICE, &["start", "second"]);
    let said = || session.said_by("second");
    session.vm_starts("strict", OTHER_VM, ALICE, &[]);
    wait_or_explain(
        "the refusal",
        || said().contains("strict shows no windows: this compositor lacks").then_some(()),
        said,
    );
    assert!(said().contains("wayland = \"without-security-context\""));
    assert!(!session.has_socket("strict"));
    session.vm_ends("strict");

    session.vm_starts("allowed", OTHER_VM, ALICE, &["--without-security-context"]);
    session.wait_socket("allowed", true);
    assert!(session.may_connect(OTHER_VM, OTHER_VM, "allowed"));
    assert!(!session.may_connect(VM, VM, "allowed"));
    // Two clients, whose descriptors pass.
    let mut clients = [(); 2].map(|()| Client::connect(&session, &socket("allowed")));
    clients.iter_mut().for_each(Client::show_window);
    let windows = wait_for("both windows", || Some(session.windows()).filter(|windows| windows.len() == 2));
    // The service itself is the client now.
    let pid = session.systemctl(ALICE, &["show", "--value", "--property=MainPID", "second"]);
    let pid: u64 = pid.trim().parse().unwrap();
    assert!(windows.iter().all(|window| window["pid"] == pid), "{pid} {windows:#?}");
    session.systemctl(ALICE, &["kill", "--signal=KILL", "compositor"]);
    session.wait_socket("allowed", false);
    assert!(clients.iter_mut().all(|client| !client.is_alive()));
    session.systemctl(ALICE, &["kill", "--signal=CONT", unit]);
}
