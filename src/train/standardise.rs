//! Targets of a regression, standardised. A head starts at 0 with small weights, and the optimizer moves each of them by about the
//! learning rate a step, so that numbers far from 0, or of another size than 1, would take long to reach. So training sees
//! `(number - mean) / deviation`, of the training windows, and the loss of a head that knows nothing is 1. Whatever is written for others to
//! read answers in the numbers' own units: mean and deviation are folded into the head, whose last layer is linear.

use crate::autograd::Spec;
use crate::kmer::labelled::LabelledWindow;
use crate::model::Model;
use crate::{Error, Result};

/// Mean and standard deviation of each number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standard(pub(super) Vec<(f64, f64)>);

impl Standard {
    /// Of the numbers of `windows`. One that is the same everywhere keeps its size.
    pub(super) fn of(windows: &[LabelledWindow]) -> Self {
        let count = windows.len().max(1) as f64;
        let columns = windows.first().map_or(0, |window| window.targets.len());
        let column = |column: usize| {
            let numbers = || windows.iter().map(|window| f64::from(window.targets[column]));
            let mean = numbers().sum::<f64>() / count;
            let deviation = (numbers().map(|number| (number - mean).powi(2)).sum::<f64>() / count).sqrt();
            // What is left of equal numbers are the roundings of their mean.
            (mean, if deviation > 1e-9 * mean.abs() { deviation } else { 1.0 })
        };
        Self((0..columns).map(column).collect())
    }

    /// What training sees of the numbers of a window.
    pub(super) fn standardised(&self, targets: &[f32]) -> impl Iterator<Item = f32> {
        targets.iter().zip(&self.0).map(|(target, (mean, deviation))| ((f64::from(*target) - mean) / deviation) as f32)
    }

    /// Windows as training sees them.
    pub(super) fn windows(&self, windows: &[LabelledWindow]) -> Vec<LabelledWindow> {
        let window = |window: &LabelledWindow| LabelledWindow {
            targets: self.standardised(&window.targets).collect(),
            ..window.clone()
        };
        windows.iter().map(window).collect()
    }

    /// Makes a head that answers in standardised numbers answer in their own units.
    pub(super) fn fold(&self, specs: &[Spec], values: &mut [f32]) -> Result<()> {
        self.change(
            specs,
            values,
            |weight, deviation| weight * deviation,
            |bias, mean, deviation| bias * deviation + mean,
        )
    }

    /// The way back.
    pub(super) fn unfold(&self, model: &mut Model) -> Result<()> {
        let (specs, values) = (&model.parameters.specs, model.parameters.values.slice_mut::<f32>());
        self.change(
            specs,
            values,
            |weight, deviation| weight / deviation,
            |bias, mean, deviation| (bias - mean) / deviation,
        )
    }

    fn change(
        &self,
        specs: &[Spec],
        values: &mut [f32],
        weight: impl Fn(f64, f64) -> f64,
        bias: impl Fn(f64, f64, f64) -> f64,
    ) -> Result<()> {
        let [weights, biases] = head_of(specs)?;
        let inputs = weights.len() / self.0.len().max(1);
        for (number, &(mean, deviation)) in self.0.iter().enumerate() {
            let row = weights.offset + number * inputs;
            values[row..row + inputs].iter_mut().for_each(|value| *value = weight((*value).into(), deviation) as f32);
            let value = &mut values[biases.offset + number];
            *value = bias((*value).into(), mean, deviation) as f32;
        }
        Ok(())
    }
}

/// Weight and bias of a classifier's last layer.
pub(super) fn head_of(specs: &[Spec]) -> Result<[&Spec; 2]> {
    let find = |name: &str| specs.iter().find(|spec| spec.name == name);
    let layer = |name: &str| Some([find(&format!("{name}.weight"))?, find(&format!("{name}.bias"))?]);
    layer("classifier.out_proj")
        .or_else(|| layer("classifier"))
        .ok_or_else(|| Error::Failed("the model has no classifier".into()))
}

/// Exchanges the outputs of the last layer: output `i` becomes what output `rows[i]` was.
pub(super) fn choose_outputs(model: &mut Model, rows: &[usize]) -> Result<()> {
    let specs = head_of(&model.parameters.specs)?.map(Spec::clone);
    let values = model.parameters.values.slice_mut::<f32>();
    for spec in specs {
        let before = values[spec.range()].to_vec();
        let size = spec.len() / rows.len().max(1);
        for (to, &from) in values[spec.range()].chunks_exact_mut(size).zip(rows) {
            to.copy_from_slice(&before[from * size..][..size]);
        }
    }
    Ok(())
}

/// The values of the last layer, one after the other.
pub(super) fn head_values(specs: &[Spec], values: &[f32]) -> Result<Vec<f32>> {
    Ok(head_of(specs)?.iter().flat_map(|spec| &values[spec.range()]).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DType;
    use crate::model::{Head, preset};

    fn windows(numbers: &[[f32; 2]]) -> Vec<LabelledWindow> {
        numbers.iter().map(|of| LabelledWindow { targets: of.to_vec(), ..LabelledWindow::default() }).collect()
    }

    #[test]
    fn numbers_get_mean_0_and_deviation_1() {
        let windows = windows(&[[10.0, 0.1], [30.0, 0.1], [20.0, 0.1], [40.0, 0.1]]);
        let standard = Standard::of(&windows);
        let (mean, deviation) = standard.0[0];
        assert_eq!((mean, (deviation * deviation).round()), (25.0, 125.0));
        let seen: Vec<f32> = windows.iter().flat_map(|window| standard.standardised(&window.targets)).collect();
        let square: f32 = seen.iter().step_by(2).map(|number| number * number).sum();
        assert!((square - 4.0).abs() < 1e-5, "{seen:?}");
        assert!(seen.iter().skip(1).step_by(2).all(|number| number.abs() < 1e-6), "a constant column: {seen:?}");
        assert_eq!(Standard::of(&[]).0.len(), 0);
    }

    #[test]
    fn a_head_goes_to_units_and_back() {
        let standard = Standard::of(&windows(&[[1000.0, -0.001], [1200.0, 0.002]]));
        for head in
            [Head::Cls { labels: 2 }, Head::Site { labels: 2, hidden: None }, Head::Site { labels: 2, hidden: Some(8) }]
        {
            let config = preset("splice-small").unwrap().config(16);
            let mut model = Model::initialise(config, head, DType::F32, 1).unwrap();
            let specs = model.parameters.specs.clone();
            let before = model.parameters.host_values().unwrap();
            standard.fold(&specs, model.parameters.values.slice_mut()).unwrap();
            let folded = model.parameters.host_values().unwrap();
            let [weight, bias] = head_of(&specs).unwrap();
            assert_eq!(folded[bias.range()], [1100.0, 0.0005], "the bias of a head that knows nothing is the mean");
            assert_eq!(folded[weight.offset], before[weight.offset] * 100.0);
            let changed = (0..folded.len()).filter(|&index| folded[index] != before[index]).count();
            assert!(changed <= weight.len() + bias.len());
            standard.unfold(&mut model).unwrap();
            let back = model.parameters.host_values().unwrap();
            assert!(back.iter().zip(&before).all(|(one, other)| (one - other).abs() < 1e-6));
        }
    }
}
