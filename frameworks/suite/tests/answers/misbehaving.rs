//! Senders that are slow, hang up, or send too much at once; in each framework.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    Event, Handlers, Receiver,
    event::types::UserCreated,
    receiver::{Inline, ReceiverBuilder},
};
use frameworks::scenarios::{Arrives, MAX_BODY, Odd, Sent, handling, verifier};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use crate::{
    assert_answers, assert_golden, golden,
    http::{Exchange, send},
    servers::{self, Server},
};

/// A handler that signals its start, waits until it may go on, and counts.
#[derive(Clone)]
struct Gate {
    started: Arc<Notify>,
    go: Arc<Semaphore>,
    handled: Arc<AtomicUsize>,
}

impl Gate {
    fn receiver(&self) -> ReceiverBuilder<Inline> {
        let gate = self.clone();
        let handlers = Handlers::new(()).on(move |_: Event<UserCreated>, _| {
            let gate = gate.clone();
            async move {
                gate.started.notify_one();
                gate.go.acquire().await?.forget();
                gate.handled.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
        Receiver::inline("users", verifier(), Odd::new(), handlers)
            .handler_timeout(Duration::from_mins(1))
    }

    fn closed() -> Self {
        Self {
            started: Arc::new(Notify::new()),
            go: Arc::new(Semaphore::new(0)),
            handled: Arc::new(AtomicUsize::new(0)),
        }
    }

    async fn started(&self) {
        timeout(Duration::from_mins(1), self.started.notified())
            .await
            .expect("no handler has started");
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }
}

async fn a_body_that_does_not_arrive_in_time_is_408<S: Server>(serve: impl AsyncFn(Receiver) -> S) {
    let receiver = handling(Odd::new(), || panic!("half a delivery was handled"));
    let server = serve(
        receiver
            .body_timeout(Duration::from_millis(100))
            .build()
            .unwrap(),
    )
    .await;
    let sent = Sent::created("evt_1").arrives(Arrives::Stalls(64));
    assert_golden(
        send(server.address(), &sent).await,
        "too-slow",
        "a stalled body",
    );
}

async fn a_sender_that_hangs_up_in_the_body_is_not_handled<S: Server>(
    serve: impl AsyncFn(Receiver) -> S,
) {
    let gate = Gate::closed();
    gate.go.add_permits(1);
    let server = serve(gate.receiver().build().unwrap()).await;
    let sent = Sent::created("evt_1").arrives(Arrives::HangsUp(64));
    // Some servers answer, others close the connection.
    if let Some(answer) = send(server.address(), &sent).await {
        assert_eq!(
            answer.status(),
            golden("interrupted").lines().next().unwrap()
        );
    }
    assert_eq!(gate.handled(), 0);
    assert_golden(
        send(server.address(), &Sent::created("evt_1")).await,
        "handled",
        "the next delivery",
    );
}

async fn a_sender_that_hangs_up_later_interrupts_nothing<S: Server>(
    serve: impl AsyncFn(Receiver) -> S,
) {
    let gate = Gate::closed();
    let server = serve(gate.receiver().max_in_flight(1).build().unwrap()).await;
    let hung_up = Exchange::begin(server.address(), &Sent::created("evt_1")).await;
    gate.started().await;
    drop(hung_up);
    let other = Sent::created("evt_2");
    assert_golden(
        send(server.address(), &other).await,
        "too-many",
        "another delivery meanwhile",
    );
    gate.go.add_permits(1);
    // A redelivery is refused until the handler of the first delivery has ended, so this repeats
    // it.
    let redelivery = async {
        loop {
            let answer = send(server.address(), &Sent::created("evt_1")).await;
            if answer
                .as_ref()
                .is_some_and(|answer| answer.status().starts_with("200"))
            {
                return answer;
            }
        }
    };
    let redelivery = timeout(Duration::from_mins(1), redelivery).await;
    assert_golden(
        redelivery.expect("it is never accepted"),
        "duplicate",
        "a redelivery",
    );
    assert_eq!(gate.handled(), 1);
}

async fn where_the_budget_is_full_a_slow_body_is_503<S: Server>(
    serve: impl AsyncFn(Receiver) -> S,
) {
    let receiver = handling(Odd::new(), || Ok(())).max_unverified_bytes(MAX_BODY);
    let server = serve(
        receiver
            .body_timeout(Duration::from_mins(2))
            .build()
            .unwrap(),
    )
    .await;
    let large = |id| Sent::large(id, MAX_BODY - 1024).arrives(Arrives::Stalls(60 << 10));
    let mut first = Exchange::begin(server.address(), &large("evt_1")).await;
    let mut second = Exchange::begin(server.address(), &large("evt_2")).await;
    let shed = tokio::select! {
        answer = first.answer() => answer,
        answer = second.answer() => answer,
    };
    assert_golden(shed, "shed", "one of two slow bodies");
    assert_golden(
        send(server.address(), &Sent::created("evt_3")).await,
        "handled",
        "a small delivery",
    );
}

/// The tests of a framework whose server is started by `servers::…`.
macro_rules! frameworks {
    ($($name:ident,)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn answers() {
                assert_answers(servers::$name).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_body_that_does_not_arrive_in_time_is_408() {
                super::a_body_that_does_not_arrive_in_time_is_408(servers::$name).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_sender_that_hangs_up_in_the_body_is_not_handled() {
                super::a_sender_that_hangs_up_in_the_body_is_not_handled(servers::$name).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_sender_that_hangs_up_later_interrupts_nothing() {
                super::a_sender_that_hangs_up_later_interrupts_nothing(servers::$name).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn where_the_budget_is_full_a_slow_body_is_503() {
                super::where_the_budget_is_full_a_slow_body_is_503(servers::$name).await;
            }
        })*
    };
}

frameworks! { actix_web, axum, hyper, poem, rocket, salvo, warp, }

/// On SIGINT, actix-web drops its workers' runtimes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_outlives_the_workers_of_actix_web() {
    let gate = Gate::closed();
    let hook = authpi_actix_web::Hook::new(gate.receiver().build().unwrap());
    let of_a_worker = Arc::new(());
    let (app_data, routes_hook) = (Arc::downgrade(&of_a_worker), hook.clone());
    let held = std::sync::Mutex::new(Some(of_a_worker));
    let (address, server) = servers::serve_actix(move |app| {
        // The only worker holds it from now on.
        if let Some(of_a_worker) = held.lock().unwrap().take() {
            app.app_data(of_a_worker);
        }
        servers::with_actix_web::routes(app, routes_hook.clone());
    });
    let _delivery = Exchange::begin(address, &Sent::created("evt_1")).await;
    gate.started().await;
    server.stop(false).await;
    let worker_ends = async {
        while app_data.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_mins(1), worker_ends)
        .await
        .expect("the worker did not end");
    gate.go.add_permits(1);
    timeout(Duration::from_mins(1), hook.drain())
        .await
        .expect("the handler did not end");
    assert_eq!(gate.handled(), 1);
}
