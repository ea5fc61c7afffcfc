// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A terminal to sit at, on this system or in a machine.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};

use crate::support::waiting::{Collected, wait_for, wait_or_explain};

/// A terminal with a program in it: a pseudo-terminal of the host, which is the
/// program's controlling terminal also when the program is in a machine.
pub struct Terminal {
    child: Child,
    /// This side of it; none after it was hung up.
    near: Option<Arc<File>>,
    shown: Collected,
}

impl Terminal {
    /// Runs a command in a new terminal: one of a machine, or else one that begins
    /// with `setsid --ctty`, to make it the controlling terminal. Its program,
    /// arguments, directory and variables count, not its input and output.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let near =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::grantpt(&near).unwrap();
        rustix::pty::unlockpt(&near).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let far = File::from(rustix::pty::ioctl_tiocgptpeer(&near, flags).unwrap());
        rustix::termios::tcsetwinsize(&near, size(rows, columns)).unwrap();

        // Not `command` itself, which would go on holding the other side.
        let mut seated = Command::new("env");
        // A terminal that is hung up says so, also where the tests were started by nohup.
        seated.arg("--default-signal=HUP").arg(command.get_program()).args(command.get_args());
        if let Some(directory) = command.get_current_dir() {
            seated.current_dir(directory);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => seated.env(name, value),
                None => seated.env_remove(name),
            };
        }
        seated.stdin(far.try_clone().unwrap()).stdout(far.try_clone().unwrap()).stderr(far);
        let child = seated.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));

        let near = Arc::new(File::from(near));
        let shown = Collected::default();
        let (weak, all) = (Arc::downgrade(&near), shown.clone());
        std::thread::spawn(move || watch(&weak, &all));
        Self { child, near: Some(near), shown }
    }

    fn near(&self) -> &File {
        self.near.as_ref().expect("it was hung up")
    }

    /// Everything that it has shown, with the line ends of a terminal.
    pub fn text(&self) -> String {
        self.shown.text()
    }

    /// Everything that it has shown, after the program's end.
    #[track_caller]
    pub fn all(&self) -> String {
        self.shown.all()
    }

    /// Waits until it has shown this.
    #[track_caller]
    pub fn wait_for(&self, wanted: &str) {
        self.wait_for_times(wanted, 1);
    }

    /// Waits until it has shown this so many times.
    #[track_caller]
    pub fn wait_for_times(&self, wanted: &str, times: usize) {
        wait_or_explain(
            &format!("{times} × {wanted:?} on the terminal"),
            || (self.text().matches(wanted).count() >= times).then_some(()),
            || format!("{:?}", self.text()),
        );
    }

    /// Types on its keyboard; Enter is `\r`.
    pub fn type_text(&self, text: &str) {
        self.near().write_all(text.as_bytes()).unwrap();
    }

    /// Whether each key goes to the program as it is, and is not shown.
    pub fn is_raw(&self) -> bool {
        // The modes are the other side's; this one has none.
        let modes = rustix::termios::tcgetattr(self.near()).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Gives it another size, of which the program gets a signal.
    pub fn resize(&self, rows: u16, columns: u16) {
        rustix::termios::tcsetwinsize(self.near(), size(rows, columns)).unwrap();
    }

    /// Cuts it off, as when a connection is lost.
    pub fn hang_up(&mut self) {
        let weak = Arc::downgrade(&self.near.take().expect("it was hung up"));
        wait_for("the end of who watches the terminal", || (weak.strong_count() == 0).then_some(()));
    }

    /// Waits until the program has ended.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let (child, shown) = (&mut self.child, &self.shown);
        wait_or_explain("the program's end", || child.try_wait().unwrap(), || format!("{:?}", shown.text()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Collects what a terminal shows, for as long as another process holds it.
fn watch(terminal: &Weak<File>, all: &Collected) {
    let mut buffer = [0; 4096];
    while let Some(mut near) = terminal.upgrade() {
        let soon = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut waiting = [PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(&*near), PollFlags::IN)];
        if poll(&mut waiting, Some(&soon)).is_ok_and(|ready| ready == 0) {
            continue;
        }
        // An error is what remains when the other side is closed.
        match near.read(&mut buffer) {
            Ok(length @ 1..) => all.add(&buffer[..length]),
            _ => return all.end(),
        }
    }
}
