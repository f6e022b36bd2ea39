use std::fs::{self, File};

use super::*;

const LATER_NS: i64 = i64::MAX / 2;

struct World {
    folder: tempfile::TempDir,
    store: Store,
    question: Digest,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("cache"));
        store.create().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        for name in ["a", "b"] {
            fs::write(folder.path().join("data").join(name), name).unwrap();
        }
        Self {
            folder,
            store,
            question: Digest::of(b"question"),
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn seal(&self) {
        let mut grounds = Grounds::default();
        grounds.followed(Bearer::ALL, &self.data(), "", None);
        grounds.followed(Bearer::ALL, &self.data(), "a", None);
        grounds.own(Bearer::ALL, &self.data(), "b", None);
        assert!(self.seals(grounds));
    }

    fn seals(&self, grounds: Grounds) -> bool {
        let said: (&[u8], &[u8]) = (b"yes", b"notes");
        let sealed = self.store.seal(&self.question, said, grounds, LATER_NS);
        sealed.unwrap()
    }

    fn answer(&self) -> Option<Vec<u8>> {
        match self.store.sealed(&self.question)? {
            Sealed::Holds(answer) => Some(answer),
            Sealed::Moved(_) => None,
        }
    }
}

#[test]
fn holds_until_something_moves() {
    let world = World::new();
    assert_eq!(world.answer(), None, "nobody has sealed anything");
    type Move = (&'static str, fn(&Path));
    let moves: [Move; 5] = [
        ("other bytes", |data| {
            fs::write(data.join("a"), "c").unwrap()
        }),
        ("a file more", |data| fs::write(data.join("c"), "").unwrap()),
        ("a file less", |data| {
            fs::remove_file(data.join("b")).unwrap()
        }),
        ("other times", |data| {
            let file = File::options().write(true).open(data.join("a")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        ("a directory instead", |data| {
            fs::remove_file(data.join("a")).unwrap();
            fs::create_dir(data.join("a")).unwrap();
        }),
    ];
    for (what, change) in moves {
        let world = World::new();
        world.seal();
        assert_eq!(world.answer().as_deref(), Some(&b"yes"[..]));
        assert_eq!(world.store.sealed(&Digest::of(b"another")), None);
        change(&world.data());
        assert_eq!(world.answer(), None, "{what}");
    }
}

#[test]
fn a_link_is_not_what_it_leads_to() {
    let world = World::new();
    fs::rename(world.data().join("b"), world.folder.path().join("b")).unwrap();
    std::os::unix::fs::symlink("../b", world.data().join("b")).unwrap();
    world.seal();
    assert!(world.answer().is_some());
    fs::write(world.folder.path().join("b"), "elsewhere").unwrap();
    assert!(world.answer().is_some(), "the link itself is as it was");
}

#[test]
fn what_is_young_is_not_sealed() {
    let world = World::new();
    let mut grounds = Grounds::default();
    grounds.own_path(Bearer::ALL, &world.data().join("a"), None);
    let begun = super::super::now_ns();
    let said: (&[u8], &[u8]) = (b"yes", b"");
    let sealed = world.store.seal(&world.question, said, grounds, begun);
    assert!(!sealed.unwrap());
    assert_eq!(world.answer(), None);
}

#[test]
fn any_damage_makes_it_no_seal() {
    let world = World::new();
    world.seal();
    let path = world.store.seal_path(&world.question);
    let sound = fs::read(&path).unwrap();
    let rest = sound.len() - rest_of(&sound);
    for at in 0..sound.len() {
        fs::write(&path, &sound[..at]).unwrap();
        assert_eq!(world.answer(), None, "cut at {at}");
        let mut flipped = sound.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, flipped).unwrap();
        // What is read only when something moves does not matter before.
        assert_eq!(world.answer().is_some(), at >= rest, "flipped at {at}");
    }
    fs::write(&path, sound).unwrap();
    assert!(world.answer().is_some());
}

/// Bytes that are not looked at while nothing moves.
fn rest_of(seal: &[u8]) -> usize {
    let head = seal.first_chunk().unwrap();
    form::lengths(head).unwrap().1
}

#[test]
fn an_environment_variable_counts() {
    let world = World::new();
    let mut grounds = Grounds::default();
    let path = std::env::var("PATH").ok();
    grounds.env.insert("PATH".to_owned(), path);
    let absent = "KBUILD_NO_SUCH_VARIABLE".to_owned();
    grounds.env.insert(absent, None);
    assert!(world.seals(grounds.clone()) && world.answer().is_some());
    let other = Some("another".to_owned());
    grounds.env.insert("PATH".to_owned(), other);
    assert!(world.seals(grounds) && world.answer().is_none());
}

#[test]
fn old_seals_make_room_with_their_books() {
    let world = World::new();
    for number in 0..KEPT + 3 {
        let question = Digest::of(&[u8::try_from(number).unwrap()]);
        let page = std::iter::once(vec![1]);
        world.store.write_book(&question, page).unwrap();
        (world.store)
            .seal(&question, (b"", b""), Grounds::default(), LATER_NS)
            .unwrap();
    }
    let memo = world.store.root().join("memo");
    let count = || fs::read_dir(&memo).unwrap().count();
    assert_eq!(count(), 2 * KEPT);
    // One of them again takes nobody's place.
    let question = Digest::of(&[u8::try_from(KEPT).unwrap()]);
    (world.store)
        .seal(&question, (b"", b""), Grounds::default(), LATER_NS)
        .unwrap();
    assert_eq!(count(), 2 * KEPT);
}

/// Files of three tasks, of which two share one, and one that all depend on.
fn shared(world: &World, tasks: &[u32]) -> Grounds {
    let mut grounds = Grounds::default();
    let data = world.data();
    for (name, readers) in [("a", &[0][..]), ("b", &[0, 1]), ("c", &[2])] {
        let readers = readers.iter().copied();
        let readers: Vec<u32> = readers.filter(|task| tasks.contains(task)).collect();
        if !readers.is_empty() {
            let bearer = grounds.tasks(readers);
            grounds.followed(bearer, &data, name, None);
        }
    }
    grounds.own(Bearer::WARNING, world.folder.path(), "memo", None);
    grounds
}

fn three_tasks() -> (World, Grounds) {
    let world = World::new();
    fs::write(world.data().join("c"), "c").unwrap();
    for name in ["memo", "Kananafile"] {
        fs::write(world.folder.path().join(name), name).unwrap();
    }
    let mut grounds = shared(&world, &[0, 1, 2]);
    grounds.own(Bearer::ALL, world.folder.path(), "Kananafile", None);
    (world, grounds)
}

fn loose(world: &World) -> Option<Moved> {
    match world.store.sealed(&world.question)? {
        Sealed::Holds(_) => None,
        Sealed::Moved(moved) => Some(moved),
    }
}

#[test]
fn what_moves_is_known_by_who_rests_on_it() {
    let (world, grounds) = three_tasks();
    for (name, tasks) in [
        ("data/a", &[0][..]),
        ("data/b", &[0, 1]),
        ("data/c", &[2]),
        ("memo", &[]),
    ] {
        assert!(world.seals(grounds.clone()) && world.answer().is_some());
        fs::write(world.folder.path().join(name), "moved").unwrap();
        let moved = loose(&world).unwrap();
        assert_eq!(moved.tasks, tasks.iter().copied().collect(), "{name}");
        let noted = (&*moved.answer, &*moved.notes);
        assert_eq!(noted, (&b"yes"[..], &b"notes"[..]));
        fs::remove_file(world.folder.path().join(name)).unwrap();
        assert_eq!(loose(&world).unwrap().tasks, moved.tasks, "{name}");
        fs::write(world.folder.path().join(name), "back").unwrap();
    }
    assert!(world.seals(grounds));
    fs::write(world.folder.path().join("Kananafile"), "moved").unwrap();
    assert_eq!(world.store.sealed(&world.question), None);
}

#[test]
fn sealed_again_it_is_as_if_it_were_new() {
    let (world, grounds) = three_tasks();
    for name in ["data/a", "data/b", "data/c", "memo"] {
        assert!(world.seals(grounds.clone()));
        fs::write(world.folder.path().join(name), "moved").unwrap();
        let moved = loose(&world).unwrap();
        let tasks: Vec<u32> = moved.tasks.iter().copied().collect();
        let now = shared(&world, &tasks);
        let question = &world.question;
        let sealed = (world.store).seal_again(question, &moved, b"notes", now, LATER_NS);
        assert!(sealed.unwrap() && world.answer().is_some(), "{name}");
        let path = world.store.seal_path(question);
        let again = fs::read(&path).unwrap();
        assert!(world.seals(grounds.clone()));
        assert_eq!(fs::read(&path).unwrap(), again, "{name}");
    }
}

#[test]
fn what_moves_on_the_way_is_not_sealed_again() {
    let (world, grounds) = three_tasks();
    assert!(world.seals(grounds));
    fs::write(world.data().join("a"), "moved").unwrap();
    let moved = loose(&world).unwrap();
    // Task 1 rests on it as well, and nobody has looked at that.
    fs::write(world.data().join("b"), "moved").unwrap();
    let now = shared(&world, &[0]);
    let sealed = (world.store).seal_again(&world.question, &moved, b"", now, LATER_NS);
    assert!(!sealed.unwrap());
}

#[test]
fn where_much_moves_nothing_is_known() {
    let (world, _) = three_tasks();
    let many = u32::try_from(MOST).unwrap();
    for (tasks, is_known) in [(0..many, true), (0..many + 1, false)] {
        let mut grounds = Grounds::default();
        let bearer = grounds.tasks(tasks);
        grounds.own(bearer, &world.data(), "a", None);
        assert!(world.seals(grounds));
        fs::write(world.data().join("a"), format!("moved {is_known}")).unwrap();
        assert_eq!(loose(&world).is_some(), is_known);
    }
}
