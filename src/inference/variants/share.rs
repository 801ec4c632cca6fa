//! Which lines of a VCF file are a shard's.

use std::path::Path;

use serde_json::{Value, json};

use super::Annotator;
use super::vcf::Reader;
use crate::Result;
use crate::inference::shard::{Report, Shard, readable_twice};

/// Lines after which a round ends, wherever it began: there shards are cut. So few that a file of some thousand records has enough of
/// them, so many that rounds are hardly shorter for it.
pub(super) const BLOCK: u64 = 256;

/// A shard's lines.
pub(super) struct Share {
    /// The number of the line before the first, and of the last.
    pub(super) first: u64,
    pub(super) last: u64,
    /// What tells the file from another.
    pub(super) print: Value,
    pub(super) report: Report,
}

impl Annotator<'_> {
    /// Reads all of `input` to see how much there is.
    pub(super) fn share(&self, shard: Shard, input: &Path, out: &Path, header: &[String]) -> Result<Share> {
        readable_twice(input)?;
        let mut reader = Reader::open(input)?;
        self.header(input, &mut reader, header)?;
        let mut edges = vec![reader.number()];
        while reader.next_line()?.is_some() {
            if reader.number().is_multiple_of(BLOCK) {
                edges.push(reader.number());
            }
        }
        if edges.last() != Some(&reader.number()) {
            edges.push(reader.number());
        }
        let work: Vec<u64> = edges.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let blocks = shard.range(&work);
        Ok(Share {
            first: edges[blocks.start],
            last: edges[blocks.end],
            print: json!([reader.number(), format!("{:08x}", reader.checksum())]),
            report: shard.report(out, "lines", &work)?,
        })
    }
}
