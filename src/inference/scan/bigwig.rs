//! From bedGraph to bigWig, streaming.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bigtools::beddata::BedParserStreamingIterator;
use bigtools::{BigWigWrite, InputSortType};

use crate::output::AtomicFile;
use crate::{Error, Result};

/// Writes the values of a bedGraph text, whose sequences come in the order of `sizes` (names and lengths) and each sorted by start, to
/// the bigWig file `out`. There has to be a value.
///
/// # Errors
/// [`Error::Io`]; [`Error::Failed`] if the values cannot be encoded.
pub fn write(bedgraph: impl Read, out: &Path, sizes: &[(String, u32)]) -> Result<()> {
    let failed = |what: &dyn std::fmt::Display| Error::Failed(format!("cannot write {}: {what}", out.display()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(rayon::current_num_threads().clamp(1, 6))
        .build()
        .map_err(|error| failed(&error))?;
    let file = AtomicFile::create(out)?;
    let staging = File::create(file.staging_path()).map_err(Error::io("write beside", out))?;
    let mut writer = BigWigWrite::new(staging, sizes.iter().cloned().collect());
    // Sequences come in the genome's order, which need not be that of their names.
    writer.options.input_sort_type = InputSortType::START;
    let values = BedParserStreamingIterator::from_bedgraph_file(bedgraph, true);
    writer.write(values, runtime).map_err(|error| failed(&error))?;
    file.commit()
}
