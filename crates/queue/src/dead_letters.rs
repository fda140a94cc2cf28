//! placeholder, the queue's owner writes it
use std::sync::Arc;
use pushline_model::{Cause, DeadLetter, Offset, Timestamp};
use crate::{Append, Read, Appended, QueueError};
