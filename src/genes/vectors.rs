//! Gene vectors in files: word2vec's text and binary form, Gene2vec's table, NumPy's array beside a list of names.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};

use crate::interop::arrays::npy_header;
use crate::kmer::lines::read_error;
use crate::output::AtomicFile;
use crate::{Error, Result, gunzip, small_file};

/// The file with the names of the rows of an `.npy` file, in the same folder: a line each.
pub const NAMES_FILE: &str = "genes.txt";

/// The longest name of a gene, in bytes, and the most numbers of a vector: what says more is another file.
const LONGEST_NAME: usize = 1 << 12;
const LARGEST_DIMENSION: usize = 1 << 16;
const NPY_MAGIC: &[u8] = b"\x93NUMPY";

/// A vector for each gene.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneVectors {
    /// Names, each once; those that were trained here by falling count.
    pub genes: Vec<String>,
    /// Numbers of a vector.
    pub dimension: usize,
    /// `[genes, dimension]`.
    pub values: Vec<f32>,
}

impl GeneVectors {
    /// The vector of the gene at `index`.
    ///
    /// # Panics
    /// If there are not so many genes.
    pub fn vector(&self, index: usize) -> &[f32] {
        &self.values[index * self.dimension..][..self.dimension]
    }

    /// Where each gene is.
    pub fn index(&self) -> HashMap<&str, usize> {
        self.genes.iter().enumerate().map(|(index, gene)| (gene.as_str(), index)).collect()
    }

    /// Reads a file of any of the four forms, known by what it begins with; gzip is recognised as well. An `.npy` file has its names in
    /// [`NAMES_FILE`] beside it.
    ///
    /// # Errors
    /// [`Error::Input`] with the line or record and what is wrong there; [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        let mut source = Source { path, reader: gunzip::open_text(path)?, number: 0 };
        let start = source.reader.fill_buf().map_err(read_error(path, "line 1".into()))?;
        if start.starts_with(NPY_MAGIC) {
            return source.npy();
        }
        if start.starts_with(small_file::BYTE_ORDER_MARK) {
            source.reader.consume(small_file::BYTE_ORDER_MARK.len());
        }
        let Some(first) = source.line()? else {
            return Err(Error::input(path, "", "the file is empty", "name a file of gene vectors"));
        };
        let mut all = Builder::new(path);
        let Some((count, dimension)) = word2vec_header(&first) else {
            let text = source.text(first)?;
            all.table_line(&text, source.number)?;
            while let Some(line) = source.line()? {
                let text = source.text(line)?;
                all.table_line(&text, source.number)?;
            }
            return all.finish(None);
        };
        if !(1..=LARGEST_DIMENSION).contains(&dimension) {
            let found = format!("a header that announces {dimension} numbers a gene");
            return Err(Error::input(path, "line 1", found, "a word2vec file begins with its genes and its dimension"));
        }
        all.dimension = Some(dimension);
        if source.is_binary(dimension)? {
            source.binary(&mut all, count, dimension)?;
        } else {
            while let Some(line) = source.line()? {
                let text = source.text(line)?;
                all.word2vec_line(&text, source.number)?;
            }
        }
        all.finish(Some(count))
    }

    /// Writes word2vec's text form: a line with the numbers of genes and of dimensions, then a line a gene, its name and its numbers,
    /// all between single blanks.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name with a blank in it; [`Error::Io`].
    pub fn write_text(&self, path: &Path) -> Result<()> {
        let header = format!("{} {}\n", self.genes.len(), self.dimension);
        self.write_rows(path, header.as_bytes(), |gene, vector, line| {
            line.extend_from_slice(gene.as_bytes());
            vector.iter().try_for_each(|value| write!(line, " {value}"))?;
            line.write_all(b"\n")
        })
    }

    /// Writes word2vec's binary form: the same header, then of each gene its name, a blank and its numbers, little-endian f32, with
    /// nothing behind them.
    ///
    /// # Errors
    /// As [`GeneVectors::write_text`].
    pub fn write_binary(&self, path: &Path) -> Result<()> {
        let header = format!("{} {}\n", self.genes.len(), self.dimension);
        self.write_rows(path, header.as_bytes(), |gene, vector, line| {
            line.extend_from_slice(gene.as_bytes());
            line.push(b' ');
            vector.iter().for_each(|value| line.extend_from_slice(&value.to_le_bytes()));
            Ok(())
        })
    }

    /// Writes Gene2vec's table: a line a gene, its name, a tab, and its numbers with a blank behind each.
    ///
    /// # Errors
    /// As [`GeneVectors::write_text`].
    pub fn write_table(&self, path: &Path) -> Result<()> {
        self.write_rows(path, b"", |gene, vector, line| {
            write!(line, "{gene}\t")?;
            vector.iter().try_for_each(|value| write!(line, "{value} "))?;
            line.write_all(b"\n")
        })
    }

    /// Writes NumPy's array `[genes, dimension]` of f32, and the names into [`NAMES_FILE`] beside it.
    ///
    /// # Errors
    /// As [`GeneVectors::write_text`].
    pub fn write_npy(&self, path: &Path) -> Result<()> {
        self.write_rows(path, &npy_header(self.genes.len() as u64, self.dimension), |_, vector, line| {
            vector.iter().for_each(|value| line.extend_from_slice(&value.to_le_bytes()));
            Ok(())
        })?;
        let mut names = String::new();
        for gene in &self.genes {
            let _ = writeln!(names, "{gene}");
        }
        crate::output::write_atomic(names_path(path), names)
    }

    fn write_rows(
        &self,
        path: &Path,
        header: &[u8],
        row: impl Fn(&str, &[f32], &mut Vec<u8>) -> std::io::Result<()>,
    ) -> Result<()> {
        if let Some(gene) = self.genes.iter().find(|gene| gene.is_empty() || gene.contains(char::is_whitespace)) {
            return Err(Error::usage(
                format!("a gene is called {gene:?}"),
                "give it a name without blanks: files of vectors have blanks between their fields",
            ));
        }
        let mut file = AtomicFile::create(path)?;
        let mut line = header.to_vec();
        for (index, gene) in self.genes.iter().enumerate() {
            row(gene, self.vector(index), &mut line).map_err(Error::io("write", path))?;
            file.write_all(&line).map_err(Error::io("write", path))?;
            line.clear();
        }
        file.write_all(&line).map_err(Error::io("write", path))?;
        file.commit()
    }
}

/// Where the names of the rows of the `.npy` file `path` are.
pub fn names_path(path: &Path) -> PathBuf {
    path.with_file_name(NAMES_FILE)
}

/// Two whole numbers with a blank between them, and nothing else.
fn word2vec_header(line: &[u8]) -> Option<(usize, usize)> {
    let (count, dimension) = std::str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
    Some((count.parse().ok()?, dimension.parse().ok()?))
}

/// A file as it is read.
struct Source<'a> {
    path: &'a Path,
    reader: Box<dyn BufRead>,
    /// The number of the line read last, from 1.
    number: usize,
}

impl Source<'_> {
    /// The next line without its end.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        /// More than the longest vector takes with all its digits.
        const LONGEST: usize = LONGEST_NAME + LARGEST_DIMENSION * 32;
        self.number += 1;
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(LONGEST as u64 + 1);
        let place = format!("line {}", self.number);
        limited.read_until(b'\n', &mut line).map_err(read_error(self.path, place.clone()))?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() > LONGEST {
            let found = format!("a line of more than {LONGEST} bytes");
            return Err(Error::input(self.path, place, found, "is this a file of gene vectors?"));
        }
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        Ok(Some(line))
    }

    fn text(&self, line: Vec<u8>) -> Result<String> {
        String::from_utf8(line).map_err(|error| {
            let found = format!("byte {} of the line is not UTF-8", error.utf8_error().valid_up_to() + 1);
            Error::input(self.path, format!("line {}", self.number), found, "is this a text file? save it as UTF-8")
        })
    }

    /// Whether what follows the header are numbers of four bytes: whether there is a byte, behind the first name and before what would be the
    /// end of its line, that no number in digits has.
    fn is_binary(&mut self, dimension: usize) -> Result<bool> {
        let place = "the first gene".to_owned();
        let start = self.reader.fill_buf().map_err(read_error(self.path, place))?;
        let Some(blank) = start.iter().position(|&byte| byte == b' ') else { return Ok(false) };
        let values = &start[blank + 1..];
        let values = &values[..values.len().min(4 * dimension)];
        let values = values.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let in_digits = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-. \r\n".contains(byte);
        Ok(values.trim_ascii().is_empty() || !values.iter().all(in_digits))
    }

    fn binary(&mut self, all: &mut Builder, count: usize, dimension: usize) -> Result<()> {
        let mut bytes = vec![0; 4 * dimension];
        for record in 1..=count {
            let place = || format!("gene {record} of {count}");
            let mut name = Vec::new();
            let mut limited = self.reader.by_ref().take(LONGEST_NAME as u64 + 1);
            limited.read_until(b' ', &mut name).map_err(read_error(self.path, place()))?;
            // Word2vec's own program ends each record with a line; gensim does not.
            let name = name.strip_prefix(b"\n").unwrap_or(&name);
            let Some(name) = name.strip_suffix(b" ").filter(|name| !name.is_empty()) else {
                let found = if name.is_empty() { "the file ends" } else { "no name with a blank behind it" };
                let remedy = "get the file again: it is cut off, or no word2vec file";
                return Err(Error::input(self.path, place(), found, remedy));
            };
            let name = std::str::from_utf8(name).map_err(|_| {
                Error::input(self.path, place(), "its name is not UTF-8", "get the file again, or write it with UTF-8")
            })?;
            self.reader.read_exact(&mut bytes).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::input(self.path, place(), "the file ends within it", "get the file again: it is cut off")
                }
                _ => read_error(self.path, place())(error),
            })?;
            let values =
                bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            all.push(name, values, &place)?;
        }
        let mut rest = Vec::new();
        self.reader.by_ref().take(2).read_to_end(&mut rest).map_err(read_error(self.path, "its end".into()))?;
        if rest.iter().any(|&byte| byte != b'\n') {
            let found = format!("more than the {count} genes that its header announces");
            return Err(Error::input(
                self.path,
                "behind the last gene",
                found,
                "write the file again with its own program",
            ));
        }
        Ok(())
    }

    /// NumPy's format, versions 1 to 3, of f32 or f64, little-endian, in rows.
    fn npy(mut self) -> Result<GeneVectors> {
        let path = self.path;
        let failed = |place: &str| read_error(path, place.to_owned());
        let mut start = [0; 8];
        self.reader.read_exact(&mut start).map_err(failed("its header"))?;
        let wide = start[6] > 1;
        let mut length = [0; 4];
        self.reader.read_exact(&mut length[..if wide { 4 } else { 2 }]).map_err(failed("its header"))?;
        let mut header = Vec::new();
        let length = u64::from(u32::from_le_bytes(length)).min(1 << 16);
        self.reader.by_ref().take(length).read_to_end(&mut header).map_err(failed("its header"))?;
        let header = String::from_utf8_lossy(&header);
        let field = |key: &str| header.split_once(key).map_or("", |(_, rest)| rest.trim_start_matches([' ', ':']));
        let shape: Vec<usize> = field("'shape'")
            .trim_start_matches('(')
            .split(')')
            .next()
            .unwrap_or_default()
            .split(',')
            .filter_map(|size| size.trim().parse().ok())
            .collect();
        let width = match field("'descr'").get(..5) {
            Some("'<f4'") => 4,
            Some("'<f8'") => 8,
            _ => 0,
        };
        let (&[rows, dimension], 4 | 8, true) = (&shape[..], width, field("'fortran_order'").starts_with("False"))
        else {
            let found = format!("an array {}", header.trim());
            let remedy = "save it as rows of float32: numpy.save(FILE, numpy.ascontiguousarray(x, 'float32'))";
            return Err(Error::input(path, "its header", found, remedy));
        };
        let names_file = names_path(path);
        let names = small_file::read(&names_file)?;
        let names: Vec<&str> = names.lines().map(str::trim_end).collect();
        if names.len() != rows || !(1..=LARGEST_DIMENSION).contains(&dimension) {
            let found = format!("{} names, where {} has {rows} rows of {dimension}", names.len(), path.display());
            return Err(Error::input(names_file, "", found, "keep the two files of one writing together"));
        }
        let mut all = Builder::new(path);
        all.dimension = Some(dimension);
        let mut bytes = vec![0; width * dimension];
        for (row, name) in names.iter().enumerate() {
            let place = || format!("row {row}");
            self.reader.read_exact(&mut bytes).map_err(read_error(path, place()))?;
            let value = |bytes: &[u8]| match *bytes {
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                _ => f64::from_le_bytes(std::array::from_fn(|index| bytes[index])) as f32,
            };
            all.push(name, bytes.chunks_exact(width).map(value), &place)?;
        }
        all.finish(None)
    }
}

/// Vectors as they come in.
struct Builder<'a> {
    path: &'a Path,
    /// By the header, or by the first line.
    dimension: Option<usize>,
    genes: Vec<String>,
    values: Vec<f32>,
}

impl<'a> Builder<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, dimension: None, genes: Vec::new(), values: Vec::new() }
    }

    fn word2vec_line(&mut self, text: &str, number: usize) -> Result<()> {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        self.line(name, rest, number)
    }

    /// Of Gene2vec's table; files of three columns and more between tabs are read as well.
    fn table_line(&mut self, text: &str, number: usize) -> Result<()> {
        let (name, rest) = text.split_once(['\t', ' ']).unwrap_or((text, ""));
        self.line(name, rest, number)
    }

    fn line(&mut self, name: &str, rest: &str, number: usize) -> Result<()> {
        if name.is_empty() && rest.trim().is_empty() {
            return Ok(());
        }
        let place = || format!("line {number}");
        let mut values = Vec::with_capacity(self.dimension.unwrap_or(0));
        for field in rest.split_ascii_whitespace() {
            values.push(field.parse().map_err(|_| {
                let found = format!("{field:?}, where number {} of gene {name:?} is to be", values.len() + 1);
                Error::input(self.path, place(), found, "a line is a gene's name and its numbers")
            })?);
        }
        let dimension = *self.dimension.get_or_insert(values.len());
        if values.len() != dimension || dimension == 0 {
            let expected = if dimension == 0 { "at least 1".to_owned() } else { dimension.to_string() };
            let found = format!("{} numbers for gene {name:?}, where {expected} are expected", values.len());
            return Err(Error::input(self.path, place(), found, "give every gene equally many numbers"));
        }
        self.push(name, values.into_iter(), &place)
    }

    fn push(&mut self, name: &str, values: impl Iterator<Item = f32>, place: &dyn Fn() -> String) -> Result<()> {
        let begin = self.values.len();
        self.values.extend(values);
        if let Some(at) = self.values[begin..].iter().position(|value| !value.is_finite()) {
            let found = format!("number {} of gene {name:?} is {}", at + 1, self.values[begin + at]);
            return Err(Error::input(self.path, place(), found, "leave the gene out, or train again"));
        }
        self.genes.push(name.to_owned());
        Ok(())
    }

    fn finish(self, announced: Option<usize>) -> Result<GeneVectors> {
        let Self { path, dimension, genes, values } = self;
        if let Some(announced) = announced.filter(|&announced| announced != genes.len()) {
            let found = format!("{} genes, where the header announces {announced}", genes.len());
            return Err(Error::input(path, "line 1", found, "get the file again, or set the header right"));
        }
        let (Some(dimension), false) = (dimension, genes.is_empty()) else {
            return Err(Error::input(path, "", "no gene is in it", "name a file of gene vectors"));
        };
        let mut seen = HashMap::with_capacity(genes.len());
        for (index, gene) in genes.iter().enumerate() {
            if let Some(before) = seen.insert(gene.as_str(), index) {
                let found = format!("gene {gene:?} stands there twice, as number {} and {}", before + 1, index + 1);
                return Err(Error::input(path, "", found, "keep one of them"));
            }
        }
        Ok(GeneVectors { genes, dimension, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gunzip::tests::gzip;

    fn vectors() -> GeneVectors {
        let genes = ["TP53", "BRCA1", "C1orf112"].map(String::from).to_vec();
        GeneVectors {
            genes,
            dimension: 4,
            values: vec![0.0, -1.5, 1e-7, 3.0, 1.0, 2.0, f32::MIN_POSITIVE, 0.1, 0.0, 0.0, -0.0, 7.25],
        }
    }

    fn with(contents: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        std::fs::write(&path, contents).unwrap();
        (folder, path)
    }

    #[test]
    fn every_form_is_read_as_it_was_written() {
        type Writer = fn(&GeneVectors, &Path) -> Result<()>;
        let forms: [(&str, Writer); 4] = [
            ("text", GeneVectors::write_text),
            ("binary", GeneVectors::write_binary),
            ("table", GeneVectors::write_table),
            ("npy", GeneVectors::write_npy),
        ];
        for (what, write) in forms {
            let (_folder, path) = with(b"");
            write(&vectors(), &path).unwrap();
            let read = GeneVectors::read(&path).unwrap();
            assert_eq!(read, vectors(), "{what}");
            let bits = |vectors: &GeneVectors| vectors.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&read), bits(&vectors()), "{what}");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, gzip(&bytes)).unwrap();
            assert_eq!(GeneVectors::read(&path).unwrap(), vectors(), "{what}, compressed");
            if what != "table" {
                let cut = if what == "text" { bytes.len() - 60 } else { bytes.len() - 3 };
                std::fs::write(&path, &bytes[..cut]).unwrap();
                let error = GeneVectors::read(&path).unwrap_err();
                assert_eq!(error.exit_code(), 2, "{what}: {error}");
            }
        }
    }

    #[test]
    fn bytes_are_those_of_the_formats() {
        let (_folder, path) = with(b"");
        let one = GeneVectors { genes: vec!["A".into()], dimension: 2, values: vec![0.5, -2.0] };
        one.write_text(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"1 2\nA 0.5 -2\n");
        one.write_table(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"A\t0.5 -2 \n");
        one.write_binary(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"1 2\nA \x00\x00\x00\x3f\x00\x00\x00\xc0");
        one.write_npy(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap().len(), 256 + 8);
        assert_eq!(std::fs::read(names_path(&path)).unwrap(), b"A\n");
        // As word2vec's own program writes it.
        std::fs::write(&path, b"2 1\nA \x00\x00\x00\x3f\nB \x00\x00\x00\xc0\n").unwrap();
        let read = GeneVectors::read(&path).unwrap();
        assert_eq!((&read.genes[..], &read.values[..]), (&["A".into(), "B".into()][..], &[0.5, -2.0][..]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (contents, finding) in [
            (&b""[..], "the file is empty"),
            (b"2 2\nA 1 2\n", "line 1: 1 genes, where the header announces 2"),
            (b"1 2\nA 1 2\nB 1 2\n", "line 1: 2 genes, where the header announces 1"),
            (b"1 2\nA 1\n", "line 2: 1 numbers for gene \"A\", where 2 are expected"),
            (b"1 2\nA 1 x\n", "line 2: \"x\", where number 2 of gene \"A\" is to be"),
            (b"1 0\nA\n", "line 1: a header that announces 0 numbers a gene"),
            (b"99999999999 60000\nA 1 2\n", "2 numbers"),
            (b"A\t1 2 \nB\t1 NaN \n", "line 2: number 2 of gene \"B\" is NaN"),
            (b"A\t1 2 \nA\t1 3 \n", "gene \"A\" stands there twice, as number 1 and 2"),
            (b"A\t1 2 \nB\t1\n", "line 2: 1 numbers"),
            (b"A\n", "line 1: 0 numbers for gene \"A\", where at least 1 are expected"),
            (b"A\t1\n\xff\t2\n", "line 2: byte 1 of the line is not UTF-8"),
            (b"2 1\nA \x00\x00\x00\x3f", "gene 2 of 2: the file ends"),
            (b"2 1\nA \x00\x00\x00\x3fB \x00", "gene 2 of 2: the file ends within it"),
            (b"1 1\nA \x00\x00\x80\x7f", "gene 1 of 1: number 1 of gene \"A\" is inf"),
            (b"1 1\nA \x00\x00\x00\x3fB ", "behind the last gene: more than the 1 genes"),
            (b"\x93NUMPY\x01\x00\x04\x00{}  ", "its header: an array {}"),
            (b"\x93NUM", "not UTF-8"),
        ] {
            let (_folder, path) = with(contents);
            let error = GeneVectors::read(&path).unwrap_err();
            assert!(error.to_string().contains(finding), "{error}\nnot {finding}");
            assert!(error.exit_code() == 2 && error.to_string().contains("what to do"), "{error}");
        }
        let (_folder, path) = with(b"");
        let error = GeneVectors { genes: vec!["A B".into()], ..vectors() }.write_text(&path).unwrap_err();
        assert!(error.to_string().contains("a gene is called \"A B\""), "{error}");
    }
}
