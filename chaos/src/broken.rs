//! Promises that were broken.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A promise that was broken, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// Something was wrong, however late everybody was.
    Wrong(String),
    /// Something was late: on a machine that stands still now and then, anything is.
    Late(String),
}

impl Broken {
    /// Whether a machine that stood still may be the reason.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Late(_))
    }

    /// With the place where it was broken.
    pub fn at(&self, place: &str) -> Self {
        match self {
            Self::Wrong(sentence) => Self::Wrong(format!("{place}: {sentence}")),
            Self::Late(sentence) => Self::Late(format!("{place}: {sentence}")),
        }
    }
}

/// Several, one after the other.
pub fn sentences(broken: &[Broken]) -> String {
    broken.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<String> for Broken {
    fn from(sentence: String) -> Self {
        Self::Wrong(sentence)
    }
}

impl From<&str> for Broken {
    fn from(sentence: &str) -> Self {
        Self::Wrong(sentence.to_owned())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Wrong(sentence) | Self::Late(sentence)) = self;
        f.write_str(sentence)
    }
}

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Only what could be judged is read again: what was late then was so on a machine that was not to blame.
impl<'de> Deserialize<'de> for Broken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::Wrong)
    }
}
