//! What variants do to splice sites: delta scores in the manner of SpliceAI, as INFO fields of a VCF file.

pub mod effect;
pub mod genes;
pub mod saturation;
pub mod vcf;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use self::effect::{Delta, Effect, Haplotypes, Questions, flank, trimmed};
use self::genes::{Gene, Genes};
use self::vcf::{Allele, Finding, Reader, Record, escaped, with_info};
use super::scan::Positions;
use super::splice::SpliceScorer;
use crate::genome::alias::Aliases;
use crate::genome::annotation::Strand;
use crate::genome::twobit::Genome;
use crate::lossy;
use crate::output::AtomicFile;
use crate::report::Progress;
use crate::{Error, Result};

/// The INFO field with the scores.
const FIELD: &str = "HELIXGRAD";
/// The INFO field with the alleles that have none, and why.
const SKIPPED: &str = "HELIXGRAD_SKIPPED";

/// Lines, their bytes, and windows that are worked on at a time.
const ROUND_LINES: usize = 4096;
const ROUND_BYTES: usize = 32 << 20;
const ROUND_WINDOWS: usize = 16_384;

/// How variants are scored.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bases from the changed ones within which sites are compared.
    pub distance: u32,
    /// An allele that replaces or inserts more bases is not scored.
    pub most_bases: usize,
    /// Which positions can be sites.
    pub positions: Positions,
    /// No progress.
    pub quiet: bool,
}

/// What was scored.
#[derive(Clone, Debug, Default, Serialize)]
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

/// An allele in work: for each gene or strand what was asked, or why it is skipped.
type Asked = Result<Vec<(Option<Gene>, Questions)>, &'static str>;

/// A line on its way to the output.
struct Line {
    bytes: Vec<u8>,
    record: Option<(Record, Vec<Asked>)>,
}

impl Annotator<'_> {
    /// Reads `input` and writes `out` (bgzip if its name ends with `.gz`): the same lines, with two more INFO fields in
    /// each record and header lines that say what they mean.
    ///
    /// # Errors
    /// [`Error::Input`] with the line for what is no VCF, a REF that is not what the genome has, a position outside its
    /// sequence, sequences of which the genome has none, and a file that has our fields already; [`Error::Interrupted`];
    /// those of the device and of writing.
    pub fn annotate(&self, input: &Path, out: &Path, header: &[String]) -> Result<Summary> {
        let mut reader = Reader::open(input)?;
        let mut output = Output::create(out)?;
        self.copy_header(input, &mut reader, &mut output, header)?;
        let mut progress = Progress::new("variants", 0, self.options.quiet).unit("alleles");
        let started = Instant::now();
        let mut summary = Summary { out: out.to_owned(), ..Summary::default() };
        let mut names = Names::default();
        loop {
            let (mut lines, mut windows, mut size) = (Vec::new(), Vec::new(), 0);
            while lines.len() < ROUND_LINES && size < ROUND_BYTES && windows.len() < ROUND_WINDOWS {
                let Some(bytes) = reader.next_line()? else { break };
                size += bytes.len();
                let bytes = bytes.to_vec();
                let line = self.line(bytes, &mut names, &mut windows);
                let place = || format!("line {}", reader.number());
                lines.push(line.map_err(|(found, remedy)| Error::input(input, place(), found, remedy))?);
            }
            if lines.is_empty() {
                break;
            }
            let scores = self.scores(&windows, &mut summary.windows)?;
            for line in &lines {
                output.write(&self.annotated(line, &scores, &mut summary))?;
            }
            let done = summary.scored + summary.skipped.values().sum::<u64>();
            progress.update(done, done, &format!("{} records", summary.records));
        }
        if !names.found && !names.missing.is_empty() {
            let missing: Vec<&str> = names.missing.iter().map(String::as_str).collect();
            return Err(self.aliases.no_match_error(self.genome, input, &missing));
        }
        if !names.missing.is_empty() {
            tracing::warn!("the genome lacks {}: their records were not scored", names.list());
        }
        output.commit()?;
        summary.seconds = started.elapsed().as_secs_f64();
        let alleles = summary.scored + summary.skipped.values().sum::<u64>();
        summary.alleles_per_second = alleles as f64 / summary.seconds.max(1e-9);
        progress.finish(&format!("{} records", summary.records));
        Ok(summary)
    }

    /// Copies the meta lines, and ours before the header line.
    fn copy_header(&self, input: &Path, reader: &mut Reader, output: &mut Output, header: &[String]) -> Result<()> {
        loop {
            let line = reader.next_line()?.map(<[u8]>::to_vec);
            let place = format!("line {}", reader.number());
            let Some(line) = line else {
                let remedy = "give a VCF file with its header";
                return Err(Error::input(
                    input,
                    place,
                    "the file ends before the line that begins with #CHROM",
                    remedy,
                ));
            };
            if line.starts_with(b"##") {
                let ours = [FIELD, SKIPPED].map(|field| format!("##INFO=<ID={field},"));
                if ours.iter().any(|ours| line.starts_with(ours.as_bytes())) {
                    let remedy =
                        format!("take the old ones out first: bcftools annotate -x INFO/{FIELD},INFO/{SKIPPED}");
                    return Err(Error::input(input, place, "the file has these scores already", remedy));
                }
                output.write(&line)?;
                continue;
            }
            vcf::check_header(&line).map_err(|(found, remedy)| Error::input(input, place, found, remedy))?;
            let end: &[u8] = if line.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
            for ours in self.header_lines().iter().chain(header) {
                output.write(&[ours.as_bytes(), end].concat())?;
            }
            return output.write(&line);
        }
    }

    fn header_lines(&self) -> [String; 2] {
        let distance = self.options.distance;
        let positions = match self.options.positions {
            Positions::GtAg => "a site without its GT or AG counts as probability 0",
            Positions::All => "whatever the bases at the site",
        };
        [
            format!(
                "##INFO=<ID={FIELD},Number=.,Type=String,Description=\"Largest changes in splice-site probability within \
                 {distance} bases of the allele, {positions}. For each allele and gene, or strand, ALLELE|GENE|STRAND|\
                 DS_AG|DS_AL|DS_DG|DS_DL|DP_AG|DP_AL|DP_DG|DP_DL: DS the change in probability (AG acceptor gain, AL \
                 acceptor loss, DG donor gain, DL donor loss), DP where: the exon's base at the site minus POS, . if \
                 nothing changes\">"
            ),
            format!(
                "##INFO=<ID={SKIPPED},Number=.,Type=String,Description=\"Alleles that were not scored, and why: \
                 ALLELE|REASON\">"
            ),
        ]
    }

    fn line(&self, bytes: Vec<u8>, names: &mut Names, windows: &mut Vec<Vec<u8>>) -> Result<Line, Finding> {
        if bytes.starts_with(b"#") || bytes.trim_ascii().is_empty() {
            return Ok(Line { bytes, record: None });
        }
        let record = vcf::parse(&bytes)?;
        let Some(sequence) = self.aliases.resolve(self.genome, &record.sequence) else {
            names.missing(&record.sequence);
            let asked = record.alternates.iter().map(|_| Err("sequence_not_in_genome")).collect();
            return Ok(Line { bytes, record: Some((record, asked)) });
        };
        names.found = true;
        if record.position > 0 {
            self.check_reference(&record, sequence)?;
        }
        let asked = record.alternates.iter().map(|allele| self.ask(&record, sequence, allele, windows)).collect();
        Ok(Line { bytes, record: Some((record, asked)) })
    }

    /// REF is what the genome has.
    fn check_reference(&self, record: &Record, sequence: usize) -> Result<(), Finding> {
        let Record { position, reference, .. } = record;
        let of_genome = &self.genome.sequences()[sequence];
        let remedy = "use the genome that the variants were called on".to_owned();
        let start = position - 1;
        let end = u64::from(start) + reference.len() as u64;
        // One past the end is a telomere (VCF 4.2, section 1.4.1), which no base stands on.
        let is_telomere = start == of_genome.length && record.alternates.iter().all(|allele| allele.bases.is_err());
        if is_telomere {
            return Ok(());
        }
        if end > of_genome.length.into() {
            let found = format!(
                "{}:{position} with a REF of {} bases, but {} has {} bases",
                record.sequence,
                reference.len(),
                of_genome.name,
                of_genome.length
            );
            return Err((found, remedy));
        }
        let mut bases = Vec::new();
        self.genome.decode(sequence, start..end as u32, &mut bases);
        if reference.iter().zip(&bases).all(|(&letter, &base)| vcf::agrees(letter, base)) {
            return Ok(());
        }
        let found = format!(
            "{}:{position} has REF {}, but {} has {} there",
            record.sequence,
            vcf::excerpt(reference),
            self.genome.path().display(),
            vcf::excerpt(&bases)
        );
        Err((found, remedy))
    }

    /// What has to be scored for an allele.
    fn ask(&self, record: &Record, sequence: usize, allele: &Allele, windows: &mut Vec<Vec<u8>>) -> Asked {
        let bases = allele.bases.as_deref().map_err(|reason| *reason)?;
        if record.position == 0 {
            return Err("telomere");
        }
        let (shared, replaced, inserted) = trimmed(&record.reference, bases);
        if replaced.len().max(inserted.len()) > self.options.most_bases {
            return Err("too_long");
        }
        let at = record.position - 1 + shared as u32;
        let strands: Vec<(Option<Gene>, Strand)> = match self.genes {
            None => vec![(None, Strand::Plus), (None, Strand::Minus)],
            Some(genes) => {
                // An insertion lies between two bases, and in a gene that has either.
                let range = at.saturating_sub(u32::from(replaced.is_empty()))..at + replaced.len().max(1) as u32;
                genes.over(sequence, &range).into_iter().map(|gene| (Some(gene.clone()), gene.strand)).collect()
            }
        };
        if strands.is_empty() {
            return Err("no_gene");
        }
        let haplotypes = self.haplotypes(sequence, at, replaced.len(), inserted);
        let mut asked: Vec<(Option<Gene>, Questions)> = Vec::with_capacity(strands.len());
        for (gene, strand) in strands {
            // Genes on the same strand share their answer.
            let known = asked.iter().find(|(_, questions)| questions.strand == strand);
            let questions = known.map(|(_, questions)| questions.clone()).unwrap_or_else(|| {
                let (scorer, options) = (self.scorer, self.options);
                haplotypes.questions(scorer, strand, options.distance, options.positions, windows)
            });
            asked.push((gene, questions));
        }
        Ok(asked)
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

    /// The two haplotypes of a change at base `at`, with what lies around it.
    fn haplotypes(&self, sequence: usize, at: u32, replaced: usize, inserted: &[u8]) -> Haplotypes {
        let flank = flank(self.scorer, self.options.distance);
        let from = at.saturating_sub(flank);
        let length = self.genome.sequences()[sequence].length;
        let to = length.min(at.saturating_add(replaced as u32).saturating_add(flank));
        let mut context = Vec::new();
        self.genome.decode(sequence, from..to, &mut context);
        Haplotypes::new(&context, from, at, replaced, inserted)
    }

    /// The line with its scores.
    fn annotated(&self, line: &Line, scores: &[[f64; 2]], summary: &mut Summary) -> Vec<u8> {
        let Some((record, asked)) = &line.record else { return line.bytes.clone() };
        summary.records += 1;
        let (mut values, mut skipped) = (Vec::new(), Vec::new());
        for (allele, asked) in record.alternates.iter().zip(asked) {
            let effects = asked.as_ref().map_err(|reason| *reason).and_then(|asked| {
                let effects: Vec<_> =
                    asked.iter().map(|(gene, asked)| (gene, asked.strand, asked.effect(scores))).collect();
                // Nothing changes where all can be read; where some cannot, that would be a guess.
                let is_unknown = |(_, _, effect): &(_, _, Effect)| effect.unreadable > 0 && effect.largest().0 == 0;
                if effects.iter().all(is_unknown) { Err("window_not_readable") } else { Ok(effects) }
            });
            match effects {
                Ok(effects) => {
                    summary.scored += 1;
                    let largest = effects.iter().map(|(_, _, effect)| effect.largest().value()).fold(0.0, f64::max);
                    summary.strong += u64::from(largest >= 0.5);
                    values.extend(effects.iter().map(|(gene, strand, effect)| {
                        let gene = gene.as_ref().map_or(".".to_owned(), |gene| escaped(&gene.name));
                        format!("{}|{gene}|{strand}|{}", allele.text, fields(effect, record.position))
                    }));
                }
                Err(reason) => {
                    *summary.skipped.entry(reason.to_owned()).or_default() += 1;
                    skipped.push(format!("{}|{reason}", escaped(&allele.text)));
                }
            }
        }
        if record.alternates.is_empty() {
            skipped.push(".|no_alternate_allele".to_owned());
        }
        let fields = [(FIELD, values), (SKIPPED, skipped)];
        let fields = fields.iter().filter(|(_, values)| !values.is_empty());
        let fields: Vec<String> = fields.map(|(name, values)| format!("{name}={}", values.join(","))).collect();
        with_info(&line.bytes, &record.info, &fields.join(";"))
    }
}

/// The order of SpliceAI's fields: acceptor gain, acceptor loss, donor gain, donor loss.
fn deltas(effect: &Effect) -> [Delta; 4] {
    let [donor_gain, acceptor_gain] = effect.gain;
    let [donor_loss, acceptor_loss] = effect.loss;
    [acceptor_gain, acceptor_loss, donor_gain, donor_loss]
}

/// Four scores and four positions, relative to the 1-based `position`.
fn fields(effect: &Effect, position: u32) -> String {
    let deltas = deltas(effect);
    let scores = deltas.map(|delta| format!("{:.4}", delta.score.value()));
    let places = deltas.map(|delta| match delta.score.0 {
        0 => ".".to_owned(),
        _ => (i64::from(delta.base) + 1 - i64::from(position)).to_string(),
    });
    format!("{}|{}", scores.join("|"), places.join("|"))
}

/// Which sequence names were met.
#[derive(Default)]
struct Names {
    found: bool,
    missing: Vec<String>,
}

impl Names {
    /// The most that are kept for the message.
    const MOST: usize = 1000;

    fn missing(&mut self, name: &str) {
        if self.missing.len() < Self::MOST && self.missing.last().is_none_or(|last| last != name) {
            let is_new = !self.missing.iter().any(|known| known == name);
            if is_new {
                self.missing.push(name.to_owned());
            }
        }
    }

    fn list(&self) -> String {
        const SHOWN: usize = 8;
        let shown = self.missing[..self.missing.len().min(SHOWN)].join(", ");
        if self.missing.len() > SHOWN { shown + ", ..." } else { shown }
    }
}

/// The file written: as it is, or bgzip, which tabix can index.
enum Output {
    Plain(AtomicFile),
    Bgzip(noodles_bgzf::io::Writer<AtomicFile>),
}

impl Output {
    fn create(path: &Path) -> Result<Self> {
        let file = AtomicFile::create(path)?;
        let is_packed = path.extension().is_some_and(|extension| extension == "gz" || extension == "bgz");
        Ok(if is_packed { Self::Bgzip(noodles_bgzf::io::Writer::new(file)) } else { Self::Plain(file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (written, path) = match self {
            Self::Plain(file) => (file.write_all(bytes), file.path()),
            Self::Bgzip(writer) => (writer.write_all(bytes), writer.get_ref().path()),
        };
        written.map_err(Error::io("write", path))
    }

    fn commit(self) -> Result<()> {
        match self {
            Self::Plain(file) => file.commit(),
            Self::Bgzip(writer) => {
                let path = writer.get_ref().path().to_owned();
                writer.finish().map_err(Error::io("write", path))?.commit()
            }
        }
    }
}
