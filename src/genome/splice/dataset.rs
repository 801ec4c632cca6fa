//! Labelled windows around splice sites and around places that are none, in three parts.
//!
//! Two protocols. [`Protocol::ModelCard`] is the one behind the figures of BioNeMo's DNABERT: as many donors as acceptors
//! as random places in genes, shuffled and cut 80/10/10, so that neighbours and copies land in different parts.
//! [`Protocol::Strict`] asks the real question, whether the model knows a site from something that looks like one in a
//! part of the genome that it never saw: negatives read GT or AG, parts are regions or sequences, loci are never cut,
//! and windows that occur twice are removed.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::decoys::{Bodies, Likeness, Sampler};
use super::leakage::Leakage;
use super::split::{Part, Split, assign, loci, locus_of};
use super::{GeneModel, Kind, MIN_INTRON, Position, Site, window_key};
use crate::genome::annotation::{Fates, Oddities};
use crate::genome::region::Region;
use crate::genome::twobit::Genome;
use crate::philox::{Philox, Purpose, shuffle};
use crate::{Error, Result};

/// How negatives are chosen and how the parts are divided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum Protocol {
    /// Decoys; parts without common loci or windows.
    Strict {
        /// How the genome is divided.
        split: Split,
    },
    /// Random gene-body positions; rows shuffled, then 80/10/10.
    ModelCard,
}

/// What a dataset is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// The protocol.
    pub protocol: Protocol,
    /// Window width in bases; even.
    pub window: u32,
    /// Gaps between exons shorter than this are no introns, in bases.
    pub min_intron: u32,
    /// Only transcripts of these biotypes; all if empty. Sites of the others are still no decoys.
    pub biotypes: Vec<String>,
    /// At most so many donors and so many acceptors, chosen at random; all if absent.
    pub max_sites: Option<usize>,
    /// Decoys of the strict protocol for each donor, half of them with GT and half with AG. A genome has hundreds.
    pub decoys: usize,
    /// Seed of every choice.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            protocol: Protocol::Strict { split: Split::Region },
            window: 400,
            min_intron: MIN_INTRON,
            biotypes: Vec::new(),
            max_sites: None,
            decoys: 1,
            seed: 42,
        }
    }
}

/// What is in the middle of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Origin {
    /// An annotated site.
    Site(Kind),
    /// GT or AG where no transcript has a site.
    Decoy(Kind),
    /// A random place in a gene.
    Random,
}

/// One example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Upper-case ACGT, read on the position's strand, the boundary in the middle.
    pub bases: Vec<u8>,
    /// Where it was taken from.
    pub position: Position,
    /// What it is.
    pub origin: Origin,
}

impl Window {
    /// The class: 0 donor, 1 acceptor, 2 neither ([`super::LABEL_NAMES`]).
    pub fn label(&self) -> u8 {
        match self.origin {
            Origin::Site(kind) => kind as u8,
            Origin::Decoy(_) | Origin::Random => 2,
        }
    }
}

/// How many windows were left out, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Sites whose window leaves the sequence or holds an N.
    pub incomplete: u64,
    /// Sites whose window, or its reverse complement, was already there with the same class.
    pub duplicate: u64,
    /// Sites whose window, or its reverse complement, is there with different classes: all of them.
    pub conflicting: u64,
    /// Negatives that could not be found: there were not enough places in the genes.
    pub missing_negatives: u64,
}

/// Windows in three parts, each in random order.
#[derive(Clone, Debug)]
pub struct SpliceDataset {
    /// To learn from.
    pub train: Vec<Window>,
    /// To choose by.
    pub dev: Vec<Window>,
    /// To report on.
    pub test: Vec<Window>,
    /// How it was made.
    pub options: Options,
    /// What became of the annotation's transcripts.
    pub transcripts: Fates,
    /// What became of its feature lines.
    pub lines: Fates,
    /// What was unusual about the transcripts.
    pub oddities: Oddities,
    /// Distinct annotated sites before anything was left out: donors, acceptors.
    pub annotated: [u64; 2],
    /// What was left out.
    pub dropped: Dropped,
    /// What the parts have in common.
    pub leakage: Leakage,
}

impl SpliceDataset {
    /// Makes a dataset from the genes in `model`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a window that is odd or zero, unknown biotypes, overlapping parts, or if a part remains
    /// without a donor or without an acceptor.
    pub fn build(genome: &Genome, model: &GeneModel, options: &Options) -> Result<Self> {
        if options.window < 2 || options.window % 2 == 1 {
            return Err(Error::usage(
                format!("a window of {} bases", options.window),
                "give an even number, half of it before the boundary and half behind",
            ));
        }
        if !(1..=1000).contains(&options.decoys) {
            return Err(Error::usage(format!("--decoys {}", options.decoys), "give 1 to 1000 for each donor"));
        }
        let genes = model.with_biotypes(&options.biotypes)?;
        let mut sites = genes.sites(genome, options.min_intron).sites;
        let annotated =
            [Kind::Donor, Kind::Acceptor].map(|kind| sites.iter().filter(|s| s.kind == kind).count() as u64);
        let mut maker =
            Maker { genome, genes: &genes, options, taken: model.annotated_positions(), dropped: Dropped::default() };
        if let Some(most) = options.max_sites {
            sites = maker.choose(sites, most, most);
        }
        let [train, dev, test] = match &options.protocol {
            Protocol::Strict { split } => maker.strict(&sites, split)?,
            Protocol::ModelCard => maker.model_card(sites)?,
        };
        let leakage = Leakage::measure([&train, &dev, &test], &loci(&genes, 0));
        let (options, dropped) = (options.clone(), maker.dropped);
        let (transcripts, lines, oddities) = (genes.fates.clone(), genes.lines.clone(), genes.oddities);
        let dataset = Self { train, dev, test, options, transcripts, lines, oddities, annotated, dropped, leakage };
        dataset.check_parts()?;
        Ok(dataset)
    }

    /// The rows of a part.
    pub fn part(&self, part: Part) -> &[Window] {
        match part {
            Part::Train => &self.train,
            Part::Dev => &self.dev,
            Part::Test => &self.test,
        }
    }

    /// The stretches of the genome that belong to `parts`: from the first base of a window to the last of another, with no
    /// window of the other parts between. Empty for the model card's protocol, which divides rows and no genome.
    pub fn regions(&self, parts: &[Part]) -> Vec<Region> {
        if self.options.protocol == Protocol::ModelCard {
            return Vec::new();
        }
        let half = self.options.window / 2;
        let of_part = |part: Part| self.part(part).iter().map(move |row| (row.position, parts.contains(&part)));
        let mut rows: Vec<(Position, bool)> = Part::ALL.into_iter().flat_map(of_part).collect();
        rows.sort_by_key(|(position, _)| (position.sequence, position.boundary));
        let region = |rows: &[(Position, bool)]| match rows {
            [(first, true), ..] => {
                let last = rows[rows.len() - 1].0;
                let range = first.boundary.saturating_sub(half)..last.boundary + half;
                Some(Region { index: first.sequence, range })
            }
            _ => None,
        };
        rows.chunk_by(|a, b| (a.0.sequence, a.1) == (b.0.sequence, b.1)).filter_map(region).collect()
    }

    /// Rows of a part by class: donors, acceptors, neither.
    pub fn counts(&self, part: Part) -> [u64; 3] {
        let mut counts = [0; 3];
        for row in self.part(part) {
            counts[usize::from(row.label())] += 1;
        }
        counts
    }

    fn check_parts(&self) -> Result<()> {
        for part in Part::ALL {
            let [donors, acceptors, _] = self.counts(part);
            if donors == 0 || acceptors == 0 {
                return Err(Error::usage(
                    format!("the {} part has {donors} donors and {acceptors} acceptors", part.name()),
                    "use a larger genome or annotation, choose with --test-region and --dev-region, or take a narrower --window",
                ));
            }
        }
        Ok(())
    }
}

/// Keys of windows ([`window_key`]).
type Keys = HashSet<Box<[u8]>>;

/// The numbers of the random streams under [`Purpose::Splice`]; [`super::decoys`] has those from 0x100.
#[derive(Clone, Copy)]
enum Draw {
    Sites = 0,
    Order = 1,
}

struct Maker<'a> {
    genome: &'a Genome,
    genes: &'a GeneModel,
    options: &'a Options,
    taken: HashSet<Position>,
    dropped: Dropped,
}

impl Maker<'_> {
    fn philox(&self, draw: Draw, part: Part) -> Philox {
        Philox::of(self.options.seed, 16 * part as u32 + draw as u32, Purpose::Splice)
    }

    /// At most so many sites of each kind, at random, in their former order.
    fn choose(&self, sites: Vec<Site>, donors: usize, acceptors: usize) -> Vec<Site> {
        let mut order: Vec<usize> = (0..sites.len()).collect();
        shuffle(&mut order, self.philox(Draw::Sites, Part::Train));
        let mut left = [donors, acceptors];
        order.retain(|&index| {
            let left = &mut left[sites[index].kind as usize];
            let keep = *left > 0;
            *left -= usize::from(keep);
            keep
        });
        order.sort_unstable();
        order.into_iter().map(|index| sites[index]).collect()
    }

    fn window(&mut self, site: &Site) -> Option<Window> {
        let mut bases = Vec::with_capacity(self.options.window as usize);
        if !site.position.window(self.genome, self.options.window, &mut bases) {
            self.dropped.incomplete += 1;
            return None;
        }
        Some(Window { bases, position: site.position, origin: Origin::Site(site.kind) })
    }

    fn strict(&mut self, sites: &[Site], split: &Split) -> Result<[Vec<Window>; 3]> {
        // With a whole window between loci, no window of one reaches into a window of another.
        let loci = loci(self.genes, self.options.window);
        let part_of_locus = assign(split, &loci, self.genome)?;
        let part_of = |sequence, boundary| locus_of(&loci, sequence, boundary).map(|locus| part_of_locus[locus]);
        let mut rows: Vec<(Part, Window)> = Vec::with_capacity(sites.len());
        for site in sites {
            if let Some(part) = part_of(site.position.sequence, site.position.boundary) {
                rows.extend(self.window(site).map(|window| (part, window)));
            }
        }
        // A window in several parts stays in the first of them: the parts to be judged on get only new ones.
        rows.sort_by_key(|(part, window)| (*part, window.position));
        let (rows, mut seen) = self.without_duplicates(rows);
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for (part, window) in rows {
            parts[part as usize].push(window);
        }
        for part in Part::ALL {
            let rows = &mut parts[part as usize];
            let donors = rows.iter().filter(|row| row.label() == Kind::Donor as u8).count();
            let negatives = donors * self.options.decoys;
            let bodies = Bodies::new(self.genes, |sequence, start| part_of(sequence, start) == Some(part));
            for (kind, count) in [(Kind::Donor, negatives.div_ceil(2)), (Kind::Acceptor, negatives / 2)] {
                let accept = |window: &[u8]| seen.insert(window_key(window));
                rows.extend(self.negatives(&bodies, count, Likeness::Decoy(kind), part, accept));
            }
            shuffle(rows, self.philox(Draw::Order, part));
        }
        Ok(parts)
    }

    /// Removes windows that occur twice; the keys of all windows that were there come along.
    fn without_duplicates(&mut self, rows: Vec<(Part, Window)>) -> (Vec<(Part, Window)>, Keys) {
        // The class of each window, or none where it occurs with several.
        let mut classes: HashMap<Box<[u8]>, Option<u8>> = HashMap::with_capacity(rows.len());
        for (_, window) in &rows {
            let label = window.label();
            let class = classes.entry(window_key(&window.bases)).or_insert(Some(label));
            *class = class.filter(|&other| other == label);
        }
        let mut seen = HashSet::with_capacity(rows.len());
        let mut kept = Vec::with_capacity(rows.len());
        for (part, window) in rows {
            let key = window_key(&window.bases);
            if classes[&key].is_none() {
                self.dropped.conflicting += 1;
                seen.insert(key);
            } else if seen.insert(key) {
                kept.push((part, window));
            } else {
                self.dropped.duplicate += 1;
            }
        }
        (kept, seen)
    }

    fn negatives(
        &mut self,
        bodies: &Bodies,
        count: usize,
        likeness: Likeness,
        part: Part,
        accept: impl FnMut(&[u8]) -> bool,
    ) -> Vec<Window> {
        let (width, seed) = (self.options.window, self.options.seed);
        let mut sampler = Sampler { genome: self.genome, bodies, taken: &mut self.taken, width, seed };
        let drawn = sampler.draw(count, likeness, part, accept);
        self.dropped.missing_negatives += (count - drawn.len()) as u64;
        let origin = match likeness {
            Likeness::Decoy(kind) => Origin::Decoy(kind),
            Likeness::Any => Origin::Random,
        };
        drawn.into_iter().map(|(position, bases)| Window { bases, position, origin }).collect()
    }

    fn model_card(&mut self, sites: Vec<Site>) -> Result<[Vec<Window>; 3]> {
        let mut complete = Vec::with_capacity(sites.len());
        for site in sites {
            complete.extend(self.window(&site).map(|window| (site, window)));
        }
        let of_kind = |kind| complete.iter().filter(|(site, _)| site.kind == kind).count();
        let each = of_kind(Kind::Donor).min(of_kind(Kind::Acceptor));
        let chosen: HashSet<Site> =
            self.choose(complete.iter().map(|(site, _)| *site).collect(), each, each).into_iter().collect();
        let mut rows: Vec<Window> =
            complete.into_iter().filter(|(site, _)| chosen.contains(site)).map(|(_, window)| window).collect();
        let bodies = Bodies::new(self.genes, |_, _| true);
        rows.extend(self.negatives(&bodies, each, Likeness::Any, Part::Train, |_| true));
        shuffle(&mut rows, self.philox(Draw::Order, Part::Train));
        let test = rows.split_off(rows.len() * 9 / 10);
        let dev = rows.split_off(rows.len() * 8 / 9);
        Ok([rows, dev, test])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::genome::annotation::Strand;
    use crate::genome::pack::{PackedSequence, TwoBitWriter};

    /// Their windows stay known, so that no decoy has one of them.
    #[test]
    fn conflicting_windows_are_removed_and_never_drawn_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.2bit");
        let mut writer = TwoBitWriter::create(&path).unwrap();
        writer.add("s", &PackedSequence::from_ascii(b"ACGT").unwrap()).unwrap();
        writer.finish().unwrap();
        let (genome, genes, options) = (Genome::open(&path).unwrap(), GeneModel::default(), Options::default());
        let taken = HashSet::new();
        let mut maker = Maker { genome: &genome, genes: &genes, options: &options, taken, dropped: Dropped::default() };
        let row = |bases: &[u8], boundary, kind| {
            let position = Position { sequence: 0, boundary, strand: Strand::Plus };
            (Part::Train, Window { bases: bases.to_vec(), position, origin: Origin::Site(kind) })
        };
        let rows = vec![
            row(b"AAGTCC", 10, Kind::Donor),
            // Its reverse complement.
            row(b"GGACTT", 20, Kind::Acceptor),
            row(b"CCGTAA", 30, Kind::Donor),
            row(b"CCGTAA", 40, Kind::Donor),
        ];
        let (kept, seen) = maker.without_duplicates(rows);
        assert_eq!(kept.iter().map(|(_, window)| window.position.boundary).collect::<Vec<_>>(), [30]);
        assert_eq!((maker.dropped.conflicting, maker.dropped.duplicate), (2, 1));
        assert!([b"AAGTCC", b"GGACTT", b"CCGTAA"].iter().all(|window| seen.contains(&window_key(*window))));
    }
}
