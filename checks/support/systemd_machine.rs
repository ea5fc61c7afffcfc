// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A machine with a real systemd, thrown away after the test (see
//! `checks/systemd-box`).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::support::program::{Ran, run_raw};
use crate::support::waiting::{Collected, PATIENCE, wait_or_explain};

/// The script that boots a machine and keeps it.
const KEEPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/checks/systemd-box");

/// How a shell becomes one of a machine's control groups, from outside of them.
const JOIN: &str = r#"echo 0 >"$1" && shift && exec "$@""#;

/// How a shell that has entered a machine runs a program. To fork is not left to
/// nsenter: when the machine stops all that runs in it, as it does to power off,
/// nsenter stops too, and for ever. And whichever process is killed outside, this shell
/// reaps the program, without which the machine's processes cannot end. A shell
/// without job control ignores signals for what it does not wait for immediately.
const RUN: &str = r#"
    exec 3<&0
    trap 'kill -KILL $!; wait $!; exit' TERM
    [ -t 0 ] && seat='setsid --ctty'
    $seat env --default-signal=HUP,INT,QUIT setpriv --pdeathsig KILL "$@" <&3 3<&- &
    exec 3<&-
    wait $!
    exit $?"#;

/// Held by a test that keeps all processors busy by itself: of two such at a time
/// neither would get anywhere.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether there can be machines here, or why not. That one which can be does
/// not boot is a failure and is not found here.
pub fn is_possible() -> Result<(), String> {
    let checked = Command::new(KEEPER).arg("--check").stdin(Stdio::null()).output().unwrap();
    if checked.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&checked.stderr).trim().replace('\n', ", "))
}

/// A machine that has booted.
pub struct Machine {
    keeper: Child,
    /// Its end is the machine's; none when it is gone already.
    power: Option<ChildStdin>,
    /// The machine's first process, as seen from outside.
    pub pid: u32,
    messages: Collected,
}

impl Machine {
    /// Boots this system, without what is enabled in it.
    pub fn boot() -> Self {
        Self::boot_with(&[])
    }

    /// Boots with options of `checks/systemd-box`.
    pub fn boot_with(options: &[&str]) -> Self {
        let mut keeper = Command::new(KEEPER)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{KEEPER}: {e}"));
        let power = keeper.stdin.take();
        let messages = Collected::from(keeper.stderr.take().unwrap());
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.strip_prefix("ready ").and_then(|pid| pid.trim().parse().ok());
        let Some(pid) = pid else {
            drop(power);
            let status = keeper.wait();
            panic!("the machine did not boot ({line:?}, {status:?}):\n{}", messages.text());
        };
        let machine = Self { keeper, power, pid, messages };
        // Where this machine's systemd does not look for services of its own.
        machine.mkdir("/sys/fs/cgroup/tests");
        machine
    }

    /// A command that runs in the machine as its root, with nothing of the
    /// environment here and, unless given, no input. A terminal as its input
    /// becomes its controlling terminal. Any signal to it kills the program.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = self.enter(&[]);
        command.arg(program).args(arguments);
        command
    }

    /// A command that runs in the machine as an ordinary user, who is in no
    /// groups and can gain nothing from anywhere.
    pub fn command_as<S: AsRef<OsStr>>(
        &self,
        uid: u32,
        gid: u32,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={gid}"));
        let nothing = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
        let mut command = self.enter(&[[uid.as_str(), gid.as_str()].as_slice(), &nothing].concat());
        command.arg(program).args(arguments);
        command
    }

    /// The way in, up to the program.
    fn enter(&self, privileges: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "setpriv --pdeathsig TERM \"$@\"; exit $?", "sh"]);
        command.args(["sh", "-c", JOIN, "sh"]).arg(self.path("/sys/fs/cgroup/tests/cgroup.procs"));
        command.args(["nsenter", "--target", &self.pid.to_string(), "--no-fork"]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        command.args(["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["LANG=C.UTF-8", "TERM=dumb", "sh", "-c", RUN, "sh"]).args(privileges).arg("--");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command line to its end. A signal's end is 128 and its number.
    pub fn run(&self, line: &[&str]) -> Ran {
        finish(self.command(line[0], &line[1..]))
    }

    /// Like [`Self::run`], as in [`Self::command_as`].
    pub fn try_as(&self, uid: u32, gid: u32, line: &[&str]) -> Ran {
        finish(self.command_as(uid, gid, line[0], &line[1..]))
    }

    /// Runs what must succeed, and returns what it printed, without the last
    /// line's end. After a failure the end of the machine shows its journal.
    #[track_caller]
    pub fn ok(&self, line: &[&str]) -> String {
        let ran = self.run(line);
        assert!(ran.status == 0, "{line:?}: status {}\n{}{}", ran.status, ran.stdout, ran.stderr);
        ran.stdout.trim_end_matches('\n').to_owned()
    }

    /// A file of the machine, as seen from here. Its links, and those in the
    /// path to it, lead to files of the host.
    pub fn path(&self, inside: &str) -> PathBuf {
        assert!(inside.starts_with('/'), "{inside:?}");
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// Reads a text file; links lead to where they do in the machine.
    #[track_caller]
    pub fn read(&self, inside: &str) -> String {
        let mut text = String::new();
        self.open(inside, OFlags::RDONLY)
            .and_then(|mut file| file.read_to_string(&mut text))
            .unwrap_or_else(|e| panic!("{inside}: {e}"));
        text
    }

    /// Writes a text file, and makes the directories above it.
    #[track_caller]
    pub fn write(&self, inside: &str, text: &str) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = match self.open(inside, flags) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.mkdir(Path::new(inside).parent().unwrap().to_str().unwrap());
                self.open(inside, flags)
            }
            opened => opened,
        };
        file.and_then(|mut file| file.write_all(text.as_bytes())).unwrap_or_else(|e| panic!("{inside}: {e}"));
    }

    /// Makes a directory and those above it.
    #[track_caller]
    pub fn mkdir(&self, inside: &str) {
        std::fs::create_dir_all(self.path(inside)).unwrap_or_else(|e| panic!("{inside}: {e}"));
    }

    fn open(&self, inside: &str, flags: OFlags) -> std::io::Result<File> {
        let root = File::open(self.path("/"))?;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        Ok(rustix::fs::openat2(root, inside, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT)?.into())
    }

    /// One property of a unit, as `systemctl show` prints it.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&["systemctl", "show", "--value", "--property", name, "--", unit])
    }

    /// What a unit has said until now, without the times.
    #[track_caller]
    pub fn journal(&self, unit: &str) -> String {
        self.ok(&["journalctl", "--sync"]);
        self.ok(&["journalctl", "--quiet", "--no-pager", "--output=cat", "--unit", unit])
    }

    /// Waits until a unit is active.
    #[track_caller]
    pub fn wait_active(&self, unit: &str) {
        self.wait_state(unit, "active");
    }

    /// Waits until a unit is in this state (`inactive`, `failed`, ...).
    #[track_caller]
    pub fn wait_state(&self, unit: &str, state: &str) {
        wait_or_explain(
            &format!("{unit} is {state}"),
            || (self.property(unit, "ActiveState") == state).then_some(()),
            || self.run(&["systemctl", "status", "--no-pager", "--full", "--lines=50", "--", unit]).stdout,
        );
    }

    /// Ends the keeper as a crash would.
    pub fn kill_keeper(mut self) {
        self.power = None;
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
    }

    fn keeper_ends(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            let ended = self.keeper.try_wait().unwrap();
            if ended.is_some() || Instant::now() >= deadline {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(power) = self.power.take() else { return };
        let failing = std::thread::panicking();
        if failing && self.keeper.try_wait().is_ok_and(|ended| ended.is_none()) {
            // Not with `run`: a second panic would hide the first.
            let lines = ["--quiet", "--no-pager", "--lines=80", "--output=short-monotonic"];
            if let Ok(journal) = self.command("journalctl", lines).stdin(Stdio::null()).output() {
                eprintln!("The machine's journal:\n{}", String::from_utf8_lossy(&journal.stdout));
            }
        }
        drop(power);
        let ended = self.keeper_ends(Instant::now() + PATIENCE);
        if ended.is_none() {
            let _ = self.keeper.kill();
            let _ = self.keeper.wait();
        }
        let clean = ended.is_some_and(|status| status.success());
        assert!(clean || failing, "the machine did not power off ({ended:?}):\n{}", self.messages.text());
    }
}

fn finish(mut command: Command) -> Ran {
    command.stdin(Stdio::null());
    run_raw(&mut command, Stdio::piped(), Stdio::piped())
}
