//! State of the screen, and the changes that keys make; knows no terminal.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use edgeway_base::out::counted;
use edgeway_operate::backends::{Name, is_drained};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    observe::{Observation, name},
    view::listing::{self, Listing, Row},
};

/// Number of observations whose rate is kept for the graph.
const HISTORY: usize = 240;

/// Rows that a key for a page moves.
const PAGE: usize = 10;

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Pane => title {
        Overview = "Overview",
        Routes = "Routes",
        Backends = "Backends",
        Instances = "Instances",
        Limits = "Limits",
        /// Plugins and certificates.
        More = "More",
    }
}

impl Pane {
    fn at(self, offset: usize) -> Self {
        Self::ALL[(self as usize + offset) % Self::ALL.len()]
    }
}

/// Choices of the operator in a pane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Title of the column to sort by; `None` is the order of the configuration.
    pub sort: Option<&'static str>,
    pub reversed: bool,
    /// Text that rows must contain.
    pub filter: String,
    /// Key of the selected row. Rows move when they are sorted by what changes, so it is no number.
    pub selected: Option<String>,
}

/// Meaning of the next key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Normal,
    Filter,
    Question(Question),
    Help,
}

/// Change of a backend that waits for a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub text: String,
    pub order: Order,
}

/// Change of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Drain(Name),
    Undrain(Name),
}

/// Work that a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    /// Draw everything again, after other output has damaged the screen.
    Redraw,
    Run(Order),
}

/// A gateway that cannot be reached.
#[derive(Clone, Debug)]
pub(super) struct LostGateway {
    pub since: DateTime<Utc>,
    pub why: String,
}

/// State of the screen.
pub(super) struct Screen {
    pub pane: Pane,
    choices: [Choice; Pane::ALL.len()],
    pub mode: Mode,
    /// Outcome of the last key, until the next one.
    pub message: Option<String>,
    pub observation: Observation,
    pub lost: Option<LostGateway>,
    /// Requests per second of earlier observations, the newest last.
    pub history: VecDeque<u64>,
    pub has_colour: bool,
}

impl Screen {
    pub(super) fn new(observation: Observation, has_colour: bool) -> Self {
        let mut choices: [Choice; Pane::ALL.len()] = Default::default();
        choices[Pane::Routes as usize].sort = Some(listing::RATE);
        let mut screen = Self {
            pane: Pane::Overview,
            choices,
            mode: Mode::Normal,
            message: None,
            observation: Observation::default(),
            lost: None,
            history: VecDeque::new(),
            has_colour,
        };
        screen.show(observation);
        screen
    }

    /// Takes a new observation.
    pub(super) fn show(&mut self, observation: Observation) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast saturates, and a graph shows no fractions"
        )]
        let rate = observation.rates().requests.round() as u64;
        self.history.push_back(rate);
        self.observation = observation;
        self.lost = None;
    }

    /// Keeps the last observation on the screen, and says that it is old.
    pub(super) fn lose(&mut self, why: String, now: DateTime<Utc>) {
        let since = self.lost.as_ref().map_or(now, |lost| lost.since);
        self.lost = Some(LostGateway { since, why });
    }

    pub(super) fn choice(&self) -> &Choice {
        &self.choices[self.pane as usize]
    }

    fn choice_mut(&mut self) -> &mut Choice {
        &mut self.choices[self.pane as usize]
    }

    /// Returns the lists of the pane, filtered and sorted.
    pub(super) fn listings(&self) -> Vec<Listing> {
        let mut listings = listing::listings(self.pane, &self.observation);
        for listing in &mut listings {
            listing.arrange(self.choice());
        }
        listings
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Effect> {
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Effect::Quit),
                KeyCode::Char('l') => Some(Effect::Redraw),
                _ => None,
            };
        }
        match std::mem::replace(&mut self.mode, Mode::Normal) {
            Mode::Normal => self.command(key.code),
            Mode::Filter => {
                self.edit_filter(key.code);
                None
            }
            Mode::Question(question) => match key.code {
                KeyCode::Char('y' | 'Y') => Some(Effect::Run(question.order)),
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => None,
                // A key meant for something else is no reply.
                _ => {
                    self.mode = Mode::Question(question);
                    None
                }
            },
            // Any key ends the help.
            Mode::Help => None,
        }
    }

    fn command(&mut self, key: KeyCode) -> Option<Effect> {
        match key {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.choice_mut().reversed ^= true,
            KeyCode::Char('d') => self.ask(),
            KeyCode::Char(digit @ '1'..='6') => {
                self.pane = Pane::ALL[digit as usize - '1' as usize];
            }
            KeyCode::Tab | KeyCode::Right => self.pane = self.pane.at(1),
            KeyCode::BackTab | KeyCode::Left => self.pane = self.pane.at(Pane::ALL.len() - 1),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at| at.map_or(0, |at| at + 1)),
            KeyCode::Up | KeyCode::Char('k') => {
                self.select(|at| at.map_or(0, |at| at.saturating_sub(1)));
            }
            KeyCode::PageDown => self.select(|at| at.map_or(0, |at| at + PAGE)),
            KeyCode::PageUp => self.select(|at| at.map_or(0, |at| at.saturating_sub(PAGE))),
            KeyCode::Home => self.select(|_| 0),
            KeyCode::End => self.select(|_| usize::MAX),
            KeyCode::Esc => {
                self.choice_mut().filter.clear();
                self.choice_mut().selected = None;
            }
            _ => {}
        }
        None
    }

    fn edit_filter(&mut self, key: KeyCode) {
        let filter = &mut self.choice_mut().filter;
        match key {
            KeyCode::Enter => return,
            KeyCode::Esc => {
                filter.clear();
                return;
            }
            KeyCode::Backspace => {
                filter.pop();
            }
            KeyCode::Char(c) => filter.push(c),
            _ => {}
        }
        self.mode = Mode::Filter;
    }

    fn sort_by_next(&mut self) {
        let listings = listing::listings(self.pane, &self.observation);
        let columns = listings.iter().flat_map(|listing| &listing.columns);
        let titles: Vec<&'static str> = columns.map(|column| column.title).collect();
        let choice = self.choice_mut();
        let next = match choice.sort {
            None => titles.first(),
            Some(title) => {
                let index = titles.iter().position(|other| *other == title);
                index.and_then(|index| titles.get(index + 1))
            }
        };
        choice.sort = next.copied();
        choice.reversed = false;
    }

    fn select(&mut self, to: impl FnOnce(Option<usize>) -> usize) {
        let listings = self.listings();
        let rows: Vec<&Row> = listings.iter().flat_map(|listing| &listing.rows).collect();
        let Some(last) = rows.len().checked_sub(1) else {
            return;
        };
        let selected = self.choice().selected.as_ref();
        let index = selected.and_then(|key| rows.iter().position(|row| row.key == *key));
        let key = rows[to(index).min(last)].key.clone();
        self.choice_mut().selected = Some(key);
    }

    /// Asks before a drain. The order names the backend as the question does, whatever the list
    /// shows by then.
    fn ask(&mut self) {
        if self.pane != Pane::Backends {
            self.message = Some("drain a backend: go to the backends with 3".to_owned());
            return;
        }
        let selected = self.choice().selected.clone();
        let backend = self.observation.backends().find_map(|(upstream, backend)| {
            let name = name(upstream, backend);
            (Some(name.to_string()) == selected).then_some((name, backend))
        });
        let Some((name, backend)) = backend else {
            self.message = Some("select a backend with the arrow keys first".to_owned());
            return;
        };
        let question = if is_drained(backend) {
            Question {
                text: format!("Send {name} requests again? (y/n)"),
                order: Order::Undrain(name),
            }
        } else {
            let in_flight = counted(backend.in_flight, "request");
            Question {
                text: format!("Drain {name}, with {in_flight} in flight? (y/n)"),
                order: Order::Drain(name),
            }
        };
        self.mode = Mode::Question(question);
    }
}
