//! The typed values of BCF (VCF specification 4.3, section 6.3.3), and how VCF writes them.

use super::damaged;
use crate::inference::variants::vcf::Finding;

/// The rest of a record.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Finding> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| damaged("a field passes the record's end"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Finding> {
        Ok(self.take(4)?.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    pub(super) fn i32(&mut self) -> Result<i32, Finding> {
        Ok(self.u32()? as i32)
    }

    /// The type of what follows, and how many there are of it.
    pub(super) fn kind(&mut self) -> Result<(Kind, usize), Finding> {
        const MANY: u8 = 15;
        let byte = self.take(1)?[0];
        let kind = match byte & 15 {
            0 => Kind::None,
            1 => Kind::Integer(1),
            2 => Kind::Integer(2),
            3 => Kind::Integer(4),
            5 => Kind::Float,
            7 => Kind::Text,
            other => return Err(damaged(format!("a value of type {other}"))),
        };
        let count = match byte >> 4 {
            // The number of those is one integer.
            MANY => match self.take(1)?[0] {
                byte @ 0x11..=0x13 => {
                    let bytes = self.take(1 << ((byte & 15) - 1))?;
                    let count = Values { kind: Kind::Integer(bytes.len()), bytes }.integers()?.first().copied();
                    count.and_then(|count| usize::try_from(count).ok()).ok_or_else(|| damaged("a count below 0"))?
                }
                _ => return Err(damaged("a count that is no number")),
            },
            few => few.into(),
        };
        Ok((kind, count))
    }

    pub(super) fn values(&mut self) -> Result<Values<'a>, Finding> {
        let (kind, count) = self.kind()?;
        Ok(Values { kind, bytes: self.take(count.saturating_mul(kind.size()))? })
    }

    /// One integer, that stands for a name.
    pub(super) fn key(&mut self) -> Result<i32, Finding> {
        match self.values()?.integers()?[..] {
            [key] => Ok(key),
            _ => Err(damaged("a field without a name")),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    None,
    /// Of so many bytes.
    Integer(usize),
    Float,
    Text,
}

impl Kind {
    pub(super) fn size(self) -> usize {
        match self {
            Self::None => 0,
            Self::Integer(size) => size,
            Self::Float => 4,
            Self::Text => 1,
        }
    }
}

/// Values of one type.
pub(super) struct Values<'a> {
    pub(super) kind: Kind,
    pub(super) bytes: &'a [u8],
}

impl Values<'_> {
    /// All that there are, `None` where one is missing; an end before the last place has none behind it.
    fn each(&self, size: usize) -> impl Iterator<Item = Option<i32>> {
        let lowest = i32::MIN >> (32 - 8 * size);
        let signed = move |bytes: &[u8]| {
            let number = bytes.iter().rev().fold(0u32, |number, &byte| number << 8 | u32::from(byte));
            let unused = 32 - 8 * size as u32;
            (number << unused) as i32 >> unused
        };
        let is_end = move |number: &i32| *number == lowest + 1;
        let numbers = self.bytes.chunks_exact(size).map(signed).take_while(move |number| !is_end(number));
        numbers.map(move |number| (number != lowest).then_some(number))
    }

    /// Integers, all of which are there.
    pub(super) fn integers(&self) -> Result<Vec<i32>, Finding> {
        let numbers: Option<Vec<i32>> = match self.kind {
            Kind::Integer(size) => self.each(size).collect(),
            Kind::None => Some(Vec::new()),
            _ => None,
        };
        numbers.ok_or_else(|| damaged("something else where whole numbers should be"))
    }

    /// With commas between them, or `.` for nothing.
    pub(super) fn write(&self, line: &mut Vec<u8>) {
        /// What htslib has for a missing text.
        const MISSING: u8 = 7;
        let before = line.len();
        let mut add = |value: Option<String>| {
            if line.len() > before {
                line.push(b',');
            }
            line.extend_from_slice(value.as_deref().unwrap_or(".").as_bytes());
        };
        match self.kind {
            Kind::None => {}
            Kind::Integer(size) => self.each(size).for_each(|number| add(number.map(|number| number.to_string()))),
            Kind::Float => {
                /// Two of the values that are no number.
                const MISSING: u32 = 0x7f80_0001;
                const END: u32 = 0x7f80_0002;
                let bits =
                    self.bytes.chunks_exact(4).map(|bytes| bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b)));
                let bits = bits.take_while(|bits| *bits != END);
                bits.for_each(|bits| add((bits != MISSING).then(|| general(f32::from_bits(bits)))));
            }
            Kind::Text => {
                let text = self.bytes.iter().take_while(|byte| **byte != 0);
                line.extend(text.map(|&byte| if byte == MISSING { b'.' } else { byte }));
            }
        }
        if line.len() == before {
            line.push(b'.');
        }
    }

    /// Alleles by number, with what says whether they are phased.
    pub(super) fn write_genotype(&self, line: &mut Vec<u8>) -> Result<(), Finding> {
        let Kind::Integer(size) = self.kind else { return Err(damaged("genotypes that are no numbers")) };
        let before = line.len();
        for allele in self.each(size) {
            let allele = allele.unwrap_or_default();
            if line.len() > before {
                line.push(if allele & 1 == 1 { b'|' } else { b'/' });
            }
            match allele >> 1 {
                number @ 1.. => line.extend_from_slice((number - 1).to_string().as_bytes()),
                _ => line.push(b'.'),
            }
        }
        if line.len() == before {
            line.push(b'.');
        }
        Ok(())
    }
}

/// A number with six significant digits, as C's `%g` writes it, but that halves are rounded away from 0, as htslib does where it needs no
/// exponent.
fn general(number: f32) -> String {
    const DIGITS: i32 = 6;
    if !number.is_finite() {
        return if number.is_nan() { "nan".into() } else { number.to_string() };
    }
    let mut number = f64::from(number);
    if (1e-4..=999_999.0).contains(&number.abs()) {
        // By less than an f32 can tell from the next: only a half is over it then.
        number *= 1.0 + f64::EPSILON;
    }
    let scientific = format!("{:.*e}", DIGITS as usize - 1, number);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..DIGITS).contains(&exponent) {
        short(&format!("{:.*}", (DIGITS - 1 - exponent) as usize, number))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", short(mantissa), exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_by_printf() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (30.1, "30.1"),
            (0.333_333_34, "0.333333"),
            (1234567.0, "1.23457e+06"),
            (999_999.5, "1e+06"),
            (123_456.0, "123456"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (-2.5e-30, "-2.5e-30"),
            (100.0, "100"),
            (-578_236.5, "-578237"),
            (1_234_565.0, "1.23456e+06"),
            (f32::INFINITY, "inf"),
        ];
        for (number, expected) in cases {
            assert_eq!(general(number), expected);
        }
    }
}
