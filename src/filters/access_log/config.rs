//! Configuration of the access log as written, and its compilation.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};

use super::{ACCESS_LOG, AccessLog, line::LineFormat, redact::Redactor};
use crate::{
    base::{
        log_file::{LogMetrics, RotationPolicy, Target},
        secret,
        units::{ByteSize, Span},
    },
    chain::CompileContext,
    config::{
        diagnostic::Diagnostics,
        tree::{
            self, Node, Spanned,
            short::{self, Short, reads_short},
        },
    },
};

const STDOUT: &str = "stdout";
const DAY: Span = Span::secs(86_400);
const MINUTE: Span = Span::secs(60);
const DEFAULT_KEEP: u32 = 7;
const MAX_ARCHIVES: u32 = 1000;
const MIN_FILE_SIZE: ByteSize = ByteSize(64 * 1024);

/// Access log with one line for each request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AccessLogConfig {
    /// Path, relative to the folder of the configuration, or `stdout`, which is the default.
    file: Option<Spanned<String>>,
    /// `json` (the default), or `compat`: nginx' `combined` line with additional fields.
    format: LineFormat,
    /// Rotation of the file; `false` if another program rotates it.
    rotate: Option<Spanned<RotateConfig>>,
    /// Query parameters whose values are not written: names that are, or end with, one of these
    /// words (`=code` for the whole name only). `[]` for none; the words for tokens, keys,
    /// passwords and signatures if absent.
    redact: Vec<String>,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self {
            file: None,
            format: LineFormat::default(),
            rotate: None,
            redact: secret::NAMES.map(str::to_owned).into(),
        }
    }
}

/// Time or size at which a file is rotated, and the number of old files to keep; with `every` and
/// `size`, whichever comes first. `false` if another program rotates the file and sends SIGUSR1
/// afterwards.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
pub(super) struct RotateConfig {
    #[serde(skip)]
    is_off: bool,
    /// Rotates at each multiple of this span, in UTC: `1d` at midnight. `1d` if neither this nor
    /// `size` is given.
    every: Option<Spanned<Span>>,
    /// Rotates before the file would grow larger than this.
    size: Option<Spanned<ByteSize>>,
    /// Number of old files to keep, as `FILE.1` (the newest), `FILE.2` …; 7 if absent.
    keep: Option<Spanned<u32>>,
}

impl Short for RotateConfig {
    const WHAT: &'static str = "`false`, or a mapping such as `{ every: 1d, keep: 7 }`";

    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::deserialize(d)
    }

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            is_off: !flag,
            ..Self::default()
        }))
    }
}

reads_short!(RotateConfig);

impl Serialize for RotateConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.is_off {
            return s.serialize_bool(false);
        }
        let mut map = s.serialize_map(None)?;
        if let Some(every) = self.every() {
            map.serialize_entry("every", &every)?;
        }
        if let Some(size) = &self.size {
            map.serialize_entry("size", size)?;
        }
        map.serialize_entry("keep", &self.keep())?;
        map.end()
    }
}

impl Serialize for AccessLogConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry(
            "file",
            self.file.as_ref().map_or(STDOUT, |file| &file.value),
        )?;
        map.serialize_entry("format", &self.format)?;
        match &self.rotate {
            // Stdout is never rotated, so it has no `rotate`.
            _ if self.is_stdout() => {}
            Some(rotate) => map.serialize_entry("rotate", rotate)?,
            None => map.serialize_entry("rotate", &RotateConfig::default())?,
        }
        map.serialize_entry("redact", &self.redact)?;
        map.end()
    }
}

/// Returns the words that `redact` of this configuration lists; none if it cannot be read, which
/// compiling it reports.
pub(crate) fn redacted_words(node: &Node) -> Vec<String> {
    let config = tree::read::<AccessLogConfig>(node, &mut Diagnostics::default());
    config.map_or_else(Vec::new, |config| config.redact)
}

impl AccessLogConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<AccessLog> {
        let target = self.target(cx);
        let rotation = self.rotation(cx);
        let (target, rotation) = (target?, rotation?);
        Some(AccessLog {
            format: self.format,
            redact: Arc::new(Redactor::with_secrets(&self.redact, cx.secret_queries)),
            clock: cx.clock.clone(),
            target,
            rotation,
            counts: LogMetrics::new(cx.metrics, &ACCESS_LOG),
            writer: OnceLock::new(),
        })
    }

    /// Returns `None` if a problem was reported.
    fn target(&self, cx: &mut CompileContext<'_>) -> Option<Target> {
        let Some(file) = &self.file else {
            return Some(Target::Stdout);
        };
        let folder = cx.folder;
        let mut refuse = |message: &str, help: &str| {
            cx.report_at(file.place, "edgeway::access_log::file", message, help);
            None
        };
        match file.value.as_str() {
            STDOUT => return Some(Target::Stdout),
            "stderr" => {
                return refuse(
                    "the access log cannot go to `stderr`, where the gateway's own messages go",
                    "write `file: stdout`, or a path",
                );
            }
            "" | "-" | "off" | "false" => {
                return refuse(
                    &format!("invalid file `{}`", file.value),
                    "write `file: stdout` or a path; `access_log: false` switches it off",
                );
            }
            _ => {}
        }
        let path = match std::path::absolute(folder.join(&file.value)) {
            Ok(path) => path,
            Err(error) => return refuse(&format!("`{}`: {error}", file.value), "write a path"),
        };
        if path.is_dir() {
            return refuse(
                &format!("`{}` is a folder", file.value),
                "write the path of a file in it, such as `access.log`",
            );
        }
        let has_folder = path.parent().is_some_and(Path::is_dir);
        if !has_folder {
            cx.warn(
                "edgeway::access_log::folder",
                format!(
                    "the folder of the access log `{}` does not exist",
                    file.value
                ),
                "create it, writable by the gateway's user; until then lines are dropped",
            );
        }
        Some(Target::File(path))
    }

    fn is_stdout(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.value == STDOUT)
    }

    /// Returns `None` if a problem was reported.
    fn rotation(&self, cx: &mut CompileContext<'_>) -> Option<RotationPolicy> {
        let is_stdout = self.is_stdout();
        match &self.rotate {
            None if is_stdout => Some(RotationPolicy::NEVER),
            None => RotateConfig::default().compile(cx),
            Some(rotate) if rotate.value.is_off => Some(RotationPolicy::NEVER),
            Some(rotate) if is_stdout => {
                cx.report_at(
                    rotate.place,
                    "edgeway::access_log::rotate",
                    "stdout cannot be rotated",
                    "remove `rotate`, or name a `file`",
                );
                None
            }
            Some(rotate) => rotate.value.compile(cx),
        }
    }
}

impl RotateConfig {
    fn every(&self) -> Option<Span> {
        match (&self.every, &self.size) {
            (None, None) => Some(DAY),
            (every, _) => every.as_ref().map(|every| every.value),
        }
    }

    fn keep(&self) -> u32 {
        self.keep.as_ref().map_or(DEFAULT_KEEP, |keep| keep.value)
    }

    fn compile(&self, cx: &mut CompileContext<'_>) -> Option<RotationPolicy> {
        let mut is_good = true;
        let mut refuse = |place, message: String, help: &str| {
            cx.report_at(place, "edgeway::access_log::rotate", message, help);
            is_good = false;
        };
        if let Some(every) = &self.every
            && every.value < MINUTE
        {
            refuse(
                every.place,
                format!("`every: {}` is shorter than a minute", every.value),
                "write `1min` or more, such as `1d`",
            );
        }
        if let Some(size) = &self.size
            && size.value < MIN_FILE_SIZE
        {
            refuse(
                size.place,
                format!("`size: {}` is smaller than {MIN_FILE_SIZE}", size.value),
                "write a size such as `100MiB`",
            );
        }
        if let Some(keep) = &self.keep
            && !(1..=MAX_ARCHIVES).contains(&keep.value)
        {
            refuse(
                keep.place,
                format!("`keep: {}` is not between 1 and {MAX_ARCHIVES}", keep.value),
                "write how many old files to keep, such as `7`",
            );
        }
        is_good.then(|| RotationPolicy {
            every: self.every().map(|Span(every): Span| -> Duration { every }),
            size: self.size.as_ref().map(|size| size.value.0),
            keep: self.keep(),
        })
    }
}
