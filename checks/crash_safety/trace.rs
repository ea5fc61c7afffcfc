// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The system calls of a program, as strace shows them, and which of them change files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// They change no file, whatever their arguments are.
const HARMLESS: [&str; 81] = [
    "access",
    "arch_prctl",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "clone3",
    "close",
    "connect",
    "dup",
    "epoll_create1",
    "epoll_ctl",
    "execve",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fcntl",
    "flistxattr",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpeername",
    "getpid",
    "getppid",
    "getrandom",
    "getresuid",
    "getrusage",
    "getsockname",
    "getsockopt",
    "gettid",
    "gettimeofday",
    "getuid",
    "lseek",
    "lstat",
    "madvise",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "readv",
    "recvfrom",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "sched_yield",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setfsgid",
    "setfsuid",
    "setgroups",
    "setsockopt",
    "shutdown",
    "sigaltstack",
    "socket",
    "stat",
    "statfs",
    "statx",
    "sysinfo",
    "tgkill",
    "umask",
    "uname",
    "vfork",
    "wait4",
];

/// They change files, names or modes, or what of them is on the disk for sure.
const CHANGING: [&str; 44] = [
    "chmod",
    "chown",
    "copy_file_range",
    "creat",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchownat",
    "fdatasync",
    "flock",
    "fremovexattr",
    "fsetxattr",
    "fsync",
    "ftruncate",
    "lchown",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "msync",
    "open_by_handle_at",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendfile",
    "splice",
    "symlink",
    "symlinkat",
    "sync",
    "sync_file_range",
    "syncfs",
    "truncate",
    "unlink",
    "unlinkat",
    "utimensat",
    "setxattr",
];

/// One system call.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: String,
    /// Which of the calls of this name it is, from 1.
    pub number: usize,
    /// The files that it names, in this order.
    pub paths: Vec<PathBuf>,
    /// The arguments and the result.
    pub text: String,
    /// Whether it changes a file.
    pub changes: bool,
}

impl Call {
    /// Whether it succeeded.
    pub fn succeeded(&self) -> bool {
        !self.text.contains(" = -1 ")
    }
}

/// Reads what `strace -f -y` has written.
///
/// Panics at a call that is in no list of those that change files or do not, and when
/// another thread than the first changes some: calls are numbered for each thread.
pub fn read(text: &str) -> Vec<Call> {
    let mut numbers = BTreeMap::<String, usize>::new();
    let mut calls = Vec::new();
    let first = text.split_whitespace().next().expect("a trace");
    for line in text.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        // Signals, ends of processes, and calls that were interrupted by another thread's.
        if ["---", "+++", "<..."].iter().any(|sign| call.starts_with(sign)) {
            continue;
        }
        let (name, text) = call.split_once('(').unwrap_or_else(|| panic!("what is {line:?}?"));
        let paths = paths(name, text);
        let changes = changes(name, text, &paths);
        if thread != first {
            assert!(!changes, "a thread changes a file: {line}");
            continue;
        }
        let number = numbers.entry(name.to_owned()).or_default();
        *number += 1;
        calls.push(Call { name: name.to_owned(), number: *number, paths, text: text.to_owned(), changes });
    }
    calls
}

fn changes(name: &str, text: &str, paths: &[PathBuf]) -> bool {
    let for_writing = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_TMPFILE"];
    match name {
        "open" | "openat" | "openat2" => for_writing.iter().any(|flag| text.contains(flag)),
        // To a pipe it is no change; standard error is one here.
        "write" | "writev" => paths.iter().any(|path| path.is_absolute()),
        "mmap" => {
            assert!(!(text.contains("MAP_SHARED") && text.contains("PROT_WRITE")), "mmap({text}");
            false
        }
        "ioctl" => {
            assert!(["TCGETS", "TIOCGWINSZ"].iter().any(|known| text.contains(known)), "ioctl({text}");
            false
        }
        name if CHANGING.contains(&name) => true,
        name if HARMLESS.contains(&name) => false,
        name => panic!("no list says whether {name} changes files: {name}({text}"),
    }
}

/// The files that arguments name: by a path, by a descriptor (`3</path>`), or
/// by a path beneath a descriptor.
fn paths(name: &str, text: &str) -> Vec<PathBuf> {
    let arguments = text.rsplit_once(" = ").map_or(text, |(arguments, _)| arguments);
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut beneath: Option<PathBuf> = None;
    // What is written or read is no path.
    let is_data = ["write", "read", "sendto", "recv"].iter().any(|part| name.contains(part));
    for argument in arguments.split(", ").take(if is_data { 1 } else { usize::MAX }) {
        if let Some(quoted) = argument.strip_prefix('"') {
            let path = Path::new(quoted.split('"').next().unwrap());
            match beneath.take() {
                // An empty one is the descriptor's own.
                Some(directory) if !path.as_os_str().is_empty() => {
                    paths.pop();
                    paths.push(directory.join(path));
                }
                Some(_) => {}
                None => paths.push(path.to_owned()),
            }
        } else if let Some((_, rest)) = argument.split_once('<')
            && let Some((path, _)) = rest.split_once('>')
        {
            // A removed file's is marked so.
            let path = PathBuf::from(path.trim_end_matches(" (deleted)"));
            beneath = Some(path.clone());
            paths.push(path);
        } else {
            beneath = None;
        }
    }
    paths
}

#[test]
fn calls_are_read_as_strace_writes_them() {
    let calls = read(concat!(
        "7 openat(AT_FDCWD</d>, \"a\", O_WRONLY|O_CREAT|O_CLOEXEC, 0600) = 4</d/a>\n",
        "7 write(4</d/a>, \"x\\n\"..., 3) = 3\n",
        "7 write(2<pipe:[5]>, \"x\"..., 1) = 1\n",
        "7 open(\"/d\", O_RDONLY|O_DIRECTORY) = 4</d>\n",
        "7 unlinkat(4</d>, \"a\", 0) = -1 ENOENT (No such file or directory)\n",
        "8 fstat(4</d>, {st_mode=S_IFREG|0644, st_size=5, ...}) = 0\n",
        "7 rename(\"/d/b\", \"/d/c\") = 0\n",
    ));
    let changing: Vec<_> = calls.iter().filter(|call| call.changes).collect();
    let shown: Vec<_> = changing.iter().map(|call| format!("{}{}", call.name, call.number)).collect();
    assert_eq!(shown, ["openat1", "write1", "unlinkat1", "rename1"]);
    assert_eq!(changing[0].paths, [Path::new("/d/a")]);
    assert_eq!(changing[2].paths, [Path::new("/d/a")]);
    assert!(!changing[2].succeeded());
    assert_eq!(changing[3].paths, ["/d/b", "/d/c"].map(Path::new));
}

#[test]
#[should_panic(expected = "no list says whether io_uring_enter changes files")]
fn an_unknown_call_is_no_harmless_call() {
    read("7 io_uring_enter(3, 1, 0, 0, NULL, 8) = 1\n");
}
