//! The log of a build: its name, its directory, and every event as a line of `events.jsonl`.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::Serialize;

use crate::error::{Doing, Error};
use crate::event::{BuildEvent, Events};
use crate::store::Store;

/// Where a build writes what it does.
#[derive(Debug, Clone)]
pub struct Journal {
    store: Store,
    /// Name of the build: its time (UTC), then its process.
    pub build: String,
    directory: PathBuf,
    is_kept: bool,
}

/// Builds whose logs are kept.
const KEPT: usize = 200;

impl Journal {
    /// The journal of a build that begins now, or `continues` another. One that finds everything done leaves none
    /// (`is_kept`).
    pub fn open(store: &Store, is_kept: bool, continues: Option<&str>) -> Result<Self, Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let build = continues.map_or_else(
            || {
                let (second, rest) = (utc(now.as_secs()), now.subsec_millis());
                format!("{second}.{rest:03}-{}", std::process::id())
            },
            str::to_owned,
        );
        let directory = store.logs(&build);
        if is_kept {
            let builds = store.builds();
            let old = &builds[..builds.len().saturating_sub(KEPT)];
            let root = store.below();
            (old.iter()).for_each(|build| root.remove_tree(&store.logs(build)));
            root.create_dir_all(&directory)
                .doing("create", &directory)?;
        }
        Ok(Self {
            store: store.clone(),
            build,
            directory,
            is_kept,
        })
    }

    /// Where the attempts of a task write their log.
    pub fn task_log(&self, task: &str) -> PathBuf {
        self.directory.join(format!("{task}.log"))
    }

    /// Events that are written down on their way to `consumer`. A log that cannot be written stops nothing.
    pub fn tee(&self, consumer: Events) -> Result<Events, Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            at_ms: u128,
            #[serde(flatten)]
            event: &'a BuildEvent,
        }
        if !self.is_kept {
            return Ok(consumer);
        }
        let path = self.directory.join("events.jsonl");
        let file = self.store.below().open_or_create(&path, OFlags::APPEND);
        let file = file.doing("write", &path)?;
        let file = Mutex::new(BufWriter::new(file));
        let begun = Instant::now();
        Ok(Events::new(move |event| {
            let line = Line {
                at_ms: begun.elapsed().as_millis(),
                event: &event,
            };
            if let (Ok(mut line), Ok(mut file)) = (serde_json::to_vec(&line), file.lock()) {
                line.push(b'\n');
                let _ = file.write_all(&line);
                // Of what was done before there may be ten thousand in a row, and nobody waits for one of them.
                if !matches!(event, BuildEvent::Hit { .. }) {
                    let _ = file.flush();
                }
            }
            consumer.send(event);
        }))
    }
}

/// `20260131T235959` of seconds since 1970 (days to civil date: Hinnant, "chrono-compatible low-level date
/// algorithms"). A calendar crate would serve this one line.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time() {
        assert_eq!(utc(0), "19700101T000000");
        assert_eq!(utc(951_782_399), "20000228T235959");
        assert_eq!(utc(951_782_400), "20000229T000000");
        assert_eq!(utc(1_795_416_169), "20261123T064249");
    }
}
