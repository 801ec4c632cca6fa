//! From feature lines to transcripts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use noodles_gff::feature::record::Strand as FileStrand;
use noodles_gff::record::attributes::field::Value as GffValue;
use noodles_gtf::record::attributes::field::Value as GtfValue;
use {noodles_gff as gff, noodles_gtf as gtf};

use super::{Annotation, Format, Oddities, Strand, Transcript};
use crate::{Error, Result};

const GIVE_ANNOTATION: &str = "give a GFF3 or GTF file (plain or .gz)";

/// Where an Ensembl, GENCODE or RefSeq file writes the biotype, the more specific first.
const TRANSCRIPT_BIOTYPE: [&str; 3] = ["transcript_biotype", "transcript_type", "biotype"];
const GENE_BIOTYPE: [&str; 3] = ["gene_biotype", "gene_type", "biotype"];
/// Where they write a gene's name: GENCODE in each of its lines, Ensembl and RefSeq in the GFF3 line of the gene, RefSeq's GTF
/// as `gene`.
const GFF3_GENE_NAME: [&str; 2] = ["gene_name", "Name"];
const GTF_GENE_NAME: [&str; 2] = ["gene_name", "gene"];

/// One exon line, once for each of its parents.
struct Exon {
    transcript: usize,
    sequence: usize,
    strand: Option<Strand>,
    range: Range<u32>,
}

/// What the file says about a transcript or a gene apart from its exons.
#[derive(Default)]
struct Entry {
    parent: Option<String>,
    biotype: Option<String>,
    name: Option<String>,
}

/// The parts of a line that do not depend on the format.
struct Place {
    sequence: String,
    strand: Option<Strand>,
    range: Range<u32>,
}

/// Numbers names in the order in which they come.
#[derive(Default)]
struct Names {
    numbers: HashMap<String, usize>,
    names: Vec<String>,
}

impl Names {
    fn number(&mut self, name: &str) -> usize {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), self.names.len() - 1);
        self.names.len() - 1
    }
}

/// Collects lines, then groups exons into transcripts.
pub(super) struct Builder<'a> {
    path: &'a Path,
    format: Option<Format>,
    exons: Vec<Exon>,
    sequences: Names,
    transcripts: Names,
    /// GFF3: every feature with an ID that may be above an exon. GTF: transcripts.
    entries: HashMap<String, Entry>,
    /// GTF: genes, whose IDs are a name space of their own there.
    genes: HashMap<String, Entry>,
    types: BTreeMap<String, u64>,
    oddities: Oddities,
}

impl<'a> Builder<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self {
            path,
            format: None,
            exons: Vec::new(),
            sequences: Names::default(),
            transcripts: Names::default(),
            entries: HashMap::new(),
            genes: HashMap::new(),
            types: BTreeMap::new(),
            oddities: Oddities::default(),
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
        if columns.len() != 9 {
            let found = format!("{} tab-separated columns where GFF3 and GTF have 9", columns.len());
            return Err(self.error(number, found, GIVE_ANNOTATION));
        }
        let kind = String::from_utf8_lossy(columns[2]).into_owned();
        let is_exon = kind == "exon";
        // CDS, UTR and codon lines are the bulk of a file and say nothing that the exons do not.
        let is_container = !matches!(kind.as_str(), "CDS" | "start_codon" | "stop_codon") && !kind.contains("UTR");
        *self.types.entry(kind).or_default() += 1;
        self.format = self.format.or_else(|| recognise(columns[8]));
        match self.format {
            Some(Format::Gff3) if is_exon || is_container => self.gff3(number, line, is_exon),
            Some(Format::Gtf) if is_exon || is_container => self.gtf(number, line, is_exon),
            None if is_exon => {
                Err(self.error(number, "an exon without attributes".into(), "add Parent (GFF3) or transcript_id (GTF)"))
            }
            _ => Ok(()),
        }
    }

    fn gff3(&mut self, number: u64, bytes: &[u8], is_exon: bool) -> Result<()> {
        let mut line = gff::Line::default();
        gff::io::Reader::new(bytes).read_line(&mut line).map_err(Error::io("read", self.path))?;
        let Some(record) = line.as_record() else { return Ok(()) };
        let record = record.map_err(|_| self.error(number, "no GFF3 line".into(), GIVE_ANNOTATION))?;
        let attributes = record.attributes();
        let get = |tag: &str| gff_values(&attributes, tag);
        let parents = get("Parent");
        if !is_exon {
            if let Some(id) = get("ID").into_iter().next() {
                let tags = if parents.is_empty() { GENE_BIOTYPE } else { TRANSCRIPT_BIOTYPE };
                let biotype = tags.iter().find_map(|tag| get(tag).into_iter().next());
                let name = GFF3_GENE_NAME.iter().find_map(|tag| get(tag).into_iter().next());
                self.entries.insert(id, Entry { parent: parents.into_iter().next(), biotype, name });
            }
            return Ok(());
        }
        if parents.is_empty() {
            self.oddities.exons_without_parent += 1;
            return Ok(());
        }
        let sequence = String::from_utf8_lossy(&record.reference_sequence_name()).into_owned();
        let (start, end) = (record.start().ok().map(usize::from), record.end().ok().map(usize::from));
        let place = self.place(number, sequence, start, end, record.strand().ok())?;
        for parent in &parents {
            self.exon(parent, &place);
        }
        Ok(())
    }

    fn gtf(&mut self, number: u64, bytes: &[u8], is_exon: bool) -> Result<()> {
        let mut line = gtf::Line::default();
        gtf::io::Reader::new(bytes).read_line(&mut line).map_err(Error::io("read", self.path))?;
        let Some(record) = line.as_record() else { return Ok(()) };
        let record = record.map_err(|_| self.error(number, "no GTF line".into(), GIVE_ANNOTATION))?;
        let attributes = match record.attributes() {
            Ok(attributes) => attributes,
            Err(_) if !is_exon => return Ok(()),
            Err(_) => {
                let found = "attributes that are no `key \"value\";` list".into();
                return Err(self.error(number, found, "repair the ninth column of this line"));
            }
        };
        let get = |tag: &str| match attributes.get(tag.as_bytes()) {
            Some(Ok(value)) => gtf_first(value).filter(|text| !text.is_empty()),
            _ => None,
        };
        let (gene, transcript) = (get("gene_id"), get("transcript_id"));
        if let Some(gene) = &gene {
            let known = self.genes.entry(gene.clone()).or_default();
            known.biotype = known.biotype.take().or_else(|| GENE_BIOTYPE.iter().find_map(|tag| get(tag)));
            known.name = known.name.take().or_else(|| GTF_GENE_NAME.iter().find_map(|tag| get(tag)));
        }
        let Some(transcript) = transcript else {
            if is_exon {
                let found = "an exon without a transcript_id".into();
                return Err(self.error(
                    number,
                    found,
                    "every GTF exon needs transcript_id \"...\"; in its ninth column",
                ));
            }
            return Ok(());
        };
        let entry = self.entries.entry(transcript.clone()).or_default();
        entry.parent = entry.parent.take().or(gene);
        entry.biotype = entry.biotype.take().or_else(|| TRANSCRIPT_BIOTYPE.iter().find_map(|tag| get(tag)));
        if is_exon {
            let sequence = String::from_utf8_lossy(record.reference_sequence_name()).into_owned();
            let (start, end) = (record.start().ok().map(usize::from), record.end().ok().map(usize::from));
            let place = self.place(number, sequence, start, end, record.strand().ok())?;
            self.exon(&transcript, &place);
        }
        Ok(())
    }

    /// Checks an exon's coordinates (1-based, closed in both formats) and converts them.
    fn place(
        &self,
        number: u64,
        sequence: String,
        start: Option<usize>,
        end: Option<usize>,
        strand: Option<FileStrand>,
    ) -> Result<Place> {
        let coordinate = |value: Option<usize>, name: &str| {
            value.and_then(|value| u32::try_from(value).ok()).ok_or_else(|| {
                let found = format!("the {name} of the exon is not a whole number from 1 to {}", u32::MAX);
                self.error(number, found, "repair the fourth and fifth columns of this line")
            })
        };
        let (start, end) = (coordinate(start, "start")?, coordinate(end, "end")?);
        if start > end {
            let found = format!("the exon's start {start} lies behind its end {end}");
            return Err(self.error(number, found, "write the smaller coordinate first, on both strands"));
        }
        let strand = match strand {
            Some(FileStrand::Forward) => Some(Strand::Plus),
            Some(FileStrand::Reverse) => Some(Strand::Minus),
            Some(FileStrand::None | FileStrand::Unknown) => None,
            None => {
                let found = "the strand of the exon is none of + - . ?".into();
                return Err(self.error(number, found, "repair the seventh column of this line"));
            }
        };
        Ok(Place { sequence, strand, range: start - 1..end })
    }

    fn exon(&mut self, transcript: &str, place: &Place) {
        self.exons.push(Exon {
            transcript: self.transcripts.number(transcript),
            sequence: self.sequences.number(&place.sequence),
            strand: place.strand,
            range: place.range.clone(),
        });
    }

    /// Groups the exons.
    pub(super) fn finish(mut self) -> Result<Annotation> {
        let Some(format) = self.format.filter(|_| !self.exons.is_empty()) else {
            return Err(self.no_exons());
        };
        let mut exons = std::mem::take(&mut self.exons);
        exons.sort_by_key(|exon| (exon.transcript, exon.sequence, exon.range.start, exon.range.end));
        let mut transcripts = Vec::new();
        for copies in exons.chunk_by(|a, b| a.transcript == b.transcript) {
            let mut sequences = 0;
            for group in copies.chunk_by(|a, b| a.sequence == b.sequence) {
                sequences += 1;
                transcripts.extend(self.transcript(group));
            }
            self.oddities.transcripts_on_several_sequences += u64::from(sequences > 1);
        }
        Ok(Annotation { path: self.path.to_owned(), format, transcripts, oddities: self.oddities })
    }

    /// The transcript made of `exons` (sorted, of one transcript on one sequence), unless its strand is unclear.
    fn transcript(&mut self, exons: &[Exon]) -> Option<Transcript> {
        let strands: HashSet<_> = exons.iter().filter_map(|exon| exon.strand).collect();
        if strands.len() > 1 {
            self.oddities.transcripts_on_both_strands += 1;
            return None;
        }
        let Some(&strand) = strands.iter().next() else {
            self.oddities.transcripts_without_strand += u64::from(exons.len() > 1);
            return None;
        };
        let mut merged: Vec<Range<u32>> = Vec::with_capacity(exons.len());
        for exon in exons {
            match merged.last_mut() {
                Some(last) if exon.range.start < last.end => {
                    last.end = last.end.max(exon.range.end);
                    self.oddities.overlapping_exons += 1;
                }
                _ => merged.push(exon.range.clone()),
            }
        }
        let id = self.transcripts.names[exons[0].transcript].clone();
        let entry = self.entries.get(&id);
        let gene = entry.and_then(|entry| entry.parent.clone()).unwrap_or_else(|| id.clone());
        let genes = if self.format == Some(Format::Gtf) { &self.genes } else { &self.entries };
        let of_gene = genes.get(&gene);
        let biotype = entry.into_iter().chain(of_gene).find_map(|entry| entry.biotype.clone());
        let name = of_gene.and_then(|entry| entry.name.clone());
        let gene_name = name.unwrap_or_else(|| gene.strip_prefix("gene:").unwrap_or(&gene).to_owned());
        let sequence = self.sequences.names[exons[0].sequence].clone();
        Some(Transcript { sequence, strand, exons: merged, biotype, id, gene, gene_name })
    }

    fn no_exons(&self) -> Error {
        let found = if self.types.is_empty() {
            "no exon, and no other feature either".to_owned()
        } else {
            let types: Vec<_> = self.types.iter().map(|(name, count)| format!("{count} {name}")).collect();
            let orphans = match self.oddities.exons_without_parent {
                0 => String::new(),
                _ => " (exons without a Parent belong to no transcript)".to_owned(),
            };
            format!("no exon of a transcript; its features are: {}{orphans}", types.join(", "))
        };
        let remedy =
            "give an annotation with `exon` lines that name their transcript (GFF3: Parent, GTF: transcript_id)";
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

/// The values of a GFF3 tag. Some files write `; ` between attributes, so blanks around a tag do not count.
fn gff_values(attributes: &gff::record::Attributes<'_>, tag: &str) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    // Iteration does not advance over a malformed attribute: it ends there.
    let found = attributes.iter().map_while(|field| field.ok()).find(|(name, _)| name.trim_ascii() == tag.as_bytes());
    let mut values: Vec<String> = match found {
        Some((_, GffValue::String(value))) => vec![text(&value)],
        Some((_, GffValue::Array(values))) => values.iter().map(|value| text(&value)).collect(),
        None => Vec::new(),
    };
    values.retain(|value| !value.is_empty());
    values
}

fn gtf_first(value: &GtfValue<'_>) -> Option<String> {
    value.iter().next().map(|text| String::from_utf8_lossy(text).into_owned())
}
