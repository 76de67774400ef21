//! What is sent to prove who we are.

use kube::config::{KubeConfigOptions, Kubeconfig};
use tempfile::TempDir;

use super::*;

async fn authorization(config: &kube::Config) -> Result<String, String> {
    let credentials = Credentials::new(config).map_err(|error| error.to_string())?;
    header(&credentials).await
}

async fn header(credentials: &Credentials) -> Result<String, String> {
    let headers = credentials.headers(true).await.map_err(|error| error.to_string())?;
    let value = headers.get(AUTHORIZATION);
    Ok(value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default())
}

fn at_url(token_file: Option<PathBuf>, ca_file: Option<PathBuf>) -> ApiSource {
    ApiSource::Url { url: "http://127.0.0.1:1".parse().unwrap(), token_file, ca_file }
}

/// The configuration of a kubeconfig whose user has these lines.
async fn kubeconfig(user: &str) -> kube::Config {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{ name: c, cluster: {{ server: 'http://127.0.0.1:1' }} }}]\n\
         contexts: [{{ name: c, context: {{ cluster: c, user: u }} }}]\n\
         users: [{{ name: u, user: {user} }}]\n"
    );
    let config = Kubeconfig::from_yaml(&text).unwrap();
    kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap()
}

#[tokio::test]
async fn a_token_file_may_end_its_line_and_be_replaced() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let config = at_url(Some(file.clone()), None).configuration().unwrap();
    let credentials = Credentials::new(&config).unwrap();
    assert_eq!(header(&credentials).await.unwrap(), "Bearer first");
    std::fs::write(&file, "second").unwrap();
    assert_eq!(header(&credentials).await.unwrap(), "Bearer second");
    std::fs::write(&file, "").unwrap();
    assert_eq!(header(&credentials).await.unwrap(), "Bearer second", "half written");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(header(&credentials).await.unwrap(), "Bearer second");
    std::fs::write(&file, "bad\0token").unwrap();
    assert!(header(&credentials).await.is_err());
}

#[tokio::test]
async fn what_kubeconfigs_may_hold() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "of-file\n").unwrap();
    let file = file.display();
    let exec = |script: &str| {
        format!(
            "{{ exec: {{ apiVersion: client.authentication.k8s.io/v1, command: sh, \
             args: [-c, '{script}'], interactiveMode: Never }} }}"
        )
    };
    let good = r#"echo "{\"kind\":\"ExecCredential\",\"status\":{\"token\":\"of-plugin\"}}""#;
    let table = [
        ("{}".to_owned(), Ok("")),
        ("{ token: inline }".to_owned(), Ok("Bearer inline")),
        (format!("{{ tokenFile: {file} }}"), Ok("Bearer of-file")),
        (format!("{{ token: inline, tokenFile: {file} }}"), Ok("Bearer inline")),
        ("{ username: a, password: b }".to_owned(), Ok("Basic YTpi")),
        (exec(good), Ok("Bearer of-plugin")),
        (exec("exit 3"), Err("the credentials cannot be used")),
    ];
    for (user, expected) in table {
        let found = authorization(&kubeconfig(&user).await).await;
        assert_eq!(found.as_deref().map_err(|e| e.as_str()), expected, "{user}");
    }
}

#[test]
fn files_of_the_flags_are_read_at_once() {
    let folder = TempDir::new().unwrap();
    let (missing, empty) = (folder.path().join("missing"), folder.path().join("empty"));
    std::fs::write(&empty, "").unwrap();
    let error = |place: ApiSource| place.configuration().unwrap_err().to_string();
    assert!(error(at_url(Some(missing.clone()), None)).starts_with("cannot read "));
    assert!(error(at_url(None, Some(missing))).starts_with("cannot read "));
    assert!(error(at_url(None, Some(empty))).ends_with("holds no PEM certificate"));
}

#[test]
fn nothing_prints_a_credential() {
    let mut config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    config.auth_info.token = Some("hunter2".to_owned().into());
    let credentials = Credentials::new(&config).unwrap();
    assert!(!format!("{credentials:?} {config:?}").contains("hunter2"));
}
