//! `serve` as its user sees it.

use std::{
    fs,
    io::Read,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

mod common;

const SOCKETS: [&str; 4] = ["iommu.sock", "nic0.sock", "nic1.sock", "disk.sock"];

fn start(folder: &Path, args: &[&str]) -> Child {
    let program = assert_cmd::cargo::cargo_bin("iommu-bench");
    let mut command = Command::new(program);
    command.args(["serve", "--socket-dir"]).arg(folder).args(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    while !SOCKETS.iter().all(|name| folder.join(name).exists()) {
        if child.try_wait().unwrap().is_some() {
            let said = child.wait_with_output().unwrap().stderr;
            panic!("it ended: {}", String::from_utf8_lossy(&said));
        }
        assert!(since.elapsed() < Duration::from_secs(60), "the sockets appear");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn end(child: Child) -> (i32, String, String) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn it_serves_until_ctrl_c_and_leaves_no_socket() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("new/folder");
    let child = start(&folder, &["--json", "--interval", "20ms"]);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700, "for this user only");
    // A client that is none: hung up on, and counted.
    let mut client = UnixStream::connect(folder.join("nic0.sock")).unwrap();
    std::io::Write::write_all(&mut client, &[0xff; 64]).unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    std::thread::sleep(Duration::from_millis(200));
    let (code, stdout, stderr) = end(child);
    assert_eq!(code, 0, "{stderr}");
    assert!(SOCKETS.iter().all(|name| !folder.join(name).exists()));
    let objects: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = objects.last().unwrap();
    assert!(objects.len() > 1 && last["final"] == true && objects[0]["final"] == false);
    assert_eq!(last["schema"], "iommu-bench/serve/1");
    assert_eq!(
        (&last["sockets"]["nic0"]["connections"], &last["sockets"]["nic0"]["hung_up"]),
        (&1.into(), &1.into())
    );
    assert_eq!(last["sockets"]["disk"]["connections"], 0);
    assert!(
        stderr.contains("qemu-system-x86_64") && stderr.contains("0 connections")
            || stderr.contains("1 connections")
    );
}

#[test]
fn the_command_it_prints_is_complete_and_for_a_shell() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("with space");
    let shown = common::outcome(&["serve", "--socket-dir", folder.to_str().unwrap(), "--print-qemu"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    // A shell's words of it, one a line.
    let script = shown.stdout.replacen("qemu-system-x86_64", "printf '%s\\n'", 1);
    let words = Command::new("sh").args(["-c", &script]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    let words: Vec<&str> = words.lines().collect();
    let devices = words.iter().filter_map(|word| serde_json::from_str::<Value>(word).ok());
    let sockets: Vec<String> =
        devices.map(|device| device["socket"]["path"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        sockets,
        SOCKETS.map(|name| fs::canonicalize(&folder).unwrap().join(name).display().to_string())
    );
    let table = words.iter().find_map(|word| word.strip_prefix("file=")).unwrap();
    assert_eq!(&fs::read(table).unwrap()[..4], b"VIOT");
    assert!(!folder.join("iommu.sock").exists(), "nothing was served");
}

#[test]
fn what_cannot_be_is_said() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let child = start(folder, &[]);
    let second = common::outcome(&["serve", "--socket-dir", folder.to_str().unwrap()]);
    assert_eq!(second.code, 4);
    assert!(second.stderr.contains("in use by another server"), "{}", second.stderr);
    assert_eq!(end(child).0, 0);
    let file = folder.join("file");
    fs::write(&file, "x").unwrap();
    let refused = common::outcome(&["serve", "--socket-dir", file.to_str().unwrap()]);
    assert!(refused.code == 4 && refused.stderr.contains("--socket-dir"), "{}", refused.stderr);
    for args in
        [&["serve"][..], &["serve", "--socket-dir", "x", "--disk", "0"], &["serve", "--doorbell", "maybe"]]
    {
        assert_eq!(common::outcome(args).code, 2, "{args:?}");
    }
}
