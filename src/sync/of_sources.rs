// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The problems of the VMs of each source, as many as a person reads.

use std::collections::BTreeMap;

use crate::base::name::SourceName;
use crate::base::problem::{Problem, Problems, Severity};
use crate::state::catalog::CatalogSource;

/// The most problems of the VMs of one source that are reported; `check` has those of the catalog.
const MAX_REPORTED: usize = 400;

/// The problems of all sources' VMs.
#[derive(Default)]
pub(super) struct OfSources(BTreeMap<SourceName, OfSource>);

#[derive(Default)]
struct OfSource {
    reported: Problems,
    more: usize,
    has_errors: bool,
    of_host: bool,
}

impl OfSources {
    /// Adds problems of a source's VM.
    pub fn add(&mut self, source: &SourceName, problems: impl IntoIterator<Item = Problem>) {
        let of_source = self.0.entry(source.clone()).or_default();
        for problem in problems {
            if of_source.reported.count() < MAX_REPORTED {
                of_source.reported.push(problem);
                continue;
            }
            of_source.more += 1;
            of_source.has_errors |= problem.severity == Severity::Error;
            of_source.of_host |= problem.of_host;
        }
    }

    /// The problems that are reported, and for each source the number of the others.
    pub fn reported(self, sources: &[CatalogSource]) -> Problems {
        let mut all = Problems::default();
        for (name, OfSource { reported, more, has_errors, of_host }) in self.0 {
            all.extend(reported.into_sorted());
            if more == 0 {
                continue;
            }
            let directory = sources.iter().find(|source| source.name == name).map(|source| &source.directory);
            let counted = Problem::note(
                directory.cloned().unwrap_or_default(),
                format!("the VMs of the source {name} have {more} more problems"),
                "correct the others first; microvm-spectrum check shows what is wrong with each VM",
            );
            let severity = if has_errors { Severity::Error } else { Severity::Note };
            all.push(Problem { severity, of_host, ..counted });
        }
        all
    }
}
