//! A slice: the few tasks of a project that rest on what moved since it was settled. They are looked at, and built,
//! without the others; if they give what they gave, the others need not be looked at either.
//!
//! What a task is, is read from a book that the seal has beside it. A slice holds the tasks that are loose and, as if
//! they had no inputs, the tasks that those read from, which have their receipts. Whatever is not simple (temporary
//! content, more than one task to run, damage) is left to a look at everything: `None`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Project, Question};
use crate::artifact::{is_component, is_relative};
use crate::build::{self, Beside, Options, Outcome, Prepared};
use crate::digest::Digest;
use crate::error::Error;
use crate::event::{Events, Totals};
use crate::graph::{Executor, Graph, Origin, Source, SourceId, Task, TaskId};
use crate::kananafile::{Kananafile, Resources};
use crate::plan::{Known, Plan, Status, outlook};
use crate::receipt::Receipt;
use crate::runner::Stop;
use crate::store::{Book, Grounds, Moved, Store};
use crate::workspace::Workspace;

/// Part of a project.
pub struct Slice {
    project: Project,
    question: Question,
    moved: Moved,
    notes: Notes,
    book: Arc<Book>,
    /// The number of each task in the whole project.
    numbers: Vec<u32>,
    /// Tasks to be looked at, with what they gave.
    loose: BTreeMap<TaskId, Arc<Receipt>>,
    /// What the tasks gave that they read from.
    given: BTreeMap<TaskId, Arc<Receipt>>,
    /// Tasks that the goals need in all.
    total: usize,
}

/// What a seal notes for the case that a little moves.
pub(super) struct Notes {
    book: Digest,
    /// Of what every task gave, by its number.
    keys: Vec<Digest>,
}

/// The first page of a book.
#[derive(Serialize, Deserialize)]
struct Title {
    /// Tasks that the goals need.
    tasks: usize,
    resources: Resources,
}

/// The page of a task.
#[derive(Serialize, Deserialize)]
struct Page<'a> {
    task: std::borrow::Cow<'a, Task>,
    sources: BTreeMap<u32, Source>,
    /// The tasks that read from it, of those that the goals need.
    readers: Vec<TaskId>,
}

impl Notes {
    /// Writes the book of a project with nothing to do.
    pub fn leave(
        project: &Project,
        question: &Question,
        prepared: &Prepared,
    ) -> Result<Self, Error> {
        let graph = project.graph();
        let mut keys = vec![Digest::from_bytes([0; 32]); graph.len()];
        for (id, status) in &prepared.plan.tasks {
            if let Some(receipt) = status.done() {
                keys[id.index()] = receipt.key;
            }
        }
        let title = Title {
            tasks: prepared.plan.tasks.len(),
            resources: project.kananafile.resources.clone(),
        };
        let title = std::iter::once(serde_json::to_vec(&title));
        let pages = graph.tasks().map(|(id, task)| {
            let mut readers = graph.dependents(id).to_vec();
            readers.retain(|reader| prepared.plan.status(*reader).is_some());
            let sources = graph.sources_of(&[id]).into_iter();
            serde_json::to_vec(&Page {
                task: std::borrow::Cow::Borrowed(task),
                sources: sources.map(|id| (id.0, graph.source(id).clone())).collect(),
                readers,
            })
        });
        // A page that cannot be written is empty, and nobody can read it.
        let pages = title.chain(pages).map(Result::unwrap_or_default);
        let book = project.store.write_book(&question.digest, pages)?;
        Ok(Self { book, keys })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let digests = std::iter::once(&self.book).chain(&self.keys);
        digests.flat_map(|digest| *digest.as_bytes()).collect()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (digests, []) = bytes.as_chunks::<32>() else {
            return None;
        };
        let mut digests = digests.iter().copied().map(Digest::from_bytes);
        Some(Self {
            book: digests.next()?,
            keys: digests.collect(),
        })
    }
}

/// The page of the task of this number.
fn page(book: &Book, number: u32) -> Option<Page<'static>> {
    serde_json::from_slice(&book.page(number as usize + 1)?).ok()
}

impl Slice {
    /// The slice of what has moved.
    pub fn cut(workspace: &Workspace, question: Question, moved: Moved) -> Option<Self> {
        let store = Store::of(workspace);
        let notes = Notes::parse(&moved.notes)?;
        let book = store.book(&question.digest, &notes.book)?;
        let title: Title = serde_json::from_slice(&book.page(0)?).ok()?;
        let pages = pages(&book, &moved.tasks)?;
        let numbers: Vec<u32> = pages.keys().copied().collect();
        let graph = Arc::new(graph(pages)?);
        let (mut loose, mut given) = (BTreeMap::new(), BTreeMap::new());
        for ((id, task), number) in graph.tasks().zip(&numbers) {
            let receipt = store.receipt(notes.keys.get(*number as usize)?).ok()??;
            let mut ports = task.outputs.iter();
            let is_whole = ports.all(|port| receipt.outputs.contains_key(&port.name));
            if task.temporary || receipt.dropped || !is_whole {
                return None;
            }
            match moved.tasks.contains(number) {
                true => loose.insert(id, Arc::new(receipt)),
                false => given.insert(id, Arc::new(receipt)),
            };
        }
        let kananafile = Kananafile {
            graph: Arc::clone(&graph),
            resources: title.resources,
            ..Kananafile::default()
        };
        let project = Project {
            workspace: workspace.clone(),
            store,
            kananafile,
            read: Vec::new(),
            graph,
        };
        Some(Self {
            project,
            question,
            moved,
            notes,
            book: Arc::new(book),
            numbers,
            loose,
            given,
            total: title.tasks,
        })
    }

    pub fn resources(&self) -> &Resources {
        &self.project.kananafile.resources
    }

    /// The answer that was sealed: still right if the slice gives what it gave.
    pub fn answer(&self) -> &[u8] {
        &self.moved.answer
    }

    /// Plans the slice; `None` unless at most one task is to be run. With more of them, what comes after the first that
    /// is done would have to wait for the last.
    pub fn prepare(&self) -> Option<Prepared> {
        let tasks: Vec<TaskId> = self.loose.keys().copied().collect();
        let goals = tasks.iter().copied().collect();
        let graph = &self.project.graph;
        let mut prepared = (self.project).prepare_by(&tasks, &tasks, |snapshot, found| {
            let mut known = Known::new(snapshot);
            for (id, receipt) in &self.given {
                known.insert(graph, *id, Arc::clone(receipt));
            }
            let mut plan = outlook(graph, snapshot, found, &goals, known, tasks.clone());
            let given = self.given.iter();
            let given = given.map(|(id, receipt)| (*id, Status::Hit(Arc::clone(receipt))));
            plan.tasks.extend(given);
            plan.tasks.sort_unstable_by_key(|(id, _)| *id);
            plan
        });
        if !prepared.warnings.is_empty() {
            // A look at everything finds them again, and says them.
            return None;
        }
        if !self.is_simple(&prepared.plan) {
            // A look at everything need not read this again.
            self.project.remember("sources", &prepared.sources);
            self.project.remember("blobs", &prepared.blobs);
            return None;
        }
        prepared.removals = self.question.removals;
        let (book, numbers) = (Arc::clone(&self.book), self.numbers.clone());
        prepared.beside = Beside {
            tasks: self.total - self.numbers.len(),
            behind: Some(Box::new(move |id| behind(&book, numbers[id.index()]))),
        };
        Some(prepared)
    }

    /// Whether at most one task is to be run, and the others give what they gave before.
    fn is_simple(&self, plan: &Plan) -> bool {
        let graph = &self.project.graph;
        let mut misses = 0;
        plan.tasks.iter().all(|(id, status)| match status {
            Status::Hit(receipt) => self.is_as_before(*id, receipt),
            Status::Miss(_) => {
                misses += 1;
                misses == 1 && !graph.task(*id).protect
            }
            Status::Dropped(_) | Status::Unknown(_) | Status::Blocked(_) => false,
        })
    }

    /// Whether a task gives what it gave before.
    fn is_as_before(&self, id: TaskId, receipt: &Receipt) -> bool {
        let before = self.loose.get(&id);
        before.is_none_or(|before| before.outputs == receipt.outputs)
    }

    /// True when there is nothing to run or to make whole.
    pub fn is_settled(&self, prepared: &Prepared) -> bool {
        self.project.is_settled(prepared)
    }

    /// Builds what is prepared; `None` where results were removed meanwhile.
    pub async fn build(
        &self,
        prepared: Prepared,
        options: Options,
        events: Events,
        stop: watch::Receiver<Stop>,
    ) -> Result<Option<Outcome>, Error> {
        let store = &self.project.store;
        let Some(presence) = build::enter(store, &events, stop.clone()).await? else {
            return Ok(Some(Outcome::unbegun()));
        };
        if store.removals() != prepared.removals {
            return Ok(None);
        }
        let outcome = build::build(prepared, &presence, options, events, stop).await?;
        Ok(Some(outcome).filter(|outcome| !outcome.is_to_be_planned_again()))
    }

    /// True when the whole project is done: every task of the slice gave what it gave before.
    pub fn is_all(&self, outcome: &Outcome) -> bool {
        let mut receipts = outcome.receipts.iter();
        outcome.is_complete() && receipts.all(|(id, receipt)| self.is_as_before(*id, receipt))
    }

    /// The numbers of a build that the user ended before the tasks that read something new were looked at.
    pub fn stopped(&self, outcome: &Outcome) -> Totals {
        let mut totals = outcome.totals.clone();
        let receipts = outcome.receipts.iter();
        for (id, _) in receipts.filter(|(id, receipt)| !self.is_as_before(**id, receipt)) {
            let behind = behind(&self.book, self.numbers[id.index()]).len();
            totals.hits = totals.hits.saturating_sub(behind);
            totals.cancelled += behind;
        }
        totals
    }

    /// Leaves the seal again, with what the slice rests on now. False when something is too young to be believed.
    pub fn seal(&self, prepared: &Prepared) -> Result<bool, Error> {
        let mut grounds = Grounds::default();
        let number = |id: TaskId| {
            let is_loose = self.loose.contains_key(&id);
            is_loose.then(|| self.numbers[id.index()])
        };
        if (self.project.ground(prepared, &mut grounds, number)).is_none() {
            return Ok(false);
        }
        let mut keys = self.notes.keys.clone();
        for (id, status) in &prepared.plan.tasks {
            if let Some(receipt) = status.done() {
                keys[self.numbers[id.index()] as usize] = receipt.key;
            }
        }
        let notes = Notes {
            book: self.notes.book,
            keys,
        };
        let Question {
            digest, begun_ns, ..
        } = &self.question;
        let store = &self.project.store;
        store.seal_again(digest, &self.moved, &notes.to_bytes(), grounds, *begun_ns)
    }
}

/// The pages of some tasks, and of those that they read from: as if these had no inputs.
fn pages(book: &Book, loose: &BTreeSet<u32>) -> Option<BTreeMap<u32, Page<'static>>> {
    let mut pages = BTreeMap::new();
    for number in loose {
        pages.insert(*number, page(book, *number)?);
    }
    let bindings = pages.values().flat_map(|page| page.task.bindings());
    let above = bindings.filter_map(|binding| Some(binding.from.task()?.0));
    let above: BTreeSet<u32> = above.collect();
    for number in above.difference(loose) {
        let mut page = page(book, *number)?;
        let task = page.task.to_mut();
        task.inputs.clear();
        task.executor = Executor::BuiltIn;
        pages.insert(*number, page);
    }
    Some(pages)
}

/// The graph of some tasks, numbered as they come.
fn graph(pages: BTreeMap<u32, Page<'_>>) -> Option<Graph> {
    let numbers: Vec<u32> = pages.keys().copied().collect();
    let place = |number: u32| u32::try_from(numbers.binary_search(&number).ok()?).ok();
    let mut sources = BTreeMap::new();
    for page in pages.values() {
        sources.extend(page.sources.clone());
    }
    let source_numbers: Vec<u32> = sources.keys().copied().collect();
    let mut tasks = Vec::with_capacity(pages.len());
    for page in pages.into_values() {
        let mut task = page.task.into_owned();
        let mut outputs = task.outputs.iter();
        // Results are written to paths that these make up.
        if !is_relative(&task.name) || !outputs.all(|port| is_component(&port.name)) {
            return None;
        }
        let ports = task.inputs.iter_mut();
        for binding in ports.flat_map(|port| &mut port.bindings) {
            match &mut binding.from {
                Origin::Task { task, .. } => task.0 = place(task.0)?,
                Origin::Source(SourceId(source)) => {
                    let found = source_numbers.binary_search(source).ok()?;
                    *source = u32::try_from(found).ok()?;
                }
            }
        }
        tasks.push(task);
    }
    let sources = sources.into_values().collect();
    Some(Graph::new(tasks, sources, BTreeMap::new(), BTreeMap::new()))
}

/// The names of the tasks that depend on one, as far as the book can be read.
fn behind(book: &Book, number: u32) -> Vec<String> {
    let mut names = BTreeMap::new();
    let mut next = vec![number];
    while let Some(number) = next.pop() {
        let Some(page) = page(book, number) else {
            continue;
        };
        let readers = page.readers.iter().map(|reader| reader.0);
        next.extend(readers.filter(|reader| !names.contains_key(reader)));
        names.insert(number, page.task.into_owned().name);
    }
    names.remove(&number);
    names.into_values().collect()
}
