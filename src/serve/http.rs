//! Routes, the bodies of requests, and what every request has in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::engine::{Engine, Queue};
use super::metrics::Metrics;
use super::refusal::Refusal;
use super::{Limits, v1, v2};

/// What all requests share.
pub(super) struct Shared {
    pub(super) engine: Arc<Engine>,
    pub(super) queue: Queue,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Limits,
    /// What the model is called.
    pub(super) name: String,
    pub(super) stopping: AtomicBool,
}

impl Shared {
    /// Whether requests are computed, and will be.
    pub(super) fn is_ready(&self) -> bool {
        self.queue.is_alive() && !self.stopping.load(Ordering::SeqCst)
    }

    /// Requests answered so far, with whatever status.
    pub(super) fn answered(&self) -> u64 {
        use prometheus::core::Collector;
        let families = self.metrics.requests.collect();
        let counters = families.iter().flat_map(|family| family.get_metric());
        counters.map(|counter| counter.get_counter().get_value() as u64).sum()
    }

    /// So many sequences or variants may be asked for at once.
    pub(super) fn check_count(&self, count: usize, what: &str) -> Result<(), Refusal> {
        let most = self.limits.sequences;
        if count == 0 {
            return Err(Refusal::unprocessable(format!("no {what}"), "give at least one"));
        }
        if count > most {
            let found = format!("{count} {what} in one request");
            return Err(Refusal::unprocessable(found, format!("give at most {most}, in several requests")));
        }
        Ok(())
    }
}

/// An answer or why there is none.
pub(super) type Answered = Result<Response<Body>, Refusal>;

pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let model = "/v2/models/{name}";
    let version = "/v2/models/{name}/versions/{version}";
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/embeddings", post(v1::embeddings))
        .route("/v1/predict", post(v1::predict))
        .route("/v1/variants", post(v1::variants))
        .route("/v2", get(v2::server))
        .route("/v2/health/live", get(v2::live))
        .route("/v2/health/ready", get(v2::ready))
        .route(model, get(v2::model))
        .route(version, get(v2::model))
        .route(&format!("{model}/ready"), get(v2::model_ready))
        .route(&format!("{version}/ready"), get(v2::model_ready))
        .route(&format!("{model}/infer"), post(v2::infer))
        .route(&format!("{version}/infer"), post(v2::infer))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(shared), watched))
        .with_state(Arc::clone(shared))
}

/// Counts a request and its time.
async fn watched(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |path| path.as_str().to_owned());
    let response = match shared.stopping.load(Ordering::SeqCst) {
        true => Refusal::stopping().into_response(),
        false => next.run(request).await,
    };
    shared.metrics.requests.with_label_values(&[&*route, response.status().as_str()]).inc();
    shared.metrics.seconds.with_label_values(&[&*route]).observe(started.elapsed().as_secs_f64());
    response
}

async fn health(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let status = if shared.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let state = if shared.is_ready() { "ok" } else { "computes no more" };
    let waiting = shared.metrics.queue_depth.get();
    json_of(status, &json!({ "status": state, "model": shared.name, "queue": waiting }))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let mut response = Response::new(Body::from(shared.metrics.text()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn no_route(uri: Uri) -> Refusal {
    let remedy = "ask for POST /v1/embeddings, /v1/predict, /v1/variants or /v2/models/NAME/infer, or GET /health, /metrics or /v2";
    Refusal::new(StatusCode::NOT_FOUND, format!("nothing is at {}", uri.path()), remedy)
}

async fn no_method(method: Method, uri: Uri) -> Refusal {
    let remedy = if method == Method::GET { "send a body to it with POST" } else { "ask for it with GET" };
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} on {}", uri.path()), remedy)
}

/// Reads a request's body, in bounded memory and time.
pub(super) async fn body(shared: &Shared, request: Request) -> Result<Bytes, Refusal> {
    let most = shared.limits.body;
    let too_large = |found: String| {
        let remedy = format!("send at most {most} bytes, in several requests (serve --max-body takes more)");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, found, remedy)
    };
    let headers = request.headers();
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let found = "a body with a Content-Encoding";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, found, "send it as it is, not compressed"));
    }
    let told = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(told) = told.filter(|told| *told > most as u64) {
        return Err(too_large(format!("a body of {told} bytes")));
    }
    let read = Limited::new(request.into_body(), most).collect();
    match tokio::time::timeout(shared.limits.patience, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(format!("a body of more than {most} bytes"))),
        Ok(Err(error)) => Err(Refusal::malformed(format!("a body that cannot be read: {error}"), "send it again")),
        Err(_) => {
            let found = format!("no whole body within {} s", shared.limits.patience.as_secs_f64());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, found, "send it faster, or less of it"))
        }
    }
}

/// Reads JSON.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let found = format!("the body: {error}");
        let remedy = "send JSON as docs/serving.md shows it";
        if error.is_data() { Refusal::unprocessable(found, remedy) } else { Refusal::malformed(found, remedy) }
    })
}

/// An answer in JSON. Numbers are written as doubles with all their digits: whoever reads them, as doubles or as floats, has their bits.
pub(super) fn json_of(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let Ok(body) = serde_json::to_vec(value) else { return Refusal::broken().into_response() };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
