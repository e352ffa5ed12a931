//! `[jwt.NAME]` and `[keys.NAME]`: the files that they name, read and judged, become what the step `auth` asks.
//!
//! Everything is read while the configuration is, so that a request never waits for a disk, and a file that is wrong is
//! a fault of the configuration like any other. A reload reads them anew.

use crate::conf::{Conf, Fault, Faults, Item};
use filters::auth::jwt::Jwt;
use filters::auth::keys::Keys;
use filters::auth::{Source, Sources};
use filters::filter::BuildError;
use filters::keep::Keep;
use serde_spanned::Spanned;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What proves identities, and the files that it was made of. Every fault is told, and the rest is built all the same.
pub fn build(conf: &Conf, base: &Path, keep: &Keep, faults: &mut Faults) -> (Sources, Vec<PathBuf>) {
    let files = RefCell::new(vec![]);
    let read = |file: &Spanned<String>, most: u64| {
        let path = base.join(file.get_ref());
        let bytes = bytes(&path, most)
            .map_err(|e| BuildError::new(format!("cannot read {}: {e}", path.display())).at(file.span()));
        files.borrow_mut().push(path);
        bytes
    };
    let mut sources = Sources::default();
    // One that could not be read whole is told already, and a name that means it does not dangle.
    conf.identities.iter().for_each(|name| sources.add(name, None));
    for (name, item) in conf.jwt.iter().filter(|(_, item)| item.sound) {
        let built = Jwt::build(name, &item.value, &read, keep).map(|jwt| Source::Jwt(Arc::new(jwt)));
        add(&mut sources, conf, ("jwt", name), built, faults);
    }
    for (name, item) in conf.keys.iter().filter(|(_, item)| item.sound) {
        if let Some(other) = conf.jwt.get(name) {
            faults.add(twice(name, item, other));
        }
        let built = Keys::build(name, &item.value, &read).map(|keys| Source::Keys(Arc::new(keys)));
        add(&mut sources, conf, ("keys", name), built, faults);
    }
    (sources, files.into_inner())
}

fn add(
    sources: &mut Sources,
    conf: &Conf,
    (section, name): (&str, &str),
    built: Result<Source, Vec<BuildError>>,
    faults: &mut Faults,
) {
    match built {
        Ok(source) => sources.add(name, Some(source)),
        Err(found) => {
            sources.add(name, None);
            found.into_iter().for_each(|error| faults.add(conf.fault(&format!("{section}.{name}"), error)));
        }
    }
}

/// `auth` names a source by its name alone.
fn twice<T, U>(name: &str, item: &Item<T>, other: &Item<U>) -> Fault {
    Fault::new(item.at.clone(), "a source of this name is defined already")
        .at(format!("keys.{name}"))
        .also(other.at.clone(), format!("[jwt.{name}]"))
}

/// A file that is no larger than so many bytes.
fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    Ok(bytes)
}
