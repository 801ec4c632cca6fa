//! The part of the zip format that `torch.save` uses: stored (uncompressed) entries, zip64 where sizes ask for it.
//!
//! PKWARE's APPNOTE 6.3: the end record is searched from the end, it points to the central directory, which points to
//! the local headers, behind which the data lie.

use std::collections::BTreeMap;
use std::ops::Range;

use flate2::Crc;

const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
const END_SIZE: usize = 22;
const LONGEST_COMMENT: usize = 0xFFFF;
/// Sizes of 32 bits that mean "look into the zip64 field".
const IN_ZIP64: u64 = 0xFFFF_FFFF;

/// The entries of an archive: name, and where the contents lie in it.
///
/// # Errors
/// What is wrong, in words: a file cut short, a compressed or encrypted entry, entries that overlap or share a name, a
/// checksum that does not hold.
pub fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, String> {
    let directory = find_directory(bytes)?;
    let (mut found, mut at) = (Vec::new(), directory.start);
    while at < directory.end {
        let entry = Central::read(bytes, at)?;
        at = entry.next;
        if !entry.name.ends_with('/') {
            found.push((entry.data(bytes)?, entry));
        }
    }
    // Bytes that belong to several entries would be summed as often: a small file could ask for days of work.
    found.sort_by_key(|(data, _)| (data.start, data.end));
    if let Some(pair) = found.windows(2).find(|pair| pair[1].0.start < pair[0].0.end) {
        return Err(format!("{:?} and {:?} overlap in the archive", pair[0].1.name, pair[1].1.name));
    }
    let mut entries = BTreeMap::new();
    for (data, entry) in found {
        let mut crc = Crc::new();
        crc.update(&bytes[data.clone()]);
        if crc.sum() != entry.crc {
            return Err(format!("the checksum of {:?} in the archive does not hold", entry.name));
        }
        if entries.insert(entry.name.clone(), data).is_some() {
            return Err(format!("two entries {:?} in the archive", entry.name));
        }
    }
    Ok(entries)
}

/// One entry of the central directory.
struct Central {
    name: String,
    crc: u32,
    size: u64,
    local_header: u64,
    next: usize,
}

impl Central {
    fn read(bytes: &[u8], at: usize) -> Result<Self, String> {
        expect(bytes, at, CENTRAL_HEADER, "an entry of the archive's directory")?;
        let (flags, method) = (u16_at(bytes, at + 8)?, u16_at(bytes, at + 10)?);
        let (name_length, extra_length) = (u16_at(bytes, at + 28)?, u16_at(bytes, at + 30)?);
        let comment_length = u16_at(bytes, at + 32)?;
        let name = slice(bytes, at + 46, name_length.into())?;
        let name = std::str::from_utf8(name).map_err(|_| "a name in the archive is not UTF-8".to_owned())?.to_owned();
        let extra_start = at + 46 + usize::from(name_length);
        let mut extra = slice(bytes, extra_start, extra_length.into())?;
        let mut packed = u64::from(u32_at(bytes, at + 20)?);
        let mut size = u64::from(u32_at(bytes, at + 24)?);
        let mut local_header = u64::from(u32_at(bytes, at + 42)?);
        while extra.len() >= 4 {
            let (kind, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
            let field = slice(extra, 4, length)?;
            if kind == 1 {
                // Only the sizes that did not fit are here, in this order.
                let mut place = 0;
                for value in [&mut size, &mut packed, &mut local_header] {
                    if *value == IN_ZIP64 {
                        *value = u64_at(field, place)?;
                        place += 8;
                    }
                }
            }
            extra = &extra[4 + length..];
        }
        if flags & 1 != 0 {
            return Err(format!("{name:?} in the archive is encrypted"));
        }
        if method != 0 || packed != size {
            return Err(format!("{name:?} in the archive is compressed, which torch.save never does"));
        }
        let next = extra_start + usize::from(extra_length) + usize::from(comment_length);
        Ok(Self { name, crc: u32_at(bytes, at + 16)?, size, local_header, next })
    }

    fn data(&self, bytes: &[u8]) -> Result<Range<usize>, String> {
        let at = usize::try_from(self.local_header).map_err(|_| cut_short())?;
        expect(bytes, at, LOCAL_HEADER, "an entry of the archive")?;
        let place = |offset: usize| at.checked_add(offset).ok_or_else(cut_short);
        let names = usize::from(u16_at(bytes, place(26)?)?) + usize::from(u16_at(bytes, place(28)?)?);
        let start = place(30 + names)?;
        let size = usize::try_from(self.size).map_err(|_| cut_short())?;
        slice(bytes, start, size)?;
        Ok(start..start + size)
    }
}

/// Where the central directory lies.
fn find_directory(bytes: &[u8]) -> Result<Range<usize>, String> {
    let last = bytes.len().checked_sub(END_SIZE).ok_or_else(cut_short)?;
    let first = last.saturating_sub(LONGEST_COMMENT);
    let end = (first..=last).rev().find(|&at| u32_at(bytes, at) == Ok(END)).ok_or_else(cut_short)?;
    let mut size = u64::from(u32_at(bytes, end + 12)?);
    let mut start = u64::from(u32_at(bytes, end + 16)?);
    if let Some(locator) = end.checked_sub(20)
        && u32_at(bytes, locator) == Ok(END_64_LOCATOR)
    {
        let at = usize::try_from(u64_at(bytes, locator + 8)?).map_err(|_| cut_short())?;
        expect(bytes, at, END_64, "the zip64 end record")?;
        size = u64_at(bytes, at.saturating_add(40))?;
        start = u64_at(bytes, at.saturating_add(48))?;
    }
    let start = usize::try_from(start).map_err(|_| cut_short())?;
    let size = usize::try_from(size).map_err(|_| cut_short())?;
    slice(bytes, start, size)?;
    Ok(start..start + size)
}

fn cut_short() -> String {
    "the archive is cut short".into()
}

fn expect(bytes: &[u8], at: usize, signature: u32, what: &str) -> Result<(), String> {
    match u32_at(bytes, at)? == signature {
        true => Ok(()),
        false => Err(format!("{what} should be at byte {at}, but is not: the file is damaged")),
    }
}

fn slice(bytes: &[u8], start: usize, length: usize) -> Result<&[u8], String> {
    let end = start.checked_add(length).ok_or_else(cut_short)?;
    bytes.get(start..end).ok_or_else(cut_short)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    slice(bytes, at, 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    slice(bytes, at, 4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, String> {
    let (low, high) = (u32_at(bytes, at)?, u32_at(bytes, at.saturating_add(4))?);
    Ok(u64::from(low) | u64::from(high) << 32)
}
