//! Which genes lie over a variant.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use flate2::Crc;

use crate::genome::annotation::{Strand, Transcript};
use crate::genome::splice::GeneModel;

/// A gene: its name and its strand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gene {
    /// What people call it, or its ID where the annotation has no name.
    pub name: String,
    /// The strand that it is read from.
    pub strand: Strand,
}

/// The genes of a sequence by their start, with the longest of them.
#[derive(Default)]
struct OfSequence {
    genes: Vec<(Range<u32>, Gene)>,
    longest: u32,
}

/// The genes of an annotation, to be looked up by place.
#[derive(Default)]
pub struct Genes {
    sequences: HashMap<usize, OfSequence>,
}

impl Genes {
    /// A gene spans all its transcripts on one strand of one sequence.
    pub fn new(model: &GeneModel) -> Self {
        // By ID: several genes may have the same name.
        let mut spans: BTreeMap<(usize, &str, Strand), (Range<u32>, &str)> = BTreeMap::new();
        for placed in &model.transcripts {
            let Transcript { strand, gene, gene_name, .. } = &placed.transcript;
            let span = placed.transcript.span();
            let known = spans.entry((placed.sequence, gene, *strand)).or_insert_with(|| (span.clone(), gene_name));
            known.0 = known.0.start.min(span.start)..known.0.end.max(span.end);
        }
        let mut sequences: HashMap<usize, OfSequence> = HashMap::new();
        for ((sequence, _, strand), (span, name)) in spans {
            let gene = Gene { name: name.to_owned(), strand };
            let of_sequence = sequences.entry(sequence).or_default();
            of_sequence.longest = of_sequence.longest.max(span.end - span.start);
            of_sequence.genes.push((span, gene));
        }
        for of_sequence in sequences.values_mut() {
            of_sequence.genes.sort_by_key(|(span, _)| span.start);
        }
        Self { sequences }
    }

    /// What tells these genes from others.
    pub fn fingerprint(&self) -> String {
        let mut all: Vec<_> =
            self.sequences.iter().flat_map(|(index, of)| of.genes.iter().map(move |gene| (index, gene))).collect();
        all.sort_by_key(|(index, (span, gene))| (*index, span.start, span.end, gene));
        let mut crc = Crc::new();
        all.iter().for_each(|gene| crc.update(format!("{gene:?}").as_bytes()));
        format!("{:08x}", crc.sum())
    }

    /// The genes with at least one base in `range`, by start.
    pub fn over(&self, sequence: usize, range: &Range<u32>) -> Vec<&Gene> {
        let Some(OfSequence { genes, longest }) = self.sequences.get(&sequence) else { return Vec::new() };
        let first = genes.partition_point(|(span, _)| span.start < range.start.saturating_sub(*longest));
        let candidates = genes[first..].iter().take_while(|(span, _)| span.start < range.end);
        candidates.filter(|(span, _)| span.end > range.start).map(|(_, gene)| gene).collect()
    }
}
