//! Whole handshakes, in memory, with certificates made on the spot.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

type Years = (i32, i32);

fn ca(years: Years) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(name: &str, years: Years, issuer: &CertifiedIssuer<'static, KeyPair>) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    let certificate = params.signed_by(&key, issuer).unwrap();
    (
        certificate.der().clone(),
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
    )
}

/// Says hello through both ends; the error is the client's.
fn handshake(pin: &str, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), String> {
    let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let config = pinned_tls::client_config(pin).map_err(|e| e.to_string())?;
    // The name in the URL does not matter: a NATed address here.
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("10.0.2.2").unwrap()).unwrap();
    client.writer().write_all(b"hello").unwrap();
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|e| format!("server: {e}"))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|e| e.to_string())?;
        }
        let mut said = [0; 5];
        if server.reader().read(&mut said).is_ok_and(|n| n == 5) {
            assert_eq!(&said, b"hello");
            return Ok(());
        }
    }
    Err("the handshake did not end".to_owned())
}

fn pin(ca: &CertifiedIssuer<'static, KeyPair>) -> String {
    let pin = pinned_tls::pin_of(ca.der()).unwrap();
    // What everybody else computes: the digest of the key itself.
    use rcgen::PublicKeyData;
    use sha2::{Digest, Sha256};
    assert_eq!(pin, hex::encode(Sha256::digest(ca.key().subject_public_key_info())));
    pin
}

#[test]
fn the_pinned_ca_is_trusted_whatever_the_clock_says() {
    // Long expired, and not yet valid, by any clock that runs this test.
    for years in [(1990, 1995), (2020, 2090), (2080, 2090)] {
        let ca = ca(years);
        let (certificate, key) = leaf(pinned_tls::SERVER_NAME, years, &ca);
        handshake(&pin(&ca), vec![certificate, ca.der().clone()], key).unwrap();
    }
}

#[test]
fn another_ca_is_refused_even_when_the_pinned_one_is_sent_along() {
    let (pinned, other) = (ca((2020, 2090)), ca((2020, 2090)));
    let (certificate, key) = leaf(pinned_tls::SERVER_NAME, (2020, 2090), &other);
    let error = handshake(&pin(&pinned), vec![certificate.clone(), other.der().clone()], key.clone_key()).unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let chain = vec![certificate, pinned.der().clone(), other.der().clone()];
    let error = handshake(&pin(&pinned), chain, key).unwrap_err();
    assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");
}

#[test]
fn another_name_of_the_same_ca_is_refused() {
    let ca = ca((2020, 2090));
    let (certificate, key) = leaf("somebody-else", (2020, 2090), &ca);
    let error = handshake(&pin(&ca), vec![certificate, ca.der().clone()], key).unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
}

#[test]
fn a_server_that_does_not_send_its_ca_is_refused() {
    let ca = ca((2020, 2090));
    let (certificate, key) = leaf(pinned_tls::SERVER_NAME, (2020, 2090), &ca);
    let error = handshake(&pin(&ca), vec![certificate], key).unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[test]
fn a_pin_that_is_no_digest_is_named() {
    let long = "a".repeat(1000);
    for text in ["", "ab", "zz", long.as_str()] {
        let error = pinned_tls::client_config(text).unwrap_err().to_string();
        assert!(error.contains("64 hexadecimal digits") && error.len() < 200, "{error}");
    }
}
