//! Timing submissions: with the device's timestamps where it has them, else with the clock on the wall.

use std::time::Duration;

use web_time::Instant;

use super::readback::{Pending, Signal};
use crate::Result;

/// The two stamps of a timed submission.
#[derive(Debug)]
pub(super) struct Timer {
    pub queries: wgpu::QuerySet,
    pub resolved: wgpu::Buffer,
}

impl Timer {
    /// A timer, if the device has timestamps.
    pub fn new(device: &wgpu::Device) -> Option<Self> {
        device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Self {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timer"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timer"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
        })
    }

    /// An empty pass that writes one of the two stamps; WebGPU has timestamps only at a pass's ends.
    pub fn stamp(&self, index: u32) -> wgpu::ComputePassDescriptor<'_> {
        wgpu::ComputePassDescriptor {
            label: Some("timer"),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: (index == 0).then_some(0),
                end_of_pass_write_index: (index == 1).then_some(1),
            }),
        }
    }
}

/// A submission that can be awaited; it yields the time it took on the device.
#[derive(Debug)]
#[must_use = "await the submission, or use `submit`"]
pub struct Submission {
    pub(super) signal: Signal,
    pub(super) started: Instant,
    /// The stamps on their way back, and nanoseconds per tick.
    pub(super) stamps: Option<(Pending<u32>, f32)>,
}

impl Submission {
    /// True once the device has finished.
    pub fn is_done(&self) -> bool {
        self.signal.is_set()
    }

    /// Waits until the device has finished. Returns the device's own time where it has timestamps, else the
    /// time since the submission.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub async fn done(self) -> Result<Duration> {
        std::future::poll_fn(|cx| self.signal.poll(cx)).await?;
        let wall = self.started.elapsed();
        let Some((pending, period)) = self.stamps else { return Ok(wall) };
        let words = pending.await?;
        let stamp = |i: usize| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32;
        let ticks = stamp(1).saturating_sub(stamp(0));
        Ok(Duration::from_nanos((ticks as f64 * f64::from(period)) as u64))
    }
}
