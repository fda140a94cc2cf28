//! Reading at a place of its own: from memory where live reading has passed it lately, else from the log. So Kafka doesn't send the same records twice.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use pushline_model::Offset;

use super::live::Live;
use crate::{Frame, QueueError, Read, Reader};

/// A reader at a place of its own: from memory where the place was passed lately, else from the log.
pub(super) struct RecentReader<L> {
    live: Arc<Live>,
    log: L,
    at: Offset,
    /// The reader of the log, while the place isn't in memory.
    from_log: Option<Box<dyn Reader>>,
}

impl<L: Read> RecentReader<L> {
    pub(super) fn new(live: &Arc<Live>, log: L, from: Offset) -> Self {
        Self { live: Arc::clone(live), log, at: from, from_log: None }
    }

    async fn read(&mut self) -> Result<Frame, QueueError> {
        let frame = match self.live.recent(self.at) {
            Some(frame) => {
                self.from_log = None;
                frame
            }
            None => self.from_log.get_or_insert_with(|| self.log.reader(self.at)).next().await?,
        };
        self.at = frame.end();
        Ok(frame)
    }
}

impl<L: Read> Reader for RecentReader<L> {
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
        self.read().boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::frame::tests::frame;

    /// A log in frames of seven records; the frames that are handed over are others. It ends at 70.
    struct Sevens;

    /// The first call of each frame never resolves; the second one returns the frame.
    struct SevensReader {
        at: Offset,
        asked: bool,
    }

    impl Read for Sevens {
        fn bounds(&self) -> BoxFuture<'_, Result<Range<Offset>, QueueError>> {
            async { Ok(0..70) }.boxed()
        }

        fn reader(&self, from: Offset) -> Box<dyn Reader> {
            Box::new(SevensReader { at: from, asked: false })
        }
    }

    impl Reader for SevensReader {
        fn next(&mut self) -> BoxFuture<'_, Result<Frame, QueueError>> {
            async {
                if !std::mem::replace(&mut self.asked, true) || self.at >= 70 {
                    std::future::pending::<()>().await;
                }
                let frame = frame(self.at / 7 * 7, 7);
                (self.at, self.asked) = (frame.end(), false);
                Ok(frame)
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn every_record_is_read_once_across_memory_and_log_however_often_the_reader_is_asked_in_vain() {
        let live = Arc::new(Live::new(0, 1 << 20, 1 << 20));
        let mut reader = RecentReader::new(&live, Sevens, 3);
        let (mut at, mut from_memory) = (3, 0);
        while at < 70 {
            // Live reading passes 30 to 59 once the reader is there: before and beyond only the log has anything.
            if at == 35 {
                live.begins_at(30);
                live.hand_over(vec![frame(30, 10), frame(40, 10), frame(50, 10)]);
                for _ in 0..3 {
                    live.next(|| ()).await;
                }
            }
            let _ = reader.next().now_or_never().is_none_or(|frame| {
                let frame = frame.unwrap();
                from_memory += usize::from(frame.end() % 10 == 0 && frame.end() < 70);
                let offsets: Vec<Offset> = frame.records(at).map(|(offset, _)| offset).collect();
                assert_eq!(offsets, (at..frame.end()).collect::<Vec<_>>());
                at = frame.end();
                true
            });
        }
        assert_eq!((at, from_memory), (70, 3));
        assert!(reader.next().now_or_never().is_none(), "it waits at the end");
    }
}
