//! Connections of buyers and proxies: how long they may be idle, how many one peer may have, and who makes room when there
//! are too many. The hostile peer is 127.0.0.2.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use doorbuster::GatewayConfig;
use doorbuster::config::Limits;
use doorbuster::places::{Proxies, Sharing};
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::shop::{Shop, shop_with};
use crate::support::{SECRET, Sale, until};

const REQUEST: &[u8] = b"GET /openapi.json HTTP/1.1\r\nhost: shop\r\nrange: bytes=0-0\r\n\r\n";

async fn connect(shop: &Shop) -> TcpStream {
    TcpStream::connect(shop.gateway.public_addr).await.unwrap()
}

async fn connect_as_stranger(shop: &Shop) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    socket.connect(shop.gateway.public_addr).await.unwrap()
}

/// So many places, and 127.0.0.1 is the proxy. Nobody is closed for saying nothing.
async fn crowded_shop(connections: usize, of_a_peer: usize) -> Shop {
    let proxies = Proxies::Named(vec!["127.0.0.1".parse().unwrap()]);
    let limits = Limits { first_header: Duration::from_secs(120), ..Limits::default() };
    let sharing = Sharing { connections, of_a_peer: Some(of_a_peer), proxies };
    shop_with(Sale::default(), GatewayConfig { limits, sharing, ..GatewayConfig::on_free_ports(SECRET) }).await
}

fn is_open(socket: &TcpStream) -> bool {
    matches!(socket.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// The status of one answer, read to the end of its body.
async fn ask(socket: &mut TcpStream) -> String {
    socket.write_all(REQUEST).await.unwrap();
    let (mut read, mut piece) = (Vec::new(), vec![0; 65_536]);
    loop {
        let length = socket.read(&mut piece).await.unwrap();
        assert!(length > 0, "closed in the middle: {}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|text| text.parse().unwrap());
        if length.is_none_or(|length: usize| body.len() >= length) {
            return head.lines().next().unwrap().to_owned();
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_as_long_as_configured() {
    let limits = Limits { keep_alive: Duration::from_millis(400), ..Limits::default() };
    let shop = shop_with(Sale::default(), GatewayConfig { limits, ..GatewayConfig::on_free_ports(SECRET) }).await;
    let mut socket = connect(&shop).await;
    ask(&mut socket).await;
    ask(&mut socket).await;
    let idle = Instant::now();
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0, "it is closed without a word");
    let idle = idle.elapsed();
    assert!((Duration::from_millis(350)..Duration::from_secs(3)).contains(&idle), "{idle:?}");
    assert_eq!(Limits::default().keep_alive, Duration::from_secs(75), "above the 60 s of most proxies");
}

#[tokio::test]
async fn idle_connections_make_room_when_all_places_are_taken() {
    let (open_files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // So that three places are left for buyers.
    let pool_connections = usize::try_from(open_files).unwrap() - 64 - 3;
    let shop =
        shop_with(Sale::default(), GatewayConfig { pool_connections, ..GatewayConfig::on_free_ports(SECRET) }).await;
    let mut idle = Vec::new();
    for number in 0..3 {
        let mut socket = connect(&shop).await;
        if number == 0 {
            ask(&mut socket).await;
        }
        idle.push(socket);
    }
    let began = Instant::now();
    assert!(ask(&mut connect(&shop).await).await.contains("200"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn one_peer_holds_its_share_and_others_are_answered_meanwhile() {
    let shop = crowded_shop(60, 20).await;
    let mut hostile = Vec::new();
    for _ in 0..200 {
        hostile.push(connect_as_stranger(&shop).await);
    }
    until("what is above the share is closed", async || hostile.iter().filter(|socket| is_open(socket)).count() == 20)
        .await;
    // The proxy may have more than that.
    let mut proxied = Vec::new();
    for _ in 0..30 {
        proxied.push(connect(&shop).await);
        assert!(ask(proxied.last_mut().unwrap()).await.contains("200"));
    }
    let ready = shop.ops("/readyz").await;
    let body = ready.json();
    let news = body["reasons"][0].as_str().unwrap_or_default();
    assert_eq!((ready.status.as_u16(), &body["status"]), (200, &"ready".into()), "{body}");
    assert!(news.contains("127.0.0.2") && news.contains("DOORBUSTER_TRUSTED_PROXIES"), "{body}");
    let mut kept = hostile.into_iter().find(is_open).expect("twenty are");
    assert!(ask(&mut kept).await.contains("200"), "what is within the share is served");
    until("what the peer gave back it may have again", async || {
        let mut socket = connect_as_stranger(&shop).await;
        let asked = socket.write_all(REQUEST).await;
        asked.is_ok() && socket.read(&mut [0; 12]).await.is_ok_and(|length| length > 0)
    })
    .await;
}

#[tokio::test]
async fn a_proxy_on_this_machine_has_no_share_as_long_as_none_is_named() {
    let sharing = Sharing { connections: 40, ..Sharing::default() };
    let shop = shop_with(Sale::default(), GatewayConfig { sharing, ..GatewayConfig::on_free_ports(SECRET) }).await;
    let mut sockets = Vec::new();
    // A tenth would be four.
    for _ in 0..12 {
        sockets.push(connect(&shop).await);
        assert!(ask(sockets.last_mut().unwrap()).await.contains("200"));
    }
    assert_eq!(shop.ops("/readyz").await.json()["reasons"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_connection_that_says_nothing_at_first_is_closed_and_one_that_has_asked_is_kept() {
    let limits = Limits { first_header: Duration::from_millis(700), ..Limits::default() };
    let shop = shop_with(Sale::default(), GatewayConfig { limits, ..GatewayConfig::on_free_ports(SECRET) }).await;
    let mut asked = connect(&shop).await;
    ask(&mut asked).await;
    let began = Instant::now();
    let (silent, mut slow) = (connect(&shop).await, connect(&shop).await);
    slow.write_all(&REQUEST[..30]).await.unwrap();
    until("both are closed", async || !is_open(&silent) && !is_open(&slow)).await;
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    assert!(ask(&mut asked).await.contains("200"));
    assert_eq!(Limits::default().first_header, Duration::from_secs(3));
}

#[tokio::test]
async fn above_nine_tenths_of_the_places_the_longest_idle_connection_is_closed() {
    let shop = crowded_shop(10, 10).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(connect(&shop).await);
        ask(idle.last_mut().unwrap()).await;
    }
    until("the first one is closed", async || !is_open(&idle[0])).await;
    for socket in &mut idle[1..] {
        assert!(ask(socket).await.contains("200"), "nine are not too many");
    }
}
