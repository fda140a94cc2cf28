//! Topic patterns (docs/document.md, Group): which levels of a topic name the organisation, the device and, if wanted, the group. Pure.

use std::{fmt, str::FromStr};

use crate::{Iccid, Organisation, text::serde_as_text};

/// A pattern of topics, such as `{org}/{iccid}`, `{org}/{group}/{iccid}` or `devices/{org}/{iccid}/#`. Topics with a leading `/` match too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern {
    levels: Vec<Level>,
    /// It ends in `/#`: any deeper levels, or none, may follow (MQTT 5 §4.7.1.2).
    deeper: bool,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Org,
    Iccid,
    Group,
    Literal(String),
}

/// What a topic names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) org: &'a str,
    pub(crate) iccid: Iccid,
    pub(crate) group: Option<&'a str>,
}

/// Why a text is no topic pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a topic pattern: {reason}")]
pub struct InvalidPattern {
    pattern: String,
    reason: &'static str,
}

impl TopicPattern {
    /// What a topic names by this pattern; `None`: it doesn't match.
    pub(crate) fn read<'a>(&self, topic: &'a str) -> Option<Named<'a>> {
        let mut levels = topic.strip_prefix('/').unwrap_or(topic).split('/');
        let (mut org, mut iccid, mut group) = (None, None, None);
        for level in &self.levels {
            let text = levels.next()?;
            match level {
                Level::Org => org = Organisation::is_valid(text).then_some(text),
                Level::Iccid => iccid = Iccid::from_bytes(text.as_bytes()),
                Level::Group => group = Some(text),
                Level::Literal(literal) => (literal == text).then_some(())?,
            }
        }
        if !self.deeper && levels.next().is_some() {
            return None;
        }
        Some(Named { org: org?, iccid: iccid?, group })
    }
}

impl TopicPattern {
    /// The topic filter that matches what the pattern does, and no leading `/` (MQTT 5 §4.7).
    #[must_use]
    pub fn filter(&self) -> String {
        let levels = self.levels.iter().map(|level| match level {
            Level::Org | Level::Iccid | Level::Group => "+",
            Level::Literal(literal) => literal,
        });
        levels.chain(self.deeper.then_some("#")).collect::<Vec<_>>().join("/")
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let refuse = |reason| Err(InvalidPattern { pattern: text.to_owned(), reason });
        let levels = text.strip_prefix('/').unwrap_or(text);
        let (levels, deeper) = levels.strip_suffix("/#").map_or((levels, false), |levels| (levels, true));
        let levels: Vec<Level> = levels.split('/').map(Level::of).collect();
        let odd =
            |level: &Level| matches!(level, Level::Literal(literal) if literal.is_empty() || literal.contains(['{', '}', '+', '#', '\0']));
        if !text.is_empty() && levels.iter().any(odd) {
            return refuse("a level is {org}, {iccid}, {group} or a text without + # { }; only the last may be #");
        }
        for (level, reason) in [(Level::Org, "it needs {org} exactly once"), (Level::Iccid, "it needs {iccid} exactly once")] {
            if levels.iter().filter(|other| **other == level).count() != 1 {
                return refuse(reason);
            }
        }
        if levels.iter().filter(|level| **level == Level::Group).count() > 1 {
            return refuse("{group} can stand in it once at most");
        }
        Ok(Self { levels, deeper, text: text.to_owned() })
    }
}

impl Level {
    fn of(text: &str) -> Self {
        match text {
            "{org}" => Self::Org,
            "{iccid}" => Self::Iccid,
            "{group}" => Self::Group,
            literal => Self::Literal(literal.to_owned()),
        }
    }
}

serde_as_text!(TopicPattern, "a topic pattern such as \"{org}/{iccid}\"");

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pattern: &str, topic: &str) -> Option<(String, String, Option<String>)> {
        let pattern: TopicPattern = pattern.parse().unwrap();
        pattern.read(topic).map(|named| (named.org.into(), named.iccid.to_string(), named.group.map(Into::into)))
    }

    fn named(org: &str, iccid: &str, group: Option<&str>) -> Option<(String, String, Option<String>)> {
        Some((org.into(), iccid.into(), group.map(Into::into)))
    }

    #[test]
    fn a_topic_names_organisation_device_and_group() {
        assert_eq!(read("{org}/{iccid}", "mti/8976"), named("mti", "8976", None));
        assert_eq!(read("{org}/{iccid}", "/mti/8976"), named("mti", "8976", None));
        assert_eq!(read("/{org}/{iccid}", "mti/8976"), named("mti", "8976", None));
        assert_eq!(read("{org}/{iccid}/#", "mti/8976"), named("mti", "8976", None));
        assert_eq!(read("{org}/{iccid}/#", "mti/8976/a//b"), named("mti", "8976", None));
        assert_eq!(read("d/{org}/{group}/{iccid}", "d/mti/line 1/8976"), named("mti", "8976", Some("line 1")));
    }

    #[test]
    fn a_pattern_means_a_filter() {
        for (pattern, filter) in [("{org}/{iccid}", "+/+"), ("/{org}/{iccid}/#", "+/+/#"), ("d/{org}/{group}/{iccid}", "d/+/+/+")] {
            assert_eq!(pattern.parse::<TopicPattern>().unwrap().filter(), filter);
        }
    }

    #[test]
    fn what_does_not_match_names_nothing() {
        for (pattern, topic) in [
            ("{org}/{iccid}", "mti/8976/deeper"),
            ("{org}/{iccid}", "mti"),
            ("{org}/{iccid}", ""),
            ("{org}/{iccid}", "//8976"),
            ("{org}/{iccid}", "organisation/8976"),
            ("{org}/{iccid}", "mti/123456789012345678901"),
            ("{org}/{iccid}", "mti/89-76"),
            ("d/{org}/{iccid}", "e/mti/8976"),
        ] {
            assert_eq!(read(pattern, topic), None, "{pattern} {topic}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (pattern, reason) in [
            ("", "{org}"),
            ("{iccid}", "{org}"),
            ("{org}", "{iccid}"),
            ("{org}/{org}/{iccid}", "{org}"),
            ("{org}/{iccid}/{group}/{group}", "{group}"),
            ("{org}/{iccid}/+", "without"),
            ("{org}/#/{iccid}", "without"),
            ("{org}//{iccid}", "without"),
            ("{org}/{device}/{iccid}", "without"),
            ("{foo}/{org}", "without"),
        ] {
            let error = pattern.parse::<TopicPattern>().unwrap_err().to_string();
            assert!(error.contains(reason), "{pattern}: {error}");
        }
    }
}
