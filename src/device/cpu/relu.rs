//! `y = max(x, 0)`: the activation of a small classifier, so one thread does it.

use super::Real;

/// In place.
pub fn forward<T: Real>(x: &mut [T]) {
    // Not-a-number stays what it is: a loss has to show it.
    x.iter_mut().filter(|x| **x < T::ZERO).for_each(|x| *x = T::ZERO);
}

/// `dx = dy` where `y > 0`, else 0, in place in `dy`.
pub fn backward<T: Real>(y: &[T], dy: &mut [T]) {
    for (dy, _) in dy.iter_mut().zip(y).filter(|(_, y)| **y <= T::ZERO) {
        *dy = T::ZERO;
    }
}
