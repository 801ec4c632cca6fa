//! Long windows over whole genes with a class at every place where a site could be, in three parts: what a model learns from that answers for
//! many places of a window at once, as SpliceAI does (Jaganathan et al., Cell 2019).
//!
//! Each gene is read on its own strand, from its first base to its last, in windows that overlap by two margins: every place of a gene is
//! labelled in one window, with a margin on both sides of it at least. Of the places with GT or AG in a human gene one in some hundreds is a
//! site, and that is what dev and test parts have; of the training part's windows without a site only a share is kept. Loci go to the parts as those of [`super::dataset`]'s strict protocol, and are never cut.
//!
//! | label | place |
//! | --- | --- |
//! | 0 | an annotated donor, GT behind it |
//! | 1 | an annotated acceptor, AG before it |
//! | 2 | GT behind it or AG before it, and no exon of any transcript ends there |
//! | none | all others: neither GT nor AG, an end of an exon that is no such site, an N or the end of the sequence within a margin, a place that is both donor and acceptor |

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde::Serialize;

use super::decoys::Bodies;
use super::split::{Part, Split, assign, loci, locus_of};
use super::{GeneModel, Kind, Position, window_key};
use crate::genome::annotation::{Fates, Oddities, Strand};
use crate::genome::region::{Region, reverse_complement};
use crate::genome::twobit::Genome;
use crate::philox::{Philox, Purpose};
use crate::{Error, Result};

/// What is written where a place has no class.
pub const UNLABELLED: u8 = b'.';
/// Bases on both sides of a site by which two sites are one, for the count of what parts share.
const LIKENESS: u32 = 40;
/// The number of the random stream under [`Purpose::Splice`]; those of [`super::dataset`] and [`super::decoys`] are below 0x140.
const BACKGROUND: u32 = 0x200;

/// How stretches are made.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// How the genome is divided.
    pub split: Split,
    /// Bases of a window.
    pub window: u32,
    /// Bases that a labelled place has before and behind it at least.
    pub margin: u32,
    /// Gaps between exons shorter than this are no introns, in bases.
    pub min_intron: u32,
    /// Only transcripts of these biotypes; all if empty. Exon ends of the others have no label.
    pub biotypes: Vec<String>,
    /// Share of the training part's windows without a site that are kept, at random. The other parts are whole.
    pub background: f64,
    /// Seed of that choice.
    pub seed: u64,
}

/// A window to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Upper-case ACGTN, read on the strand of the gene.
    pub bases: Vec<u8>,
    /// The label of the boundary before each base, as ASCII: a class, or [`UNLABELLED`].
    pub labels: Vec<u8>,
    /// Its first base on the plus strand.
    pub start: u32,
}

/// Places by class, and what goes with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Windows.
    pub windows: u64,
    /// Windows without a site that were not kept.
    pub windows_left_out: u64,
    /// Donors.
    pub donor: u64,
    /// Acceptors.
    pub acceptor: u64,
    /// Neither.
    pub neither: u64,
    /// Annotated sites of the part without a label: not GT or AG, an N or the end of the sequence close by, or donor and acceptor at once.
    pub unlabelled_sites: u64,
    /// Sites that have the 40 bases before and behind them of a site of the training part, letter by letter or turned round: copies of genes.
    pub sites_known_from_training: u64,
}

/// The genes of a genome, ready to be cut into windows.
pub struct Stretches<'a> {
    genome: &'a Genome,
    /// Of the transcripts that were asked for.
    genes: GeneModel,
    options: Options,
    kinds: HashMap<Position, Option<Kind>>,
    /// Ends of exons of any transcript.
    taken: HashSet<Position>,
    /// Merged bodies of genes by part: sequence, strand, plus-strand range.
    bodies: [Vec<(usize, Strand, Range<u32>)>; 3],
    /// Distinct annotated sites: donors, acceptors.
    pub annotated: [u64; 2],
}

impl<'a> Stretches<'a> {
    /// Divides the genes of `model` into parts.
    ///
    /// # Errors
    /// [`Error::Usage`] for margins that leave nothing of a window, unknown biotypes, overlapping parts, and a part without genes.
    pub fn new(genome: &'a Genome, model: &GeneModel, options: &Options) -> Result<Self> {
        let Options { window, margin, .. } = *options;
        if !(0.0..=1.0).contains(&options.background) {
            let found = format!("--background {}", options.background);
            return Err(Error::usage(found, "give a share from 0 to 1"));
        }
        if margin < LIKENESS / 2 || window < 4 * margin {
            return Err(Error::usage(
                format!("windows of {window} bases with margins of {margin}"),
                "give --margin 20 or more, and at most a quarter of --window: the rest is what each window is for",
            ));
        }
        let genes = model.with_biotypes(&options.biotypes)?;
        let sites = genes.sites(genome, options.min_intron).sites;
        let annotated =
            [Kind::Donor, Kind::Acceptor].map(|kind| sites.iter().filter(|s| s.kind == kind).count() as u64);
        let mut kinds = HashMap::with_capacity(sites.len());
        for site in &sites {
            let kind = kinds.entry(site.position).or_insert(Some(site.kind));
            *kind = kind.filter(|kind| *kind == site.kind);
        }
        // With a whole window between loci, no window of one reaches into a window of another.
        let loci = loci(&genes, window);
        let part_of_locus = assign(&options.split, &loci, genome)?;
        let of_part = |part: Part| {
            let keep = |sequence, start| locus_of(&loci, sequence, start).map(|l| part_of_locus[l]) == Some(part);
            Bodies::new(&genes, keep).into_spans()
        };
        let bodies = Part::ALL.map(of_part);
        if let Some(part) = Part::ALL.into_iter().find(|part| bodies[*part as usize].is_empty()) {
            return Err(Error::usage(
                format!("the {} part has no genes", part.name()),
                "use a larger genome or annotation, or choose with --test-region and --dev-region",
            ));
        }
        let (options, taken) = (options.clone(), model.annotated_positions());
        Ok(Self { genome, genes, options, kinds, taken, bodies, annotated })
    }

    /// How they are made.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What became of the annotation: transcripts, feature lines, and what was unusual.
    pub fn account(&self) -> (&Fates, &Fates, Oddities) {
        (&self.genes.fates, &self.genes.lines, self.genes.oddities)
    }

    /// Where the genes of a part lie: from the first base of one to the last of another, with no gene of the other parts between.
    pub fn regions(&self, part: Part) -> Vec<Region> {
        let of =
            |part: Part| self.bodies[part as usize].iter().map(move |(sequence, _, range)| (*sequence, range, part));
        let mut spans: Vec<_> = Part::ALL.into_iter().flat_map(of).collect();
        spans.sort_by_key(|(sequence, range, _)| (*sequence, range.start));
        let runs = spans.chunk_by(|a, b| (a.0, a.2) == (b.0, b.2)).filter(|run| run[0].2 == part);
        let region = |run: &[(usize, &Range<u32>, Part)]| {
            let end = run.iter().map(|(_, range, _)| range.end).max().unwrap_or_default();
            Region { index: run[0].0, range: run[0].1.start..end }
        };
        runs.map(region).collect()
    }

    /// Makes the windows of a part, gene after gene, and hands each to `sink` with its sequence and strand. Windows without a label are left
    /// out. Sites that are met in the training part come into `known`, and those of other parts that are in it are counted.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn of_part(
        &self,
        part: Part,
        known: &mut HashSet<Box<[u8]>>,
        sink: &mut dyn FnMut(&Stretch, usize, Strand) -> Result<()>,
    ) -> Result<Counts> {
        let mut counts = Counts::default();
        let core = self.options.window - 2 * self.options.margin;
        let background = if part == Part::Train { self.options.background } else { 1.0 };
        let philox = Philox::of(self.options.seed, BACKGROUND, Purpose::Splice);
        let mut around = Vec::new();
        for (sequence, strand, body) in &self.bodies[part as usize] {
            for start in body.clone().step_by(core as usize) {
                let places = start..body.end.min(start.saturating_add(core));
                let Some(stretch) = self.stretch(*sequence, *strand, places, body, &mut counts) else { continue };
                let has_site = stretch.labels.iter().any(|label| matches!(label, b'0' | b'1'));
                if !has_site && philox.uniform(counts.windows + counts.windows_left_out) >= background {
                    counts.windows_left_out += 1;
                    continue;
                }
                for (at, label) in (0_u32..).zip(&stretch.labels) {
                    match label {
                        b'0' => counts.donor += 1,
                        b'1' => counts.acceptor += 1,
                        b'2' => counts.neither += 1,
                        _ => continue,
                    }
                    if *label == b'2' {
                        continue;
                    }
                    let boundary = match strand {
                        Strand::Plus => stretch.start + at,
                        Strand::Minus => stretch.start + stretch.bases.len() as u32 - at,
                    };
                    let position = Position { sequence: *sequence, boundary, strand: *strand };
                    if position.window(self.genome, 2 * LIKENESS, &mut around) {
                        let key = window_key(&around);
                        match part {
                            Part::Train => drop(known.insert(key)),
                            _ => counts.sites_known_from_training += u64::from(known.contains(&key)),
                        }
                    }
                }
                counts.windows += 1;
                sink(&stretch, *sequence, *strand)?;
            }
        }
        Ok(counts)
    }

    /// The window over the boundaries before the bases `places` of the plus strand; those at the body's ends have none. `None` if nothing in it
    /// has a label.
    fn stretch(
        &self,
        sequence: usize,
        strand: Strand,
        places: Range<u32>,
        body: &Range<u32>,
        counts: &mut Counts,
    ) -> Option<Stretch> {
        let Options { window, margin, .. } = self.options;
        let length = self.genome.sequences()[sequence].length;
        // All of one width: at the ends of a sequence it is moved, not cut.
        let Some(last) = length.checked_sub(window) else {
            // No window fits: the sites there are counted as those next to an end are.
            let is_site = |boundary| self.kinds.contains_key(&Position { sequence, boundary, strand });
            counts.unlabelled_sites += places.filter(|boundary| is_site(*boundary)).count() as u64;
            return None;
        };
        let start = places.start.saturating_sub(margin).min(last);
        let mut bases = Vec::with_capacity(window as usize);
        self.genome.decode(sequence, start..start + window, &mut bases);
        let unknown = Unknown::of(&bases, margin as usize);
        if strand == Strand::Minus {
            reverse_complement(&mut bases);
        }
        let mut labels = vec![UNLABELLED; window as usize];
        let mut is_labelled = false;
        for boundary in places.filter(|boundary| *boundary > body.start) {
            let position = Position { sequence, boundary, strand };
            let from_start = (boundary - start) as usize;
            let at = if strand == Strand::Plus { from_start } else { window as usize - from_start };
            let label = (unknown.is_clear(from_start)).then(|| self.label(&bases, at, &position)).flatten();
            match label {
                Some(label) => {
                    labels[at] = label;
                    is_labelled = true;
                }
                None => counts.unlabelled_sites += u64::from(self.kinds.contains_key(&position)),
            }
        }
        is_labelled.then_some(Stretch { bases, labels, start })
    }

    /// The label of a place, which lies before base `at` of `bases`.
    fn label(&self, bases: &[u8], at: usize, position: &Position) -> Option<u8> {
        let is = [bases.get(at..at + 2)? == b"GT", bases.get(at.checked_sub(2)?..at)? == b"AG"];
        match self.kinds.get(position) {
            Some(&kind) => kind.filter(|kind| is[*kind as usize]).map(|kind| b'0' + kind as u8),
            None if self.taken.contains(position) => None,
            None => (is[0] || is[1]).then_some(b'2'),
        }
    }
}

/// Which boundaries of a piece of sequence have no N and no end of it within a margin.
pub struct Unknown {
    /// N before each base, and at the end of all.
    before: Vec<u32>,
    margin: usize,
}

impl Unknown {
    /// Looks through `bases`, upper case.
    pub fn of(bases: &[u8], margin: usize) -> Self {
        let mut count = 0;
        let mut before = vec![0];
        before.extend(bases.iter().map(|base| {
            count += u32::from(!matches!(base, b'A' | b'C' | b'G' | b'T'));
            count
        }));
        Self { before, margin }
    }

    /// Whether the boundary before base `at` has a margin of known bases on both sides.
    pub fn is_clear(&self, at: usize) -> bool {
        let ends = at.checked_sub(self.margin).zip(self.before.get(at + self.margin));
        ends.is_some_and(|(start, behind)| self.before[start] == *behind)
    }
}
