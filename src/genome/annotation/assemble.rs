//! From feature lines to what they say of transcripts: exons and parts of exons, and the lines that name transcripts and genes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::attributes::{Attributes, decoded};
use super::fates::Fates;
use super::feature::Feature;
use super::{Annotation, Format, Strand};
use crate::{Error, Result};

const GIVE_ANNOTATION: &str = "give a GFF3 or GTF file (plain or .gz)";

/// Where an Ensembl, GENCODE or RefSeq file writes the biotype, the more specific first.
const TRANSCRIPT_BIOTYPE: [&str; 3] = ["transcript_biotype", "transcript_type", "biotype"];
const GENE_BIOTYPE: [&str; 3] = ["gene_biotype", "gene_type", "biotype"];
/// Where they write a gene's name: GENCODE in each of its lines, Ensembl and RefSeq in the GFF3 line of the gene, RefSeq's GTF
/// as `gene`.
const GFF3_GENE_NAME: [&str; 2] = ["gene_name", "Name"];
const GTF_GENE_NAME: [&str; 2] = ["gene_name", "gene"];
/// Where they write an exon's number in its transcript.
const EXON_NUMBER: [&str; 2] = ["exon_number", "rank"];

/// An exon line, or one of a part of an exon; once for each of its parents.
pub(super) struct Segment {
    pub(super) transcript: usize,
    /// Among the lines of exons and of their parts.
    pub(super) line: usize,
    /// Among all lines.
    pub(super) order: u64,
    pub(super) is_exon: bool,
    pub(super) number: Option<u32>,
    pub(super) is_trans_spliced: bool,
    pub(super) place: Place,
}

/// Where a line lies.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) sequence: usize,
    pub(super) strand: Option<Strand>,
    pub(super) range: Range<u32>,
}

/// What the file says about a transcript or a gene apart from its exons.
#[derive(Default)]
pub(super) struct Entry {
    /// Lines with this ID that are no exons, and the first one's kind; `None` where there is none.
    pub(super) lines: u64,
    pub(super) feature: Option<Feature>,
    pub(super) parent: Option<String>,
    /// Shared by its transcripts, however many and however long: a copy each could be any multiple of the file.
    pub(super) biotype: Option<Arc<str>>,
    pub(super) name: Option<Arc<str>>,
    pub(super) is_trans_spliced: bool,
    /// Where these lines lie, with their numbers among all lines.
    pub(super) places: Vec<(u64, Place)>,
}

/// Numbers names in the order in which they come.
#[derive(Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, usize>,
    pub(super) names: Vec<Arc<str>>,
}

impl Names {
    fn number(&mut self, name: &str) -> usize {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.numbers.insert(name, self.names.len() - 1);
        self.names.len() - 1
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.numbers.contains_key(name)
    }
}

/// Collects lines; [`Builder::finish`] makes transcripts of them.
pub(super) struct Builder<'a> {
    pub(super) path: &'a Path,
    pub(super) format: Option<Format>,
    pub(super) segments: Vec<Segment>,
    /// Lines that became segments.
    pub(super) segment_lines: usize,
    pub(super) sequences: Names,
    pub(super) transcripts: Names,
    /// GFF3: every feature with an ID that may be above an exon. GTF: transcripts.
    pub(super) entries: HashMap<String, Entry>,
    /// GTF: genes, whose IDs are a name space of their own there.
    pub(super) genes: HashMap<String, Entry>,
    /// Sequences that are said to be circles.
    pub(super) circular: BTreeSet<String>,
    pub(super) lines: Fates,
    types: BTreeMap<String, u64>,
    order: u64,
}

impl<'a> Builder<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self {
            path,
            format: None,
            segments: Vec::new(),
            segment_lines: 0,
            sequences: Names::default(),
            transcripts: Names::default(),
            entries: HashMap::new(),
            genes: HashMap::new(),
            circular: BTreeSet::new(),
            lines: Fates::default(),
            types: BTreeMap::new(),
            order: 0,
        }
    }

    /// Whether no feature was seen so far.
    pub(super) fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Takes one line. Comments and blank lines pass.
    pub(super) fn line(&mut self, number: u64, line: &[u8]) -> Result<()> {
        if line.starts_with(b"##gff-version") {
            let version = line["##gff-version".len()..].trim_ascii();
            self.format = version.starts_with(b"3").then_some(Format::Gff3);
        }
        if line.starts_with(b"#") || line.trim_ascii().is_empty() {
            return Ok(());
        }
        let columns: Vec<&[u8]> = line.split(|&byte| byte == b'\t').collect();
        let Ok(columns) = <[&[u8]; 9]>::try_from(columns.as_slice()) else {
            let found = format!("{} tab-separated columns where GFF3 and GTF have 9", columns.len());
            return Err(self.error(number, found, GIVE_ANNOTATION));
        };
        let feature = Feature::of(columns[2]);
        *self.types.entry(String::from_utf8_lossy(columns[2]).into_owned()).or_default() += 1;
        self.order += 1;
        self.format = self.format.or_else(|| recognise(columns[8]));
        match self.format {
            Some(Format::Gff3) => self.gff3(number, feature, &columns),
            Some(Format::Gtf) => self.gtf(number, feature, &columns),
            None if feature == Feature::Exon => {
                Err(self.error(number, "an exon without attributes".into(), "add Parent (GFF3) or transcript_id (GTF)"))
            }
            None => {
                self.lines.leave_out_lines("of_other_features", 1);
                Ok(())
            }
        }
    }

    fn gff3(&mut self, number: u64, feature: Feature, columns: &[&[u8]; 9]) -> Result<()> {
        let attributes = Attributes::new(Format::Gff3, columns[8]);
        let mut parents = attributes.values("Parent");
        // A name that comes again says nothing again.
        let mut seen = HashSet::new();
        parents.retain(|parent| seen.insert(parent.clone()));
        let sequence = decoded(columns[0]);
        if attributes.get("Is_circular").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            self.circular.insert(sequence.clone());
        }
        if matches!(feature, Feature::Exon | Feature::Part) {
            if parents.is_empty() {
                self.lines.leave_out_lines("without_parent", 1);
                return Ok(());
            }
            let place = self.place(number, &sequence, columns)?;
            self.segment(&parents, feature, &attributes, &place);
            return Ok(());
        }
        let Some(id) = attributes.get("ID") else {
            self.lines.leave_out_lines("of_other_features", 1);
            return Ok(());
        };
        let place = self.place(number, &sequence, columns).ok();
        let tags = if parents.is_empty() { GENE_BIOTYPE } else { TRANSCRIPT_BIOTYPE };
        let first = |tags: &[&str]| tags.iter().find_map(|tag| attributes.get(tag)).map(Arc::from);
        let entry = self.entries.entry(id).or_default();
        entry.lines += 1;
        entry.feature = entry.feature.or(Some(feature));
        entry.parent = entry.parent.take().or_else(|| parents.into_iter().next());
        entry.biotype = entry.biotype.take().or_else(|| first(&tags));
        entry.name = entry.name.take().or_else(|| first(&GFF3_GENE_NAME));
        entry.is_trans_spliced |= is_trans_spliced(&attributes);
        entry.places.extend(place.map(|place| (self.order, place)));
        Ok(())
    }

    fn gtf(&mut self, number: u64, feature: Feature, columns: &[&[u8]; 9]) -> Result<()> {
        let attributes = Attributes::new(Format::Gtf, columns[8]);
        let is_exon = feature == Feature::Exon;
        if is_exon && !attributes.is_readable() {
            let found = "attributes that are no `key \"value\";` list".into();
            return Err(self.error(number, found, "repair the ninth column of this line"));
        }
        let (gene, transcript) = (attributes.get("gene_id"), attributes.get("transcript_id"));
        let first = |tags: &[&str]| tags.iter().find_map(|tag| attributes.get(tag)).map(Arc::from);
        if let Some(gene) = &gene {
            let known = self.genes.entry(gene.clone()).or_default();
            known.biotype = known.biotype.take().or_else(|| first(&GENE_BIOTYPE));
            known.name = known.name.take().or_else(|| first(&GTF_GENE_NAME));
            if feature == Feature::Gene {
                known.lines += 1;
                known.feature = Some(feature);
                known.is_trans_spliced |= is_trans_spliced(&attributes);
                return Ok(());
            }
        }
        if matches!(feature, Feature::Gene | Feature::Other) {
            self.lines.leave_out_lines("of_other_features", 1);
            return Ok(());
        }
        let Some(transcript) = transcript else {
            if is_exon {
                let found = "an exon without a transcript_id".into();
                let remedy = "every GTF exon needs transcript_id \"...\"; in its ninth column";
                return Err(self.error(number, found, remedy));
            }
            self.lines.leave_out_lines("without_parent", 1);
            return Ok(());
        };
        let sequence = String::from_utf8_lossy(columns[0]).into_owned();
        let place = self.place(number, &sequence, columns);
        let entry = self.entries.entry(transcript.clone()).or_default();
        entry.parent = entry.parent.take().or(gene);
        entry.biotype = entry.biotype.take().or_else(|| first(&TRANSCRIPT_BIOTYPE));
        if feature == Feature::Transcript {
            entry.lines += 1;
            entry.feature = Some(feature);
            entry.is_trans_spliced |= is_trans_spliced(&attributes);
            entry.places.extend(place.ok().map(|place| (self.order, place)));
        } else {
            self.segment(&[transcript], feature, &attributes, &place?);
        }
        Ok(())
    }

    /// Checks a line's coordinates (1-based, closed in both formats) and strand, and converts them.
    fn place(&mut self, number: u64, sequence: &str, columns: &[&[u8]; 9]) -> Result<Place> {
        let term = String::from_utf8_lossy(columns[2]);
        let coordinate = |column: usize, name: &str| {
            let text =
                str::from_utf8(columns[column]).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            text.and_then(|text| text.parse::<u32>().ok()).filter(|&value| value > 0).ok_or_else(|| {
                let found = format!("the {name} of the {term} is not a whole number from 1 to {}", u32::MAX);
                self.error(number, found, "repair the fourth and fifth columns of this line")
            })
        };
        let (start, end) = (coordinate(3, "start")?, coordinate(4, "end")?);
        if start > end {
            let found = format!("the {term}'s start {start} lies behind its end {end}");
            return Err(self.error(number, found, "write the smaller coordinate first, on both strands"));
        }
        let strand = match columns[6] {
            b"+" => Some(Strand::Plus),
            b"-" => Some(Strand::Minus),
            b"." | b"?" => None,
            _ => {
                let found = format!("the strand of the {term} is none of + - . ?");
                return Err(self.error(number, found, "repair the seventh column of this line"));
            }
        };
        Ok(Place { sequence: self.sequences.number(sequence), strand, range: start - 1..end })
    }

    fn segment(&mut self, parents: &[String], feature: Feature, attributes: &Attributes, place: &Place) {
        let is_exon = feature == Feature::Exon;
        let number = EXON_NUMBER.iter().find_map(|tag| attributes.get(tag)?.parse().ok()).filter(|_| is_exon);
        let is_trans_spliced = is_trans_spliced(attributes);
        for parent in parents {
            self.segments.push(Segment {
                transcript: self.transcripts.number(parent),
                line: self.segment_lines,
                order: self.order,
                is_exon,
                number,
                is_trans_spliced,
                place: place.clone(),
            });
        }
        self.segment_lines += 1;
    }

    /// Makes transcripts of what was collected.
    pub(super) fn finish(self) -> Result<Annotation> {
        match self.format {
            Some(format) if !self.segments.is_empty() => Ok(super::group::transcripts(self, format)),
            _ => Err(self.no_exons()),
        }
    }

    fn no_exons(&self) -> Error {
        let found = if self.types.is_empty() {
            "no exon, and no other feature either".to_owned()
        } else {
            let types: Vec<_> = self.types.iter().map(|(name, count)| format!("{count} {name}")).collect();
            let orphans = match self.lines.left_out.get("without_parent") {
                None => "",
                Some(_) => " (exons without a Parent belong to no transcript)",
            };
            format!("no exon of a transcript; its features are: {}{orphans}", types.join(", "))
        };
        let remedy =
            "give an annotation with `exon` or CDS lines that name their transcript (GFF3: Parent, GTF: transcript_id)";
        Error::input(self.path, "", found, remedy)
    }

    fn error(&self, number: u64, found: String, remedy: &str) -> Error {
        Error::input(self.path, format!("line {number}"), found, remedy)
    }
}

/// The format of a ninth column: GFF3 writes `key=value`, GTF `key "value"`. `None` if it holds neither.
fn recognise(attributes: &[u8]) -> Option<Format> {
    let attributes = attributes.trim_ascii_start();
    match attributes.iter().find(|byte| matches!(byte, b'=' | b' ' | b'"')) {
        Some(b'=') => Some(Format::Gff3),
        Some(_) => Some(Format::Gtf),
        None => None,
    }
}

/// Whether a line says that it is of a transcript which is joined from several (INSDC's and RefSeq's `exception`).
fn is_trans_spliced(attributes: &Attributes) -> bool {
    attributes.values("exception").iter().any(|value| value.replace(['_', ' '], "-").contains("trans-splicing"))
}
