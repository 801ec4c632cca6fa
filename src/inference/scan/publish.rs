//! The last step of a scan: its files, from the calls and counts of the whole scan or of all shards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::truth::Expected;
use super::{
    BED, CONFIG, CURVE, Format, Options, Positions, REPORT, SUMMARY, State, Summary, TRACKS, Truth, bigwig, regions,
    report,
};
use crate::genome::region::{Region, Spelling};
use crate::genome::twobit::Genome;
use crate::inference::parts::Parts;
use crate::inference::splice::Score;
use crate::output::write_atomic;
use crate::report::format::date;
use crate::{Error, Result};

/// What the files of a scan have besides its calls and counts: all that its last step needs, without the genome, the annotation and the
/// model.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ending {
    formats: Vec<Format>,
    /// In millionths.
    min_site: u32,
    /// Names and lengths of the genome's sequences, in its order.
    sizes: Vec<(String, u32)>,
    subject: report::Subject,
    expected: Option<Expected>,
    has_baseline: bool,
    seed: u64,
    /// What is told of the annotation beside the summary.
    pub(super) told: Option<Value>,
}

impl Ending {
    pub(super) fn new(genome: &Genome, truth: Option<&Truth>, options: &Options, has_baseline: bool) -> Self {
        let region = |region: &Region| region.label(genome, Spelling::default());
        Self {
            formats: options.formats.clone(),
            min_site: options.min_site.0,
            sizes: genome.sequences().iter().map(|sequence| (sequence.name.clone(), sequence.length)).collect(),
            subject: report::Subject {
                model: options.model.clone(),
                genome: genome.path().display().to_string(),
                region: options.region.as_ref().map_or("the whole genome".into(), region),
                positions: match options.positions {
                    Positions::GtAg => "those with the intron's GT or AG",
                    Positions::All => "all",
                }
                .into(),
            },
            expected: truth.map(|truth| truth.expected(&regions(genome, options))),
            has_baseline,
            seed: options.seed,
            told: options.told.clone(),
        }
    }

    /// Writes everything into `folder`, which is or will be called `out`; may be done again after a kill.
    pub(super) fn publish(
        &self,
        parts: &Parts,
        state: &State,
        config: Option<&str>,
        folder: &Path,
        out: &Path,
    ) -> Result<Summary> {
        let mut files = Vec::new();
        let mut file = |name: &str| -> PathBuf {
            files.push(out.join(name));
            folder.join(name)
        };
        if let Some(config) = config {
            write_atomic(folder.join(CONFIG), config)?;
        }
        let wanted = |format| self.formats.contains(&format);
        if wanted(Format::Bed) {
            parts.publish(TRACKS.len(), &file(BED), b"")?;
        }
        for (index, (_, _, name)) in TRACKS.into_iter().enumerate() {
            if wanted(Format::BedGraph) {
                parts.publish(index, &file(&format!("{name}.bedgraph")), b"")?;
            }
            if wanted(Format::BigWig) {
                let name = format!("{name}.bw");
                if parts.is_empty(index)? {
                    tracing::warn!("no {}: no call reaches the threshold of tracks", out.join(name).display());
                } else {
                    bigwig::write(parts.read(index), &file(&name), &self.sizes)?;
                }
            }
        }
        let mut accuracy = Vec::new();
        if let Some(expected) = &self.expected {
            let baseline = self.has_baseline.then_some(&state.baseline);
            accuracy = expected.compare(&state.counts, baseline, self.seed);
            write_atomic(file(CURVE), report::curve_table(expected, &state.counts, &accuracy))?;
            let page = report::page(&self.subject, &date(SystemTime::now()), expected, &state.counts, &accuracy);
            write_atomic(file(REPORT), page)?;
        }
        let summary = Summary {
            bases: state.bases,
            windows: state.windows,
            unscored: state.unscored,
            sites: state.sites,
            min_score: Score(self.min_site).value(),
            seconds: state.seconds,
            bases_per_second: state.bases as f64 / state.seconds.max(1e-9),
            files,
            accuracy,
        };
        let text = serde_json::to_string_pretty(&summary).map_err(|error| Error::Failed(error.to_string()))?;
        write_atomic(folder.join(SUMMARY), text + "\n")?;
        Ok(summary)
    }
}

/// The options that were kept in a working folder.
pub(super) fn kept_config(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(CONFIG);
    path.is_file().then(|| fs::read_to_string(&path).map_err(Error::io("read", &path))).transpose()
}
