//! A stretch of the forward pass that keeps nothing but its input and its output: on the way back it is computed again.
//!
//! Dropout draws by the number of its site, not from a generator, so the second time gives the same bits as the first; and
//! so do the gradients.

use super::{Node, Parameters, Tape, Tensor};
use crate::Result;

impl Tape {
    /// Runs `forward`, which may read tensors that exist already but consume none of them, and records that it is to be
    /// run again on the way back. Where nothing is recorded it simply runs.
    ///
    /// # Errors
    /// Those of `forward`.
    pub fn recompute(
        &mut self,
        parameters: &Parameters,
        forward: impl Fn(&mut Self, &Parameters) -> Result<Tensor> + 'static,
    ) -> Result<Tensor> {
        if !self.recording {
            return forward(self, parameters);
        }
        let (first, site) = (self.values.len(), self.dropout_sites);
        self.recording = false;
        let output = forward(self, parameters);
        self.recording = true;
        let output = output?;
        let value = self.take_value(output);
        self.forget(first);
        let output = self.push(value, output.rows, output.columns);

        let backward = move |tape: &mut Self, parameters: &mut Parameters| {
            let gradient = tape.take_gradient(output)?;
            // All who read the output have gone back already.
            let value = tape.take_value(output);
            tape.recycle(value);
            let (first, nodes) = (tape.values.len(), tape.nodes.len());
            let sites = std::mem::replace(&mut tape.dropout_sites, site);
            let again = forward(tape, parameters)?;
            tape.put_gradient(again, gradient);
            tape.back_to(nodes, parameters)?;
            tape.forget(first);
            tape.dropout_sites = sites;
            Ok(())
        };
        self.nodes.push(Node { op: None, layer: self.layer, backward: Box::new(backward) });
        Ok(output)
    }

    /// Gives the memory of the tensors from number `first` on back to the pool; nobody may read them any more.
    fn forget(&mut self, first: usize) {
        self.shared.retain(|(_, _, tensor)| tensor.id < first);
        let used = self.values.drain(first..).chain(self.gradients.drain(first..)).flatten();
        self.pool.extend(used);
    }
}
