//! What the tests share: a genome to count on paper, a made-up one with enough genes for a dataset, and shorthands.

use std::path::{Path, PathBuf};

use helixgrad::genome::alias::Aliases;
use helixgrad::genome::annotation::Annotation;
use helixgrad::genome::pack::{PackedSequence, TwoBitWriter};
use helixgrad::genome::splice::GeneModel;
use helixgrad::genome::splice::dataset::{Options, Protocol, SpliceDataset, Window};
use helixgrad::genome::splice::split::{Part, Split};
use helixgrad::genome::twobit::Genome;
use helixgrad::philox::{Philox, Purpose, below};

pub use crate::program::helixgrad;

/// One sequence `c1` of 200 bases, all C but for the surroundings of the four sites.
///
/// Plus strand: exons 10..20, 60..70, 75..90; the intron 20..60 reads GT..AG, the gap 70..75 is too short for one.
/// Minus strand: exons 110..120, 160..175; the intron 120..160 reads CT..AC on the plus strand, so GT..AG on its own.
pub fn tiny_bases() -> Vec<u8> {
    let mut bases = vec![b'C'; 200];
    for (at, text) in [(16, b"TCAGGTAA"), (56, b"TTAGCCAT"), (116, b"AACCCTAG"), (156, b"TCACCTGC")] {
        bases[at..at + 8].copy_from_slice(text);
    }
    bases
}

pub const TINY_GFF3: &str = "##gff-version 3\n\
    1\th\tgene\t11\t90\t.\t+\t.\tID=gene:a;biotype=protein_coding\n\
    1\th\tmRNA\t11\t90\t.\t+\t.\tID=transcript:a1;Parent=gene:a\n\
    1\th\texon\t11\t20\t.\t+\t.\tParent=transcript:a1\n\
    1\th\texon\t61\t70\t.\t+\t.\tParent=transcript:a1\n\
    1\th\texon\t76\t90\t.\t+\t.\tParent=transcript:a1\n\
    1\th\tncRNA_gene\t111\t175\t.\t-\t.\tID=gene:b;biotype=lncRNA\n\
    1\th\tlnc_RNA\t111\t175\t.\t-\t.\tID=transcript:b1;Parent=gene:b\n\
    1\th\texon\t161\t175\t.\t-\t.\tParent=transcript:b1\n\
    1\th\texon\t111\t120\t.\t-\t.\tParent=transcript:b1\n";

pub const TINY_GTF: &str = "#!genome-build tiny\n\
    1\th\tgene\t11\t90\t.\t+\t.\tgene_id \"a\"; gene_biotype \"protein_coding\";\n\
    1\th\texon\t11\t20\t.\t+\t.\tgene_id \"a\"; transcript_id \"a1\";\n\
    1\th\texon\t61\t70\t.\t+\t.\tgene_id \"a\"; transcript_id \"a1\";\n\
    1\th\texon\t76\t90\t.\t+\t.\tgene_id \"a\"; transcript_id \"a1\";\n\
    1\th\texon\t161\t175\t.\t-\t.\tgene_id \"b\"; transcript_id \"b1\"; gene_biotype \"lncRNA\";\n\
    1\th\texon\t111\t120\t.\t-\t.\tgene_id \"b\"; transcript_id \"b1\"; gene_biotype \"lncRNA\";\n";

pub const TINY_BED: &str = "c1\t20\t22\tdonor\t0\t+\n\
    c1\t58\t60\tacceptor\t0\t+\n\
    c1\t120\t122\tacceptor\t0\t-\n\
    c1\t158\t160\tdonor\t0\t-\n";

pub fn pack(path: &Path, sequences: &[(&str, Vec<u8>)]) -> Genome {
    let mut writer = TwoBitWriter::create(path).unwrap();
    for (name, bases) in sequences {
        writer.add(name, &PackedSequence::from_ascii(bases).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    Genome::open(path).unwrap()
}

pub fn model(genome: &Genome, annotation: &str, alias: &[&str]) -> helixgrad::Result<GeneModel> {
    let annotation = Annotation::read(Path::new("annotation"), annotation.as_bytes())?;
    GeneModel::new(annotation, genome, &aliases(alias))
}

pub fn aliases(pairs: &[&str]) -> Aliases {
    let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
    Aliases::parse(&pairs, None).unwrap()
}

pub struct MadeUp {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
    pub gff3: String,
    pub genome: Genome,
}

/// Random bases with `genes` genes of three exons on each of three sequences, every other one on the minus strand.
/// The middle of the second intron is a repeat of GT on the gene's strand, so that many decoys would have one window.
/// Gene 1 of `s3` is a copy of gene 1 of `s1`, base by base with 100 bases on either side; there is an N behind the
/// first donor of gene 0 of `s1`.
pub fn made_up(genes: usize) -> MadeUp {
    const SPACING: usize = 1000;
    let philox = Philox::of(11, 0, Purpose::Corpus);
    let length = genes * SPACING + 500;
    let mut gff3 = "##gff-version 3\n".to_owned();
    let mut sequences = Vec::new();
    for (number, name) in ["s1", "s2", "s3"].into_iter().enumerate() {
        let base = |at: usize| b"ACGT"[below(philox.block((number * length + at) as u64)[0], 4) as usize];
        let mut bases: Vec<u8> = (0..length).map(base).collect();
        for gene in 0..genes {
            let start = gene * SPACING + 200;
            let exons = [start..start + 100, start + 200..start + 260, start + 400..start + 500];
            let minus = gene % 2 == 1;
            for gap in [exons[0].end..exons[1].start, exons[1].end..exons[2].start] {
                let (first, last): (&[u8], &[u8]) = if minus { (b"CT", b"AC") } else { (b"GT", b"AG") };
                bases[gap.start..gap.start + 2].copy_from_slice(first);
                bases[gap.end - 2..gap.end].copy_from_slice(last);
            }
            let repeat: &[u8] = if minus { b"AC" } else { b"GT" };
            bases[start + 264..start + 396].copy_from_slice(&repeat.repeat(66));
            let strand = if minus { '-' } else { '+' };
            let id = format!("{name}.{gene}");
            gff3 += &format!("{name}\th\tmRNA\t{}\t{}\t.\t{strand}\t.\tID={id};biotype=x\n", start + 1, start + 500);
            for exon in exons {
                gff3 += &format!("{name}\th\texon\t{}\t{}\t.\t{strand}\t.\tParent={id}\n", exon.start + 1, exon.end);
            }
        }
        sequences.push((name, bases));
    }
    let copied = sequences[0].1[SPACING + 100..SPACING + 800].to_vec();
    sequences[2].1[SPACING + 100..SPACING + 800].copy_from_slice(&copied);
    sequences[0].1[305] = b'N';
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made_up.2bit");
    let genome = pack(&path, &sequences);
    MadeUp { _folder: folder, path, gff3, genome }
}

pub fn options(protocol: Protocol) -> Options {
    Options { protocol, window: 80, ..Options::default() }
}

pub fn strict(split: Split) -> Options {
    options(Protocol::Strict { split })
}

pub fn all_rows(dataset: &SpliceDataset) -> impl Iterator<Item = (Part, &Window)> {
    Part::ALL.into_iter().flat_map(|part| dataset.part(part).iter().map(move |row| (part, row)))
}
