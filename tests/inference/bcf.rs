//! BCF says what VCF says: the same lines, and the same scores.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use helixgrad::inference::variants::vcf::Reader;

use crate::support::{bases, genome, json, refused, splice_model, text};

/// What bcftools 1.16 made of a VCF file of oddities, and what `bcftools view --no-version` prints of it.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bcf").join(name)
}

/// What a reader hands on, and the error that ends it.
fn lines(path: &Path) -> (Vec<u8>, Option<String>) {
    let mut reader = match Reader::open(path) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let mut all = Vec::new();
    loop {
        match reader.next_line() {
            Ok(Some(line)) => all.extend_from_slice(line),
            Ok(None) => return (all, None),
            Err(error) => return (all, Some(error.to_string())),
        }
    }
}

/// The bytes inside a bgzip file.
fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(fs::File::open(path).unwrap());
    std::io::Read::read_to_end(&mut decoder, &mut bytes).unwrap();
    bytes
}

#[test]
fn lines_are_those_that_bcftools_prints() {
    let folder = tempfile::tempdir().unwrap();
    let expected = fs::read(fixture("odd.vcf")).unwrap();
    let bare = folder.path().join("bare.bcf");
    fs::write(&bare, unpacked(&fixture("odd.bcf"))).unwrap();
    for path in [fixture("odd.bcf"), bare] {
        let (found, error) = lines(&path);
        assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(&expected), "{}", path.display());
        assert_eq!(error, None);
    }
}

/// A prefix is whole where a record ends, as it is of a text; packed, never.
#[test]
fn what_is_cut_off_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.bcf");
    let packed = fs::read(fixture("odd.bcf")).unwrap();
    for end in 0..packed.len() {
        fs::write(&path, &packed[..end]).unwrap();
        assert!(lines(&path).1.is_some(), "{end} of {} bytes", packed.len());
    }
    let bare = unpacked(&fixture("odd.bcf"));
    let whole = lines(&fixture("odd.bcf")).0;
    let mut ends = 0;
    for end in 0..bare.len() {
        fs::write(&path, &bare[..end]).unwrap();
        let (found, error) = lines(&path);
        assert!(whole.starts_with(&found), "{end}");
        match error {
            None => ends += 1,
            Some(error) => {
                let findings = ["the file ends inside", "does not begin with", "another version"];
                assert!(findings.iter().any(|finding| error.contains(finding)), "{error}");
            }
        }
    }
    assert_eq!(ends, 6, "behind the header, and behind each record but the last");
}

/// Any byte may be any other: no panic, and no memory for what a file only claims.
#[test]
fn damage_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.bcf");
    let bare = unpacked(&fixture("odd.bcf"));
    let header = bare.windows(2).rposition(|pair| pair == b"\n\0").unwrap() + 2;
    let mut refusals = 0;
    for at in header..bare.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xf1, 0xff] {
            let mut damaged = bare.clone();
            damaged[at] = byte;
            fs::write(&path, &damaged).unwrap();
            refusals += u32::from(lines(&path).1.is_some());
        }
    }
    assert!(refusals > 500, "{refusals}");
    let claims = |what: &str, at: usize, value: u32| {
        let mut damaged = bare.clone();
        damaged[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, &damaged).unwrap();
        let error = lines(&path).1.unwrap();
        assert!(error.contains(what), "{error}");
    };
    claims("a header of 4294967295 bytes", 5, u32::MAX);
    claims("record 1: a record of", header, u32::MAX - 100);
    claims("record 1: the file ends inside", header, 100 << 20);
    claims("record 1: sequence 7, which the header lacks", header + 8, 7);
    claims("record 1: 16777215 samples, where the header has 2", header + 28, 0x01ff_ffff);
    let with = |from: &[u8], to: &[u8], what: &str| {
        let at = bare.windows(from.len()).position(|bytes| bytes == from).unwrap();
        let mut damaged = bare.clone();
        damaged[at..at + to.len()].copy_from_slice(to);
        fs::write(&path, &damaged).unwrap();
        let error = lines(&path).1.unwrap();
        assert!(error.contains(what), "{error}");
    };
    // What would be no VCF, or another record.
    with(b"##fileformat", b"##filefromat", "the header: a header that does not begin with ##fileformat=VCF");
    for byte in [b'\t', b'\n', b'\r'] {
        with(b"rs1;rs2", &[b'r', byte], "record 2: a text with a tab or the end of a line in it");
    }
    fs::write(&path, b"BCF\x04\x01").unwrap();
    assert!(lines(&path).1.unwrap().contains("another version than 2"));
}

#[test]
fn scores_are_those_of_the_same_records_in_vcf() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let model = splice_model(folder.path());
    let sequence = bases(31, 400);
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let mut records = String::new();
    for (number, at) in (60..340).step_by(7).enumerate() {
        let reference = String::from_utf8_lossy(&sequence[at..at + 1 + number % 4]).into_owned();
        let base = if sequence[at] == b'A' { 'C' } else { 'A' };
        let more = ["", ",<DEL>", ",*,T", ",GATTACA"][number / 4 % 4];
        records += &format!(
            "x\t{}\tid{number}\t{reference}\t{base}{more}\t{number}.5\tPASS\tDP={number};DB\tGT\t0|1\n",
            at + 1
        );
    }
    let header = "##fileformat=VCFv4.2\n##FILTER=<ID=PASS,Description=\"All filters passed\">\n##contig=<ID=x,length=400>\n\
        ##INFO=<ID=DP,Number=1,Type=Integer,Description=\"Depth\">\n##INFO=<ID=DB,Number=0,Type=Flag,Description=\"Known\">\n\
        ##FORMAT=<ID=GT,Number=1,Type=String,Description=\"Genotype\">\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts\n";
    fs::write(path("in.vcf"), format!("{header}{records}")).unwrap();
    let run = |input: &str, out: &str| {
        let arguments = ["variants", "--model", text(&model), "--genome", text(&genome), "--vcf", text(&path(input))]
            .map(str::to_owned);
        let arguments: Vec<String> =
            arguments.into_iter().chain(["--out".into(), text(&path(out)).to_owned()]).collect();
        json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let of_vcf = run("in.vcf", "of_vcf.vcf");
    for kind in ["b", "u"] {
        let (input, bcf) = (path("in.vcf"), path("in.bcf"));
        let convert = ["view", "--no-version", "-O", kind, "-o", text(&bcf), text(&input)];
        match Command::new("bcftools").args(convert).status() {
            Ok(status) => assert!(status.success()),
            Err(_) => return println!("skipped: bcftools is not installed"),
        }
        let of_bcf = run("in.bcf", "of_bcf.vcf");
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        assert_eq!(read("of_bcf.vcf"), read("of_vcf.vcf"), "{kind}");
        for figure in ["records", "scored", "skipped", "strong"] {
            assert_eq!(of_bcf[figure], of_vcf[figure]);
        }
        fs::remove_file(path("of_bcf.vcf")).unwrap();
    }

    let to_bcf = ["variants", "--model", text(&model), "--genome", text(&genome), "--vcf", text(&path("in.bcf"))]
        .map(str::to_owned);
    let to_bcf: Vec<&str> = to_bcf.iter().map(String::as_str).chain(["--out", "o.bcf"]).collect();
    assert!(refused(&to_bcf).contains("--out o.bcf, where VCF is written"));
    // An error is told with the record.
    let wrong = records.replacen(&format!("x\t{}\t", 60 + 7 * 5 + 1), "x\t3\t", 1);
    fs::write(path("wrong.vcf"), format!("{header}{wrong}")).unwrap();
    let convert = ["view", "--no-version", "-O", "b", "-o", text(&path("wrong.bcf")), text(&path("wrong.vcf"))]
        .map(str::to_owned);
    assert!(Command::new("bcftools").args(&convert).status().unwrap().success());
    let (bcf, out) = (path("wrong.bcf"), path("out.vcf.gz"));
    let arguments =
        ["variants", "--model", text(&model), "--genome", text(&genome), "--vcf", text(&bcf), "--out", text(&out)];
    assert!(refused(&arguments).contains("wrong.bcf, record 6: x:3 has REF"));
    // A file that is cut off between two blocks is a sound gzip file.
    let good = ["view", "--no-version", "-O", "b", "-o", text(&bcf), text(&path("in.vcf"))].map(str::to_owned);
    assert!(Command::new("bcftools").args(&good).status().unwrap().success());
    let whole = fs::read(&bcf).unwrap();
    fs::write(&bcf, &whole[..whole.len() - 28]).unwrap();
    let message = refused(&arguments);
    assert!(message.contains("the compressed data ends too early"), "{message}");
    assert!(!out.exists());
}
