//! One haplotype has one answer, however a record writes it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use helixgrad::genome::alias::Aliases;
use helixgrad::genome::annotation::Annotation;
use helixgrad::genome::splice::GeneModel;
use helixgrad::inference::variants::Annotator;
use helixgrad::inference::variants::genes::Genes;
use proptest::prelude::*;
use proptest::sample::Index;

use super::support::*;

const HEADER: &str = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n";

/// Every record of one alternate allele that makes `other` of `sequence`: position (1-based), REF and ALT, with up to `padding` bases
/// more than needed at either end.
fn records(sequence: &[u8], other: &[u8], padding: usize) -> Vec<(usize, String, String)> {
    let text = |bases: &[u8]| String::from_utf8(bases.to_vec()).unwrap();
    let length = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let before = length(sequence, other);
    let reversed = |bases: &[u8]| bases.iter().rev().copied().collect::<Vec<_>>();
    let behind = length(&reversed(sequence), &reversed(other));
    let mut records = Vec::new();
    for start in before.saturating_sub(sequence.len().abs_diff(other.len()) + padding + 64)..=before {
        for rest in behind.saturating_sub(sequence.len().abs_diff(other.len()) + padding + 64)..=behind {
            let (end, other_end) = (sequence.len() as isize - rest as isize, other.len() as isize - rest as isize);
            let shorter = (end.min(other_end) - start as isize).max(-1);
            // One anchor where nothing would be left; no more than `padding` bases that the alleles share.
            if shorter < 1
                || shorter as usize > padding + sequence.len().min(other.len()).saturating_sub(before + behind)
            {
                continue;
            }
            records.push((start + 1, text(&sequence[start..end as usize]), text(&other[start..other_end as usize])));
        }
    }
    records
}

/// What each record's field says, with places as bases of the sequence.
fn answers(vcf: &str) -> Vec<Vec<String>> {
    let records = vcf.lines().filter(|line| !line.starts_with('#'));
    let answer = |line: &str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let position: i64 = columns[1].parse().unwrap();
        if let Some(skipped) = columns[7].strip_prefix("HELIXGRAD_SKIPPED=") {
            return vec![skipped.rsplit('|').next().unwrap().to_owned()];
        }
        let values = columns[7].strip_prefix("HELIXGRAD=").unwrap().split(',');
        let absolute = |value: &str| {
            let fields = value.split('|').skip(1).enumerate().map(|(index, field)| match field.parse::<i64>() {
                Ok(place) if index >= 6 => (position + place).to_string(),
                _ => field.to_owned(),
            });
            fields.collect::<Vec<_>>().join("|")
        };
        values.map(absolute).collect()
    };
    records.map(answer).collect()
}

struct Fixture {
    folder: tempfile::TempDir,
    scorer: helixgrad::inference::splice::SpliceScorer,
}

thread_local! {
    static FIXTURE: Fixture = {
        let folder = tempfile::tempdir().unwrap();
        let scorer = splice_scorer(&splice_model(folder.path()));
        Fixture { folder, scorer }
    };
}

/// The answers to `records` on `sequence`; with `genes`, for these of an annotation.
fn scored(sequence: &[u8], records: &[(usize, String, String)], genes: Option<&str>) -> Vec<Vec<String>> {
    FIXTURE.with(|Fixture { folder, scorer }| {
        let genome = open(&genome(folder.path(), &[("x", sequence)]));
        let (vcf, out) = (folder.path().join("in.vcf"), folder.path().join("out.vcf"));
        let lines: String =
            records.iter().map(|(position, r, a)| format!("x\t{position}\t.\t{r}\t{a}\t.\t.\t.\n")).collect();
        fs::write(&vcf, format!("{HEADER}{lines}")).unwrap();
        let options = variant_options();
        let aliases = Aliases::default();
        let genes = genes.map(|text| {
            let annotation = Annotation::read(Path::new("genes.gff3"), text.as_bytes()).unwrap();
            Genes::new(&GeneModel::new(annotation, &genome, &aliases).unwrap())
        });
        let annotator =
            Annotator { scorer, genome: &genome, aliases: &aliases, genes: genes.as_ref(), options: &options };
        annotator.annotate(&vcf, &out, &[]).unwrap();
        answers(&fs::read_to_string(&out).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A repeat of a drawn unit between random bases, some of it taken out or more of it put in, or several bases replaced: every way
    /// to write that has the same scores at the same bases, in the same genes.
    #[test]
    fn equivalent_records_have_the_same_answers(
        seed in any::<u64>(),
        unit in "[ACGT]{1,6}|AG|GT|CAG|GTAAG|AGGT",
        copies in 1..12_usize,
        kind in 0..4_u8,
        size in 1..8_usize,
        place in any::<Index>(),
    ) {
        let around = bases(seed, 300);
        let repeat = unit.repeat(copies).into_bytes();
        let sequence = [&around[..150], &repeat, &around[150..]].concat();
        let at = 150 + place.index(repeat.len());
        let taken = size.min(150 + repeat.len() - at);
        let other = match kind {
            // Units, a part of one perhaps, are taken out or put in.
            0 => [&sequence[..at], &sequence[at + taken..]].concat(),
            1 => [&sequence[..at], &sequence[at..at + taken], &sequence[at..]].concat(),
            2 => [&sequence[..at], &bases(seed ^ 1, size), &sequence[at..]].concat(),
            // Single bases and runs of them.
            _ => [&sequence[..at], &bases(seed ^ 2, taken), &sequence[at + taken..]].concat(),
        };
        prop_assume!(other != sequence);
        let records = records(&sequence, &other, 3);
        prop_assert!(records.len() > 3);
        let distinct: BTreeSet<Vec<String>> = scored(&sequence, &records, None).into_iter().collect();
        prop_assert_eq!(distinct.len(), 1, "{:?}: {:?}", records, distinct);
        let edge = 150 + repeat.len() / 2;
        let gene = |id: &str, start: usize, end: usize, strand: char| {
            format!("x\tt\texon\t{start}\t{end}\t.\t{strand}\t.\tParent={id}\n")
        };
        let genes = format!("##gff-version 3\n{}{}", gene("a", 20, edge, '+'), gene("b", edge + 1, 290, '-'));
        let distinct: BTreeSet<Vec<String>> = scored(&sequence, &records, Some(&genes)).into_iter().collect();
        prop_assert_eq!(distinct.len(), 1, "{:?}: {:?}", records, distinct);
    }
}

/// A donor inside a repeat of its own first bases: whatever unit is taken out, the one at the edge to the exon is what is lost, and the
/// answer of each way to write it is that of the left-most one.
#[test]
fn left_and_right_aligned_records_agree() {
    let sequence = [&bases(31, 100)[..], b"CGTAAGTAAGTAAGTAAGC", &bases(32, 100)].concat();
    let write = |at: usize, r: &str, a: &str| (at, r.to_owned(), a.to_owned());
    let records = [
        write(101, "CGTAA", "C"),
        write(104, "AAGTA", "A"),
        write(112, "AAGTA", "A"),
        write(113, "AGTAA", "A"),
        write(113, "AGTAAGC", "AGC"),
    ];
    let answers = scored(&sequence, &records, None);
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:#?}");
    assert!(answers[0].iter().any(|value| !value.contains("|0.000000|0.000000|0.000000|0.000000|")), "{answers:#?}");
}

#[test]
fn a_repeat_that_is_too_long_says_so_wherever_it_is_written() {
    let sequence = [&bases(33, 100)[..], &[b'A'; 10_100], &bases(34, 100)].concat();
    let write = |at: usize, r: &str, a: &str| (at, r.to_owned(), a.to_owned());
    let records = [write(150, "AA", "A"), write(5_000, "A", "AA"), write(10_150, "AAA", "A"), write(150, "A", "C")];
    let answers = scored(&sequence, &records, None);
    assert!(answers[..3].iter().all(|answer| answer == &["repeat_too_long"]), "{answers:?}");
    assert_eq!(answers[3].len(), 2);
}
