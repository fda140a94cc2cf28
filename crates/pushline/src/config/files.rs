//! Text files as editors write them: with a byte order mark or without, with either line end.

use std::{fs, path::Path};

/// Reads a file of UTF-8 and leaves a byte order mark out.
///
/// # Errors
/// What is wrong, with the path.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let refuse = |problem: String| format!("can't read {}: {problem}", path.display());
    let bytes = fs::read(path).map_err(|error| refuse(error.to_string()))?;
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
pub(super) fn read_value(path: &Path) -> Result<String, String> {
    let mut text = read_text(path)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
