//! The report: the fate of each directive, and what differs without one.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::parse::Directive;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl Fates {
    pub(super) fn mark(&mut self, directive: &Directive, fate: Fate, note: impl Into<String>) {
        let note = note.into();
        let known = self.by_id.entry(directive.id);
        let (worst, notes) = known.or_insert_with(|| (fate, Vec::new()));
        if fate > *worst {
            // The notes of a better fate no longer hold.
            (*worst, *notes) = (fate, Vec::new());
        }
        if fate == *worst && !note.is_empty() && !notes.contains(&note) {
            notes.push(note);
        }
    }

    pub(super) fn carried(&mut self, directive: &Directive, note: impl Into<String>) {
        self.mark(directive, Fate::Carried, note);
    }

    pub(super) fn changed(&mut self, directive: &Directive, note: impl Into<String>) {
        self.mark(directive, Fate::Changed, note);
    }

    pub(super) fn lost(&mut self, directive: &Directive, note: impl Into<String>) {
        self.mark(directive, Fate::NotCarried, note);
    }

    /// Marks a directive that is lost and that kept requests out: what it guarded is closed.
    pub(super) fn closed(&mut self, directive: &Directive, note: &str) {
        let note = format!("{note}; its requests get 503 until you replace it");
        let urgent = format!("{} {}: {note}", directive.place(), directive.name);
        if !self.urgent.contains(&urgent) {
            self.urgent.push(urgent);
        }
        self.lost(directive, note);
    }

    /// Adds a difference for which no directive stands.
    pub(super) fn general(&mut self, at: &Directive, note: &str) {
        self.general.push(Entry {
            file: at.file.to_string(),
            line: at.line,
            directive: at.name.clone(),
            note: note.to_owned(),
        });
    }

    pub(super) fn has(&self, directive: &Directive) -> bool {
        self.by_id.contains_key(&directive.id)
    }

    /// Makes the report of all directives.
    pub(super) fn report(self, all: &[Directive]) -> Report {
        let mut report = Report {
            urgent: self.urgent.clone(),
            ..Report::default()
        };
        self.collect(all, &mut report);
        report.lists[1].extend(self.general);
        report
    }

    fn collect(&self, all: &[Directive], report: &mut Report) {
        for directive in all {
            let unknown = (Fate::NotCarried, vec!["has no counterpart".to_owned()]);
            let (fate, notes) = self.by_id.get(&directive.id).unwrap_or(&unknown);
            report.lists[*fate as usize].push(Entry {
                file: directive.file.to_string(),
                line: directive.line,
                directive: directive.name.clone(),
                note: notes.join("; "),
            });
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
        let list = |fate: Fate| -> Vec<Value> {
            let entries = self.lists[fate as usize].iter();
            entries
                .map(|entry| {
                    json!({
                        "file": entry.file,
                        "line": entry.line,
                        "directive": entry.directive,
                        "note": entry.note,
                    })
                })
                .collect()
        };
        let all = json!({
            "carried": list(Fate::Carried),
            "changed": list(Fate::Changed),
            "not_carried": list(Fate::NotCarried),
        });
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
