//! Load a model and embed sequences: `cargo run --release --example embed -- MODEL x.fa`.

use helixgrad::inference::embed::means;
use helixgrad::inference::encoder::Encoder;

fn main() -> helixgrad::Result<()> {
    let [model, fasta] = [1, 2].map(|n| std::env::args_os().nth(n).unwrap_or_default());
    for (name, vector) in means(&Encoder::load(model)?, fasta)? {
        println!("{name}: {} numbers, {:?} ...", vector.len(), &vector[..4]);
    }
    Ok(())
}
