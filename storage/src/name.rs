//! Stream names: the public `application/name` of a stream, safe in URLs and paths.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Longest application or publishing name, bytes: a file named after both and a session stays below the 255 of every file
/// system.
pub const MAX_NAME_LEN: usize = 115;

/// Applications whose URLs are the server's own pages and API.
const RESERVED: [&str; 5] = ["api", "assets", "watch", "chaos", "recordings"];

/// Why a name cannot be a stream's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Application or name is missing.
    #[error("the {0} is empty; publish to rtmp://host/application/name")]
    Empty(&'static str),
    /// Longer than [`MAX_NAME_LEN`].
    #[error("the {0} is longer than {MAX_NAME_LEN} bytes")]
    TooLong(&'static str),
    /// An application whose URLs are the server's own.
    #[error("the application {0:?} is reserved; use another one, such as \"live\"")]
    Reserved(&'static str),
    /// A character that is not safe in a URL and a path.
    #[error("the {0} may have letters, digits, '-', '_' and '.', and must not begin with '.'")]
    Character(&'static str),
}

/// A stream's public name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "(String, String)", into = "(String, String)")]
pub struct StreamName {
    app: Arc<str>,
    name: Arc<str>,
}

impl StreamName {
    /// Checks and joins an application and a publishing name.
    pub fn new(app: &str, name: &str) -> Result<Self, NameError> {
        check("application", app)?;
        check("stream name", name)?;
        if let Some(reserved) = RESERVED.iter().find(|reserved| **reserved == app) {
            return Err(NameError::Reserved(reserved));
        }
        Ok(Self { app: app.into(), name: name.into() })
    }

    /// The application.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The name within the application.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.name)
    }
}

impl TryFrom<(String, String)> for StreamName {
    type Error = NameError;

    fn try_from((app, name): (String, String)) -> Result<Self, NameError> {
        Self::new(&app, &name)
    }
}

impl From<StreamName> for (String, String) {
    fn from(name: StreamName) -> Self {
        (name.app.to_string(), name.name.to_string())
    }
}

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty(what));
    }
    if text.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong(what));
    }
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.starts_with('.') || !text.bytes().all(safe) {
        return Err(NameError::Character(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_or_url_are_refused() {
        for bad in [
            "..",
            ".hidden",
            "a/b",
            "a\\b",
            "a\0b",
            "a b",
            "ä",
            "a%2e",
            "a?b",
            "",
            "a\n",
            &"x".repeat(MAX_NAME_LEN + 1),
        ] {
            assert!(StreamName::new("live", bad).is_err(), "{bad:?}");
            assert!(StreamName::new(bad, "show").is_err(), "{bad:?}");
        }
        for good in ["show", "Show-1_2.x", "0", &"x".repeat(MAX_NAME_LEN)] {
            assert!(StreamName::new("live", good).is_ok(), "{good:?}");
        }
    }
}
