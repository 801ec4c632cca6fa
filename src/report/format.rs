//! Numbers as people read them; the same in the terminal, the charts and the page.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A whole number with its thousands separated: `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `value` with `digits` decimals. Not-a-number is `n/a`: a metric that has no value, such as an F1 without positives.
pub fn decimal(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return "n/a".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    if value.abs() >= 1e15 {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.digits$}");
    let is_zero = text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    if is_zero { text.trim_start_matches('-').into() } else { text }
}

/// A probability with nine significant digits, which tell any two 32-bit floats apart: what is sorted by the text keeps its order.
pub fn significant(probability: f64) -> String {
    let first = if probability > 0.0 { -probability.log10().floor() } else { 0.0 };
    let decimals = (first + 8.0).clamp(0.0, 40.0) as usize;
    let text = format!("{probability:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.to_owned()
}

/// A share of one as a percentage: `percent(0.8712, 1)` is `87.1 %`.
pub fn percent(share: f64, digits: usize) -> String {
    if share.is_finite() { format!("{} %", decimal(100.0 * share, digits)) } else { decimal(share, digits) }
}

/// Three significant digits with a suffix for thousands, millions and billions: `19.3k`.
pub fn short(value: f64) -> String {
    const SUFFIXES: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let magnitude = value.abs();
    // 999.5 would be rounded to 1000, which is told as 1.00k.
    match SUFFIXES.iter().find(|(unit, _)| magnitude >= 0.9995 * unit) {
        Some((unit, suffix)) if magnitude < 1e15 => format!("{}{suffix}", three_digits(value / unit)),
        _ => three_digits(value),
    }
}

/// Three significant digits and a unit with its prefix: `19.3 GB/s`.
pub fn quantity(value: f64, unit: &str) -> String {
    let number = short(value);
    match number.strip_suffix(['T', 'G', 'M', 'k']) {
        Some(digits) => format!("{digits} {}{unit}", &number[digits.len()..]),
        None => format!("{number} {unit}"),
    }
}

fn three_digits(value: f64) -> String {
    let digits = match value.abs() {
        magnitude if magnitude >= 99.95 => 0,
        magnitude if magnitude >= 9.995 => 1,
        _ => 2,
    };
    decimal(value, digits)
}

/// The day in UTC: `2026-03-01`.
pub fn date(time: SystemTime) -> String {
    let days = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    // Years are counted from March, so that a leap day is the last of its year, in eras of 400 years (Hinnant,
    // "chrono-Compatible Low-Level Date Algorithms"). 1970-01-01 is day 719,468 of that count.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", 400 * era + year + next)
}

/// A duration in its two largest units: `8.4 s`, `42 s`, `3 min 07 s`, `2 h 05 min`, `3 d 04 h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_calendar() {
        let of = |seconds: u64| date(UNIX_EPOCH + Duration::from_secs(seconds));
        let expected = [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (951_868_800, "2000-03-01")];
        expected.into_iter().for_each(|(seconds, day)| assert_eq!(of(seconds), day));
        assert_eq!((of(1_735_689_599), of(1_735_689_600)), ("2024-12-31".into(), "2025-01-01".into()));
        assert_eq!(of(4_107_542_400), "2100-03-01");
    }

    #[test]
    fn thousands_are_separated() {
        let numbers = [0, 999, 1000, 86_100_000, u64::MAX].map(count);
        assert_eq!(numbers, ["0", "999", "1,000", "86,100,000", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn nine_digits_keep_ranks() {
        let texts = [0.0, 1.0, 0.5, 0.123_456_789_4, 0.999_999_999_6, 0.012_345_678_96, 1.5e-12].map(significant);
        let expected = ["0", "1", "0.5", "0.123456789", "1", "0.012345679", "0.0000000000015"];
        assert_eq!(texts, expected);
        for start in [0.999_999_f32, 0.5, 0.030_000_1, 1e-6, 1e-20] {
            let (mut value, mut before) = (start, -1.0);
            for _ in 0..100.min(((1.0 - start) / f32::EPSILON) as usize) {
                let read: f64 = significant(value.into()).parse().unwrap();
                assert!(read > before, "{value}");
                assert_eq!(read as f32, value);
                (before, value) = (read, value.next_up());
            }
        }
    }

    #[test]
    fn decimals_never_show_a_negative_zero() {
        assert_eq!(decimal(-0.0004, 3), "0.000");
        assert_eq!(decimal(-0.059, 3), "-0.059");
        assert_eq!(decimal(f64::NAN, 3), "n/a");
        assert_eq!(decimal(f64::NEG_INFINITY, 3), "-inf");
        assert_eq!(decimal(1e300, 1), "1.000e300");
        assert_eq!(percent(0.87124, 1), "87.1 %");
        assert_eq!(percent(f64::NAN, 1), "n/a");
    }

    #[test]
    fn short_numbers_have_three_digits() {
        let numbers = [0.5, 9.996, 99.96, 999.4, 999.6, 19_345.0, 1e6, 2.5e9, 1e300].map(short);
        assert_eq!(numbers, ["0.50", "10.0", "100", "999", "1.00k", "19.3k", "1.00M", "2.50G", "1.000e300"]);
    }

    #[test]
    fn quantities_have_a_space_before_their_unit() {
        let texts = [182e9, 26.34e9, 1500.0, 12.0, f64::NAN].map(|value| quantity(value, "B/s"));
        assert_eq!(texts, ["182 GB/s", "26.3 GB/s", "1.50 kB/s", "12.0 B/s", "n/a B/s"]);
    }

    #[test]
    fn durations_have_two_units() {
        let texts = [0.04, 9.96, 59.4, 59.6, 187.0, 7500.0, 273_600.0].map(|s| duration(Duration::from_secs_f64(s)));
        assert_eq!(texts, ["0.0 s", "10 s", "59 s", "1 min 00 s", "3 min 07 s", "2 h 05 min", "3 d 04 h"]);
    }
}
