//! BCF, record by record, as the lines of VCF that stand for the same: those that `bcftools view` prints.
//!
//! The format is that of the VCF specification 4.3, section 6: a header that is VCF's, then records of numbers, in which names are
//! places in that header. It is read here and not by noodles-bcf, which ends the process at values that it does not expect, and makes room
//! for as many samples as a record claims (as of 0.94).

mod values;

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use self::values::{Cursor, Kind, Values};
use super::vcf::{Finding, LONGEST_LINE};

/// How a BCF file begins, before a byte for the minor version.
pub(super) const MAGIC: &[u8] = b"BCF\x02";

/// Why there is no next line.
pub(super) enum Failure {
    /// It could not be read, or what it is packed in is damaged.
    Io(io::Error),
    /// It is no BCF.
    Finding(Finding),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Finding> for Failure {
    fn from(finding: Finding) -> Self {
        Self::Finding(finding)
    }
}

/// What was read of a BCF file.
pub(super) struct Bcf {
    /// Names of filters, INFO and FORMAT fields, and of sequences, by the numbers that records have for them.
    fields: HashMap<usize, String>,
    sequences: HashMap<usize, String>,
    samples: usize,
    /// The header's text, and how much of it was handed on.
    header: Vec<u8>,
    handed_on: usize,
    /// Records read.
    records: u64,
    buffer: Vec<u8>,
}

impl Bcf {
    /// Reads the header; `reader` stands at the start of the file.
    pub(super) fn open(reader: &mut dyn BufRead) -> Result<Self, Failure> {
        let mut start = Vec::new();
        read_bytes(reader, MAGIC.len() as u32 + 1, &mut start)?;
        let length = read_length(reader)?.ok_or_else(cut_short)?;
        if u64::from(length) > LONGEST_LINE {
            return Err(damaged(format!("a header of {length} bytes")).into());
        }
        let mut header = Vec::new();
        read_bytes(reader, length, &mut header)?;
        header.truncate(header.iter().position(|&byte| byte == 0).unwrap_or(header.len()));
        if !header.ends_with(b"\n") {
            header.push(b'\n');
        }
        if !header.starts_with(b"##fileformat=VCF") {
            return Err(damaged("a header that does not begin with ##fileformat=VCF").into());
        }
        let text = str::from_utf8(&header).map_err(|_| damaged("a header that is not UTF-8"))?;
        let (mut fields, mut sequences) = (Dictionary::default(), Dictionary::default());
        // The specification gives it the first place, whether the header has it or not.
        fields.add("PASS", None);
        let (mut kept, mut samples) = (String::with_capacity(text.len()), 0);
        for line in text.lines() {
            let kind = line.strip_prefix("##").and_then(|rest| rest.split_once("=<"));
            let dictionary = match kind.map(|(kind, _)| kind) {
                Some("FILTER" | "INFO" | "FORMAT") => Some(&mut fields),
                Some("contig") => Some(&mut sequences),
                _ => None,
            };
            if let (Some(dictionary), Some((_, attributes))) = (dictionary, kind) {
                let (name, place) = identity(attributes);
                dictionary.add(name.ok_or_else(|| damaged("a header line without its ID"))?, place);
            }
            if line.starts_with("#CHROM") {
                samples = line.split('\t').count().saturating_sub(9);
            }
            // Only BCF has these numbers.
            let plain = line.rsplit_once(",IDX=").filter(|(_, rest)| rest.strip_suffix('>').is_some_and(is_number));
            kept += plain.map_or(line, |(line, _)| line);
            kept += if plain.is_some() { ">\n" } else { "\n" };
        }
        let (fields, sequences) = (fields.names, sequences.names);
        Ok(Self { fields, sequences, samples, header: kept.into(), handed_on: 0, records: 0, buffer: Vec::new() })
    }

    /// The record read last, from 1.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Appends the next line to `line`, of the header or of a record; false at the end of the file.
    pub(super) fn next_line(&mut self, reader: &mut dyn BufRead, line: &mut Vec<u8>) -> Result<bool, Failure> {
        let rest = &self.header[self.handed_on..];
        if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            line.extend_from_slice(&rest[..=end]);
            self.handed_on += end + 1;
            return Ok(true);
        }
        let Some(shared) = read_length(reader)? else { return Ok(false) };
        self.records += 1;
        let individual = read_length(reader)?.ok_or_else(cut_short)?;
        let length = u64::from(shared) + u64::from(individual);
        if length > LONGEST_LINE {
            return Err(damaged(format!("a record of {length} bytes")).into());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        read_bytes(reader, length as u32, &mut buffer)?;
        let (shared, individual) = buffer.split_at(shared as usize);
        self.write(shared, individual, line)?;
        self.buffer = buffer;
        Ok(true)
    }

    /// Writes the columns of a record.
    fn write(&self, shared: &[u8], individual: &[u8], line: &mut Vec<u8>) -> Result<(), Finding> {
        let mut shared = Cursor(shared);
        let sequence = name(&self.sequences, shared.i32()?, "sequence")?;
        let position = i64::from(shared.i32()?) + 1;
        // The length on the reference follows from REF, or else from INFO/END.
        shared.i32()?;
        let quality = shared.u32()?;
        let (alleles, samples) = (shared.u32()?, shared.u32()?);
        let (alleles, infos) = (alleles >> 16, alleles & 0xffff);
        let (formats, samples) = (samples >> 24, samples as usize & 0xff_ffff);
        if samples != self.samples {
            return Err(damaged(format!("{samples} samples, where the header has {}", self.samples)));
        }
        if position < 0 {
            return Err(damaged("a position before the sequence"));
        }
        line.extend_from_slice(format!("{sequence}\t{position}\t").as_bytes());
        shared.values()?.write(line);
        for allele in 0..alleles {
            line.push(if allele < 2 { b'\t' } else { b',' });
            shared.values()?.write(line);
        }
        line.extend_from_slice(match alleles {
            0 => b"\t.\t.\t",
            1 => b"\t.\t",
            _ => b"\t",
        });
        Values { kind: Kind::Float, bytes: &quality.to_le_bytes() }.write(line);
        line.push(b'\t');
        let mut separator: &[u8] = b"";
        for filter in shared.values()?.integers()? {
            line.extend_from_slice(separator);
            line.extend_from_slice(name(&self.fields, filter, "filter")?.as_bytes());
            separator = b";";
        }
        if separator.is_empty() {
            line.push(b'.');
        }
        line.push(b'\t');
        for info in 0..infos {
            if info > 0 {
                line.push(b';');
            }
            line.extend_from_slice(name(&self.fields, shared.key()?, "INFO field")?.as_bytes());
            let values = shared.values()?;
            if !values.bytes.is_empty() {
                line.push(b'=');
                values.write(line);
            }
        }
        if infos == 0 {
            line.push(b'.');
        }
        let mut columns = 8;
        if samples > 0 {
            self.write_samples(formats, Cursor(individual), line)?;
            columns += 1 + samples;
        }
        let tabs = line.iter().filter(|byte| **byte == b'\t').count();
        if tabs != columns - 1 || line.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return Err(damaged("a text with a tab or the end of a line in it"));
        }
        line.push(b'\n');
        Ok(())
    }

    /// Writes FORMAT and a column for each sample. The file has them field by field.
    fn write_samples(&self, formats: u32, mut individual: Cursor<'_>, line: &mut Vec<u8>) -> Result<(), Finding> {
        let mut fields = Vec::new();
        for number in 0..formats {
            line.push(if number == 0 { b'\t' } else { b':' });
            let key = name(&self.fields, individual.key()?, "FORMAT field")?;
            line.extend_from_slice(key.as_bytes());
            let (kind, count) = individual.kind()?;
            let width = count.saturating_mul(kind.size());
            if width == 0 {
                return Err(damaged(format!("no values in FORMAT field {key}")));
            }
            fields.push((key == "GT", kind, width, individual.take(width.saturating_mul(self.samples))?));
        }
        if fields.is_empty() {
            line.extend_from_slice(b"\t.");
        }
        for sample in 0..self.samples {
            line.push(b'\t');
            for (number, (is_genotype, kind, width, bytes)) in fields.iter().enumerate() {
                if number > 0 {
                    line.push(b':');
                }
                let values = Values { kind: *kind, bytes: &bytes[sample * width..][..*width] };
                if *is_genotype { values.write_genotype(line)? } else { values.write(line) }
            }
            if fields.is_empty() {
                line.push(b'.');
            }
        }
        Ok(())
    }
}

/// Names in the order in which the header has them, but for those to which it gives a number.
#[derive(Default)]
struct Dictionary {
    names: HashMap<usize, String>,
    numbers: HashMap<String, usize>,
    next: usize,
}

impl Dictionary {
    fn add(&mut self, name: &str, number: Option<usize>) {
        if self.numbers.contains_key(name) {
            return;
        }
        let number = number.unwrap_or(self.next);
        self.next = self.next.max(number.saturating_add(1));
        self.numbers.insert(name.to_owned(), number);
        self.names.insert(number, name.to_owned());
    }
}

/// ID and IDX of a header line's attributes.
fn identity(attributes: &str) -> (Option<&str>, Option<usize>) {
    let (mut name, mut number, mut is_quoted) = (None, None, false);
    let fields = attributes.trim_end_matches('>').split(|character| {
        is_quoted ^= character == '"';
        character == ',' && !is_quoted
    });
    for field in fields {
        match field.split_once('=') {
            Some(("ID", value)) => name = name.or(Some(value)),
            Some(("IDX", value)) => number = value.parse().ok(),
            _ => {}
        }
    }
    (name, number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn name<'n>(names: &'n HashMap<usize, String>, number: i32, what: &str) -> Result<&'n str, Finding> {
    let known = usize::try_from(number).ok().and_then(|number| names.get(&number));
    known.map(String::as_str).ok_or_else(|| damaged(format!("{what} {number}, which the header lacks")))
}

fn damaged(found: impl Into<String>) -> Finding {
    (found.into(), "this BCF file is damaged: get or make it again (bcftools view -O b)".into())
}

fn cut_short() -> Finding {
    ("the file ends inside a record".into(), "get the file again: it was cut off".into())
}

/// A length, or nothing at the end of the file.
fn read_length(reader: &mut dyn BufRead) -> Result<Option<u32>, Failure> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    read_bytes(reader, 4, &mut bytes)?;
    Ok(Some(Cursor(&bytes).u32()?))
}

/// Reads so many bytes into `buffer`, which grows with what there is, not with what the file says.
fn read_bytes(reader: &mut dyn BufRead, length: u32, buffer: &mut Vec<u8>) -> Result<(), Failure> {
    buffer.clear();
    let read = reader.take(length.into()).read_to_end(buffer)?;
    if read < length as usize { Err(cut_short().into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_lines_have_their_names_and_numbers() {
        assert_eq!(identity("ID=DP,Number=1,Description=\"a, ID=x,IDX=9\",IDX=3>"), (Some("DP"), Some(3)));
        assert_eq!(identity("length=9,ID=c>"), (Some("c"), None));
        let mut names = Dictionary::default();
        for (name, number) in
            [("PASS", None), ("a", Some(5)), ("b", None), ("a", None), ("c", Some(usize::MAX)), ("d", None)]
        {
            names.add(name, number);
        }
        assert_eq!((names.names[&0].as_str(), names.names[&5].as_str(), names.names[&6].as_str()), ("PASS", "a", "b"));
    }
}
