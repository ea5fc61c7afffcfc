// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM under test: its directory, its package, its supervisor, its consoles.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::support::guest::{GUEST_USER, part};
use crate::support::program::{PROGRAM, copy};
use crate::support::skip::is_root;
use crate::support::tree::names;
use crate::support::vm_directory::{Partition, VmDirectory};
use crate::support::waiting::{Collected, PATIENCE, wait_for, wait_or_explain};

/// A place for one test: a user partition and directories to run in.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub partition: Partition,
}

impl Place {
    pub fn new() -> Self {
        // Short: the tests, too, are bound by the length of a socket's path.
        let dir = tempfile::Builder::new().prefix("mvs-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let partition = Partition::at(&dir.path().join("p"));
        Self { dir, partition }
    }

    /// A VM directory with the real kernel and root image.
    pub fn vm(&self, name: &str) -> VmDirectory {
        let vm = self.partition.vm(name);
        fs::copy(part("KERNEL"), vm.path.join("vmlinux")).unwrap();
        fs::copy(part("ROOT"), vm.path.join("blk/root.img")).unwrap();
        vm
    }

    /// A directory of the user partition to share, with a file in it, owned by
    /// an ordinary user.
    pub fn shared(&self, name: &str) -> PathBuf {
        let path = self.partition.root.join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("from-host"), "hello from the host\n").unwrap();
        if is_root() {
            for path in [path.clone(), path.join("from-host")] {
                std::os::unix::fs::chown(path, Some(GUEST_USER), Some(GUEST_USER)).unwrap();
            }
        }
        path
    }

    /// An empty directory to run VMs in.
    pub fn run_directory(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// virtiofsd where also an ordinary user, as whom it runs, can execute it.
    pub fn virtiofsd(&self) -> PathBuf {
        let virtiofsd = self.dir.path().join("virtiofsd");
        if !virtiofsd.exists() {
            copy(part("VIRTIOFSD"), &virtiofsd);
            fs::set_permissions(&virtiofsd, fs::Permissions::from_mode(0o755)).unwrap();
        }
        virtiofsd
    }

    /// Builds the package of a VM for QEMU with TCG.
    pub fn build(&self, vm: &VmDirectory, more: &[&str]) -> PathBuf {
        let virtiofsd = self.virtiofsd();
        let name = vm.path.file_name().unwrap().to_str().unwrap();
        let output = self.dir.path().join(format!("{name}.package"));
        let result = Command::new(PROGRAM)
            .arg("build")
            .arg(&vm.path)
            .arg("--output")
            .arg(&output)
            .args(["--hypervisor", "qemu", "--accel", "tcg", "--memory", "128"])
            .args(["--tool".to_owned(), format!("qemu-system-x86_64={}", part("QEMU").display())])
            .args(["--tool".to_owned(), format!("virtiofsd={}", virtiofsd.display())])
            .args(more)
            .output()
            .unwrap();
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        output
    }
}

/// A process and when it started, so that its number's next owner is not it.
pub type ProcessId = (u32, u64);

/// A running `microvm-run` (or another script of a package).
pub struct Running {
    package: PathBuf,
    directory: PathBuf,
    child: Child,
    /// Its standard output: the guest's serial console.
    pub serial: Collected,
    /// Its standard error.
    pub messages: Collected,
    seen: BTreeSet<ProcessId>,
}

impl Running {
    pub fn start(package: &Path, directory: &Path) -> Self {
        Self::script(package, "microvm-run", directory, &[])
    }

    pub fn script(package: &Path, script: &str, directory: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(package.join("bin").join(script));
        command.args(arguments).current_dir(directory);
        Self::spawn(package, directory, command)
    }

    /// Starts a command that ends up as a package's script, in `directory`.
    pub fn spawn(package: &Path, directory: &Path, mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let serial = Collected::from(child.stdout.take().unwrap());
        let messages = Collected::from(child.stderr.take().unwrap());
        let (package, directory) = (package.to_owned(), directory.to_owned());
        Self { package, directory, child, serial, messages, seen: BTreeSet::new() }
    }

    /// Waits until the guest has set itself up.
    pub fn wait_until_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.serial.text().contains("guest: ready") {
            let (serial, messages) = (self.serial.text(), self.messages.text());
            assert!(Instant::now() < deadline, "the guest is not ready:\n{serial}\n{messages}");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.look();
    }

    /// Remembers which processes belong to it now.
    pub fn look(&mut self) {
        self.seen.extend(descendants(self.child.id()));
    }

    /// The process with this word in its command line.
    pub fn process(&mut self, word: &str) -> u32 {
        self.look();
        let found = self.seen.iter().filter(|p| is_alive(p)).map(|(pid, _)| *pid).find(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
        });
        found.unwrap_or_else(|| panic!("no process has {word:?} in its command line"))
    }

    /// How many of its processes are alive and have this word in their command line.
    pub fn count(&mut self, word: &str) -> usize {
        self.look();
        let has = |pid: u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| String::from_utf8_lossy(&l).contains(word))
        };
        self.seen.iter().filter(|p| is_alive(p) && has(p.0)).count()
    }

    /// Types into its standard input.
    pub fn type_into(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub fn signal(&self, name: &str) {
        kill(self.child.id(), name);
    }

    /// A file in the directory where it runs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Attaches to the console as a user would.
    pub fn console(&self) -> Shell {
        let mut child = Command::new(self.package.join("bin/microvm-console"))
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = Collected::from(child.stdout.take().unwrap());
        Shell { child, output, serial: self.serial.clone(), asked: 0 }
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        wait_for("the end of the supervisor", || self.child.try_wait().unwrap());
    }

    /// Waits for its end, and asserts that it has left nothing behind.
    pub fn end(mut self) -> Ended {
        self.look();
        let status = wait_for("the end of the supervisor", || self.child.try_wait().unwrap());
        let left = wait_for_end(&self.seen);
        assert!(left.is_empty(), "processes are left: {left:?}\n{}", self.messages.text());
        Ended {
            status,
            serial: self.serial.all(),
            messages: self.messages.all(),
            files: names(&self.directory),
        }
    }

    /// Runs `microvm-shutdown` and returns how it ended.
    pub fn shutdown(&self) -> ExitStatus {
        Command::new(self.package.join("bin/microvm-shutdown")).current_dir(&self.directory).status().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What remains of a VM that has ended.
pub struct Ended {
    status: ExitStatus,
    pub serial: String,
    pub messages: String,
    /// The names in the directory where it ran.
    pub files: Vec<String>,
}

impl Ended {
    /// Asserts the exit status, the line that explains it, and an empty directory.
    pub fn assert(&self, status: i32, line: &str) {
        assert_eq!(self.status.code(), Some(status), "{:?}\n{}", self.status.signal(), self.messages);
        let last = self.messages.lines().last().unwrap_or_default();
        assert!(last.contains(line), "the last message is not about {line:?}:\n{}", self.messages);
        assert!(!self.messages.contains("panicked at"), "{}", self.messages);
        assert_eq!(self.files, [""; 0], "sockets or locks are left");
    }
}

/// A shell on the guest's hvc0.
pub struct Shell {
    child: Child,
    output: Collected,
    serial: Collected,
    asked: usize,
}

impl Shell {
    /// Runs a command in the guest and returns what it printed.
    pub fn run(&mut self, command: &str) -> String {
        self.asked += 1;
        // The marks are put together in the guest, so an echo could not be one.
        let (begin, end) = (format!("<begin {}>", self.asked), format!("<end {}>", self.asked));
        let n = self.asked;
        self.send(&format!("echo '<''begin {n}>'; {command}\necho '<''end {n}>'\n"));
        wait_or_explain(
            &format!("the end of {command:?}"),
            || self.output.text().contains(&end).then_some(()),
            || format!("{}\nThe serial console:\n{}", self.output.text(), self.serial.text()),
        );
        let text = self.output.text().replace('\r', "");
        let answer = text.split(&begin).nth(1).unwrap().split(&end).next().unwrap();
        answer.replace("guest# ", "").trim().to_owned()
    }

    /// Types text without waiting for anything.
    pub fn send(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        kill(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

pub fn kill(pid: u32, signal: &str) {
    use rustix::process::{Pid, Signal};
    let signal = match signal {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "HUP" => Signal::HUP,
        "QUIT" => Signal::QUIT,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        other => panic!("no test sends {other}"),
    };
    rustix::process::kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Parent and starting time of a process that is not a zombie.
fn status(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (fields[0] != "Z").then(|| (fields[1].parse().unwrap(), fields[19].parse().unwrap()))
}

fn is_alive(process: &ProcessId) -> bool {
    status(process.0).is_some_and(|(_, started)| started == process.1)
}

/// The processes that a process has started, and those that they have.
pub fn descendants(of: u32) -> Vec<ProcessId> {
    let all: Vec<_> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| status(pid).map(|(parent, started)| (pid, parent, started)))
        .collect();
    let mut found = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for (pid, _, started) in all.iter().filter(|(_, of, _)| *of == parent) {
            found.push((*pid, *started));
            parents.push(*pid);
        }
    }
    found
}

/// Those of `processes` that are still there after a while.
fn wait_for_end(processes: &BTreeSet<ProcessId>) -> Vec<ProcessId> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<_> = processes.iter().filter(|p| is_alive(p)).copied().collect();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until none of the processes that were seen lives.
pub fn assert_all_end(running: &Running) {
    let left = wait_for_end(&running.seen);
    assert!(left.is_empty(), "processes are left: {left:?}");
}
