//! A sequence logo: letters as tall as what they tell (Schneider and Stephens, Nucleic Acids Research 1990).

use super::{Anchor, Canvas, Svg, WIDTH};

const HEIGHT: f64 = 120.0;
const LEFT: f64 = 40.0;
/// Columns are no wider than this.
const WIDEST: f64 = 30.0;
/// The most that a column can tell, in bits.
const BITS: f64 = 2.0;
/// The height of a capital letter, and about its width, at a font size of 1.
const CAPITAL: (f64, f64) = (0.73, 0.68);

/// The letters, with their colours.
const LETTERS: [(char, usize); 4] = [('A', 2), ('C', 0), ('G', 1), ('T', 4)];

/// Counts of A, C, G, T at each position.
///
/// ```
/// use helixgrad::report::SequenceLogo;
/// let svg = SequenceLogo::new("donors", &[[9, 0, 1, 0], [0, 0, 10, 0], [0, 0, 0, 10]]).render();
/// assert!(svg.as_str().contains("bits"));
/// ```
#[derive(Clone, Debug)]
pub struct SequenceLogo {
    title: String,
    counts: Vec<[u64; 4]>,
}

impl SequenceLogo {
    /// A logo of these counts.
    pub fn new(title: &str, counts: &[[u64; 4]]) -> Self {
        Self { title: title.into(), counts: counts.to_vec() }
    }

    /// Draws the logo.
    pub fn render(&self) -> Svg {
        let mut canvas = Canvas::default();
        canvas.title(&self.title);
        let (top, bottom) = (34.0, 34.0 + HEIGHT);
        canvas.line((LEFT - 4.0, top), (LEFT - 4.0, bottom), "hx-axis");
        for tick in [0.0, 1.0, 2.0] {
            let y = bottom - HEIGHT * tick / BITS;
            canvas.text((LEFT - 10.0, y + 4.0), Anchor::End, "hx-muted", &format!("{tick:.0}"));
        }
        canvas.text((0.0, top - 4.0), Anchor::Start, "hx-muted hx-small", "bits");
        let width = ((WIDTH - LEFT) / self.counts.len().max(1) as f64).min(WIDEST);
        for (index, counts) in self.counts.iter().enumerate() {
            let x = LEFT + width * index as f64;
            let mut letters: Vec<(usize, f64)> = heights(counts).into_iter().enumerate().collect();
            // The tallest on top.
            letters.sort_by(|one, other| one.1.total_cmp(&other.1));
            let mut y = bottom;
            for (letter, bits) in letters {
                let height = HEIGHT * bits / BITS;
                if height >= 0.5 {
                    draw_letter(&mut canvas, letter, (x, y), (width, height));
                }
                y -= height;
            }
            if width >= 14.0 {
                let place = (x + width / 2.0, bottom + 14.0);
                canvas.text(place, Anchor::Middle, "hx-muted hx-small", &(index + 1).to_string());
            }
        }
        let total: f64 = self.counts.iter().flat_map(heights).sum();
        let description = format!("{} positions, {total:.1} bits", self.counts.len());
        canvas.finish(bottom + 22.0, &self.title, &description)
    }
}

/// A capital letter in the box whose lower left corner is `(x, y)`.
fn draw_letter(canvas: &mut Canvas, letter: usize, (x, y): (f64, f64), (width, height): (f64, f64)) {
    let (name, colour) = LETTERS[letter];
    let (across, up) = (width / CAPITAL.1, height / CAPITAL.0);
    canvas.raw(format_args!(
        "<text transform=\"translate({:.2} {y:.2}) scale({across:.3} {up:.3})\" text-anchor=\"middle\" font-size=\"1\" \
         font-weight=\"700\" font-family=\"Arial,Helvetica,sans-serif\" style=\"fill:var(--hx-{colour});font-size:1px\">{name}</text>",
        x + width / 2.0
    ));
}

/// Bits of each letter: its share of the column's information, which is reduced by the expected error of small samples
/// (Schneider et al., Journal of Molecular Biology 1986).
fn heights(counts: &[u64; 4]) -> [f64; 4] {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return [0.0; 4];
    }
    let shares = counts.map(|count| count as f64 / total as f64);
    let entropy: f64 = shares.iter().filter(|&&share| share > 0.0).map(|share| -share * share.log2()).sum();
    let error = 3.0 / (2.0 * std::f64::consts::LN_2 * total as f64);
    let information = (BITS - entropy - error).max(0.0);
    shares.map(|share| share * information)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_of_columns() {
        let bits: f64 = heights(&[1000, 0, 0, 0]).iter().sum();
        assert!((bits - 2.0).abs() < 0.01 && bits < 2.0);
        assert!(heights(&[250, 250, 250, 250]).iter().all(|&bits| bits == 0.0));
        assert_eq!(heights(&[0; 4]), [0.0; 4]);
        let [a, c, ..] = heights(&[500, 500, 0, 0]);
        assert!((a - 0.5).abs() < 0.01 && a == c);
    }
}
