//! The open inference protocol, version 2, over HTTP (KServe, "Open Inference Protocol", `rest_predict_v2`), with its binary tensors (Triton,
//! "Binary Tensor Data Extension"): texts of bases go in as BYTES, tensors of floats come out.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::http::{Answered, Shared, body, json_of, parse};
use super::refusal::Refusal;
use super::v1;
use crate::inference::embed::Unit;
use crate::kmer::labelled::LabelledWindow;
use crate::kmer::sequences::Named;
use crate::model::Task;
use crate::train::apply::prediction;

/// The only version of the model.
const VERSION: &str = "1";

/// Where the JSON of a message with binary tensors ends.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The inputs' names.
const SEQUENCES: &str = "sequences";
const SECOND: &str = "second";

/// `GET /v2`.
pub(super) async fn server() -> Response<Body> {
    let version = env!("CARGO_PKG_VERSION");
    json_of(StatusCode::OK, &json!({ "name": "helixgrad", "version": version, "extensions": ["binary_tensor_data"] }))
}

/// `GET /v2/health/live`.
pub(super) async fn live() -> Response<Body> {
    json_of(StatusCode::OK, &json!({ "live": true }))
}

/// `GET /v2/health/ready`.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let is_ready = shared.is_ready();
    json_of(status_of(is_ready), &json!({ "ready": is_ready }))
}

fn status_of(is_ready: bool) -> StatusCode {
    if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `GET /v2/models/NAME`.
pub(super) async fn model(State(shared): State<Arc<Shared>>, Path(path): Path<Vec<(String, String)>>) -> Answered {
    check_path(&shared, &path)?;
    let input = |name: &str| json!({ "name": name, "datatype": "BYTES", "shape": [-1] });
    let inputs: Vec<Value> =
        [SEQUENCES, SECOND].into_iter().take(1 + usize::from(reads_pairs(&shared))).map(input).collect();
    let outputs: Vec<Value> = outputs(&shared)
        .into_iter()
        .map(|output| {
            let shape: Vec<i64> =
                [-1].into_iter().chain(output.columns(&shared).map(|columns| columns as i64)).collect();
            json!({ "name": output.name(), "datatype": output.datatype(), "shape": shape })
        })
        .collect();
    let result = json!({
        "name": shared.name, "versions": [VERSION], "platform": "helixgrad", "inputs": inputs, "outputs": outputs,
    });
    Ok(json_of(StatusCode::OK, &result))
}

/// `GET /v2/models/NAME/ready`.
pub(super) async fn model_ready(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Vec<(String, String)>>,
) -> Answered {
    check_path(&shared, &path)?;
    let is_ready = shared.is_ready();
    Ok(json_of(status_of(is_ready), &json!({ "name": shared.name, "ready": is_ready })))
}

fn check_path(shared: &Shared, path: &[(String, String)]) -> Result<(), Refusal> {
    for (what, given) in path {
        match &**what {
            "name" => v1::check_name(shared, Some(given))?,
            _ if given == VERSION => {}
            _ => {
                let found = format!("no version {:?} of the model", v1::excerpt(given));
                return Err(Refusal::new(StatusCode::NOT_FOUND, found, "ask for version 1, or for none"));
            }
        }
    }
    Ok(())
}

fn reads_pairs(shared: &Shared) -> bool {
    shared.engine.scorer().is_some_and(|scorer| scorer.reads_pairs())
}

/// A tensor that comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// A class' probability each, `[sequences, classes]`.
    Probabilities,
    /// Numbers, `[sequences, targets]`.
    Values,
    /// The class' name, `[sequences]`.
    Prediction,
    /// The mean over the tokens of the last layer, `[sequences, columns]`.
    Embedding,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Self::Probabilities => "probabilities",
            Self::Values => "values",
            Self::Prediction => "prediction",
            Self::Embedding => "embedding",
        }
    }

    fn datatype(self) -> &'static str {
        match self {
            Self::Probabilities | Self::Values => "FP64",
            Self::Prediction => "BYTES",
            Self::Embedding => "FP32",
        }
    }

    /// Numbers in a row; none where a row is one text.
    fn columns(self, shared: &Shared) -> Option<usize> {
        match self {
            Self::Probabilities | Self::Values => shared.engine.scorer().map(|scorer| scorer.labels().len()),
            Self::Prediction => None,
            Self::Embedding => Some(shared.engine.encoder().columns()),
        }
    }
}

/// What the model has; the last is computed only where somebody asks for it, or where there is nothing else.
fn outputs(shared: &Shared) -> Vec<Output> {
    match shared.engine.scorer() {
        None => vec![Output::Embedding],
        Some(scorer) => {
            let mut outputs = match scorer.task() {
                Task::Regression => vec![Output::Values],
                Task::SingleLabel | Task::MultiLabel => vec![Output::Probabilities, Output::Prediction],
            };
            if !scorer.reads_pairs() {
                outputs.push(Output::Embedding);
            }
            outputs
        }
    }
}

#[derive(Deserialize)]
struct Infer {
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Wanted>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    data: Option<Value>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// `POST /v2/models/NAME/infer`.
pub(super) async fn infer(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<Vec<(String, String)>>,
    request: Request,
) -> Answered {
    check_path(&shared, &path)?;
    let json_length = json_length(request.headers())?;
    let body = body(&shared, request).await?;
    let (head, binary) = match json_length {
        Some(length) if length > body.len() => {
            let found = format!("Inference-Header-Content-Length {length}, where the body has {} bytes", body.len());
            return Err(Refusal::malformed(found, "give the length of the JSON that the body begins with"));
        }
        Some(length) => (body.slice(..length), Some(body.slice(length..))),
        None => (body, None),
    };
    let asked: Infer = parse(&head)?;
    let (first, second) = inputs(&shared, &asked.inputs, binary)?;
    let is_binary = |parameters: &Map<String, Value>, name: &str| parameters.get(name).and_then(Value::as_bool);
    let all_binary = is_binary(&asked.parameters, "binary_data_output").unwrap_or(false);
    let available = outputs(&shared);
    let mut wanted = Vec::new();
    for Wanted { name, parameters } in &asked.outputs {
        let Some(output) = available.iter().find(|output| output.name() == name) else {
            let names: Vec<&str> = available.iter().map(|output| output.name()).collect();
            let found = format!("no output {:?}", v1::excerpt(name));
            return Err(Refusal::malformed(found, format!("ask for {}", names.join(" or "))));
        };
        wanted.push((*output, is_binary(parameters, "binary_data").unwrap_or(all_binary)));
    }
    if wanted.is_empty() {
        let of_classes = available.iter().filter(|output| available.len() == 1 || **output != Output::Embedding);
        wanted = of_classes.map(|output| (*output, all_binary)).collect();
    }
    answer(&shared, asked.id, first, second, &wanted).await
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length
        .map(Some)
        .ok_or_else(|| Refusal::malformed("Inference-Header-Content-Length is no number", "give the bytes of the JSON"))
}

async fn answer(
    shared: &Shared,
    id: Option<String>,
    first: Vec<Named>,
    second: Option<Vec<Named>>,
    wanted: &[(Output, bool)],
) -> Answered {
    let rows = first.len();
    let mut vectors = Vec::new();
    if wanted.iter().any(|(output, _)| *output == Output::Embedding) {
        vectors = v1::embed(shared, first.clone(), Unit::Mean, -1).await?;
    }
    let mut answers = Vec::new();
    if wanted.iter().any(|(output, _)| *output != Output::Embedding) {
        let mut second = second.map(Vec::into_iter);
        let pair =
            |first| v1::window(first, second.as_mut().and_then(Iterator::next).map(|second: Named| second.bases));
        let windows: Vec<LabelledWindow> = first.into_iter().map(pair).collect();
        answers = v1::classify(shared, windows).await?;
    }
    let predictions = || -> Vec<String> {
        let Some(scorer) = shared.engine.scorer() else { return Vec::new() };
        answers.iter().filter_map(|row| prediction(scorer.task(), scorer.labels(), row)).collect()
    };
    let (mut tensors, mut binary) = (Vec::new(), Vec::new());
    for &(output, is_binary) in wanted {
        let shape: Vec<usize> = [rows].into_iter().chain(output.columns(shared)).collect();
        let mut tensor = json!({ "name": output.name(), "datatype": output.datatype(), "shape": shape });
        if is_binary {
            let before = binary.len();
            match output {
                Output::Probabilities | Output::Values => {
                    answers.iter().flatten().for_each(|value| binary.extend(value.to_le_bytes()))
                }
                Output::Embedding => vectors.iter().flatten().for_each(|value| binary.extend(value.to_le_bytes())),
                Output::Prediction => predictions().iter().for_each(|text| {
                    binary.extend((text.len() as u32).to_le_bytes());
                    binary.extend(text.as_bytes());
                }),
            }
            tensor["parameters"] = json!({ "binary_data_size": binary.len() - before });
        } else {
            tensor["data"] = match output {
                Output::Probabilities | Output::Values => json!(answers.concat()),
                Output::Embedding => vectors.iter().flatten().map(|value| json!(f64::from(*value))).collect(),
                Output::Prediction => json!(predictions()),
            };
        }
        tensors.push(tensor);
    }
    let mut result = json!({ "model_name": shared.name, "model_version": VERSION, "outputs": tensors });
    if let Some(id) = id {
        result["id"] = id.into();
    }
    if !wanted.iter().any(|(_, is_binary)| *is_binary) {
        return Ok(json_of(StatusCode::OK, &result));
    }
    let head = result.to_string().into_bytes();
    let length = HeaderValue::from(head.len());
    let mut response = Response::new(Body::from([head, binary].concat()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(JSON_LENGTH, length);
    Ok(response)
}

/// The sequences of a request, and the second ones of pairs.
fn inputs(
    shared: &Shared,
    inputs: &[Input],
    binary: Option<Bytes>,
) -> Result<(Vec<Named>, Option<Vec<Named>>), Refusal> {
    let mut binary = binary.unwrap_or_default();
    let [mut first, mut second] = [None, None];
    for input in inputs {
        let place = match &*input.name {
            SEQUENCES => &mut first,
            SECOND if reads_pairs(shared) => &mut second,
            other => {
                let names = if reads_pairs(shared) { "sequences and second" } else { "sequences" };
                let found = format!("no input {:?}", v1::excerpt(other));
                return Err(Refusal::malformed(found, format!("give the model's: {names}, of type BYTES")));
            }
        };
        let wrong = |found: String, remedy: &str| Refusal::malformed(format!("input {}: {found}", input.name), remedy);
        if place.is_some() {
            return Err(wrong("it is there twice".into(), "give it once"));
        }
        if input.datatype != "BYTES" {
            let found = format!("datatype {:?}", v1::excerpt(&input.datatype));
            return Err(wrong(found, "give BYTES, the letters of each sequence"));
        }
        let count = match input.shape[..] {
            [count] | [count, 1] => usize::try_from(count).unwrap_or(usize::MAX),
            _ => return Err(wrong(format!("shape {:?}", input.shape), "give [sequences] or [sequences, 1]")),
        };
        shared.check_count(count, "sequences")?;
        let texts =
            texts(input, &mut binary).map_err(|found| wrong(found, "give one text for each sequence of the shape"))?;
        if texts.len() != count {
            return Err(wrong(format!("{} texts, where the shape says {count}", texts.len()), "give as many"));
        }
        let each = texts.iter().enumerate().map(|(index, text)| {
            let named = str::from_utf8(text).map_err(|_| ("no UTF-8".to_owned(), "give letters of bases".to_owned()));
            named
                .and_then(|text| v1::named(shared, text))
                .map_err(|(found, remedy)| Refusal::unprocessable(format!("{}[{index}]: {found}", input.name), remedy))
        });
        *place = Some(each.collect::<Result<Vec<Named>, Refusal>>()?);
    }
    if !binary.is_empty() {
        let found = format!("{} bytes behind the tensors", binary.len());
        return Err(Refusal::malformed(found, "say in binary_data_size what each input has"));
    }
    let Some(first) = first else {
        return Err(Refusal::malformed("no input \"sequences\"", "give it, of type BYTES"));
    };
    match &second {
        Some(second) if second.len() != first.len() => {
            let found = format!("{} sequences and {} second ones", first.len(), second.len());
            Err(Refusal::malformed(found, "give as many of each"))
        }
        _ => Ok((first, second)),
    }
}

/// The elements of a tensor of BYTES: in JSON texts, nested as the shape or flat; in binary each behind its length in four bytes, the
/// smallest first.
fn texts(input: &Input, binary: &mut Bytes) -> Result<Vec<Bytes>, String> {
    let size = input.parameters.get("binary_data_size");
    match (&input.data, size) {
        (Some(_), Some(_)) => Err("data and binary_data_size".into()),
        (None, None) => Err("neither data nor binary_data_size".into()),
        (Some(data), None) => {
            let mut texts = Vec::new();
            let mut add = |value: &Value| match value {
                Value::String(text) => {
                    texts.push(Bytes::from(text.clone()));
                    Ok(())
                }
                _ => Err("data that are no texts".to_owned()),
            };
            let Value::Array(values) = data else { return Err("data that are no list".into()) };
            for value in values {
                match value {
                    Value::Array(inner) => inner.iter().try_for_each(&mut add)?,
                    other => add(other)?,
                }
            }
            Ok(texts)
        }
        (None, Some(size)) => {
            let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
            let size = size.filter(|size| *size <= binary.len()).ok_or("binary_data_size beyond the body")?;
            let mut tensor = binary.split_to(size);
            let mut texts = Vec::new();
            while !tensor.is_empty() {
                let cut = || "an element that ends behind the tensor".to_owned();
                let length =
                    tensor.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes).ok_or_else(cut)?;
                let _ = tensor.split_to(4);
                let length = usize::try_from(length).ok().filter(|length| *length <= tensor.len()).ok_or_else(cut)?;
                texts.push(tensor.split_to(length));
            }
            Ok(texts)
        }
    }
}
