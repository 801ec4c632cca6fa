//! Transcripts from a GFF3 or GTF file.
//!
//! Both formats say which exons belong to which transcript; everything about splice sites follows from that. The
//! format is recognised from the content, gzip (bgzip included) from its magic bytes, so file names do not matter.
//!
//! Real files have oddities that are no reason to refuse them. They are handled as gffread handles them, or else, where that would make
//! introns up, left out; [`Oddities`] and [`Fates`] count both, and every transcript and every feature line of the file is in one of the
//! counts.

mod assemble;
mod attributes;
mod copies;
mod fates;
mod feature;
mod group;
mod lines;

use std::collections::BTreeSet;
use std::fmt;
use std::io::BufRead;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

pub use self::fates::{Fates, LeftOut};
use crate::gunzip;
use crate::{Error, Result};

/// One of the two strands of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Strand {
    /// The strand that the genome file holds.
    #[serde(rename = "+")]
    Plus,
    /// Its reverse complement.
    #[serde(rename = "-")]
    Minus,
}

impl Strand {
    /// `+` or `-`.
    pub fn symbol(self) -> char {
        match self {
            Self::Plus => '+',
            Self::Minus => '-',
        }
    }
}

impl fmt::Display for Strand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.symbol())
    }
}

/// The two file formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Format {
    /// Generic Feature Format 3: exons name their transcript in `Parent`.
    #[serde(rename = "gff3")]
    Gff3,
    /// Gene Transfer Format: exons name their transcript in `transcript_id`.
    #[serde(rename = "gtf")]
    Gtf,
}

/// One transcript on one strand of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// The sequence's name as the annotation spells it.
    pub sequence: Arc<str>,
    /// The strand it is read from.
    pub strand: Strand,
    /// Exons in ascending plus-strand coordinates, 0-based half-open, disjoint. At least one.
    pub exons: Vec<Range<u32>>,
    /// The transcript's biotype, or else its gene's (`protein_coding`, `lncRNA`, ...), where the file has one.
    pub biotype: Option<Arc<str>>,
    /// GFF3: the `ID` that its exons name as `Parent`. GTF: its `transcript_id`.
    pub id: String,
    /// GFF3: the transcript's own `Parent`, or its ID where it has none. GTF: its `gene_id`.
    pub gene: String,
    /// What people call the gene: its name where the file has one, or else `gene` without the `gene:` that Ensembl's GFF3
    /// puts before its IDs.
    pub gene_name: Arc<str>,
}

impl Transcript {
    /// First base of the first exon to the end of the last, plus-strand coordinates.
    pub fn span(&self) -> Range<u32> {
        let start = self.exons.first().map_or(0, |exon| exon.start);
        start..self.exons.last().map_or(start, |exon| exon.end)
    }

    /// The gaps between its exons that are at least `minimum` bases long, in ascending plus-strand coordinates.
    ///
    /// Shorter gaps are no introns: the shortest human ones have about 30 bases, and annotation pipelines write gaps of
    /// 1 to 10 bases to skip over frameshifts. Only the gap is passed over, the transcript's other introns stay.
    pub fn introns(&self, minimum: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        self.exons
            .windows(2)
            .map(|pair| pair[0].end..pair[1].start)
            .filter(move |gap| gap.end - gap.start >= minimum.max(1))
    }
}

/// A stretch of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exon {
    /// The sequence's name as the annotation spells it.
    pub sequence: Arc<str>,
    /// The strand it is read from.
    pub strand: Strand,
    /// Plus-strand coordinates, 0-based half-open.
    pub range: Range<u32>,
}

/// What was unusual about the transcripts that are used, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Oddities {
    /// Exons that overlap or repeat another exon of their transcript: merged with it.
    pub overlapping_exons: u64,
    /// Transcripts with exons on several sequences (copies under one name, as in pseudo-autosomal regions): one
    /// transcript is made for each sequence.
    pub transcripts_on_several_sequences: u64,
    /// Names of several transcripts on one sequence, told apart by their own lines, by the numbers of their exons or by their distance:
    /// one is made for each.
    pub transcripts_at_several_places: u64,
    /// Transcripts without exon lines, whose exons are made of coding and untranslated parts.
    pub transcripts_of_coding_parts: u64,
    /// Coding or untranslated parts where their transcript has no exon line, though it has others: taken as exons.
    pub parts_outside_exons: u64,
}

impl Oddities {
    /// The oddities that occurred, each with its number and what was done; empty for a clean file.
    pub fn notes(&self) -> Vec<String> {
        let notes = [
            (self.overlapping_exons, "exons overlap another exon of their transcript: merged"),
            (self.transcripts_on_several_sequences, "transcripts have exons on several sequences: one made for each"),
            (self.transcripts_at_several_places, "names belong to transcripts at several places: one made for each"),
            (self.transcripts_of_coding_parts, "transcripts have no exon lines: exons made of their CDS and UTR lines"),
            (self.parts_outside_exons, "CDS and UTR lines lie outside the exons of their transcript: taken as exons"),
        ];
        notes.into_iter().filter(|(count, _)| *count > 0).map(|(count, text)| format!("{count} {text}")).collect()
    }
}

/// The transcripts of one file, in the order of their first exon in it.
#[derive(Clone, Debug)]
pub struct Annotation {
    /// The file.
    pub path: PathBuf,
    /// What it was recognised as.
    pub format: Format,
    /// Its transcripts.
    pub transcripts: Vec<Transcript>,
    /// What was unusual.
    pub oddities: Oddities,
    /// What became of its transcripts.
    pub fates: Fates,
    /// What became of its feature lines.
    pub lines: Fates,
    /// The exons of transcripts that were left out: their ends may be splice sites.
    pub doubtful: Vec<Exon>,
    /// Names of sequences that the file says are circles.
    pub circular: BTreeSet<String>,
}

impl Annotation {
    /// Reads a GFF3 or GTF file, plain or gzipped; `-` is standard input.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Input`] with the line number if a line is malformed, if the
    /// compressed data is damaged, or if there is no exon.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::read(path, gunzip::open(path)?)
    }

    /// As [`Annotation::open`], from any reader; `path` is only named in messages.
    ///
    /// # Errors
    /// As [`Annotation::open`].
    pub fn read(path: &Path, reader: impl BufRead) -> Result<Self> {
        let mut lines = lines::Lines::new(path, reader)?;
        let mut builder = assemble::Builder::new(path);
        while let Some((number, line)) = lines.next()? {
            if line.starts_with(b">") && builder.is_empty() {
                return Err(Error::input(
                    path,
                    format!("line {number}"),
                    "a FASTA record, not an annotation",
                    "give a GFF3 or GTF file (plain or .gz); the genome is a separate option",
                ));
            }
            if line.trim_ascii_end() == b"##FASTA" || line.starts_with(b">") {
                break;
            }
            builder.line(number, line)?;
        }
        builder.finish()
    }

    /// The names of the sequences that carry transcripts, in the order of the file.
    pub fn sequence_names(&self) -> Vec<&str> {
        let mut seen = std::collections::HashSet::new();
        self.transcripts.iter().map(|t| &*t.sequence).filter(|name| seen.insert(*name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GFF3: &str = "##gff-version 3\n\
        chr1\tx\tgene\t11\t200\t.\t+\t.\tID=g1;Name=BRCA1;biotype=protein_coding\n\
        chr1\tx\tmRNA\t11\t200\t.\t+\t.\tID=t1;Parent=g1\n\
        chr1\tx\tlnc_RNA\t11\t200\t.\t+\t.\tID=t2;Parent=g1;biotype=lncRNA\n\
        chr1\tx\texon\t101\t200\t.\t+\t.\tParent=t1,t2\n\
        chr1\tx\texon\t11\t20\t.\t+\t.\tParent=t1\n\
        chr1\tx\texon\t31\t40\t.\t+\t.\tParent=t2\n\
        ##FASTA\n>chr1\nACGT\n";

    const GTF: &str = "#!genome-build x\n\
        1\tx\texon\t101\t200\t.\t-\t.\tgene_id \"g\"; transcript_id \"t\"; exon_number \"1\"; gene_biotype \"lincRNA\"; gene_name \"XIST\";\n\
        1\tx\texon\t11\t20\t.\t-\t.\tgene_id \"g\"; transcript_id \"t\"; exon_number \"2\"; gene_biotype \"lincRNA\";\n";

    fn read(text: &str) -> Result<Annotation> {
        Annotation::read(Path::new("a.gff"), text.as_bytes())
    }

    fn message(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn gff3_exons_may_have_several_parents_and_inherit_the_biotype() {
        let annotation = read(GFF3).unwrap();
        assert_eq!(annotation.format, Format::Gff3);
        let [t1, t2] = annotation.transcripts.as_slice() else { panic!("{annotation:?}") };
        assert_eq!((t1.id.as_str(), t1.gene.as_str(), t1.biotype.as_deref()), ("t1", "g1", Some("protein_coding")));
        assert_eq!((&*t1.gene_name, &*t2.gene_name), ("BRCA1", "BRCA1"));
        assert_eq!(t1.exons, [10..20, 100..200]);
        assert_eq!((t2.biotype.as_deref(), t2.exons.as_slice()), (Some("lncRNA"), [30..40, 100..200].as_slice()));
        assert!(t1.introns(30).eq(std::iter::once(20..100)));
        assert_eq!(t2.introns(61).count(), 0);
        assert_eq!(t2.introns(60).count(), 1);
    }

    #[test]
    fn gtf_groups_by_transcript_id() {
        let annotation = read(GTF).unwrap();
        assert_eq!(annotation.format, Format::Gtf);
        let [t] = annotation.transcripts.as_slice() else { panic!("{annotation:?}") };
        assert_eq!((t.strand, t.exons.as_slice()), (Strand::Minus, [10..20, 100..200].as_slice()));
        assert_eq!((t.biotype.as_deref(), t.gene.as_str(), t.id.as_str()), (Some("lincRNA"), "g", "t"));
        assert_eq!(&*t.gene_name, "XIST");
        // Without a name the ID, as people write it.
        let nameless = |text: &str| read(text).unwrap().transcripts[0].gene_name.clone();
        assert_eq!(&*nameless(&GTF.replace("gene_name", "nickname")), "g");
        assert_eq!(&*nameless(&GFF3.replace("g1", "gene:g1").replace("Name=BRCA1;", "")), "g1");
    }

    #[test]
    fn crlf_and_blank_lines_do_not_disturb_line_numbers() {
        let text = GFF3.replace('\n', "\r\n\r\n").replace("\t101\t200", "\t201\t200");
        assert!(message(&text).contains("a.gff, line 9: "), "{}", message(&text));
        assert_eq!(read(&GFF3.replace('\n', "\r\n")).unwrap().transcripts, read(GFF3).unwrap().transcripts);
        // A byte order mark.
        assert_eq!(read(&format!("\u{feff}{}", &GFF3[16..])).unwrap().transcripts, read(GFF3).unwrap().transcripts);
    }

    #[test]
    fn bad_lines_are_named() {
        for (from, to, place, found) in [
            ("\t11\t20\t", "\t21\t20\t", "line 6", "start 21 lies behind its end 20"),
            ("\t11\t20\t", "\t0\t20\t", "line 6", "start"),
            ("\t11\t20\t", "\tx\t20\t", "line 6", "start"),
            ("\t11\t20\t", "\t11\t99999999999\t", "line 6", "end"),
            ("\t11\t20\t.\t+", "\t11\t20\t.\tplus", "line 6", "strand"),
            ("\t11\t20\t", "\t11 20\t", "line 6", "8 tab-separated columns"),
        ] {
            let text = message(&GFF3.replace(from, to));
            assert!(text.contains(place) && text.contains(found) && text.contains("what to do"), "{from:?} {text}");
        }
        let text = message(&GTF.replace("transcript_id \"t\"; exon_number \"2\"", "exon_number \"2\""));
        assert!(text.contains("line 3") && text.contains("transcript_id"), "{text}");
    }

    #[test]
    fn a_file_without_exons_says_what_it_has() {
        let text = message(&GFF3.replace("\texon\t", "\tsome_part\t"));
        assert!(text.contains("no exon") && text.contains("3 some_part") && text.contains("1 gene"), "{text}");
        assert!(message("").contains("empty"));
        assert!(message("# only a comment\n").contains("no exon"));
        assert!(message(">chr1\nACGTACGT\n").contains("FASTA"), "{}", message(">chr1\nACGTACGT\n"));
    }

    #[test]
    fn oddities_are_handled_and_counted() {
        let more = "chr1\tx\texon\t15\t25\t.\t+\t.\tParent=t1\n\
            chr1\tx\texon\t300\t310\t.\t+\t.\tParent=trans\nchr1\tx\texon\t400\t410\t.\t-\t.\tParent=trans\n\
            chr1\tx\texon\t300\t310\t.\t+\t.\tParent=par\nchr2\tx\texon\t300\t310\t.\t-\t.\tParent=par\n\
            chr1\tx\texon\t300\t310\t.\t.\t.\tParent=bare\nchr1\tx\texon\t320\t330\t.\t.\t.\tParent=bare\n\
            chr1\tx\texon\t1\t2\t.\t+\t.\tName=orphan\n##FASTA";
        let annotation = read(&GFF3.replace("##FASTA", more)).unwrap();
        let left_out = |fates: &Fates| {
            let left = fates.left_out.iter().map(|(reason, left)| (*reason, left.count, left.first.join(" ")));
            left.collect::<Vec<_>>()
        };
        assert_eq!(
            left_out(&annotation.fates),
            [("on_both_strands", 1, "trans".to_owned()), ("without_strand", 1, "bare".to_owned())]
        );
        let lines = [("of_transcripts_left_out", 4, String::new()), ("without_parent", 1, String::new())];
        assert_eq!(left_out(&annotation.lines), lines);
        assert_eq!((annotation.fates.all(), annotation.lines.all()), (6, 14));
        assert_eq!(annotation.fates.notes()[0], "1 on both strands (trans)");
        let expected = Oddities { overlapping_exons: 1, transcripts_on_several_sequences: 1, ..Oddities::default() };
        assert_eq!(annotation.oddities, expected);
        assert_eq!(annotation.transcripts[0].exons, [10..25, 100..200]);
        let names: Vec<_> = annotation.transcripts.iter().map(|t| (t.id.as_str(), &*t.sequence)).collect();
        assert_eq!(names, [("t1", "chr1"), ("t2", "chr1"), ("par", "chr1"), ("par", "chr2")]);
        assert_eq!(annotation.oddities.notes().len(), 2);
        assert_eq!(annotation.doubtful.len(), 6);
    }
}
