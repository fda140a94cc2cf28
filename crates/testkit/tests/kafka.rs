//! The Kafka that tests run on is a real one, and nothing of it stays.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed, as it should")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use pushline_testkit::{Kafka, KafkaCluster, KafkaSecurity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, pem::PemObject},
    },
};

/// Set where this test binary plays a test process that is killed.
const VICTIM: &str = "PUSHLINE_TEST_KAFKA_VICTIM";

/// ApiVersions version 0, by hand: the ranges of versions that a broker speaks, by the number of the request.
fn api_versions(broker: SocketAddr) -> Vec<(i16, i16, i16)> {
    let mut connection = TcpStream::connect(broker).unwrap();
    let no_client_id = (-1_i16).to_be_bytes();
    let request = [&10_i32.to_be_bytes()[..], &18_i16.to_be_bytes(), &0_i16.to_be_bytes(), &7_i32.to_be_bytes(), &no_client_id].concat();
    connection.write_all(&request).unwrap();
    let mut length = [0; 4];
    connection.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length).try_into().unwrap()];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..6], [0, 0, 0, 7, 0, 0], "the request's number and no error");
    let number = |bytes: &[u8]| i16::from_be_bytes(bytes.try_into().unwrap());
    answer[10..].chunks_exact(6).map(|api| (number(&api[..2]), number(&api[2..4]), number(&api[4..]))).collect()
}

fn runs(pid: u32) -> bool {
    // One that has ended and wasn't waited for by its new parent has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn until_gone(pid: u32, folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while runs(pid) || folder.exists() {
        assert!(Instant::now() < deadline, "{pid} runs: {}, {} is there: {}", runs(pid), folder.display(), folder.exists());
        std::thread::yield_now();
    }
}

fn kibibytes(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_broker_comes_up_speaks_and_is_gone_afterwards() {
    let began = Instant::now();
    let kafka = Kafka::with(&[]).await;
    println!("up after {:.1} s, {}", began.elapsed().as_secs_f64(), kibibytes(kafka.pid()));
    let (pid, folder, address) = (kafka.pid(), kafka.folder().to_owned(), kafka.brokers().parse().unwrap());
    let produce = api_versions(address).into_iter().find(|api| api.0 == 0).unwrap();
    assert!(produce.2 >= 12, "{produce:?}: it is a Kafka 4");
    let topic = kafka.prefix();
    kafka.create_topic(&topic, 3).await;
    let known = kafka.metadata().await;
    assert_eq!(known.brokers, [0]);
    assert_eq!(known.partitions.iter().filter(|one| one.topic == topic).count(), 3);
    drop(kafka);
    assert!(!runs(pid) && !folder.exists());
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn a_broker_that_was_killed_or_stopped_comes_back_with_its_data_and_its_port() {
    let mut kafka = Kafka::with(&[]).await;
    let (brokers, topic) = (kafka.brokers().to_owned(), kafka.prefix());
    kafka.create_topic(&topic, 2).await;
    let has_it = async |kafka: &Kafka| kafka.metadata().await.partitions.iter().filter(|one| one.topic == topic).count() == 2;
    kafka.kill();
    kafka.start_again().await;
    assert!(has_it(&kafka).await);
    let began = Instant::now();
    kafka.stop().await;
    let stopped = began.elapsed();
    kafka.start_again().await;
    println!("stopped in {:.1} s, again in {:.1} s", stopped.as_secs_f64(), (began.elapsed() - stopped).as_secs_f64());
    assert!(has_it(&kafka).await);
    assert_eq!(kafka.brokers(), brokers);
}

#[tokio::test]
async fn three_brokers_come_up_and_one_that_is_killed_comes_back() {
    let began = Instant::now();
    let mut cluster = KafkaCluster::start().await;
    println!("three up after {:.1} s, {:?}", began.elapsed().as_secs_f64(), [0, 1, 2].map(|id| kibibytes(cluster.pid(id))));
    cluster.create_topic("t", 6).await;
    cluster.until_in_sync().await;
    let pid = cluster.pid(1);
    let began = Instant::now();
    cluster.kill(1);
    assert!(!runs(pid));
    cluster.until_in_sync().await;
    println!("two lead everything after {:.1} s", began.elapsed().as_secs_f64());
    let known = cluster.metadata().await;
    assert!(known.partitions.iter().all(|one| one.leader != 1 && !one.in_sync.contains(&1)), "{known:?}");
    let began = Instant::now();
    cluster.start_again(1).await;
    cluster.until_in_sync().await;
    println!("three in sync again after {:.1} s", began.elapsed().as_secs_f64());
    let known = cluster.metadata().await;
    assert!(known.partitions.iter().filter(|one| one.topic == "t").all(|one| one.in_sync.len() == 3), "{known:?}");
}

#[test]
fn a_test_process_that_is_killed_leaves_no_broker_and_no_folder_even_a_stopped_one() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "victim", "--nocapture"]).env(VICTIM, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut victim = command.spawn().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("broker ")).unwrap();
    let (pid, folder) = line.split_once("broker ").unwrap().1.split_once(' ').unwrap();
    let (pid, folder) = (pid.parse().unwrap(), PathBuf::from(folder));
    assert!(runs(pid) && folder.exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    until_gone(pid, &folder);
}

/// The process that the test above kills; in the ordinary run it does nothing.
#[tokio::test]
async fn victim() {
    if std::env::var_os(VICTIM).is_some() {
        let kafka = Kafka::with(&[]).await;
        kafka.pause();
        println!("broker {} {}", kafka.pid(), kafka.folder().display());
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn a_secured_broker_shows_its_certificate_and_lets_in_who_knows_the_password() {
    let kafka = Kafka::secured().await;
    let security = kafka.security();
    assert_eq!(authenticate(security, security.password).await, 0);
    let sasl_authentication_failed = 58;
    assert_eq!(authenticate(security, "wrong").await, sasl_authentication_failed);
    let topic = kafka.prefix();
    kafka.create_topic(&topic, 1).await;
    kafka.revoke(&topic).await;
    kafka.grant(&topic).await;
}

/// TLS, then SaslHandshake version 1 and SaslAuthenticate version 0, by hand: Kafka's error code.
async fn authenticate(security: &KafkaSecurity, password: &str) -> i16 {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&security.ca_file).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let address: SocketAddr = security.brokers.parse().unwrap();
    let connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut connection = TlsConnector::from(Arc::new(config)).connect(address.ip().into(), connection).await.unwrap();
    let plain = format!("\0{}\0{password}", security.user);
    let plain = [&u32::try_from(plain.len()).unwrap().to_be_bytes()[..], plain.as_bytes()].concat();
    let mut code = 0;
    for (key, version, body) in [(17_i16, 1_i16, &b"\0\x05PLAIN"[..]), (36, 0, &plain)] {
        let request = [&key.to_be_bytes()[..], &version.to_be_bytes(), &[0; 4], &(-1_i16).to_be_bytes(), body].concat();
        connection.write_u32(request.len().try_into().unwrap()).await.unwrap();
        connection.write_all(&request).await.unwrap();
        let mut answer = vec![0; connection.read_u32().await.unwrap().try_into().unwrap()];
        connection.read_exact(&mut answer).await.unwrap();
        code = i16::from_be_bytes(answer[4..6].try_into().unwrap());
    }
    code
}
