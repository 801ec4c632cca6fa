//! What became of each of many things: used, or left out and why.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// Things left out for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// The names of the first of them, where they have any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<String>,
}

/// What became of the transcripts or of the lines of a file: `used` and those left out add up to all that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// How many were used.
    pub used: u64,
    /// The others by reason, words with `_` between them.
    pub left_out: BTreeMap<&'static str, LeftOut>,
}

impl Fates {
    /// The names that are kept of each reason.
    const NAMED: usize = 5;

    /// All.
    pub fn all(&self) -> u64 {
        self.used + self.left_out.values().map(|left| left.count).sum::<u64>()
    }

    /// Counts one that is left out.
    pub fn leave_out(&mut self, reason: &'static str, name: &str) {
        let left = self.left_out.entry(reason).or_default();
        left.count += 1;
        if left.first.len() < Self::NAMED {
            left.first.push(name.to_owned());
        }
    }

    /// Counts some that are left out and have no names.
    pub fn leave_out_lines(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            self.left_out.entry(reason).or_default().count += count;
        }
    }

    /// What was left out, a text for each reason, with the first names.
    pub fn notes(&self) -> Vec<String> {
        let note = |(reason, left): (&&str, &LeftOut)| {
            let more = if left.count > left.first.len() as u64 { ", ..." } else { "" };
            let names =
                if left.first.is_empty() { String::new() } else { format!(" ({}{more})", left.first.join(", ")) };
            format!("{} {}{names}", left.count, reason.replace('_', " "))
        };
        self.left_out.iter().map(note).collect()
    }
}

impl Serialize for Fates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Fates", 3)?;
        fields.serialize_field("all", &self.all())?;
        fields.serialize_field("used", &self.used)?;
        fields.serialize_field("left_out", &self.left_out)?;
        fields.end()
    }
}
