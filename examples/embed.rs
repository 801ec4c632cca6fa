//! Load a model and embed sequences: `cargo run --release --example embed -- MODEL x.fa`.

use std::path::PathBuf;

use helixgrad::device::{DType, Device};
use helixgrad::inference::embed::{EmbedOptions, Rows, Unit, embed};
use helixgrad::inference::encoder::Encoder;
use helixgrad::kmer::sequences;
use helixgrad::train::checkpoint;
use helixgrad::{Error, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(model), Some(fasta)) = (arguments.next(), arguments.next()) else {
        return Err(Error::usage("two arguments are needed", "cargo run --example embed -- MODEL x.fa"));
    };
    let encoder = Encoder::new(checkpoint::load(&model)?, Device::Cpu, DType::F32)?;
    let options = EmbedOptions::new(&encoder, Unit::Mean, -1, None, None)?;
    let mut print = |rows: Rows| -> Result<()> {
        println!("{}: {:?} ...", rows.sequence.name, &rows.values[..4.min(rows.values.len())]);
        Ok(())
    };
    let counts = embed(&encoder, &fasta, sequences::fasta(&fasta)?, &options, &mut print, &mut |_| ())?;
    println!("{} sequences of {} bases", counts.sequences, counts.bases);
    Ok(())
}
