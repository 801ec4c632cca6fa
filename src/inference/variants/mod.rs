//! What variants do to splice sites: delta scores in the manner of SpliceAI, as INFO fields of a VCF file.

pub mod annotate;
mod bcf;
pub mod effect;
pub mod genes;
mod round;
pub mod saturation;
mod share;
pub mod vcf;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::effect::{Change, Delta, Effect, Haplotypes, flank};
use self::genes::Genes;
use super::journal::{Journal, is_interrupted};
use super::scan::Positions;
use super::shard::Shard;
use super::splice::SpliceScorer;
use crate::genome::alias::Aliases;
use crate::genome::checksum::checksum;
use crate::genome::twobit::{Genome, Sequence};
use crate::lossy;
use crate::output::write_atomic;
use crate::{Error, Result};

/// How variants are scored.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bases from the changed ones within which sites are compared.
    pub distance: u32,
    /// An allele that replaces or inserts more bases is not scored.
    pub most_bases: usize,
    /// Which positions can be sites.
    pub positions: Positions,
    /// Whether records whose REF is not what the genome has are passed through, with a word why; they are errors otherwise.
    pub skip_mismatches: bool,
    /// What tells the model from others ([`super::journal::fingerprint`]), with the width of its windows.
    pub fingerprint: Value,
    /// Whether interrupted work goes on.
    pub resume: bool,
    /// The part to score of the work; `None`: all of it.
    pub shard: Option<Shard>,
    /// What is told of the annotation beside the summary; kept with a shard.
    pub told: Option<Value>,
    /// The resolved options as TOML, kept with the work until it is done.
    pub config: Option<String>,
    /// No progress.
    pub quiet: bool,
}

/// What was scored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Records of the file.
    pub records: u64,
    /// Alternate alleles with scores.
    pub scored: u64,
    /// Those whose largest delta is at least 0.5.
    pub strong: u64,
    /// Alternate alleles without scores, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Windows that were read.
    pub windows: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Alternate alleles a second.
    pub alleles_per_second: f64,
    /// The file written.
    #[serde(serialize_with = "lossy::serialize")]
    pub out: PathBuf,
}

impl Summary {
    /// Adds what another part of the work has counted.
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.scored += other.scored;
        self.strong += other.strong;
        other.skipped.iter().for_each(|(reason, number)| *self.skipped.entry(reason.clone()).or_default() += number);
        self.windows += other.windows;
        self.seconds += other.seconds;
    }

    /// Alternate alleles that were dealt with.
    fn alleles(&self) -> u64 {
        self.scored + self.skipped.values().sum::<u64>()
    }
}

/// Scores variants of one genome.
pub struct Annotator<'a> {
    /// The model.
    pub scorer: &'a SpliceScorer,
    /// The reference.
    pub genome: &'a Genome,
    /// Other names of its sequences.
    pub aliases: &'a Aliases,
    /// With genes, an allele is scored for each over it, on its strand; without, on both strands.
    pub genes: Option<&'a Genes>,
    /// How.
    pub options: &'a Options,
}

impl Annotator<'_> {
    /// The journal of what becomes `out`, beside it, or that of a shard, `None` if that is finished. `what` is scored by `command`, besides
    /// what the options and the model say.
    fn journal<S: DeserializeOwned>(
        &self,
        out: &Path,
        command: &str,
        what: Value,
    ) -> Result<Option<(Journal, Option<S>)>> {
        let whole = |(index, sequence): (usize, &Sequence)| (index, 0..sequence.length);
        let bases: Vec<_> = self.genome.sequences().iter().enumerate().map(whole).collect();
        let mut print = json!({
            "genome": format!("{:08x}", checksum(self.genome, &bases)),
            "annotation": self.genes.map(Genes::fingerprint),
            "alias": self.aliases.fingerprint(),
            "distance": self.options.distance,
            "max-bases": self.options.most_bases,
            "positions": self.options.positions,
        });
        for part in [&self.options.fingerprint, &what] {
            if let (Some(print), Some(part)) = (print.as_object_mut(), part.as_object()) {
                print.extend(part.clone());
            }
        }
        let (what, names, resume) = ("scoring", &["lines"], self.options.resume);
        let opened = match self.options.shard {
            Some(shard) => {
                print["skip-mismatches"] = self.options.skip_mismatches.into();
                shard.sign(command, self.scorer.scorer().device(), &mut print);
                shard.journal(what, out, names, print, resume)?
            }
            None => {
                let folder = working_folder(out);
                if !resume && is_interrupted(&folder) {
                    return Err(Error::usage(
                        format!("{} holds an interrupted scoring", folder.display()),
                        "go on with it (--resume), name another --out, or remove the folder",
                    ));
                }
                let opened = Journal::open(what, &folder, names, print, resume)?;
                opened.0.check(out)?;
                Some(opened)
            }
        };
        if let Some((journal, _)) = &opened {
            let path = journal.folder().join("config.toml");
            if let (false, Some(config)) = (resume && path.is_file(), &self.options.config) {
                write_atomic(path, config)?;
            }
        }
        Ok(opened)
    }

    /// Whether what stands above all rows is written: by the first shard alone.
    fn writes_header(&self) -> bool {
        self.options.shard.is_none_or(|shard| shard.number() == 1)
    }

    /// Donor and acceptor probability of each window. Windows that are alike are read once: most of the reference's come with
    /// every change near them. `read` counts.
    fn scores(&self, windows: &[Vec<u8>], read: &mut u64) -> Result<Vec<[f64; 2]>> {
        let mut distinct: Vec<&[u8]> = Vec::new();
        let mut numbers: HashMap<&[u8], usize> = HashMap::new();
        let number = |window| {
            *numbers.entry(window).or_insert_with(|| {
                distinct.push(window);
                distinct.len() - 1
            })
        };
        let numbers: Vec<usize> = windows.iter().map(Vec::as_slice).map(number).collect();
        *read += distinct.len() as u64;
        let scores = self.scorer.score(&distinct)?;
        Ok(numbers.into_iter().map(|number| scores[number]).collect())
    }

    /// The two haplotypes of a change, with what lies around it.
    fn haplotypes(&self, sequence: usize, change: &Change) -> Haplotypes {
        let flank = flank(self.scorer, self.options.distance);
        let from = change.first.saturating_sub(flank);
        let length = self.genome.sequences()[sequence].length;
        let to = length.min(change.last.saturating_add(change.replaced as u32).saturating_add(flank));
        let mut context = Vec::new();
        self.genome.decode(sequence, from..to, &mut context);
        Haplotypes::new(&context, from, change)
    }
}

/// The order of SpliceAI's fields: acceptor gain, acceptor loss, donor gain, donor loss.
fn deltas(effect: &Effect) -> [Delta; 4] {
    let [donor_gain, acceptor_gain] = effect.gain;
    let [donor_loss, acceptor_loss] = effect.loss;
    [acceptor_gain, acceptor_loss, donor_gain, donor_loss]
}

/// Refuses a name that says BCF for what is written as VCF.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_name(out: &Path) -> Result<()> {
    if out.extension().is_none_or(|extension| extension != "bcf") {
        return Ok(());
    }
    let found = format!("--out {}, where VCF is written", out.display());
    Err(Error::usage(found, "name a .vcf or .vcf.gz file; `bcftools view -O b` makes BCF of it"))
}

/// Where the work on what becomes `out` is kept until it is done.
pub fn working_folder(out: &Path) -> PathBuf {
    // Beside the file that a link means.
    let linked = if out.is_symlink() { fs::canonicalize(out).ok() } else { None };
    let out = linked.as_deref().unwrap_or(out);
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    out.with_file_name(name)
}
