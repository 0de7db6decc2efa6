//! `metallic run`: what goes where, when it ends, what it says at the end.

use std::process::Stdio;

use crate::support::{binary, file, folder, metallic, metallic_with, text};

const PROMPT: &str = "Once upon a time";
/// What the embedded model says in f32, from the golden file beside its training scripts.
const GOLDEN: &str = ", there was a kind boy named Boris. He lived in a little hut by the woods.";

#[test]
fn greedy_text_is_the_golden_one_under_both_backends() {
    for backend in ["legacy", "graph", "auto"] {
        let args = ["run", "-p", PROMPT, "-n", "20", "--temp", "0", "--exact", "--sdpa-backend"];
        let run = metallic(&[&args[..], &[backend]].concat()).ok();
        assert!(run.stdout.starts_with(GOLDEN), "{backend}: {}", run.stdout);
    }
}

#[test]
fn stdout_carries_the_text_alone_and_stderr_one_line() {
    let run = metallic(&["run", "-p", PROMPT, "-n", "8", "--temp", "0"]).ok();
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    for part in [
        "prompt 4 tokens",
        "generated 8 tokens",
        "tok/s",
        "first token",
        "peak memory",
        "device cpu:0",
        "sdpa graph (attention_block fused: x6 auto: prefill",
        ", x42 auto: decode",
        "hits",
        "misses",
    ] {
        assert!(run.summary().contains(part), "no `{part}` in: {}", run.summary());
    }
    let echo = metallic(&["run", "-p", PROMPT, "-n", "8", "--temp", "0", "--echo"]).ok();
    assert_eq!(echo.stdout, format!("{PROMPT}{}", run.stdout));
}

#[test]
fn the_latency_profile_ends_with_a_table_of_what_each_op_took() {
    let args = ["run", "-p", PROMPT, "-n", "4", "--temp", "0", "--profile", "latency"];
    let run = metallic(&[&args[..], &["--segments", "off"]].concat()).ok();
    let rows: Vec<Vec<&str>> =
        run.stderr.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["op", "kernel", "calls"], "{}", run.stderr);
    let sdpa = rows.iter().find(|row| row[0] == "sdpa").expect("attention is timed");
    // A prompt and three more steps through each layer.
    let layers = metallic(&["inspect", "--json"]).ok().json()["layers"].as_u64();
    assert_eq!(sdpa[2].parse().ok(), layers.map(|layers| 4 * layers), "{}", run.stderr);
    let shares = rows[1..].iter().map(|row| row[5].trim_end_matches('%').parse::<f64>().unwrap());
    let (shares, rows) = (shares.sum::<f64>(), rows.len() as f64);
    assert!((shares - 100.0).abs() < 0.05 * rows, "{}", run.stderr);
    let plain = metallic(&args[..7]).ok();
    assert_eq!(plain.stdout, run.stdout);
}

#[test]
fn segments_are_asked_for_shown_and_follow_the_attention_backend() {
    let args = ["run", "-p", PROMPT, "-n", "20", "--temp", "0", "--exact", "--segments", "on"];
    for backend in ["legacy", "graph"] {
        let run = metallic(&[&args[..], &["--sdpa-backend", backend]].concat()).ok();
        assert!(run.stdout.starts_with(GOLDEN), "{backend}: {}", run.stdout);
        let attention = format!("sdpa {backend} (attention_block ");
        assert!(run.summary().contains(&attention), "{}", run.summary());
        assert!(run.summary().contains("mlp_block graph (fused"), "{}", run.summary());
        assert!(!run.summary().contains("sdpa none"), "{}", run.summary());
    }
    let json = metallic(&[&args[..], &["--backend", "legacy", "--json"]].concat()).ok().json();
    assert_eq!(json["segments"]["on"], true);
    assert_eq!(json["segments"]["reason"], "on by --segments");
    assert_eq!(json["segments"]["mlp_block"][0]["backend"], "legacy");
    let sdpa = json["sdpa"].as_array().unwrap();
    assert_eq!(sdpa.len(), 1, "{sdpa:?}");
    assert_eq!(
        (&sdpa[0]["op"], &sdpa[0]["backend"]),
        (&"attention_block".into(), &"legacy".into())
    );
    let required = ["--sdpa-backend", "auto", "--require-backend", "legacy"];
    metallic(&[&args[..], &required].concat())
        .fails(1, &["attention_block: backend legacy is required", "graph was selected"]);
    // The flag's twin turns them off, and -v says so.
    let twin = [("METALLIC_ARG_SEGMENTS", "off")];
    let off = metallic_with(&["run", "-p", "a", "-n", "1", "-v"], &twin, "").ok();
    assert!(off.stderr.contains("segments: off (from environment variable METALLIC_ARG_SEGMENTS)"));
    // Nobody asked: the CPU prefers them.
    let auto = metallic(&["run", "-p", "a", "-n", "1", "--json"]).ok().json();
    assert_eq!(auto["segments"]["on"], true);
    assert!(auto["segments"]["reason"].as_str().unwrap().starts_with("auto: "));
    metallic(&["run", "-p", "a", "--segments", "yes"]).fails(2, &["auto, on, off, step"]);
}

#[test]
fn a_seed_repeats_a_text() {
    let run = |seed: &str| metallic(&["run", "-p", PROMPT, "-n", "30", "-s", seed]).ok().stdout;
    assert_eq!(run("1"), run("1"));
    assert!((2..6).any(|seed| run(&seed.to_string()) != run("1")));
    let verbose = metallic(&["run", "-p", PROMPT, "-n", "1", "-v"]).ok();
    assert!(verbose.stderr.contains("top-k(40) -> top-p(0.95) -> min-p(0.05)"));
    assert!(verbose.stderr.contains("seed: "), "{}", verbose.stderr);
    assert!(verbose.stderr.contains("sdpa backend: auto (from the default)"));
}

#[test]
fn prompts_come_from_flags_files_and_standard_input() {
    let dir = folder();
    let path = file(&dir, "prompt.txt", format!("{PROMPT}\n"));
    let tail = ["-n", "8", "--temp", "0"];
    let expected = metallic(&[&["run", "-p", PROMPT], &tail[..]].concat()).ok().stdout;
    let from_file = metallic(&[&["run", "-f", text(&path)], &tail[..]].concat()).ok().stdout;
    let piped = metallic_with(&[&["run", "-p", "-"], &tail[..]].concat(), &[], PROMPT).ok().stdout;
    let twins = [
        ("METALLIC_ARG_PROMPT", PROMPT),
        ("METALLIC_ARG_N_PREDICT", "8"),
        ("METALLIC_ARG_TEMP", "0"),
    ];
    let from_env = metallic_with(&["run"], &twins, "").ok().stdout;
    assert_eq!([from_file, piped, from_env], [&expected; 3].map(String::clone));
}

#[test]
fn zero_tokens_process_the_prompt_and_minus_one_goes_to_the_end() {
    let none = metallic(&["run", "-p", PROMPT, "-n", "0"]).ok();
    assert_eq!(none.stdout, "");
    assert!(none.summary().contains("prompt 4 tokens"), "{}", none.summary());
    assert!(none.summary().contains("generated 0 tokens"), "{}", none.summary());

    let args = ["run", "-p", PROMPT, "-n", "-1", "--temp", "0", "--json"];
    let end = metallic(&args).ok().json();
    assert_eq!(end["stop"]["reason"], "end_of_text");
    let full = metallic(&[&args[..], &["--ignore-eos", "-c", "40"]].concat()).ok().json();
    assert_eq!(full["stop"]["reason"], "context_full");
    assert_eq!(full["prompt_tokens"], 4);
    // The last token needs no place of its own.
    assert_eq!(full["generated_tokens"], 37);
}

#[test]
fn stop_strings_and_biases_are_obeyed() {
    let args = ["run", "-p", PROMPT, "-n", "20", "--temp", "0", "--exact", "--json"];
    let stopped = metallic(&[&args[..], &["--stop", "nothing", "-r", " boy"]].concat()).ok().json();
    assert_eq!(stopped["text"], ", there was a kind");
    assert_eq!(stopped["stop"]["reason"], "stop_string");
    assert_eq!(stopped["stop"]["detail"], " boy");
    // Token 11 is the comma.
    let banned = metallic(&[&args[..], &["--logit-bias", "11-inf"]].concat()).ok().json();
    assert!(!banned["text"].as_str().unwrap().starts_with(','));
}

#[test]
fn short_flags_of_several_letters_work() {
    let plain = metallic(&["run", "-p", PROMPT, "-n", "12", "--temp", "0", "--exact"]).ok();
    for cache in ["f32", "bf16", "q8_0"] {
        let args = ["run", "-p", PROMPT, "-n", "12", "--temp", "0", "--exact", "-ub", "2"];
        let run = metallic(&[&args[..], &["-ctk", cache, "-ctv", cache]].concat()).ok();
        assert_eq!(run.stdout, plain.stdout, "{cache}");
    }
}

#[test]
fn the_chat_template_is_applied_on_demand() {
    let question = "Tell me a story about a dog named Rex.";
    let run = |extra: &[&str]| {
        let args = ["run", "-p", question, "-n", "12", "--temp", "0", "--json"];
        metallic(&[&args[..], extra].concat()).ok().json()
    };
    assert_ne!(run(&[])["prompt_ids"], run(&["--chat"])["prompt_ids"]);
    assert!(run(&["--chat"])["text"].as_str().unwrap().contains("Rex"));
    assert_ne!(run(&["--chat"])["prompt_ids"], run(&["--system", "Be brief."])["prompt_ids"]);
}

#[test]
fn metrics_are_json_lines_or_lines_for_people() {
    let dir = folder();
    let path = dir.path().join("events.jsonl");
    metallic(&["run", "-p", PROMPT, "-n", "4", "--metrics", text(&path)]).ok();
    let events: Vec<serde_json::Value> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for name in [
        "KernelBackendSelected",
        "ResourceCacheAccess",
        "ResourceCacheSummary",
        "PromptProcessed",
        "TokenGenerated",
        "MemoryUsage",
    ] {
        assert!(events.iter().any(|event| event["event"] == name), "no {name}");
    }
    let console = metallic(&["run", "-p", PROMPT, "-n", "1", "--metrics", "-"]).ok();
    assert!(
        console.stderr.contains("KernelBackendSelected op=\"attention_block\""),
        "{}",
        console.stderr
    );
}

#[test]
fn a_rollout_keeps_the_same_request_on_the_same_side() {
    let ran = |share: &str, key: &str| {
        let flags = ["run", "-p", PROMPT, "-n", "2", "--metrics", "-", "--rollout-key", key];
        let run = metallic(&[&flags[..], &["--sdpa-rollout", share]].concat()).ok();
        let decided = run.stderr.lines().find(|line| line.contains("RolloutDecided"));
        assert!(decided.is_some(), "{}", run.stderr);
        run.stderr.contains("backend=\"legacy\" variant=\"composed\" reason=\"rollout: graph for")
    };
    assert!(ran("0", "a") && !ran("100%", "a"));
    let kept_back: Vec<bool> = (0..12).map(|i| ran("50", &format!("request {i}"))).collect();
    assert!(kept_back.contains(&true) && kept_back.contains(&false), "{kept_back:?}");
    assert_eq!(ran("50", "request 3"), kept_back[3]);
    metallic(&["run", "-p", PROMPT, "--sdpa-rollout", "150"]).fails(2, &["from 0 to 100"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_run_silently() {
    let mut command = binary();
    command.args(["run", "-p", PROMPT, "-n", "400", "--ignore-eos"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_token_alone_has_no_rate() {
    let run = metallic(&["run", "-p", "Once", "-n", "1"]).ok();
    assert!(run.summary().starts_with("prompt 1 token, "), "{}", run.summary());
    assert!(run.summary().contains("| generated 1 token |"), "{}", run.summary());
}
