//! Profiles: how each buyer pays and where he lives, saved before the run so that his orders can be charged.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::ensure;
use tokio::task::LocalSet;

use super::buyers::Buyers;
use super::wire::Connection;

/// Saves the profiles of all buyers, over so many connections; blocks.
pub fn save_profiles(address: SocketAddr, buyers: &Arc<Buyers>, connections: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let next = Rc::new(Cell::new(0));
    LocalSet::new().block_on(&runtime, async {
        let saving = (0..connections.max(1))
            .map(|_| tokio::task::spawn_local(save(address, Arc::clone(buyers), Rc::clone(&next))));
        for saved in saving.collect::<Vec<_>>() {
            saved.await??;
        }
        Ok(())
    })
}

async fn save(address: SocketAddr, buyers: Arc<Buyers>, next: Rc<Cell<u32>>) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    loop {
        let buyer = next.get();
        if buyer >= buyers.len() {
            return Ok(());
        }
        next.set(buyer + 1);
        let body = format!(
            r#"{{"payment_method":"pm_card_visa","email":"{}@example.test","ship_to":{{"name":"B","line1":"Long Street 12","city":"Berlin","postal_code":"10115","country":"DE"}}}}"#,
            buyers.id(buyer)
        );
        let mut request = format!(
            "PUT /v1/me/checkout-profile HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nauthorization: Bearer ",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(buyers.token(buyer));
        request.extend_from_slice(b"\r\n\r\n");
        request.extend_from_slice(body.as_bytes());
        let answer = connection.exchange(&request).await?;
        let (status, body) = (answer.status, String::from_utf8_lossy(answer.body));
        ensure!(status < 300, "a profile could not be saved: {status} {body}");
    }
}
