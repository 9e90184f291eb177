//! The report: the fate of each directive, and what differs without one.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use serde_json::json;

use super::parse::{Directive, Source};

/// Fate of a directive, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Carried,
    Changed,
    NotCarried,
}

impl Fate {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Carried, "Carried over"),
        (Self::Changed, "Carried over with a changed meaning"),
        (Self::NotCarried, "Not carried over"),
    ];
}

/// An entry of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    file: String,
    line: usize,
    directive: String,
    note: String,
}

/// Fates while a configuration is translated.
#[derive(Debug, Default)]
pub(super) struct Fates {
    by_id: BTreeMap<usize, (Fate, Vec<String>)>,
    /// Differences for which no directive stands, with the place of what they are about.
    general: Vec<Entry>,
    /// Findings that a reader must see first.
    urgent: Vec<String>,
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
        let note = format!("{note}; its requests get 503 until you replace it");
        let urgent = format!("{} {}: {note}", self.place(), self.name);
        let mut fates = self.fates.borrow_mut();
        if !fates.urgent.contains(&urgent) {
            fates.urgent.push(urgent);
        }
        drop(fates);
        self.lost(note);
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
        report.lists[1].extend(fates.general.iter().cloned());
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
    urgent: Vec<String>,
}

/// Findings that the summary shows.
const SHOWN: usize = 5;

impl Report {
    /// Returns true if every directive was carried over, and with its meaning.
    pub(super) fn is_whole(&self) -> bool {
        self.lists[Fate::NotCarried as usize].is_empty()
    }

    pub(super) fn json(&self) -> String {
        let [carried, changed, lost] = &self.lists;
        let all = json!({ "carried": carried, "changed": changed, "not_carried": lost });
        format!("{all:#}\n")
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (fate, title) in Fate::ALL {
            let _ = writeln!(text, "{title}\n");
            for entry in &self.lists[fate as usize] {
                let _ = writeln!(text, "{}", entry.line());
            }
            text.push('\n');
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
        let worst = self.lists[2].iter().chain(&self.lists[1]);
        let mut first = self.urgent.clone();
        let mut notes = Vec::<&str>::new();
        for entry in worst {
            // The entries of a table say the same.
            let is_new = !notes.contains(&&*entry.note)
                && !first.iter().any(|line| line.ends_with(&entry.note));
            notes.push(&entry.note);
            if first.len() < SHOWN && is_new {
                first.push(entry.line());
            }
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
        let Self {
            file,
            line,
            directive,
            note,
        } = self;
        let note = if note.is_empty() { "as it is" } else { note };
        format!("{file}:{line} {directive}: {note}")
    }
}
