//! Who holds the connections of a port. One peer may hold only its share, and when few places are left, those who have asked
//! for nothing for the longest time make room.
//!
//! A peer is an IPv4 address, or the 64 bits of an IPv6 address that one customer gets. A proxy brings everybody's connections
//! and has no share.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// One connection costs some 20 KiB with its buffers: 200 MiB at most. Those on top wait in the backlog.
pub const CONNECTIONS: usize = 10_000;
/// While few places are left, connections that have been idle for so long may be closed, so often.
const IDLE_MAKES_ROOM: Duration = Duration::from_secs(1);
const MAKE_ROOM_EVERY: Duration = Duration::from_millis(100);
const WARN_EVERY: Duration = Duration::from_secs(60);
/// A peer that was refused is told of by readiness for so long.
const REFUSAL_IS_NEWS: Duration = Duration::from_secs(60);

/// How the places of a port are shared.
#[derive(Debug, Clone)]
pub struct Sharing {
    /// Places, at most.
    pub connections: usize,
    /// Of these one peer may hold so many. `None`: a tenth.
    pub of_a_peer: Option<usize>,
    pub proxies: Proxies,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { connections: CONNECTIONS, of_a_peer: None, proxies: Proxies::Neighbours }
    }
}

/// Which peers are proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxies {
    /// Nobody has named them: a proxy stands on this machine or in the same private network, where no customer is.
    Neighbours,
    Named(Vec<Network>),
}

impl Proxies {
    fn include(&self, address: IpAddr) -> bool {
        match self {
            Self::Neighbours => is_neighbour(address),
            Self::Named(networks) => networks.iter().any(|network| network.includes(address)),
        }
    }
}

fn is_neighbour(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// An address, or all that begin alike: `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// IPv4 as it is mapped into IPv6.
    bits: u128,
    prefix: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither an address nor a network such as 10.0.0.0/8")]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().map_err(|_| NoNetwork)?)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| NoNetwork)?;
        let (width, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        match prefix.unwrap_or(width) {
            prefix if prefix <= width => Ok(Self { bits: bits_of(address), prefix: prefix + before }),
            _ => Err(NoNetwork),
        }
    }
}

impl Network {
    fn includes(self, address: IpAddr) -> bool {
        // Without a prefix there is nothing to compare.
        (self.bits ^ bits_of(address)).checked_shr(128 - self.prefix).unwrap_or(0) == 0
    }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address whose connections are counted together.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The places of one port.
pub struct Places {
    total: usize,
    of_a_peer: usize,
    proxies: Proxies,
    free: Arc<Semaphore>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    open: HashMap<u64, Arc<Open>>,
    /// Of peers that have a share.
    of_peer: HashMap<IpAddr, usize>,
    /// Connections that were closed at once since the last warning, and the peer of the last one.
    refused: usize,
    last_refusal: Option<(Instant, IpAddr)>,
    warned: Option<Instant>,
    made_room: Option<Instant>,
}

/// What a connection is doing: nothing since then, or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    NothingYet(Instant),
    Request,
    NothingSince(Instant),
}

impl Doing {
    fn idle_since(self) -> Option<Instant> {
        match self {
            Self::NothingYet(at) | Self::NothingSince(at) => Some(at),
            Self::Request => None,
        }
    }
}

/// A connection that has a place.
pub struct Open {
    is_proxy: bool,
    doing: Mutex<Doing>,
    wanted: Notify,
}

impl Open {
    pub fn doing(&self) -> Doing {
        *lock(&self.doing)
    }

    pub fn now_does(&self, what: Doing) {
        *lock(&self.doing) = what;
    }

    /// Ends when somebody needs this place more. A request may have begun since.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

/// A connection's place, which is free again when this is dropped.
pub struct Place {
    places: Arc<Places>,
    id: u64,
    peer: Option<IpAddr>,
    open: Arc<Open>,
    _free: OwnedSemaphorePermit,
}

impl Place {
    pub fn open(&self) -> &Arc<Open> {
        &self.open
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = lock(&self.places.table);
        table.open.remove(&self.id);
        let Some(peer) = self.peer else { return };
        if let Some(held) = table.of_peer.get_mut(&peer) {
            *held -= 1;
            if *held == 0 {
                table.of_peer.remove(&peer);
            }
        }
    }
}

impl Places {
    /// `total` places, of which a peer gets its share.
    pub fn new(total: usize, sharing: &Sharing) -> Arc<Self> {
        let of_a_peer = sharing.of_a_peer.unwrap_or(total / 10).clamp(1, total);
        Arc::new(Self {
            total,
            of_a_peer,
            proxies: sharing.proxies.clone(),
            free: Arc::new(Semaphore::new(total)),
            table: Mutex::default(),
        })
    }

    /// Places for peers that we know, who have no share.
    pub fn unshared(total: usize) -> Arc<Self> {
        let everybody = Network { bits: 0, prefix: 0 };
        Self::new(total, &Sharing { proxies: Proxies::Named(vec![everybody]), ..Sharing::default() })
    }

    /// A free place for the next connection, whoever comes.
    pub async fn free(&self) -> OwnedSemaphorePermit {
        loop {
            self.make_room(Instant::now());
            let place = Arc::clone(&self.free).acquire_owned();
            if let Ok(place) = tokio::time::timeout(MAKE_ROOM_EVERY, place).await {
                return place.expect("this semaphore is never closed");
            }
        }
    }

    /// Gives the place to a connection from this address, unless its peer has its share already.
    pub fn take(self: &Arc<Self>, free: OwnedSemaphorePermit, address: IpAddr, now: Instant) -> Option<Place> {
        let address = address.to_canonical();
        let is_proxy = self.proxies.include(address);
        let peer = (!is_proxy).then(|| peer_of(address));
        let mut table = lock(&self.table);
        if let Some(peer) = peer {
            let held = table.of_peer.entry(peer).or_default();
            if *held >= self.of_a_peer {
                table.refused += 1;
                table.last_refusal = Some((now, peer));
                metrics::counter!("doorbuster_connections_refused_total").increment(1);
                self.warn(&mut table, now);
                return None;
            }
            *held += 1;
        }
        table.last_id += 1;
        let id = table.last_id;
        let open = Arc::new(Open { is_proxy, doing: Mutex::new(Doing::NothingYet(now)), wanted: Notify::new() });
        table.open.insert(id, Arc::clone(&open));
        Some(Place { places: Arc::clone(self), id, peer, open, _free: free })
    }

    /// Above nine tenths of the places: those who have been idle for the longest time are asked to go, proxies last, for a
    /// request of theirs may be on its way.
    fn make_room(&self, now: Instant) {
        let mut table = lock(&self.table);
        let too_many = table.open.len().saturating_sub(self.enough());
        if too_many == 0 || table.made_room.is_some_and(|at| now.duration_since(at) < MAKE_ROOM_EVERY) {
            return;
        }
        table.made_room = Some(now);
        self.warn(&mut table, now);
        let idle_since = |open: &&Arc<Open>| open.doing().idle_since();
        let idle = table.open.values().filter_map(|open| idle_since(&open).map(|since| (open.is_proxy, since, open)));
        let mut idle = idle.filter(|(_, since, _)| now.duration_since(*since) >= IDLE_MAKES_ROOM).collect::<Vec<_>>();
        idle.sort_unstable_by_key(|(is_proxy, since, _)| (*is_proxy, *since));
        for (_, _, open) in idle.into_iter().take(too_many) {
            open.wanted.notify_one();
        }
    }

    fn enough(&self) -> usize {
        self.total * 9 / 10
    }

    /// What operators should know of the places just now, a sentence each.
    pub fn news(&self, now: Instant) -> Vec<String> {
        self.news_of(&lock(&self.table), now)
    }

    fn news_of(&self, table: &Table, now: Instant) -> Vec<String> {
        let (taken, total) = (table.open.len(), self.total);
        let mut news = Vec::new();
        if taken > self.enough() {
            news.push(format!("{taken} of {total} places for connections are taken: the longest idle are closed"));
        }
        if let Some((at, peer)) = table.last_refusal
            && now.duration_since(at) < REFUSAL_IS_NEWS
        {
            news.push(format!(
                "connections from {peer} are refused above its share of {}: if it is a proxy of yours, name it in \
                 DOORBUSTER_TRUSTED_PROXIES",
                self.of_a_peer
            ));
        }
        news
    }

    /// Once a minute, however long it goes on.
    fn warn(&self, table: &mut Table, now: Instant) {
        if table.warned.is_some_and(|at| now.duration_since(at) < WARN_EVERY) {
            return;
        }
        table.warned = Some(now);
        let refused = std::mem::take(&mut table.refused);
        let news = self.news_of(table, now).join("; ");
        tracing::warn!(taken = table.open.len(), total = self.total, refused, "{news}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn take(places: &Arc<Places>, from: &str, now: Instant) -> Option<Place> {
        let free = Arc::clone(&places.free).try_acquire_owned().expect("a free place");
        places.take(free, address(from), now)
    }

    fn named(networks: &[&str]) -> Proxies {
        Proxies::Named(networks.iter().map(|network| network.parse().unwrap()).collect())
    }

    #[test]
    fn a_proxy_is_a_neighbour_until_proxies_are_named() {
        for (text, is_neighbour, is_named) in [
            ("127.0.0.1", true, false),
            ("::1", true, false),
            ("10.1.2.3", true, true),
            ("172.16.9.9", true, false),
            ("192.168.0.1", true, false),
            ("fd00::7", true, false),
            ("203.0.113.9", false, true),
            ("203.0.113.10", false, false),
            ("2001:db8:1::1", false, true),
            ("2001:db9::1", false, false),
            ("100.64.0.1", false, false),
        ] {
            let proxies = named(&["10.0.0.0/8", "203.0.113.9", "2001:db8::/32"]);
            let found = (Proxies::Neighbours.include(address(text)), proxies.include(address(text)));
            assert_eq!(found, (is_neighbour, is_named), "{text}");
        }
        assert!(named(&["0.0.0.0/0"]).include(address("198.51.100.1")));
        assert!(!named(&["0.0.0.0/0"]).include(address("2001:db8::1")));
        assert!(named(&["::/0"]).include(address("2001:db8::1")));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "proxy.example", "10.0.0.1/-1", "10.0.0.1/"] {
            assert_eq!(bad.parse::<Network>(), Err(NoNetwork), "{bad}");
        }
    }

    #[test]
    fn a_peer_gets_its_share_and_proxies_have_none() {
        let sharing = Sharing { of_a_peer: Some(2), proxies: named(&["10.0.0.1"]), ..Sharing::default() };
        let (places, now) = (Places::new(100, &sharing), Instant::now());
        let mut held = Vec::new();
        for (from, is_taken) in [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::ffff:3", false),
            ("2001:db8:0:1::3", true),
            ("10.0.0.1", true),
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
        ] {
            let place = take(&places, from, now);
            assert_eq!(place.is_some(), is_taken, "{from}");
            held.extend(place);
        }
        drop(held);
        assert_eq!(places.free.available_permits(), 100);
        assert!(take(&places, "192.0.2.1", now).is_some(), "what it gave back it may have again");
        assert_eq!(lock(&places.table).of_peer.len(), 0, "peers that have gone are forgotten");
        assert_eq!(Places::new(10_000, &Sharing::default()).of_a_peer, 1_000);
    }

    #[tokio::test]
    async fn above_nine_tenths_the_longest_idle_go_and_proxies_last() {
        let sharing = Sharing { of_a_peer: Some(20), proxies: named(&["10.0.0.1"]), ..Sharing::default() };
        let (places, begin) = (Places::new(20, &sharing), Instant::now());
        let after = |ms: u64| begin + Duration::from_millis(ms);
        // A proxy's connection is the oldest, the next one has a request, and then they are idle one after the other.
        let held = (0..20).map(|nth| {
            let place = take(&places, if nth == 0 { "10.0.0.1" } else { "192.0.2.1" }, begin).unwrap();
            place.open.now_does(if nth == 1 { Doing::Request } else { Doing::NothingSince(after(nth)) });
            place
        });
        let held = held.collect::<Vec<_>>();
        let wanted = || {
            let is_wanted = |place: &&Place| futures_util::FutureExt::now_or_never(place.open.wanted()).is_some();
            held.iter().filter(is_wanted).map(|place| place.id - 1).collect::<Vec<_>>()
        };
        places.make_room(after(900));
        assert_eq!(wanted(), Vec::<u64>::new(), "nobody has been idle for a second");
        places.make_room(after(1_005));
        assert_eq!(wanted(), [2, 3], "two above the eighteen that are enough");
        places.make_room(after(1_006));
        assert_eq!(wanted(), Vec::<u64>::new(), "those who were asked may still be leaving");
        assert!(places.news(after(1_006))[0].starts_with("20 of 20 places"), "{:?}", places.news(after(1_006)));
        held.iter().skip(2).for_each(|place| place.open.now_does(Doing::Request));
        places.make_room(after(2_000));
        assert_eq!(wanted(), [0], "a proxy's, when there is no other");
        drop(held);
        assert_eq!(places.news(after(2_000)), Vec::<String>::new());
    }

    #[test]
    fn one_warning_a_minute_is_due() {
        let sharing = Sharing { of_a_peer: Some(1), ..Sharing::default() };
        let (places, begin) = (Places::new(100, &sharing), Instant::now());
        let _held = take(&places, "192.0.2.1", begin);
        let warned = |seconds: u64| {
            let now = begin + Duration::from_secs(seconds);
            assert!(take(&places, "192.0.2.1", now).is_none());
            let table = lock(&places.table);
            (table.warned == Some(now), table.refused)
        };
        assert_eq!([warned(0), warned(1), warned(59), warned(60)], [(true, 0), (false, 1), (false, 2), (true, 0)]);
        let said = |seconds: u64| places.news(begin + Duration::from_secs(seconds)).concat();
        assert!(said(61).contains("192.0.2.1"), "{}", said(61));
        assert_eq!(said(121), "");
    }
}
