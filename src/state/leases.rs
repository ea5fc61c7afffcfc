// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Leases: the user id and the link ids that a VM keeps until `forget`.
//!
//! `sync` gives a user id to no other VM, so that no VM inherits the files of a
//! removed one. The leases are one JSON file in the state directory, for people to
//! read, too. They belong to a VM of a source, not to a bare name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{unreadable, unwritable};
use crate::base::name::{VmId, VmName};
use crate::base::problem::Problem;
use crate::base::versioned;
use crate::config::{UidRange, may_be_a_vms};
use crate::link::id::{LinkError, LinkId};
use crate::link::id_set::LinkIds;
use crate::system::durable;

/// The version of the file that this program writes and reads.
const LEASES_VERSION: u32 = 1;

/// A link whose id the administrator declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredLink {
    /// The client.
    pub client: VmId,
    /// The provider.
    pub provider: VmName,
    /// The id.
    pub id: LinkId,
}

/// All leases of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    version: u32,
    /// User ids; a VM's group id is the same number.
    uids: BTreeMap<VmId, u32>,
    /// User ids that VMs had before the administrator declared others for them. Files
    /// of these ids may still exist, so only the administrator can give them away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    former: BTreeMap<u32, VmId>,
    /// Link ids, by client and provider.
    #[serde(default)]
    links: BTreeMap<VmId, BTreeMap<VmName, LinkId>>,
    /// All ids from above, for quick checks.
    #[serde(skip)]
    given: Given,
}

/// The ids that are leased to any VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Given {
    uids: BTreeSet<u32>,
    links: LinkIds,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            version: LEASES_VERSION,
            uids: BTreeMap::new(),
            former: BTreeMap::new(),
            links: BTreeMap::new(),
            given: Given::default(),
        }
    }
}

impl Leases {
    /// Reads the leases; there are none before the first `sync`.
    ///
    /// # Errors
    /// When the file exists and cannot be used: without it, `sync` would give a VM
    /// the ids of another.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let refused = |cause: String| {
            let remedy =
                "restore it from a backup; remove it only if no VM has ever left a file on this host";
            Problem::error(path, cause, remedy)
        };
        let text = match durable::if_present(std::fs::read(path)).map_err(unreadable(path))? {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => return Ok(Self::default()),
        };
        let mut leases: Self = versioned::parse(&text, "a file of leases", LEASES_VERSION)
            .map_err(|error| refused(error.to_string()))?;
        if let Some((id, uid)) = leases.uids.iter().find(|(_, uid)| !may_be_a_vms(**uid)) {
            return Err(refused(format!("gives {id} the user id {uid}, which no VM may have")));
        }
        leases.note_given();
        if leases.given.uids.len() < leases.uids.len() + leases.former.len() {
            return Err(refused("gives two VMs the same user id".to_owned()));
        }
        if leases.given.links.len() < leases.links.values().map(BTreeMap::len).sum() {
            return Err(refused("gives two links the same id".to_owned()));
        }
        Ok(leases)
    }

    /// Writes the leases, in one step.
    ///
    /// # Errors
    /// The host's, when they cannot be written; the old ones are then still there.
    pub fn write(&self, path: &Path) -> Result<(), Problem> {
        let text = versioned::text_of(self);
        text.and_then(|text| durable::replace_file(path, &text, 0o644)).map_err(unwritable(path))
    }

    /// Collects the ids that are leased to any VM.
    fn note_given(&mut self) {
        self.given.uids = self.uids.values().chain(self.former.keys()).copied().collect();
        self.given.links = self.links.values().flat_map(BTreeMap::values).copied().collect();
    }

    fn insert_link(&mut self, client: &VmId, provider: &VmName, id: LinkId) {
        self.given.links.insert(id);
        let links = self.links.entry(client.clone()).or_default();
        if let Some(before) = links.insert(provider.clone(), id).filter(|before| *before != id) {
            self.given.links.remove(before);
        }
    }

    fn insert_uid(&mut self, id: &VmId, uid: u32) {
        self.given.uids.insert(uid);
        self.former.remove(&uid);
        if let Some(before) = self.uids.insert(id.clone(), uid).filter(|before| *before != uid) {
            self.former.insert(before, id.clone());
        }
    }

    /// The id of the link from a client to a provider: the leased one, or else the
    /// one that is derived from the names.
    ///
    /// # Errors
    /// When no id is free.
    pub fn link(&mut self, client: &VmId, provider: &VmName) -> Result<LinkId, LinkError> {
        if let Some(id) = self.link_of(client, provider) {
            return Ok(id);
        }
        let id = LinkId::derive_by(&client.name, provider, |first| self.given.links.free_from(first))?;
        self.insert_link(client, provider, id);
        Ok(id)
    }

    /// The id that is leased to the link from a client to a provider.
    pub fn link_of(&self, client: &VmId, provider: &VmName) -> Option<LinkId> {
        self.links.get(client)?.get(provider).copied()
    }

    /// Leases the ids that the administrator declares for links, in one step, so
    /// that two links can exchange theirs.
    ///
    /// Returns the links that keep their old ids, each with the client and the provider
    /// of the link that has the declared id and keeps it.
    pub fn declare_links(&mut self, declared: &[DeclaredLink]) -> Vec<(DeclaredLink, VmId, VmName)> {
        let mut moved: Vec<_> = declared.iter().collect();
        let mut refused = Vec::new();
        // A refused link keeps its id, for which another link may then be refused.
        loop {
            let is_moved = |client: &VmId, provider: &VmName| {
                moved.iter().any(|link| (&link.client, &link.provider) == (client, provider))
            };
            let all = self.links.iter().flat_map(|(c, links)| links.iter().map(move |(p, id)| (c, p, *id)));
            let stay: Vec<_> = all.filter(|(c, p, _)| !is_moved(c, p)).collect();
            let found = moved.iter().enumerate().find_map(|(number, link)| {
                let (client, provider, _) = stay.iter().find(|(_, _, id)| *id == link.id)?;
                Some((number, (*client).clone(), (*provider).clone()))
            });
            let Some((number, client, provider)) = found else { break };
            refused.push((moved.remove(number).clone(), client, provider));
        }
        for DeclaredLink { client, provider, id } in moved {
            self.links.entry(client.clone()).or_default().insert(provider.clone(), *id);
        }
        // Two links may have exchanged their ids.
        self.note_given();
        refused
    }

    /// Leases the ids that a VM has in a catalog, unless the VM or the id has a lease:
    /// the file of leases may have been lost.
    pub fn adopt(&mut self, id: &VmId, uid: u32, links: impl IntoIterator<Item = (VmName, LinkId)>) {
        if !self.given.uids.contains(&uid) && !self.uids.contains_key(id) {
            self.insert_uid(id, uid);
        }
        for (provider, link) in links {
            let has_one = self.links.get(id).is_some_and(|links| links.contains_key(&provider));
            if !self.given.links.contains(link) && !has_one {
                self.insert_link(id, &provider, link);
            }
        }
    }

    /// Leases the user id that the administrator declares for a VM.
    ///
    /// # Errors
    /// The other VM that has it.
    pub fn declare_uid(&mut self, id: &VmId, uid: u32) -> Result<(), VmId> {
        if self.given.uids.contains(&uid)
            && let Some((other, _)) = self.uids.iter().find(|(other, leased)| **leased == uid && *other != id)
        {
            return Err(other.clone());
        }
        self.insert_uid(id, uid);
        Ok(())
    }

    /// Leases the id of a link that is in a package which was built elsewhere.
    ///
    /// # Errors
    /// The client and the provider of the link that has it.
    pub fn declare_link(
        &mut self,
        client: &VmId,
        provider: &VmName,
        link: LinkId,
    ) -> Result<(), (VmId, VmName)> {
        let mut all = self.links.iter().flat_map(|(c, links)| links.iter().map(move |(p, id)| (c, p, *id)));
        if self.given.links.contains(link)
            && let Some((c, p, _)) = all.find(|(c, p, id)| *id == link && (*c, *p) != (client, provider))
        {
            return Err((c.clone(), p.clone()));
        }
        self.insert_link(client, provider, link);
        Ok(())
    }

    /// Whether a VM does not have this user id yet.
    pub fn is_new(&self, id: &VmId, uid: u32) -> bool {
        self.uids.get(id) != Some(&uid)
    }

    /// Whether a user id is leased, and not to this VM.
    pub fn is_anothers(&self, id: &VmId, uid: u32) -> bool {
        self.given.uids.contains(&uid) && self.uids.get(id) != Some(&uid)
    }

    /// All VMs that have a lease, with their user ids and their links.
    pub fn all(&self) -> impl Iterator<Item = (&VmId, Option<u32>, impl Iterator<Item = (&VmName, LinkId)>)> {
        let vms: BTreeSet<_> = self.uids.keys().chain(self.links.keys()).collect();
        vms.into_iter().map(|vm| {
            let links = self.links.get(vm).into_iter().flatten().map(|(provider, link)| (provider, *link));
            (vm, self.uids.get(vm).copied(), links)
        })
    }

    /// Ends all leases of a VM. Returns its user id, if it had one.
    pub fn forget(&mut self, id: &VmId) -> Option<u32> {
        for link in self.links.remove(id).into_iter().flat_map(BTreeMap::into_values) {
            self.given.links.remove(link);
        }
        let given = &mut self.given.uids;
        self.former.retain(|uid, vm| vm != id || !given.remove(uid));
        let uid = self.uids.remove(id)?;
        given.remove(&uid);
        Some(uid)
    }

    /// Gives a VM the leases that it had at an `earlier` time.
    pub fn restore(&mut self, id: &VmId, earlier: &Self) {
        if !earlier.uids.contains_key(id)
            && let Some(uid) = self.uids.remove(id)
        {
            self.given.uids.remove(&uid);
        }
        let of_earlier = earlier.links.get(id);
        let Some(links) = self.links.get_mut(id) else { return };
        let given = &mut self.given.links;
        links.retain(|provider, link| {
            let stays = of_earlier.is_some_and(|links| links.contains_key(provider));
            if !stays {
                given.remove(*link);
            }
            stays
        });
        if links.is_empty() {
            self.links.remove(id);
        }
    }

    /// The user id that is leased to a VM.
    pub fn uid_of(&self, id: &VmId) -> Option<u32> {
        self.uids.get(id).copied()
    }

    /// The user id of a VM: the leased one, or else the next of `free` that is neither
    /// leased nor `taken`, which is asked of no more ids than needed.
    ///
    /// # Errors
    /// When no id of the range is free, and those of `taken`.
    pub fn uid<E: From<NoUidLeft>>(
        &mut self,
        id: &VmId,
        free: &mut UidSearch,
        mut taken: impl FnMut(u32) -> Result<bool, E>,
    ) -> Result<u32, E> {
        if let Some(uid) = self.uids.get(id) {
            return Ok(*uid);
        }
        for uid in free {
            if !self.given.uids.contains(&uid) && !taken(uid)? {
                self.insert_uid(id, uid);
                return Ok(uid);
            }
        }
        Err(NoUidLeft.into())
    }

    /// A search for free user ids of a range.
    pub fn search(&self, UidRange { first, last }: &UidRange) -> UidSearch {
        // Behind the highest, so that an id that `forget` has released is taken last.
        let after = self.given.uids.range(first..=last).next_back().map_or(*first, |last| last + 1);
        UidSearch { ahead: after..=*last, then: *first..=after.saturating_sub(1) }
    }
}

/// The user ids of a range, each once, so that many leases together look at each id once.
#[derive(Debug, Clone)]
pub struct UidSearch {
    ahead: RangeInclusive<u32>,
    then: RangeInclusive<u32>,
}

impl Iterator for UidSearch {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.ahead.next().or_else(|| self.then.next())
    }
}

/// All user ids of the range are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all user ids of the range are leased to other VMs")]
pub struct NoUidLeft;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> VmId {
        text.parse().unwrap()
    }

    #[test]
    fn a_lease_never_moves_and_belongs_to_the_source() {
        let range = UidRange { first: 70_000, last: 70_003 };
        let taken = |uid| Ok::<_, NoUidLeft>(uid == 70_001);
        let mut leases = Leases::default();
        let mut free = leases.search(&range);
        let mut lease = |text: &str| leases.uid(&id(text), &mut free, taken);
        assert_eq!(lease("user/a"), Ok(70_000));
        assert_eq!(lease("user/b"), Ok(70_002));
        assert_eq!(lease("other/a"), Ok(70_003));
        assert_eq!(lease("user/c"), Err(NoUidLeft));
        assert_eq!(lease("user/a"), Ok(70_000));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.json");
        assert_eq!(Leases::read(&path), Ok(Leases::default()));
        leases.write(&path).unwrap();
        assert_eq!(Leases::read(&path), Ok(leases));
    }

    #[test]
    fn a_link_keeps_its_id_whatever_comes_and_goes() {
        let name = |text: &str| VmName::new(text).unwrap();
        let (lynx, netvm) = (id("user/appvm-lynx"), name("netvm"));
        let mut leases = Leases::default();
        let first = leases.link(&lynx, &netvm).unwrap();
        // The same names on another partition are another link.
        let second = leases.link(&id("other/appvm-lynx"), &netvm).unwrap();
        assert_ne!(first, second);
        // No other link gets an id that is declared.
        let derived = LinkId::derive(&name("a"), &netvm, &BTreeSet::new()).unwrap();
        assert_eq!(
            leases.declare_links(&[DeclaredLink {
                client: id("user/b"),
                provider: netvm.clone(),
                id: derived
            }]),
            []
        );
        let given = leases.link(&id("user/a"), &netvm).unwrap();
        assert_ne!(given, derived);
        assert_eq!(leases.forget(&id("user/b")), None);
        assert_eq!(leases.link(&id("user/a"), &netvm), Ok(given));
        assert_eq!(leases.link(&lynx, &netvm), Ok(first));
        // An administrator's word moves a link, but never takes another's id.
        let declared =
            |client: &VmId, id| DeclaredLink { client: client.clone(), provider: netvm.clone(), id };
        let refused = leases.declare_links(&[declared(&lynx, second)]);
        assert_eq!(refused, [(declared(&lynx, second), id("other/appvm-lynx"), netvm.clone())]);
        for _ in 0..2 {
            assert_eq!(leases.declare_links(&[declared(&lynx, derived)]), []);
            assert_eq!(leases.link(&lynx, &netvm), Ok(derived));
        }
        // Two change places.
        let swap = [declared(&lynx, given), declared(&id("user/a"), derived)];
        assert_eq!(leases.declare_links(&swap), []);
        assert_eq!(leases.link(&lynx, &netvm), Ok(given));
    }

    #[test]
    fn a_user_id_that_was_left_is_kept_until_the_vm_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.json");
        let range = UidRange { first: 70_000, last: 70_001 };
        let none = |_| Ok::<_, NoUidLeft>(false);
        let (a, b) = (id("user/a"), id("user/b"));
        let mut leases = Leases::default();
        let mut free = leases.search(&range);
        assert_eq!(leases.uid(&a, &mut free, none), Ok(70_000));
        leases.declare_uid(&a, 69_000).unwrap();
        leases.write(&path).unwrap();
        let mut leases = Leases::read(&path).unwrap();
        let mut free = leases.search(&range);
        assert_eq!(leases.uid(&b, &mut free, none), Ok(70_001));
        assert_eq!(leases.uid(&id("user/c"), &mut free, none), Err(NoUidLeft));
        // Who had it may have it again.
        leases.declare_uid(&a, 70_000).unwrap();
        assert_eq!(leases.declare_uid(&b, 70_000), Err(a.clone()));
        leases.declare_uid(&a, 69_000).unwrap();
        assert_eq!(leases.forget(&a), Some(69_000));
        let mut free = leases.search(&range);
        assert_eq!(leases.uid(&id("user/c"), &mut free, none), Ok(70_000));
        // An administrator's word counts more.
        leases.declare_uid(&b, 69_001).unwrap();
        leases.declare_uid(&id("user/d"), 70_001).unwrap();
    }

    #[test]
    fn what_was_leased_since_is_released_and_nothing_else() {
        let range = UidRange { first: 70_000, last: 70_009 };
        let none = |_| Ok::<_, NoUidLeft>(false);
        let (old, new, net) = (id("user/old"), id("user/new"), VmName::new("net").unwrap());
        let mut leases = Leases::default();
        let mut free = leases.search(&range);
        leases.uid(&old, &mut free, none).unwrap();
        leases.link(&old, &net).unwrap();
        let earlier = leases.clone();
        leases.link(&old, &VmName::new("another").unwrap()).unwrap();
        leases.uid(&new, &mut free, none).unwrap();
        leases.link(&new, &net).unwrap();
        leases.restore(&old, &earlier);
        leases.restore(&new, &earlier);
        assert_eq!(leases, earlier);
    }

    #[test]
    fn a_range_that_is_nearly_full_is_searched_once() {
        let range = UidRange { first: 100_000, last: 299_999 };
        let none = |_| Ok::<_, NoUidLeft>(false);
        let mut leases = Leases::default();
        let mut free = leases.search(&range);
        for number in 0..20_000 {
            leases.uid(&id(&format!("a/{number}")), &mut free, none).unwrap();
        }
        leases.declare_uid(&id("a/last"), range.last).unwrap();
        // A new search begins behind the last id and passes all leased ones once.
        let mut free = leases.search(&range);
        for number in 0..20_000 {
            assert_eq!(leases.uid(&id(&format!("b/{number}")), &mut free, none), Ok(120_000 + number));
        }
        let client = |number: u32| id(&format!("c/{number}"));
        let net = VmName::new("net").unwrap();
        for number in 0..65_534 {
            leases.link(&client(number), &net).unwrap();
        }
        assert_eq!(leases.link(&id("d/d"), &net), Err(LinkError::Exhausted));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_never_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.json");
        for bad in [
            "",
            "{",
            "{}",
            r#"{"version": 2, "uids": {}}"#,
            r#"{"version": 1, "uids": {"a": 1}}"#,
            r#"{"version": 1, "uids": {"s/a": 70000, "s/b": 70000}}"#,
            r#"{"version": 1, "uids": {}, "links": {"s/a": {"n": "0000"}}}"#,
            r#"{"version": 1, "uids": {}, "links": {"s/a": {"n": "a546", "m": "a546"}}}"#,
        ] {
            std::fs::write(&path, bad).unwrap();
            let problem = Leases::read(&path).unwrap_err();
            assert!(problem.remedy.contains("backup"), "{bad}");
        }
    }
}
