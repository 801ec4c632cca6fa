//! `genes map`: the page is complete, the same for the same seed, and no name gets out of its place.

use std::fs;

use serde_json::Value;

use super::fixture;
use super::program::{Folder, json, refused};

fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_page_has_every_gene_and_the_sets() {
    let folder = Folder::new();
    let (vectors, sets, out) = (fixture("vectors.txt"), fixture("sets.gmt"), folder.path("map.html"));
    let arguments = ["genes", "map", "--vectors", &vectors, "--sets", &sets, "--out", &out, "--iterations", "300"];
    let summary = json(&[&arguments[..], &["--threads", "1"]].concat());
    let page = fs::read_to_string(&out).unwrap();
    let data = data(&page);
    for key in ["genes", "x", "y"] {
        assert_eq!(data[key].as_array().unwrap().len(), 60);
    }
    assert_eq!((&summary["genes"], summary["coloured"].as_array().unwrap().len()), (&Value::from(60), 6));
    // The largest first; it has no gene here.
    assert_eq!(data["sets"][0], serde_json::json!({"name": "large", "genes": []}));
    assert_eq!(data["sets"][1]["genes"].as_array().unwrap().len(), 20);
    assert!(
        !page.contains("http:") && !page.contains("https:") && !page.contains("src="),
        "a page that wants the network"
    );

    json(&[&arguments[..], &["--threads", "3"]].concat());
    assert_eq!(fs::read_to_string(&out).unwrap(), page, "another number of threads");
    json(&[&arguments[..], &["--seed", "7", "--colour", "set 1", "mixed"]].concat());
    let other = self::data(&fs::read_to_string(&out).unwrap());
    assert_ne!(other["x"], data["x"], "another seed");
    assert_eq!((other["sets"][0]["name"].as_str(), other["sets"][1]["name"].as_str()), (Some("set 1"), Some("mixed")));
}

#[test]
fn names_stay_in_their_place() {
    let folder = Folder::new();
    let names = ["</script><script>alert(1)</script>", "<!--", "a&b", "\"", "'", "\\u003c"];
    let rows: String = names.iter().enumerate().map(|(at, name)| format!("{name} {at} {} 1\n", at * at)).collect();
    let vectors = folder.write("vectors.txt", format!("6 3\n{rows}"));
    let sets = folder.write("sets.gmt", format!("</script><img onerror=x>\t\t{}\n", names.join("\t")));
    let out = folder.path("map.html");
    json(&["genes", "map", "--vectors", &vectors, "--sets", &sets, "--out", &out, "--iterations", "20"]);
    let page = fs::read_to_string(&out).unwrap();
    assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (2, 2));
    assert!(!page.contains("<!--") && !page.contains("<img"));
    assert_eq!(data(&page)["genes"], serde_json::json!(names));
    assert_eq!(data(&page)["sets"][0]["name"], "</script><img onerror=x>");
}

#[test]
fn what_has_no_map_is_told() {
    let folder = Folder::new();
    let (vectors, sets, out) = (fixture("vectors.txt"), fixture("sets.gmt"), folder.path("map.html"));
    let few = folder.write("few.txt", "2 2\nA 0.5 0.25\nB 1 0\n");
    let map = |arguments: &[&str]| refused(&[&["genes", "map", "--out", &out][..], arguments].concat());
    assert!(map(&["--vectors", &few]).contains("a map of 2 genes"));
    assert!(map(&["--vectors", &vectors, "--perplexity", "0"]).contains("--perplexity 0"));
    assert!(map(&["--vectors", &vectors, "--perplexity", "NaN"]).contains("--perplexity NaN"));
    let message = map(&["--vectors", &vectors, "--sets", &sets, "--colour", "set1"]);
    assert!(message.contains("no set is called \"set1\"") && message.contains("did you mean set 1"), "{message}");
    assert!(!std::path::Path::new(&out).exists());
}
