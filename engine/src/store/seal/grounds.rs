//! What a conclusion rests on, and who rests on what.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::super::memo::Stamp;

/// Who rests on a file: one task or several, by numbers that whoever seals gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bearer(pub(super) u32);

impl Bearer {
    /// The answer as a whole.
    pub const ALL: Self = Self(u32::MAX);
    /// Nothing but a warning, so it is believed however young it is: whoever finds a helper of the store damaged says
    /// so, which only somebody who looks can.
    pub const WARNING: Self = Self(u32::MAX - 1);
    /// From here on, sets.
    const SETS: u32 = 1 << 31;

    /// The task of this number, below 2^31.
    pub fn task(number: u32) -> Self {
        debug_assert!(number < Self::SETS);
        Self(number)
    }

    /// Of what was read from a file: neither one task nor a set that is there.
    pub(super) fn is_known(self, sets: &Sets) -> bool {
        let set = self.0.checked_sub(Self::SETS);
        self.is_special() || set.is_none_or(|set| (set as usize) < sets.all.len())
    }

    fn is_special(self) -> bool {
        self == Self::ALL || self == Self::WARNING
    }
}

/// Sets of tasks, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sets {
    all: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, u32>,
}

impl Sets {
    /// `tasks` in ascending order, each once.
    pub fn bearer(&mut self, tasks: Vec<u32>) -> Bearer {
        if let [task] = tasks[..] {
            return Bearer::task(task);
        }
        let next = self.numbers.len() as u32;
        let number = *self.numbers.entry(tasks).or_insert_with_key(|tasks| {
            self.all.push(tasks.clone());
            next
        });
        Bearer(Bearer::SETS + number)
    }

    /// The tasks of a bearer; none of those that are not tasks.
    pub fn tasks<'a>(&'a self, bearer: &'a Bearer) -> &'a [u32] {
        match bearer.0.checked_sub(Bearer::SETS) {
            _ if bearer.is_special() => &[],
            None => std::slice::from_ref(&bearer.0),
            Some(set) => &self.all[set as usize],
        }
    }

    /// A bearer of other sets, as it is called here.
    pub fn adopt(&mut self, bearer: Bearer, of: &Self) -> Bearer {
        match of.tasks(&bearer) {
            [] | [_] => bearer,
            tasks => self.bearer(tasks.to_vec()),
        }
    }

    /// All those who rest on the same file, for one reason or the other.
    pub fn union(&mut self, bearers: impl IntoIterator<Item = Bearer>) -> Bearer {
        let mut tasks = Vec::new();
        for bearer in bearers {
            if bearer == Bearer::ALL {
                return bearer;
            }
            tasks.extend(self.tasks(&bearer));
        }
        if tasks.is_empty() {
            return Bearer::WARNING;
        }
        tasks.sort_unstable();
        tasks.dedup();
        self.bearer(tasks)
    }

    pub fn all(&self) -> &[Vec<u32>] {
        &self.all
    }
}

/// What a conclusion rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grounds {
    /// Files and directories by the directory that they are looked up in.
    pub(super) paths: BTreeMap<PathBuf, Vec<Looked>>,
    pub(super) sets: Sets,
    /// Environment variables and what they held.
    pub env: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Looked {
    pub name: PathBuf,
    /// Links are followed.
    pub follows: bool,
    /// How it looked when it was read, where somebody noted that.
    pub then: Option<Stamp>,
    pub bearer: Bearer,
}

impl Grounds {
    /// Several tasks as one bearer.
    pub fn tasks(&mut self, numbers: impl IntoIterator<Item = u32>) -> Bearer {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        self.sets.bearer(numbers)
    }

    /// Something that is looked up as `name` in `directory`, and is what its links lead to. `then` is how it looked when
    /// it was read: if it does not any more, nothing is known of it.
    pub fn followed(
        &mut self,
        bearer: Bearer,
        directory: &Path,
        name: impl Into<PathBuf>,
        then: Option<Stamp>,
    ) {
        self.add(directory, name.into(), true, then, bearer);
    }

    /// The same for something that is not a link.
    pub fn own(
        &mut self,
        bearer: Bearer,
        directory: &Path,
        name: impl Into<PathBuf>,
        then: Option<Stamp>,
    ) {
        self.add(directory, name.into(), false, then, bearer);
    }

    /// The same for a file by its path alone.
    pub fn own_path(&mut self, bearer: Bearer, path: &Path, then: Option<Stamp>) {
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
            self.own(bearer, directory, name, then);
        }
    }

    fn add(
        &mut self,
        directory: &Path,
        name: PathBuf,
        follows: bool,
        then: Option<Stamp>,
        bearer: Bearer,
    ) {
        // A lookup of the directory itself.
        let name = match name.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => name,
        };
        let looked = Looked {
            name,
            follows,
            then,
            bearer,
        };
        match self.paths.get_mut(directory) {
            Some(names) => names.push(looked),
            None => {
                self.paths.insert(directory.to_owned(), vec![looked]);
            }
        }
    }
}
