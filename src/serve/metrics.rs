//! What a server has done, for Prometheus.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::Collector, exponential_buckets,
};

use crate::{Error, Result};

/// Counters and gauges; their names begin with `helixgrad_`.
pub(super) struct Metrics {
    registry: Registry,
    /// Requests answered, by route and status.
    pub(super) requests: IntCounterVec,
    /// Seconds from the head of a request to its answer, by route.
    pub(super) seconds: HistogramVec,
    /// Requests that wait to be computed.
    pub(super) queue_depth: IntGauge,
    /// Requests computed together.
    pub(super) batch_requests: Histogram,
    /// Their sequences, pairs or variants.
    pub(super) batch_sequences: Histogram,
    /// Tokens that went through the model.
    pub(super) tokens: IntCounter,
    /// Requests whose client went away before they were computed.
    pub(super) abandoned: IntCounter,
    /// Open connections.
    pub(super) connections: IntGauge,
}

impl Metrics {
    /// All of them at 0.
    ///
    /// # Errors
    /// [`Error::Failed`] for names that Prometheus does not take: a fault of ours.
    pub(super) fn new() -> Result<Self> {
        Self::made().map_err(|error| Error::Failed(format!("metrics: {error}")))
    }

    fn made() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("helixgrad".into()), None)?;
        let latency = HistogramOpts::new("request_seconds", "Seconds from the head of a request to its answer.");
        let sizes = exponential_buckets(1.0, 2.0, 11)?;
        let batch =
            |name: &str, help: &str| Histogram::with_opts(HistogramOpts::new(name, help).buckets(sizes.clone()));
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("requests_total", "Requests answered, by route and status."),
                &["route", "status"],
            )?,
            seconds: HistogramVec::new(latency.buckets(exponential_buckets(0.001, 2.0, 16)?), &["route"])?,
            queue_depth: IntGauge::new("queue_depth", "Requests that wait to be computed.")?,
            batch_requests: batch("batch_requests", "Requests computed together.")?,
            batch_sequences: batch("batch_sequences", "Sequences, pairs or variants computed together.")?,
            tokens: IntCounter::new("tokens_total", "Tokens that went through the model.")?,
            abandoned: IntCounter::new(
                "abandoned_total",
                "Requests whose client went away before they were computed.",
            )?,
            connections: IntGauge::new("connections", "Open connections.")?,
            registry,
        };
        let all: [Box<dyn Collector>; 8] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.seconds.clone()),
            Box::new(metrics.queue_depth.clone()),
            Box::new(metrics.batch_requests.clone()),
            Box::new(metrics.batch_sequences.clone()),
            Box::new(metrics.tokens.clone()),
            Box::new(metrics.abandoned.clone()),
            Box::new(metrics.connections.clone()),
        ];
        all.into_iter().try_for_each(|one| metrics.registry.register(one))?;
        Ok(metrics)
    }

    /// In Prometheus' text format.
    pub(super) fn text(&self) -> String {
        let mut text = Vec::new();
        // Into memory nothing fails.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}
