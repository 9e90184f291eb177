//! Meaning of a line, and how it looks.

use ratatui::style::{Color, Modifier, Style};

/// Meaning of a line or row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    /// In the background, or of the past.
    Dim,
}

impl Tone {
    /// Returns the look. Without colour (no-color.org) weight alone tells them apart; the words do
    /// in any case.
    pub(super) fn style(self, has_colour: bool) -> Style {
        let (colour, modifier) = match self {
            Self::Plain => return Style::new(),
            Self::Good => (Color::Green, Modifier::BOLD),
            Self::Warning => (Color::Yellow, Modifier::empty()),
            Self::Bad => (Color::Red, Modifier::BOLD),
            Self::Dim => return Style::new().add_modifier(Modifier::DIM),
        };
        let style = Style::new().add_modifier(modifier);
        if has_colour { style.fg(colour) } else { style }
    }
}
