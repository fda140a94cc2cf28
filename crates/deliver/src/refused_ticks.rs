//! Ticks that the log refuses: an operator must read of it, for quiet customers wait in silence.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// The partitions whose ticks are refused now.
#[derive(Debug, Default)]
pub struct RefusedTicks(Mutex<BTreeMap<u32, String>>);

impl RefusedTicks {
    /// Why `/readyz` fails: what is refused, what that means and what to do. `None`: no tick is refused.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (partition, why) = refused.first_key_value()?;
        let others = refused.len() - 1;
        let more = if others == 0 { String::new() } else { format!(" and {others} more") };
        Some(format!(
            "Kafka refuses ticks on partition {partition}{more}: {why}; messages of quiet groups wait; allow deliver to write to the packets topic"
        ))
    }

    pub(crate) fn refused(&self, partition: u32, why: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, why);
    }

    pub(crate) fn resumed(&self, partition: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_first_partition_and_how_many_more_there_are() {
        let refused = RefusedTicks::default();
        assert_eq!(refused.reason(), None);
        refused.refused(3, "not authorised".to_owned());
        refused.refused(5, "too large".to_owned());
        let reason = refused.reason().unwrap();
        assert!(reason.starts_with("Kafka refuses ticks on partition 3 and 1 more: not authorised;"), "{reason}");
        refused.resumed(3);
        assert!(refused.reason().unwrap().starts_with("Kafka refuses ticks on partition 5: too large;"));
        refused.resumed(5);
        assert_eq!(refused.reason(), None);
    }
}
