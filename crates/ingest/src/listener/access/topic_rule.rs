//! Which topics a client may publish to. Pure.

use std::{fmt, str::FromStr};

/// A topic filter (MQTT 5 §4.7) in which a level `{user}` stands for the client's name: the user name, or the name in its certificate.
///
/// `{user}/#` binds an organisation to its own devices, `mti/{user}` binds a device to its own ICCID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    text: String,
    levels: Vec<Level>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(String),
    /// `{user}`
    User,
    /// `+`
    Any,
    /// `#`: all levels that follow, and none.
    Rest,
}

/// What is wrong with a rule, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a topic rule: levels with /, + for one level, # for the rest, {{user}} for the client's name; such as \"{{user}}/#\""
)]
pub struct InvalidTopicRule(String);

impl TopicRule {
    /// Whether the rule depends on the client's name.
    #[must_use]
    pub fn names_the_client(&self) -> bool {
        self.levels.contains(&Level::User)
    }

    /// Whether a client of this name may publish to the topic. A client without a name matches no `{user}`.
    pub(crate) fn allows(&self, topic: &str, user: Option<&str>) -> bool {
        let mut topic = topic.split('/');
        for level in &self.levels {
            let matches = match (level, topic.next()) {
                (Level::Rest, _) => return true,
                (_, None) => return false,
                (Level::Any, Some(_)) => true,
                (Level::User, Some(part)) => user == Some(part),
                (Level::Literal(literal), Some(part)) => literal == part,
            };
            if !matches {
                return false;
            }
        }
        topic.next().is_none()
    }
}

impl FromStr for TopicRule {
    type Err = InvalidTopicRule;

    fn from_str(text: &str) -> Result<Self, InvalidTopicRule> {
        let invalid = || InvalidTopicRule(text.to_owned());
        let levels: Vec<Level> = text
            .split('/')
            .map(|level| match level {
                "{user}" => Ok(Level::User),
                "+" => Ok(Level::Any),
                "#" => Ok(Level::Rest),
                literal if literal.contains(['+', '#', '{', '}', '\0']) || literal.is_empty() => Err(invalid()),
                literal => Ok(Level::Literal(literal.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        let has_rest_inside = levels.iter().rev().skip(1).any(|level| *level == Level::Rest);
        if has_rest_inside { Err(invalid()) } else { Ok(Self { text: text.to_owned(), levels }) }
    }
}

impl fmt::Display for TopicRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_allows_what_its_levels_say_and_nothing_else() {
        for (rule, user, allowed, refused) in [
            ("mti/+", Some("u"), &["mti/1", "mti/"][..], &["mti", "mti/1/2", "x/1"][..]),
            ("{user}/#", Some("mti"), &["mti/1", "mti/1/2", "mti"], &["x/1", "mti2/1"]),
            ("+/{user}", Some("897"), &["mti/897", "x/897"], &["mti/8970", "mti/897/x", "mti/x"]),
            ("{user}/#", None, &[], &["mti/1", "/1"]),
            ("{user}/#", Some(""), &["/1"], &["mti/1"]),
            ("{user}", Some("a/b"), &[], &["a/b", "a"]),
            ("#", None, &["a", "a/b"], &[]),
        ] {
            let parsed: TopicRule = rule.parse().unwrap();
            for topic in allowed {
                assert!(parsed.allows(topic, user), "{rule} {topic}");
            }
            for topic in refused {
                assert!(!parsed.allows(topic, user), "{rule} {topic}");
            }
        }
    }

    #[test]
    fn a_text_that_is_no_rule_is_refused() {
        for text in ["", "a//b", "#/a", "a+", "{org}/x", "a/{user}x", "a#"] {
            assert!(text.parse::<TopicRule>().is_err(), "{text}");
        }
        assert_eq!("mti/{user}/#".parse::<TopicRule>().unwrap().to_string(), "mti/{user}/#");
    }
}
