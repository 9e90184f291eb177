//! The report: the fate of each directive, and what differs without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::Serialize;
use serde_json::json;

use super::{
    directives::is_listed,
    parse::{Directive, Source},
};

/// Fate of a directive, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Carried,
    Changed,
    NotCarried,
}

/// Consequence of a lost protection.
const CLOSED: &str = "its requests get 503";

/// An entry of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    file: String,
    line: usize,
    directive: String,
    note: String,
    #[serde(skip)]
    is_guard: bool,
}

/// Fates while a configuration is translated.
#[derive(Debug, Default)]
pub(super) struct Fates {
    by_id: BTreeMap<usize, (Fate, Vec<String>)>,
    /// Differences for which no directive stands, with the place of what they are about.
    general: Vec<Entry>,
    /// Findings that a reader must see first.
    urgent: Vec<String>,
    /// Directives that are protections, whatever their names.
    weaker: BTreeSet<usize>,
}

impl Directive {
    pub(super) fn mark(&self, fate: Fate, note: impl Into<String>) {
        let note = note.into();
        let mut fates = self.fates.borrow_mut();
        let known = fates.by_id.entry(self.id);
        let (worst, notes) = known.or_insert_with(|| (fate, Vec::new()));
        if fate > *worst {
            // The notes of a better fate no longer hold.
            (*worst, *notes) = (fate, Vec::new());
        }
        if fate == *worst && !note.is_empty() && !notes.contains(&note) {
            notes.push(note);
        }
    }

    pub(super) fn carried(&self, note: impl Into<String>) {
        self.mark(Fate::Carried, note);
    }

    pub(super) fn changed(&self, note: impl Into<String>) {
        self.mark(Fate::Changed, note);
    }

    pub(super) fn lost(&self, note: impl Into<String>) {
        self.mark(Fate::NotCarried, note);
    }

    /// Marks a directive that is lost and that kept requests out: what it guarded is closed.
    pub(super) fn closed(&self, note: &str) {
        self.missing(&format!("{note}; {CLOSED} until you replace it"));
    }

    /// Marks a directive that is lost, and whose loss everybody notices.
    pub(super) fn missing(&self, note: &str) {
        self.urgent(note);
        self.lost(note);
    }

    /// Marks a protection that is there, and holds for less than with nginx.
    pub(super) fn weaker(&self, note: &str) {
        self.urgent(note);
        self.fates.borrow_mut().weaker.insert(self.id);
        self.changed(note);
    }

    fn urgent(&self, note: &str) {
        let urgent = format!("{} {}: {note}", self.place(), self.name);
        let mut fates = self.fates.borrow_mut();
        if !fates.urgent.contains(&urgent) {
            fates.urgent.push(urgent);
        }
    }

    /// Adds a difference for which no directive stands, with the place of this one.
    pub(super) fn general(&self, note: &str) {
        let entry = self.entry(note.to_owned());
        self.fates.borrow_mut().general.push(entry);
    }

    pub(super) fn has_fate(&self) -> bool {
        self.fates.borrow().by_id.contains_key(&self.id)
    }

    fn entry(&self, note: String) -> Entry {
        Entry {
            file: self.file.to_string(),
            line: self.line,
            directive: self.name.clone(),
            note,
            is_guard: self.fates.borrow().weaker.contains(&self.id),
        }
    }
}

impl Source {
    /// Makes the report of all directives.
    pub(super) fn report(&self) -> Report {
        let fates = self.fates.borrow();
        let mut report = Report {
            urgent: fates.urgent.clone(),
            ..Report::default()
        };
        fates.collect(&self.directives, &mut report);
        report.general.clone_from(&fates.general);
        report
    }
}

impl Fates {
    fn collect(&self, all: &[Directive], report: &mut Report) {
        for directive in all {
            let unknown = (Fate::NotCarried, vec!["has no counterpart".to_owned()]);
            let (fate, notes) = self.by_id.get(&directive.id).unwrap_or(&unknown);
            report.lists[*fate as usize].push(directive.entry(notes.join("; ")));
            self.collect(directive.children(), report);
        }
    }
}

/// The finished report.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Entries by fate.
    lists: [Vec<Entry>; 3],
    /// Differences for which no directive stands.
    general: Vec<Entry>,
    urgent: Vec<String>,
}

/// Findings that the summary shows.
const SHOWN: usize = 5;
/// Places that an entry of the text names.
const PLACES: usize = 4;

/// Writes the entries below a title, those that say the same on one line.
fn section(text: &mut String, title: &str, entries: &[&Entry]) {
    if entries.is_empty() {
        return;
    }
    let mut groups = Vec::<(&Entry, Vec<String>)>::new();
    for entry in entries {
        let is_same =
            |known: &Entry| known.note == entry.note && known.directive == entry.directive;
        let place = match groups.iter().rev().find(|(first, _)| is_same(first)) {
            Some((first, _)) if first.file == entry.file => entry.line.to_string(),
            _ => format!("{}:{}", entry.file, entry.line),
        };
        match groups.iter_mut().find(|(first, _)| is_same(first)) {
            Some((_, places)) if places.contains(&place) => {}
            Some((_, places)) => places.push(place),
            None => groups.push((entry, vec![place])),
        }
    }
    let _ = writeln!(text, "{title}\n");
    for (entry, mut places) in groups {
        let more = places.len().saturating_sub(PLACES);
        places.truncate(PLACES);
        places.extend((more > 0).then(|| format!("and {more} more")));
        let note = entry.shown_note();
        let _ = writeln!(text, "{} {}: {note}", places.join(", "), entry.directive);
    }
    text.push('\n');
}

impl Report {
    /// Returns true if every directive was carried over, and with its meaning.
    pub(super) fn is_whole(&self) -> bool {
        self.lists[Fate::NotCarried as usize].is_empty()
    }

    pub(super) fn json(&self) -> String {
        let [carried, changed, lost] = &self.lists;
        let changed: Vec<&Entry> = changed.iter().chain(&self.general).collect();
        let all = json!({ "carried": carried, "changed": changed, "not_carried": lost });
        format!("{all:#}\n")
    }

    /// Returns the report by what it means for the reader; `is_whole` adds what needs no attention.
    pub(super) fn text(&self, is_whole: bool) -> String {
        let [carried, changed, lost] = &self.lists;
        let all = || lost.iter().chain(changed);
        let is_safe = |entry: &&Entry| !entry.is_of_security();
        let by_hand = |entry: &&Entry| is_listed("by hand", &entry.directive);
        let mut text = String::new();
        let security: Vec<&Entry> = all().filter(|entry| !is_safe(entry)).collect();
        let (look, differs): (Vec<&Entry>, Vec<&Entry>) =
            changed.iter().filter(is_safe).partition(by_hand);
        let lost: Vec<&Entry> = lost.iter().filter(is_safe).collect();
        for (title, entries) in [
            ("Security", security),
            ("Behaviour that differs", differs),
            ("Not carried over", lost),
            ("Look at these", look),
        ] {
            section(&mut text, title, &entries);
        }
        let general: Vec<&Entry> = self.general.iter().collect();
        if is_whole {
            section(&mut text, "Differences without a directive", &general);
            let all: Vec<&Entry> = carried.iter().collect();
            section(&mut text, "Carried over", &all);
        } else {
            let _ = writeln!(
                text,
                "`--verbose` lists the {} differences that all sites have, and what was carried over",
                general.len()
            );
        }
        text
    }

    /// Returns the counts, and the findings to look at first.
    pub(super) fn summary(&self) -> String {
        let [carried, changed, lost] = self.lists.each_ref().map(Vec::len);
        let mut text = format!(
            "{carried} directives carried over, {changed} with a changed meaning, {lost} not \
             carried over\n\
             the result adds no header; for the usual security headers write `security_headers: \
             helmet` in `defaults`, step by step: docs/guides/security-softly.md\n"
        );
        let mut first = self.urgent.clone();
        let mut notes = Vec::<&str>::new();
        for entry in &self.lists[2] {
            // The entries of a table say the same.
            let is_new = !notes.contains(&&*entry.note)
                && !first.iter().any(|line| line.ends_with(&entry.note));
            notes.push(&entry.note);
            first.extend((first.len() < SHOWN && is_new).then(|| entry.line()));
        }
        if !first.is_empty() {
            text.push_str("look first at:\n");
            for line in first.iter().take(SHOWN) {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }
}

impl Entry {
    fn line(&self) -> String {
        let (file, line, note) = (&self.file, self.line, self.shown_note());
        format!("{file}:{line} {}: {note}", self.directive)
    }

    fn shown_note(&self) -> &str {
        match &*self.note {
            "" => "as it is",
            note => note,
        }
    }

    /// Returns true if the entry is about a protection.
    fn is_of_security(&self) -> bool {
        self.is_guard || is_listed("security", &self.directive) || self.note.contains(CLOSED)
    }
}
