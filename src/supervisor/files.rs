// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The VMM's files, resolved anew at start and opened before the VMM runs.

use std::fs::File;

use crate::base::problem::Problems;
use crate::hypervisor::FIRST_FILE_FD;
use crate::plan::Plan;
use crate::system::process::Inherited;

/// The kernel and the images, open for reading.
pub(super) struct OpenFiles(Vec<File>);

impl OpenFiles {
    /// Follows every link again and opens what it leads to.
    pub fn open(plan: &Plan) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut files = Vec::new();
        for file in std::iter::once(&plan.kernel).chain(&plan.images) {
            match plan.open_file(file) {
                Ok(file) => files.push(file),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.has_errors() { Err(problems) } else { Ok(Self(files)) }
    }

    /// The descriptors with their numbers in the VMM, in the order of
    /// [`FilePaths::inherited`](crate::hypervisor::FilePaths::inherited).
    pub fn into_inherited(self) -> Vec<Inherited> {
        self.0.into_iter().map(Into::into).zip(FIRST_FILE_FD..).collect()
    }
}
