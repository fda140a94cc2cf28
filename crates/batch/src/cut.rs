//! Windows and chunks.
