//! Who a packet belongs to: the organisation and, within it, the group of devices.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{Invalid, text::serde_as_text};

/// An organisation: 1 to 8 letters or digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Organisation(Arc<str>);

impl Organisation {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic level could be an organisation.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }
}

impl FromStr for Organisation {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if Self::is_valid(text) { Ok(Self(text.into())) } else { Err(Invalid::Organisation(text.to_owned())) }
    }
}

impl fmt::Display for Organisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(Organisation, "an organisation: 1 to 8 letters or digits");

/// A group, by its key `organisation/name`: the key of its records in the log. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(Arc<str>);

impl GroupId {
    /// Puts a key together. The name is 1 to 20 letters, digits, spaces or any of `@$#._-`.
    ///
    /// # Errors
    /// [`Invalid::GroupName`].
    pub fn new(org: &Organisation, name: &str) -> Result<Self, Invalid> {
        if !Self::is_valid_name(name) {
            return Err(Invalid::GroupName(name.to_owned()));
        }
        Ok(Self(format!("{org}/{name}").into()))
    }

    /// The group of a packet that belongs to none. Its key is empty, which no other group's is.
    #[must_use]
    pub fn none() -> Self {
        Self("".into())
    }

    /// Reads a key as it stands in a log, where a packet of no group has an empty one.
    ///
    /// # Errors
    /// As for reading a group.
    pub fn of_record(key: &str) -> Result<Self, Invalid> {
        if key.is_empty() { Ok(Self::none()) } else { key.parse() }
    }

    /// Whether a text is a group's key.
    #[must_use]
    pub fn is_valid(key: &str) -> bool {
        key.split_once('/').is_some_and(|(org, name)| Organisation::is_valid(org) && Self::is_valid_name(name))
    }

    /// `organisation/name`.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0
    }

    /// The organisation's part of the key.
    #[must_use]
    pub fn org(&self) -> &str {
        self.0.split_once('/').map_or("", |(org, _)| org)
    }

    /// The name's part of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }

    /// Whether a text is a group's name: 1 to 20 letters, digits, spaces or any of `@$#._-`.
    #[must_use]
    pub fn is_valid_name(name: &str) -> bool {
        (1..=20).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"@$#._- ".contains(&byte))
    }
}

impl FromStr for GroupId {
    type Err = Invalid;

    fn from_str(key: &str) -> Result<Self, Invalid> {
        let (org, name) = key.split_once('/').ok_or_else(|| Invalid::GroupKey(key.to_owned()))?;
        Self::new(&org.parse()?, name)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({})", self.0)
    }
}

impl std::borrow::Borrow<str> for GroupId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_an_organisation_and_a_name() {
        let group: GroupId = "mti/tokyo line-1 @$#._".parse().unwrap();
        assert_eq!((group.org(), group.name()), ("mti", "tokyo line-1 @$#._"));
    }

    #[test]
    fn names_out_of_range_are_refused() {
        assert_eq!("mti".parse::<GroupId>(), Err(Invalid::GroupKey("mti".into())));
        assert_eq!("mti/".parse::<GroupId>(), Err(Invalid::GroupName(String::new())));
        assert_eq!("mti/a/b".parse::<GroupId>(), Err(Invalid::GroupName("a/b".into())));
        assert_eq!("organisation/a".parse::<GroupId>(), Err(Invalid::Organisation("organisation".into())));
        let long = "x".repeat(21);
        assert_eq!(format!("mti/{long}").parse::<GroupId>(), Err(Invalid::GroupName(long)));
    }
}
