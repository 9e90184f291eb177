//! Configuration of the access log as written, and its compilation.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use edgeway_base::{
    out, secret,
    units::{ByteSize, Percent, Span},
};
use edgeway_config::{
    diagnostic::Diagnostics,
    tree::{
        self, Node, Spanned,
        short::{self, Short, reads_short},
    },
};
use edgeway_core::chain::CompileContext;
use edgeway_net::log_file::{LogMetrics, RotationPolicy, SyslogAddress, Target};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use smart_default::SmartDefault;

use super::{
    ACCESS_LOG, AccessLog,
    fields::{Field, JsonFields},
    headers::LoggedHeadersConfig,
    layout::Layout,
    line::LineFormat,
    redact::Redactor,
    sample::Sample,
};

const STDOUT: &str = "stdout";
const DAY: Span = Span::secs(86_400);
const MINUTE: Span = Span::secs(60);
const DEFAULT_KEEP: u32 = 7;
const MAX_ARCHIVES: u32 = 1000;
const MIN_FILE_SIZE: ByteSize = ByteSize(64 * 1024);

/// Access log with one line for each request.
#[derive(Clone, Debug, Deserialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLogConfig {
    /// Path, relative to the folder of the configuration; `stdout`, which is the default;
    /// `journald`; or `syslog`, `syslog:udp://HOST:PORT`, `syslog:tcp://HOST:PORT`.
    file: Option<Spanned<String>>,
    /// `json`, or `compat`: nginx' `combined` line with additional fields. If absent, `json`, and on a
    /// terminal short lines.
    format: Option<LineFormat>,
    /// Rotation of the file; `false` if another program rotates it.
    rotate: Option<Spanned<RotateConfig>>,
    /// Query parameters whose values are not written: names that are, or end with, one of these
    /// words (`=code` for the whole name only). `[]` for none; the words for tokens, keys,
    /// passwords and signatures if absent.
    #[default(secret::NAMES.split(' ').map(str::to_owned).collect())]
    redact: Vec<String>,
    /// Fields of JSON lines, in this order; the usual ones if absent.
    fields: Vec<Spanned<String>>,
    /// Fields to leave out of the usual ones.
    omit: Vec<Spanned<String>>,
    /// Headers to add to each line. Values of `Authorization`, `Cookie`, `Set-Cookie`, and of
    /// headers whose names mark them as secrets are never written.
    headers: LoggedHeadersConfig,
    /// Shares of requests that have a line: `default`, and a status or a class, such as
    /// `2xx: 10%`. Requests that failed or were refused have a line unless their status is listed.
    sample: BTreeMap<String, Spanned<Percent>>,
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
    /// Compress old files, except the newest, as `FILE.2.gz` …; `true` if absent.
    compress: Option<bool>,
}

impl Short for RotateConfig {
    const WHAT: &'static str = "`false`, or a mapping such as `{ every: 1d, keep: 7 }`";

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
        map.serialize_entry("compress", &self.compresses())?;
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
        map.serialize_entry("format", &self.format.unwrap_or_default())?;
        match &self.rotate {
            // Only a file is rotated, so nothing else has `rotate`.
            _ if self.is_stream() => {}
            Some(rotate) => map.serialize_entry("rotate", rotate)?,
            None => map.serialize_entry("rotate", &RotateConfig::default())?,
        }
        map.serialize_entry("redact", &self.redact)?;
        for (name, list) in [("fields", &self.fields), ("omit", &self.omit)] {
            if !list.is_empty() {
                map.serialize_entry(name, list)?;
            }
        }
        if !self.headers.is_empty() {
            map.serialize_entry("headers", &self.headers)?;
        }
        if !self.sample.is_empty() {
            map.serialize_entry("sample", &self.sample)?;
        }
        map.end()
    }
}

/// Returns the words that `redact` of this configuration lists; none if it cannot be read, which
/// compiling it reports.
pub fn redacted_words(node: &Node) -> Vec<String> {
    let config = tree::read::<AccessLogConfig>(node, &mut Diagnostics::default());
    config.map_or_else(Vec::new, |config| config.redact)
}

impl AccessLogConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<AccessLog> {
        let target = self.target(cx);
        let rotation = self.rotation(cx);
        let fields = self.chosen_fields(cx);
        let headers = self.headers.compile(cx);
        let sample = Sample::compile(&self.sample, cx);
        let (fields, target) = (fields?, target?);
        let is_read = target == Target::Stdout && out::is_terminal();
        let is_usual = fields == JsonFields::without(&[]) && headers.is_empty();
        Some(AccessLog {
            layout: Layout {
                format: match self.format {
                    None if is_read && is_usual => LineFormat::Short,
                    format => format.unwrap_or_default(),
                },
                fields,
                headers,
            },
            sample: Some(sample).filter(|_| !self.sample.is_empty()),
            redact: Arc::new(Redactor::with_secrets(&self.redact, cx.secret_names)),
            clock: cx.clock.clone(),
            target,
            rotation,
            counts: LogMetrics::new(cx.metrics, &ACCESS_LOG),
            writer: OnceLock::new(),
        })
    }

    /// Returns `None` if a problem was reported.
    fn chosen_fields(&self, cx: &mut CompileContext<'_>) -> Option<JsonFields> {
        let mut refuse = |written: &Spanned<String>, message: String, help: &str| {
            cx.at(written.place, "edgeway::access_log::fields")
                .refuse(message, help)
        };
        let Some(first) = self.fields.first().or(self.omit.first()) else {
            return Some(JsonFields::without(&[]));
        };
        let is_chosen = !self.fields.is_empty();
        if self.format == Some(LineFormat::Compat) {
            let message = "lines of `format: compat` have their own fields";
            return refuse(
                first,
                message.to_owned(),
                "write `format: json`, or remove this",
            );
        }
        if let (true, Some(omitted)) = (is_chosen, self.omit.first()) {
            let message = "`fields` and `omit` choose the same thing";
            return refuse(omitted, message.to_owned(), "remove one of them");
        }
        let mut named = Vec::new();
        for written in self.fields.iter().chain(&self.omit) {
            match Field::parse(&written.value) {
                Ok(field) if named.contains(&field) => {
                    let message = format!("the field `{}` is listed twice", written.value);
                    return refuse(written, message, "remove one of them");
                }
                Ok(field) => named.push(field),
                Err(help) => {
                    let message = format!("unknown field `{}`", written.value);
                    return refuse(written, message, &help);
                }
            }
        }
        let fields = if is_chosen {
            JsonFields::new(named)
        } else {
            JsonFields::without(&named)
        };
        if fields.is_empty() {
            let message = "no field is left".to_owned();
            return refuse(first, message, "`access_log: false` switches the log off");
        }
        Some(fields)
    }

    /// Returns `None` if a problem was reported.
    fn target(&self, cx: &mut CompileContext<'_>) -> Option<Target> {
        let Some(file) = &self.file else {
            return Some(Target::Stdout);
        };
        let folder = cx.folder;
        let mut refuse = |message: &str, help: &str| {
            cx.at(file.place, "edgeway::access_log::file")
                .refuse(message, help)
        };
        match file.value.as_str() {
            STDOUT => return Some(Target::Stdout),
            "stderr" => {
                return refuse(
                    "the access log cannot go to `stderr`, where the gateway's own messages go",
                    "write `file: stdout`, or a path",
                );
            }
            "journald" => return Some(Target::journald()),
            text if text.starts_with("journald:/") => {
                let path = text.trim_start_matches("journald:");
                return Some(Target::Journald(path.into()));
            }
            text if text == "syslog" || text.starts_with("syslog:") => {
                let help = "write `syslog`, `syslog:unix:/dev/log`, `syslog:udp://HOST:514` or \
                            `syslog:tcp://HOST:601`";
                return match text.parse::<SyslogAddress>() {
                    Ok(address) => Some(Target::Syslog(address)),
                    Err(error) => refuse(&error.to_string(), help),
                };
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
            cx.here("edgeway::access_log::folder").warn(
                format!(
                    "the folder of the access log `{}` does not exist",
                    file.value
                ),
                "create it, writable by the gateway's user; until then lines are dropped",
            );
        }
        Some(Target::File(path))
    }

    /// Returns true if the log is not a file that could be rotated.
    fn is_stream(&self) -> bool {
        let is_stream = |name: &str| {
            let is_named = |kind: &&str| {
                let rest = name.strip_prefix(kind);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            };
            [STDOUT, "journald", "syslog"].iter().any(is_named)
        };
        self.file.as_ref().is_none_or(|file| is_stream(&file.value))
    }

    fn rotation(&self, cx: &mut CompileContext<'_>) -> RotationPolicy {
        let is_stream = self.is_stream();
        match &self.rotate {
            None if is_stream => RotationPolicy::NEVER,
            None => RotateConfig::default().compile(cx),
            Some(rotate) if rotate.value.is_off => RotationPolicy::NEVER,
            Some(rotate) if is_stream => {
                cx.at(rotate.place, "edgeway::access_log::rotate").error(
                    "only a file can be rotated",
                    "remove `rotate`, or name a `file`",
                );
                RotationPolicy::NEVER
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

    fn compresses(&self) -> bool {
        self.compress.unwrap_or(true)
    }

    fn compile(&self, cx: &mut CompileContext<'_>) -> RotationPolicy {
        let mut refuse = |place, message: String, help: &str| {
            cx.at(place, "edgeway::access_log::rotate")
                .error(message, help);
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
        RotationPolicy {
            every: self.every().map(|Span(every): Span| -> Duration { every }),
            size: self.size.as_ref().map(|size| size.value.0),
            keep: self.keep(),
            compress: self.compresses(),
        }
    }
}
