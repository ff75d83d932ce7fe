//! Names that stand as one token of a subject: plugins, owners, agents, jobs, classes.
//!
//! A name is checked when it is made, so everything that holds one can put it into a subject. Its copies share the text:
//! decisions copy names all the time.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use uuid::Uuid;

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("{what} is empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// Over the limit.
    #[error("{what} `{start}…` of {bytes} bytes exceeds the limit of {most}")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// How it begins.
        start: String,
        /// Its length.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// A character that cannot stand in a subject.
    #[error("{what} `{name}` has a `{bad}`; letters, digits, `-` and `_` are allowed")]
    BadCharacter {
        /// Which kind of name.
        what: &'static str,
        /// The whole name.
        name: String,
        /// The first bad character.
        bad: char,
    },
}

/// Longest class, in bytes: it may list constraints. With it the longest name of a queue's consumer has 255 bytes, which
/// is all that the server takes.
pub const MAX_CLASS_BYTES: usize = 118;

fn check(what: &'static str, most: usize, also: &str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > most {
        let start = text.chars().take(16).collect();
        return Err(NameError::TooLong { what, start, bytes: text.len(), most });
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_' || also.contains(*c))) {
        None => Ok(()),
        Some(bad) => Err(NameError::BadCharacter { what, name: text.to_owned(), bad }),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        name!($(#[$doc])* $type, $what, MAX_NAME_BYTES, "");
    };
    ($(#[$doc:meta])* $type:ident, $what:literal, $most:expr, $also:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the text.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                check($what, $most, $also, text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A plugin's name.
    PluginName, "plugin name"
);
name!(
    /// Who submits: a user or a service. The unit of fairness and of permissions.
    Owner, "owner"
);
name!(
    /// A host's agent.
    AgentName, "agent name"
);
name!(
    /// A job. Grange's own clients use a UUIDv7; a foreign publisher may use any unique name.
    JobId, "job id"
);
name!(
    /// What a job needs of a host, as one token (`class`, `docs/wire.md`).
    Class, "class", MAX_CLASS_BYTES, "+=~"
);
name!(
    /// One life of an agent process; a new one after every start.
    Incarnation, "incarnation"
);

impl JobId {
    /// A job id from a UUID (version 7, so that ids sort by time).
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid.as_hyphenated().to_string().into())
    }
}

impl Class {
    /// The plugin's own request.
    pub const DEFAULT: &'static str = "default";
    /// No resource check.
    pub const ANY: &'static str = "any";

    /// The class that stands for the plugin's own request.
    pub fn plugin_default() -> Self {
        Self(Self::DEFAULT.into())
    }

    /// The class without a resource check.
    pub fn any() -> Self {
        Self(Self::ANY.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_subjects() {
        assert!(PluginName::new("cjm-graph-plugin-sqlite").is_ok());
        assert!(PluginName::new("a_B-9").is_ok());
        for bad in ["", "a.b", "a*", ">", "a b", "é", &"x".repeat(65)] {
            assert!(PluginName::new(bad).is_err(), "`{bad}` passed");
        }
    }

    #[test]
    fn errors_name_the_thing() {
        let error = PluginName::new("a.b").unwrap_err().to_string();
        assert_eq!(error, "plugin name `a.b` has a `.`; letters, digits, `-` and `_` are allowed");
        assert!(serde_json::from_str::<JobId>("\"a.b\"").unwrap_err().to_string().contains("job id"));
    }
}
