//! Connections of buyers and proxies: how long they may be idle, and who makes room when there are too many.

use std::time::{Duration, Instant};

use doorbuster::GatewayConfig;
use doorbuster::config::Limits;
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::shop::{Shop, shop_with};
use crate::support::{SECRET, Sale};

const REQUEST: &[u8] = b"GET /openapi.json HTTP/1.1\r\nhost: shop\r\nrange: bytes=0-0\r\n\r\n";

async fn connect(shop: &Shop) -> TcpStream {
    TcpStream::connect(shop.gateway.public_addr).await.unwrap()
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
