//! From bedGraph to bigWig, streaming.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use bigtools::beddata::BedParserStreamingIterator;
use bigtools::{BigWigWrite, InputSortType};

use crate::genome::twobit::Genome;
use crate::output::AtomicFile;
use crate::{Error, Result};

/// Writes the values of a bedGraph file, whose sequences come in the order of `genome` and each sorted by start, to the
/// bigWig file `out`. A file without values is none: returns false, and nothing is written.
///
/// # Errors
/// [`Error::Io`]; [`Error::Failed`] if the values cannot be encoded.
pub fn write(bedgraph: &Path, out: &Path, genome: &Genome) -> Result<bool> {
    let values = File::open(bedgraph).map_err(Error::io("open", bedgraph))?;
    if values.metadata().map_err(Error::io("read", bedgraph))?.len() == 0 {
        return Ok(false);
    }
    let failed = |what: &dyn std::fmt::Display| Error::Failed(format!("cannot write {}: {what}", out.display()));
    let sizes: HashMap<String, u32> =
        genome.sequences().iter().map(|sequence| (sequence.name.clone(), sequence.length)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(rayon::current_num_threads().clamp(1, 6))
        .build()
        .map_err(|error| failed(&error))?;
    let file = AtomicFile::create(out)?;
    let staging = File::create(file.staging_path()).map_err(Error::io("write beside", out))?;
    let mut writer = BigWigWrite::new(staging, sizes);
    // Sequences come in the genome's order, which need not be that of their names.
    writer.options.input_sort_type = InputSortType::START;
    let values = BedParserStreamingIterator::from_bedgraph_file(values, true);
    writer.write(values, runtime).map_err(|error| failed(&error))?;
    file.commit()?;
    Ok(true)
}
