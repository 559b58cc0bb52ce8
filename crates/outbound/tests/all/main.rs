//! The clients against real servers on the loopback interface.
#![expect(clippy::unwrap_used, reason = "a test program: tests fail by panicking")]

mod connections;
mod jwks;

use axum::Router;
use tokio::net::TcpListener;

/// Serves on a free port until the test ends. Returns the URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}
