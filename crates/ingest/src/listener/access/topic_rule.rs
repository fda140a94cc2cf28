//! Which topics a client may publish to. Pure.

use std::{fmt, str::FromStr};

/// The most rules that the claims of a token make of one.
const MOST_BOUND: usize = 100;

/// A topic filter (MQTT 5 §4.7) in which a level `{user}` stands for the client's name: the user name, the name in its certificate, or the one in its
/// token. Any other name in braces stands for a claim of the token.
///
/// `{user}/#` binds an organisation to its own devices, `mti/{user}` binds a device to its own ICCID, `{org}/#` binds a token to the organisation that
/// it claims.
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
    /// Another name in braces.
    Claim(String),
    /// `+`
    Any,
    /// `#`: all levels that follow, and none.
    Rest,
}

/// What is wrong with a rule, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a topic rule: levels with /, + for one level, # for the rest, {{user}} for the client's name, {{claim}} for a claim of its token; such as \"{{user}}/#\""
)]
pub struct InvalidTopicRule(String);

impl TopicRule {
    /// Whether the rule depends on the client's name.
    #[must_use]
    pub fn names_the_client(&self) -> bool {
        self.levels.contains(&Level::User)
    }

    /// A claim that the rule depends on.
    #[must_use]
    pub fn claim(&self) -> Option<&str> {
        self.levels.iter().find_map(|level| match level {
            Level::Claim(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The rules that this one becomes with the texts of each claim in place of its name, [`MOST_BOUND`] at most. A claim without a text leaves no rule.
    pub(crate) fn with_claims(&self, texts: &dyn Fn(&str) -> Vec<String>) -> Vec<Self> {
        let claims = self.levels.iter().enumerate().filter_map(|(at, level)| match level {
            Level::Claim(name) => Some((at, name)),
            _ => None,
        });
        claims.fold(vec![self.clone()], |rules, (at, claim)| {
            let texts = texts(claim);
            let with = |rule: &Self, text: &String| {
                let mut rule = rule.clone();
                rule.levels[at] = Level::Literal(text.clone());
                rule
            };
            rules.iter().flat_map(|rule| texts.iter().map(move |text| with(rule, text))).take(MOST_BOUND).collect()
        })
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
                // A client without a token claims nothing.
                (Level::Claim(_), Some(_)) => false,
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
            .map(|level| match (level, claim_name(level)) {
                ("{user}", _) => Ok(Level::User),
                ("+", _) => Ok(Level::Any),
                ("#", _) => Ok(Level::Rest),
                (_, Some(claim)) => Ok(Level::Claim(claim.to_owned())),
                (literal, _) if literal.contains(['+', '#', '{', '}', '\0']) || literal.is_empty() => Err(invalid()),
                (literal, _) => Ok(Level::Literal(literal.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        let has_rest_inside = levels.iter().rev().skip(1).any(|level| *level == Level::Rest);
        if has_rest_inside { Err(invalid()) } else { Ok(Self { text: text.to_owned(), levels }) }
    }
}

/// The name in braces: letters, digits, and what stands between them in names of claims.
fn claim_name(level: &str) -> Option<&str> {
    let name = level.strip_prefix('{')?.strip_suffix('}')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
    is_name.then_some(name)
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
    fn a_claim_stands_for_each_of_its_texts_and_a_missing_one_allows_nothing() {
        let texts = |claim: &str| {
            let texts: &[&str] = match claim {
                "org" => &["mti", "x/y", "#"],
                "site" => &["1", "2"],
                _ => &[],
            };
            texts.iter().map(|text| (*text).to_owned()).collect()
        };
        let bound = |rule: &str| rule.parse::<TopicRule>().unwrap().with_claims(&texts);
        let allows = |rule: &str, topic: &str| bound(rule).iter().any(|rule| rule.allows(topic, Some("u")));
        for (topic, is_allowed) in [("mti/1", true), ("mti", true), ("x/1", false), ("x/y/1", false), ("a/1", false), ("#/1", true)] {
            assert_eq!(allows("{org}/#", topic), is_allowed, "{topic}");
        }
        assert_eq!((allows("{org}/{site}/{user}", "mti/2/u"), allows("{org}/{site}/{user}", "mti/3/u")), (true, false));
        assert_eq!((bound("{none}/#"), bound("{user}/#").len()), (vec![], 1));
        let many = |_: &str| (0..1000).map(|number: u32| number.to_string()).collect();
        assert_eq!("{a}/{b}".parse::<TopicRule>().unwrap().with_claims(&many).len(), MOST_BOUND);
        let unbound: TopicRule = "{org}/#".parse().unwrap();
        assert_eq!(
            (unbound.claim(), unbound.allows("mti/1", Some("u")), unbound.allows("{org}/1", Some("u"))),
            (Some("org"), false, false)
        );
    }

    #[test]
    fn a_text_that_is_no_rule_is_refused() {
        for text in ["", "a//b", "#/a", "a+", "{}/x", "{a b}/x", "a/{user}x", "a#"] {
            assert!(text.parse::<TopicRule>().is_err(), "{text}");
        }
        assert_eq!("mti/{user}/#".parse::<TopicRule>().unwrap().to_string(), "mti/{user}/#");
    }
}
