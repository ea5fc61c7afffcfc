// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! How long a guest's first window takes: `make benchmark`.
//!
//! From the start of `microvm-run`, and of the bare QEMU command, to the guest's four
//! squares on the screen of a compositor, under TCG. The ratio is what counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[path = "../support/mod.rs"]
mod support;

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use support::compositor::{Compositor, DISPLAY, pixels_of};
use support::guest::part;
use support::program::{call, run};
use support::running_vm::{Place, Running};
use support::waiting::wait_for;

/// How often each is measured; the medians are printed.
const RUNS: usize = 7;

fn main() {
    // `cargo test --benches` and the like only want to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let place = Place::new();
    let qemu = format!("qemu-system-x86_64={}", part("RUTABAGA_QEMU").display());
    let package = place.build(&place.vm("window").file("wayland", b""), &["--tool", &qemu]);
    let compositor = Compositor::start(&place.run_directory("session"));
    let run_directory = place.run_directory("run");
    let bare_line = run(call(["command"]).arg(&package)).exits(0).stdout;
    let socket = run_directory.join("window.wayland.sock");
    let (mut bare, mut whole) = (vec![], vec![]);
    for _ in 0..RUNS {
        symlink(compositor.runtime().join(DISPLAY), &socket).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {bare_line}")]).current_dir(&run_directory);
        bare.push(until_shown(&compositor, Running::spawn(&package, &run_directory, command)));
        std::fs::remove_dir_all(&run_directory).unwrap();
        std::fs::create_dir(&run_directory).unwrap();

        let mut command = Command::new(package.join("bin/microvm-run"));
        command.current_dir(&run_directory);
        command.env("XDG_RUNTIME_DIR", compositor.runtime()).env("WAYLAND_DISPLAY", DISPLAY);
        whole.push(until_shown(&compositor, Running::spawn(&package, &run_directory, command)));
    }
    let [bare, whole] = [bare, whole].map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    });
    println!("median of {RUNS} runs                                            seconds  ratio to bare QEMU");
    println!("{:60} {bare:7.3}  1.00", "bare QEMU to the first window's pixels");
    println!("{:60} {whole:7.3}  {:.2}", "microvm-run to the first window's pixels", whole / bare);
}

/// How long a VM that has just been started takes to show its window. Ends it.
fn until_shown(compositor: &Compositor, mut running: Running) -> Duration {
    let begin = Instant::now();
    running.wait_until_up();
    let mut console = UnixStream::connect(running.path("window.console.sock")).unwrap();
    console.write_all(b"show-window show\n").unwrap();
    wait_for("the window", || (compositor.pixels() == pixels_of(1)).then_some(()));
    let shown = begin.elapsed();
    drop(console);
    running.signal("TERM");
    running.wait();
    wait_for("the end of the window", || (compositor.pixels() == [0; 4]).then_some(()));
    shown
}
