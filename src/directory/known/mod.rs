// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What was read, and whether it is still the same.
//!
//! The kernel sets the time of a file's last change (ctime), and no system call sets it. So a
//! file with the same inode, size and ctime as before is the same, as long as four things
//! hold. The host has not [booted](Moment) since. The file system is a local one of the
//! kernel's, on the same [disk](Storage). The clock was not set back. And the file had not
//! changed in the last moments before it was read, since two changes within one tick of the
//! clock have one time. Whatever is in doubt counts as changed, and is read.

mod files;
mod look;
mod moment;
mod notes;
mod seen;
mod storage;

pub use files::{note, stamp};
pub use look::Look;
pub use moment::Moment;
pub use notes::{Group, Name, Notes, Tree};
pub use seen::Seen;
pub use storage::Storage;
