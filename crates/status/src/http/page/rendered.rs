//! The sections of the page for its streams: rendered once in each interval for all readers, and
//! on a thread that may block.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::view::{self, hidden_csrf};
use crate::{actions::ActionError, http::off_thread, snapshot::Source};

/// Interval of the sections, as of the records of recent traffic.
const INTERVAL: Duration = Duration::from_secs(2);

/// Stands for the value that forms repeat, which each session has its own of.
const PLACE: &str = "csrf";

/// Rendered sections by their ids.
pub(super) type Sections = Vec<(&'static str, String)>;

/// Sections of the present interval. A reader looks for the next one soon after it begins, so what
/// readers get is never much older than what they see on the page.
pub struct SharedSections {
    clock: Clock,
    began: Instant,
    latest: Mutex<(u64, Arc<OnceCell<Arc<Sections>>>)>,
}

impl Default for SharedSections {
    fn default() -> Self {
        let clock = Clock::machine();
        Self {
            began: clock.now(),
            clock,
            latest: Mutex::default(),
        }
    }
}

impl SharedSections {
    /// Returns the number of the present interval.
    pub(super) fn interval(&self) -> u64 {
        let since = self.clock.now().saturating_duration_since(self.began);
        since.as_secs() / INTERVAL.as_secs()
    }

    /// Returns the sections of an interval, or of a later one if there are such.
    pub async fn sections_for(
        &self,
        interval: u64,
        source: &Arc<dyn Source>,
    ) -> Result<Arc<Sections>, ActionError> {
        let cell = {
            let mut latest = self.latest.lock();
            if latest.0 < interval {
                *latest = (interval, Arc::default());
            }
            Arc::clone(&latest.1)
        };
        let rendered = cell.get_or_try_init(|| render(source));
        rendered.await.map(Arc::clone)
    }
}

/// Renders the sections of this moment, with a place for the value of forms.
pub(super) async fn render(source: &Arc<dyn Source>) -> Result<Arc<Sections>, ActionError> {
    let source = Arc::clone(source);
    let rendered = off_thread(move || {
        let snapshot = source.snapshot();
        view::sections(&snapshot, source.bans(), Some(PLACE))
    });
    rendered.await.map(Arc::new)
}

/// Fills in the value that the forms of a session repeat. No text of others can be the place for
/// it: the signs of markup are escaped in texts.
pub(super) fn filled(section: &str, csrf: Option<&str>) -> String {
    section.replace(&hidden_csrf(Some(PLACE)), &hidden_csrf(csrf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_forms_is_filled_into_their_field_alone() {
        let form = hidden_csrf(Some(PLACE));
        let section = format!("csrf {form}csrf{form}");
        let own = hidden_csrf(Some("own"));
        assert_eq!(
            filled(&section, Some("own")),
            format!("csrf {own}csrf{own}")
        );
        assert_eq!(filled(&section, None), "csrf csrf");
    }
}
