//! Inheritance of directives: from `http` over `server` to the locations within each other.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use super::{output::Part, parse::Directive};

/// Lookup tables that stand for other things than a `map`, by name.
pub(super) type Derived = Rc<RefCell<BTreeMap<String, Part>>>;

/// Directives of a block, with an index by name: each of a thousand locations looks up some hundred
/// names in the block around them.
#[derive(Debug)]
struct Level<'a> {
    all: &'a [Directive],
    by_name: HashMap<&'a str, Vec<&'a Directive>>,
}

impl<'a> Level<'a> {
    fn new(all: &'a [Directive]) -> Rc<Self> {
        let mut by_name = HashMap::<_, Vec<_>>::new();
        for one in all {
            by_name.entry(&*one.name).or_default().push(one);
        }
        Rc::new(Self { all, by_name })
    }

    /// Returns the directives of these names in their order.
    fn named(&self, names: &[&str]) -> Vec<&'a Directive> {
        let known = names.iter().filter_map(|name| self.by_name.get(name));
        let mut list: Vec<&Directive> = known.flatten().copied().collect();
        list.sort_by_key(|one| one.id);
        list
    }
}

/// The blocks around a place, the outermost first.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope<'a> {
    levels: Vec<Rc<Level<'a>>>,
    /// Directive of each block; `None` for the outermost.
    owners: Vec<Option<&'a Directive>>,
    pub(super) derived: Derived,
}

impl<'a> Scope<'a> {
    pub(super) fn top(block: &'a [Directive]) -> Self {
        Self {
            levels: vec![Level::new(block)],
            owners: vec![None],
            derived: Derived::default(),
        }
    }

    /// Returns the scope of a block within this one.
    pub(super) fn inner(&self, owner: &'a Directive) -> Self {
        let mut inner = self.clone();
        inner.levels.push(Level::new(owner.children()));
        inner.owners.push(Some(owner));
        inner
    }

    /// Returns the directive whose block is the innermost one.
    pub(super) fn owner(&self) -> Option<&'a Directive> {
        self.owners.last().copied().flatten()
    }

    /// Returns the innermost location.
    pub(super) fn location(&self) -> Option<&'a Directive> {
        let mut owners = self.owners.iter().rev().copied().flatten();
        owners.find(|owner| owner.name == "location")
    }

    /// Returns the directive whose block has this one itself.
    pub(super) fn owner_of(&self, directive: &Directive) -> Option<&'a Directive> {
        let mut blocks = self.levels.iter().zip(&self.owners);
        let has_it = |block: &Level<'_>| block.all.iter().any(|one| one.id == directive.id);
        *blocks.find(|(block, _)| has_it(block))?.1
    }

    /// Returns the server.
    pub(super) fn server(&self) -> Option<&'a Directive> {
        let mut owners = self.owners.iter().copied().flatten();
        owners.find(|owner| owner.name == "server")
    }

    pub(super) fn outermost(&self) -> &'a [Directive] {
        self.levels.first().map_or(&[], |level| level.all)
    }

    pub(super) fn innermost(&self) -> &'a [Directive] {
        self.levels.last().map_or(&[], |level| level.all)
    }

    /// Returns the directives of this name in the innermost block itself.
    pub(super) fn own(&self, name: &str) -> Vec<&'a Directive> {
        let level = self.levels.last();
        level.map_or_else(Vec::new, |level| level.named(&[name]))
    }

    /// Returns the directives of this name that apply: those of the innermost block that has any.
    pub(super) fn nearest(&self, name: &str) -> Vec<&'a Directive> {
        self.nearest_of(&[name])
    }

    /// Returns the directive of this name that applies.
    pub(super) fn one(&self, name: &str) -> Option<&'a Directive> {
        self.nearest(name).first().copied()
    }

    /// Returns all directives of these names, those of the outermost block first.
    pub(super) fn all_of(&self, names: &[&str]) -> Vec<&'a Directive> {
        self.levels
            .iter()
            .flat_map(|level| level.named(names))
            .collect()
    }

    /// Returns true if the innermost block with a directive of this name is within another one.
    pub(super) fn is_within(&self, name: &str) -> bool {
        let has = |level: &&Rc<Level<'_>>| level.by_name.contains_key(name);
        self.levels.iter().filter(has).count() > 1
    }

    /// Returns the directives of any of these names that apply: a block that has one of them
    /// replaces those around it.
    pub(super) fn nearest_of(&self, names: &[&str]) -> Vec<&'a Directive> {
        let mut lists = self.levels.iter().rev().map(|level| level.named(names));
        lists.find(|list| !list.is_empty()).unwrap_or_default()
    }
}
