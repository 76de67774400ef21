//! Routes that ask an authentication server about requests.

use http::Request;
use http_body_util::Full;

use super::kit::{ALL, Answer, Client, Endpoint, Speaks, World, annotated, field, get, service};
use crate::support::Net;

fn manifests(annotations: &[(&str, &str)]) -> String {
    let prefixed: Vec<_> = annotations
        .iter()
        .map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), *value))
        .collect();
    let lines: Vec<_> = prefixed.iter().map(|(key, value)| (&**key, *value)).collect();
    service("web", &["127.N.N.10"]) + &annotated("i", "a.com", "web", &lines)
}

/// Lets those in who have a token, with a user and a cookie; those who are banned are forbidden.
async fn server(net: Net) -> Endpoint {
    Endpoint::answering(net.addr(20, 4180), |request| {
        let cookie = "Set-Cookie: session=1\r\n";
        match field(request, "x-token") {
            Some("good") => {
                format!("HTTP/1.1 200 OK\r\nX-User: alice\r\n{cookie}Content-Length: 2\r\n\r\nok")
            }
            Some("banned") => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Some("broken") => "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => format!(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n{cookie}\
                 Content-Length: 6\r\n\r\nsecret"
            ),
        }
    })
    .await
}

async fn send(client: &mut Client, token: &str, path: &str) -> Answer {
    let request = Request::post(format!("http://a.com{path}"));
    let request = request.header("x-token", token).header("x-user", "mallory");
    let request = request.header("x-other", "mine").body(Full::from("hello")).unwrap();
    Answer::read(client.send(request).await.unwrap()).await
}

#[tokio::test]
async fn an_authentication_server_decides_about_each_request() {
    let net = Net::new();
    let (web, auth) = (Endpoint::echo(net.addr(10, 9000), "web").await, server(net).await);
    let yaml = manifests(&[
        ("auth-url", &net.fill("http://127.N.N.20:4180/check?of=$host")),
        ("auth-response-headers", "X-User, X-Other"),
    ]);
    let world = World::start_in(net, &yaml, &["--workers", "1"]);
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let answer = send(&mut client, "good", "/p?q=1").await;
        assert_eq!(answer.name(), "web", "{speaks:?}: {answer:?}");
        assert_eq!(answer.headers["set-cookie"], "session=1");
        let seen = web.seen().pop().unwrap();
        assert_eq!(field(&seen, "x-user"), Some("alice"), "{seen}");
        assert_eq!(field(&seen, "x-other"), None, "the server has not said it: {seen}");
        assert!(seen.ends_with("hello"), "{seen}");
        let asked = auth.seen().pop().unwrap();
        assert!(asked.starts_with("GET /check?of=a.com HTTP/1.1\r\n"), "{asked}");
        assert_eq!(field(&asked, "host"), Some(&*net.ip(20).to_string()));
        assert!(field(&asked, "x-original-url").unwrap().ends_with("://a.com/p?q=1"), "{asked}");
        assert_eq!(field(&asked, "x-original-method"), Some("POST"));
        assert_eq!(field(&asked, "content-length"), None, "{asked}");
        // It judges what the endpoint gets, and not what the client makes of it.
        send(&mut client, "good", "/public/%2e%2e/admin?x").await;
        assert!(web.seen().pop().unwrap().starts_with("POST /admin?x HTTP/1.1\r\n"));
        let asked = auth.seen().pop().unwrap();
        for name in ["x-original-url", "x-original-uri", "x-forwarded-uri"] {
            assert!(field(&asked, name).unwrap().ends_with("/admin?x"), "{name} of {asked}");
        }
        assert!(!asked.contains("public"), "{asked}");
        let before = web.seen().len();
        let answer = send(&mut client, "none", "/").await;
        assert_eq!(
            (answer.status, answer.headers["www-authenticate"].as_bytes()),
            (401, &b"Bearer"[..])
        );
        assert!(!answer.body.contains("secret"), "{answer:?}");
        assert_eq!(send(&mut client, "banned", "/").await.status, 403);
        assert_eq!(send(&mut client, "broken", "/").await.status, 500);
        assert_eq!(web.seen().len(), before, "the endpoint is not asked");
    }
    auth.stop().await;
    let answer = get(&world, Speaks::Http1, "a.com", "/").await;
    assert_eq!(answer.status, 500, "without an answer nothing is let in: {answer:?}");
}

#[tokio::test]
async fn a_client_that_is_not_known_is_sent_to_sign_in() {
    let net = Net::new();
    let (_web, _auth) = (Endpoint::echo(net.addr(10, 9000), "web").await, server(net).await);
    let url = net.fill("http://127.N.N.20:4180/check");
    let signin = [("auth-url", &*url), ("auth-signin", "http://$host/auth/start")];
    let world = World::start_in(net, &manifests(&signin), &[]);
    let answer = get(&world, Speaks::Http1, "a.com", "/?a=b&c=d").await;
    assert_eq!(answer.status, 302, "{answer:?}");
    let expected = "http://a.com/auth/start?rd=http://a.com%2F%3Fa%3Db%26c%3Dd";
    assert_eq!(answer.headers["location"], expected);
    assert_eq!(answer.headers["set-cookie"], "session=1");
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    assert_eq!(send(&mut client, "banned", "/").await.status, 403, "only for 401");
    assert_eq!(send(&mut client, "good", "/").await.status, 200);
}

/// What cannot be asked as its author meant is not let in.
#[tokio::test]
async fn a_wrong_auth_url_takes_its_routes_out_of_service() {
    let net = Net::new();
    let _web = Endpoint::echo(net.addr(10, 9000), "web").await;
    for url in ["https://invalid..auth.url", "http://$http_x/", "nonsense"] {
        let world = World::start_in(Net::new(), &manifests(&[("auth-url", url)]), &[]);
        assert_eq!(get(&world, Speaks::Http1, "a.com", "/").await.status, 503, "{url}");
    }
}
