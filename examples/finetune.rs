//! Fine-tune on windows of your own: `cargo run --release --example finetune -- OUT`.

use std::path::PathBuf;

use helixgrad::Result;
use helixgrad::device::DType;
use helixgrad::kmer::labelled::LabelledWindow;
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::model::{Classification, Head, Model, preset};
use helixgrad::train::finetune::{FinetuneOptions, finetune};

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "runs/example".into()));
    // Is there a TATA box? A real program starts from a pretrained model: checkpoint::load_encoder(&path, head, seed).
    let window = |i: usize| {
        let bases: Vec<u8> = (0..40).map(|j| b"ACGT"[(i * i + 7 * j + i * j / 3) % 4]).collect();
        let middle: &[u8] = if i.is_multiple_of(2) { b"TATAAA" } else { b"GCGCGC" };
        let bases = [&bases[..17], middle, &bases[23..]].concat();
        LabelledWindow { bases, label: (i % 2) as i32, ..LabelledWindow::default() }
    };
    let (train, dev): (Vec<_>, Vec<_>) = ((0..200).map(window).collect(), (200..260).map(window).collect());
    let vocabulary = Vocabulary::new(3, BaseOrder::Atcg)?;
    let config = preset("splice-small")?.config(40);
    let model = Model::initialise(config, Head::Cls { labels: 2 }, DType::F32, 42)?;
    let labels = vec!["tata".to_owned(), "none".to_owned()];
    let classification = Classification { labels, ..Classification::default() };
    let options = FinetuneOptions { epochs: 3, ..FinetuneOptions::new(out) };
    let (_, summary) = finetune(model, &vocabulary, &classification, &train, &dev, &options, false)?;
    println!("accuracy on unseen windows: {:.3}", summary.dev.dev_accuracy.unwrap_or(0.0));
    Ok(())
}
