//! What `pushline doctor` found: a line each, with the remedy.

use std::fmt;

use serde::Serialize;

/// How bad it is. The worst one decides the command's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// It works, and will be trouble.
    Warning,
    /// It doesn't work.
    Failed,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked: `configuration`, `files`, `disk`, `queue`, `kafka`, `webhook`, `certificate`, `clock`, `process`.
    pub(super) check: &'static str,
    pub(super) state: State,
    /// What was seen.
    pub(super) text: String,
    /// What to do about it.
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, state: State::Ok, text: text.into(), remedy: None }
    }

    pub(super) fn warning(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, state: State::Warning, text: text.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn failed(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, state: State::Failed, text: text.into(), remedy: Some(remedy.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warn",
            State::Failed => "FAIL",
        };
        write!(f, "{state:<5} {:<14} {}", self.check, self.text)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "\n{:20} -> {remedy}", ""))
    }
}
