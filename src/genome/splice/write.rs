//! A splice dataset as a folder: `train.tsv`, `dev.tsv` and `test.tsv` in DNABERT's format, `sites.bed`, `dataset.json`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::dataset::{Dropped, Options, Origin, SpliceDataset};
use super::leakage::Leakage;
use super::split::Part;
use super::stretches::{self, Stretches};
use super::{Kind, LABEL_NAMES};
use crate::genome::annotation::{Fates, Oddities};
use crate::genome::region::{Region, Spelling};
use crate::genome::twobit::Genome;
use crate::output::{AtomicFile, FolderKind, write_atomic};
use crate::{Error, Result};

/// What [`write_dataset`] writes and replaces.
pub const FOLDER: FolderKind = FolderKind {
    what: "a dataset",
    marker: "dataset.json",
    holds: |name| matches!(name, "train.tsv" | "dev.tsv" | "test.tsv" | "sites.bed"),
};

/// The numbers of rows in a part, by class, and where they lie.
#[derive(Clone, Debug, Serialize)]
pub struct PartCounts {
    /// Donors.
    pub donor: u64,
    /// Acceptors.
    pub acceptor: u64,
    /// Neither.
    pub neither: u64,
    /// Names of the sequences that the rows lie on, in the genome's order.
    pub sequences: Vec<String>,
    /// The stretches that belong to this part, `NAME:START-END` as options take regions: 1-based and inclusive. Empty where
    /// rows were divided at random.
    pub regions: Vec<String>,
}

/// The rows of the three parts.
#[derive(Clone, Debug, Serialize)]
pub struct Parts {
    /// In train.tsv.
    pub train: PartCounts,
    /// In dev.tsv.
    pub dev: PartCounts,
    /// In test.tsv.
    pub test: PartCounts,
}

/// How a dataset was made and what is in it: the content of `dataset.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// The genome file, as it was given.
    pub genome: String,
    /// The annotation file, as it was given.
    pub annotation: String,
    /// Protocol, window, filters, seed.
    #[serde(flatten)]
    pub options: Options,
    /// Bases in a k-mer of the TSV files.
    pub k: usize,
    /// Class names by number.
    pub label_names: [&'static str; 3],
    /// What became of the annotation's transcripts: used, or left out and why.
    pub transcripts: Fates,
    /// What became of its feature lines: used for a transcript of the file, whatever became of that, or left out and why.
    pub feature_lines: Fates,
    /// What was unusual about the transcripts that were made, and how often.
    pub oddities: Oddities,
    /// Distinct annotated donors and acceptors, before anything was left out.
    pub annotated: [u64; 2],
    /// Rows.
    pub parts: Parts,
    /// What was left out.
    pub dropped: Dropped,
    /// What the parts have in common.
    pub leakage: Leakage,
}

impl Description {
    /// Describes `dataset`, which was made from `genome`.
    pub fn new(dataset: &SpliceDataset, genome: &Genome, annotation: &Path, k: usize) -> Self {
        let counts = |part| {
            let [donor, acceptor, neither] = dataset.counts(part);
            let on: BTreeSet<_> = dataset.part(part).iter().map(|row| row.position.sequence).collect();
            let sequences = on.into_iter().map(|index| genome.sequences()[index].name.clone()).collect();
            let region = |region: Region| region.label(genome, Spelling::default());
            let regions = dataset.regions(&[part]).into_iter().map(region).collect();
            PartCounts { donor, acceptor, neither, sequences, regions }
        };
        Self {
            genome: genome.path().display().to_string(),
            annotation: annotation.display().to_string(),
            options: dataset.options.clone(),
            k,
            label_names: LABEL_NAMES,
            transcripts: dataset.transcripts.clone(),
            feature_lines: dataset.lines.clone(),
            oddities: dataset.oddities,
            annotated: dataset.annotated,
            parts: Parts { train: counts(Part::Train), dev: counts(Part::Dev), test: counts(Part::Test) },
            dropped: dataset.dropped,
            leakage: dataset.leakage,
        }
    }
}

/// Writes the folder; nothing appears under its name before it is complete.
///
/// # Errors
/// [`Error::Usage`] if `k` is 0 or longer than the window; [`Error::Io`].
pub fn write_dataset(folder: &Path, genome: &Genome, dataset: &SpliceDataset, description: &Description) -> Result<()> {
    let k = description.k;
    if k == 0 || k > dataset.options.window as usize {
        let remedy = "give --k from 1 to the window's width (DNABERT has 3 to 6)";
        return Err(Error::usage(format!("k-mers of {k} bases in windows of {}", dataset.options.window), remedy));
    }
    let json = serde_json::to_string_pretty(description).map_err(|error| Error::Failed(error.to_string()))?;
    FOLDER.write(folder, |folder| {
        for part in Part::ALL {
            write_tsv(&folder.join(format!("{}.tsv", part.name())), genome, dataset, part, k)?;
        }
        write_rows_bed(&folder.join("sites.bed"), genome, dataset)?;
        write_atomic(folder.join("dataset.json"), json + "\n")
    })
}

/// What long windows were made of and what is in them: the content of their `dataset.json`.
#[derive(Clone, Debug, Serialize)]
pub struct StretchesDescription {
    /// The genome file, as it was given.
    pub genome: String,
    /// The annotation file, as it was given.
    pub annotation: String,
    /// Window, margin, filters.
    #[serde(flatten)]
    pub options: stretches::Options,
    /// Class names by number.
    pub label_names: [&'static str; 3],
    /// What became of the annotation's transcripts: used, or left out and why.
    pub transcripts: Fates,
    /// What became of its feature lines: used for a transcript of the file, whatever became of that, or left out and why.
    pub feature_lines: Fates,
    /// What was unusual about the transcripts that were made, and how often.
    pub oddities: Oddities,
    /// Distinct annotated donors and acceptors.
    pub annotated: [u64; 2],
    /// What is in the parts: train, dev, test.
    pub parts: BTreeMap<&'static str, StretchesPart>,
}

/// A part of long windows.
#[derive(Clone, Debug, Serialize)]
pub struct StretchesPart {
    /// What it holds.
    #[serde(flatten)]
    pub counts: stretches::Counts,
    /// The stretches that belong to this part, `NAME:START-END` as options take regions: 1-based and inclusive.
    pub regions: Vec<String>,
}

/// Writes long windows as a folder: `train.tsv`, `dev.tsv` and `test.tsv` with the columns `sequence`, `labels` and `name`, and `dataset.json`,
/// which is returned. Nothing appears under the folder's name before it is complete.
///
/// # Errors
/// [`Error::Usage`] for a part without donors or without acceptors; [`Error::Io`].
pub fn write_stretches(
    folder: &Path,
    genome: &Genome,
    stretches: &Stretches,
    annotation: &Path,
) -> Result<StretchesDescription> {
    let (transcripts, feature_lines, oddities) = stretches.account();
    let mut description = StretchesDescription {
        genome: genome.path().display().to_string(),
        annotation: annotation.display().to_string(),
        options: stretches.options().clone(),
        label_names: LABEL_NAMES,
        transcripts: transcripts.clone(),
        feature_lines: feature_lines.clone(),
        oddities,
        annotated: stretches.annotated,
        parts: BTreeMap::new(),
    };
    FOLDER.write(folder, |folder| {
        let mut known = HashSet::new();
        for part in Part::ALL {
            let path = folder.join(format!("{}.tsv", part.name()));
            let mut file = AtomicFile::create(&path)?;
            file.write_all(b"sequence\tlabels\tname\n").map_err(Error::io("write", &path))?;
            let counts = stretches.of_part(part, &mut known, &mut |stretch, sequence, strand| {
                let name = &genome.sequences()[sequence].name;
                let end = stretch.start + stretch.bases.len() as u32;
                let place = format!("\t{name}:{}-{end}({strand})\n", stretch.start);
                let text = [&stretch.bases[..], b"\t", &stretch.labels, place.as_bytes()].concat();
                file.write_all(&text).map_err(Error::io("write", &path))
            })?;
            if counts.donor == 0 || counts.acceptor == 0 {
                let found =
                    format!("the {} part has {} donors and {} acceptors", part.name(), counts.donor, counts.acceptor);
                let remedy = "use a larger genome or annotation, or choose with --test-region and --dev-region";
                return Err(Error::usage(found, remedy));
            }
            file.commit()?;
            let region = |region: Region| region.label(genome, Spelling::default());
            let regions = stretches.regions(part).into_iter().map(region).collect();
            description.parts.insert(part.name(), StretchesPart { counts, regions });
        }
        genome.check()?;
        let json = serde_json::to_string_pretty(&description).map_err(|error| Error::Failed(error.to_string()))?;
        write_atomic(folder.join("dataset.json"), json + "\n")
    })?;
    Ok(description)
}

/// One row a window: its k-mers with stride 1, all of them, separated by blanks; the class; and as its name where it lies.
fn write_tsv(path: &Path, genome: &Genome, dataset: &SpliceDataset, part: Part, k: usize) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    let mut text = b"sequence\tlabel\tname\n".to_vec();
    for row in dataset.part(part) {
        for (index, kmer) in row.bases.windows(k).enumerate() {
            if index > 0 {
                text.push(b' ');
            }
            text.extend_from_slice(kmer);
        }
        let name = row.position.window_name(genome, dataset.options.window);
        text.extend_from_slice(format!("\t{}\t{name}\n", row.label()).as_bytes());
        file.write_all(&text).map_err(Error::io("write", path))?;
        text.clear();
    }
    file.commit()
}

/// BED6 and the part as a seventh column. Sites and decoys are the two bases on the intron's side; random places, which
/// have no such side, the two bases behind the boundary.
fn write_rows_bed(path: &Path, genome: &Genome, dataset: &SpliceDataset) -> Result<()> {
    let mut rows = Vec::new();
    for part in Part::ALL {
        for row in dataset.part(part) {
            let (name, kind) = match row.origin {
                Origin::Site(kind) => (kind.name(), kind),
                Origin::Decoy(kind) => ("decoy", kind),
                Origin::Random => ("random", Kind::Donor),
            };
            // Windows that reach over a sequence's edge were left out, so there are two bases.
            let Some(range) = row.position.dinucleotide(kind) else {
                continue;
            };
            let sequence = genome.sequences()[row.position.sequence].name.as_str();
            rows.push((sequence, range.start, range.end, name, row.position.strand, part.name()));
        }
    }
    rows.sort();
    let mut file = AtomicFile::create(path)?;
    for (sequence, start, end, name, strand, part) in rows {
        writeln!(file, "{sequence}\t{start}\t{end}\t{name}\t0\t{strand}\t{part}").map_err(Error::io("write", path))?;
    }
    file.commit()
}
