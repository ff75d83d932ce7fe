//! Which program is taken, with stand-ins for the programs; and one real installation.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{NATS_SERVER, Places, ToolError, UV, find, find_or_install, program_in};

/// A program that says what `--version` prints.
fn program(path: &Path, says: &str) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

fn places(state: &Path, search: &[PathBuf]) -> Places {
    Places::new(state, BTreeMap::new(), Some(std::env::join_paths(search).unwrap())).unwrap()
}

#[test]
fn a_good_one_on_the_path_is_used() {
    let state = tempfile::tempdir().unwrap();
    let good = program(&state.path().join("bin/nats-server"), "nats-server: v2.16.0");
    let found = find(&NATS_SERVER, &places(state.path(), &[state.path().join("bin")]), &|_| {}).unwrap();
    assert_eq!(found, Some(good));
}

#[test]
fn an_old_one_on_the_path_is_passed_over_and_reported() {
    let state = tempfile::tempdir().unwrap();
    program(&state.path().join("old/nats-server"), "nats-server: v2.9.10");
    let good = program(&state.path().join("new/nats-server"), "nats-server: v2.15.1");
    let said = RefCell::new(Vec::new());
    let search = [state.path().join("old"), state.path().join("new")];
    let found = find(&NATS_SERVER, &places(state.path(), &search), &|line| {
        said.borrow_mut().push(line.to_owned());
    })
    .unwrap();
    assert_eq!(found, Some(good));
    assert_eq!(said.borrow().len(), 1);
    assert!(said.borrow()[0].contains("is version 2.9.10, older than 2.15.1"), "{said:?}");
}

#[test]
fn the_installed_one_comes_before_the_path() {
    let state = tempfile::tempdir().unwrap();
    program(&state.path().join("bin/uv"), "uv 9.0.0");
    let places = places(state.path(), &[state.path().join("bin")]);
    let installed = program(&program_in(&places.installed(&UV), &UV), "uv 0.13.9");
    assert_eq!(find(&UV, &places, &|_| {}).unwrap(), Some(installed));
}

#[test]
fn a_chosen_one_that_will_not_do_is_an_error_that_names_it() {
    let state = tempfile::tempdir().unwrap();
    program(&state.path().join("bin/nats-server"), "nats-server: v2.16.0");
    let mut places = places(state.path(), &[state.path().join("bin")]);
    for (path, reason) in [
        (program(&state.path().join("old"), "nats-server: v2.14.9"), "is version 2.14.9, older than 2.15.1"),
        (program(&state.path().join("mute"), "hello"), "does not tell its version"),
        (state.path().join("missing"), "cannot be started"),
    ] {
        places.chosen.insert(NATS_SERVER.variable, path.clone());
        let error = find(&NATS_SERVER, &places, &|_| {}).unwrap_err();
        assert!(matches!(&error, ToolError::Chosen { path: named, .. } if *named == path), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains("GRANGE_NATS_SERVER"), "{error}");
    }
}

#[test]
fn two_at_once_install_one_and_a_broken_one_is_replaced() {
    let state = tempfile::tempdir().unwrap();
    let place = places(state.path(), &[]).installed(&NATS_SERVER);
    program(&program_in(&place, &NATS_SERVER), "half written");
    let install = || find_or_install(&NATS_SERVER, &places(state.path(), &[]), &|_| {}).unwrap();
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(install);
        (install(), other.join().unwrap())
    });
    assert_eq!(one, other);
    assert_eq!(one, program_in(&place, &NATS_SERVER));
    let left: Vec<_> = fs::read_dir(state.path().join("tools"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}
