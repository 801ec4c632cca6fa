//! MT19937 (Matsumoto, Nishimura, 1998), seeded and used as numpy's `RandomState` does it: for what other programs drew with it.

/// The generator's state.
pub struct MersenneTwister {
    state: [u32; Self::LENGTH],
    next: usize,
}

impl MersenneTwister {
    const LENGTH: usize = 624;
    const SHIFT: usize = 397;

    /// `RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; Self::LENGTH];
        for index in 1..Self::LENGTH {
            let before = state[index - 1];
            state[index] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(index as u32);
        }
        Self { state, next: Self::LENGTH }
    }

    /// The next 32 bits.
    pub fn word(&mut self) -> u32 {
        if self.next == Self::LENGTH {
            for index in 0..Self::LENGTH {
                let (one, other) = (self.state[index], self.state[(index + 1) % Self::LENGTH]);
                let joined = one & 0x8000_0000 | other & 0x7fff_ffff;
                let twist = if joined & 1 == 0 { 0 } else { 0x9908_b0df };
                self.state[index] = self.state[(index + Self::SHIFT) % Self::LENGTH] ^ joined >> 1 ^ twist;
            }
            self.next = 0;
        }
        let mut value = self.state[self.next];
        self.next += 1;
        value ^= value >> 11;
        value ^= value << 7 & 0x9d2c_5680;
        value ^= value << 15 & 0xefc6_0000;
        value ^ value >> 18
    }

    /// A number from 0 to `most`: numpy's bits under a mask, until one is small enough.
    fn up_to(&mut self, most: usize) -> usize {
        let mask = most.next_power_of_two().max(1) * if most.is_power_of_two() { 2 } else { 1 } - 1;
        loop {
            let value = self.word() as usize & mask;
            if value <= most {
                return value;
            }
        }
    }

    /// `RandomState.permutation` of a list.
    pub fn permutation<T>(&mut self, mut list: Vec<T>) -> Vec<T> {
        for index in (1..list.len()).rev() {
            let other = self.up_to(index);
            list.swap(index, other);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_those_of_numpy() {
        // np.random.seed(0); np.random.permutation(10); np.random.seed(7); np.random.permutation(11)
        assert_eq!(MersenneTwister::new(0).permutation((0..10).collect()), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        assert_eq!(MersenneTwister::new(7).permutation((0..11).collect()), [8, 5, 0, 2, 1, 10, 7, 3, 6, 9, 4]);
    }
}
