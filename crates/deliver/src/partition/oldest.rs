//! Reading how old the oldest unsettled record is, beside everything else.

use pushline_model::{Offset, Timestamp};
use pushline_queue::{QueueError, Reader};

/// When the first record at or above an offset was received, ticks and changes of sessions aside, if it lies below `end`.
pub(super) async fn read(mut reader: Box<dyn Reader>, from: Offset, end: Offset) -> Result<Option<Timestamp>, QueueError> {
    let (mut at, mut received_at) = (from, None);
    while at < end && received_at.is_none() {
        let frame = reader.next().await?;
        received_at = frame.records(at).find(|(_, record)| !record.kind.is_bookkeeping()).map(|(_, record)| record.at);
        at = frame.end();
    }
    Ok(received_at)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pushline_queue::{
        Append, Kind, Queue, Record,
        memory::{LogTime, Memory, Mode},
    };

    use super::*;

    #[tokio::test]
    async fn ticks_are_no_packets_that_wait() {
        let queue = Memory::with(Mode::Ticks, &LogTime::monotonic());
        let partition = Arc::clone(&queue.partitions().borrow()[0]);
        partition.tick().await.unwrap();
        let oldest = async || read(partition.reader(0), 0, partition.end()).await.unwrap();
        assert_eq!(oldest().await, None);
        queue.append(&[Record { group: "o/g", at: Timestamp(7), kind: Kind::Replay, payload: b"" }]).await.unwrap();
        assert_eq!(oldest().await, Some(Timestamp(7)));
    }
}
