//! The names of this crate's metrics, each with its help text and unit.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Seconds from the first append of a commit until the commit was durable.
pub const APPEND_SECONDS: &str = "pushline_queue_append_seconds";
/// Bytes that a log holds on the disk, by log.
pub const LOG_BYTES: &str = "pushline_queue_log_bytes";
/// 1 while a log waits for space on the disk, by log.
pub const WAITING_FOR_SPACE: &str = "pushline_queue_waiting_for_space";
/// Dead letters that were deleted since they were too old or too many, by log.
pub const FORGOTTEN: &str = "pushline_dead_letters_forgotten_total";

/// Packets that became dead letters, by cause, wherever they did.
pub const DEAD_LETTERED: &str = "pushline_packets_dead_lettered_total";

/// How often partitions were assigned or revoked.
pub const REBALANCES: &str = "pushline_queue_rebalances_total";
/// Partitions that this process serves.
pub const ASSIGNED: &str = "pushline_queue_assigned_partitions";
/// Records that were handed to the producer and aren't durable yet.
pub const PRODUCING: &str = "pushline_queue_producer_records";
/// 1 where a topic has fewer than three replicas, or one of them may acknowledge alone.
pub const WEAK_REPLICATION: &str = "pushline_queue_weak_replication";

/// Tells the recorder what they are.
pub fn describe() {
    describe_counter!(REBALANCES, "How often partitions were assigned to this process or revoked");
    describe_gauge!(ASSIGNED, "Partitions that this process serves");
    describe_gauge!(PRODUCING, "Records that were handed to the producer and aren't durable yet");
    describe_gauge!(WEAK_REPLICATION, "1 where a topic has fewer than three replicas, or one of them may acknowledge alone");
    describe_histogram!(APPEND_SECONDS, Unit::Seconds, "Time from the first append of a commit until the commit was durable");
    describe_gauge!(LOG_BYTES, Unit::Bytes, "Bytes that a log holds on the disk");
    describe_gauge!(WAITING_FOR_SPACE, "1 while a log waits for space on the disk");
    describe_counter!(FORGOTTEN, "Dead letters that were deleted because of dead_letters.keep or dead_letters.max_bytes");
    describe_counter!(DEAD_LETTERED, "Packets that became dead letters, by cause");
}
