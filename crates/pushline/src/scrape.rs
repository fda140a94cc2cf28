//! `/metrics`: what the recorder holds, and what is read at each scrape.

use std::time::{Duration, Instant, SystemTime};

use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{runtime::Handle, time::interval};

use crate::metrics::{CLOCK_JUMPS, CLOCK_TIMESTAMP, QUEUE_STALLED, READY, RUNTIME_BUSY_SECONDS, RUNTIME_WORKERS, install};

/// How often the recorder folds its samples, whether `/metrics` is read or not.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The wall clock jumps when it moves by more than this against the monotonic clock between two upkeeps.
const JUMP: Duration = Duration::from_secs(1);

/// Renders the metrics of the whole process.
pub(crate) struct Scrape {
    recorder: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Scrape {
    /// # Errors
    /// Another recorder is installed.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { recorder: install()?, process: metrics_process::Collector::default() })
    }

    /// All metrics in the Prometheus text format. `is_ready` is what `/readyz` answers.
    pub(crate) fn render(&self, is_ready: bool, is_stalled: bool) -> String {
        self.process.collect();
        gauge!(READY).set(flag(is_ready));
        gauge!(QUEUE_STALLED).set(flag(is_stalled));
        gauge!(CLOCK_TIMESTAMP).set(since_1970(SystemTime::now()).as_secs_f64());
        observe_runtime();
        self.recorder.render()
    }

    /// Folds samples and watches the wall clock, for as long as the process runs.
    pub(crate) async fn keep_up(&self) {
        let (mut ticks, mut clocks) = (interval(UPKEEP_EVERY), Clocks::now());
        loop {
            ticks.tick().await;
            self.recorder.run_upkeep();
            let now = Clocks::now();
            if now.jumped_since(&clocks) {
                counter!(CLOCK_JUMPS).increment(1);
            }
            clocks = now;
        }
    }
}

/// Both clocks at one moment.
struct Clocks {
    wall: Duration,
    monotonic: Instant,
}

impl Clocks {
    fn now() -> Self {
        Self { wall: since_1970(SystemTime::now()), monotonic: Instant::now() }
    }

    fn jumped_since(&self, earlier: &Self) -> bool {
        let passed = self.monotonic.saturating_duration_since(earlier.monotonic);
        self.wall.abs_diff(earlier.wall + passed) > JUMP
    }
}

fn observe_runtime() {
    let runtime = Handle::current().metrics();
    let busy: Duration = (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
    gauge!(RUNTIME_WORKERS).set(runtime.num_workers() as f64);
    // The exporter's counters are whole numbers.
    counter!(RUNTIME_BUSY_SECONDS).absolute(busy.as_secs());
}

/// A clock before 1970 counts as 1970.
fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_moves_against_the_monotonic_one_has_jumped() {
        let earlier = Clocks { wall: Duration::from_secs(1000), monotonic: Instant::now() };
        let later = |wall| Clocks { wall: Duration::from_millis(wall), monotonic: earlier.monotonic + Duration::from_secs(5) };
        let jumped = [1_005_000, 1_005_900, 1_006_100, 1_003_900, 0].map(|wall| later(wall).jumped_since(&earlier));
        assert_eq!(jumped, [false, false, true, true, true]);
    }
}
