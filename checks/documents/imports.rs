// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The folders of `src/` are the stages of the data flow (see `docs/architecture.md`),
//! and each uses only those before it in the table of `src/lib.rs`.
//!
//! Every path counts, also in tests and in macros, and so does an inherent `impl` of
//! a type that another folder defines. [`every_kind_of_wrong_way_is_found`] turns
//! imports round, one kind at a time; on 2026-11-21 `use crate::sync::forget;` was also
//! added to `src/base/name.rs` by hand, and [`imports_go_one_way`] failed and named it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::project;

/// The folders, in the order of the table.
fn order() -> Vec<String> {
    let text = fs::read_to_string(project("src/lib.rs")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("//! |"));
    let names = rows.filter_map(|row| row.rsplit_once("[`")?.1.split_once("`]"));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// A file's path beneath `src/`, and what it says.
type Source = (String, syn::File);

fn sources(directory: &Path, above: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
        let name = format!("{above}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            found.extend(sources(&entry.path(), &format!("{name}/")));
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push((name, syn::parse_file(&text).unwrap()));
        }
    }
    found
}

/// What is wrong about these sources, where folders have this order.
fn wrong(order: &[String], sources: &[Source]) -> Vec<String> {
    let mut types = BTreeMap::<_, BTreeSet<_>>::new();
    for (name, file) in sources {
        let mut defined = Types::default();
        defined.visit_file(file);
        types.entry(folder(name)).or_default().extend(defined.0);
    }
    let mut wrong = Vec::new();
    for (name, file) in sources.iter().filter(|(name, _)| name.contains('/')) {
        let stem = name.trim_end_matches(".rs").trim_end_matches("/mod");
        let module = stem.split('/').map(str::to_owned).collect();
        let mut reader = Reader { module, imported: BTreeMap::new(), paths: vec![], impls: vec![] };
        reader.visit_file(file);
        let place = |folder: &str| order.iter().position(|known| known == folder);
        let own = folder(name);
        for (target, path) in reader.paths {
            if place(&target).is_none_or(|target| Some(target) > place(own)) {
                wrong.push(format!("{name}: {path} is in {target}, which does not come before {own}"));
            }
        }
        for (name_of_type, target) in reader.impls {
            let target = target.or_else(|| reader.imported.get(&name_of_type).cloned());
            let defined_here = types[own].contains(&name_of_type);
            if target.map_or(!defined_here, |target| target != own) {
                wrong.push(format!("{name}: impl {name_of_type}, which {own} does not define"));
            }
        }
    }
    wrong
}

fn folder(name: &str) -> &str {
    name.split('/').next().unwrap()
}

/// The names of the types that are defined.
#[derive(Default)]
struct Types(BTreeSet<String>);

impl Visit<'_> for Types {
    fn visit_item_struct(&mut self, item: &syn::ItemStruct) {
        self.0.insert(item.ident.to_string());
    }
    fn visit_item_enum(&mut self, item: &syn::ItemEnum) {
        self.0.insert(item.ident.to_string());
    }
}

/// What one file takes from which folders.
struct Reader {
    /// Where in the crate it is.
    module: Vec<String>,
    /// The folders of the names that it imports.
    imported: BTreeMap<String, String>,
    /// The folders of its paths, and the paths.
    paths: Vec<(String, String)>,
    /// The types that it has an inherent `impl` of, and their folders where it says them.
    impls: Vec<(String, Option<String>)>,
}

impl Reader {
    /// The folder that a path of the crate leads to; none for what comes from elsewhere.
    fn target(&self, path: &[String]) -> Option<String> {
        let up = path.iter().take_while(|part| *part == "super").count();
        let mut from_the_root = match path.first()?.as_str() {
            "crate" => path[1..].to_vec(),
            "super" => [&self.module[..self.module.len() - up], &path[up..]].concat(),
            _ => return None,
        };
        from_the_root.truncate(1);
        from_the_root.pop()
    }

    fn path(&mut self, path: &[String]) {
        if let Some(target) = self.target(path) {
            self.paths.push((target, path.join("::")));
        }
    }

    /// An import, of which groups and new names are made plain.
    fn import(&mut self, above: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| [above, &[ident.to_string()]].concat();
        let (path, name) = match tree {
            syn::UseTree::Path(path) => return self.import(&with(&path.ident), &path.tree),
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|item| self.import(above, item));
            }
            syn::UseTree::Name(name) => (with(&name.ident), &name.ident),
            syn::UseTree::Rename(rename) => (with(&rename.ident), &rename.rename),
            syn::UseTree::Glob(_) => return self.path(above),
        };
        if let Some(target) = self.target(&path) {
            self.imported.insert(name.to_string(), target);
        }
        self.path(&path);
    }

    /// The paths among a macro's tokens.
    fn tokens(&mut self, stream: TokenStream) {
        let mut path = Vec::<String>::new();
        let mut separators = 0;
        for token in stream {
            match &token {
                TokenTree::Ident(ident) => {
                    if separators != 2 {
                        self.path(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    separators = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => separators += 1,
                _ => {
                    let in_a_group = separators == 2 && self.target(&path).is_some();
                    assert!(!in_a_group, "{path:?}: import one by one in a macro");
                    self.path(&std::mem::take(&mut path));
                    separators = 0;
                }
            }
            if let TokenTree::Group(group) = token {
                self.tokens(group.stream());
            }
        }
        self.path(&path);
    }
}

impl Visit<'_> for Reader {
    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        self.import(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(&parts);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_impl(&mut self, item: &syn::ItemImpl) {
        if let (None, syn::Type::Path(of)) = (&item.trait_, &*item.self_ty) {
            let parts: Vec<_> = of.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.impls.push((parts.last().unwrap().clone(), self.target(&parts)));
        }
        visit::visit_item_impl(self, item);
    }
}

#[test]
fn imports_go_one_way() {
    let order = order();
    let sources = sources(&project("src"), "");
    let folders: BTreeSet<_> =
        sources.iter().filter(|(name, _)| name.contains('/')).map(|s| folder(&s.0)).collect();
    assert_eq!(folders, order.iter().map(String::as_str).collect(), "the table of src/lib.rs");
    assert!(sources.len() > 50);
    let wrong = wrong(&order, &sources);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_says_what_it_is() {
    for folder in order() {
        let path = project("src").join(folder).join("mod.rs");
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        let inner = file.attrs.iter().filter(|attribute| matches!(attribute.style, syn::AttrStyle::Inner(_)));
        assert!(inner.take(1).any(|first| first.path().is_ident("doc")), "{} says nothing", path.display());
    }
}

#[test]
fn every_kind_of_wrong_way_is_found() {
    let order = ["first", "second"].map(str::to_owned);
    let type_of_the_first = ("first/mod.rs", "pub struct Ours; impl Ours {} impl crate::first::Ours {}");
    let found = |name: &str, text: &str| {
        let files = [type_of_the_first, ("second/mod.rs", "pub struct Theirs;"), (name, text)];
        let parsed = files.map(|(name, text)| (name.to_owned(), syn::parse_file(text).unwrap()));
        wrong(&order, &parsed)
    };
    for right in [
        ("second/a.rs", "use crate::first::{self, Ours}; fn f() { crate::first::g(super::h()) }"),
        ("second/a.rs", "mod inner { use super::super::super::first::Ours; } impl super::Theirs {}"),
        ("second/a.rs", "use crate::first::Ours; impl From<Ours> for super::Theirs { }"),
        (
            "first/a.rs",
            "use std::fs; fn second() { second() } fn f() { m!(\"crate::second::x\", second::y) }",
        ),
        ("lib.rs", "use crate::second::Theirs;"),
    ] {
        assert_eq!(found(right.0, right.1), [""; 0], "{right:?}");
    }
    for wrong in [
        ("first/a.rs", "use crate::second;"),
        ("first/a.rs", "use crate::second::*;"),
        ("first/a.rs", "use crate::{first::Ours, second::{Theirs as Others}};"),
        ("first/a.rs", "pub use super::super::second::Theirs;"),
        ("first/deep/a.rs", "use super::super::super::second::Theirs;"),
        ("first/a.rs", "fn f() -> Vec<crate::second::Theirs> { vec![] }"),
        ("first/a.rs", "fn f() { let x = crate::second::f(); }"),
        ("first/a.rs", "fn f() { assert!(a && [crate::second::f()].is_empty()); }"),
        ("first/a.rs", "macro_rules! m { () => { $crate::second::f() } }"),
        ("first/a.rs", "fn f() { m!(super::super::second::f()) }"),
        ("first/a.rs", "#[cfg(test)] mod tests { use crate::second::Theirs; }"),
        ("first/a.rs", "#[derive(Debug)] struct S { #[cfg(x)] field: crate::second::Theirs }"),
        ("first/a.rs", "use crate::unknown::X;"),
        ("second/a.rs", "use crate::first::Ours; impl Ours {}"),
        ("second/a.rs", "use crate::first::Ours as Theirs; impl Theirs {}"),
        ("second/a.rs", "use crate::first; impl first::Ours {}"),
        ("second/a.rs", "impl<T> crate::first::Ours {}"),
        ("second/a.rs", "mod inner { use crate::first::*; impl Ours {} }"),
    ] {
        assert_eq!(found(wrong.0, wrong.1).len(), 1, "{wrong:?}: {:?}", found(wrong.0, wrong.1));
    }
}
