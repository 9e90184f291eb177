//! Queue of finished spans, and the task that sends them to a collector in batches.
//!
//! A request only puts its spans into the queue, which never waits: what does not fit is dropped and
//! counted. The task belongs to the process, so a configuration that is replaced loses no spans: its
//! exporter ends once the last request that used it is over and its queue is sent.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use edgeway_net::tasks::Tasks;
use http::HeaderMap;
use log::{error, info, warn};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{
    collector::Collector,
    wire::{EncodedSpans, Envelope},
};
use crate::base::metrics::Metrics;

/// Spans at which a batch is sent; the default of OpenTelemetry's SDKs.
const BATCH: usize = 512;

/// Settings of an exporter. Configurations with the same ones share it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportSettings {
    /// URL of the collector, over HTTP with its path.
    pub endpoint: String,
    pub transport: Transport,
    pub headers: HeaderMap,
    /// CA certificates in PEM, instead of the system's.
    pub ca: Option<Vec<u8>>,
    pub service_name: String,
    pub version: &'static str,
    pub resource: Vec<(String, String)>,
    pub timeout: Duration,
    pub interval: Duration,
    /// Number of requests whose spans wait.
    pub queue: usize,
}

/// Protocol of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Grpc,
    Http,
}

impl ExportSettings {
    /// Checks that a client can be made of the settings.
    pub fn check(&self) -> Result<(), String> {
        Collector::new(self).map(drop)
    }

    pub(super) fn envelope(&self) -> Envelope {
        let mut attributes = BTreeMap::from([
            ("service.version", self.version),
            ("telemetry.sdk.language", "rust"),
            ("telemetry.sdk.name", "opentelemetry"),
        ]);
        let of_resource = self.resource.iter();
        attributes.extend(of_resource.map(|(key, value)| (key.as_str(), value.as_str())));
        attributes.insert("service.name", &self.service_name);
        Envelope::new(attributes)
    }
}

edgeway_base::metric_handles! {
    /// Counters of spans.
    #[derive(Clone, Debug)]
    struct SpanMetrics() {
        exported: IntCounter = "edgeway_trace_spans_exported_total",
            "Spans in batches that the collector of traces accepted. It may have rejected some.";
        dropped: IntCounter = "edgeway_trace_spans_dropped_total",
            "Spans lost because the collector of traces was too slow or failed.";
        failing: IntGauge = "edgeway_trace_export_failing",
            "Collectors of traces that did not accept the last batch of spans.";
    }
}

/// Exporter of one collector.
#[derive(Debug)]
pub struct Exporter {
    pub settings: ExportSettings,
    queue: mpsc::Sender<EncodedSpans>,
    /// Receiver of the queue, until the task starts.
    waiting: Mutex<Option<mpsc::Receiver<EncodedSpans>>>,
    metrics: SpanMetrics,
    process: Exporters,
}

impl Exporter {
    /// Queues the result of `make`, about `count` spans, or drops them.
    pub(crate) fn push(&self, count: usize, make: impl FnOnce() -> EncodedSpans) {
        match self.queue.try_reserve() {
            Ok(place) => place.send(make()),
            Err(_full) => self.metrics.dropped.inc_by(count as u64),
        }
    }

    /// Starts the task on the current runtime, unless it runs.
    pub fn start(&self) {
        let Some(queue) = self.waiting.lock().take() else {
            return;
        };
        let worker = Worker {
            settings: self.settings.clone(),
            queue,
            metrics: self.metrics.clone(),
            stopping: self.process.0.stopping.subscribe(),
            is_failing: false,
        };
        self.process.0.tasks.spawn("traces", worker.run());
    }
}

/// Exporters of the process.
#[derive(Clone, Debug, Default)]
pub struct Exporters(Arc<ProcessExporters>);

#[derive(Debug, Default)]
struct ProcessExporters {
    tasks: Tasks,
    known: Mutex<Vec<Weak<Exporter>>>,
    stopping: watch::Sender<bool>,
}

impl Exporters {
    /// Returns the exporter with these settings, which a configuration in use may already have.
    pub fn get_or_create(&self, settings: ExportSettings, metrics: &Metrics) -> Arc<Exporter> {
        let mut known = self.0.known.lock();
        known.retain(|exporter| exporter.strong_count() > 0);
        let mut all = known.iter().filter_map(Weak::upgrade);
        if let Some(same) = all.find(|exporter| exporter.settings == settings) {
            return same;
        }
        let (queue, waiting) = mpsc::channel(settings.queue);
        let exporter = Arc::new(Exporter {
            settings,
            queue,
            waiting: Mutex::new(Some(waiting)),
            metrics: SpanMetrics::new(metrics),
            process: self.clone(),
        });
        known.push(Arc::downgrade(&exporter));
        exporter
    }

    /// Sends what is queued and ends all exporters. Returns `false` if spans were lost because it
    /// would have taken longer than `limit`.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.0.stopping.send_replace(true);
        tokio::time::timeout(limit, self.0.tasks.join())
            .await
            .is_ok()
    }
}

/// Task of an exporter.
struct Worker {
    settings: ExportSettings,
    queue: mpsc::Receiver<EncodedSpans>,
    metrics: SpanMetrics,
    stopping: watch::Receiver<bool>,
    is_failing: bool,
}

impl Worker {
    async fn run(mut self) {
        let collector = match Collector::new(&self.settings) {
            Ok(collector) => collector,
            Err(error) => {
                error!(endpoint = &*self.settings.endpoint, error; "traces cannot be exported");
                return;
            }
        };
        self.send_all(&collector).await;
        self.set_failing(false);
    }

    async fn send_all(&mut self, collector: &Collector) {
        let envelope = self.settings.envelope();
        let mut batch = EncodedSpans::default();
        loop {
            let is_open = self.collect(&mut batch).await;
            if batch.count > 0 {
                let request = envelope.around(&batch.bytes).into();
                self.export(collector, request, batch.count as u64).await;
                batch.count = 0;
                batch.bytes.clear();
            }
            if !is_open {
                return;
            }
        }
    }

    /// Fills `batch`. Returns `false` if no spans will follow.
    async fn collect(&mut self, batch: &mut EncodedSpans) -> bool {
        // The time of a batch runs from its first span.
        match self.next().await {
            Some(spans) => batch.append(&spans),
            None => return false,
        }
        let late = tokio::time::sleep(self.settings.interval);
        tokio::pin!(late);
        while batch.count < BATCH {
            tokio::select! {
                biased;
                spans = self.next() => match spans {
                    Some(spans) => batch.append(&spans),
                    None => return false,
                },
                () = &mut late => return true,
            }
        }
        true
    }

    /// Returns the spans of the next request. While the process stops, these are only the ones that
    /// are already in the queue.
    async fn next(&mut self) -> Option<EncodedSpans> {
        if !self.queue.is_closed() {
            tokio::select! {
                biased;
                spans = self.queue.recv() => return spans,
                _ = self.stopping.wait_for(|is_stopping| *is_stopping) => self.queue.close(),
            }
        }
        self.queue.recv().await
    }

    /// Records the outcome of the last batch. Returns true if it differs from that of the one before.
    fn set_failing(&mut self, is_failing: bool) -> bool {
        let is_changed = mem::replace(&mut self.is_failing, is_failing) != is_failing;
        match (is_changed, is_failing) {
            (true, true) => self.metrics.failing.inc(),
            (true, false) => self.metrics.failing.dec(),
            (false, _) => {}
        }
        is_changed
    }

    async fn export(&mut self, collector: &Collector, request: Bytes, count: u64) {
        let sent = tokio::time::timeout(self.settings.timeout, collector.send(request)).await;
        let error = match sent {
            Ok(Ok(())) => {
                self.metrics.exported.inc_by(count);
                if self.set_failing(false) {
                    info!(endpoint = &*self.settings.endpoint; "traces are exported again");
                }
                return;
            }
            Ok(Err(error)) => error,
            Err(_elapsed) => format!("no response within {:?}", self.settings.timeout),
        };
        self.metrics.dropped.inc_by(count);
        // Each failure counts; the log needs only the first.
        if self.set_failing(true) {
            warn!(endpoint = &*self.settings.endpoint, error; "traces lost, the collector failed");
        }
    }
}
