//! The annotated sites that the calls of a scan are compared with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::accuracy::{Counts, LocusCounts};
use super::{Comparison, Figures};
use crate::genome::annotation::Strand;
use crate::genome::region::Region;
use crate::genome::splice::split::{Locus, loci, locus_of};
use crate::genome::splice::{GeneModel, Kind, Site};
use crate::genome::twobit::Genome;
use crate::inference::splice::Score;

/// The two scopes of a comparison.
pub(super) const SCOPES: [&str; 2] = ["everything", "genes"];
const GENES: usize = 1;

/// Counts by scope (everything, genes) and kind (donor, acceptor), and those inside genes by locus.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TruthCounts {
    scopes: [[Counts; 2]; 2],
    loci: [LocusCounts; 2],
}

impl TruthCounts {
    /// The counts of one scope and kind.
    pub fn of(&self, scope: usize, kind: Kind) -> &Counts {
        &self.scopes[scope][kind as usize]
    }

    /// Adds those of other calls.
    pub(super) fn add(&mut self, others: &Self) {
        let scopes = self.scopes.iter_mut().flatten().zip(others.scopes.iter().flatten());
        scopes.for_each(|(sum, others)| sum.merge(others));
        self.loci.iter_mut().zip(&others.loci).for_each(|(sum, others)| sum.merge(others));
    }
}

/// The sites of an annotation and the bodies of its genes.
pub struct Truth {
    sites: HashSet<Site>,
    /// By sequence and strand: sorted, disjoint.
    genes: HashMap<(usize, Strand), Vec<Range<u32>>>,
    /// Overlapping genes of either strand together.
    loci: Vec<Locus>,
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
        Self { sites, genes, loci: loci(model, 0), source: source.to_owned() }
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
        let kind = site.kind as usize;
        counts.scopes[0][kind].add(score, annotated);
        if self.in_gene(site) {
            counts.scopes[1][kind].add(score, annotated);
            if let Some(locus) = self.locus(site) {
                counts.loci[kind].add(locus, score, annotated);
            }
        }
    }

    fn locus(&self, site: &Site) -> Option<u32> {
        locus_of(&self.loci, site.position.sequence, site.position.boundary).map(|locus| locus as u32)
    }

    /// A CRC-32 of all sites and gene bodies.
    pub(super) fn checksum(&self) -> u32 {
        let mut sites: Vec<String> = self.sites.iter().map(|site| format!("{site:?}")).collect();
        let genes = self.genes.iter().map(|(place, spans)| format!("{place:?} {spans:?}"));
        sites.extend(genes);
        sites.sort();
        crate::crc32::of(sites.join("\n").as_bytes())
    }

    /// What calls in `regions` are to be compared with.
    pub(super) fn expected(&self, regions: &[Region]) -> Expected {
        let of = |kind: Kind| {
            let mut expected = OfKind::default();
            let within = |site: &&Site| site.kind == kind && regions.iter().any(|region| lies_in(site, region));
            for site in self.sites.iter().filter(within) {
                expected.sites += 1;
                if let Some(locus) = self.locus(site) {
                    *expected.loci.entry(locus).or_default() += 1;
                }
            }
            expected
        };
        Expected { source: self.source.clone(), kinds: [Kind::Donor, Kind::Acceptor].map(of) }
    }
}

/// How many annotated sites there are where was scanned; an annotated site lies in a gene, so both scopes have the same ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Expected {
    /// What the annotation is called.
    pub source: String,
    /// By kind.
    kinds: [OfKind; 2],
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct OfKind {
    sites: u64,
    /// Those of each locus that has any.
    loci: BTreeMap<u32, u64>,
}

impl Expected {
    /// The figures of all scopes and kinds; `baseline` are the counts of what is put beside the model. Intervals are drawn under `seed`.
    pub fn compare(&self, counts: &TruthCounts, baseline: Option<&TruthCounts>, seed: u64) -> Vec<Comparison> {
        let mut comparisons = Vec::new();
        for (scope, name) in SCOPES.into_iter().enumerate() {
            for kind in [Kind::Donor, Kind::Acceptor] {
                let OfKind { sites, loci } = &self.kinds[kind as usize];
                let figures = |counts: &TruthCounts| Figures {
                    accuracy: counts.of(scope, kind).accuracy(*sites),
                    intervals: (scope == GENES).then(|| counts.loci[kind as usize].intervals(loci, seed)).flatten(),
                };
                let (model, weight_matrix) = (figures(counts), baseline.map(figures));
                comparisons.push(Comparison { scope: name, kind, model, weight_matrix });
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
