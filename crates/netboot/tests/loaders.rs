//! What loaders other than iPXE are told, and the loaders themselves over HTTP.

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::Ordering,
    time::Duration,
};

use common::{
    HONEST, Rig,
    machine::{Machine, connect_plain, get, send},
    until,
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The same machine's request as GRUB sends it: colons in the MAC, and a platform of its own.
fn grub_path(machine: &Machine) -> String {
    let path = machine
        .boot_path()
        .replace("/boot/ipxe", "/boot/grub")
        .replace("platform=pcbios", "platform=efi");
    let mac = machine.mac.to_string();
    path.replace(&mac.replace(':', "-"), &mac)
}

async fn told(rig: &Rig, path: &str) -> String {
    let mut plain = connect_plain(HONEST, rig.netboot.addresses().http).await.unwrap();
    let (status, body) = send(&mut plain, get(path)).await;
    assert_eq!(status, StatusCode::OK, "{path}");
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grub_gets_the_same_decision_as_ipxe() {
    let rig = Rig::start().await;
    let (machine, ..) = rig.imaging("uid-1").await;
    let agent = told(&rig, &grub_path(&machine)).await;
    assert!(
        agent.contains("linux /boot/media/amd64/vmlinuz 'kbm.server=https://") && agent.contains("'kbm.token=kbm1."),
        "{agent}"
    );
    // Its first question, by either path, is answered with the next one.
    for path in ["/grub/grub.cfg", "/boot/grub"] {
        let ask = told(&rig, path).await;
        assert!(ask.contains("source \"/boot/grub?uuid=$uuid&mac=$net_default_mac&"), "{ask}");
        assert!(!ask.contains("kbm.token"), "{ask}");
    }
    let malformed = told(&rig, "/boot/grub?mac=$net_default_mac&platform=efi").await;
    assert!(malformed.contains("chainloader") && !malformed.contains("linux "), "{malformed}");
    rig.api.down.store(true, Ordering::SeqCst);
    until("the replica notices", || async { !rig.netboot.is_ready() }).await;
    let disk = told(&rig, &grub_path(&machine)).await;
    assert!(
        disk.contains("set efi=x64\n") && disk.contains("chainloader") && !disk.contains("kbm.token"),
        "{disk}"
    );
}

/// GRUB starts a disk out of a configuration that it still reads, and its successor uses the same port: a connection that stayed would be in its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_connection_on_which_grub_was_answered() {
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(rig.netboot.addresses().http).await.unwrap();
    stream
        .write_all(b"GET /boot/grub HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said))
        .await
        .unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("Connection: close\r\n") && said.ends_with("done\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loaders_are_served_by_name_in_parts_with_an_etag_and_to_head() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shimx64.efi.signed"), "this is shim").unwrap();
    std::fs::write(folder.path().join("grubx64.efi"), "this is GRUB").unwrap();
    std::fs::write(folder.path().join("secret.efi"), "secret").unwrap();
    let rig = Rig::with(|config| config.loaders = vec![folder.path().to_owned()]).await;
    let mut plain = connect_plain(HONEST, rig.netboot.addresses().http).await.unwrap();
    // The last one as shim asks for it.
    for (name, want) in [
        ("bootx64.efi", "this is shim"),
        ("grubx64.efi", "this is GRUB"),
        ("/grubx64.efi", "this is GRUB"),
    ] {
        let (status, body) = send(&mut plain, get(&format!("/boot/loaders/{name}"))).await;
        assert_eq!((status, body.as_ref()), (StatusCode::OK, want.as_bytes()), "{name}");
    }
    let mut ask = async |method: Method, name: &'static str, value: &str| {
        let request = Request::builder()
            .method(method)
            .uri("/boot/loaders/bootx64.efi")
            .header("host", "x")
            .header(name, value);
        plain.ready().await.unwrap();
        let response = plain.send_request(request.body(Full::default()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let header = move |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        (head.status, header, body.collect().await.unwrap().to_bytes())
    };
    // UEFI HTTP boot asks for the size first.
    let (status, header, body) = ask(Method::HEAD, "accept", "*/*").await;
    assert_eq!((status, header("content-length").as_str(), body.len()), (StatusCode::OK, "12", 0));
    let (status, ..) = ask(Method::GET, "if-none-match", &header("etag")).await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);
    let (status, header, body) = ask(Method::GET, "range", "bytes=5-6").await;
    assert_eq!((status, body.as_ref()), (StatusCode::PARTIAL_CONTENT, &b"is"[..]));
    assert_eq!(header("content-range"), "bytes 5-6/12");
    for path in [
        "/boot/loaders/secret.efi",
        "/boot/loaders/shimx64.efi.signed",
        "/boot/loaders/..%2fsecret.efi",
        "/boot/loaders/",
    ] {
        let mut plain = connect_plain(HONEST, rig.netboot.addresses().http).await.unwrap();
        assert_eq!(send(&mut plain, get(path)).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

/// One listener for both families, and an agent that came over IPv6 is sent back there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everywhere_is_ipv4_and_ipv6_and_an_agent_gets_the_address_that_its_loader_used() {
    let rig = Rig::with(|config| config.http = (Ipv6Addr::UNSPECIFIED, 0).into()).await;
    let port = rig.netboot.addresses().http.port();
    let path = "/boot/ipxe?uuid=30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05&mac=52-54-00-12-34-56&platform=efi&buildarch=x86_64";
    for (address, host) in [
        (IpAddr::V4(Ipv4Addr::LOCALHOST), "127.0.0.1"),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), "[::1]"),
    ] {
        let mut stream = TcpStream::connect((address, port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.contains(&format!("kbm.server=https://{host}:")), "{said}");
    }
}
