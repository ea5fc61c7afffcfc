// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A compositor without a screen, whose pictures are looked at: sway, which knows
//! security contexts.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::guest::part;
use crate::support::running_vm::kill;
use crate::support::waiting::{Collected, wait_or_explain};

/// What sway needs in its environment to run without a screen.
pub const ENVIRONMENT: [&str; 3] =
    ["WLR_BACKENDS=headless", "WLR_RENDERER=pixman", "WLR_LIBINPUT_NO_DEVICES=1"];
/// Its configuration: windows without frames, side by side.
pub const CONFIGURATION: &str = "default_border none\nxwayland disable\n";
/// The name of its socket.
pub const DISPLAY: &str = "wayland-1";

/// The colours of the four squares that the guest's `show-window` shows.
const COLOURS: [[u8; 3]; 4] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]];

/// How many pixels of each colour this many of its windows have.
pub fn pixels_of(windows: usize) -> [usize; 4] {
    [windows * 64 * 64; 4]
}

/// How many pixels of each of the four colours a picture has, as `grim -t ppm` writes it.
pub fn count(picture: &[u8]) -> [usize; 4] {
    // Three lines of text come first: the format, the size and the highest value.
    let start = picture.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(2).map_or(0, |(at, _)| at + 1);
    COLOURS.map(|colour| picture[start..].chunks_exact(3).filter(|pixel| **pixel == colour).count())
}

/// The application ids of the windows in what `swaymsg -t get_tree` prints.
pub fn application_ids(tree: &serde_json::Value) -> Vec<String> {
    let own = tree["app_id"].as_str().map(str::to_owned);
    let children = ["nodes", "floating_nodes"].into_iter().filter_map(|key| tree[key].as_array()).flatten();
    own.into_iter().chain(children.flat_map(application_ids)).collect()
}

/// A compositor of the user who runs the tests.
pub struct Compositor {
    child: Child,
    messages: Collected,
    /// Its `XDG_RUNTIME_DIR`.
    runtime: PathBuf,
}

impl Compositor {
    /// Starts it in a directory, where one that was killed may have been before.
    pub fn start(runtime: &Path) -> Self {
        let configuration = runtime.join("sway.conf");
        std::fs::write(&configuration, CONFIGURATION).unwrap();
        let mut command = Command::new(part("SWAY").join("bin/sway"));
        command.arg("--config").arg(configuration).env("XDG_RUNTIME_DIR", runtime);
        command.envs(ENVIRONMENT.iter().filter_map(|setting| setting.split_once('=')));
        command.env_remove("WAYLAND_DISPLAY").env_remove("DISPLAY");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let messages = Collected::from(child.stderr.take().unwrap());
        let compositor = Self { child, messages, runtime: runtime.to_owned() };
        wait_or_explain(
            "an answer of the compositor",
            || compositor.ask("swaymsg", &["-t", "get_version"]).map(drop),
            || compositor.messages.text(),
        );
        compositor
    }

    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// What a program that talks to it prints, if it answers.
    fn ask(&self, program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
        let socket = format!("sway-ipc.{}.{}.sock", rustix::process::geteuid().as_raw(), self.child.id());
        let output = Command::new(part("SWAY").join("bin").join(program))
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .env("WAYLAND_DISPLAY", DISPLAY)
            .env("SWAYSOCK", self.runtime.join(socket))
            .output()
            .unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// How many pixels of each colour are on its screen.
    pub fn pixels(&self) -> [usize; 4] {
        count(&self.ask("grim", &["-t", "ppm", "-"]).unwrap())
    }

    /// Waits until its screen shows so many of the guest's windows, and nothing else
    /// in their colours.
    #[track_caller]
    pub fn wait_windows(&self, windows: usize) {
        wait_or_explain(
            &format!("{windows} windows of guests on the screen"),
            || (self.pixels() == pixels_of(windows)).then_some(()),
            || format!("pixels: {:?}\n{}", self.pixels(), self.messages.text()),
        );
    }

    /// The application ids of its windows.
    pub fn application_ids(&self) -> Vec<String> {
        let tree = self.ask("swaymsg", &["-t", "get_tree"]).unwrap();
        application_ids(&serde_json::from_slice(&tree).unwrap())
    }

    pub fn signal(&self, name: &str) {
        kill(self.child.id(), name);
    }
}

impl Drop for Compositor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
