//! Reading a request's body within bounds: at most [`MAX_BODY_BYTES`], and within a time. What is beyond is not read, so memory stays flat
//! however much is sent.

use std::time::Duration;

use agent_protocol::{limits::MAX_BODY_BYTES, session::ErrorCode};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::reply::{Refusal, Reply};

/// The whole body.
pub(crate) async fn read(body: Body, length: Option<u64>, time: Duration) -> Reply<Bytes> {
    let too_large = || Refusal::new(ErrorCode::TooLarge, format!("the body has more than {MAX_BODY_BYTES} bytes"));
    if length.is_some_and(|l| l > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut body = body;
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::new(ErrorCode::Malformed, "the body ended early"))?;
            let Ok(data) = frame.into_data() else { continue };
            if all.len() + data.len() > MAX_BODY_BYTES {
                return Err(too_large());
            }
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
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
    async fn a_slow_body_is_given_up() {
        let silent = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let refusal = read(Body::from_stream(silent), None, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::Malformed);
    }
}
