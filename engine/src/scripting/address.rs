//! The address of Redis: one server or some nodes of a cluster, and whether the way there is encrypted.
//!
//! `redis://[user:password@]host:port[/number]` is one server, `redis-cluster://host:port,host:port…` a cluster, as
//! are several `redis://` URLs with commas in between. `rediss://` and `rediss-cluster://` are the same over TLS, to
//! every node. A server whose certificate is not trusted, or is another's, gets no password. `?ca=file.pem` names the
//! only authority to trust; without it those of this machine are.

use redis::{Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, TlsCertificates};

/// Where Redis is.
#[derive(Clone)]
pub(crate) struct Address {
    /// The server, or the nodes of a cluster that are named; at least one.
    pub(super) nodes: Vec<ConnectionInfo>,
    pub(super) is_cluster: bool,
    /// For the nodes that are found through these.
    pub(super) certificates: Option<TlsCertificates>,
}

impl Address {
    pub(crate) fn parse(url: &str) -> RedisResult<Self> {
        let (url, authority) = authority(url)?;
        let (nodes, is_cluster) = match cluster_nodes(&url) {
            Some(nodes) => (nodes, true),
            None => (vec![url], false),
        };
        if nodes.is_empty() {
            return Err(unusable("no node is named"));
        }
        let certificates = authority.as_deref().map(read).transpose()?;
        let nodes = nodes.into_iter().map(|node| match &certificates {
            Some(_) if !node.starts_with("rediss://") => Err(unusable("ca= is for rediss:// and rediss-cluster://")),
            Some(certificates) => Ok(Client::build_with_tls(node, certificates.clone())?.get_connection_info().clone()),
            None => node.into_connection_info(),
        });
        Ok(Self { nodes: nodes.collect::<RedisResult<_>>()?, is_cluster, certificates })
    }

    /// The server, or the node that is named first.
    pub(crate) fn first_node(&self) -> &ConnectionInfo {
        &self.nodes[0]
    }
}

/// Takes `ca=` out of what stands behind the question mark.
fn authority(url: &str) -> RedisResult<(String, Option<String>)> {
    let Some((before, settings)) = url.split_once('?') else { return Ok((url.to_owned(), None)) };
    let (mut authority, mut rest) = (None, Vec::new());
    for setting in settings.split('&') {
        match setting.strip_prefix("ca=") {
            Some(file) if !file.is_empty() => authority = Some(file.to_owned()),
            Some(_) => return Err(unusable("ca= names no file")),
            None => rest.push(setting),
        }
    }
    let rest = rest.join("&");
    Ok((if rest.is_empty() { before.to_owned() } else { format!("{before}?{rest}") }, authority))
}

fn read(file: &str) -> RedisResult<TlsCertificates> {
    let authority = std::fs::read(file).map_err(|_| unusable("the file of ca= cannot be read"))?;
    if !authority.windows(CERTIFICATE.len()).any(|words| words == CERTIFICATE) {
        return Err(unusable("the file of ca= has no certificate in PEM form"));
    }
    Ok(TlsCertificates { client_tls: None, root_cert: Some(authority) })
}

const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn unusable(what: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, what).into()
}

/// URLs of the nodes, should `url` mean a cluster. User and password of the first are those of all without their own.
fn cluster_nodes(url: &str) -> Option<Vec<String>> {
    let list = url.strip_prefix("redis-cluster://").map(|list| ("redis", list));
    let list = list.or_else(|| url.strip_prefix("rediss-cluster://").map(|list| ("rediss", list)));
    if list.is_none() && !url.contains(',') {
        return None;
    }
    let (scheme, list) = list.or_else(|| url.split_once("://")).unwrap_or(("redis", url));
    let (list, settings) = list.split_once('?').map_or((list, String::new()), |(list, all)| (list, format!("?{all}")));
    let who = list.split(',').next().and_then(|first| first.rsplit_once('@')).map_or("", |(who, _)| who);
    let nodes = list.split(',').filter(|node| !node.is_empty()).map(|node| match node {
        node if node.contains("://") => format!("{node}{settings}"),
        node if node.contains('@') || who.is_empty() => format!("{scheme}://{node}{settings}"),
        node => format!("{scheme}://{who}@{node}{settings}"),
    });
    Some(nodes.collect())
}

#[cfg(test)]
mod tests {
    use redis::ConnectionAddr;

    use super::*;

    #[test]
    fn the_url_says_whether_it_is_one_server_or_a_cluster() {
        let cases: [(&str, Option<&[&str]>); 9] = [
            ("redis://one:6379", None),
            ("redis://user:password@one:6379/2", None),
            ("rediss://one:6379", None),
            ("redis-cluster://one:1", Some(&["redis://one:1"])),
            ("redis-cluster://u:p@one:1,two:2", Some(&["redis://u:p@one:1", "redis://u:p@two:2"])),
            ("rediss-cluster://u:p@one:1,two:2", Some(&["rediss://u:p@one:1", "rediss://u:p@two:2"])),
            ("redis://one:1,two:2,", Some(&["redis://one:1", "redis://two:2"])),
            (
                "rediss://one:1,two:2?protocol=resp3",
                Some(&["rediss://one:1?protocol=resp3", "rediss://two:2?protocol=resp3"]),
            ),
            ("redis://one:1,redis://u:p@two:2", Some(&["redis://one:1", "redis://u:p@two:2"])),
        ];
        for (url, nodes) in cases {
            let nodes = nodes.map(|nodes| nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>());
            assert_eq!(cluster_nodes(url), nodes, "{url}");
        }
    }

    #[test]
    fn an_authority_is_for_tls_and_must_be_one() {
        let is_tls = |url: &str| {
            let nodes = Address::parse(url).unwrap().nodes;
            nodes.iter().all(|node| matches!(node.addr(), ConnectionAddr::TcpTls { insecure: false, .. }))
        };
        assert!(is_tls("rediss://one:1") && is_tls("rediss-cluster://one:1,two:2") && !is_tls("redis://one:1"));
        for (url, what) in [
            ("redis://u:hidden@one:1?ca=/dev/null", "no certificate"),
            (
                &format!(
                    "redis://u:hidden@one:1?ca={}",
                    concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripting/address.rs")
                ),
                "ca= is for",
            ),
            ("rediss://u:hidden@one:1?ca=/nowhere.pem", "cannot be read"),
            ("rediss://u:hidden@one:1?ca=", "no file"),
            ("redis-cluster://", "no node"),
            ("rediss://u:hidden@one:notaport", ""),
        ] {
            let said = Address::parse(url).err().unwrap_or_else(|| panic!("{url}")).to_string();
            assert!(said.contains(what) && !said.contains("hidden"), "{url}: {said}");
        }
    }
}
