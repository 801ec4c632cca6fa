//! The open inference protocol: names, shapes, JSON and binary tensors.

use helixgrad::model::Task;
use serde_json::{Value, json};

use crate::client::{Answer, Serving, request};
use crate::support::text;
use crate::{classifier, model, numbers, sequence};
use helixgrad::model::Head;

const INFER: &str = "/v2/models/m/infer";

/// A request whose JSON is followed by tensors.
fn binary(server: &Serving, head: &Value, tensors: &[u8]) -> Answer {
    let head = head.to_string();
    let length = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    server.raw(&request(INFER, &[head.as_bytes(), tensors].concat(), &length))
}

fn bytes(texts: &[String]) -> Vec<u8> {
    texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()).collect()
}

#[test]
fn the_open_inference_protocol_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let path = classifier(folder.path(), "m", &["no", "yes"], Task::SingleLabel, false, 16);
    let server = Serving::start(&["--model", text(&path)]);
    assert_eq!(server.get("/v2/health/live").ok()["live"], true);
    assert_eq!(server.get("/v2/health/ready").ok()["ready"], true);
    assert_eq!(server.get("/v2").ok()["extensions"], json!(["binary_tensor_data"]));
    assert_eq!(server.get("/v2/models/m/ready").ok(), json!({ "name": "m", "ready": true }));
    assert_eq!(server.get("/v2/models/m/versions/1/ready").status, 200);
    server.get("/v2/models/other").refused(404);
    server.get("/v2/models/m/versions/2").refused(404);
    let metadata = server.get("/v2/models/m").ok();
    assert_eq!(metadata["inputs"], json!([{ "name": "sequences", "datatype": "BYTES", "shape": [-1] }]));
    assert_eq!(metadata["outputs"][0], json!({ "name": "probabilities", "datatype": "FP64", "shape": [-1, 2] }));
    assert_eq!(metadata["outputs"][1], json!({ "name": "prediction", "datatype": "BYTES", "shape": [-1] }));
    assert_eq!(metadata["outputs"][2], json!({ "name": "embedding", "datatype": "FP32", "shape": [-1, 16] }));

    let sequences: Vec<String> = (0..3).map(|seed| sequence(seed, 20 + seed as usize)).collect();
    let expected = server.post("/v1/predict", &json!({ "sequences": sequences })).ok();
    let rows = expected["predictions"].as_array().unwrap();
    let probabilities: Vec<f64> = rows.iter().flat_map(|row| numbers(&row["probabilities"])).collect();
    let predictions: Vec<&Value> = rows.iter().map(|row| &row["prediction"]).collect();
    let vectors = server.post("/v1/embeddings", &json!({ "sequences": sequences })).ok();
    let vectors: Vec<f32> = vectors["embeddings"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| serde_json::from_value::<Vec<f32>>(row["embedding"].clone()).unwrap())
        .collect();

    // JSON, flat and nested, with and without a version.
    let nested: Vec<[&String; 1]> = sequences.iter().map(|text| [text]).collect();
    for (url, shape, data) in
        [(INFER, json!([3]), json!(sequences)), ("/v2/models/m/versions/1/infer", json!([3, 1]), json!(nested))]
    {
        let input = json!({ "name": "sequences", "shape": shape, "datatype": "BYTES", "data": data });
        let found = server.post(url, &json!({ "id": "7", "inputs": [input] })).ok();
        assert_eq!(
            (&found["id"], &found["model_name"], &found["model_version"]),
            (&json!("7"), &json!("m"), &json!("1"))
        );
        let outputs = found["outputs"].as_array().unwrap();
        assert_eq!(outputs.len(), 2);
        assert_eq!((&outputs[0]["name"], &outputs[0]["shape"]), (&json!("probabilities"), &json!([3, 2])));
        assert_eq!(numbers(&outputs[0]["data"]), probabilities);
        assert_eq!((&outputs[1]["data"], &outputs[1]["shape"]), (&json!(predictions), &json!([3])));
    }

    // As Triton's client sends it, and as it asks for the answer.
    let tensor = bytes(&sequences);
    let input = json!({ "name": "sequences", "shape": [3], "datatype": "BYTES", "parameters": { "binary_data_size": tensor.len() } });
    let wanted = |name: &str, binary: bool| json!({ "name": name, "parameters": { "binary_data": binary } });
    let outputs = [wanted("embedding", true), wanted("prediction", false), wanted("probabilities", true)];
    let found = binary(&server, &json!({ "inputs": [input], "outputs": outputs }), &tensor);
    assert_eq!((found.status, found.header("content-type")), (200, Some("application/octet-stream")));
    let length: usize = found.header("inference-header-content-length").unwrap().parse().unwrap();
    let (head, rest) = found.body.split_at(length);
    let head: Value = serde_json::from_slice(head).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 3 * 16 * 4);
    assert_eq!(head["outputs"][1]["data"], json!(predictions));
    assert_eq!(head["outputs"][2]["parameters"]["binary_data_size"], 3 * 2 * 8);
    let (first, second) = rest.split_at(3 * 16 * 4);
    assert_eq!(first, vectors.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    assert_eq!(second, probabilities.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    let all = json!({ "inputs": [input], "parameters": { "binary_data_output": true } });
    let found = binary(&server, &all, &tensor);
    let texts: Vec<String> = predictions.iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    assert!(found.body.ends_with(&bytes(&texts)), "{found:?}");

    // An encoder has vectors only.
    let path = model(folder.path(), "e", Head::Encoder { pooler: false }, None, 16);
    let server = Serving::start(&["--model", text(&path), "--name", "m"]);
    let input = json!({ "name": "sequences", "shape": [1], "datatype": "BYTES", "data": ["ACGT"] });
    let found = server.post(INFER, &json!({ "inputs": [input] })).ok();
    assert_eq!((&found["outputs"][0]["name"], &found["outputs"][0]["shape"]), (&json!("embedding"), &json!([1, 16])));
}

#[test]
fn requests_that_break_the_protocol_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = classifier(folder.path(), "m", &["no", "yes"], Task::SingleLabel, false, 16);
    let server = Serving::start(&["--model", text(&path)]);
    let input = |change: &dyn Fn(&mut Value)| {
        let mut input = json!({ "name": "sequences", "shape": [1], "datatype": "BYTES", "data": ["ACGT"] });
        change(&mut input);
        json!({ "inputs": [input] })
    };
    for (asked, found, status) in [
        (input(&|input| input["name"] = "x".into()), "no input \"x\"", 400),
        (input(&|input| input["datatype"] = "FP32".into()), "datatype \"FP32\"", 400),
        (input(&|input| input["shape"] = json!([1, 2])), "shape [1, 2]", 400),
        (input(&|input| input["shape"] = json!([])), "shape []", 400),
        (input(&|input| input["shape"] = json!([2])), "1 texts, where the shape says 2", 400),
        (input(&|input| input["shape"] = json!([0])), "no sequences", 422),
        (input(&|input| input["shape"] = json!([u64::MAX])), "sequences in one request", 422),
        (input(&|input| input["data"] = json!([1])), "data that are no texts", 400),
        (input(&|input| input["data"] = json!([[["ACGT"]]])), "data that are no texts", 400),
        (input(&|input| input["data"] = json!("ACGT")), "data that are no list", 400),
        (input(&|input| input["data"] = json!(["AC-T"])), "sequences[0]: '-'", 422),
        (input(&|input| input["data"] = json!(["A"])), "sequences[0]: 1 bases", 422),
        (input(&|input| input["parameters"] = json!({ "binary_data_size": 4 })), "data and binary_data_size", 400),
        (json!({ "inputs": [] }), "no input \"sequences\"", 400),
        (json!({}), "inputs", 422),
        (json!({ "inputs": [{ "name": "sequences", "shape": [1], "datatype": "BYTES" }] }), "neither data", 400),
        (json!({ "inputs": input(&|_| ())["inputs"], "outputs": [{ "name": "logits" }] }), "no output \"logits\"", 400),
    ] {
        let message = server.post(INFER, &asked).refused(status);
        assert!(message.contains(found), "{asked}: {message}");
    }
    let tensor = bytes(&["ACGT".into()]);
    let head = |size: usize| json!({ "inputs": [{ "name": "sequences", "shape": [1], "datatype": "BYTES", "parameters": { "binary_data_size": size } }] });
    binary(&server, &head(8), &tensor).ok();
    let too_long = [&[255, 255, 255, 255][..], b"ACGT"].concat();
    let no_text = [&4_u32.to_le_bytes()[..], &[0xff; 4]].concat();
    for (size, tensors, found) in [
        (9, &tensor[..], "binary_data_size beyond the body"),
        (usize::MAX, &tensor, "binary_data_size beyond the body"),
        (7, &tensor, "an element that ends behind the tensor"),
        (3, &tensor, "an element that ends behind the tensor"),
        (8, &too_long, "an element that ends behind the tensor"),
        (8, &[&tensor[..], &[0]].concat(), "1 bytes behind the tensors"),
    ] {
        let message = binary(&server, &head(size), tensors).refused(400);
        assert!(message.contains(found), "{size}: {message}");
    }
    assert!(binary(&server, &head(8), &no_text).refused(422).contains("no UTF-8"));
    for length in ["x", "-1", "99999999999999999999999", "100000"] {
        let message = server.raw(&request(INFER, b"{}", &format!("Inference-Header-Content-Length: {length}\r\n")));
        assert!(message.refused(400).contains("Inference-Header-Content-Length"));
    }
    server.get(INFER).refused(405);
    server.get("/health").ok();
}
