// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the properties share: directories in memory, a stand-in VMM, reports.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use microvm_spectrum::base::architecture::Architecture;
use microvm_spectrum::base::problem::{Problem, Problems, Severity};
use microvm_spectrum::base::shortened::shortened;
use microvm_spectrum::base::tool::Tool;
use microvm_spectrum::package::planning::Choices;
use microvm_spectrum::plan::{Accelerator, HypervisorName};
use microvm_spectrum::state::catalog::CatalogProblem;
use proptest::test_runner::{Config, RngAlgorithm, TestRunner};
use tempfile::TempDir;

use crate::vector::MEMORY_MIB;

/// A directory in memory where there is one, its path free of links.
pub struct Space {
    _directory: TempDir,
    pub path: PathBuf,
}

impl Space {
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let directory = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
        let path = directory.path().canonicalize().unwrap();
        Self { _directory: directory, path }
    }

    /// A file beneath it.
    pub fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// An empty directory beneath it, also when it was not empty before.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        path
    }
}

/// A program that writes its arguments, its own name first, each ended by NUL.
const STAND_IN: &[u8] = b"#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\"\n";

/// Makes the stand-in VMM.
pub fn stand_in(space: &Space, name: &str) -> PathBuf {
    space.file(name, STAND_IN, 0o755)
}

/// Runs the command, and returns the arguments that a stand-in wrote.
pub fn run(command: &[OsString]) -> Vec<Vec<u8>> {
    let output = loop {
        let output = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output();
        match output {
            // A child of another test still has the new script open for writing.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            output => break output.unwrap(),
        }
    };
    assert!(output.status.success(), "the stand-in ended with {}", output.status);
    let mut words: Vec<_> = output.stdout.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    assert_eq!(words.pop(), Some(Vec::new()), "every argument ends in NUL");
    words
}

/// The words as bytes.
pub fn bytes(words: &[OsString]) -> Vec<Vec<u8>> {
    words.iter().map(|w| w.clone().into_vec()).collect()
}

/// Choices with `vmm` in the place of every VMM.
pub fn choices(hypervisor: HypervisorName, vmm: &Path, program: &Path) -> Choices {
    let mut tools = BTreeMap::from(Tool::ALL.map(|tool| (tool, PathBuf::from("/opt").join(tool.as_str()))));
    tools.insert(Tool::CloudHypervisor, vmm.to_owned());
    tools.insert(Tool::QemuX86, vmm.to_owned());
    tools.insert(Tool::MicrovmSpectrum, program.to_owned());
    Choices {
        hypervisor,
        architecture: Architecture::X86_64,
        memory_mib: MEMORY_MIB,
        vcpus: 1,
        accelerator: Accelerator::Tcg,
        tools,
        link_ports: LINK_PORTS,
        links: BTreeMap::new(),
        devices: Vec::new(),
        guest_owners: Default::default(),
        wayland_memory_mib: 256,
        uplink: None,
    }
}

/// How many ports for clients VMs have here.
pub const LINK_PORTS: u8 = 3;

/// Whether a terminal shows the character as it is, where it is.
fn is_plain(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = matches!(c, '\u{2028}' | '\u{2029}');
    !c.is_control() && !reorders && !breaks
}

/// Checks the form of the problems, and returns them.
///
/// Every one has a path, a cause and a remedy, and neither its text nor its
/// JSON shows anything raw.
pub fn well_formed(problems: Problems) -> Result<Vec<Problem>, String> {
    let problems = problems.into_sorted();
    for problem in &problems {
        if problem.path.as_os_str().is_empty() || problem.cause.is_empty() || problem.remedy.is_empty() {
            return Err(format!("a problem says too little: {problem:?}"));
        }
        let text = problem.to_string();
        let lines: Vec<_> = text.split('\n').collect();
        if lines.len() != 2 || !text.replace('\n', "").chars().all(is_plain) {
            return Err(format!("a problem is not printable: {text:?}"));
        }
        let json = serde_json::to_value(CatalogProblem::from(problem)).unwrap();
        for value in json.as_object().unwrap().values() {
            if !value.as_str().unwrap().chars().all(is_plain) {
                return Err(format!("a problem is not printable in JSON: {json}"));
            }
        }
    }
    Ok(problems)
}

/// Checks that each of the things that are wrong has an error that speaks of
/// it, and that no error speaks of anything else.
pub fn blamed(problems: &[Problem], blame: &[Vec<PathBuf>]) -> Result<(), String> {
    let errors: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Error).collect();
    if errors.is_empty() {
        return Err("nothing is an error".to_owned());
    }
    // A long path is told without its middle.
    let short = |path: &PathBuf| PathBuf::from(shortened(path.as_os_str()).into_owned());
    let blame: Vec<Vec<_>> = blame.iter().map(|paths| paths.iter().map(short).collect()).collect();
    for paths in &blame {
        if !errors.iter().any(|e| paths.contains(&e.path)) {
            return Err(format!("no error speaks of {paths:?}, only {errors:?}"));
        }
    }
    match errors.iter().find(|e| !blame.iter().flatten().any(|p| *p == e.path)) {
        Some(error) => Err(format!("nothing is wrong with what this speaks of: {error:?}")),
        None => Ok(()),
    }
}

/// A number from the environment.
pub fn number(variable: &str, default: u32) -> u32 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => default,
    }
}

/// What `make check` puts into the environment.
pub fn test_guest(variable: &str) -> PathBuf {
    let found = std::env::var_os(variable);
    found.unwrap_or_else(|| panic!("{variable} is not set: run the tests with `make check`")).into()
}

/// A runner of so many cases, which leaves no files behind.
pub fn runner(cases: u32) -> TestRunner {
    let defaults = Config::default();
    // The default is made for secrets, and takes a quarter of a debug build's time.
    let rng_algorithm = RngAlgorithm::XorShift;
    TestRunner::new(Config {
        cases,
        rng_algorithm,
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..defaults
    })
}

/// Does the work, unless it takes longer than anything here may.
pub fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    // Without a join: a thread that waits for ever must not be waited for.
    std::thread::spawn(move || {
        let _ = done.send(work());
    });
    match result.recv_timeout(Duration::from_secs(20)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: still waiting after 20 s"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{what}: it panicked"),
    }
}
