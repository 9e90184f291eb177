//! Log fields that are known only some time after the request is over.

use std::{collections::BTreeMap, sync::Arc};

use edgeway_net::tasks::Tasks;
use serde_json::{Map, Value};

use super::BoxFuture;

/// Log fields by the name of the plugin that sets them.
pub type LogFields = BTreeMap<Arc<str>, Map<String, Value>>;

/// Fields that the log line of a request waits for.
pub struct LateFields {
    tasks: Tasks,
    work: BoxFuture<'static, LogFields>,
    line: DeferredLine,
}

/// Writes a line once: without fields if there are none by the time it is dropped.
#[derive(Default)]
struct DeferredLine(Option<Write>);

type Write = Box<dyn FnOnce(&LogFields) + Send>;

impl LateFields {
    /// Creates the fields from `work`, which runs among `tasks` and must end by itself.
    pub fn new(tasks: Tasks, work: impl Future<Output = LogFields> + Send + 'static) -> Self {
        Self {
            tasks,
            work: Box::pin(work),
            line: DeferredLine::default(),
        }
    }

    /// Sets the callback that writes the line with the fields, in place of the caller.
    pub fn then(&mut self, write: impl FnOnce(&LogFields) + Send + 'static) {
        self.line = DeferredLine(Some(Box::new(write)));
    }

    /// Starts the work after the request.
    pub(super) fn begin(self) {
        let Self { tasks, work, line } = self;
        tasks.spawn("log fields", async move {
            let mut line = line;
            line.write(&work.await);
        });
    }
}

impl DeferredLine {
    fn write(&mut self, fields: &LogFields) {
        if let Some(write) = self.0.take() {
            write(fields);
        }
    }
}

impl Drop for DeferredLine {
    fn drop(&mut self) {
        self.write(&LogFields::new());
    }
}

edgeway_base::opaque_debug!(LateFields);

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    async fn written(end: impl AsyncFnOnce(&Tasks), work: BoxFuture<'static, LogFields>) -> usize {
        let (tasks, lines) = (Tasks::default(), Arc::new(Mutex::new(Vec::new())));
        let mut late = LateFields::new(tasks.clone(), work);
        let line = Arc::clone(&lines);
        late.then(move |fields| line.lock().push(fields.len()));
        late.begin();
        end(&tasks).await;
        let lines = lines.lock();
        assert_eq!(lines.len(), 1, "a line is written once");
        lines[0]
    }

    #[tokio::test]
    async fn a_line_has_the_late_fields_or_is_written_without_them() {
        let fields = || LogFields::from([("x".into(), Map::new())]);
        let all = async |tasks: &Tasks| tasks.join().await;
        assert_eq!(written(all, Box::pin(async move { fields() })).await, 1);
        let ends = async |tasks: &Tasks| {
            tasks.stop();
            tasks.join().await;
        };
        assert_eq!(written(ends, Box::pin(std::future::pending())).await, 0);
    }
}
