//! Reading how old the oldest unsettled record is, beside everything else.

use std::sync::Arc;

use pushline_model::Offset;
use pushline_queue::{Kind, Partition, QueueError};

use crate::core::OldestRead;

/// The first record at or above an offset, ticks aside, that lies below the end of the log.
pub(super) async fn read(partition: Arc<dyn Partition>, from: Offset) -> Result<OldestRead, QueueError> {
    let (end, mut at, mut reader) = (partition.end(), from, partition.reader(from));
    let mut received_at = None;
    while at < end && received_at.is_none() {
        let frame = reader.next().await?;
        received_at = frame.records(at).find(|(_, record)| record.kind != Kind::Tick).map(|(_, record)| record.at);
        at = frame.end();
    }
    Ok(OldestRead { from, received_at, overflow: partition.overflow() })
}

#[cfg(test)]
mod tests {
    use pushline_model::Timestamp;
    use pushline_queue::{
        Append, Queue, Record,
        memory::{LogTime, Memory, Mode},
    };

    use super::*;

    #[tokio::test]
    async fn ticks_are_no_packets_that_wait() {
        let queue = Memory::with(Mode::Ticks, &LogTime::monotonic());
        let partition = Arc::clone(&queue.partitions().borrow()[0]);
        partition.tick().await.unwrap();
        let oldest = async || read(Arc::clone(&partition), 0).await.unwrap().received_at;
        assert_eq!(oldest().await, None);
        queue.append(&[Record { group: "o/g", at: Timestamp(7), kind: Kind::Replay, payload: b"" }]).await.unwrap();
        assert_eq!(oldest().await, Some(Timestamp(7)));
    }
}
