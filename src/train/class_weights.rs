//! What windows of a class count in training, where classes are unequally frequent or mistakes unequally bad.

use std::str::FromStr;

use serde::Serialize;

use crate::kmer::labelled::LabelledWindow;
use crate::model::{Classification, Task};
use crate::{Error, Result};

/// How the weights of the classes are chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeights {
    /// As rare as a class is: `windows / (classes * windows of the class)`, as scikit-learn's `balanced`. Of several labels at once the
    /// windows without a class over those with it.
    Balanced,
    /// By name; classes that are not named weigh 1.
    Named(Vec<(String, f64)>),
}

impl FromStr for ClassWeights {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        const REMEDY: &str = "give balanced, or names of classes with numbers above 0, as in donor=2,none=0.5";
        if text == "balanced" {
            return Ok(Self::Balanced);
        }
        let weight = |part: &str| {
            let (name, weight) = part.rsplit_once('=')?;
            let weight: f64 = weight.trim().parse().ok()?;
            // The kernels have them in f32.
            (weight >= f64::from(f32::MIN_POSITIVE) && weight <= 1e9).then(|| (name.trim().to_owned(), weight))
        };
        let named: Option<Vec<_>> = text.split(',').map(weight).collect();
        let named = named.ok_or(REMEDY)?;
        match (0..).zip(&named).find(|(index, (name, _))| named[..*index].iter().any(|(before, _)| before == name)) {
            Some((_, (name, _))) => Err(format!("{name} has two weights: {REMEDY}")),
            None => Ok(Self::Named(named)),
        }
    }
}

impl std::fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Balanced => f.write_str("balanced"),
            Self::Named(named) => {
                let parts: Vec<String> = named.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
                f.write_str(&parts.join(","))
            }
        }
    }
}

impl Serialize for ClassWeights {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ClassWeights {
    /// The weight of each class. One that is on one side only among the windows (no window has it, or of several labels at once every one)
    /// weighs 1 where weights are balanced.
    ///
    /// # Errors
    /// [`Error::Usage`] for names that no class has, and for a task without classes.
    pub fn of(&self, classification: &Classification, train: &[LabelledWindow]) -> Result<Vec<f64>> {
        let labels = &classification.labels;
        if classification.task == Task::Regression {
            return Err(Error::usage("--class-weights for numbers", "leave it out: a regression has no classes"));
        }
        let named = match self {
            Self::Named(named) => named,
            Self::Balanced => return Ok(balanced(classification, train)),
        };
        if let Some((name, _)) = named.iter().find(|(name, _)| !labels.contains(name)) {
            let found = format!("--class-weights names {name:?}, which is no class");
            return Err(Error::usage(found, format!("the classes are {}", labels.join(", "))));
        }
        let weight = |label: &String| named.iter().find(|(name, _)| name == label).map_or(1.0, |(_, weight)| *weight);
        Ok(labels.iter().map(weight).collect())
    }
}

fn balanced(classification: &Classification, train: &[LabelledWindow]) -> Vec<f64> {
    let labels = || train.iter().flat_map(LabelledWindow::classes);
    let (classes, all) = (classification.labels.len(), labels().count() as f64);
    let share = |class: usize| match classification.task {
        Task::SingleLabel => labels().filter(|label| *label as usize == class).count() as f64,
        _ => train.iter().filter(|window| window.targets[class] > 0.5).count() as f64,
    };
    let counts: Vec<f64> = (0..classes).map(share).collect();
    let present = counts.iter().filter(|count| **count > 0.0).count() as f64;
    let weight = |count: f64| match classification.task {
        _ if count == 0.0 => 1.0,
        Task::SingleLabel => all / (present * count),
        _ if count == all => 1.0,
        _ => (all - count) / count,
    };
    counts.into_iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmer::labelled::Place;

    fn windows(labels: &[i32]) -> Vec<LabelledWindow> {
        labels.iter().map(|&label| LabelledWindow { label, ..LabelledWindow::default() }).collect()
    }

    fn classes(names: &[&str], task: Task) -> Classification {
        let labels = names.iter().map(|name| (*name).to_owned()).collect();
        Classification { labels, task, ..Classification::default() }
    }

    /// The figures are those of scikit-learn's compute_class_weight("balanced", ...) for y = [0, 0, 0, 0, 1, 2, 2].
    #[test]
    fn balanced_weights_are_scikit_learns() {
        let classification = classes(&["a", "b", "c"], Task::SingleLabel);
        let found = ClassWeights::Balanced.of(&classification, &windows(&[0, 0, 0, 0, 1, 2, 2])).unwrap();
        for (found, expected) in found.iter().zip([0.583_333_333_333, 2.333_333_333_333, 1.166_666_666_667]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        // The same classes at places of two windows.
        let place = |class: u8| Place { at: 8, class };
        let with_places = |classes: &[u8]| LabelledWindow {
            places: classes.iter().copied().map(place).collect(),
            ..LabelledWindow::default()
        };
        let places = ClassWeights::Balanced.of(&classification, &[with_places(&[0, 0, 0, 1]), with_places(&[0, 2, 2])]);
        assert_eq!(places.unwrap(), found);
        // A class without windows is none of those that are balanced.
        let found = ClassWeights::Balanced.of(&classification, &windows(&[0, 0, 0, 2])).unwrap();
        assert_eq!(found, [4.0 / 6.0, 1.0, 2.0]);
    }

    #[test]
    fn balanced_labels_weigh_the_windows_without_over_those_with() {
        let window = |targets: [f32; 3]| LabelledWindow { targets: targets.to_vec(), ..LabelledWindow::default() };
        let train = [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]].map(window);
        let found = ClassWeights::Balanced.of(&classes(&["a", "b", "c"], Task::MultiLabel), &train).unwrap();
        assert_eq!(found, [3.0, 1.0, 1.0]);
    }

    #[test]
    fn named_weights_are_read_as_they_are_written() {
        let named: ClassWeights = "donor=2, none=0.5".parse().unwrap();
        assert_eq!(named.to_string().parse(), Ok(named.clone()));
        let classification = classes(&["acceptor", "donor", "none"], Task::SingleLabel);
        assert_eq!(named.of(&classification, &[]).unwrap(), [1.0, 2.0, 0.5]);
        for bad in ["", "donor", "donor=", "donor=0", "donor=-1", "donor=NaN", "donor=inf", "a=1,a=2", "1,2"] {
            assert!(bad.parse::<ClassWeights>().is_err(), "{bad}");
        }
        let error = "exon=2".parse::<ClassWeights>().unwrap().of(&classification, &[]).unwrap_err().to_string();
        assert!(error.contains("\"exon\"") && error.contains("acceptor, donor, none"), "{error}");
        assert!(named.of(&classes(&["donor"], Task::Regression), &[]).is_err());
    }
}
