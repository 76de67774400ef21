//! `switchyard check`: manifests, validated as a folder would be, without following it.
//!
//! All that the folder source reports, and what would surprise ([`surprise`]). Left out: the
//! command line, which is the root package's.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::folder::{self, Catalogue};
use crate::path::FilePath;
use crate::report::Report;
use model::Kinds;
use model::document::{self, Format};
use model::manifest;
use model::problem::{Excerpt, Problem};
use model::record::RecordKey;
use model::store::Store;
use model::surprise::{self, Surprise};

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    reports: Vec<Report>,
    files: usize,
    objects: usize,
}

/// Checks files, and all manifests in folders, together as if they were one folder.
///
/// # Errors
///
/// When a path cannot be read, or there is no manifest at all.
pub fn check(paths: &[PathBuf]) -> io::Result<Checked> {
    let mut files: Vec<(FilePath, Format)> = Vec::new();
    for path in paths {
        let found = folder::manifests(path).map_err(|error| named(path, &error))?;
        files.extend(found);
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files.dedup();
    if files.is_empty() {
        let message = "no manifests there: no *.yaml, *.yml or *.json";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let mut catalogue = Catalogue::new(Kinds::all());
    let mut reports = Vec::new();
    for (path, format) in &files {
        match folder::read_text(path) {
            Ok(text) => catalogue.put(path, &text, *format),
            Err(report) => reports.push(*report),
        }
    }
    let mut store = Store::new(Kinds::all());
    for event in catalogue.settle() {
        store.handle(event);
    }
    let (model, _) = store.commit();
    reports.extend(catalogue.reports().iter().cloned());
    // Whatever seems to be missing may stand in a document that could not be read.
    let unread = reports.iter().any(|report| report.is_error() && report.object.is_none());
    let surprises = surprise::of(&model, &|key| unread || catalogue.defines(key));
    reports.extend(place(&catalogue, surprises));
    // Errors first: a warning may be but their consequence.
    reports.sort_by(|a, b| order(a).cmp(&order(b)));
    let objects = catalogue.served().values().sum();
    Ok(Checked { reports, files: files.len(), objects })
}

fn order(report: &Report) -> (bool, &FilePath, u32, u32) {
    (!report.is_error(), &report.file, report.line(), report.column())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Checked {
    pub fn errors(&self) -> usize {
        self.reports.iter().filter(|report| report.is_error()).count()
    }

    pub fn warnings(&self) -> usize {
        self.reports.iter().filter(|report| report.is_warning()).count()
    }

    /// For a person: each problem with its lines and what to do, then a summary.
    ///
    /// # Errors
    ///
    /// When `out` cannot be written to.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        for report in &self.reports {
            writeln!(out, "{report}")?;
            for line in report.drawing() {
                writeln!(out, "  {line}")?;
            }
            if let Some(help) = &report.problem.help {
                writeln!(out, "  help: {help}")?;
            }
            writeln!(out)?;
        }
        writeln!(
            out,
            "{} in {}: {}, {}",
            count(self.objects, "object"),
            count(self.files, "file"),
            count(self.errors(), "error"),
            count(self.warnings(), "warning")
        )
    }

    /// For a program: one JSON object.
    ///
    /// # Errors
    ///
    /// When `out` cannot be written to.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let problems: Vec<_> = self.reports.iter().map(Report::to_json).collect();
        let all = json!({
            "files": self.files,
            "objects": self.objects,
            "errors": self.errors(),
            "warnings": self.warnings(),
            "problems": problems,
        });
        writeln!(out, "{all:#}")
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Finds the lines of what objects surprise with: each file is read once more for that.
fn place(catalogue: &Catalogue, surprises: Vec<Surprise>) -> Vec<Report> {
    let mut by_file: HashMap<FilePath, HashMap<RecordKey, Vec<Surprise>>> = HashMap::new();
    for surprise in surprises {
        let Some(file) = catalogue.file_of(&surprise.key) else { continue };
        let of_file = by_file.entry(file.clone()).or_default();
        of_file.entry(surprise.key.clone()).or_default().push(surprise);
    }
    let mut reports = Vec::new();
    for (file, mut wanted) in by_file {
        let Ok(text) = folder::read_text(&file) else { continue };
        let format = folder::format_of_path(&file);
        for part in document::split(&text, format) {
            let items = document::items(&part).unwrap_or_else(|| vec![part]);
            for part in items {
                locate(&file, &text, &part, format, &mut wanted, &mut reports);
            }
        }
    }
    reports
}

fn locate(
    file: &FilePath,
    text: &str,
    part: &document::Document<'_>,
    format: Format,
    wanted: &mut HashMap<RecordKey, Vec<Surprise>>,
    reports: &mut Vec<Report>,
) {
    manifest::each_object(part, format, |key, place| {
        for surprise in wanted.remove(&key).into_iter().flatten() {
            let mark = place(&surprise.path);
            let start = part.text.as_ptr() as usize - text.as_ptr() as usize;
            let excerpt = Some(Excerpt::around(text, start + mark.byte_in(part.text)));
            let before = if mark.line == 0 { part.columns_before } else { 0 };
            let mark = model::problem::Mark { column: mark.column + before, ..mark };
            reports.push(Report {
                file: file.clone(),
                object: Some(key.clone()),
                problem: Arc::new(Problem { mark, excerpt, ..surprise.problem }),
                lines_above: part.lines_above,
            });
        }
    });
}

#[cfg(test)]
mod tests;
