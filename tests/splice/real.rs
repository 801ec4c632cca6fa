//! Real files: a `shared/data` folder beside the checkout, if there is one.

use std::fs;
use std::path::{Path, PathBuf};

use helixgrad::genome::annotation::{Annotation, Oddities};
use helixgrad::genome::splice::dataset::{Options, Protocol, SpliceDataset};
use helixgrad::genome::splice::split::Split;
use helixgrad::genome::splice::{GeneModel, Kind};
use helixgrad::genome::twobit::Genome;
use helixgrad::train::baselines::{Baselines, gt_ag_rule};
use helixgrad::train::metrics::{Confusion, SpliceMetrics};

use crate::inputs::{aliases, all_rows, helixgrad};

fn shared(test: &str, path: &str) -> Option<PathBuf> {
    let root = std::env::var("HELIXGRAD_SHARED").unwrap_or_else(|_| "../shared".into());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(root).join("data").join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {test}: {} is not there", path.display());
    None
}

/// Packs a whole FASTA file and places its annotation.
fn real(folder: &Path, fasta: &Path, annotation: &Path, alias: &[&str]) -> (Genome, GeneModel) {
    let packed = folder.join(fasta.file_name().unwrap()).with_extension("2bit");
    let output = helixgrad(&["genome", "pack", "--quiet", fasta.to_str().unwrap(), packed.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let genome = Genome::open(&packed).unwrap();
    let annotation = Annotation::open(annotation).unwrap();
    assert_eq!(annotation.oddities, Oddities::default());
    assert!(annotation.fates.left_out.is_empty(), "{:?}", annotation.fates);
    let model = GeneModel::new(annotation, &genome, &aliases(alias)).unwrap();
    (genome, model)
}

fn chromosome_x(folder: &Path, test: &str) -> Option<(Genome, GeneModel)> {
    let fasta = shared(test, "grch37_chrX_70M/hs37chrXtrunc.fa.gz")?;
    let annotation = shared(test, "grch37_chrX_70M/GRCh37.chrX_1-69999930.gff3.gz")?;
    Some(real(folder, &fasta, &annotation, &["NC_000023.10=X"]))
}

fn chromosome_9(folder: &Path, test: &str) -> Option<(Genome, GeneModel)> {
    let fasta = shared(test, "grch38_chr9_1M/chr9_1_1000000.fa.gz")?;
    let annotation = shared(test, "grch38_chr9_1M/chr9_1_1000000.gtf.gz")?;
    Some(real(folder, &fasta, &annotation, &[]))
}

#[test]
fn real_annotations_have_the_known_numbers_of_sites() {
    let folder = tempfile::tempdir().unwrap();
    let test = "real_annotations_have_the_known_numbers_of_sites";
    if let Some((genome, x)) = chromosome_x(folder.path(), test) {
        let table = x.sites(&genome, 30);
        assert_eq!((table.count(Kind::Donor), table.count(Kind::Acceptor)), (4376, 4289));
        assert!((table.gt_ag_share() - 0.955).abs() < 5e-4, "{}", table.gt_ag_share());
        let coding = x.with_biotypes(&["protein_coding".into()]).unwrap().sites(&genome, 30);
        assert!((coding.gt_ag_share() - 0.976).abs() < 5e-4, "{}", coding.gt_ag_share());
    }
    if let Some((genome, nine)) = chromosome_9(folder.path(), test) {
        let table = nine.sites(&genome, 30);
        assert_eq!((table.count(Kind::Donor), table.count(Kind::Acceptor)), (154, 147));
    }
}

/// Trained on chromosome X and tested on the first million bases of chromosome 9, the two baselines have figures that
/// were measured independently. The negatives are other draws, hence the tolerance;
/// with true negatives counted the other way (see `train::metrics`), the rule's MCC on decoys would be over 0.4.
#[test]
fn the_baselines_reach_their_known_figures_on_another_chromosome() {
    let folder = tempfile::tempdir().unwrap();
    let test = "the_baselines_reach_their_known_figures_on_another_chromosome";
    let Some((x_genome, x)) = chromosome_x(folder.path(), test) else {
        return;
    };
    let Some((nine_genome, nine)) = chromosome_9(folder.path(), test) else {
        return;
    };
    let cases = [
        (Protocol::Strict { split: Split::Region }, [0.562, 0.720, -0.059, 0.461], [0.871, 0.875, 0.742, 0.772]),
        (Protocol::ModelCard, [0.872, 0.873, 0.770, 0.839], [0.945, 0.945, 0.892, 0.919]),
    ];
    for (protocol, rule, pwm) in cases {
        let build = |genome, model| {
            SpliceDataset::build(genome, model, &Options { protocol: protocol.clone(), ..Options::default() }).unwrap()
        };
        let (trained, tested) = (build(&x_genome, &x), build(&nine_genome, &nine));
        assert_eq!(trained.leakage.is_clean(), protocol != Protocol::ModelCard);
        let (train, train_labels): (Vec<&[u8]>, Vec<u8>) =
            trained.train.iter().map(|row| (row.bases.as_slice(), row.label())).unzip();
        let (test, test_labels): (Vec<&[u8]>, Vec<u8>) =
            all_rows(&tested).map(|(_, row)| (row.bases.as_slice(), row.label())).unzip();
        let found = Baselines::evaluate((&train, &train_labels), (&test, &test_labels), 1).unwrap();
        for (metrics, expected) in [(&found.rule, rule), (&found.pwm, pwm)] {
            let SpliceMetrics { accuracy, f1, mcc, mcc_3class, .. } = *metrics;
            println!("{accuracy:.3} {f1:.3} {mcc:.3} {mcc_3class:.3}, known: {expected:?}");
            for (figure, expected) in [accuracy, f1, mcc, mcc_3class].into_iter().zip(expected) {
                assert!((figure - expected).abs() < 0.06, "{figure} {expected}");
            }
        }
    }
}

/// GUE's windows are laid out like ours; its label 0 is an acceptor and 1 a donor.
#[test]
fn the_rule_finds_the_sites_of_gue() {
    let Some(path) = shared("the_rule_finds_the_sites_of_gue", "gue_splice_dev/dev.csv") else {
        return;
    };
    let text = fs::read_to_string(path).unwrap();
    let (mut labels, mut predictions) = (Vec::new(), Vec::new());
    for line in text.lines().skip(1) {
        let (window, label) = line.split_once(',').unwrap();
        labels.push([1, 0, 2][label.parse::<usize>().unwrap()]);
        predictions.push(gt_ag_rule(window.as_bytes()));
    }
    assert_eq!(labels.len(), 4562);
    let confusion = Confusion::of(&labels, &predictions, 3).unwrap();
    println!("{:?}", confusion.rows());
    let recall =
        |class: usize| confusion.count(class, class) as f64 / confusion.rows()[class].iter().sum::<u64>() as f64;
    assert!(recall(0) > 0.9 && recall(1) > 0.8, "{:?}", confusion.rows());
}
