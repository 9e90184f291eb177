//! Inheritance of directives: from `http` over `server` to the locations within each other.

use super::parse::Directive;

/// The blocks around a place, the outermost first.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope<'a> {
    levels: Vec<&'a [Directive]>,
    /// The `server_name` whose expression was the last one that matched: `$1` is its first group.
    numbered: Option<&'a Directive>,
}

impl<'a> Scope<'a> {
    /// Returns the scope of a block within this one.
    pub(super) fn inner(&self, block: &'a [Directive]) -> Self {
        let mut levels = self.levels.clone();
        levels.push(block);
        let numbered = self.numbered;
        Self { levels, numbered }
    }

    /// Returns the scope within which `$1` is the first group of this `server_name`, if any.
    pub(super) fn numbered_by(self, names: Option<&'a Directive>) -> Self {
        let numbered = names;
        Self { numbered, ..self }
    }

    /// Returns the `server_name` whose first group is `$1` here, unless some other expression may
    /// have matched after it.
    pub(super) fn numbered(&self) -> Option<&'a Directive> {
        let matches = |one: &Directive| match &*one.name {
            "rewrite" => true,
            "if" => one.args.iter().any(|arg| arg.contains('~')),
            "map" => one
                .children()
                .iter()
                .any(|entry| entry.name.starts_with('~')),
            _ => false,
        };
        let mut all = self.levels.iter().copied().flatten();
        self.numbered.filter(|_| !all.any(matches))
    }

    pub(super) fn outermost(&self) -> &'a [Directive] {
        self.levels.first().copied().unwrap_or_default()
    }

    pub(super) fn innermost(&self) -> &'a [Directive] {
        self.levels.last().copied().unwrap_or_default()
    }

    /// Returns the directives of this name in the innermost block itself.
    pub(super) fn own(&self, name: &str) -> Vec<&'a Directive> {
        self.innermost()
            .iter()
            .filter(|one| one.name == name)
            .collect()
    }

    /// Returns the directives of this name that apply: those of the innermost block that has any.
    pub(super) fn nearest(&self, name: &str) -> Vec<&'a Directive> {
        let mut levels = self.levels.iter().rev();
        let found = levels.find_map(|level| {
            let list: Vec<&Directive> = level.iter().filter(|one| one.name == name).collect();
            (!list.is_empty()).then_some(list)
        });
        found.unwrap_or_default()
    }

    /// Returns the directive of this name that applies.
    pub(super) fn one(&self, name: &str) -> Option<&'a Directive> {
        self.nearest(name).first().copied()
    }

    /// Returns the directives of any of these names that apply: a block that has one of them
    /// replaces those around it.
    pub(super) fn nearest_of(&self, names: &[&str]) -> Vec<&'a Directive> {
        let mut levels = self.levels.iter().rev();
        let found = levels.find_map(|level| {
            let of = |one: &&Directive| names.contains(&one.name.as_str());
            let list: Vec<&Directive> = level.iter().filter(of).collect();
            (!list.is_empty()).then_some(list)
        });
        found.unwrap_or_default()
    }
}
