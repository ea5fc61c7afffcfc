// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The service in a user's session that offers its compositor to the user's VMs.

use std::collections::BTreeMap;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::super::{HostError, io_error};
use super::contexts::Compositor;
use super::directory::WITHOUT_SECURITY_CONTEXT;
use super::relay::Relay;
use crate::base::name::VmName;
use crate::state::directory::{WAYLAND_DIRECTORY, wayland_socket};
use crate::system::durable::if_present;

/// Where [`WAYLAND_DIRECTORY`] appears when the first VM with windows starts.
const ABOVE: &str = "/run";
/// When to try again to reach a compositor whose socket is there: it may be starting.
const AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// What a socket's group, the VM's, may do: connect.
const SOCKET_UMASK: u32 = 0o117;

/// A user's session.
pub struct Session<'a> {
    /// The compositor's socket.
    pub compositor: PathBuf,
    /// Prints a line for the user.
    pub say: &'a dyn Fn(&str),
}

/// Offers the compositor of a session to the VMs of its user, until a signal to stop comes.
///
/// The sockets are there as long as the compositor is.
///
/// # Errors
/// See [`HostError`].
pub fn offer_compositor(session: &Session<'_>) -> Result<(), HostError> {
    // Sockets are made with the right mode.
    rustix::process::umask(Mode::from_raw_mode(SOCKET_UMASK));
    let mut offers = Offers { session, of: BTreeMap::new() };
    let served = serve(session, &mut offers).map_err(io_error("the compositor cannot be offered to VMs"));
    offers.withdraw();
    served
}

fn serve(session: &Session<'_>, offers: &mut Offers<'_>) -> io::Result<()> {
    let stopped = stop_signals()?;
    let mut compositor = None;
    let mut was_there = true;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    loop {
        // Watched before it is looked at, so that nothing is missed between the two.
        let vms = watch_vms()?;
        let mut again = None;
        let appears = match compositor {
            Some(_) => None,
            None => {
                let appears = watch_for(&session.compositor)?;
                match Compositor::connect(&session.compositor) {
                    Ok(found) => compositor = Some(found),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(_) => again = Some(AGAIN),
                }
                Some(appears)
            }
        };
        let is_there = compositor.is_some();
        if is_there != was_there {
            let state = if is_there { "a compositor is" } else { "no compositor is yet" };
            (session.say)(&format!("{state} at {}", session.compositor.display()));
        }
        was_there = is_there;
        if let Some(found) = &mut compositor
            && let Err(error) = offers.update(found)
        {
            (session.say)(&format!("the compositor has ended or refuses VMs: {error}"));
            compositor = None;
            offers.withdraw();
            again = Some(AGAIN);
        }
        offers.tell(compositor.is_some());
        match wait(&stopped, [Some(&vms), appears.as_ref()], compositor.as_mut(), offers, again)? {
            Next::Look => {}
            Next::CompositorEnded => {
                compositor = None;
                offers.withdraw();
            }
            Next::Stop => return Ok(()),
        }
    }
}

/// Why [`wait`] has returned.
enum Next {
    /// VMs or the compositor may have come or gone.
    Look,
    CompositorEnded,
    Stop,
}

/// Takes connections of VMs to relays until something else happens.
fn wait(
    stopped: &UnixStream,
    watches: [Option<&OwnedFd>; 2],
    mut compositor: Option<&mut Compositor>,
    offers: &Offers<'_>,
    timeout: Option<Timespec>,
) -> io::Result<Next> {
    loop {
        let readable = {
            let speaks = compositor.as_ref().map(|compositor| compositor.descriptor());
            let watched = watches.iter().flatten().map(|watch| watch.as_fd());
            let first: Vec<BorrowedFd<'_>> =
                [stopped.as_fd()].into_iter().chain(speaks).chain(watched).collect();
            let relays: Vec<&Relay> = offers.relays().collect();
            let all = first.iter().copied().chain(relays.iter().map(|relay| relay.descriptor()));
            let mut polled: Vec<_> =
                all.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)).collect();
            rustix::io::retry_on_intr(|| poll(&mut polled, timeout.as_ref()))?;
            let mut readable: Vec<_> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
            let of_relays = readable.split_off(first.len());
            relays.iter().zip(of_relays).filter(|(_, ready)| *ready).for_each(|(relay, _)| relay.accept());
            readable
        };
        if readable.first() == Some(&true) {
            return Ok(Next::Stop);
        }
        let mut others = readable.into_iter().skip(1);
        if let Some(compositor) = compositor.as_deref_mut()
            && others.next() == Some(true)
            && compositor.read().is_err()
        {
            return Ok(Next::CompositorEnded);
        }
        if timeout.is_some() || others.any(|readable| readable) {
            return Ok(Next::Look);
        }
    }
}

/// A socket that can be read once a signal to stop has come.
fn stop_signals() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read)
}

/// Can be read when a directory of a VM has come or gone.
fn watch_vms() -> io::Result<OwnedFd> {
    let events = WatchFlags::ATTRIB | WatchFlags::DELETE;
    match watch(Path::new(WAYLAND_DIRECTORY), events) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let watch = watch(Path::new(ABOVE), WatchFlags::CREATE)?;
            // It may have come meanwhile.
            if_present(add(&watch, Path::new(WAYLAND_DIRECTORY), events)).map(|_| watch)
        }
        watched => watched,
    }
}

/// Can be read when the socket at `path` may have been made.
fn watch_for(path: &Path) -> io::Result<OwnedFd> {
    watch(path.parent().unwrap_or(Path::new("/")), WatchFlags::CREATE | WatchFlags::MOVED_TO)
}

fn watch(directory: &Path, events: WatchFlags) -> io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    add(&watch, directory, events)?;
    Ok(watch)
}

fn add(watch: &OwnedFd, directory: &Path, events: WatchFlags) -> io::Result<()> {
    inotify::add_watch(watch, directory, events).map(drop).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("{}: {error}", directory.display()))
    })
}

/// What one VM gets.
enum Offer {
    /// The compositor takes its connections until this is closed.
    Context(#[expect(dead_code, reason = "its end is what counts")] PipeWriter),
    /// This service takes them.
    Relay(Relay),
    /// Nothing: the compositor lacks security contexts.
    Refused,
}

/// What the VMs of the user get.
struct Offers<'a> {
    session: &'a Session<'a>,
    of: BTreeMap<VmName, Offer>,
}

impl Offers<'_> {
    /// Offers the compositor to the VMs that run now, and to no others.
    ///
    /// # Errors
    /// When the compositor has ended or refuses.
    fn update(&mut self, compositor: &mut Compositor) -> io::Result<()> {
        let found = directories();
        self.of.retain(|name, _| found.contains_key(name));
        for (name, without) in found {
            let relayed = without && !compositor.has_contexts();
            let refused = !without && !compositor.has_contexts();
            let is_offered = match self.of.get(&name) {
                Some(Offer::Refused) => refused,
                Some(_) => is_socket(&wayland_socket(&name)),
                None => false,
            };
            if is_offered {
                continue;
            }
            let offer = if refused {
                (self.session.say)(&format!(
                    "{name} shows no windows: this compositor lacks wp_security_context_v1; use one that has it, or \
                     let the administrator set wayland = \"without-security-context\" for this VM"
                ));
                Offer::Refused
            } else {
                let listener = match bind(&wayland_socket(&name)) {
                    Ok(listener) => listener,
                    Err(error) => {
                        (self.session.say)(&format!(
                            "{name} shows no windows: its socket cannot be made: {error}"
                        ));
                        continue;
                    }
                };
                if relayed {
                    Offer::Relay(Relay::new(listener, self.session.compositor.clone())?)
                } else {
                    Offer::Context(compositor.accept(&name, &listener)?)
                }
            };
            self.of.insert(name, offer);
        }
        Ok(())
    }

    /// Removes all sockets.
    fn withdraw(&mut self) {
        for name in std::mem::take(&mut self.of).into_keys() {
            let _ = std::fs::remove_file(wayland_socket(&name));
        }
    }

    fn relays(&self) -> impl Iterator<Item = &Relay> {
        self.of.values().filter_map(|offer| match offer {
            Offer::Relay(relay) => Some(relay),
            Offer::Context(_) | Offer::Refused => None,
        })
    }

    /// Tells systemd what there is.
    fn tell(&self, is_there: bool) {
        let path = self.session.compositor.display();
        let count = self.of.values().filter(|offer| !matches!(offer, Offer::Refused)).count();
        let status = match (is_there, count) {
            (false, _) => format!("no compositor at {path}"),
            (true, 1) => format!("1 VM can show windows at {path}"),
            (true, count) => format!("{count} VMs can show windows at {path}"),
        };
        let _ = sd_notify::notify(&[NotifyState::Status(&status)]);
    }
}

/// The VMs that show their windows to this user, each with whether the compositor may lack
/// security contexts.
fn directories() -> BTreeMap<VmName, bool> {
    let user = rustix::process::geteuid().as_raw();
    let Ok(parent) = std::fs::symlink_metadata(WAYLAND_DIRECTORY) else { return BTreeMap::new() };
    let entries = std::fs::read_dir(WAYLAND_DIRECTORY).into_iter().flatten().flatten();
    let own = entries.filter_map(|entry| {
        let name = VmName::new(entry.file_name().to_str()?).ok()?;
        // Not the entry's own answer, which is about what the file system covers.
        let found = std::fs::symlink_metadata(entry.path()).ok()?;
        // Root mounts it in a second step.
        let is_made = found.is_dir() && found.dev() != parent.dev();
        (is_made && found.uid() == user).then(|| (name, found.mode() & WITHOUT_SECURITY_CONTEXT != 0))
    });
    own.collect()
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if_present(std::fs::remove_file(path))?;
    UnixListener::bind(path)
}
