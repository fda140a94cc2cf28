//! Text files as editors write them: with a byte order mark or without, with either line end.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A file that couldn't be read: nothing is known about its contents.
#[derive(Debug, thiserror::Error)]
#[error("can't read {}: {error}", .path.display())]
pub(crate) struct Unreadable {
    path: PathBuf,
    error: io::Error,
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub(super) enum TextError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// What is wrong with the contents, with the path.
    #[error("{0}")]
    NotText(String),
}

/// Reads a file of UTF-8 and leaves a byte order mark out.
///
/// # Errors
/// It can't be read, or isn't UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String, TextError> {
    let refuse = |problem: String| TextError::NotText(format!("can't read {}: {problem}", path.display()));
    let bytes = fs::read(path).map_err(|error| Unreadable { path: path.to_owned(), error })?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(refuse("it is UTF-16, save it as UTF-8".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        refuse(format!("line {line} isn't UTF-8, save it as UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned))
}

/// Reads a file that holds one value, such as a password. Editors end a file with a line end: one is left out.
///
/// # Errors
/// As [`read_text`].
pub(super) fn read_value(path: &Path) -> Result<String, TextError> {
    let mut text = read_text(path)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
