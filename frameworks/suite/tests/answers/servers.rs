//! Each framework's server on a free port, with the routes of its example.

use std::net::SocketAddr;

use authpi_sdk::Receiver;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

macro_rules! examples {
    ($($name:ident = $path:literal,)*) => {
        $(
            #[path = $path]
            #[allow(dead_code, reason = "the example's `main`")]
            pub(crate) mod $name;
        )*
    };
}

examples! {
    with_actix_web = "../../examples/actix_web.rs",
    with_axum = "../../examples/axum.rs",
    with_hyper = "../../examples/hyper.rs",
    with_poem = "../../examples/poem.rs",
    with_rocket = "../../examples/rocket.rs",
    with_salvo = "../../examples/salvo.rs",
    with_warp = "../../examples/warp.rs",
}

/// A running server.
pub(crate) trait Server {
    fn address(&self) -> SocketAddr;
}

/// A server in a task, which ends with this value.
pub(crate) struct Task {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Task {
    pub(crate) fn new(
        address: SocketAddr,
        server: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            address,
            task: tokio::spawn(server),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server for Task {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) async fn axum(hook: Receiver) -> Task {
    serve_axum(with_axum::app(hook)).await
}

pub(crate) async fn serve_axum(app: axum::Router) -> Task {
    let (listener, address) = listen().await;
    Task::new(
        address,
        async move { axum::serve(listener, app).await.unwrap() },
    )
}

pub(crate) async fn hyper(hook: Receiver) -> Task {
    let (listener, address) = listen().await;
    Task::new(address, async move {
        with_hyper::serve(listener, hook, std::future::pending())
            .await
            .unwrap();
    })
}

pub(crate) async fn poem(hook: Receiver) -> Task {
    use poem::listener::{Acceptor as _, TcpAcceptor};
    let (listener, _) = listen().await;
    let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
    let address = *acceptor.local_addr()[0].as_socket_addr().unwrap();
    let server = poem::Server::new_with_acceptor(acceptor);
    Task::new(address, async move {
        server.run(with_poem::app(hook)).await.unwrap();
    })
}

pub(crate) async fn salvo(hook: Receiver) -> Task {
    use salvo::conn::{Acceptor as _, tcp::TcpAcceptor};
    let (listener, address) = listen().await;
    let acceptor = TcpAcceptor::try_from(listener).unwrap();
    assert!(!acceptor.holdings().is_empty());
    let server = salvo::Server::new(acceptor);
    Task::new(
        address,
        async move { server.serve(with_salvo::app(hook)).await },
    )
}

pub(crate) async fn warp(hook: Receiver) -> Task {
    let (listener, address) = listen().await;
    let server = warp::serve(with_warp::app(hook)).incoming(listener);
    Task::new(address, server.run())
}

/// actix-web in one worker thread.
pub(crate) struct Actix {
    pub(crate) address: SocketAddr,
}

impl Server for Actix {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

pub(crate) async fn actix_web(hook: Receiver) -> Actix {
    let hook = authpi_actix_web::Hook::new(hook);
    let (address, _) = serve_actix(move |app| with_actix_web::routes(app, hook.clone()));
    Actix { address }
}

pub(crate) fn serve_actix(
    routes: impl Fn(&mut actix_web::web::ServiceConfig) + Send + Sync + 'static,
) -> (SocketAddr, actix_web::dev::ServerHandle) {
    use actix_web::{App, HttpServer};
    let routes = std::sync::Arc::new(routes);
    let server = HttpServer::new(move || App::new().configure(|app| routes(app)));
    let server = server
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
    let address = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(server);
    (address, handle)
}

pub(crate) async fn rocket(hook: Receiver) -> Task {
    serve_rocket(with_rocket::app(authpi_rocket::Hook::new(hook))).await
}

pub(crate) async fn serve_rocket(app: rocket::Rocket<rocket::Build>) -> Task {
    use rocket::{
        Config,
        config::{LogLevel, Shutdown},
        fairing::AdHoc,
    };
    let config = Config {
        port: 0,
        log_level: LogLevel::Off,
        shutdown: Shutdown {
            ctrlc: false,
            signals: [].into(),
            ..Shutdown::default()
        },
        ..Config::debug_default()
    };
    let (started, address) = oneshot::channel();
    let started = std::sync::Mutex::new(Some(started));
    let app = app
        .configure(config)
        .attach(AdHoc::on_liftoff("address", move |rocket| {
            let address = SocketAddr::new(rocket.config().address, rocket.config().port);
            if let Some(started) = started.lock().unwrap().take() {
                started.send(address).unwrap();
            }
            Box::pin(async {})
        }));
    let server = tokio::spawn(async move { drop(app.launch().await.unwrap()) });
    Task {
        address: address.await.unwrap(),
        task: server,
    }
}
