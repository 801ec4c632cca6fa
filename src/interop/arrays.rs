//! Rows of floats to files that NumPy, PyTorch and spreadsheets open: `.npy`, `.safetensors`, `.tsv`.
//!
//! The number of rows is not known before the last one is written, so the binary headers have room for the largest number
//! and are filled in at the end. Files appear under their names only then.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::output::AtomicFile;
use crate::{Error, Result};

/// Bytes of a header: NumPy's and safetensors' are padded with blanks to this, a multiple of 64.
const HEADER: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    Safetensors,
    Tsv,
}

/// Which rows belong to what: the index beside a binary file, the first columns of a table.
pub struct Row<'a> {
    /// The sequence's name.
    pub name: &'a str,
    /// The place of the row in it, from 1, and what stands there: a base or a k-mer. `None` for a row of all of it.
    pub place: Option<(usize, &'a str)>,
}

struct Open {
    name: String,
    first_row: u64,
    first_position: Option<usize>,
}

/// Writes `[rows, columns]` of f32, a row at a time.
///
/// With `.npy` and `.safetensors` an index is written beside the file, `FILE.index.tsv`: for each sequence its name, its
/// first row (from 0), its number of rows and the place of the first of them (from 1; `.` for rows of a whole sequence). A
/// `.safetensors` file has the rows under the tensor's name and, in `offsets` (i64, `[sequences + 1]`), where each sequence
/// starts and the last one ends.
pub struct ArrayWriter {
    format: Format,
    tensor: &'static str,
    columns: Vec<String>,
    rows: u64,
    file: AtomicFile,
    index: Option<AtomicFile>,
    /// The sequence that is being written.
    open: Option<Open>,
    offsets: Vec<i64>,
    line: String,
}

impl ArrayWriter {
    /// Starts a file; its name's end says which kind. The rows are called `tensor` where a format has such names.
    ///
    /// # Errors
    /// [`Error::Usage`] for another end; those of [`AtomicFile::create`].
    pub fn create(path: &Path, tensor: &'static str, columns: Vec<String>) -> Result<Self> {
        let format = match path.extension().and_then(|end| end.to_str()) {
            Some("npy") => Format::Npy,
            Some("safetensors") => Format::Safetensors,
            Some("tsv") => Format::Tsv,
            _ => {
                let found = format!("{} is neither .npy nor .safetensors nor .tsv", path.display());
                return Err(Error::usage(found, "end the file's name with one of them"));
            }
        };
        let mut file = AtomicFile::create(path)?;
        let mut index = None;
        if format != Format::Tsv {
            file.write_all(&[b' '; HEADER]).map_err(Error::io("write", path))?;
            let mut beside = AtomicFile::create(index_path(path))?;
            beside.write_all(b"name\tfirst_row\trows\tfirst_position\n").map_err(Error::io("write", beside.path()))?;
            index = Some(beside);
        }
        Ok(Self { format, tensor, columns, rows: 0, file, index, open: None, offsets: Vec::new(), line: String::new() })
    }

    /// Columns of a row.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Begins the rows of a sequence.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.end_sequence()?;
        self.open = Some(Open { name: name.to_owned(), first_row: self.rows, first_position: None });
        Ok(())
    }

    fn end_sequence(&mut self) -> Result<()> {
        let Some(Open { name, first_row: first, first_position }) = self.open.take() else { return Ok(()) };
        if let Some(index) = &mut self.index {
            let position = first_position.map_or_else(|| ".".to_owned(), |position| position.to_string());
            let line = format!("{name}\t{first}\t{}\t{position}\n", self.rows - first);
            index.write_all(line.as_bytes()).map_err(Error::io("write", index.path()))?;
        }
        if self.format == Format::Safetensors {
            self.offsets.push(first as i64);
        }
        Ok(())
    }

    /// Writes one row of the sequence that was begun.
    ///
    /// # Errors
    /// [`Error::Io`], a full disk among the causes.
    ///
    /// # Panics
    /// If it has another number of columns: a fault of the caller, never of input.
    pub fn row(&mut self, row: &Row, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.columns(), "a row of another size");
        if let Some(open) = &mut self.open
            && open.first_row == self.rows
        {
            open.first_position = row.place.map(|(position, _)| position);
        }
        let written = if self.format == Format::Tsv {
            if self.rows == 0 {
                self.write_tsv_header(row)?;
            }
            let line = &mut self.line;
            line.clear();
            line.push_str(row.name);
            if let Some((place, text)) = row.place {
                let _ = write!(line, "\t{place}\t{text}");
            }
            for value in values {
                let _ = write!(line, "\t{value}");
            }
            line.push('\n');
            self.file.write_all(line.as_bytes())
        } else if cfg!(target_endian = "little") {
            self.file.write_all(bytemuck::cast_slice(values))
        } else {
            values.iter().try_for_each(|value| self.file.write_all(&value.to_le_bytes()))
        };
        self.rows += 1;
        written.map_err(Error::io("write", self.file.path()))
    }

    fn write_tsv_header(&mut self, row: &Row) -> Result<()> {
        let mut line = "name".to_owned();
        if row.place.is_some() {
            line.push_str("\tposition\tsequence");
        }
        for column in &self.columns {
            let _ = write!(line, "\t{column}");
        }
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", self.file.path()))
    }

    /// Appends all rows of another array of this kind and these columns, with its index.
    ///
    /// # Errors
    /// [`Error::Input`] for an index that is none; [`Error::Io`].
    pub fn append(&mut self, part: &Path) -> Result<()> {
        let index = index_path(part);
        let mut lines = BufReader::new(File::open(&index).map_err(Error::io("open", &index))?).lines();
        let first = self.rows;
        lines.next();
        for (number, line) in (2..).zip(lines) {
            let line = line.map_err(Error::io("read", &index))?;
            let read = || {
                // A name may hold tabs.
                let mut columns = line.rsplitn(4, '\t');
                let position = columns.next()?;
                let (rows, _, name) = (columns.next()?.parse::<u64>().ok()?, columns.next()?, columns.next()?);
                Some((name.to_owned(), rows, position.parse().ok()))
            };
            let Some((name, rows, first_position)) = read() else {
                let remedy = "remove the folder and compute it again";
                return Err(Error::input(&index, format!("line {number}"), "no line of an index", remedy));
            };
            self.end_sequence()?;
            self.open = Some(Open { name, first_row: self.rows, first_position });
            self.rows += rows;
        }
        self.end_sequence()?;
        let bytes = (self.rows - first) * self.columns() as u64 * 4;
        let mut file = File::open(part).map_err(Error::io("open", part))?;
        file.seek(SeekFrom::Start(HEADER as u64)).map_err(Error::io("read", part))?;
        io::copy(&mut file.take(bytes), &mut self.file).map(drop).map_err(Error::io("write", self.file.path()))
    }

    /// Fills in the header and gives the files their names. Returns the number of rows.
    ///
    /// # Errors
    /// [`Error::Io`]; no file appears then.
    pub fn commit(mut self) -> Result<u64> {
        self.end_sequence()?;
        let header = match self.format {
            Format::Npy => Some(npy_header(self.rows, self.columns())),
            Format::Safetensors => {
                self.offsets.push(self.rows as i64);
                let offsets = self.offsets.iter().flat_map(|offset| offset.to_le_bytes());
                let bytes: Vec<u8> = offsets.collect();
                self.file.write_all(&bytes).map_err(Error::io("write", self.file.path()))?;
                Some(safetensors_header(self.tensor, self.rows, self.columns(), self.offsets.len()))
            }
            Format::Tsv => None,
        };
        if let Some(header) = header {
            self.file.rewrite_start(&header)?;
        }
        self.file.commit()?;
        self.index.map_or(Ok(()), AtomicFile::commit)?;
        Ok(self.rows)
    }
}

/// Puts tables with the same header together in `out`, one below the other; empty ones may be among them.
///
/// # Errors
/// [`Error::Io`].
pub fn concatenate_tables(parts: &[PathBuf], out: &Path) -> Result<()> {
    let mut file = AtomicFile::create(out)?;
    let mut has_header = false;
    for part in parts {
        let mut reader = BufReader::new(File::open(part).map_err(Error::io("open", part))?);
        let mut header = Vec::new();
        reader.read_until(b'\n', &mut header).map_err(Error::io("read", part))?;
        if !has_header {
            file.write_all(&header).map_err(Error::io("write", out))?;
        }
        has_header |= !header.is_empty();
        io::copy(&mut reader, &mut file).map_err(Error::io("write", out))?;
    }
    file.commit()
}

/// Where the index of a binary file lies.
pub fn index_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".index.tsv");
    name.into()
}

/// Version 1.0 of NumPy's format (numpy.org/doc/stable/reference/generated/numpy.lib.format.html): magic, version, length
/// of the text as u16, and a Python dictionary padded with blanks up to a line end.
pub(crate) fn npy_header(rows: u64, columns: usize) -> Vec<u8> {
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((HEADER as u16 - 10).to_le_bytes());
    header.extend(format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}").bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

/// The length of the text as u64, then JSON padded with blanks (github.com/huggingface/safetensors, "Format").
fn safetensors_header(tensor: &str, rows: u64, columns: usize, offsets: usize) -> Vec<u8> {
    let end = rows * columns as u64 * 4;
    let json = json!({
        tensor: { "dtype": "F32", "shape": [rows, columns], "data_offsets": [0, end] },
        "offsets": { "dtype": "I64", "shape": [offsets], "data_offsets": [end, end + 8 * offsets as u64] },
    });
    let mut header = (HEADER as u64 - 8).to_le_bytes().to_vec();
    header.extend(json.to_string().bytes());
    header.resize(HEADER, b' ');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_room_for_any_number() {
        let (rows, columns) = (1 << 40, 1 << 20);
        assert_eq!(npy_header(rows, columns).len(), HEADER);
        assert_eq!(safetensors_header("embeddings", rows, columns, 1 << 40).len(), HEADER);
        assert_eq!(npy_header(rows, columns)[HEADER - 1], b'\n');
        assert!(safetensors_header("embeddings", rows, columns, 1 << 40).ends_with(b" "));
    }
}
