//! The README's first steps, pasted block by block into a shell, as a newcomer does.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::Duration};

use pushline_testkit::{PATIENCE, folder, get};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::{Instant, sleep, timeout},
};

use crate::BINARY;

/// The shell blocks (```` ```sh ````) of a section.
fn blocks(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let section = readme.split(&format!("\n## {section}\n")).nth(1).expect("the section is there").split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").expect("a block ends").0.to_owned()).collect()
}

/// `cargo` that has built already, and the binary where cargo puts it.
fn pretend_to_have_built(dir: &Path, admin: u16) {
    let script = |path: &str, text: String| {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "bin/cargo",
        format!("#!/bin/sh\ncase \"$*\" in 'run --release -- demo') exec {BINARY} demo;; 'build --release') ;; *) exit 9;; esac\n"),
    );
    let elsewhere = format!("case $1 in dead-letters) set -- \"$@\" --admin 127.0.0.1:{admin};; esac");
    script("target/release/pushline", format!("#!/bin/sh\n{elsewhere}\nexec {BINARY} \"$@\"\n"));
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).unwrap().port()
}

/// Pastes blocks into one shell. Returns what they print. The README's ports are replaced by free ones.
async fn paste(blocks: &[String]) -> String {
    let dir = folder();
    let [mqtt, admin, receiver] = [free_port(), free_port(), free_port()];
    pretend_to_have_built(dir.path(), admin);
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = tokio::process::Command::from(pushline_testkit::command("bash"));
    command.arg("-e").current_dir(dir.path()).env("PATH", path).env("PUSHLINE_ADMIN__ADDRESS", format!("127.0.0.1:{admin}"));
    // What the shell leaves behind ends with its group.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = command.spawn().unwrap();
    let group = rustix::process::Pid::from_raw(i32::try_from(shell.id().unwrap()).unwrap()).unwrap();
    let (mut input, output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
    let (mut lines, mut printed) = (BufReader::new(output).lines(), String::new());
    for block in blocks {
        let block = block
            .replace("0.0.0.0", "127.0.0.1")
            .replace("1883", &mqtt.to_string())
            .replace("9090", &admin.to_string())
            .replace("8080", &receiver.to_string());
        input.write_all(format!("{block}\necho 'the block is done'\n").as_bytes()).await.unwrap();
        let done = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line == "the block is done" {
                    return true;
                }
                printed.push_str(&line);
                printed.push('\n');
            }
            false
        };
        let is_done = timeout(PATIENCE, done).await.expect("the block ends");
        if !is_done {
            let stderr = shell.wait_with_output().await.unwrap().stderr;
            panic!("{block}\nfailed:\n{printed}{}", String::from_utf8_lossy(&stderr));
        }
        if block.contains("pushline run") {
            let deadline = Instant::now() + PATIENCE;
            while get(([127, 0, 0, 1], admin).into(), "/readyz").await.ok().is_none_or(|(status, _)| status != 200) {
                assert!(Instant::now() < deadline, "it isn't ready");
                sleep(Duration::from_millis(20)).await;
            }
        }
        // A receiver that a block has started prints what was published a second later.
        if block.contains("mosquitto_pub") {
            let pushed = async {
                while !printed.contains("\"Payload\":\"ABC\"") {
                    printed.push_str(&lines.next_line().await.unwrap().expect("the receiver runs"));
                }
            };
            timeout(PATIENCE, pushed).await.expect("the receiver prints the push");
        }
    }
    drop(input);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    drop(shell.wait().await);
    printed
}

#[tokio::test]
async fn the_readmes_demo_works_when_it_is_pasted() {
    let blocks = blocks("See it work");
    assert_eq!(blocks.len(), 1);
    let printed = paste(&blocks).await;
    assert!(printed.contains("Nothing is missing."), "{printed}");
}

#[tokio::test]
async fn the_readmes_steps_to_run_it_work_when_they_are_pasted() {
    let blocks = blocks("Run it");
    let all = blocks.concat();
    for step in ["cargo build --release", "pushline check", "pushline run", "mosquitto_pub", "dead-letters list", "dead-letters replay"] {
        assert!(all.contains(step), "no block has {step:?}");
    }
    let printed = paste(&blocks).await;
    assert!(printed.contains("msg_") && printed.contains("1_area: Tokyo"), "{printed}");
}
