//! Schedules that are written down.
