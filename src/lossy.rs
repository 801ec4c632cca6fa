//! Paths in JSON and TOML, as `#[serde(serialize_with = "lossy::serialize")]`: bytes that are no UTF-8 become U+FFFD. By its
//! own rules serde refuses such a path, when the work is done and only its summary is left to print.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// One path, or several.
pub(crate) trait Paths {
    /// The same as text.
    type Text: Serialize;
    /// Makes it.
    fn text(&self) -> Self::Text;
}

impl Paths for PathBuf {
    type Text = String;
    fn text(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

impl<P: Paths> Paths for Option<P> {
    type Text = Option<P::Text>;
    fn text(&self) -> Self::Text {
        self.as_ref().map(P::text)
    }
}

impl<P: Paths> Paths for Vec<P> {
    type Text = Vec<P::Text>;
    fn text(&self) -> Self::Text {
        self.iter().map(P::text).collect()
    }
}

/// Serializes paths as text.
pub(crate) fn serialize<P: Paths, S: Serializer>(paths: &P, serializer: S) -> Result<S::Ok, S::Error> {
    paths.text().serialize(serializer)
}
