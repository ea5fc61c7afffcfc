// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Cloud Hypervisor, version 53 (52 and later have all that is used).
//!
//! Its options are lists of `key=value`, separated by commas. A value may stand
//! in double quotes, in which everything is literal but a quote, which is
//! doubled (`option_parser/src/lib.rs`, `split_commas` and `dequote`); every
//! value that could hold a name from a VM directory is written so. `--kernel`
//! and `--cmdline` are taken literally. Each option below names the page of
//! that project's documentation that it follows, relative to `docs/`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use serde_json::Value;

use super::{
    Attached, Console, Control, EVENTS_FD, Events, FilePaths, Hypervisor, Unplugged, VmmEvent, program,
    timed_out,
};
use crate::base::architecture::Architecture;
use crate::base::tool::Tool;
use crate::link::id::LinkId;
use crate::plan::Plan;
use crate::plan::pci::PciAddress;
use crate::plan::runtime::SocketNames;

/// How long one exchange with the VMM may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a call of the API is tried while the VMM starts.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// The longest event that is taken; real ones have some hundred bytes.
const MAX_EVENT_BYTES: usize = 1 << 16;

/// The slots of its bus (`pci/src/bus.rs`, `NUM_DEVICE_IDS`) without those that
/// every VM takes: the bridge, the console, the source of entropy and pvpanic.
const SLOTS: usize = 32 - 4;

/// Cloud Hypervisor, see the module's documentation.
pub(super) struct CloudHypervisor;

/// A value in double quotes, so that it is taken literally.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('"', "\"\""))
}

impl Hypervisor for CloudHypervisor {
    fn tools(&self, _architecture: Architecture) -> &'static [Tool] {
        &[Tool::CloudHypervisor, Tool::ChRemote]
    }

    fn wayland_needs(&self) -> Option<&'static str> {
        Some(
            "it will need Cloud Hypervisor with Spectrum's --gpu patch (it fits version 43), \
             crosvm's vhost-user-gpu and a Wayland compositor on the host",
        )
    }

    fn writes_events(&self) -> bool {
        true
    }

    fn ends_with_guest(&self) -> bool {
        false
    }

    fn reset_drops_shares(&self) -> bool {
        true
    }

    fn command(&self, plan: &Plan, files: &FilePaths) -> Vec<OsString> {
        let sockets = SocketNames::new(&plan.name);
        let mut args: Vec<OsString> = vec![program(plan, Tool::CloudHypervisor).into()];
        let mut option = |name: &str, values: Vec<String>| {
            if !values.is_empty() {
                args.push(name.into());
                args.extend(values.into_iter().map(OsString::from));
            }
        };
        // api.md, "REST API Location and availability".
        option("--api-socket", vec![format!("path={}", sockets.control())]);
        // api.md, "D-Bus API Interface", has the events; `--help`: "path=<path> or fd=<fd>".
        option("--event-monitor", vec![format!("fd={EVENTS_FD}")]);
        // cpu.md, "boot".
        option("--cpus", vec![format!("boot={}", plan.vcpus)]);
        // memory.md, "size" and "shared"; fs.md: virtio-fs needs shared=on.
        let shared = if plan.shared_memory { "on" } else { "off" };
        option("--memory", vec![format!("size={}M,shared={shared}", plan.memory_mib)]);
        // ../README.md, "Booting Linux": a kernel with a PVH entry point, and its command line.
        option("--kernel", vec![files.kernel.clone()]);
        option("--cmdline", vec![plan.kernel_command_line.clone()]);
        // device_model.md, "virtio-block"; without image_type=raw the image's type is
        // guessed, and its first sector protected (../release-notes.md, v51.0). What
        // sparse=on (`--help`) asks of a file, one that is read-only cannot do.
        let disk = |path: &String| format!("path={},readonly=on,image_type=raw,sparse=off", quoted(path));
        option("--disk", files.images.iter().map(disk).collect());
        // fs.md, "Cloud-hypervisor setup".
        let fs = |(index, tag): (usize, &String)| {
            format!("tag={},socket={}", quoted(tag), sockets.virtiofsd(index))
        };
        option("--fs", plan.shares.iter().map(|s| &s.tag).enumerate().map(fs).collect());
        // device_model.md, "virtio-net"; a tap that exists is used as it is.
        let net = |i: &crate::plan::InterfacePlan| format!("tap={},mac={}", i.tap, i.mac);
        option("--net", plan.interfaces.iter().map(net).collect());
        // vfio.md, "Direct Device Assignment with Cloud Hypervisor".
        let device = |(index, device): (usize, &PciAddress)| {
            format!("path={},id=pci{index}", quoted(&format!("/sys/bus/pci/devices/{device}/")))
        };
        option("--device", plan.pci_devices.iter().enumerate().map(device).collect());
        // device_model.md, "Serial port"; a file takes output only.
        option("--serial", vec!["file=/dev/stdout".to_owned()]);
        // device_model.md, "virtio-console"; `socket=` is refused for it, the
        // terminal's name is in the answer to vm.info (api.md).
        option("--console", vec!["pty".to_owned()]);
        // ../release-notes.md, v34.0: the guest's kernel tells the VMM of its panic; and
        // v52.0: the VMM stays when the guest ends, so that its end differs from a crash.
        args.extend(["--pvpanic".into(), "--no-shutdown".into()]);
        args
    }

    fn attach(
        &self,
        plan: &Plan,
        sockets: &SocketNames,
        events: Option<File>,
        deadline: Instant,
    ) -> io::Result<Attached> {
        let pipe = events.ok_or_else(|| io::Error::other("the pipe for events is missing"))?;
        let remote = Remote::new(plan, sockets);
        let asked = Remote::new(plan, sockets);
        let mut events = EventPipe::new(pipe, move || asked.call("ping", EXCHANGE_TIMEOUT).is_ok());
        events.wait_for_boot(deadline)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(EXCHANGE_TIMEOUT);
            match remote.call("ping", left) {
                Ok(_) => return Ok(Attached { events: Box::new(events), control: Box::new(remote) }),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(RETRY_INTERVAL),
            }
        }
    }

    fn press_power_button(&self, plan: &Plan, sockets: &SocketNames, timeout: Duration) -> io::Result<()> {
        Remote::new(plan, sockets).call("power-button", timeout).map(drop)
    }

    fn plug(
        &self,
        plan: &Plan,
        sockets: &SocketNames,
        port: usize,
        link: LinkId,
        timeout: Duration,
    ) -> io::Result<()> {
        // hotplug.md, "Add Network Device".
        let device =
            format!("tap={},mac={},id={}", link.provider_tap(), link.provider_mac(), device_id(link, port));
        Remote::new(plan, sockets).call_with(&["add-net", &device], timeout).map(drop)
    }

    fn unplug(
        &self,
        plan: &Plan,
        sockets: &SocketNames,
        port: usize,
        link: LinkId,
        timeout: Duration,
    ) -> io::Result<Unplugged> {
        // hotplug.md, "Remove Device": the VMM frees the slot when the guest lets
        // go, and keeps the tap open until then.
        let id = device_id(link, port);
        Remote::new(plan, sockets).call_with(&["remove-device", &id], timeout).map(|_| Unplugged::Free)
    }

    fn room_for_devices(&self, own: usize, _link_ports: usize) -> usize {
        SLOTS.saturating_sub(own)
    }

    fn ports(&self, _plan: &Plan) -> Option<usize> {
        None
    }

    fn open_console(&self, plan: &Plan, sockets: &SocketNames, timeout: Duration) -> io::Result<Console> {
        let info = Remote::new(plan, sockets).call("info", timeout)?;
        let info: Value = serde_json::from_slice(&info)?;
        let path = info.pointer("/config/console/file").and_then(Value::as_str);
        let path =
            path.ok_or_else(|| io::Error::other("Cloud Hypervisor names no terminal for the console"))?;
        let flags = OFlags::NOCTTY.bits().cast_signed();
        Ok(Console(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?.into()))
    }
}

/// The id of a link's device. With the port, since a device that the guest does
/// not let go of keeps its id.
fn device_id(link: LinkId, port: usize) -> String {
    format!("link-{link}-{port}")
}

/// Cloud Hypervisor's own client, which exits after one call of the API.
struct Remote {
    program: OsString,
    socket: String,
}

impl Remote {
    fn new(plan: &Plan, sockets: &SocketNames) -> Self {
        Self { program: program(plan, Tool::ChRemote).into(), socket: sockets.control() }
    }

    /// Makes one call without arguments and returns what it printed.
    fn call(&self, verb: &str, timeout: Duration) -> io::Result<Vec<u8>> {
        self.call_with(&[verb], timeout)
    }

    /// Makes one call and returns what it printed.
    fn call_with(&self, words: &[&str], timeout: Duration) -> io::Result<Vec<u8>> {
        let verb = words.first().copied().unwrap_or_default();
        let mut child = Command::new(&self.program)
            .args(["--api-socket", &self.socket])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let readers = [
            child.stdout.take().map(read_in_background).transpose()?,
            child.stderr.take().map(read_in_background).transpose()?,
        ];
        let deadline = Instant::now() + timeout;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(timed_out("Cloud Hypervisor's control socket did not answer in time"));
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let [output, errors] = readers.map(|r| r.and_then(|r| r.join().ok()).unwrap_or_default());
        if status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&errors);
        let last = said.lines().last().unwrap_or("it gave no reason");
        Err(io::Error::other(format!("ch-remote {verb} ended with {status}: {last}")))
    }
}

fn read_in_background(mut pipe: impl io::Read + Send + 'static) -> io::Result<JoinHandle<Vec<u8>>> {
    std::thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

impl Control for Remote {
    fn press_power_button(&mut self) -> io::Result<()> {
        self.call("power-button", EXCHANGE_TIMEOUT).map(drop)
    }
}

/// The events that Cloud Hypervisor writes, JSON objects with an empty line between.
///
/// A guest's own end stops the VM and leaves the VMM (`--no-shutdown`): one
/// `vm`/`shutdown`. A crash of a virtual processor, and a signal, stop both:
/// `vm`/`shutdown`, and `vm`/`deleted` when the guest's memory is freed, which
/// takes seconds if there is much. The thread that does it also serves the API
/// (`vmm/src/lib.rs`, `control_loop`), and no more after this: so a VMM that
/// still answers after `vm`/`shutdown` is one whose guest powered off.
struct EventPipe {
    pipe: File,
    received: Vec<u8>,
    answers: Box<dyn Fn() -> bool + Send>,
}

impl EventPipe {
    /// `answers` asks the VMM's control socket, and may take its time.
    fn new(pipe: File, answers: impl Fn() -> bool + Send + 'static) -> Self {
        Self { pipe, received: Vec::new(), answers: Box::new(answers) }
    }

    /// Waits for `vm`/`booted`.
    fn wait_for_boot(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            match self.event(Some(deadline))? {
                Some((source, name)) if source == "vm" && name == "booted" => return Ok(()),
                Some(_) => {}
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "Cloud Hypervisor ended")),
            }
        }
    }

    /// Source and name of the next event; `None` at the end of the stream.
    fn event(&mut self, deadline: Option<Instant>) -> io::Result<Option<(String, String)>> {
        loop {
            let mut documents = serde_json::Deserializer::from_slice(&self.received).into_iter::<Value>();
            match documents.next() {
                Some(Ok(value)) => {
                    let end = documents.byte_offset();
                    self.received.drain(..end);
                    let text =
                        |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                    return Ok(Some((text("source"), text("event"))));
                }
                Some(Err(error)) if !error.is_eof() => {
                    return Err(io::Error::other(format!("Cloud Hypervisor's events are not JSON: {error}")));
                }
                _ if self.received.len() > MAX_EVENT_BYTES => {
                    return Err(io::Error::other("Cloud Hypervisor sent an event without end"));
                }
                _ => {}
            }
            if let Some(deadline) = deadline
                && !self.readable_until(deadline)?
            {
                return Err(timed_out("Cloud Hypervisor did not say in time that the VM runs"));
            }
            let mut buffer = [0; 4096];
            match self.pipe.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => self.received.extend(buffer.iter().take(length)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn readable_until(&self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::IN)];
        Ok(rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&left)))? > 0)
    }
}

impl Events for EventPipe {
    fn next(&mut self) -> io::Result<Option<VmmEvent>> {
        while let Some((source, name)) = self.event(None)? {
            match (source.as_str(), name.as_str()) {
                ("vm", "rebooted") => return Ok(Some(VmmEvent::Reset)),
                ("guest", "panic") => return Ok(Some(VmmEvent::Panicked)),
                ("vm", "shutdown") => {
                    // The first that comes: an answer, or an event or the end.
                    loop {
                        if (self.answers)() {
                            return Ok(Some(VmmEvent::PoweredOff));
                        }
                        match self.event(Some(Instant::now() + RETRY_INTERVAL)) {
                            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                            Err(error) => return Err(error),
                            Ok(_) => return Ok(Some(VmmEvent::Terminated)),
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn quotes_so_that_everything_is_literal() {
        assert_eq!(quoted("a,b=c[d]"), "\"a,b=c[d]\"");
        assert_eq!(quoted("say \"hi\""), "\"say \"\"hi\"\"\"");
    }

    fn pipe() -> (EventPipe, File) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (EventPipe::new(read.into(), || false), write.into())
    }

    fn event(source: &str, name: &str) -> String {
        format!(
            "{{\"timestamp\":{{\"secs\":0,\"nanos\":1}},\"source\":\"{source}\",\"event\":\"{name}\",\"properties\":null}}\n\n"
        )
    }

    #[test]
    fn tells_the_guests_end_from_a_crash() {
        let (mut events, mut vmm) = pipe();
        write!(vmm, "{}{}", event("vmm", "starting"), event("vm", "booted")).unwrap();
        events.wait_for_boot(Instant::now() + Duration::from_secs(1)).unwrap();
        write!(vmm, "{}{}", event("vm", "rebooting"), event("vm", "rebooted")).unwrap();
        assert_eq!(events.next().unwrap(), Some(VmmEvent::Reset));
        write!(vmm, "{}", event("vm", "shutdown")).unwrap();
        events.answers = Box::new(|| true);
        assert_eq!(events.next().unwrap(), Some(VmmEvent::PoweredOff));
        events.answers = Box::new(|| false);
        write!(vmm, "{}{}", event("vm", "shutdown"), event("vm", "deleted")).unwrap();
        assert_eq!(events.next().unwrap(), Some(VmmEvent::Terminated));
        write!(vmm, "{}", event("guest", "panic")).unwrap();
        assert_eq!(events.next().unwrap(), Some(VmmEvent::Panicked));
        drop(vmm);
        assert_eq!(events.next().unwrap(), None);
    }

    #[test]
    fn an_event_may_come_in_pieces() {
        let (mut events, mut vmm) = pipe();
        let text = event("guest", "panic");
        let (first, second) = text.split_at(20);
        vmm.write_all(first.as_bytes()).unwrap();
        let error = events.wait_for_boot(Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        vmm.write_all(second.as_bytes()).unwrap();
        assert_eq!(events.next().unwrap(), Some(VmmEvent::Panicked));
    }
}
