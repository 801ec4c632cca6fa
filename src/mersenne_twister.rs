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

    /// Seeded with a list, as Python's `random.Random(n)` is with the 32-bit parts of n.
    pub fn by_array(key: &[u32]) -> Self {
        let mut twister = Self::new(19_650_218);
        let state = &mut twister.state;
        let mut index = 1;
        let mut step = |state: &mut [u32; Self::LENGTH], factor: u32, add: &dyn Fn(usize) -> u32| {
            let before = state[index - 1];
            state[index] = (state[index] ^ (before ^ before >> 30).wrapping_mul(factor)).wrapping_add(add(index));
            index += 1;
            if index == Self::LENGTH {
                state[0] = state[Self::LENGTH - 1];
                index = 1;
            }
        };
        for round in 0..Self::LENGTH.max(key.len()) {
            let at = round % key.len();
            step(state, 1_664_525, &|_| key[at].wrapping_add(at as u32));
        }
        for _ in 1..Self::LENGTH {
            step(state, 1_566_083_941, &|index| (index as u32).wrapping_neg());
        }
        state[0] = 0x8000_0000;
        twister
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
    fn a_list_seeds_as_in_python() {
        // r = random.Random(35); [r.getrandbits(32) for _ in range(2)]; random.Random(2**32 + 5).getrandbits(32)
        let words = |key: &[u32]| {
            let mut twister = MersenneTwister::by_array(key);
            [twister.word(), twister.word()]
        };
        assert_eq!(words(&[35]), [2_356_625_382, 1_440_402_319]);
        assert_eq!(words(&[5, 1])[0], 675_479_763);
    }

    #[test]
    fn permutations_are_those_of_numpy() {
        // np.random.seed(0); np.random.permutation(10); np.random.seed(7); np.random.permutation(11)
        assert_eq!(MersenneTwister::new(0).permutation((0..10).collect()), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        assert_eq!(MersenneTwister::new(7).permutation((0..11).collect()), [8, 5, 0, 2, 1, 10, 7, 3, 6, 9, 4]);
    }
}
