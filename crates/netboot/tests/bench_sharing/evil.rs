//! A machine that opens a session and takes its order like any other, says that it has all of the image, and gives wrong bytes to whoever asks.

use std::{net::Ipv4Addr, time::Duration};

use agent_protocol::{
    identity::MacAddress,
    session::encode,
    share::{PATH_SHARE, ShareRequest, ShareResponse},
};
use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode, header};
use image::pack::Manifest;
use sharing::PieceSet;

use crate::common::machine::Machine;

/// How often it says so.
const AGAIN: Duration = Duration::from_millis(300);

/// Lives until it is killed.
pub async fn live(boot: &str, mac: MacAddress, address: Ipv4Addr) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let server = reqwest::Url::parse(boot).unwrap();
    let host: std::net::IpAddr = server.host_str().unwrap().parse().unwrap();
    let http_to = std::net::SocketAddr::new(host, server.port().unwrap());
    let mut machine = Machine::with(
        address.into(),
        netboot::Addresses {
            http: http_to,
            tls: http_to,
        },
        None,
        mac,
    );
    machine.http_to = http_to;
    let booted = machine.boot().await.expect("the script loads the agent");
    let tls = reqwest::Url::parse(&booted.server).unwrap();
    machine.tls_to = std::net::SocketAddr::new(host, tls.port().unwrap());
    machine.open(&booted).await.expect("a session");
    let order = loop {
        let order = machine.order("").await.expect("an answer").order;
        if order.image.is_some() {
            break order;
        }
    };
    let packed = order.image.as_ref().and_then(|image| image.packed.clone()).expect("a packed image");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let manifest = http.get(format!("{}/manifest.json", packed.urls[0])).send().await.unwrap();
    let manifest = Manifest::parse(&manifest.bytes().await.unwrap()).unwrap();
    let (count, stored) = (u32::try_from(manifest.chunks().len()).unwrap(), manifest.stored_bytes());
    let held = encode(&PieceSet::all(count).to_bytes());
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(move |request: Request| async move { wrong(&request, stored, count) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    loop {
        let request = ShareRequest {
            order_id: order.id.clone(),
            pieces: count,
            port: Some(port),
            held: held.clone(),
            wanted: encode(&PieceSet::none(count).to_bytes()),
            ..ShareRequest::default()
        };
        let body = serde_json::to_vec(&request).unwrap();
        let _told: ShareResponse = machine.call(Method::POST, PATH_SHARE, body).await.expect("an answer about sharing");
        tokio::time::sleep(AGAIN).await;
    }
}

/// As many bytes as were asked for, and none of them right.
fn wrong(request: &Request, stored: u64, count: u32) -> Response {
    if request.uri().path().ends_with("/held") {
        return PieceSet::all(count).to_bytes().into_response();
    }
    let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = range.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))) else {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    };
    let body = vec![0x55; usize::try_from(last - first + 1).unwrap()];
    let response = http::Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{stored}"));
    response.body(Body::from(body)).unwrap()
}
