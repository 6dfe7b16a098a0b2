//! Files of a window as HTTP responses: validators, ranges, compression, caching (RFC 9110, RFC 9111).

use axum::body::{Body, HttpBody};
use axum::http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL,
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use headers::{ETag, HeaderMapExt, IfNoneMatch, Range};
use hyper::body::{Frame, SizeHint};
use memory::Content;
use std::convert::Infallible;
use std::ops::Bound;
use std::pin::Pin;
use std::task::{Context, Poll};
use storage::Document;
use storage::snapshot::File;
use storage::snapshot::hex;

/// A name is never used for other bytes, so a copy is good for ever.
pub const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Playlists and digests change: every use asks whether they have.
pub const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
const EXPOSED: HeaderValue = HeaderValue::from_static("Content-Length, Content-Range, Date, ETag");

/// Content type of a file, by its extension.
pub fn content_type(name: &str) -> HeaderValue {
    HeaderValue::from_static(match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("m3u8") => "application/vnd.apple.mpegurl",
        Some("json") => "application/json",
        Some("ts") => "video/mp2t",
        _ => "video/mp4",
    })
}

/// A segment or initialization section, or the range of it that was asked for.
pub fn segment(request: &HeaderMap, file: &File) -> Response {
    let mut etag = hex(&file.digest[..16]);
    etag = format!("\"{etag}\"");
    if let Some(unchanged) = not_modified(request, &etag, IMMUTABLE) {
        return unchanged;
    }
    let length = file.bytes.len() as u64;
    let mut response = match requested_range(request, &etag, length) {
        Requested::Whole => body(StatusCode::OK, file.bytes.clone()),
        Requested::Part(first, last) => {
            let mut response = body(StatusCode::PARTIAL_CONTENT, file.bytes.slice(first as usize..last as usize + 1));
            insert(&mut response, CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
            response
        }
        Requested::Unsatisfiable => {
            let mut response = body(StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new());
            insert(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
            response
        }
    };
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    finish(response, &file.name, &etag, IMMUTABLE)
}

/// A playlist or the digests, compressed where the peer takes it.
pub fn document(request: &HeaderMap, name: &str, document: &Document) -> Response {
    let gzip = accepts_gzip(request);
    // Another representation, hence another validator.
    let etag = if gzip { format!("\"{}-gzip\"", document.etag) } else { format!("\"{}\"", document.etag) };
    if let Some(mut unchanged) = not_modified(request, &etag, REVALIDATE) {
        unchanged.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        return unchanged;
    }
    let mut response = body(StatusCode::OK, if gzip { document.gzip() } else { document.bytes.clone() });
    if gzip {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    finish(response, name, &etag, REVALIDATE)
}

/// Lets pages of any origin read the response.
pub fn allow_any_origin(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

fn finish(mut response: Response, name: &str, etag: &str, caching: HeaderValue) -> Response {
    response.headers_mut().insert(CONTENT_TYPE, content_type(name));
    response.headers_mut().insert(CACHE_CONTROL, caching);
    insert(&mut response, ETAG, etag);
    allow_any_origin(&mut response);
    response
}

fn not_modified(request: &HeaderMap, etag: &str, caching: HeaderValue) -> Option<Response> {
    let known: IfNoneMatch = request.typed_get()?;
    let current: ETag = etag.parse().ok()?;
    if known.precondition_passes(&current) {
        return None;
    }
    let mut response = body(StatusCode::NOT_MODIFIED, Bytes::new());
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().insert(CACHE_CONTROL, caching);
    insert(&mut response, ETAG, etag);
    allow_any_origin(&mut response);
    Some(response)
}

enum Requested {
    Whole,
    /// First and last byte.
    Part(u64, u64),
    Unsatisfiable,
}

/// One range, if it is asked for and still of this file. Several are answered with the whole, as RFC 9110 allows.
fn requested_range(request: &HeaderMap, etag: &str, length: u64) -> Requested {
    let of_other_bytes = request.get(IF_RANGE).is_some_and(|validator| validator.as_bytes() != etag.as_bytes());
    let range = request.typed_get::<Range>().filter(|_| !of_other_bytes && is_well_formed(request));
    let Some(range) = range else { return Requested::Whole };
    if longer_suffix(request, length) {
        return Requested::Part(0, length.saturating_sub(1));
    }
    let mut ranges = range.satisfiable_ranges(length);
    let (Some((first, last)), None) = (ranges.next(), ranges.next()) else {
        return if range.satisfiable_ranges(length).next().is_none() {
            Requested::Unsatisfiable
        } else {
            Requested::Whole
        };
    };
    let first = match first {
        Bound::Included(first) => first,
        Bound::Excluded(first) => first + 1,
        Bound::Unbounded => 0,
    };
    let last = match last {
        Bound::Included(last) => last.min(length.saturating_sub(1)),
        Bound::Excluded(end) => end.saturating_sub(1),
        Bound::Unbounded => length.saturating_sub(1),
    };
    if first > last || length == 0 { Requested::Unsatisfiable } else { Requested::Part(first, last) }
}

/// Whether every range is `first-last`, `first-` or `-length`; a header that is not is ignored (RFC 9110 section 14.2).
fn is_well_formed(request: &HeaderMap) -> bool {
    let ranges = request.get(RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    let number = |text: &str| text.parse::<u64>().ok();
    ranges.is_some_and(|ranges| {
        ranges.split(',').all(|range| match range.trim().split_once('-') {
            Some(("", length)) => number(length).is_some(),
            Some((first, "")) => number(first).is_some(),
            Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
            None => false,
        })
    })
}

/// `bytes=-N` with an N beyond the file's length asks for all of it (RFC 9110 section 14.1.2).
fn longer_suffix(request: &HeaderMap, length: u64) -> bool {
    let suffix = request.get(RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes=-")?.parse::<u64>().ok());
    length > 0 && suffix.is_some_and(|suffix| suffix > length)
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let Some(accepted) = request.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else { return false };
    accepted.split(',').any(|coding| {
        let mut parameters = coding.split(';').map(str::trim);
        let gzip = parameters.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        gzip && !parameters.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

fn body(status: StatusCode, content: impl Into<Content>) -> Response {
    let content = content.into();
    let length = HeaderValue::from(content.len());
    let mut response = Response::new(Body::new(Pieces { content, sent: 0 }));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

/// Contents on their way to a peer: each piece is a frame, so that nothing is copied.
struct Pieces {
    content: Content,
    sent: usize,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.content.pieces().get(self.sent).cloned();
        self.sent += 1;
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent >= self.content.pieces().len()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.content.pieces().iter().skip(self.sent).map(|piece| piece.len() as u64);
        SizeHint::with_exact(left.sum())
    }
}

fn insert(response: &mut Response, name: axum::http::HeaderName, value: &str) {
    // Made of digits, hexadecimal and quotes: always a valid header value.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::IF_NONE_MATCH;

    fn file() -> File {
        File { name: "0-7.m4s".to_owned(), bytes: Bytes::from_static(b"0123456789").into(), digest: [7; 32] }
    }

    fn with(headers: &[(axum::http::HeaderName, &str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("valid"))).collect()
    }

    #[test]
    fn ranges_are_cut_as_the_rfc_says() {
        for (range, status, content_range) in [
            ("bytes=0-3", 206, "bytes 0-3/10"),
            ("bytes=8-", 206, "bytes 8-9/10"),
            ("bytes=-3", 206, "bytes 7-9/10"),
            ("bytes=5-99", 206, "bytes 5-9/10"),
            ("bytes=-99", 206, "bytes 0-9/10"),
            ("bytes=10-", 416, "bytes */10"),
            ("bytes=0-1,4-5", 200, ""),
            ("lines=1-2", 200, ""),
            ("bytes=abc", 200, ""),
            ("bytes=5-2", 200, ""),
        ] {
            let response = segment(&with(&[(RANGE, range)]), &file());
            assert_eq!(response.status(), status, "{range}");
            let given = response.headers().get(CONTENT_RANGE).map_or("", |value| value.to_str().expect("text"));
            assert_eq!(given, content_range, "{range}");
        }
    }

    #[test]
    fn a_range_of_other_bytes_is_not_served() {
        let stale = with(&[(RANGE, "bytes=0-3"), (IF_RANGE, "\"other\"")]);
        assert_eq!(segment(&stale, &file()).status(), 200);
        let current = with(&[(RANGE, "bytes=0-3"), (IF_RANGE, &format!("\"{}\"", "07".repeat(16)))]);
        assert_eq!(segment(&current, &file()).status(), 206);
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let known = with(&[(IF_NONE_MATCH, &format!("\"{}\"", "07".repeat(16)))]);
        let response = segment(&known, &file());
        assert_eq!(response.status(), 304);
        assert!(response.headers().contains_key(ETAG));
        assert_eq!(segment(&with(&[(IF_NONE_MATCH, "\"other\"")]), &file()).status(), 200);
    }

    #[test]
    fn segments_are_cached_for_ever_and_playlists_revalidated() {
        let caching = |response: Response| response.headers()[CACHE_CONTROL].to_str().expect("text").to_owned();
        assert!(caching(segment(&HeaderMap::new(), &file())).contains("immutable"));
        assert_eq!(caching(document(&HeaderMap::new(), "0.m3u8", &Document::default())), "no-cache");
    }

    #[test]
    fn compression_is_a_representation_of_its_own() {
        for (accepted, gzip) in [("gzip", true), ("br, gzip;q=0.5", true), ("gzip;q=0", false), ("identity", false)] {
            let response = document(&with(&[(ACCEPT_ENCODING, accepted)]), "0.m3u8", &Document::default());
            assert_eq!(response.headers().contains_key(CONTENT_ENCODING), gzip, "{accepted}");
            assert_eq!(response.headers()[ETAG].to_str().expect("text").contains("gzip"), gzip, "{accepted}");
        }
    }
}
