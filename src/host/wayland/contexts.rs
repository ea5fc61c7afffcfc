// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The compositor of a session, and the security contexts that it has for VMs.
//!
//! Protocol: `security-context-v1` of wayland-protocols.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use wayland_client::backend::WaylandError;
use wayland_client::globals::{GlobalListContents, registry_queue_init};
use wayland_client::protocol::wl_registry::WlRegistry;
use wayland_client::{Connection, Dispatch, EventQueue, QueueHandle, delegate_noop};
use wayland_protocols::wp::security_context::v1::client::wp_security_context_manager_v1::WpSecurityContextManagerV1;
use wayland_protocols::wp::security_context::v1::client::wp_security_context_v1::WpSecurityContextV1;

use crate::base::name::VmName;

/// The name by which compositors know this program; the protocol recommends a domain for it, and
/// the project has none.
const SANDBOX_ENGINE: &str = "microvm-spectrum";

/// Receives the compositor's events, of which none matters.
struct Events;

impl Dispatch<WlRegistry, GlobalListContents> for Events {
    fn event(
        _: &mut Self,
        _: &WlRegistry,
        _: <WlRegistry as wayland_client::Proxy>::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

delegate_noop!(Events: WpSecurityContextManagerV1);
delegate_noop!(Events: WpSecurityContextV1);

/// A connection to a compositor.
pub(super) struct Compositor {
    connection: Connection,
    queue: EventQueue<Events>,
    contexts: Option<WpSecurityContextManagerV1>,
}

impl Compositor {
    /// Connects to the compositor that listens at `path`.
    ///
    /// # Errors
    /// When none listens there, or it does not speak Wayland.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        let connection = Connection::from_socket(stream).map_err(io::Error::other)?;
        let (globals, queue) = registry_queue_init::<Events>(&connection).map_err(io::Error::other)?;
        let contexts = globals.bind(&queue.handle(), 1..=1, ()).ok();
        Ok(Self { connection, queue, contexts })
    }

    /// Whether it has security contexts.
    pub fn has_contexts(&self) -> bool {
        self.contexts.is_some()
    }

    /// Has the compositor accept connections of a VM as such. It ends when the returned pipe is
    /// closed.
    ///
    /// # Errors
    /// When the compositor has ended or refuses.
    pub fn accept(&mut self, name: &VmName, listener: &UnixListener) -> io::Result<PipeWriter> {
        let contexts = self.contexts.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let (end, open) = io::pipe()?;
        let context = contexts.create_listener(listener.as_fd(), end.as_fd(), &self.queue.handle(), ());
        context.set_sandbox_engine(SANDBOX_ENGINE.to_owned());
        // Some compositors take this for the name of a program, whose icon they show, whatever the
        // engine: a VM called `firefox` must not pass for it.
        context.set_app_id(format!("{SANDBOX_ENGINE}.{name}"));
        // A VM runs once at a time.
        context.set_instance_id(name.to_string());
        context.commit();
        context.destroy();
        // Brings an error to light, and sends the descriptors before they are closed here.
        self.queue.roundtrip(&mut Events).map_err(io::Error::other)?;
        Ok(open)
    }

    /// What can be read when the compositor says something, or ends.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Reads what the compositor says.
    ///
    /// # Errors
    /// When it has ended, or reports an error.
    pub fn read(&mut self) -> io::Result<()> {
        if let Some(ready) = self.connection.prepare_read() {
            match ready.read() {
                Err(WaylandError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => drop(result.map_err(io::Error::other)?),
            }
        }
        self.queue.dispatch_pending(&mut Events).map_err(io::Error::other)?;
        Ok(())
    }
}
