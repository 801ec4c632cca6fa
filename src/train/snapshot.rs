//! Checkpoints that are written while training goes on: what is to be written is copied to the host, and a thread writes it.
//! A step waits for the copy, never for the disk. The arithmetic of that wait is in `kernels/notes/step.md`.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::checkpoint::Classification;
use super::model_image::{MODEL_FILE, ModelImage, save_tensors, to_json, view};
use super::run_state::{CHECKPOINT_PREFIX, RunState, STANDARDISED_HEAD, STATE_FILE, TRAINING_FILE, checkpoints};
use super::standardise::Standard;
use super::step::Trainer;
use crate::crc32;
use crate::output::{remove_folder, write_atomic, write_folder_atomic};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Weights and two moments on the host.
type Memory = [Vec<f32>; 3];

/// Everything that a checkpoint holds, on the host.
struct Snapshot {
    model: ModelImage,
    first: Vec<f32>,
    second: Vec<f32>,
    state: RunState,
}

impl Snapshot {
    /// Copies model and optimizer as they are after `state.step` updates, in the memory of an earlier snapshot where there is one. A head
    /// that is trained on numbers as `standard` has them is written in their own units, and beside the moments as it is.
    fn over(
        [weights, first, second]: Memory,
        trainer: &Trainer,
        vocabulary: &dyn Tokenizer,
        classification: Option<&Classification>,
        standard: Option<&Standard>,
        state: &RunState,
    ) -> Result<Self> {
        Ok(Self {
            model: ModelImage::over(weights, &trainer.model, vocabulary, classification)?.in_units_of(standard)?,
            first: trainer.optimizer.first.to_f32_over(first)?,
            second: trainer.optimizer.second.to_f32_over(second)?,
            state: state.clone(),
        })
    }

    /// Writes a checkpoint that a run can be resumed from to `run/checkpoint-STEP`, whole or not at all, and removes all but
    /// the newest `keep`.
    fn write(&self, run: &Path, keep: usize) -> Result<PathBuf> {
        let path = run.join(format!("{CHECKPOINT_PREFIX}{:08}", self.state.step));
        write_folder_atomic(&path, |folder| {
            self.model.write(folder)?;
            let shape = [self.first.len()];
            let mut tensors = vec![
                ("first_moment", view(&shape, bytemuck::cast_slice(&self.first))?),
                ("second_moment", view(&shape, bytemuck::cast_slice(&self.second))?),
            ];
            let head = self.model.standardised();
            if !head.is_empty() {
                tensors.push((STANDARDISED_HEAD, view(&[head.len()], bytemuck::cast_slice(head))?));
            }
            save_tensors(&folder.join(TRAINING_FILE), tensors)?;
            let mut state = self.state.clone();
            for name in [MODEL_FILE, TRAINING_FILE] {
                state.checksums.insert(name.to_owned(), crc32::of_file(&folder.join(name))?);
            }
            state.checksums.insert(STATE_FILE.to_owned(), state.own_checksum()?);
            write_atomic(folder.join(STATE_FILE), to_json(&state)?)
        })?;
        for (_, old) in checkpoints(run)?.iter().rev().skip(keep.max(1)) {
            remove_folder(old)?;
        }
        Ok(path)
    }
}

/// Writes the checkpoints of a run, one at a time. Dropped, it waits for the one that is being written.
pub struct CheckpointWriter {
    run: PathBuf,
    keep: usize,
    /// Another rank writes.
    silent: bool,
    writing: Option<JoinHandle<Result<(PathBuf, Memory)>>>,
    standard: Option<Standard>,
    /// Of the last snapshot. Memory that is new costs a page fault every 4 KB, and those take longer than the copy.
    memory: Memory,
}

impl CheckpointWriter {
    /// A writer for the run in the folder `run`, which keeps the newest `keep` checkpoints.
    pub fn new(run: &Path, keep: usize) -> Self {
        let (run, memory) = (run.to_owned(), Memory::default());
        Self { run, keep, silent: false, writing: None, standard: None, memory }
    }

    /// The same writer, or one that writes nothing: another rank does.
    pub(super) fn unless(mut self, silent: bool) -> Self {
        self.silent = silent;
        self
    }

    /// The same writer, of models that are trained on standardised numbers.
    pub(super) fn in_units_of(mut self, standard: Option<Standard>) -> Self {
        self.standard = standard;
        self
    }

    /// When the checkpoint before is written, copies model and optimizer as they are after `state.step` updates, and starts
    /// writing them.
    ///
    /// # Errors
    /// What went wrong with the one before; [`Error::Failed`] if a weight is no finite number; those of the device.
    pub fn save(
        &mut self,
        trainer: &Trainer,
        vocabulary: &dyn Tokenizer,
        classification: Option<&Classification>,
        state: &RunState,
    ) -> Result<()> {
        if self.silent {
            return Ok(());
        }
        self.finish()?;
        let memory = std::mem::take(&mut self.memory);
        let standard = self.standard.as_ref();
        let snapshot = Snapshot::over(memory, trainer, vocabulary, classification, standard, state)?;
        let (run, keep) = (self.run.clone(), self.keep);
        self.writing = Some(std::thread::spawn(move || {
            let path = snapshot.write(&run, keep)?;
            Ok((path, [snapshot.model.into_memory(), snapshot.first, snapshot.second]))
        }));
        Ok(())
    }

    /// Waits for the checkpoint that is being written, and returns its folder.
    ///
    /// # Errors
    /// What went wrong with it.
    pub fn finish(&mut self) -> Result<Option<PathBuf>> {
        let Some(writing) = self.writing.take() else { return Ok(None) };
        match writing.join() {
            Ok(written) => {
                let (path, memory) = written?;
                self.memory = memory;
                Ok(Some(path))
            }
            Err(_) => Err(Error::Failed("writing a checkpoint has ended in a panic, which is a bug".into())),
        }
    }

    /// The error for a run that Ctrl-C stops after step `step`, once its checkpoint is written.
    pub fn interrupted(&mut self, step: u64) -> Error {
        match self.finish() {
            Ok(Some(path)) => {
                Error::Interrupted(format!(" after step {step}; saved {}, go on with --resume", path.display()))
            }
            Ok(None) => Error::Interrupted(format!(" after step {step}")),
            Err(error) => error,
        }
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            // Whoever drops the writer unfinished has an error of its own to tell.
            let _ = writing.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use super::*;
    use crate::device::{DType, Device};
    use crate::kmer::vocabulary::{BaseOrder, Vocabulary};
    use crate::model::{Head, Model, preset};
    use crate::optim::AdamWConfig;

    #[test]
    fn a_checkpoint_that_cannot_be_written_is_told_at_the_next_occasion() {
        let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
        let config = preset("splice-small").unwrap().config(16);
        let model = Model::initialise(config, Head::MaskedLm, DType::F32, 1).unwrap();
        let trainer = Trainer::new(model, AdamWConfig::default(), &Device::Cpu, DType::F32, 1).unwrap();
        let save = |writer: &mut CheckpointWriter, step| {
            let state = RunState { step, ..RunState::new(9, 1, AdamWConfig::default(), Value::Null) };
            writer.save(&trainer, &vocabulary, None, &state)
        };
        let folder = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::new(folder.path(), 1);
        assert!(writer.finish().unwrap().is_none());
        save(&mut writer, 1).unwrap();
        writer.finish().unwrap();
        let memory = writer.memory.each_ref().map(|values| values.as_ptr());
        save(&mut writer, 2).unwrap();
        let newest = writer.finish().unwrap().unwrap();
        assert_eq!(writer.memory.each_ref().map(|values| values.as_ptr()), memory, "no new memory for the second");
        assert!(writer.memory.iter().all(|values| values.len() == trainer.model.parameters.len()));
        assert_eq!(checkpoints(folder.path()).unwrap(), [(2, newest)], "the older one is gone");

        let file = folder.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let mut writer = CheckpointWriter::new(&file, 1);
        save(&mut writer, 1).unwrap();
        assert!(save(&mut writer, 2).is_err());
    }
}
