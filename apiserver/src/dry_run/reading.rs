//! An object as JSON → what a folder with it would make of it.
//!
//! Pure.

use model::document::{self, Format};
use model::manifest::{self, Keep, Reading};
use model::validate::Interner;

/// Reads an object in JSON; `None` if it is not one object.
pub(super) fn read_one(text: &str) -> Option<Reading> {
    let parts = document::split(text, Format::Json);
    let mut interner = Interner::default();
    let mut readings = parts
        .iter()
        .flat_map(|part| manifest::read(text, part, Format::Json, Keep::Parts, &mut interner));
    let reading = readings.next()?;
    readings.next().is_none().then_some(reading)
}
