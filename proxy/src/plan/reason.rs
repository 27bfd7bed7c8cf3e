//! Why a statement took its way: what `SHOW ripen.route` tells. Holds no row values, for it is logged.

use std::borrow::Cow;
use std::fmt;

/// A stable code for programs and metrics, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable, lower case with hyphens; suits as a metric label.
    pub code: &'static str,
    /// Without full stop, names in quotes.
    pub text: Cow<'static, str>,
}

impl Reason {
    /// A reason of these two.
    pub fn new(code: &'static str, text: impl Into<Cow<'static, str>>) -> Reason {
        Reason {
            code,
            text: text.into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}
