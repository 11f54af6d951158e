//! The simulator, judged by others: boto3 drives it, botocore's models are held against every answer and request, moto
//! is asked the same, and a real guest boots in it. The scripts are in `python/`; each prints what it saw.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a panic is a test's verdict")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// Says loudly that a test was not run. With `REPLICATE_NO_SKIP=1` a skip is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("REPLICATE_NO_SKIP").is_none(), "nothing may be skipped here: {why}");
    println!("SKIPPED: {why}");
}

/// Runs a script against the program that was built with this test.
fn run(script: &str, arguments: &[&str]) {
    let python = Command::new(folder().join("python.sh")).output().expect("python.sh");
    if !python.status.success() {
        let why = String::from_utf8_lossy(&python.stderr);
        return skip(&format!("no Python with boto3: {}", why.lines().last().unwrap_or("it cannot be had here")));
    }
    let python = String::from_utf8(python.stdout).unwrap();
    let output = Command::new(python.trim())
        .arg(folder().join(script))
        .args(arguments)
        .env("CLOUDSIM", env!("CARGO_BIN_EXE_cloudsim"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("the script");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{script}:\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_image_pipeline_fits_the_providers_models() {
    run("script.py", &[]);
}

#[test]
fn every_ugly_fact_is_there() {
    run("facts.py", &[]);
}

#[test]
fn every_fault_is_felt_and_logged() {
    run("faults.py", &[]);
}

#[test]
fn moto_answers_the_same_where_it_can_be_trusted() {
    run("moto_compare.py", &[]);
}

#[test]
fn azure_is_what_its_own_sdk_expects() {
    run("azure_facts.py", &[]);
}

#[test]
fn the_judge_of_azures_requests_sees_mistakes() {
    run("judge_sees.py", &[]);
}

/// The folder of the test guest, or why there is none.
fn guest() -> Result<String, String> {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        return Err("qemu-system-x86_64 is not installed".to_owned());
    }
    let built = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/build.sh")).output().unwrap();
    if !built.status.success() {
        return Err(format!("no guest: {}", String::from_utf8_lossy(&built.stderr).trim()));
    }
    Ok(String::from_utf8(built.stdout).unwrap().trim().to_owned())
}

#[test]
fn instances_boot_and_are_captured_while_they_write() {
    match guest() {
        Ok(guest) => run("boot.py", &[&guest]),
        Err(why) => skip(&why),
    }
}

#[test]
fn azure_machines_boot_and_are_captured_while_they_write() {
    match guest() {
        Ok(guest) => run("azure_boot.py", &[&guest]),
        Err(why) => skip(&why),
    }
}
