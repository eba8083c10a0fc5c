//! Reading a request's body within bounds: at most [`MAX_BODY_BYTES`], and within a time. What is beyond is thrown away, so memory stays flat
//! however much is sent.

use std::time::Duration;

use agent_protocol::{limits::MAX_BODY_BYTES, session::ErrorCode};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::reply::{Refusal, Reply};

/// How much of a body that is too large is read (and thrown away) before it is refused. A connection that is closed while the other side
/// still sends is reset, and the refusal is lost on the way; a body that is only somewhat too large shall get to see it (RFC 9112, section 9.6).
const DISCARDED_BYTES: usize = 4 * MAX_BODY_BYTES;

/// The whole body.
pub(crate) async fn read(body: Body, length: Option<u64>, time: Duration) -> Reply<Bytes> {
    let too_large = || Refusal::new(ErrorCode::TooLarge, format!("the body has more than {MAX_BODY_BYTES} bytes"));
    if length.is_some_and(|l| l > DISCARDED_BYTES as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut body = body;
        let mut all = BytesMut::new();
        let mut discarded = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::new(ErrorCode::Malformed, "the body ended early"))?;
            let Ok(data) = frame.into_data() else { continue };
            if discarded > 0 || all.len() + data.len() > MAX_BODY_BYTES {
                discarded += all.len() + data.len();
                all = BytesMut::new();
                if discarded > DISCARDED_BYTES {
                    break;
                }
                continue;
            }
            all.extend_from_slice(&data);
        }
        if discarded > 0 { Err(too_large()) } else { Ok(all.freeze()) }
    };
    tokio::time::timeout(time, reading)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(ErrorCode::Malformed, "the body did not arrive in time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endless_body_is_cut_off() {
        let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096])));
        let refusal = read(Body::from_stream(endless), None, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::TooLarge);
        let refusal = read(Body::empty(), Some(1 << 30), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::TooLarge, "the announced length is enough");
    }

    #[tokio::test]
    async fn a_body_that_is_somewhat_too_large_is_read_to_its_end() {
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(MAX_BODY_BYTES / 4096 + 1));
        let counter = left.clone();
        let body = futures::stream::iter(std::iter::from_fn(move || {
            let more = counter.load(std::sync::atomic::Ordering::Relaxed).checked_sub(1)?;
            counter.store(more, std::sync::atomic::Ordering::Relaxed);
            Some(Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096])))
        }));
        let length = MAX_BODY_BYTES as u64 + 4096;
        let refusal = read(Body::from_stream(body), Some(length), Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::TooLarge);
        assert_eq!(
            left.load(std::sync::atomic::Ordering::Relaxed),
            0,
            "nothing is left that would reset the connection"
        );
    }

    #[tokio::test]
    async fn a_slow_body_is_given_up() {
        let silent = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let refusal = read(Body::from_stream(silent), None, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::Malformed);
    }
}
