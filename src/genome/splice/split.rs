//! Which part of a dataset a place in the genome belongs to.

use std::ops::Range;

use serde::Serialize;

use super::{GeneModel, PlacedTranscript};
use crate::genome::region::{Region, Spelling};
use crate::genome::twobit::Genome;
use crate::{Error, Result};

/// The parts of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// To learn from.
    Train = 0,
    /// To choose by.
    Dev = 1,
    /// To report on.
    Test = 2,
}

impl Part {
    /// All three, in order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Dev, Self::Test];

    /// `train`, `dev` or `test`.
    pub fn name(self) -> &'static str {
        ["train", "dev", "test"][self as usize]
    }
}

/// How the strict protocol divides the genome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "by")]
pub enum Split {
    /// The last tenth of the gene-bearing length in the genome's order is the test part, the tenth before it the dev
    /// part. Loci are never cut.
    Region,
    /// Whole sequences (indices in the genome) are held out.
    Sequences {
        /// The test part's.
        test: Vec<usize>,
        /// The dev part's.
        dev: Vec<usize>,
    },
    /// Regions are held out, with every locus that reaches into them.
    Regions {
        /// The test part's.
        test: Vec<Region>,
        /// The dev part's.
        dev: Vec<Region>,
    },
}

/// A stretch of the genome covered by genes, on either strand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locus {
    /// Index of the sequence in the genome.
    pub sequence: usize,
    /// Plus-strand coordinates.
    pub range: Range<u32>,
}

/// The genes of `model`, merged where fewer than `gap` bases lie between them; sorted by sequence and start.
pub fn loci(model: &GeneModel, gap: u32) -> Vec<Locus> {
    let mut spans: Vec<_> = gene_spans(model);
    spans.sort_by_key(|(sequence, range)| (*sequence, range.start));
    let mut merged: Vec<Locus> = Vec::new();
    for (sequence, range) in spans {
        match merged.last_mut() {
            Some(last) if last.sequence == sequence && range.start < last.range.end.saturating_add(gap) => {
                last.range.end = last.range.end.max(range.end);
            }
            _ => merged.push(Locus { sequence, range }),
        }
    }
    merged
}

/// Transcripts of one gene that lie farther apart are copies under one name, not parts of one gene: no human gene
/// reaches over more than 2.5 million bases, and its introns over hardly more than one.
const COPIES_APART: u32 = 1_000_000;

/// Each gene from the first base of its first transcript to the last of its last, also where none spans it all.
fn gene_spans(model: &GeneModel) -> Vec<(usize, Range<u32>)> {
    let gene = |p: &PlacedTranscript| (p.sequence, p.transcript.gene.clone(), p.transcript.span());
    let mut transcripts: Vec<_> = model.transcripts.iter().map(gene).collect();
    transcripts.sort_by(|(s, gene, span), (t, other, its)| (s, gene, span.start).cmp(&(t, other, its.start)));
    let mut spans: Vec<(usize, Range<u32>)> = Vec::new();
    for copies in transcripts.chunk_by(|a, b| (a.0, &a.1) == (b.0, &b.1)) {
        let (sequence, _, first) = &copies[0];
        let mut span = first.clone();
        for (_, _, next) in &copies[1..] {
            if next.start > span.end.saturating_add(COPIES_APART) {
                spans.push((*sequence, std::mem::replace(&mut span, next.clone())));
            }
            span.end = span.end.max(next.end);
        }
        spans.push((*sequence, span));
    }
    spans
}

/// The locus around `boundary`, as an index into `loci` (sorted, disjoint).
pub fn locus_of(loci: &[Locus], sequence: usize, boundary: u32) -> Option<usize> {
    let after = loci.partition_point(|locus| (locus.sequence, locus.range.start) <= (sequence, boundary));
    let index = after.checked_sub(1)?;
    let locus = &loci[index];
    (locus.sequence == sequence && boundary <= locus.range.end).then_some(index)
}

/// The part of each of `loci`.
///
/// # Errors
/// [`Error::Usage`] if a sequence, a region or a locus is to be in two parts.
pub fn assign(split: &Split, loci: &[Locus], genome: &Genome) -> Result<Vec<Part>> {
    match split {
        Split::Region => Ok(by_region(loci)),
        Split::Sequences { test, dev } => {
            if let Some(&both) = test.iter().find(|sequence| dev.contains(sequence)) {
                return Err(Error::usage(
                    format!("{} is to be in the test part and in the dev part", genome.sequences()[both].name),
                    "give --test-sequences and --dev-sequences different names",
                ));
            }
            let part = |locus: &Locus| match locus.sequence {
                sequence if test.contains(&sequence) => Part::Test,
                sequence if dev.contains(&sequence) => Part::Dev,
                _ => Part::Train,
            };
            Ok(loci.iter().map(part).collect())
        }
        Split::Regions { test, dev } => loci.iter().map(|locus| by_given_regions(test, dev, locus, genome)).collect(),
    }
}

fn by_given_regions(test: &[Region], dev: &[Region], locus: &Locus, genome: &Genome) -> Result<Part> {
    let locus = Region { index: locus.sequence, range: locus.range.clone() };
    let held_out = |regions: &[Region]| regions.iter().any(|region| region.touches(&locus));
    match (held_out(test), held_out(dev)) {
        (true, true) => Err(Error::usage(
            format!("the genes of {} reach into the test and the dev part", locus.label(genome, Spelling::default())),
            "give --test-* and --dev-* with such a stretch in one of them only",
        )),
        (true, false) => Ok(Part::Test),
        (false, true) => Ok(Part::Dev),
        (false, false) => Ok(Part::Train),
    }
}

/// A locus goes to the part that its middle falls into.
fn by_region(loci: &[Locus]) -> Vec<Part> {
    let length = |locus: &Locus| u64::from(locus.range.end - locus.range.start);
    let total: u64 = loci.iter().map(length).sum();
    let mut before = 0;
    let part = |locus: &Locus| {
        let middle = before + length(locus) / 2;
        before += length(locus);
        match middle * 10 {
            tenth if tenth >= total * 9 => Part::Test,
            tenth if tenth >= total * 8 => Part::Dev,
            _ => Part::Train,
        }
    };
    loci.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::genome::annotation::{Strand, Transcript};

    fn locus(sequence: usize, range: Range<u32>) -> Locus {
        Locus { sequence, range }
    }

    #[test]
    fn the_last_tenth_is_the_test_part() {
        let loci: Vec<_> = (0..20).map(|i| locus(i as usize / 10, i * 1000..i * 1000 + 100)).collect();
        let parts = by_region(&loci);
        assert_eq!(parts[..16], [Part::Train; 16]);
        assert_eq!(parts[16..], [Part::Dev, Part::Dev, Part::Test, Part::Test]);
    }

    #[test]
    fn genes_are_whole_and_distant_copies_are_not_one() {
        let placed = |gene: &str, span: Range<u32>| PlacedTranscript {
            sequence: 0,
            transcript: Transcript {
                sequence: "c".into(),
                strand: Strand::Plus,
                exons: vec![span],
                biotype: None,
                id: String::new(),
                gene: gene.into(),
                gene_name: gene.into(),
            },
        };
        let far = COPIES_APART + 101;
        let transcripts = vec![
            placed("a", far..far + 9),
            placed("a", 60..100),
            placed("a", 10..20),
            placed("b", 30..40),
            placed("c", 120..130),
        ];
        let model = GeneModel { transcripts, ..GeneModel::default() };
        assert_eq!(loci(&model, 0), [locus(0, 10..100), locus(0, 120..130), locus(0, far..far + 9)]);
        assert_eq!(loci(&model, 21)[0], locus(0, 10..130));
        assert_eq!(loci(&model, 20).len(), 3);
        // An intron of nearly a million bases is within a gene, as some human ones are.
        let model = GeneModel { transcripts: vec![placed("a", 0..9), placed("a", 1_000_000..1_000_009)], ..model };
        assert_eq!(loci(&model, 0), [locus(0, 0..1_000_009)]);
    }

    #[test]
    fn a_boundary_is_found_in_its_locus() {
        let loci = [locus(0, 10..20), locus(0, 30..40), locus(2, 5..6)];
        let find = |sequence, boundary| locus_of(&loci, sequence, boundary);
        assert_eq!([find(0, 9), find(0, 10), find(0, 20), find(0, 21)], [None, Some(0), Some(0), None]);
        assert_eq!([find(0, 35), find(1, 5), find(2, 5), find(2, 9)], [Some(1), None, Some(2), None]);
    }
}
