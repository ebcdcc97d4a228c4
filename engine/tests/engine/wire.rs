//! A way to Redis that loses the answer to one script, after Redis has given it.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// What is done between the loss and whatever is sent next.
type Then = Box<dyn FnOnce() -> futures_util::future::BoxFuture<'static, ()> + Send>;

pub(crate) struct Wire {
    pub(crate) port: u16,
    next: Arc<Mutex<Option<Then>>>,
}

impl Wire {
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let wire = Self { port: listener.local_addr().unwrap().port(), next: Arc::default() };
        let next = Arc::clone(&wire.next);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, Arc::clone(&next)));
            }
        });
        wire
    }

    /// The next script is run, its answer is lost with the connection, and `then` is done before anything else gets
    /// through.
    pub(crate) async fn lose_next_answer(&self, then: impl Future<Output = ()> + Send + 'static) {
        *self.next.lock().await = Some(Box::new(move || Box::pin(then)));
    }

    pub(crate) async fn has_lost_it(&self) -> bool {
        self.next.lock().await.is_none()
    }
}

async fn carry(mut client: TcpStream, server: u16, next: Arc<Mutex<Option<Then>>>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(len @ 1..) = read else { return };
                let bytes = &from_client[..len];
                let is_script = bytes.windows(5).any(|word| word == b"EVALS");
                // Held until it has been dealt with, so that nothing sent again overtakes it.
                let mut next = next.lock().await;
                if server.write_all(bytes).await.is_err() {
                    return;
                }
                if is_script && let Some(then) = next.take() {
                    let Ok(1..) = server.read(&mut from_server).await else { return };
                    then().await;
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(len @ 1..) = read else { return };
                if client.write_all(&from_server[..len]).await.is_err() {
                    return;
                }
            }
        }
    }
}
