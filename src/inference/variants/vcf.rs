//! VCF, line by line and byte for byte: what is not read here comes out as it went in. BCF comes as the lines of VCF that it stands for.
//!
//! The format is that of the VCF specification 4.2 and later: meta lines that begin with `##`, a header line that begins
//! with `#CHROM`, then records of at least eight columns separated by tabs.

use std::io::{BufRead, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::bcf::{self, Bcf, Failure};
use crate::kmer::lines::{self, read_error};
use crate::{Error, Result};

/// The longest line that is read, in bytes: a record of a hundred thousand samples fits.
pub(super) const LONGEST_LINE: u64 = 256 << 20;

/// The alternate alleles of a record that are looked at, as many as BCF can hold: one of more would take some hundred times its
/// bytes of memory.
pub const MOST_ALLELES: usize = u16::MAX as usize - 1;

/// Reads the lines of a VCF file, plain, gzip or bgzip, or those that a BCF file stands for.
pub struct Reader {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    bcf: Option<Bcf>,
    line: Vec<u8>,
    number: u64,
    crc: Crc,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for what begins neither as VCF nor as BCF.
    pub fn open(path: &Path) -> Result<Self> {
        let mut reader = lines::open(path)?;
        let start = reader.fill_buf().map_err(read_error(path, "line 1".into()))?;
        if start.starts_with(b"BCF") && !start.starts_with(bcf::MAGIC) {
            let found = "a BCF file of another version than 2";
            return Err(Error::input(path, "", found, "convert it: bcftools view in.bcf -O z -o in.vcf.gz"));
        }
        let is_bcf = start.starts_with(bcf::MAGIC);
        if !is_bcf && !start.starts_with(b"##fileformat=VCF") {
            let found = "the file does not begin with ##fileformat=VCF";
            return Err(Error::input(path, "line 1", found, "give a VCF file, plain or gzipped, or BCF"));
        }
        let bcf = match is_bcf {
            true => Some(Bcf::open(&mut *reader).map_err(|failure| failed(path, "the header".into(), failure))?),
            false => None,
        };
        Ok(Self { path: path.to_owned(), reader, bcf, line: Vec::new(), number: 0, crc: Crc::new() })
    }

    /// Where the line read last stands, for a message: BCF has records, and no lines.
    pub fn place(&self) -> String {
        match &self.bcf {
            Some(bcf) if bcf.records() > 0 => format!("record {}", bcf.records()),
            Some(_) => "the header".into(),
            None => format!("line {}", self.number),
        }
    }

    /// The number of the line read last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// CRC-32 of the lines read so far.
    pub fn checksum(&self) -> u32 {
        self.crc.sum()
    }

    /// Reads the first `lines` lines again, which had this `checksum` when they were worked on.
    ///
    /// # Errors
    /// [`Error::Usage`] if they are others now; those of [`Reader::next_line`].
    pub fn skip(&mut self, lines: u64, checksum: u32) -> Result<()> {
        while self.number < lines && self.next_line()?.is_some() {}
        if (self.number, self.checksum()) != (lines, checksum) {
            return Err(Error::usage(
                format!(
                    "--resume, but the first {lines} lines of {} are not those that were scored",
                    self.path.display()
                ),
                "give the file as it was, or another --out",
            ));
        }
        Ok(())
    }

    /// The next line with its end (LF, CRLF, or none at the end of the file); `None` after the last.
    ///
    /// # Errors
    /// [`Error::Input`] for an overlong line or damaged gzip data; [`Error::Io`].
    pub fn next_line(&mut self) -> Result<Option<&[u8]>> {
        self.line.clear();
        if let Some(bcf) = &mut self.bcf {
            let read = bcf.next_line(&mut *self.reader, &mut self.line);
            if !read.map_err(|failure| failed(&self.path, self.place(), failure))? {
                return Ok(None);
            }
            self.number += 1;
            self.crc.update(&self.line);
            return Ok(Some(&self.line));
        }
        let place = format!("line {}", self.number + 1);
        let mut limited = self.reader.by_ref().take(LONGEST_LINE + 1);
        let read = limited.read_until(b'\n', &mut self.line).map_err(read_error(&self.path, place.clone()))?;
        if read as u64 > LONGEST_LINE {
            let found = format!("a line of more than {} MiB", LONGEST_LINE >> 20);
            return Err(Error::input(&self.path, place, found, "is this a VCF file?"));
        }
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.crc.update(&self.line);
        Ok(Some(&self.line))
    }
}

fn failed(path: &Path, place: String, failure: Failure) -> Error {
    match failure {
        Failure::Io(error) => read_error(path, place)(error),
        Failure::Finding((found, remedy)) => Error::input(path, place, found, remedy),
    }
}

/// What was found and what to do about it; the caller knows the file and the line.
pub type Finding = (String, String);

/// What a record says about its place and alleles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The first column.
    pub sequence: String,
    /// The second column: 1-based, 0 for a telomere.
    pub position: u32,
    /// The fourth column, upper case.
    pub reference: Vec<u8>,
    /// The fifth column's alleles; none where it is `.`, or where they are more than [`MOST_ALLELES`].
    pub alternates: Vec<Allele>,
    /// How many there are, where they are too many.
    pub passed_over: u64,
    /// Where the eighth column lies in the line, in bytes.
    pub info: Range<usize>,
}

/// An alternate allele.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allele {
    /// As the file writes it.
    pub text: String,
    /// Its bases, upper case, or why it has none that could be scored.
    pub bases: Result<Vec<u8>, &'static str>,
}

/// The header line names at least the eight fixed columns.
///
/// # Errors
/// The finding, for one that does not.
pub fn check_header(line: &[u8]) -> Result<(), Finding> {
    const COLUMNS: &[u8] = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO";
    let rest = line.trim_ascii_end().strip_prefix(COLUMNS);
    if rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'\t') {
        return Ok(());
    }
    let found = format!("the header line is {:?}", excerpt(line));
    Err((found, "it has to begin with #CHROM POS ID REF ALT QUAL FILTER INFO, separated by tabs".into()))
}

/// Reads the columns of a record.
///
/// # Errors
/// The finding, for a line that is no record.
pub fn parse(line: &[u8]) -> Result<Record, Finding> {
    let content = line.strip_suffix(b"\n").unwrap_or(line);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    let mut columns = [const { 0..0 }; 8];
    let mut start = 0;
    for (index, column) in columns.iter_mut().enumerate() {
        if start > content.len() {
            let found = format!("{index} tab-separated columns, where VCF has at least 8");
            return Err((found, "write CHROM POS ID REF ALT QUAL FILTER INFO with tabs between them".into()));
        }
        let length = content[start..].iter().position(|&byte| byte == b'\t').unwrap_or(content.len() - start);
        *column = start..start + length;
        start += length + 1;
    }
    let text = |index: usize| {
        let column = &content[columns[index].clone()];
        str::from_utf8(column).map_err(|_| {
            (format!("column {} is not UTF-8", index + 1), "is this a text file? save it as UTF-8".to_owned())
        })
    };
    let sequence = text(0)?;
    if sequence.is_empty() {
        return Err(("no sequence name in the first column".into(), "write the chromosome's name".into()));
    }
    let digits = text(1)?;
    let position = digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(position) = position else {
        return Err((format!("POS {digits:?} is no position"), "write a number, 1-based".into()));
    };
    let reference = text(3)?.to_ascii_uppercase().into_bytes();
    if reference.is_empty() || !reference.iter().all(|&base| is_base_letter(base)) {
        let found = format!("REF {:?} is no sequence of bases", excerpt(text(3)?.as_bytes()));
        return Err((found, "write the reference's bases: A, C, G, T or N".into()));
    }
    let column = text(4)?;
    let alleles = column.split(',').count();
    let passed_over = if alleles > MOST_ALLELES { alleles as u64 } else { 0 };
    let alternates = match column {
        "." => Vec::new(),
        _ if passed_over > 0 => Vec::new(),
        _ => column.split(',').map(|text| allele(text, &reference)).collect::<Result<_, _>>()?,
    };
    if content[columns[7].clone()].is_empty() {
        return Err(("an empty INFO column".into(), "write . where there is nothing to say".into()));
    }
    let [.., info] = columns;
    Ok(Record { sequence: sequence.to_owned(), position, reference, alternates, passed_over, info })
}

/// The line of a variant that comes without a file.
///
/// # Errors
/// The finding, for what would be no column: empty, or with white space in it.
pub fn line_of(sequence: &str, position: u32, reference: &str, alternates: &str) -> Result<Vec<u8>, Finding> {
    let is_column =
        |text: &&str| !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control());
    match [sequence, reference, alternates].into_iter().find(|text| !is_column(text)) {
        None => Ok(format!("{sequence}\t{position}\t.\t{reference}\t{alternates}\t.\t.\t.\n").into_bytes()),
        Some(strange) => {
            let found = format!("{:?} for a sequence's name or an allele", excerpt(strange.as_bytes()));
            Err((found, "give names and bases without white space".into()))
        }
    }
}

/// As [`line_of`], of a variant that is written as `X-100-A-G`, with `-`, `:` or `>` between its parts.
///
/// # Errors
/// As [`line_of`]; and for a text that has not these parts.
pub fn line_of_text(text: &str) -> Result<Vec<u8>, Finding> {
    let mut parts = text.rsplitn(4, ['-', ':', '>']);
    if let [Some(alternates), Some(reference), Some(position), Some(sequence)] = [(); 4].map(|()| parts.next())
        && let Ok(position) = position.parse()
    {
        return line_of(sequence, position, reference, alternates);
    }
    Err((format!("{:?}", excerpt(text.as_bytes())), "write sequence, position, REF and ALT, as X-100-A-G".into()))
}

fn allele(text: &str, reference: &[u8]) -> Result<Allele, Finding> {
    let upper = text.to_ascii_uppercase().into_bytes();
    let known = |base: &u8| matches!(base, b'A' | b'C' | b'G' | b'T');
    let bases = if matches!(text, "<NON_REF>" | "<*>") {
        Err("any_other_allele")
    } else if text.len() > 2 && text.starts_with('<') && text.ends_with('>') {
        Err("symbolic_allele")
    } else if text == "*" {
        Err("overlapping_deletion")
    } else if text.contains(['[', ']']) || (text.len() > 1 && (text.starts_with('.') || text.ends_with('.'))) {
        Err("breakend")
    } else if upper.is_empty() || !upper.iter().all(|&base| is_base_letter(base)) {
        let found = format!("ALT {:?} is no allele", excerpt(text.as_bytes()));
        return Err((
            found,
            "write bases, *, a symbolic allele as <DEL>, or a breakend, with commas between them".into(),
        ));
    } else if !upper.iter().all(known) || !reference.iter().all(known) {
        Err("unknown_bases")
    } else if upper == reference {
        Err("same_as_reference")
    } else {
        Ok(upper)
    };
    Ok(Allele { text: text.to_owned(), bases })
}

fn is_base_letter(base: u8) -> bool {
    b"ACGTNRYSWKMBDHV".contains(&base)
}

/// Whether a genome's base can be what a letter of REF, an IUPAC code perhaps, stands for; N can be anything.
pub fn agrees(letter: u8, base: u8) -> bool {
    let codes: &[u8] = match letter {
        b'R' => b"AG",
        b'Y' => b"CT",
        b'S' => b"CG",
        b'W' => b"AT",
        b'K' => b"GT",
        b'M' => b"AC",
        b'B' => b"CGT",
        b'D' => b"AGT",
        b'H' => b"ACT",
        b'V' => b"ACG",
        b'N' => b"ACGT",
        _ => return base == b'N' || letter == base,
    };
    base == b'N' || codes.contains(&base)
}

/// The start of a text, for a message.
pub fn excerpt(text: &[u8]) -> String {
    const SHOWN: usize = 40;
    let shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).trim_end().to_owned();
    if text.len() > SHOWN { shown + "..." } else { shown }
}

/// `line` with `fields` added to its INFO column; every other byte stays.
pub fn with_info(line: &[u8], info: &Range<usize>, fields: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len() + fields.len() + 1);
    if &line[info.clone()] == b"." {
        out.extend_from_slice(&line[..info.start]);
    } else {
        out.extend_from_slice(&line[..info.end]);
        if line[info.end - 1] != b';' {
            out.push(b';');
        }
    }
    out.extend_from_slice(fields.as_bytes());
    out.extend_from_slice(&line[info.end..]);
    out
}

/// Writes what VCF does not allow inside an INFO value as `%` and two hexadecimal digits (VCF 4.3, section 1.2), and `|`,
/// which separates our fields, too.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ':' | ';' | '=' | '%' | ',' | '|' | '\0'..=' ' | '\x7f' => out += &format!("%{:02X}", character as u32),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_alleles() {
        let line = b"chr1\t12\t.\tacg\tA,<DEL>,*,<NON_REF>,G]chr2:3],AN,ACG,TTT\t.\tPASS\tDP=3\tGT\t0|1\r\n";
        let record = parse(line).unwrap();
        assert_eq!((record.sequence.as_str(), record.position), ("chr1", 12));
        assert_eq!(record.reference, b"ACG");
        let bases: Vec<_> = record.alternates.iter().map(|allele| allele.bases.as_deref()).collect();
        let expected = [
            Ok(b"A".as_slice()),
            Err(&"symbolic_allele"),
            Err(&"overlapping_deletion"),
            Err(&"any_other_allele"),
            Err(&"breakend"),
            Err(&"unknown_bases"),
            Err(&"same_as_reference"),
            Ok(b"TTT"),
        ];
        assert_eq!(bases, expected);
        let with = with_info(line, &record.info, "X=1");
        assert_eq!(String::from_utf8(with).unwrap(), String::from_utf8_lossy(line).replace("DP=3", "DP=3;X=1"));
        let bare = b"1\t1\t.\tA\t.\t.\t.\t.";
        let record = parse(bare).unwrap();
        assert!(record.alternates.is_empty());
        assert_eq!(with_info(bare, &record.info, "X=1"), b"1\t1\t.\tA\t.\t.\t.\tX=1");
        let open = b"1\t1\t.\tA\tC\t.\t.\tDP=1;\n";
        assert_eq!(with_info(open, &parse(open).unwrap().info, "X"), b"1\t1\t.\tA\tC\t.\t.\tDP=1;X\n");
    }

    #[test]
    fn what_is_no_record() {
        let error = |line: &str| parse(line.as_bytes()).unwrap_err().0;
        assert!(error("chr1\t1\t.\tA\tC\t.\t.").contains("7 tab-separated columns"));
        assert!(error("").contains("1 tab-separated columns"));
        assert!(error("\t1\t.\tA\tC\t.\t.\t.").contains("no sequence name"));
        assert!(error("c\t+1\t.\tA\tC\t.\t.\t.").contains("\"+1\" is no position"));
        assert!(error("c\t99999999999\t.\tA\tC\t.\t.\t.").contains("is no position"));
        assert!(error("c\t1\t.\t\tC\t.\t.\t.").contains("REF \"\""));
        assert!(error("c\t1\t.\tA-\tC\t.\t.\t.").contains("REF \"A-\""));
        assert!(error("c\t1\t.\tA\tC,\t.\t.\t.").contains("ALT \"\""));
        assert!(error("c\t1\t.\tA\tC;G\t.\t.\t.").contains("ALT \"C;G\""));
        assert!(error("c\t1\t.\tA\tC\t.\t.\t").contains("empty INFO"));
        assert!(check_header(b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\r\n").is_ok());
        assert!(check_header(b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n").is_ok());
        assert!(check_header(b"#CHROM POS\n").is_err());
    }

    #[test]
    fn codes_and_escapes() {
        assert!(
            agrees(b'A', b'A')
                && agrees(b'A', b'N')
                && !agrees(b'A', b'G')
                && agrees(b'R', b'G')
                && !agrees(b'R', b'T')
                && agrees(b'R', b'N')
        );
        assert_eq!(escaped("gene:A b|c"), "gene%3AA%20b%7Cc");
    }
}
