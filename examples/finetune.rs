//! Fine-tune on windows of your own: `cargo run --release --example finetune -- train.tsv dev.tsv OUT`. A file has a header, then
//! a sequence and its class, 0 or 1, in every line.

use helixgrad::kmer::labelled::read_labelled;
use helixgrad::train::finetune::{FinetuneOptions, finetune_classes};

fn main() -> helixgrad::Result<()> {
    let [train, dev, out] = [1, 2, 3].map(|n| std::env::args_os().nth(n).unwrap_or_default());
    let (train, dev) = (read_labelled(train)?, read_labelled(dev)?);
    // From random weights (`None`). A pretrained model, `Some(Path::new("runs/pre"))`, learns with the default of 2e-4.
    let options = FinetuneOptions { epochs: 8, learning_rate: 1e-3, ..FinetuneOptions::new(out.into()) };
    let (_, summary) = finetune_classes(None, &["no", "yes"], &train, &dev, &options)?;
    println!("accuracy on unseen windows: {:.3}", summary.dev.dev_accuracy.unwrap_or_default());
    Ok(())
}
