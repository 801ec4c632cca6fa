//! TensorBoard's event files, record by record: what to append to a file, as bytes.
//!
//! A file is a sequence of records in TFRecord's frame (length, its checksum, data, their checksum; `tensorflow/core/lib/io/
//! record_writer.h`), the data being messages of type `Event` (`tensorflow/core/util/event.proto`) in protocol buffers' wire
//! format. Only the few fields that a curve needs are written.

/// The first record of a file: which format follows.
pub fn file_version(wall_time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, wall_time).bytes(3, b"brain.Event:2");
    record(&event.0)
}

/// Says that a run starts, or goes on, with `step`: TensorBoard forgets what earlier files of the folder have from there on.
pub fn session_start(wall_time: f64, step: u64) -> Vec<u8> {
    const START: u64 = 1;
    let mut session = Message::default();
    session.varint(1, START);
    let mut event = Message::default();
    event.double(1, wall_time).varint(2, step).bytes(7, &session.0);
    record(&event.0)
}

/// Points of several curves at one step, as `(name, value)`.
pub fn scalars<'a>(wall_time: f64, step: u64, values: impl IntoIterator<Item = (&'a str, f32)>) -> Vec<u8> {
    let mut summary = Message::default();
    for (name, value) in values {
        let mut point = Message::default();
        point.bytes(1, name.as_bytes()).float(2, value);
        summary.bytes(1, &point.0);
    }
    let mut event = Message::default();
    event.double(1, wall_time).varint(2, step).bytes(5, &summary.0);
    record(&event.0)
}

/// A protocol-buffers message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u8, wire_type: u8) {
        self.0.push(field << 3 | wire_type);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u8, value: u64) -> &mut Self {
        self.key(field, 0);
        self.raw_varint(value);
        self
    }

    fn double(&mut self, field: u8, value: f64) -> &mut Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u8, value: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn float(&mut self, field: u8, value: f32) -> &mut Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }
}

/// The frame of one record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C (Castagnoli), turned and shifted, as TFRecord wants it: so that data that hold checksums do not confuse it.
fn masked_crc(data: &[u8]) -> u32 {
    let crc = !data.iter().fold(!0u32, |crc, &byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8);
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut crc, mut bit) = (index as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        // RFC 3720, appendix B.4, and the usual check value.
        let unmasked = |data: &[u8]| masked_crc(data).wrapping_sub(0xA282_EAD8).rotate_left(15);
        assert_eq!(unmasked(b"123456789"), 0xE306_9283);
        assert_eq!(unmasked(&[0; 32]), 0x8A91_36AA);
        assert_eq!(unmasked(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn a_record_is_laid_out_as_tensorflow_writes_it() {
        let version = file_version(1.0);
        assert_eq!(version[..8], 24u64.to_le_bytes());
        assert_eq!(version[12..21], [0x09, 0, 0, 0, 0, 0, 0, 0xF0, 0x3F]);
        assert_eq!(&version[21..36], b"\x1A\x0Dbrain.Event:2");
        assert_eq!(version.len(), 24 + 16);
        let point = scalars(0.0, 300, [("loss", 0.5)]);
        assert_eq!(&point[12 + 9..12 + 12], b"\x10\xAC\x02", "300 as a varint");
        assert_eq!(&point[12 + 12..point.len() - 4], b"\x2A\x0D\x0A\x0B\x0A\x04loss\x15\x00\x00\x00\x3F");
    }
}
