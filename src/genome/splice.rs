//! Splice sites: where transcripts on a genome change between exon and intron.
//!
//! A site is a boundary between two bases. Read on the gene's own strand, a donor's intron starts at the boundary (`GT`
//! is its usual beginning) and an acceptor's exon starts at it (`AG` ends the intron before). A window of `width` bases
//! around the boundary therefore holds a donor's GT at offsets width/2 and width/2 + 1, and an acceptor's AG at
//! width/2 - 2 and width/2 - 1: the layout of GUE's `splice/reconstructed` windows. Class numbers are ours
//! ([`LABEL_NAMES`]); GUE has 0 for acceptors and 1 for donors.

pub mod dataset;
pub mod decoys;
pub mod leakage;
pub mod split;
pub mod stretches;
pub mod write;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use serde::Serialize;

use super::alias::Aliases;
use super::annotation::{Annotation, Exon, Fates, Oddities, Strand, Transcript};
pub use super::region::reverse_complement;
use super::twobit::Genome;
use crate::output::AtomicFile;
use crate::{Error, Result};

/// The classes by number: 0, 1, 2.
pub const LABEL_NAMES: [&str; 3] = ["donor", "acceptor", "neither"];

/// Shortest gap between exons that counts as an intron, in bases.
pub const MIN_INTRON: u32 = 30;

/// The two kinds of splice site; the number is the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The start of an intron (5' splice site).
    Donor = 0,
    /// The end of an intron (3' splice site).
    Acceptor = 1,
}

impl Kind {
    /// `donor` or `acceptor`.
    pub fn name(self) -> &'static str {
        LABEL_NAMES[self as usize]
    }
}

/// A boundary on one strand of a genome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Index of the sequence in the genome.
    pub sequence: usize,
    /// The boundary lies before this base of the plus strand (0-based), whichever strand the position is on.
    pub boundary: u32,
    /// The strand that it is read on.
    pub strand: Strand,
}

impl Position {
    /// The two bases on the intron's side of a splice site of this kind: its GT or AG, in plus-strand coordinates.
    /// `None` where the sequence starts inside them.
    pub fn dinucleotide(&self, kind: Kind) -> Option<Range<u32>> {
        let after = (kind == Kind::Donor) == (self.strand == Strand::Plus);
        let start = if after { self.boundary } else { self.boundary.checked_sub(2)? };
        Some(start..start.checked_add(2)?)
    }

    /// Reads the `width` bases around the boundary (as many before as after it) on its own strand into `out`, upper
    /// case. Returns false, with `out` empty, if they leave the sequence or hold an N. `width` must be even.
    pub fn window(&self, genome: &Genome, width: u32, out: &mut Vec<u8>) -> bool {
        out.clear();
        let length = genome.sequences()[self.sequence].length;
        let (Some(start), Some(end)) = (self.boundary.checked_sub(width / 2), self.boundary.checked_add(width / 2))
        else {
            return false;
        };
        if end > length {
            return false;
        }
        self.read(genome, start..end, out)
    }

    /// `NAME:START-END(STRAND)` of the `width` bases around the boundary, 0-based and half-open: what bedtools getfasta calls them.
    pub fn window_name(&self, genome: &Genome, width: u32) -> String {
        let name = &genome.sequences()[self.sequence].name;
        let start = self.boundary.saturating_sub(width / 2);
        format!("{name}:{start}-{}({})", u64::from(self.boundary) + u64::from(width / 2), self.strand)
    }

    /// Reads plus-strand `range` on this position's strand; false, with `out` empty, if there is an N in it.
    fn read(&self, genome: &Genome, range: Range<u32>, out: &mut Vec<u8>) -> bool {
        genome.decode(self.sequence, range, out);
        if out.contains(&b'N') {
            out.clear();
            return false;
        }
        if self.strand == Strand::Minus {
            reverse_complement(out);
        }
        true
    }
}

/// A window and its reverse complement have the same key: the smaller of the two, four bases to a byte. Every base that
/// is not A, C or G counts as T, so keys are for windows without N.
pub(crate) fn window_key(bases: &[u8]) -> Box<[u8]> {
    let mut other = bases.to_vec();
    reverse_complement(&mut other);
    let smaller = if other.as_slice() < bases { &other } else { bases };
    let code = |base: &u8| match base {
        b'A' => 0,
        b'C' => 1,
        b'G' => 2,
        _ => 3,
    };
    smaller.chunks(4).map(|four| four.iter().fold(0, |byte, base| byte << 2 | code(base))).collect()
}

/// A splice site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Where.
    pub position: Position,
    /// What.
    pub kind: Kind,
}

/// A transcript whose sequence was found in the genome.
#[derive(Clone, Debug)]
pub struct PlacedTranscript {
    /// Index of the sequence in the genome.
    pub sequence: usize,
    /// The transcript; all of it lies inside the sequence.
    pub transcript: Transcript,
}

impl PlacedTranscript {
    /// The two sites of an intron of this transcript, donor first.
    pub fn sites(&self, intron: &Range<u32>) -> [Site; 2] {
        let strand = self.transcript.strand;
        let (donor, acceptor) = match strand {
            Strand::Plus => (intron.start, intron.end),
            Strand::Minus => (intron.end, intron.start),
        };
        [(donor, Kind::Donor), (acceptor, Kind::Acceptor)]
            .map(|(boundary, kind)| Site { position: Position { sequence: self.sequence, boundary, strand }, kind })
    }
}

/// The transcripts of an annotation, placed on a genome.
#[derive(Clone, Debug, Default)]
pub struct GeneModel {
    /// Transcripts on sequences of the genome, in the annotation's order.
    pub transcripts: Vec<PlacedTranscript>,
    /// Transcripts on sequences that the genome lacks, counted by name.
    pub unplaced: BTreeMap<String, u64>,
    /// What became of the annotation's transcripts.
    pub fates: Fates,
    /// What became of its feature lines: used for a transcript of the file, whatever became of that, or left out.
    pub lines: Fates,
    /// What was unusual about the transcripts, and how often.
    pub oddities: Oddities,
    /// Ends of exons of transcripts that were left out: sites, as far as anybody knows.
    doubtful: HashSet<Position>,
}

/// The distinct sites of a set of transcripts.
#[derive(Clone, Debug, Default)]
pub struct SiteTable {
    /// Sorted by sequence, boundary, strand and kind.
    pub sites: Vec<Site>,
    /// Distinct introns behind them.
    pub introns: u64,
    /// How many of these read GT..AG.
    pub gt_ag: u64,
}

impl SiteTable {
    /// How many sites are of `kind`.
    pub fn count(&self, kind: Kind) -> u64 {
        self.sites.iter().filter(|site| site.kind == kind).count() as u64
    }

    /// Share of the introns that read GT..AG; 0 without introns.
    pub fn gt_ag_share(&self) -> f64 {
        if self.introns == 0 { 0.0 } else { self.gt_ag as f64 / self.introns as f64 }
    }
}

impl GeneModel {
    /// Places `annotation` on `genome`, whose names for the same sequences may differ as `aliases` says.
    ///
    /// A transcript that reaches beyond the end of a circular sequence is left out.
    ///
    /// # Errors
    /// [`Error::Input`] if no sequence of the annotation is in the genome (both lists of names are shown), or if a
    /// transcript reaches beyond the end of a sequence that is no circle: then the two belong to different assemblies.
    pub fn new(annotation: Annotation, genome: &Genome, aliases: &Aliases) -> Result<Self> {
        let names: BTreeMap<String, Option<usize>> = annotation
            .sequence_names()
            .into_iter()
            .map(|name| (name.to_owned(), aliases.resolve(genome, name)))
            .collect();
        if names.is_empty() {
            let found = format!("no transcript is left; left out: {}", annotation.fates.notes().join(", "));
            let remedy = "give an annotation whose exons have a strand and name one transcript each";
            return Err(Error::input(&annotation.path, "", found, remedy));
        }
        if names.values().all(Option::is_none) {
            return Err(aliases.no_match_error(genome, &annotation.path, &annotation.sequence_names()));
        }
        let Annotation { path, transcripts, mut fates, lines, oddities, mut doubtful, circular, .. } = annotation;
        fates.used = 0;
        let mut model = Self { fates, lines, oddities, ..Self::default() };
        for transcript in transcripts {
            let Some(sequence) = names.get(&*transcript.sequence).copied().flatten() else {
                model.fates.leave_out("on_sequences_that_the_genome_lacks", &transcript.id);
                *model.unplaced.entry(transcript.sequence.to_string()).or_default() += 1;
                continue;
            };
            let (end, length) = (transcript.span().end, genome.sequences()[sequence].length);
            if end <= length {
                model.fates.used += 1;
                model.transcripts.push(PlacedTranscript { sequence, transcript });
                continue;
            }
            if !circular.contains(&*transcript.sequence) {
                let found = format!(
                    "it ends at {end}, but {} in {} has {length} bases",
                    genome.sequences()[sequence].name,
                    genome.path().display()
                );
                let remedy = "use the annotation of the same assembly as the genome; where the sequence is a circle, GFF3 says so \
                              (Is_circular=true)";
                return Err(Error::input(&path, format!("transcript {}", transcript.id), found, remedy));
            }
            model.fates.leave_out("past_the_end_of_a_circular_sequence", &transcript.id);
            let Transcript { sequence, strand, exons, .. } = transcript;
            doubtful.extend(exons.into_iter().map(|range| Exon { sequence: sequence.clone(), strand, range }));
        }
        for Exon { sequence, strand, range } in doubtful {
            if let Some(sequence) = aliases.resolve(genome, &sequence) {
                // Behind the end of a circle stands its beginning.
                let length = genome.sequences()[sequence].length;
                let on_circle = |boundary: u32| if boundary > length { boundary - length } else { boundary };
                let end = |boundary| Position { sequence, boundary: on_circle(boundary), strand };
                model.doubtful.extend([range.start, range.end].map(end));
            }
        }
        Ok(model)
    }

    /// The same genes with only the transcripts of the given biotypes; all of them if `biotypes` is empty.
    ///
    /// # Errors
    /// [`Error::Usage`], with the biotypes that there are, if nothing remains.
    pub fn with_biotypes(&self, biotypes: &[String]) -> Result<Self> {
        if biotypes.is_empty() {
            return Ok(self.clone());
        }
        let wanted = |placed: &&PlacedTranscript| {
            placed.transcript.biotype.as_ref().is_some_and(|b| biotypes.iter().any(|wanted| **wanted == **b))
        };
        let transcripts: Vec<_> = self.transcripts.iter().filter(wanted).cloned().collect();
        if transcripts.is_empty() {
            let mut known: BTreeMap<&str, u64> = BTreeMap::new();
            for placed in &self.transcripts {
                *known.entry(placed.transcript.biotype.as_deref().unwrap_or("(none)")).or_default() += 1;
            }
            let known: Vec<_> = known.iter().map(|(name, count)| format!("{name} ({count})")).collect();
            return Err(Error::usage(
                format!("no transcript has the biotype {}", biotypes.join(" or ")),
                format!("choose from the annotation's biotypes: {}", known.join(", ")),
            ));
        }
        let mut fates = self.fates.clone();
        fates.used = transcripts.len() as u64;
        for placed in self.transcripts.iter().filter(|placed| !wanted(placed)) {
            fates.leave_out("of_other_biotypes", &placed.transcript.id);
        }
        let Self { unplaced, lines, doubtful, .. } = self;
        let (unplaced, lines, doubtful) = (unplaced.clone(), lines.clone(), doubtful.clone());
        Ok(Self { transcripts, unplaced, fates, lines, oddities: self.oddities, doubtful })
    }

    /// The distinct sites of introns of at least `min_intron` bases.
    pub fn sites(&self, genome: &Genome, min_intron: u32) -> SiteTable {
        let mut sites = BTreeSet::new();
        let mut introns = HashSet::new();
        let mut table = SiteTable::default();
        for placed in &self.transcripts {
            for intron in placed.transcript.introns(min_intron) {
                let pair = placed.sites(&intron);
                sites.extend(pair);
                if introns.insert(pair) {
                    table.gt_ag += u64::from(reads_gt_ag(genome, &pair));
                }
            }
        }
        table.introns = introns.len() as u64;
        table.sites = sites.into_iter().collect();
        table
    }

    /// Every boundary between an exon and a gap of any length, so that a decoy is never a site that some transcript has; with the ends
    /// of the exons of those that were left out.
    pub fn annotated_positions(&self) -> HashSet<Position> {
        let pairs = self.transcripts.iter().flat_map(|p| p.transcript.introns(1).map(|intron| p.sites(&intron)));
        pairs.flatten().map(|site| site.position).chain(self.doubtful.iter().copied()).collect()
    }
}

fn reads_gt_ag(genome: &Genome, pair: &[Site; 2]) -> bool {
    let mut bases = Vec::new();
    pair.iter().zip([b"GT", b"AG"]).all(|(site, expected)| {
        let range = site.position.dinucleotide(site.kind);
        range.is_some_and(|range| site.position.read(genome, range, &mut bases) && bases == expected)
    })
}

/// Writes sites as BED6, sorted as `sort -k1,1 -k2,2n` does: the interval is the intron's two bases at the site (2 bp),
/// the name `donor` or `acceptor`, the score 0.
///
/// # Errors
/// [`Error::Io`].
pub fn write_bed(path: &Path, genome: &Genome, sites: &[Site]) -> Result<()> {
    let mut rows: Vec<_> = sites
        .iter()
        .filter_map(|site| {
            let range = site.position.dinucleotide(site.kind)?;
            let name = genome.sequences()[site.position.sequence].name.as_str();
            Some((name, range.start, range.end, site.kind, site.position.strand))
        })
        .collect();
    rows.sort();
    let mut file = AtomicFile::create(path)?;
    for (sequence, start, end, kind, strand) in rows {
        writeln!(file, "{sequence}\t{start}\t{end}\t{}\t0\t{strand}", kind.name()).map_err(Error::io("write", path))?;
    }
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dinucleotides_lie_on_the_introns_side() {
        let at = |strand| Position { sequence: 0, boundary: 100, strand };
        assert_eq!(at(Strand::Plus).dinucleotide(Kind::Donor), Some(100..102));
        assert_eq!(at(Strand::Plus).dinucleotide(Kind::Acceptor), Some(98..100));
        assert_eq!(at(Strand::Minus).dinucleotide(Kind::Donor), Some(98..100));
        assert_eq!(at(Strand::Minus).dinucleotide(Kind::Acceptor), Some(100..102));
        assert_eq!(Position { sequence: 0, boundary: 1, strand: Strand::Plus }.dinucleotide(Kind::Acceptor), None);
    }

    #[test]
    fn reverse_complement_of_every_base() {
        let mut bases = *b"AACGTN";
        reverse_complement(&mut bases);
        assert_eq!(&bases, b"NACGTT");
    }
}
