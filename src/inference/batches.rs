//! Where a stream of windows is cut into what is computed together. A cut depends on the windows since the last group began, and on
//! nothing else: not on the number of threads, nor on where a shard begins.

/// Cuts into batches of at most so much, or of one window.
pub struct Batches {
    most: usize,
    held: usize,
}

impl Batches {
    /// Of at most `most`, in bases or tokens.
    pub fn new(most: usize) -> Self {
        Self { most, held: 0 }
    }

    /// Whether the next window, of this size, begins a batch.
    pub fn begins(&mut self, size: usize) -> bool {
        let begins = self.held == 0 || self.held + size > self.most;
        self.held = if begins { size } else { self.held + size };
        begins
    }

    /// The next window begins a batch, whatever its size.
    pub fn restart(&mut self) {
        self.held = 0;
    }
}

/// Cuts into groups of whole sequences: a group begins a batch, so a shard may begin with it.
pub struct Groups {
    least: usize,
    held: usize,
}

impl Groups {
    /// Of at least so many bases.
    pub fn new(least: usize) -> Self {
        Self { least, held: least }
    }

    /// Whether the next sequence, of so many bases, begins a group.
    pub fn begins(&mut self, bases: usize) -> bool {
        let begins = self.held >= self.least;
        self.held = if begins { bases } else { self.held + bases };
        begins
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever begins with a group cuts what follows as whoever came from before it: shards have the batches of the whole.
        #[test]
        fn from_the_beginning_of_a_group_on_all_is_cut_alike(sizes in prop::collection::vec(1..300_usize, 1..60)) {
            let cut = |sizes: &[usize]| -> Vec<[bool; 2]> {
                let (mut groups, mut batches) = (Groups::new(400), Batches::new(256));
                let cut = sizes.iter().map(|&size| {
                    let begins_group = groups.begins(size);
                    if begins_group {
                        batches.restart();
                    }
                    [begins_group, batches.begins(size)]
                });
                cut.collect()
            };
            let whole = cut(&sizes);
            for start in (0..sizes.len()).filter(|&start| whole[start][0]) {
                prop_assert_eq!(&whole[start..], &cut(&sizes[start..])[..]);
                prop_assert!(whole[start][1], "a group begins a batch");
            }
            // Without groups the same holds of batches.
            let mut batches = Batches::new(256);
            let begins: Vec<bool> = sizes.iter().map(|&size| batches.begins(size)).collect();
            for start in (0..sizes.len()).filter(|&start| begins[start]) {
                let mut batches = Batches::new(256);
                let rest: Vec<bool> = sizes[start..].iter().map(|&size| batches.begins(size)).collect();
                prop_assert_eq!(&begins[start..], &rest[..]);
            }
            let starts = (0..sizes.len()).filter(|&index| begins[index]).chain([sizes.len()]).collect::<Vec<_>>();
            for batch in starts.windows(2).map(|pair| &sizes[pair[0]..pair[1]]) {
                prop_assert!(batch.len() == 1 || batch.iter().sum::<usize>() <= 256);
            }
        }
    }
}
