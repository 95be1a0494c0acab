//! The object store's HTTP requests, sent through the guard of outgoing ones.

use crate::deliver::outgoing::{Outgoing, OutgoingError};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService,
    },
};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// Makes clients of which every request, that for credentials too, is checked against `[limits] allow_delivery`.
#[derive(Clone, Debug)]
pub(super) struct Guarded(pub Outgoing);

impl HttpConnector for Guarded {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Guarded {
    fn call<'life, 'answer>(&'life self, request: HttpRequest) -> Answer<'answer>
    where
        'life: 'answer,
        Self: 'answer,
    {
        Box::pin(self.send(request))
    }
}

impl Guarded {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let unusable = |e| HttpError::new(HttpErrorKind::Unknown, OutgoingError::Unusable(e));
        let url = parts.uri.to_string().parse().map_err(|_| unusable("its URL cannot be read".into()))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        let answer = self.0.execute(request).await.map_err(|e| HttpError::new(kind_of(&e), e))?;
        let (parts, body) = <hyper::Response<reqwest::Body>>::from(answer).into_parts();
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(Answered(body))))
    }
}

/// Which of them the store's client may try again at once.
fn kind_of(error: &OutgoingError) -> HttpErrorKind {
    match error {
        OutgoingError::Connect { .. } => HttpErrorKind::Connect,
        OutgoingError::TimedOut { .. } => HttpErrorKind::Timeout,
        OutgoingError::Broken { .. } => HttpErrorKind::Interrupted,
        OutgoingError::Refused(_) | OutgoingError::Redirect { .. } | OutgoingError::Unusable(_) => {
            HttpErrorKind::Unknown
        }
    }
}

/// An answer's body, with the errors that the store's client knows.
struct Answered(reqwest::Body);

impl Body for Answered {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        // Its URL may be a signed one.
        frame.map_err(|e| HttpError::new(HttpErrorKind::Interrupted, e.without_url()))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
