//! A Kafka for trying things out: on 127.0.0.1:9092 or another port, until Ctrl-C. Its data stays in the target folder.

use std::process::ExitCode;

use pushline_testkit::{KAFKA_VERSION, Kafka};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(std::env::args().nth(1)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kafka: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(port: Option<String>) -> Result<(), String> {
    let port = port.map_or(Ok(9092), |port| port.parse().map_err(|_| format!("{port} isn't a port")))?;
    let binary = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = binary.ancestors().nth(2).ok_or("this program lies in no target folder")?.join("kafka");
    println!("starting Apache Kafka {KAFKA_VERSION}; its data is in {}", folder.display());
    let mut kafka = Kafka::keep(&folder, port).await?;
    println!("ready on {} until Ctrl-C", kafka.brokers());
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(|error| error.to_string())?,
        () = kafka.ended() => return Err(format!("it has ended:\n{}", kafka.log())),
    }
    kafka.stop().await;
    Ok(())
}
