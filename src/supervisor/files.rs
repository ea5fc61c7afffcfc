// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The VMM's files, resolved again at start and opened before the VMM runs.

use crate::base::problem::Problems;
use crate::hypervisor::description::FIRST_FILE_FD;
use crate::plan::Plan;
use crate::system::process::Inherited;

/// Follows the links of the kernel and the images again and opens what they lead
/// to, for reading: descriptors in the order of
/// [`FilePaths::inherited`](crate::hypervisor::description::FilePaths::inherited).
///
/// # Errors
/// Every file that cannot be opened, or whose link leads elsewhere.
pub(super) fn open(plan: &Plan) -> Result<Vec<Inherited>, Problems> {
    let mut problems = Problems::default();
    let mut files = Vec::new();
    for (file, number) in std::iter::once(&plan.kernel).chain(&plan.images).zip(FIRST_FILE_FD..) {
        match plan.open_file(file) {
            Ok(file) => files.push((file.into(), number)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.has_errors() { Err(problems) } else { Ok(files) }
}
