use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Bed {
    vitals: watch::Sender<Vitals>,
    checks: HealthChecks,
}

impl Bed {
    fn new() -> Self {
        let (vitals, watched) = watch::channel(Vitals { in_sync: true, ..Vitals::new() });
        Self { vitals, checks: HealthChecks::new(watched) }
    }

    /// Services `n/NAME` by name and port, with so many endpoints here; of two the first is older.
    fn set(&mut self, services: &[(&str, u16, usize)]) {
        let key = |name: &str| ObjectKey::new("n", name);
        let check = |port, endpoints| HealthCheck { port, v4: Some(endpoints), v6: None };
        let checks = services.iter().map(|(name, port, endpoints)| (key(name), check(*port, *endpoints))).collect();
        let age = |of: &ObjectKey| services.iter().position(|(name, ..)| key(name) == *of).unwrap() as i64;
        self.checks.set(&checks, &[LOCALHOST, "::1".parse().unwrap()].into(), age);
    }
}

/// A port that nobody has.
async fn free_port() -> u16 {
    TcpListener::bind((LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

/// Asks until somebody answers: the status, the head and the body.
async fn ask(port: u16) -> (u16, String, serde_json::Value) {
    for _ in 0..100 {
        let Ok(mut stream) = TcpStream::connect((LOCALHOST, port)).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        return (status, head.to_lowercase(), serde_json::from_str(body).unwrap());
    }
    panic!("nobody answers at port {port}");
}

/// Waits until nobody listens any more.
async fn assert_closed(port: u16) {
    for _ in 0..100 {
        if TcpStream::connect((LOCALHOST, port)).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("somebody still listens at port {port}");
}

#[tokio::test]
async fn the_answers_are_kube_proxys() {
    let mut bed = Bed::new();
    let port = free_port().await;
    for (endpoints, status) in [(2, 200), (0, 503), (18, 200)] {
        bed.set(&[("web", port, endpoints)]);
        let (got, head, body) = ask(port).await;
        assert_eq!(got, status, "{endpoints} endpoints");
        let expected = serde_json::json!({
            "service": {"namespace": "n", "name": "web"},
            "localEndpoints": endpoints,
            "serviceProxyHealthy": true,
        });
        assert_eq!(body, expected);
        for line in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            &format!("x-load-balancing-endpoint-weight: {endpoints}"),
        ] {
            assert!(head.contains(line), "no {line} in {head}");
        }
    }
    // Tables are stale, and that the node is being deleted is no concern of a Service's.
    bed.vitals.send_modify(|vitals| vitals.node_eligible = false);
    assert_eq!(ask(port).await.0, 200);
    bed.vitals.send_modify(|vitals| vitals.in_sync = false);
    let (status, _, body) = ask(port).await;
    assert_eq!((status, &body["serviceProxyHealthy"]), (503, &serde_json::json!(false)));
    assert_eq!(bed.checks.problems(), []);
}

#[tokio::test]
async fn a_server_stands_as_long_as_its_service_wants_it_where_it_wants_it() {
    let mut bed = Bed::new();
    let (a, b) = (free_port().await, free_port().await);
    bed.set(&[("web", a, 1)]);
    assert_eq!(ask(a).await.0, 200);
    bed.set(&[("web", b, 1)]);
    assert_eq!(ask(b).await.0, 200);
    assert_closed(a).await;
    bed.set(&[]);
    assert_closed(b).await;
    bed.set(&[("web", b, 1)]);
    assert_eq!(ask(b).await.0, 200, "again");
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_and_tried_again() {
    let mut bed = Bed::new();
    let other = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = other.local_addr().unwrap().port();
    bed.set(&[("web", port, 1)]);
    while bed.checks.problems().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let problems = bed.checks.problems();
    assert_eq!(problems[0].subject, "Service n/web");
    assert!(problems[0].message.contains(&format!("healthCheckNodePort at 127.0.0.1:{port}")), "{problems:?}");
    drop(other);
    assert_eq!(ask(port).await.0, 200);
    while !bed.checks.problems().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn of_two_services_with_one_port_the_older_has_it() {
    let mut bed = Bed::new();
    let port = free_port().await;
    bed.set(&[("web", port, 1), ("app", port, 2)]);
    assert_eq!(ask(port).await.2["service"]["name"], "web");
    let [problem] = &bed.checks.problems()[..] else { panic!("{:?}", bed.checks.problems()) };
    assert_eq!(problem.subject, "Service n/app");
    assert!(problem.message.contains("belongs to Service n/web"), "{}", problem.message);
    bed.set(&[("app", port, 2)]);
    assert_eq!(ask(port).await.2["localEndpoints"], 2, "without a gap: the port was open all the time");
    assert_eq!(bed.checks.problems(), []);
}
