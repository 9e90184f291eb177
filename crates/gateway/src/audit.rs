//! File that records the actions of operators, if there is one.

use std::{path::Path, sync::OnceLock};

use edgeway_base::clock::Clock;
use edgeway_net::log_file::{LogKind, LogMetrics, RotationPolicy, Target, WriterHandle};

use super::compile::Compiler;

/// Counters of the log's writer.
const AUDIT_LOG: LogKind = LogKind {
    name: "audit log",
    written: ("edgeway_audit_lines_total", "Audit log lines written."),
    dropped: (
        "edgeway_audit_dropped_total",
        "Audit log lines lost because the disk or the reader was too slow or failed.",
    ),
    failing: (
        "edgeway_audit_failing",
        "Audit log files that cannot be written at the moment.",
    ),
};

/// Audit log as configured.
pub struct AuditLog {
    target: Option<Target>,
    clock: Clock,
    counts: LogMetrics,
    /// Created by the first line: `edgeway check`, and a configuration that is refused, open no
    /// file.
    writer: OnceLock<WriterHandle>,
}

impl AuditLog {
    /// Appends a line, which ends with a line feed. Returns `false` if no file is configured.
    pub fn push(&self, line: &[u8]) -> bool {
        let Some(target) = &self.target else {
            return false;
        };
        let writer = self.writer.get_or_init(|| {
            WriterHandle::join(target, RotationPolicy::NEVER, &self.clock, &self.counts)
        });
        writer.push(|out, _| out.extend_from_slice(line));
        true
    }
}

impl Compiler<'_> {
    pub(super) fn audit(&mut self) -> AuditLog {
        AuditLog {
            target: self.audit_target(),
            clock: self.world.clock.clone(),
            counts: LogMetrics::new(&self.world.metrics, &AUDIT_LOG),
            writer: OnceLock::new(),
        }
    }

    fn audit_target(&mut self) -> Option<Target> {
        let file = &self.file.audit_log.as_ref()?.file;
        let shown = file.value.display();
        let path = match std::path::absolute(self.folder.join(&file.value)) {
            Ok(path) if !file.value.as_os_str().is_empty() && !path.is_dir() => path,
            _ => {
                return self.at(file.place, "edgeway::audit_log::file").refuse(
                    format!("invalid file path `{shown}`"),
                    "write the path of a file, such as `audit.log`",
                );
            }
        };
        if !path.parent().is_some_and(Path::is_dir) {
            self.at(file.place, "edgeway::audit_log::folder").warn(
                format!("the folder of the audit log `{shown}` does not exist"),
                "make it, and let the gateway's user write there; until then lines are dropped",
            );
        }
        Some(Target::File(path))
    }
}

#[cfg(test)]
mod tests {
    use crate::{World, compile, load_text};

    fn messages(file: &str) -> Vec<String> {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nroutes: [{{ match: {{}}, respond: ok }}]\n\
             audit_log: {{ file: {file} }}\n"
        );
        let file = load_text("t.yaml", &yaml).file.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (_, diagnostics) = compile(&file, folder.path(), &World::default());
        // A check creates no file.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let problems = diagnostics.list().iter();
        problems
            .map(|d| format!("{}: {}", d.severity.word(), d.message))
            .collect()
    }

    #[test]
    fn the_file_may_be_made_and_its_folder_is_there() {
        assert_eq!(messages("audit.log"), [""; 0]);
        assert_eq!(messages("/tmp"), ["error: invalid file path `/tmp`"]);
        assert_eq!(messages("''"), ["error: invalid file path ``"]);
        assert_eq!(
            messages("nowhere/audit.log"),
            ["warning: the folder of the audit log `nowhere/audit.log` does not exist"]
        );
    }
}
