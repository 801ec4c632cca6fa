//! Places in the order of a device's work, and the time between them.

use std::any::Any;
use std::time::Instant;

/// A place behind everything that was launched before it: a CUDA event, or the host's clock where there is none.
pub struct Mark {
    at: Instant,
    event: Option<Box<dyn Any + Send + Sync>>,
}

impl Mark {
    /// This moment on the host's clock.
    pub fn now() -> Self {
        Self { at: Instant::now(), event: None }
    }

    /// A place that the device itself will time.
    pub fn of_event(event: impl Any + Send + Sync) -> Self {
        Self { at: Instant::now(), event: Some(Box::new(event)) }
    }

    /// The device's own object, if it is a `T`.
    pub fn event<T: Any>(&self) -> Option<&T> {
        self.event.as_ref()?.downcast_ref()
    }

    /// When the host made the mark.
    pub fn host_time(&self) -> Instant {
        self.at
    }

    /// Seconds between two marks by the host's clock.
    pub fn host_seconds(first: &Self, last: &Self) -> f64 {
        last.at.saturating_duration_since(first.at).as_secs_f64()
    }
}
