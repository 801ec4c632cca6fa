//! Requests that are none, clients that are slow or gone, more of them than can be answered, and signals.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use helixgrad::model::{Head, Task};
use serde_json::{Value, json};

use crate::client::{Serving, answer, request};
use crate::support::text;
use crate::{classifier, model, sequence, slow};

/// A request that takes a second or more.
fn long() -> Value {
    json!({ "sequences": [sequence(1, 15_000)] })
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_is_no_request_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = classifier(folder.path(), "m", &["no", "yes"], Task::SingleLabel, false, 16);
    let encoder = model(folder.path(), "e", Head::Encoder { pooler: false }, None, 16);
    let limits = ["--max-body", "5000", "--max-sequences", "3", "--max-bases", "1000"];
    let server = Serving::start(&[&["--model", text(&path)], &limits[..]].concat());
    let long = sequence(1, 1001);
    for (body, found, status) in [
        (&b""[..], "EOF", 400),
        (b"{", "EOF", 400),
        (b"{\"sequences\": [\"ACGT\"]} x", "trailing", 400),
        (b"{\"sequences\": [NaN]}", "expected", 400),
        (b"{\"sequences\": [\"AC\xffT\"]}", "unicode", 400),
        (b"\x00\x01", "expected", 400),
        (&[b'['; 3000], "recursion", 400),
        (b"[]", "", 422),
        (b"7", "", 422),
        (b"{}", "sequences", 422),
        (b"{\"sequences\": []}", "no sequences", 422),
        (b"{\"sequences\": [null]}", "sequences[0]", 422),
        (b"{\"sequences\": [\"ACGT\", 1e999]}", "number out of range", 400),
        (b"{\"sequences\": [\"ACGT\", 17]}", "sequences[1]", 422),
        (b"{\"sequences\": [\"\"]}", "sequences[0]: an empty sequence", 422),
        (b"{\"sequences\": [\"ACGT\", \"AC\"]}", "sequences[1]: 2 bases", 422),
        (b"{\"sequences\": [\"ACXT\"]}", "sequences[0]: 'X' at base 3", 422),
        (b"{\"sequences\": [\"ACGT\", \"ACGT\", \"ACGT\", \"ACGT\"]}", "4 sequences in one request", 422),
        (b"{\"sequences\": [{\"id\": \"a\"}]}", "sequences[0]: missing field `sequence`", 422),
        (b"{\"sequences\": [\"ACGT\"], \"polo\": 1}", "unknown field `polo`", 422),
        (b"{\"sequences\": [\"ACGT\"], \"model\": \"gpt\"}", "no model \"gpt\"", 404),
        (json!({ "sequences": [long] }).to_string().as_bytes(), "sequences[0]: 1001 bases", 422),
        (&[b' '; 5001], "a body of 5001 bytes", 413),
    ] {
        let asked = String::from_utf8_lossy(body).into_owned();
        for path in ["/v1/predict", "/v1/embeddings"] {
            let message = server.post_bytes(path, body).refused(status);
            assert!(message.contains(found), "{path} {asked}: {message}");
        }
    }
    let ok = json!({ "sequences": ["ACGT"] });
    // Longer than the model reads: classes are refused, vectors blended.
    let many = json!({ "sequences": [sequence(1, 500)] });
    assert!(server.post("/v1/predict", &many).refused(422).contains("sequences[0]: 500 bases"));
    server.post("/v1/embeddings", &many).ok();
    for (change, found) in
        [(json!({ "layer": 9 }), "layer 9"), (json!({ "pool": "max" }), "`max`"), (json!({ "layer": 0.5 }), "0.5")]
    {
        let mut asked = ok.clone();
        asked.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let message = server.post("/v1/embeddings", &asked).refused(422);
        assert!(message.contains(found) && !message.contains("--"), "{message}");
    }
    assert!(server.post("/v1/variants", &json!({ "variants": ["x-1-A-C"] })).refused(422).contains("no genome"));
    assert!(server.post("/v1/nothing", &ok).refused(404).contains("/v1/nothing"));
    assert!(server.get("/").refused(404).contains("nothing is at /"));
    assert!(server.get("/v1/predict").refused(405).contains("GET on /v1/predict"));
    assert!(server.post("/health", &ok).refused(405).contains("POST on /health"));
    let packed = request("/v1/predict", b"xx", "Content-Encoding: gzip\r\n");
    server.raw(&packed).refused(415);
    // A body that never said how large it is.
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let chunked =
        format!("POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    assert!(server.raw(chunked.as_bytes()).refused(413).contains("more than 5000 bytes"));
    // Heads that are too large, or none.
    let large = format!("GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    assert_eq!(server.raw(large.as_bytes()).status, 431);
    let many = format!("GET /health HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    assert_eq!(server.raw(many.as_bytes()).status, 431);
    assert_eq!(server.raw(b"nonsense\r\n\r\n").status, 400);
    assert_eq!(server.raw(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: -4\r\n\r\n").status, 400);
    // Half a request, and gone.
    let whole = request("/v1/predict", ok.to_string().as_bytes(), "");
    for end in [1, 30, whole.len() - 1] {
        server.connect().write_all(&whole[..end]).unwrap();
    }
    server.post("/v1/predict", &ok).ok();
    assert!(server.metric("requests_total") > 50.0);

    let server = Serving::start(&["--model", text(&encoder)]);
    assert!(server.post("/v1/predict", &ok).refused(422).contains("no classes"));
}

#[test]
fn slow_clients_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), "e", Head::Encoder { pooler: false }, None, 16);
    let server = Serving::start(&["--model", text(&path), "--patience", "1", "--connections", "2"]);
    let ended = |mut stream: TcpStream| {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    };
    // A connection that says nothing, a head and a body that never end: two at a time, and others wait for them.
    let started = Instant::now();
    let beginnings =
        ["", "GET /health HTTP/1.1\r\nHo", "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"];
    let streams: Vec<TcpStream> = beginnings
        .iter()
        .map(|beginning| {
            let mut stream = server.connect();
            stream.write_all(beginning.as_bytes()).unwrap();
            stream
        })
        .collect();
    server.post("/v1/embeddings", &json!({ "sequences": ["ACGT"] })).ok();
    let texts: Vec<String> = streams.into_iter().map(ended).collect();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(texts[2].starts_with("HTTP/1.1 408") && texts[2].contains("no whole body within 1 s"), "{texts:?}");
    // Who keeps a connection and asks for nothing more is let go, too.
    let mut stream = server.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(answer(&mut stream).unwrap().status, 200);
    let started = Instant::now();
    ended(stream);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// An answer of megabytes that nobody takes.
#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), "e", Head::Encoder { pooler: false }, None, 256);
    let server = Serving::start(&["--model", text(&path), "--patience", "1", "--connections", "1"]);
    let asked = json!({ "sequences": vec!["ACGT"; 1024] }).to_string();
    let mut stream = server.connect();
    stream.write_all(&request("/v1/embeddings", asked.as_bytes(), "")).unwrap();
    // The one connection is free again.
    assert_eq!(server.get("/health").status, 200);
    drop(stream);
}

#[test]
fn a_full_queue_refuses_and_who_goes_away_is_not_computed() {
    let folder = tempfile::tempdir().unwrap();
    let path = slow(folder.path());
    let server = Serving::start(&["--model", text(&path), "--queue", "1"]);
    let asked = long().to_string();
    let begin = || {
        let mut stream = server.connect();
        stream.write_all(&request("/v1/embeddings", asked.as_bytes(), "")).unwrap();
        stream
    };
    // One is computed, one waits, and there is no room for a third.
    let mut first = begin();
    wait_for("nobody computes", || server.metric("batch_requests_count") == 1.0);
    let second = begin();
    wait_for("nobody waits", || server.metric("queue_depth") == 1.0);
    let third = answer(&mut begin()).unwrap();
    third.refused(429);
    assert_eq!(third.header("retry-after"), Some("1"));
    drop(second);
    assert_eq!(answer(&mut first).unwrap().status, 200);
    wait_for("it is computed for nobody", || server.metric("abandoned_total") == 1.0);
    assert_eq!(server.metric("batch_requests_sum"), 1.0);
    server.post("/v1/embeddings", &json!({ "sequences": ["ACGT"] })).ok();
    let metrics = String::from_utf8(server.get("/metrics").body).unwrap();
    for line in [
        "helixgrad_requests_total{route=\"/v1/embeddings\",status=\"429\"} 1",
        "helixgrad_requests_total{route=\"/v1/embeddings\",status=\"200\"} 2",
        "helixgrad_request_seconds_count{route=\"/v1/embeddings\"} 3",
        "helixgrad_queue_depth 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(server.metric("tokens_total") > 15_000.0);
}

#[test]
fn what_was_accepted_is_answered_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = slow(folder.path());
    for signal in ["-TERM", "-INT"] {
        let mut server = Serving::start(&["--model", text(&path)]);
        let expected = server.post("/v1/embeddings", &long()).ok();
        let mut streams: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
        let idle = server.connect();
        for stream in &mut streams {
            stream.write_all(&request("/v1/embeddings", long().to_string().as_bytes(), "")).unwrap();
        }
        wait_for("they are not accepted", || server.metric("queue_depth") + server.metric("batch_requests_sum") == 4.0);
        server.signal(signal);
        wait_for("it goes on listening", || TcpStream::connect(server.address).is_err());
        for stream in &mut streams {
            let found = answer(stream).expect("an accepted request has no answer");
            assert_eq!(found.ok(), expected);
        }
        let (code, message) = server.end();
        drop(idle);
        assert_eq!(code, Some(130), "{message}");
        assert!(message.contains("stopping as soon as what was accepted is answered"), "{message}");
        assert!(message.ends_with("requests were answered, and all that were accepted\n"), "{message}");
    }
    // The second signal ends it at once.
    let mut server = Serving::start(&["--model", text(&path)]);
    let mut stream = server.connect();
    let longer = json!({ "sequences": [sequence(1, 150_000)] });
    stream.write_all(&request("/v1/embeddings", longer.to_string().as_bytes(), "")).unwrap();
    wait_for("nobody computes", || server.metric("batch_requests_count") == 1.0);
    server.signal("-TERM");
    thread::sleep(Duration::from_millis(100));
    server.signal("-TERM");
    let started = Instant::now();
    let (code, message) = server.end();
    assert!(code == Some(130) && started.elapsed() < Duration::from_secs(3), "{message} {:?}", started.elapsed());
}
