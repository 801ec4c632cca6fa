//! Windows from FASTA, tables and BED.

use std::fs;

use helixgrad::genome::alias::Aliases;
use helixgrad::inference::bed::BedReader;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use super::support::*;

/// Sequence, start, end and strand.
type Place<'a> = (&'a str, usize, usize, char);

#[test]
fn every_source_gives_the_same_probabilities() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model_path = splice_model(folder.path());
    let (x, y) = (bases(1, 300), bases(2, 90));
    let genome = genome(folder.path(), &[("x", &x), ("y", &y)]);

    // Windows of the model's width and longer ones, on both strands.
    let places = [("x", 0, 20, '+'), ("x", 100, 120, '-'), ("y", 70, 90, '-'), ("x", 33, 54, '+'), ("y", 1, 41, '-')];
    let of = |(name, start, end, strand): Place| {
        let bases = &(if name == "x" { &x } else { &y })[start..end];
        if strand == '-' { reverse_complement(bases) } else { bases.to_vec() }
    };
    let text_of = |place: Place| String::from_utf8(of(place)).unwrap();
    let rows = |make: &dyn Fn(Place) -> String| places.iter().map(|&place| make(place)).collect::<String>();
    fs::write(path("w.fa"), rows(&|place| format!(">{}\n{}\n", place.1, text_of(place)))).unwrap();
    fs::write(path("w.tsv"), format!("sequence\n{}", rows(&|place| text_of(place) + "\n"))).unwrap();
    fs::write(path("l.csv"), format!("sequence,label\n{}", rows(&|place| text_of(place) + ",1\n"))).unwrap();
    let bed = rows(&|(name, start, end, strand)| format!("chr{name}\t{start}\t{end}\tn{start}\t0\t{strand}\n"));
    fs::write(path("w.bed"), format!("# a comment\ntrack name=x\n{bed}")).unwrap();

    let predict = |extra: &[&str]| json(&[&["predict", "--model", text(&model_path)], extra].concat());
    let probabilities = |result: &Value| -> Vec<Vec<f64>> {
        let rows = result["windows"].as_array().unwrap().iter();
        rows.map(|row| row["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect()).collect()
    };
    let from_fasta = predict(&["--fasta", &path("w.fa")]);
    let from_bed =
        predict(&["--bed", &path("w.bed"), "--genome", text(&genome), "--alias", "chrx=x", "--alias", "chry=y"]);
    let mut plain = Plain::new(&model_path);
    for (row, place) in probabilities(&from_fasta).iter().zip(places) {
        let bases = of(place);
        let middle = &bases[bases.len() / 2 - WIDTH / 2..][..WIDTH];
        row.iter().zip(plain.score(middle)).for_each(|(one, other)| assert!((one - other).abs() < 1e-6));
    }
    for other in [&from_bed, &predict(&["--tsv", &path("w.tsv")]), &predict(&["--tsv", &path("l.csv")])] {
        assert_eq!(probabilities(&from_fasta), probabilities(other));
    }
    assert_eq!(from_bed["windows"][2]["name"], "n70");

    let out = path("out/p.tsv");
    let written = predict(&["--fasta", &path("w.fa"), "--out", &out]);
    assert_eq!(written["windows"], 5);
    let printed = helixgrad(&["predict", "--model", text(&model_path), "--fasta", &path("w.fa"), "--quiet"]).stdout;
    assert_eq!(fs::read(&out).unwrap(), printed);
    assert!(printed.starts_with(b"name\tprediction\tacceptor\tdonor\tneither\n0\t"));
}

/// With `--rc` the answer to a sequence is that to its reverse complement, too: the mean of both. The middle is the same bases.
#[test]
fn answers_may_be_means_of_both_strands() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model_path = model(folder.path(), &["active", "silent"], Some(WIDTH));
    let windows: Vec<Vec<u8>> = (0..6).map(|seed| bases(seed + 60, WIDTH + seed as usize % 3)).collect();
    let fasta = |turned: bool| -> String {
        let of = |bases: &Vec<u8>| if turned { reverse_complement(bases) } else { bases.clone() };
        windows.iter().map(|bases| format!(">w\n{}\n", String::from_utf8(of(bases)).unwrap())).collect()
    };
    fs::write(path("w.fa"), fasta(false)).unwrap();
    fs::write(path("t.fa"), fasta(true)).unwrap();
    let predict = |file: &str, extra: &[&str]| -> Vec<f64> {
        let result = json(&[&["predict", "--model", text(&model_path), "--fasta", &path(file)], extra].concat());
        let rows = result["windows"].as_array().unwrap().iter();
        rows.map(|row| row["probabilities"][0].as_f64().unwrap()).collect()
    };
    let mut plain = Plain::new(&model_path);
    let (both, turned, one) = (predict("w.fa", &["--rc"]), predict("t.fa", &["--rc"]), predict("w.fa", &[]));
    for (index, bases) in windows.iter().enumerate() {
        let middle = &bases[bases.len() / 2 - WIDTH / 2..][..WIDTH];
        let expected = (plain.score(middle)[0] + plain.score(&reverse_complement(middle))[0]) / 2.0;
        assert!((both[index] - expected).abs() < 1e-6);
        // The middle of an odd sequence is another one from its other end.
        assert!(bases.len() % 2 == 1 || (both[index] - turned[index]).abs() < 1e-6);
    }
    assert!(both.iter().zip(&one).any(|(both, one)| (both - one).abs() > 1e-3));
    let splice = folder.path().join("splice");
    fs::create_dir(&splice).unwrap();
    let message = refused(&["predict", "--model", text(&splice_model(&splice)), "--fasta", &path("w.fa"), "--rc"]);
    assert!(message.contains("read on its own strand"), "{message}");
}

#[test]
fn no_command_writes_over_what_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let model_path = splice_model(folder.path());
    let model = text(&model_path);
    let genome_path = genome(folder.path(), &[("x", &bases(1, 300))]);
    let genome = text(&genome_path);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("w.tsv"), format!("sequence\n{}\n", String::from_utf8_lossy(&bases(3, 30)))).unwrap();
    fs::write(path("w.bed"), "x\t0\t30\n").unwrap();
    fs::write(path("v.vcf"), "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n").unwrap();
    std::os::unix::fs::symlink(path("w.tsv"), path("link.tsv")).unwrap();
    let (table, link, bed, vcf) = (path("w.tsv"), path("link.tsv"), path("w.bed"), path("v.vcf"));
    let (aliases, config, page) = (path("aliases.tsv"), path("config.toml"), path("genes.html"));
    fs::write(&aliases, "chrX\tx\n").unwrap();
    fs::write(&config, "distance = 10\n").unwrap();
    fs::write(&page, "##gff-version 3\nx\tt\texon\t151\t155\t.\t-\t.\tParent=g\n").unwrap();
    let of_model = ["model.safetensors", "config.json", "vocab.txt"].map(|name| format!("{model}/{name}"));
    let [weights, model_config, vocabulary] = [&of_model[0], &of_model[1], &of_model[2]];
    let (other_page, beside) = (path("other.html"), path("genes.tsv"));
    fs::write(&other_page, "<p>mine</p>").unwrap();
    let index = path("a.npy.index.tsv");
    fs::write(&index, fs::read(&table).unwrap()).unwrap();
    let (array, other_table) = (path("a.npy"), path("other.tsv"));
    let kept = [
        &table,
        &bed,
        &vcf,
        &genome.to_owned(),
        &aliases,
        &config,
        &page,
        weights,
        model_config,
        vocabulary,
        &other_page,
        &index,
    ];
    let before = kept.map(|path| fs::read(path).unwrap());
    for arguments in [
        vec!["predict", "--model", model, "--tsv", &table, "--out", weights],
        vec!["predict", "--model", model, "--tsv", &table, "--out", model_config],
        vec!["embed", "--model", model, "--tsv", &table, "--out", vocabulary],
        vec![
            "predict",
            "--model",
            model,
            "--bed",
            &bed,
            "--genome",
            genome,
            "--alias-file",
            &aliases,
            "--out",
            &aliases,
        ],
        vec!["variants", "--model", model, "--genome", genome, "--vcf", &vcf, "--config", &config, "--out", &config],
        vec![
            "variants",
            "--model",
            model,
            "--genome",
            genome,
            "--vcf",
            &vcf,
            "--alias-file",
            &aliases,
            "--out",
            &aliases,
        ],
        vec![
            "variants",
            "--model",
            model,
            "--genome",
            genome,
            "--saturation",
            "x:141-150",
            "--annotation",
            &page,
            "--out",
            &beside,
        ],
        vec!["splice", "sites", "--genome", genome, "--annotation", &page, "--alias-file", &aliases, "--out", &aliases],
        vec!["embed", "--model", model, "--tsv", &index, "--out", &array],
        vec!["predict", "--model", model, "--tsv", &table, "--out", &table],
        vec!["predict", "--model", model, "--tsv", &table, "--out", &link],
        vec!["embed", "--model", model, "--tsv", &table, "--out", &table],
        vec!["attention", "--model", model, "--tsv", &table, "--out", &table],
        vec!["predict", "--model", model, "--bed", &bed, "--genome", genome, "--out", genome],
        vec!["variants", "--model", model, "--genome", genome, "--vcf", &vcf, "--out", &vcf],
        vec!["genome", "extract", genome, "x:1-10", "--out", genome],
        vec!["genome", "extract", genome, "--bed", &bed, "--out", &bed],
        vec!["genome", "pack", &table, &table],
        vec!["splice", "sites", "--genome", genome, "--annotation", &bed, "--out", &bed],
    ] {
        let message = refused(&arguments);
        assert!(message.contains("is the input"), "{message}");
    }
    // A page that is nobody's input is not written over, either, unless an earlier run made it.
    for out in [&other_table, &other_page] {
        let command = ["variants", "--model", model, "--genome", genome, "--saturation", "x:141-150", "--out", out];
        assert!(refused(&command).contains("other.html"));
    }
    assert!(kept.map(|path| fs::read(path).unwrap()) == before);
    let saturation = path("s.tsv");
    for _ in 0..2 {
        json(&["variants", "--model", model, "--genome", genome, "--saturation", "x:141-142", "--out", &saturation]);
    }
    // What lies in a model's folder and is nobody's input may be replaced.
    let predictions = format!("{model}/predictions.tsv");
    for _ in 0..2 {
        json(&["predict", "--model", model, "--tsv", &table, "--out", &predictions]);
    }
    // Regions are called by other names, too.
    let by_alias = helixgrad(&["genome", "extract", genome, "chrX:1-10", "--alias", "chrX=x"]);
    assert!(by_alias.status.success() && by_alias.stdout == helixgrad(&["genome", "extract", genome, "x:1-10"]).stdout);
    let scan = [
        "scan",
        "--model",
        model,
        "--genome",
        genome,
        "--region",
        "chrX:1-100",
        "--alias",
        "chrX=x",
        "--out",
        &path("s"),
    ];
    assert!(helixgrad(&scan).status.success());
    let saturation = ["--saturation", "chrX:100-110", "--alias", "chrX=x", "--out", &path("t.tsv")];
    assert!(
        helixgrad(&[&["variants", "--model", model, "--genome", genome][..], &saturation].concat()).status.success()
    );
}

#[test]
fn bad_windows_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let model_path = splice_model(folder.path());
    let genome = genome(folder.path(), &[("x", &bases(1, 300))]);
    let bed = folder.path().join("w.bed");
    for (line, found) in [
        ("x\t0\t10\n", "10 bases"),
        ("x\t0\n", "line 2: 2 columns"),
        ("z\t0\t20\n", "line 2: there is no sequence \"z\""),
        ("x\t-1\t20\n", "line 2: start \"-1\""),
        ("x\t20\t20\n", "line 2: the interval 20-20 has no bases"),
        ("x\t290\t310\n", "line 2: the interval 290-310 passes the end"),
        ("x\t0\t99999999999999999999999\n", "passes the end"),
        ("x\t0\t20\tn\t0\tplus\n", "line 2: strand \"plus\""),
    ] {
        fs::write(&bed, format!("x\t0\t20\n{line}")).unwrap();
        let arguments = ["predict", "--model", text(&model_path), "--bed", text(&bed), "--genome", text(&genome)];
        let message = refused(&arguments);
        assert!(message.contains(found) && message.contains("what to do"), "{line:?}: {message}");
        assert!(helixgrad(&arguments).stdout.is_empty());
    }
    fs::write(&bed, "# nothing\n").unwrap();
    let message = refused(&["predict", "--model", text(&model_path), "--bed", text(&bed), "--genome", text(&genome)]);
    assert!(message.contains("no interval in it"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever bytes a BED file holds, there is no panic; an interval that is taken lies in its sequence and can be read, and
    /// an error names file and line.
    #[test]
    fn mutated_bed_files_pass_or_are_refused(edits in prop::collection::vec((any::<Index>(), any::<u8>(), 0..4_u8), 0..6)) {
        thread_local! {
            static FIXTURE: (tempfile::TempDir, helixgrad::genome::twobit::Genome) = {
                let folder = tempfile::tempdir().unwrap();
                let genome = open(&genome(folder.path(), &[("x", &bases(1, 300)), ("y y", &bases(2, 90))]));
                (folder, genome)
            };
        }
        const LINES: &str = "# a comment\ntrack name=t\nx\t0\t20\tn0\t0\t+\ny y\t70\t90\r\nx 10 300 . 0 -\n\nchrx\t5\t6\t\t\t.\tmore\n";
        let mut contents = LINES.as_bytes().to_vec();
        for (index, byte, how) in edits {
            let at = index.index(contents.len());
            match how {
                0 => contents[at] = byte,
                1 => { contents.remove(at); }
                2 => contents.insert(at, byte),
                // Numbers of other lengths and tabs in other places are what random bytes rarely make.
                _ => contents.insert(at, b"0123456789\t-\n"[usize::from(byte) % 13]),
            }
        }
        FIXTURE.with(|(folder, genome)| {
            let path = folder.path().join("r.bed");
            fs::write(&path, &contents).unwrap();
            let aliases = Aliases::parse(&["chrx=x".to_owned()], None).unwrap();
            for interval in BedReader::open(&path, genome, &aliases).unwrap() {
                match interval {
                    Ok(interval) => {
                        let length = genome.sequences()[interval.sequence].length;
                        assert!(interval.start < interval.end && interval.end <= length, "{interval:?}");
                        assert_eq!(interval.read(genome).bases.len(), (interval.end - interval.start) as usize);
                    }
                    Err(error) => {
                        let message = error.to_string();
                        assert_eq!(error.exit_code(), 2, "{message}");
                        assert!(message.contains("r.bed, line ") || message.contains("r.bed: no interval in it"), "{message}");
                    }
                }
            }
        });
    }
}
