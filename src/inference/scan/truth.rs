//! The annotated sites that the calls of a scan are compared with.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Comparison;
use super::accuracy::Counts;
use crate::genome::annotation::Strand;
use crate::genome::region::Region;
use crate::genome::splice::{GeneModel, Kind, Site};
use crate::genome::twobit::Genome;
use crate::inference::splice::Score;

/// The two scopes of a comparison.
pub(super) const SCOPES: [&str; 2] = ["everything", "genes"];

/// Counts by scope (everything, genes) and kind (donor, acceptor).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TruthCounts([[Counts; 2]; 2]);

impl TruthCounts {
    /// The counts of one scope and kind.
    pub fn of(&self, scope: usize, kind: Kind) -> &Counts {
        &self.0[scope][kind as usize]
    }
}

/// The sites of an annotation and the bodies of its genes.
pub struct Truth {
    sites: HashSet<Site>,
    /// By sequence and strand: sorted, disjoint.
    genes: HashMap<(usize, Strand), Vec<Range<u32>>>,
    source: String,
}

impl Truth {
    /// The sites of introns of at least `min_intron` bases, and where their transcripts lie.
    pub fn new(model: &GeneModel, genome: &Genome, min_intron: u32, source: &str) -> Self {
        let sites = model.sites(genome, min_intron).sites.into_iter().collect();
        let mut genes: HashMap<_, Vec<Range<u32>>> = HashMap::new();
        for placed in &model.transcripts {
            genes.entry((placed.sequence, placed.transcript.strand)).or_default().push(placed.transcript.span());
        }
        for spans in genes.values_mut() {
            *spans = merged(std::mem::take(spans));
        }
        Self { sites, genes, source: source.to_owned() }
    }

    /// What the annotation is called.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What tells this truth from another.
    pub fn fingerprint(&self) -> Value {
        let genes: u64 = self.genes.values().flatten().map(|span| u64::from(span.end - span.start)).sum();
        json!([self.source, self.sites.len(), genes])
    }

    fn in_gene(&self, site: &Site) -> bool {
        let position = site.position;
        let Some(spans) = self.genes.get(&(position.sequence, position.strand)) else { return false };
        // A boundary lies in a gene when it has bases of it on both sides.
        let index = spans.partition_point(|span| span.end <= position.boundary);
        spans.get(index).is_some_and(|span| span.start < position.boundary)
    }

    /// Counts a call.
    pub fn count(&self, counts: &mut TruthCounts, site: &Site, score: Score) {
        let annotated = self.sites.contains(site);
        counts.0[0][site.kind as usize].add(score, annotated);
        if self.in_gene(site) {
            counts.0[1][site.kind as usize].add(score, annotated);
        }
    }

    /// The figures of all scopes and kinds, for a scan of `regions`.
    pub fn compare(&self, counts: &TruthCounts, regions: &[Region]) -> Vec<Comparison> {
        let mut comparisons = Vec::new();
        for (scope, name) in SCOPES.into_iter().enumerate() {
            for kind in [Kind::Donor, Kind::Acceptor] {
                // An annotated site lies in a gene, so both scopes have the same ones.
                let within = |site: &&Site| site.kind == kind && regions.iter().any(|region| lies_in(site, region));
                let sites = self.sites.iter().filter(within).count() as u64;
                comparisons.push(Comparison { scope: name, kind, accuracy: counts.of(scope, kind).accuracy(sites) });
            }
        }
        comparisons
    }
}

fn lies_in(site: &Site, region: &Region) -> bool {
    let base = super::base_of(site.position.boundary, site.kind, site.position.strand);
    site.position.sequence == region.index && base.is_some_and(|base| region.range.contains(&base))
}

fn merged(mut spans: Vec<Range<u32>>) -> Vec<Range<u32>> {
    spans.sort_by_key(|span| (span.start, span.end));
    let mut merged: Vec<Range<u32>> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}
