//! The routes without a socket: who waits for whom.

use std::net::Ipv4Addr;
use std::sync::mpsc;

use futures_util::stream;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use torrents::PeerId;

use super::*;
use crate::config::Config;

/// Longer than anything takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn service() -> Arc<Service> {
    Arc::new(Service::unstarted(&Config::default()))
}

fn routes(service: &Arc<Service>) -> TowerToHyperService<Router> {
    let routes = Routes::new(
        Arc::clone(service),
        Open::default(),
        CancellationToken::new(),
    );
    let from = ConnectedFrom(IpAddr::V4(Ipv4Addr::LOCALHOST));
    TowerToHyperService::new(routes.router().layer(Extension(from)))
}

fn request(method: &str, target: &str, body: Body) -> axum::http::Request<Body> {
    let request = axum::http::Request::builder().method(method).uri(target);
    request.body(body).unwrap()
}

#[tokio::test]
async fn who_looks_into_locked_registrations_holds_nobody_else_up() {
    let service = service();
    let routes = routes(&service);
    let (locked, is_locked) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let holder = std::thread::spawn(move || {
        let _registrations = service.table.registrations();
        locked.send(()).unwrap();
        released.recv_timeout(PATIENCE)
    });
    is_locked.recv().unwrap();
    let mut waiting = Vec::new();
    for target in ["/lookup/sha256:00", "/metrics"] {
        waiting.push(tokio::spawn(routes.call(request(
            "GET",
            target,
            Body::empty(),
        ))));
    }
    // This is the only thread of the runtime: whoever blocked it would keep this from running.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let health = routes.call(request("GET", "/health", Body::empty())).await;
    assert_eq!(health.unwrap().status(), StatusCode::OK);
    release.send(()).unwrap();
    assert_eq!(
        holder.join().unwrap(),
        Ok(()),
        "released before patience ended"
    );
    let mut statuses = Vec::new();
    for answer in waiting {
        statuses.push(answer.await.unwrap().unwrap().status());
    }
    assert_eq!(statuses, [StatusCode::NOT_FOUND, StatusCode::OK]);
}

#[tokio::test]
async fn half_sent_registrations_are_bounded() {
    let routes = routes(&service());
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..BATCHES {
        let never = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
        held.spawn(routes.call(request("POST", "/register", never)));
    }
    let whole = RegisterRequest {
        origin: PeerId([1; 20]),
        peers: vec!["10.0.0.1:15001".parse().unwrap()],
        add: Vec::new(),
        remove: Vec::new(),
    };
    let whole = Body::from(whole.encode());
    let mut one = tokio::spawn(routes.call(request("POST", "/register", whole)));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut one).await;
    assert!(early.is_err(), "every place is taken");
    held.shutdown().await;
    let answer = tokio::time::timeout(PATIENCE, one).await;
    let answer = answer.expect("a place came free").unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}
