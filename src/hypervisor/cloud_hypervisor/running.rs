// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A Cloud Hypervisor that runs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde_json::Value;

use super::events::EventPipe;
use crate::base::tool::Tool;
use crate::hypervisor::description::program;
use crate::hypervisor::running::{
    Attachment, Console, EXCHANGE_TIMEOUT, RunningVmm, Started, Unplugged, timed_out,
};
use crate::plan::Plan;
use crate::plan::runtime::SocketNames;
use crate::system::poll;
use crate::system::program::{self, ProgramError};

/// How often a call of the API is tried while the VMM starts.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The VMM of a plan, until a deadline.
pub(super) struct Running {
    api: Api,
    deadline: Instant,
}

impl Running {
    pub fn new(plan: &Plan, deadline: Instant) -> Self {
        Self { api: Api::new(plan), deadline }
    }

    fn call(&self, words: &[&str]) -> io::Result<Vec<u8>> {
        self.api.call(words, self.deadline)
    }
}

impl RunningVmm for Running {
    fn wait_for_start(&self, vmm: BorrowedFd<'_>, events: Option<File>) -> io::Result<Started> {
        let pipe = events.ok_or_else(|| io::Error::other("the pipe for events is missing"))?;
        let api = self.api.clone();
        let mut events = EventPipe::new(pipe, move || api.call(&["ping"], soon()).is_ok());
        events.wait_for_boot(self.deadline)?;
        while let Err(error) = self.api.call(&["ping"], self.deadline.min(soon())) {
            if Instant::now() >= self.deadline || poll::is_readable(&vmm, Some(RETRY_INTERVAL))? {
                return Err(error);
            }
        }
        let events = std::iter::from_fn(move || events.next().transpose());
        let api = self.api.clone();
        let power_button = move || api.call(&["power-button"], soon()).map(drop);
        Ok(Started { events: Box::new(events), power_button: Box::new(power_button) })
    }

    fn press_power_button(&self) -> io::Result<()> {
        self.call(&["power-button"]).map(drop)
    }

    fn plug(&self, attachment: Attachment) -> io::Result<()> {
        // hotplug.md, "Add Network Device".
        let link = attachment.link;
        let device =
            format!("tap={},mac={},id={}", link.provider_tap(), link.provider_mac(), attachment.id());
        self.call(&["add-net", &device]).map(drop)
    }

    fn unplug(&self, attachment: Attachment) -> io::Result<Unplugged> {
        // hotplug.md, "Remove Device": the VMM frees the slot when the guest releases
        // the device, and keeps the tap open until then.
        self.call(&["remove-device", &attachment.id()]).map(|_| Unplugged::Free)
    }

    fn open_console(&self) -> io::Result<Console> {
        let info: Value = serde_json::from_slice(&self.call(&["info"])?)?;
        let path = info.pointer("/config/console/file").and_then(Value::as_str);
        let path =
            path.ok_or_else(|| io::Error::other("Cloud Hypervisor names no terminal for the console"))?;
        let flags = OFlags::NOCTTY.bits().cast_signed();
        Ok(Console(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?.into()))
    }
}

fn soon() -> Instant {
    Instant::now() + EXCHANGE_TIMEOUT
}

/// Cloud Hypervisor's API, by its own client, which makes one call and ends.
#[derive(Clone)]
struct Api {
    client: PathBuf,
    socket: String,
}

impl Api {
    fn new(plan: &Plan) -> Self {
        Self { client: program(plan, Tool::ChRemote), socket: SocketNames::new(&plan.name).control() }
    }

    /// Makes a call and returns what it printed.
    fn call(&self, words: &[&str], deadline: Instant) -> io::Result<Vec<u8>> {
        let mut command = Command::new(&self.client);
        command.args(["--api-socket", &self.socket]).args(words);
        program::output_until(&mut command, deadline).map_err(|error| match error {
            ProgramError::TimedOut { .. } => {
                timed_out("Cloud Hypervisor's control socket did not answer in time")
            }
            error => error.into(),
        })
    }
}
