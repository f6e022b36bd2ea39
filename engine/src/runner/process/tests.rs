//! Attempts with real processes.

use super::*;
use crate::runner::Process;
use tokio::sync::mpsc::channel;

struct World {
    directory: tempfile::TempDir,
    stop: watch::Sender<Stop>,
}

impl World {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            stop: watch::Sender::new(Stop::No),
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("logs/task.log")
    }

    fn shell(&self, script: &str) -> Launch {
        Launch {
            argv: ["sh", "-c", script].map(OsString::from).to_vec(),
            directory: self.directory.path().to_owned(),
            environment: BTreeMap::new(),
            stdin: Stdin::Null,
            speaks: true,
            log: self.log(),
            timeout: None,
            grace: Duration::from_secs(10),
            inherited: Vec::new(),
            mark: format!("test-{}", self.directory.path().display()),
        }
    }

    async fn run(&self, launch: Launch) -> (Ended, Vec<Event>) {
        let (sender, mut receiver) = channel(EVENTS_AT_ONCE);
        let ended = run(launch, sender, self.stop.subscribe()).await;
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        (ended, events)
    }

    async fn class(&self, launch: Launch) -> Option<FailureClass> {
        self.run(launch)
            .await
            .0
            .failure
            .map(|failure| failure.class)
    }
}

#[tokio::test]
async fn sorts_events_from_log() {
    let world = World::new();
    let script =
        r#"echo plain; echo '{"event":"note","text":"hi"}'; echo '{"event":"odd"}'; echo err >&2"#;
    let (ended, events) = world.run(world.shell(script)).await;
    assert_eq!(ended.failure, None);
    let text = "hi".to_owned();
    assert_eq!(events, [Event::Note { text }]);
    let log = std::fs::read_to_string(world.log()).unwrap();
    for line in ["plain", r#"{"event":"odd"}"#, "err"] {
        assert!(log.contains(line), "{log}");
    }
    assert_eq!(tail(&world.log(), 1).lines().count(), 1);
}

#[tokio::test]
async fn a_child_has_the_signals_of_a_fresh_process() {
    let world = World::new();
    let (ended, _) = world
        .run(world.shell("grep -E 'SigBlk|SigIgn' /proc/self/status"))
        .await;
    assert_eq!(ended.failure, None);
    let log = std::fs::read_to_string(world.log()).unwrap();
    let set = |name: &str| {
        let digits = log.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(digits.unwrap().trim(), 16).unwrap()
    };
    assert_eq!(set("SigBlk:"), 0, "{log}");
    assert_eq!(set("SigIgn:") & 1 << (libc::SIGPIPE - 1), 0, "{log}");
}

#[tokio::test]
async fn a_script_without_interpreter_is_explained() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let script = world.directory.path().join("script");
    std::fs::write(&script, "echo hi\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut launch = world.shell("");
    launch.argv = vec![script.into_os_string()];
    let failure = world.run(launch).await.0.failure.unwrap();
    assert!(
        failure.message.contains("Exec format error"),
        "{}",
        failure.message
    );
    assert!(failure.help.contains("#!"), "{}", failure.help);
}

#[tokio::test]
async fn explains_every_end() {
    use FailureClass::{Bug, Environment, Input, Resources};
    let world = World::new();
    let stated = r#"echo '{"event":"failed","class":"input","message":"m","help":"h"}'; exit 1"#;
    let stated_but_0 = r#"echo '{"event":"failed","class":"input","message":"m","help":"h"}'"#;
    for (script, class) in [
        ("exit 0", None),
        ("exit 3", Some(Environment)),
        ("exit 101", Some(Bug)),
        ("kill -9 $$", Some(Resources)),
        ("kill -SEGV $$", Some(Bug)),
        (stated, Some(Input)),
        (stated_but_0, Some(Input)),
    ] {
        assert_eq!(world.class(world.shell(script)).await, class, "{script}");
    }
    let mut missing = world.shell("");
    missing.argv = vec!["/nonexistent/program".into()];
    let failure = world.run(missing).await.0.failure.unwrap();
    assert!(
        failure.message.contains("/nonexistent/program"),
        "{failure}"
    );
}

#[tokio::test]
async fn environment_is_cleared() {
    let world = World::new();
    let mut launch = world.shell("env");
    let value = Some(OsString::from("seen"));
    launch.environment.insert("DECLARED".to_owned(), value);
    world.run(launch).await;
    let log = std::fs::read_to_string(world.log()).unwrap();
    let names: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    assert!(
        names.contains(&"DECLARED") && names.contains(&"PATH"),
        "{log}"
    );
    assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{log}");
}

#[tokio::test]
async fn a_time_limit_ends_the_whole_group() {
    let world = World::new();
    let mut launch = world.shell("trap '' TERM; sleep 60 & echo $! > pid; wait; wait");
    launch.timeout = Some(Duration::from_millis(200));
    launch.grace = Duration::from_millis(100);
    assert_eq!(world.class(launch).await, Some(FailureClass::Timeout));
    let pid = std::fs::read_to_string(world.directory.path().join("pid")).unwrap();
    assert_eq!(Process::find(pid.trim().parse().unwrap()), None);
}

#[tokio::test]
async fn leaves_when_asked_and_takes_its_grandchildren_along() {
    let world = World::new();
    let launch =
        world.shell("sleep 60 & echo $! > pid; echo '{\"event\":\"checkpoint\",\"step\":1}'; wait");
    let (sender, mut events) = channel(EVENTS_AT_ONCE);
    let running = run(launch, sender, world.stop.subscribe());
    let stopping = async {
        events.recv().await;
        world.stop.send_replace(Stop::Leave);
    };
    let (ended, ()) = tokio::join!(running, stopping);
    assert_eq!(ended.failure.unwrap().class, FailureClass::Interrupted);
    let pid = std::fs::read_to_string(world.directory.path().join("pid")).unwrap();
    assert_eq!(Process::find(pid.trim().parse().unwrap()), None);
}

#[tokio::test]
async fn the_lock_lasts_as_long_as_the_last_process() {
    let world = World::new();
    let path = world.directory.path().join("lock");
    let lock = File::create(&path).unwrap();
    lock.lock().unwrap();
    let mut launch = world.shell("echo '{\"event\":\"checkpoint\",\"step\":1}'; sleep 60");
    launch.inherited = vec![lock.into()];
    let (sender, mut events) = channel(EVENTS_AT_ONCE);
    let running = run(launch, sender, world.stop.subscribe());
    let looking = async {
        events.recv().await;
        let other = File::open(&path).unwrap();
        assert!(other.try_lock().is_err(), "the child holds it");
        world.stop.send_replace(Stop::Kill);
    };
    tokio::join!(running, looking);
    assert!(File::open(&path).unwrap().try_lock().is_ok());
}

#[tokio::test]
async fn a_want_of_memory_and_limits_are_told_as_such() {
    let world = World::new();
    for script in [
        "echo 'memory allocation of 8 bytes failed' >&2; kill -ABRT $$",
        "echo MemoryError >&2; exit 1",
        "kill -XCPU $$",
        "kill -XFSZ $$",
    ] {
        let ended = world.run(world.shell(script)).await.0;
        let failure = ended.failure.unwrap();
        assert_eq!(failure.class, FailureClass::Resources, "{script}");
        assert!(
            failure.help.contains("ulimit"),
            "{script}: {}",
            failure.help
        );
        std::fs::remove_file(world.log()).unwrap();
    }
    let class = world.class(world.shell("kill -ABRT $$")).await;
    assert_eq!(class, Some(FailureClass::Bug));
}

#[tokio::test]
async fn notes_have_an_end_and_the_attempt_waits_for_the_build() {
    let world = World::new();
    let note = r#"{"event":"note","text":"0123456789012345678901234567890123456789"}"#;
    let script =
        format!("yes '{note}' | head -n 500000; echo '{{\"event\":\"part\",\"index\":7}}'");
    let (sender, mut receiver) = channel(EVENTS_AT_ONCE);
    let running = run(world.shell(&script), sender, world.stop.subscribe());
    let counting = async {
        let (mut notes, mut last) = (0, None);
        while let Some(event) = receiver.recv().await {
            notes += usize::from(matches!(event, Event::Note { .. }));
            last = Some(event);
        }
        (notes, last)
    };
    let (ended, (notes, last)) = tokio::join!(running, counting);
    assert_eq!(ended.failure, None);
    assert!((100_000..400_000).contains(&notes), "{notes}");
    assert_eq!(last, Some(Event::Part { index: 7 }));
}
