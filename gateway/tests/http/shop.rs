//! A gateway of one test, with the engine under it.

use doorbuster::receipt::ReceiptKey;
use doorbuster::{GatewayConfig, RunningGateway, Secret};
use doorbuster_engine::flows::Engine;
use doorbuster_sandbox::{Redis, RedisCluster, RedisClusterOptions, Sandbox};
use reqwest::RequestBuilder;
use serde_json::json;

use super::admin::config_with_operators;
use crate::support::{Answer, SECRET, Sale, client, count, engine, engine_on, make_drop, new_database, token};

pub(crate) struct Shop {
    pub(crate) engine: Engine,
    pub(crate) gateway: RunningGateway,
    pub(crate) http: reqwest::Client,
    pub(crate) database_url: String,
    pub(crate) drop: String,
}

pub(crate) async fn shop(sale: Sale) -> Shop {
    shop_with(sale, GatewayConfig::on_free_ports(SECRET)).await
}

pub(crate) async fn shop_with(sale: Sale, config: GatewayConfig) -> Shop {
    let (database_url, drop) = new_database().await;
    let engine = engine(&database_url).await;
    make_drop(&engine, &drop, &sale).await;
    let gateway = doorbuster::serve(config, engine.clone(), None).await.unwrap();
    Shop { engine, gateway, http: client(), database_url, drop }
}

/// Everything that can be configured: operators, receipts, the payment provider's webhooks.
pub(crate) fn whole_config() -> GatewayConfig {
    let keys = Secret::from("a=0123456789abcdef0123456789abcdef".to_owned());
    GatewayConfig {
        receipt_keys: ReceiptKey::parse_list(&keys).unwrap(),
        provider_webhook_secrets: vec![Secret::from("whsec_of_this_test_1".to_owned())],
        ..config_with_operators()
    }
}

/// A shop whose Redis is its own, to be killed or paused.
pub(crate) async fn shop_with_own_redis(config: GatewayConfig) -> (Shop, Redis) {
    let redis = Sandbox::temporary().unwrap().redis().await.unwrap();
    let (database_url, drop) = new_database().await;
    let engine = engine_on(&redis.url(), &database_url).await;
    make_drop(&engine, &drop, &Sale::default()).await;
    let gateway = doorbuster::serve(config, engine.clone(), None).await.unwrap();
    (Shop { engine, gateway, http: client(), database_url, drop }, redis)
}

/// A shop whose Redis is a cluster of its own, without replicas: what is killed stays away.
pub(crate) async fn shop_with_own_cluster(config: GatewayConfig) -> (Shop, RedisCluster) {
    let options = RedisClusterOptions::default().replicas_of_each(0);
    let cluster = Sandbox::temporary().unwrap().redis_cluster(options).await.unwrap();
    let (database_url, drop) = new_database().await;
    let engine = engine_on(&cluster.url(), &database_url).await;
    make_drop(&engine, &drop, &Sale::default()).await;
    let gateway = doorbuster::serve(config, engine.clone(), None).await.unwrap();
    (Shop { engine, gateway, http: client(), database_url, drop }, cluster)
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    Answer::read_if_whole(request.send().await.unwrap()).await.expect("a whole answer")
}

impl Shop {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.public_addr)
    }

    pub(crate) fn claims_url(&self) -> String {
        self.url(&format!("/v1/drops/{}/claims", self.drop))
    }

    /// A claim that would succeed; tests change what they are about.
    pub(crate) fn claim_request(&self, buyer: &str, key: &str) -> RequestBuilder {
        self.http.post(self.claims_url()).bearer_auth(token(buyer)).header("Idempotency-Key", key)
    }

    pub(crate) async fn claim(&self, buyer: &str, key: &str, quantity: u32) -> Answer {
        send(self.claim_request(buyer, key).json(&json!({ "quantity": quantity }))).await
    }

    pub(crate) async fn get(&self, buyer: &str, path: &str) -> Answer {
        send(self.http.get(self.url(path)).bearer_auth(token(buyer))).await
    }

    pub(crate) async fn ops(&self, path: &str) -> Answer {
        send(self.http.get(format!("http://{}{path}", self.gateway.ops_addr))).await
    }

    /// Everything a claim could change: each warehouse in Redis, and the rows it could have made in Postgres.
    pub(crate) async fn picture(&self) -> String {
        let live = self.engine.refresh(&self.drop.parse().unwrap()).await.unwrap().unwrap();
        let mut picture = format!("{:?}\n", live.drop);
        for warehouse in &live.drop.warehouses {
            picture += &format!("{:?}\n", live.store(warehouse).dump().await.unwrap());
        }
        for table in ["orders", "order_items", "payments", "checkout_profiles", "grants", "holdings", "rejected_claims"]
        {
            picture +=
                &format!("{table} {}\n", count(&self.database_url, &format!("select count(*) from {table}")).await);
        }
        let taken = "select count(*) from tokens where order_id is not null";
        picture + &format!("taken {}\n", count(&self.database_url, taken).await)
    }
}
