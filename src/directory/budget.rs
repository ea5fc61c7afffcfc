// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What reading VM directories may cost, each by itself and all of a source together.
//!
//! The author of a source decides how long its links are and how full its directories.
//! Each name of a path, each entry of a directory, and each byte of a link and of a path that
//! is kept is paid for here, so that this author decides no more than what is in the budget.

use std::cell::Cell;
use std::fmt;

/// What a budget is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Names that are looked up on paths and in the texts of links.
    Steps,
    /// Entries of directories.
    Entries,
    /// Bytes of links that are followed, and of names and paths that are kept.
    Bytes,
}

/// How much of each there is.
#[derive(Debug, Clone, Copy)]
struct Amounts([u32; 3]);

/// For one VM. The largest that boots has 33 links and directories.
const OF_VM: Amounts = Amounts([2_000, 4_096, 32 << 10]);
/// For all VMs of a source, and for what is looked at once for all of them.
const OF_SOURCE: Amounts = Amounts([1_000_000, 1_000_000, 16 << 20]);

impl Amounts {
    fn of(self, cost: Cost) -> u32 {
        let Self([steps, entries, bytes]) = self;
        match cost {
            Cost::Steps => steps,
            Cost::Entries => entries,
            Cost::Bytes => bytes,
        }
    }

    /// Takes `amount`, or all if there is less.
    fn take(&mut self, cost: Cost, amount: u32) -> Option<()> {
        let Self([steps, entries, bytes]) = self;
        let left = match cost {
            Cost::Steps => steps,
            Cost::Entries => entries,
            Cost::Bytes => bytes,
        };
        let rest = left.checked_sub(amount);
        *left = rest.unwrap_or(0);
        rest.map(drop)
    }
}

/// What is left for the VMs of a source.
#[derive(Debug)]
pub struct Budget {
    /// For the VM that is being read.
    vm: Cell<Option<Amounts>>,
    source: Cell<Amounts>,
}

/// Something costs more than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Exceeded {
    cost: Cost,
    of_vm: bool,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cost, of_vm } = *self;
        let most = if of_vm { OF_VM } else { OF_SOURCE }.of(cost);
        let whose = if of_vm { "the VM directory" } else { "all VM directories of the source together" };
        match cost {
            Cost::Steps => write!(f, "the links of {whose} lead through more than {most} names"),
            Cost::Entries => write!(f, "the directories of {whose} have more than {most} entries"),
            Cost::Bytes => write!(f, "the paths and links of {whose} have more than {most} bytes"),
        }
    }
}

impl Exceeded {
    /// What to do about it.
    pub const REMEDY: &str = "use fewer files, and fewer and shorter links";
}

impl Default for Budget {
    fn default() -> Self {
        Self { vm: Cell::new(None), source: Cell::new(OF_SOURCE) }
    }
}

impl Budget {
    /// From now on, what is paid is for the next VM.
    pub fn next_vm(&self) {
        self.vm.set(Some(OF_VM));
    }

    /// What was paid for the VM that is being read.
    pub fn paid(&self) -> [u32; 3] {
        let (Amounts(most), Amounts(left)) = (OF_VM, self.vm.get().unwrap_or(OF_VM));
        let mut paid = most;
        paid.iter_mut().zip(left).for_each(|(paid, left)| *paid = paid.saturating_sub(left));
        paid
    }

    /// Pays for the next VM what was paid for it when it was read.
    ///
    /// # Errors
    /// When there is not enough left for it, and nothing is paid.
    pub fn pay_again(&self, paid: [u32; 3]) -> Result<(), Exceeded> {
        let mut source = self.source.get();
        for (cost, amount) in [Cost::Steps, Cost::Entries, Cost::Bytes].into_iter().zip(paid) {
            source.take(cost, amount).ok_or(Exceeded { cost, of_vm: false })?;
        }
        self.source.set(source);
        Ok(())
    }

    /// What `look` finds at the expense of the source alone.
    pub fn for_all<T>(&self, look: impl FnOnce() -> T) -> T {
        let of_vm = self.vm.take();
        let found = look();
        self.vm.set(of_vm);
        found
    }

    /// Pays for something.
    ///
    /// # Errors
    /// When there is not enough left, and from then on.
    pub fn pay(&self, cost: Cost, amount: usize) -> Result<(), Exceeded> {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        let pay = |left: &mut Amounts, of_vm| left.take(cost, amount).ok_or(Exceeded { cost, of_vm });
        if let Some(mut vm) = self.vm.get() {
            let paid = pay(&mut vm, true);
            self.vm.set(Some(vm));
            paid?;
        }
        let mut source = self.source.get();
        let paid = pay(&mut source, false);
        self.source.set(source);
        paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_spends_no_more_than_its_own_and_all_no_more_than_their_sources() {
        let budget = Budget::default();
        let most = OF_VM.of(Cost::Steps) as usize;
        for vm in 0..OF_SOURCE.of(Cost::Steps) as usize / most {
            budget.next_vm();
            assert_eq!(budget.pay(Cost::Steps, most), Ok(()), "{vm}");
            assert!(budget.pay(Cost::Steps, 1).unwrap_err().of_vm);
            assert_eq!(budget.pay(Cost::Entries, 1), Ok(()));
        }
        budget.next_vm();
        assert!(!budget.pay(Cost::Steps, 1).unwrap_err().of_vm);
        budget.for_all(|| assert_eq!(budget.pay(Cost::Bytes, 100 << 10), Ok(())));
        assert!(budget.pay(Cost::Bytes, 100 << 10).unwrap_err().of_vm);
    }

    #[test]
    fn a_vm_that_is_unchanged_costs_its_source_the_same() {
        let (read, known) = (Budget::default(), Budget::default());
        read.next_vm();
        read.pay(Cost::Steps, 7).and_then(|()| read.pay(Cost::Bytes, 30)).unwrap();
        assert_eq!(read.paid(), [7, 0, 30]);
        known.pay_again(read.paid()).unwrap();
        assert_eq!(known.source.get().0, read.source.get().0);
        assert!(known.pay_again([u32::MAX, 0, 0]).is_err());
        assert_eq!(known.source.get().0, read.source.get().0);
    }
}
