//! Motifs from attention, in DNABERT's way (Ji et al., Bioinformatics 2021, section 2.5): regions of a class's sequences
//! that the model looks at become words; words that are more frequent in the class than among the other sequences stay
//! (hypergeometric test, Benjamini-Hochberg); similar ones are merged, and windows around their places counted.

pub mod enrichment;
pub mod meme;
mod merge;
pub mod regions;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use self::enrichment::{adjusted, hypergeometric_tail};
use self::merge::{Cluster, merge};
use self::regions::high_attention;
use crate::{Error, Result};

/// What counts as a motif.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// The shortest region of high attention, in bases.
    pub min_length: usize,
    /// Bases of the window around each place of a motif.
    pub window: usize,
    /// The largest adjusted p-value of a word.
    pub max_fdr: f64,
    /// The fewest places of a motif.
    pub min_places: usize,
}

impl Options {
    /// DNABERT's values.
    pub const DNABERT: Self = Self { min_length: 5, window: 24, max_fdr: 0.005, min_places: 3 };

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        if !(3..=100).contains(&self.min_length) || !(self.min_length..=1000).contains(&self.window) {
            return Err(Error::usage(
                format!("regions of at least {} bases and windows of {}", self.min_length, self.window),
                "give regions of 3 to 100 bases, and windows of at least that and at most 1,000",
            ));
        }
        if !(self.max_fdr > 0.0 && self.max_fdr <= 1.0) {
            return Err(Error::usage(
                format!("a false discovery rate of {}", self.max_fdr),
                "give one above 0, up to 1",
            ));
        }
        Ok(())
    }
}

/// A word of high attention in sequences of the class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Word {
    /// Its bases.
    pub bases: String,
    /// Sequences of the class that contain it anywhere.
    pub in_class: u64,
    /// Other sequences that contain it.
    pub in_others: u64,
    /// Probability of at least `in_class` if the word had nothing to do with the class (hypergeometric).
    pub p_value: f64,
    /// Adjusted for all words tested (Benjamini-Hochberg).
    pub fdr: f64,
    /// Its places under high attention: the sequence's number, and the first base.
    #[serde(skip)]
    places: Vec<(usize, usize)>,
}

/// Words that are alike, merged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Motif {
    /// The word that the others were aligned with.
    pub name: String,
    /// The words in it, that one first.
    pub words: Vec<String>,
    /// The smallest adjusted p-value among them.
    pub fdr: f64,
    /// Places counted.
    pub places: u64,
    /// Counts of A, C, G, T at each position of the window.
    pub counts: Vec<[u64; 4]>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The layer whose attention was read, from 1; 0 where whoever called has not said.
    pub layer: usize,
    /// Sequences of the class, and others.
    pub sequences: [u64; 2],
    /// Regions of high attention.
    pub regions: u64,
    /// Words tested.
    pub tested: u64,
    /// Words that passed.
    pub words: Vec<Word>,
    /// Motifs, the most significant first.
    pub motifs: Vec<Motif>,
    /// Where there are none: what the search failed on, and what would let more through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nothing: Option<String>,
}

/// Finds motifs of a class. `class` holds its sequences (upper case) with the attention to each base; `others` the rest.
///
/// # Errors
/// [`Error::Usage`] if either is empty, or for bad options.
pub fn find(class: &[(Vec<u8>, Vec<f32>)], others: &[Vec<u8>], options: &Options) -> Result<Findings> {
    options.check()?;
    if class.is_empty() || others.is_empty() {
        let found = format!("{} sequences of the class and {} others", class.len(), others.len());
        return Err(Error::usage(found, "give sequences of both: a motif is what sets them apart"));
    }
    let mut places: BTreeMap<&[u8], Vec<(usize, usize)>> = BTreeMap::new();
    let mut regions = 0;
    for (number, (bases, attention)) in class.iter().enumerate() {
        for region in high_attention(attention, options.min_length) {
            let word = &bases[region.clone()];
            if word.iter().all(|base| b"ACGT".contains(base)) {
                regions += 1;
                places.entry(word).or_default().push((number, region.start));
            }
        }
    }
    let words = tested(places, class, others);
    let tested = words.len() as u64;
    let least_fdr = words.iter().map(|word| word.fdr).min_by(f64::total_cmp);
    let mut passed: Vec<Word> = words.into_iter().filter(|word| word.fdr <= options.max_fdr).collect();
    passed.sort_by(|one, other| one.fdr.total_cmp(&other.fdr).then_with(|| one.bases.cmp(&other.bases)));
    let clusters = merge(&passed, options.min_length);
    let motif = |cluster: &Cluster| counted(cluster, &passed, class, options.window);
    let mut motifs: Vec<Motif> =
        clusters.iter().map(motif).filter(|motif| motif.places >= options.min_places.max(1) as u64).collect();
    motifs.sort_by(|one, other| {
        one.fdr.total_cmp(&other.fdr).then(other.places.cmp(&one.places)).then_with(|| one.name.cmp(&other.name))
    });
    let nothing = motifs.is_empty().then(|| nothing(least_fdr, passed.len(), options));
    let sequences = [class.len() as u64, others.len() as u64];
    Ok(Findings { layer: 0, sequences, regions, tested, words: passed, motifs, nothing })
}

/// What a search without a motif failed on; `least_fdr` is that of the best word, if there was one.
fn nothing(least_fdr: Option<f64>, passed: usize, options: &Options) -> String {
    let Options { min_length, max_fdr, min_places, .. } = options;
    match least_fdr {
        None => format!(
            "No motif: nowhere is the attention to {min_length} bases in a row above its mean and above ten times its minimum \
             (another layer or a smaller --min-length may show some)."
        ),
        Some(least) if passed == 0 => format!(
            "No motif: no word of high attention is more frequent in the class than chance allows; the best has a false discovery \
             rate of {least:.2e}, and at most {max_fdr} was asked for (--max-fdr)."
        ),
        Some(_) => format!(
            "No motif: the words that passed have fewer than {min_places} places with a whole window (--min-places)."
        ),
    }
}

/// The words with their p-values.
fn tested(
    places: BTreeMap<&[u8], Vec<(usize, usize)>>,
    class: &[(Vec<u8>, Vec<f32>)],
    others: &[Vec<u8>],
) -> Vec<Word> {
    let words: BTreeSet<&[u8]> = places.keys().copied().collect();
    let in_class = enrichment::count(&words, class.iter().map(|(bases, _)| bases.as_slice()));
    let in_others = enrichment::count(&words, others.iter().map(Vec::as_slice));
    let (size, total) = (class.len() as u64, (class.len() + others.len()) as u64);
    let p_values: Vec<f64> = in_class
        .iter()
        .zip(&in_others)
        .map(|(&found, &elsewhere)| hypergeometric_tail(found, total, size, found + elsewhere))
        .collect();
    let fdr = adjusted(&p_values);
    let rows = places.into_iter().zip(in_class.into_iter().zip(in_others)).zip(p_values.into_iter().zip(fdr));
    rows.map(|(((word, places), (in_class, in_others)), (p_value, fdr))| Word {
        bases: String::from_utf8_lossy(word).into_owned(),
        in_class,
        in_others,
        p_value,
        fdr,
        places,
    })
    .collect()
}

/// Counts the bases in windows around the middle of the seed, wherever a word of the cluster is; windows that leave their
/// sequence or hold unknown bases are left out.
fn counted(cluster: &Cluster, words: &[Word], class: &[(Vec<u8>, Vec<f32>)], window: usize) -> Motif {
    let seed = &words[cluster.seed];
    let mut starts: BTreeSet<(usize, usize)> = BTreeSet::new();
    for &(member, shift) in &cluster.members {
        for &(sequence, place) in &words[member].places {
            // Where the seed would begin, and the window around its middle.
            let middle = place as i64 + shift + seed.bases.len() as i64 / 2;
            if let Ok(start) = usize::try_from(middle - window as i64 / 2) {
                starts.insert((sequence, start));
            }
        }
    }
    let mut motif = Motif {
        name: seed.bases.clone(),
        words: cluster.members.iter().map(|&(member, _)| words[member].bases.clone()).collect(),
        fdr: cluster.members.iter().map(|&(member, _)| words[member].fdr).fold(1.0, f64::min),
        places: 0,
        counts: vec![[0; 4]; window],
    };
    for (sequence, start) in starts {
        let Some(bases) = class[sequence].0.get(start..start + window) else { continue };
        let rows: Option<Vec<usize>> =
            bases.iter().map(|base| b"ACGT".iter().position(|known| known == base)).collect();
        let Some(rows) = rows else { continue };
        motif.places += 1;
        rows.into_iter().zip(&mut motif.counts).for_each(|(row, counts)| counts[row] += 1);
    }
    motif
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random bases without the planted word.
    fn background(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed * 2_654_435_761 + 12345;
        (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                b"ACGT"[(state >> 60) as usize & 3]
            })
            .collect()
    }

    #[test]
    fn a_planted_motif_is_found_and_noise_is_not() {
        const WORD: &[u8] = b"TATAATGC";
        let mut class = Vec::new();
        for number in 0..60 {
            let mut bases = background(number, 60);
            let at = 20 + (number as usize * 7) % 20;
            bases[at..at + 8].copy_from_slice(WORD);
            // High attention on the word, in some sequences on a part of it, and in some on nothing in particular.
            let mut attention = vec![0.01_f32; 60];
            attention[at + number as usize % 3..at + 8].fill(1.0);
            let noise = 5 + number as usize % 7;
            attention[noise..noise + 6].fill(0.9);
            class.push((bases, attention));
        }
        let others: Vec<Vec<u8>> = (0..80).map(|number| background(1000 + number, 60)).collect();
        let findings = find(&class, &others, &Options { window: 12, ..Options::DNABERT }).unwrap();
        assert_eq!(findings.motifs.len(), 1, "{:?}", findings.motifs);
        let motif = &findings.motifs[0];
        assert_eq!(motif.name, "TATAATGC");
        assert_eq!((motif.words.len(), motif.places), (3, 60));
        let consensus: Vec<u8> = motif
            .counts
            .iter()
            .map(|counts| {
                if counts.iter().max() == Some(&60) {
                    b"ACGT"[counts.iter().position(|&c| c == 60).unwrap()]
                } else {
                    b'.'
                }
            })
            .collect();
        assert_eq!(consensus, b"..TATAATGC..");
        assert!(findings.tested > 20 && findings.words.len() == 3);

        let shuffled: Vec<(Vec<u8>, Vec<f32>)> = class
            .iter()
            .enumerate()
            .map(|(number, (_, attention))| (background(5000 + number as u64, 60), attention.clone()))
            .collect();
        assert!(find(&shuffled, &others, &Options::DNABERT).unwrap().motifs.is_empty());
    }

    /// The promise that docs make of the search: of 40 places of a motif whose bases vary, among as many regions of high
    /// attention that mean nothing, it finds at least half; and nothing where the same sequences have lost their order.
    #[test]
    fn varying_motifs_are_found_and_shuffled_sequences_hold_none() {
        const VARIANTS: [&[u8]; 4] = [b"CAGGTAAGT", b"CAGGTGAGT", b"AAGGTAAGT", b"CAGGTAAGA"];
        let (mut found, mut by_chance) = (0, 0);
        for round in 0..20_u64 {
            let mut class = Vec::new();
            for number in 0..100_u64 {
                let mut bases = background(round * 1000 + number, 80);
                let mut attention = vec![0.01_f32; 80];
                let noise = (number as usize * 13) % 30;
                attention[noise..noise + 7].fill(0.8);
                if number < 40 {
                    let at = 40 + (number as usize * 11) % 25;
                    let word = VARIANTS[(number as usize * 7 + round as usize) % 10 % 4];
                    bases[at..at + 9].copy_from_slice(word);
                    attention[at..at + 9].fill(1.0);
                }
                class.push((bases, attention));
            }
            let others: Vec<Vec<u8>> = (0..200).map(|number| background(round * 1000 + 500 + number, 80)).collect();
            let findings = find(&class, &others, &Options::DNABERT).unwrap();
            let of_motif = findings.motifs.iter().filter(|motif| motif.name.contains("GGT"));
            let places: u64 = of_motif.map(|motif| motif.places).sum();
            assert!(places >= 20, "round {round}: {places} of 40 places in {:?}", findings.motifs);
            found += findings.motifs.len();

            for (bases, _) in &mut class {
                // A permutation: 37 and 80 have no common factor.
                *bases = (0..80).map(|index| bases[(index * 37 + round as usize) % 80]).collect();
            }
            let shuffled = find(&class, &others, &Options::DNABERT).unwrap();
            assert_eq!(shuffled.motifs.is_empty(), shuffled.nothing.is_some());
            by_chance += shuffled.motifs.len();
        }
        assert_eq!((found, by_chance), (20, 0));
    }

    #[test]
    fn both_sides_are_needed() {
        let class = [(b"ACGT".to_vec(), vec![1.0; 4])];
        assert!(
            find(&class, &[], &Options::DNABERT)
                .unwrap_err()
                .to_string()
                .contains("1 sequences of the class and 0 others")
        );
        assert!(find(&class, &[b"ACGT".to_vec()], &Options { max_fdr: 0.0, ..Options::DNABERT }).is_err());
        assert!(find(&class, &[b"ACGT".to_vec()], &Options { window: 2, ..Options::DNABERT }).is_err());
    }
}
