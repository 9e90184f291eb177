//! Progress of a long command: a bar on a terminal, plain lines elsewhere.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::out;

/// Reports the progress of a command, on stderr because it is no data.
pub(crate) struct Progress {
    total: u64,
    done: u64,
    how: ReportStyle,
}

enum ReportStyle {
    /// The bar is absent while another program uses the terminal.
    Bar(Option<ProgressBar>),
    Lines,
    #[cfg(test)]
    Recorded(std::rc::Rc<std::cell::RefCell<Vec<String>>>),
}

impl Progress {
    /// Creates the progress of `total` steps.
    pub(crate) fn new(total: usize) -> Self {
        let how = if io::stderr().is_terminal() {
            ReportStyle::Bar(None)
        } else {
            ReportStyle::Lines
        };
        let mut progress = Self::with_style(total, how);
        progress.resume();
        progress
    }

    /// Creates progress without an end, printed as lines on a terminal as well.
    pub(crate) fn lines() -> Self {
        Self::with_style(0, ReportStyle::Lines)
    }

    /// Keeps the lines for a test.
    #[cfg(test)]
    pub(crate) fn recorded(total: usize) -> (Self, std::rc::Rc<std::cell::RefCell<Vec<String>>>) {
        let lines = std::rc::Rc::default();
        let how = ReportStyle::Recorded(std::rc::Rc::clone(&lines));
        (Self::with_style(total, how), lines)
    }

    fn with_style(total: usize, how: ReportStyle) -> Self {
        Self {
            total: u64::try_from(total).unwrap_or(u64::MAX),
            done: 0,
            how,
        }
    }

    /// Prints a permanent line.
    pub(crate) fn say(&self, line: &str) {
        match &self.how {
            ReportStyle::Bar(Some(bar)) => bar.println(line),
            ReportStyle::Bar(None) | ReportStyle::Lines => out::note(line),
            #[cfg(test)]
            ReportStyle::Recorded(lines) => lines.borrow_mut().push(line.to_owned()),
        }
    }

    /// Shows the current step.
    pub(crate) fn now(&self, text: &str) {
        match &self.how {
            ReportStyle::Bar(Some(bar)) => bar.set_message(text.to_owned()),
            ReportStyle::Bar(None) => {}
            ReportStyle::Lines => out::note(text),
            #[cfg(test)]
            ReportStyle::Recorded(lines) => lines.borrow_mut().push(text.to_owned()),
        }
    }

    pub(crate) fn step_done(&mut self) {
        self.done += 1;
        if let ReportStyle::Bar(Some(bar)) = &self.how {
            bar.set_position(self.done);
        }
    }

    /// Leaves the terminal to another program, until [`Progress::resume`].
    pub(crate) fn pause(&mut self) {
        if let ReportStyle::Bar(bar) = &mut self.how
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }

    pub(crate) fn resume(&mut self) {
        if let ReportStyle::Bar(bar) = &mut self.how {
            let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {msg} ({elapsed})");
            let new = ProgressBar::new(self.total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_position(self.done);
            new.enable_steady_tick(Duration::from_millis(200));
            *bar = Some(new);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.pause();
    }
}
