//! Which genes lie over a variant.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::genome::annotation::Strand;
use crate::genome::splice::GeneModel;

/// A gene: its name and its strand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gene {
    /// As the annotation calls it.
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
        let mut spans: BTreeMap<(usize, Gene), Range<u32>> = BTreeMap::new();
        for placed in &model.transcripts {
            let gene = Gene { name: placed.transcript.gene.clone(), strand: placed.transcript.strand };
            let span = placed.transcript.span();
            let known = spans.entry((placed.sequence, gene)).or_insert_with(|| span.clone());
            *known = known.start.min(span.start)..known.end.max(span.end);
        }
        let mut sequences: HashMap<usize, OfSequence> = HashMap::new();
        for ((sequence, gene), span) in spans {
            let of_sequence = sequences.entry(sequence).or_default();
            of_sequence.longest = of_sequence.longest.max(span.end - span.start);
            of_sequence.genes.push((span, gene));
        }
        for of_sequence in sequences.values_mut() {
            of_sequence.genes.sort_by_key(|(span, _)| span.start);
        }
        Self { sequences }
    }

    /// The genes with at least one base in `range`, by start.
    pub fn over(&self, sequence: usize, range: &Range<u32>) -> Vec<&Gene> {
        let Some(OfSequence { genes, longest }) = self.sequences.get(&sequence) else { return Vec::new() };
        let first = genes.partition_point(|(span, _)| span.start < range.start.saturating_sub(*longest));
        let candidates = genes[first..].iter().take_while(|(span, _)| span.start < range.end);
        candidates.filter(|(span, _)| span.end > range.start).map(|(_, gene)| gene).collect()
    }
}
