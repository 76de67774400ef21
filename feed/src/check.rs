//! `switchyard check`: manifests, validated as a folder would be, without following it.
//!
//! Everything that the folder source reports, and what is probably a mistake ([`finding`]). Left
//! out: what the processes that serve a model find in it, which the caller gives, and the command
//! line.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::folder::{self, Catalogue};
use crate::path::FilePath;
use crate::report::Report;
use model::document::{self, Format};
use model::finding::{self, Finding};
use model::manifest;
use model::problem::{Excerpt, Problem};
use model::store::Store;
use model::{Changes, Kinds, Model, ObjectKey};

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    reports: Vec<Report>,
    files: usize,
    objects: usize,
    /// Objects of kinds that are not used here, such as Deployments, by kind.
    foreign: BTreeMap<String, usize>,
}

/// The path that stands for standard input.
const STDIN: &str = "-";

/// Checks files, all manifests in folders, and standard input (`-`), together as if they were one
/// folder. `judge` finds what the processes that serve a model would report of it.
///
/// # Errors
///
/// When a path cannot be read, or there is no manifest at all.
pub fn check(
    paths: &[PathBuf],
    judge: &dyn Fn(&Model, &Changes) -> Vec<Finding>,
) -> io::Result<Checked> {
    let texts = Texts::read(paths)?;
    let mut catalogue = Catalogue::new(Kinds::all());
    let mut reports = Vec::new();
    for (path, format) in &texts.files {
        match texts.of(path) {
            Ok(text) => catalogue.put(path, &text, *format),
            Err(report) => reports.push(*report),
        }
    }
    let mut store = Store::new(Kinds::all());
    for event in catalogue.settle() {
        store.handle(event);
    }
    let (model, changes) = store.commit();
    reports.extend(catalogue.reports().iter().cloned());
    // What seems to be missing may stand in a document that could not be read.
    let unread = reports.iter().any(|report| report.is_error() && report.object.is_none());
    let is_defined = |key: &ObjectKey| unread || catalogue.defines(key);
    let mut findings = finding::of(&model, &is_defined);
    findings.extend(judge(&model, &changes));
    findings.retain(|finding| !finding.missing.as_ref().is_some_and(is_defined));
    reports.extend(place(&catalogue, &texts, findings));
    // Errors first: a warning may only be their consequence.
    reports.sort_by(|a, b| order(a).cmp(&order(b)));
    let objects = catalogue.served().values().sum();
    let mut foreign = BTreeMap::new();
    reports.retain(|report| match manifest::foreign_kind(&report.problem) {
        Some(kind) => {
            *foreign.entry(kind.to_owned()).or_default() += 1;
            false
        }
        None => true,
    });
    Ok(Checked { reports, files: texts.files.len(), objects, foreign })
}

/// The files to check, and the text of standard input, which can be read only once.
struct Texts {
    files: Vec<(FilePath, Format)>,
    stdin: Option<String>,
}

impl Texts {
    fn read(paths: &[PathBuf]) -> io::Result<Texts> {
        let mut files: Vec<(FilePath, Format)> = Vec::new();
        let mut stdin = None;
        for path in paths {
            if path.as_os_str() == STDIN {
                let text =
                    read_stdin().map_err(|error| named(Path::new("standard input"), &error))?;
                let is_json = text.trim_start().starts_with('{');
                let format = if is_json { Format::Json } else { Format::Yaml };
                files.push((Path::new(STDIN).into(), format));
                stdin = Some(text);
                continue;
            }
            let found = folder::manifests(path).map_err(|error| named(path, &error))?;
            files.extend(found);
        }
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        files.dedup();
        if files.is_empty() {
            let message = "no manifests found: no *.yaml, *.yml or *.json";
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(Texts { files, stdin })
    }

    fn of(&self, path: &FilePath) -> Result<String, Box<Report>> {
        match &self.stdin {
            Some(text) if path.as_os_str() == STDIN => Ok(text.clone()),
            _ => folder::read_text(path),
        }
    }

    fn format_of(&self, path: &FilePath) -> Format {
        let known = self.files.iter().find(|(known, _)| known == path);
        known.map_or(Format::Yaml, |(_, format)| *format)
    }
}

/// The text of standard input, up to the size of the largest file that is read.
fn read_stdin() -> io::Result<String> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(folder::MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if read as u64 > folder::MAX_FILE_BYTES {
        let message = format!("more than {} bytes", folder::MAX_FILE_BYTES);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
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
            writeln!(out, "{}\n", report.to_text())?;
        }
        writeln!(
            out,
            "{} in {}: {}, {}",
            count(self.objects, "object"),
            count(self.files, "file"),
            count(self.errors(), "error"),
            count(self.warnings(), "warning")
        )?;
        if !self.foreign.is_empty() {
            let kinds: Vec<_> =
                self.foreign.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            writeln!(out, "left out, because Switchyard does not use them: {}", kinds.join(", "))?;
        }
        Ok(())
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
            "leftOut": self.foreign,
            "problems": problems,
        });
        writeln!(out, "{all:#}")
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Finds the lines of findings: each file is read once more for that.
fn place(catalogue: &Catalogue, texts: &Texts, findings: Vec<Finding>) -> Vec<Report> {
    let mut by_file: HashMap<FilePath, HashMap<ObjectKey, Vec<Finding>>> = HashMap::new();
    for finding in findings {
        let Some(file) = catalogue.file_of(&finding.key) else { continue };
        let of_file = by_file.entry(file.clone()).or_default();
        of_file.entry(finding.key.clone()).or_default().push(finding);
    }
    let mut reports = Vec::new();
    for (file, mut wanted) in by_file {
        let Ok(text) = texts.of(&file) else { continue };
        let format = texts.format_of(&file);
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
    wanted: &mut HashMap<ObjectKey, Vec<Finding>>,
    reports: &mut Vec<Report>,
) {
    manifest::each_object(part, format, |key, place| {
        for finding in wanted.remove(&key).into_iter().flatten() {
            let mark = place(&finding.path);
            let start = part.text.as_ptr() as usize - text.as_ptr() as usize;
            let excerpt = Some(Excerpt::around(text, start + mark.byte_in(part.text)));
            let before = if mark.line == 0 { part.columns_before } else { 0 };
            let mark = model::problem::Mark { column: mark.column + before, ..mark };
            reports.push(Report {
                file: file.clone(),
                object: Some(key.clone()),
                problem: Arc::new(Problem { mark, excerpt, ..finding.problem }),
                lines_above: part.lines_above,
            });
        }
    });
}

#[cfg(test)]
mod tests;
