//! Dry runs: what would become of an object that is written, without writing it.
//!
//! Pure. A write with `dryRun=All` is answered as an API answers it: with the object as it would be
//! served, or with what is wrong with it. The rules are those of `switchyard check`: the folder's
//! validation, what other Services hold already, and what the processes that serve would report,
//! which comes as warnings. Nothing is stored: the manifests are the place to change.

mod around;
mod findings;
mod merge;
mod reading;
mod verdict;

use serde_json::{Map, Value, json};

use super::derived;
use super::entry::{Content, Entry, EventType, Stamp};
use super::review::PROTOBUF_MAGIC;
use super::status::Status;
use super::values::{self, text};
use model::manifest::Outcome;
use model::tree::{NodeId, Tree, yaml};
use model::{Kind, ObjectName};

use self::reading::read_one;
pub(crate) use around::Around;
pub use around::Judges;

/// A write that is not to be stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DryRun {
    pub(crate) resource: Kind,
    pub(crate) namespace: String,
    /// Empty: it stands in the body.
    pub(crate) name: String,
    pub(crate) action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create,
    Replace,
    MergePatch,
    StrategicPatch,
    Apply,
    Delete,
}

/// What a dry run leads to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) entry: Entry,
    pub(crate) is_new: bool,
    /// For the client's user.
    pub(crate) warnings: Vec<String>,
}

type Object = Map<String, Value>;

/// Of a body in YAML with its aliases expanded, in bytes: twice what a body may have.
const MAX_EXPANDED: usize = 6 << 20;

impl DryRun {
    /// The verb of a request, as rights name it.
    pub(crate) fn verb(&self) -> &'static str {
        match self.action {
            Action::Create => "create",
            Action::Replace => "update",
            Action::MergePatch | Action::StrategicPatch | Action::Apply => "patch",
            Action::Delete => "delete",
        }
    }

    /// The object as it would be served.
    ///
    /// # Errors
    ///
    /// The answer to a write that would be refused.
    pub(crate) fn run(&self, body: &[u8], around: &Around<'_>) -> Result<Done, Status> {
        let given = parse(body)?;
        let name = self.name_of(&given)?;
        let objects = (around.objects)(self.resource);
        let current = objects.get(&name).map(|entry| &**entry);
        self.check_existence(current, &name)?;
        let mut object = self.merged(given, current, around)?;
        self.check_identity(&object, &name, current)?;
        self.name_object(&mut object, &name);
        let reading = read_one(&serde_json::to_string(&object).unwrap_or_default())
            .ok_or_else(|| Status::bad_request("the body is not one object"))?;
        let mut warnings = verdict::of(self.resource, &name, &reading)?;
        verdict::check_claims(&name, &reading, around.objects)?;
        if let Outcome::Good(record) = reading.outcome {
            let found = findings::of(record, around);
            warnings.extend(verdict::of_findings(self.resource, &name, &found)?);
        }
        let entry = self.entry(object, name, current, around);
        Ok(Done { entry, is_new: current.is_none(), warnings })
    }

    /// The status that answers a deletion.
    ///
    /// # Errors
    ///
    /// When there is no such object.
    pub(crate) fn delete(&self, around: &Around<'_>) -> Result<Value, Status> {
        let name = ObjectName::new(&self.namespace, &self.name);
        let objects = (around.objects)(self.resource);
        let found = objects.get(&name);
        let entry = found.ok_or_else(|| Status::not_found(self.resource, &self.name))?;
        let object: Value = serde_json::from_slice(entry.object()).unwrap_or_default();
        let mut details = json!({"name": self.name, "kind": self.resource.plural()});
        if !self.resource.group().is_empty() {
            details["group"] = self.resource.group().into();
        }
        details["uid"] = object["metadata"]["uid"].clone();
        Ok(json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        }))
    }

    /// The name in the path, or in the body of a new object.
    fn name_of(&self, given: &Object) -> Result<ObjectName, Status> {
        if self.action != Action::Create {
            return Ok(ObjectName::new(&self.namespace, &self.name));
        }
        let name = given.get("metadata").map_or("", |metadata| text(metadata, "name"));
        if name.is_empty() {
            let why =
                "metadata.name: Required value: name is required (generateName is not served)";
            return Err(verdict::invalid(self.resource, "", &[why.to_owned()]));
        }
        Ok(ObjectName::new(&self.namespace, name))
    }

    fn check_existence(&self, current: Option<&Entry>, name: &ObjectName) -> Result<(), Status> {
        match (self.action, current) {
            (Action::Create, Some(_)) => Err(Status::already_exists(self.resource, &name.name)),
            (Action::Create | Action::Apply, None) | (_, Some(_)) => Ok(()),
            _ => Err(Status::not_found(self.resource, &name.name)),
        }
    }

    fn merged(
        &self,
        given: Object,
        current: Option<&Entry>,
        around: &Around<'_>,
    ) -> Result<Object, Status> {
        let Some(current) = current else { return Ok(given) };
        let mut object = object_of(current)?;
        if let Some((key, value)) = &around.annotation {
            annotate(&mut object, key, value);
        }
        // The version is the patch's to give: it is compared with the object's.
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.remove("resourceVersion");
        }
        let structure = self.resource.structure();
        match self.action {
            Action::Create | Action::Replace | Action::Delete => return Ok(given),
            Action::StrategicPatch => merge::strategic(&mut object, given, &structure)?,
            Action::Apply => merge::apply(&mut object, given, &structure)?,
            Action::MergePatch => {
                let mut target = Value::Object(object);
                merge::json(&mut target, given.into());
                object = into_object(target)?;
            }
        }
        Ok(object)
    }

    /// The object must be the one that the path names, and the version that its author has seen.
    fn check_identity(
        &self,
        object: &Object,
        name: &ObjectName,
        current: Option<&Entry>,
    ) -> Result<(), Status> {
        let (kind, api_version) = (self.resource.as_str(), self.resource.api_version());
        for (field, expected) in [("kind", kind), ("apiVersion", api_version)] {
            let given = self.string(object.get(field), field)?;
            if !given.is_empty() && given != expected {
                let why = format!("{field} {given:?} was sent where {expected:?} is expected");
                return Err(Status::bad_request(why));
            }
        }
        let metadata = object.get("metadata").unwrap_or(&Value::Null);
        let of_metadata =
            |field: &str| self.string(metadata.get(field), &format!("metadata.{field}"));
        let (given, namespace) = (of_metadata("name")?, of_metadata("namespace")?);
        if !given.is_empty() && given != &*name.name {
            let why = "the name of the object does not match the name on the URL";
            return Err(Status::bad_request(why));
        }
        if !namespace.is_empty() && namespace != &*name.namespace {
            let why = "the namespace of the provided object does not match the namespace sent on \
                       the request";
            return Err(Status::bad_request(why));
        }
        let version = of_metadata("resourceVersion")?;
        match current {
            _ if version.is_empty() => Ok(()),
            Some(entry) if entry.stamp.version.to_string() == version => Ok(()),
            Some(_) => Err(Status::conflict(self.resource, &name.name)),
            None => {
                let why = "resourceVersion should not be set on objects to be created";
                Err(Status::bad_request(why))
            }
        }
    }

    /// A field that identifies the object; empty if it is not given. Anything but a string would
    /// otherwise count as not given.
    fn string<'v>(&self, value: Option<&'v Value>, field: &str) -> Result<&'v str, Status> {
        let what = match value {
            None | Some(Value::Null) => return Ok(""),
            Some(Value::String(text)) => return Ok(text),
            Some(Value::Bool(_)) => "a boolean",
            Some(Value::Number(_)) => "a number",
            Some(Value::Array(_)) => "a list",
            Some(Value::Object(_)) => "an object",
        };
        let (kind, version) = (self.resource.as_str(), self.resource.api_version());
        Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {field}: expected a \
             string, found {what}"
        )))
    }

    /// Adds what the path says.
    fn name_object(&self, object: &mut Object, name: &ObjectName) {
        object.insert("kind".to_owned(), self.resource.as_str().into());
        object.insert("apiVersion".to_owned(), self.resource.api_version().into());
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata.insert("name".to_owned(), (*name.name).into());
            if self.resource.is_namespaced() {
                metadata.insert("namespace".to_owned(), (*name.namespace).into());
            }
        }
    }

    fn entry(
        &self,
        object: Object,
        name: ObjectName,
        current: Option<&Entry>,
        around: &Around<'_>,
    ) -> Entry {
        let mut object = Value::Object(object);
        self.resource.complete(&mut object);
        let uid = derived::uid(self.resource, &name);
        let mut content = Content::of(self.resource, name, object, &uid);
        let given = content.created.take();
        let stamp = match current {
            Some(entry) => {
                let counts = u64::from(entry.differs_beside_metadata(&content));
                Stamp { generation: entry.stamp.generation + counts, ..entry.stamp.clone() }
            }
            None => {
                let created = given.unwrap_or_else(|| around.now.clone());
                Stamp { version: around.version, generation: 1, created: created.into() }
            }
        };
        Entry::new(self.resource, EventType::Modified, content, stamp)
    }
}

impl From<merge::TooMuchWork> for Status {
    fn from(_: merge::TooMuchWork) -> Status {
        Status::bad_request("the patch names the same elements of a list too often: name each once")
    }
}

/// The annotation in which `kubectl apply` keeps the manifest that was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manifest of an object as `kubectl apply` would have noted it: then `apply` and `diff` see
/// which fields a new manifest leaves out, and do not warn that the object was not applied.
///
/// `written` is the object as its manifest has it; `None` for one that the server made.
pub(crate) fn last_applied(
    resource: Kind,
    name: &ObjectName,
    written: Option<&str>,
) -> Option<(&'static str, String)> {
    let mut object: Object = match written {
        Some(written) => serde_json::from_str(written).ok()?,
        None => into_object(json!({
            "apiVersion": resource.api_version(),
            "kind": resource.as_str(),
            "metadata": {"name": &*name.name},
        }))
        .ok()?,
    };
    let Value::Object(metadata) = object.get_mut("metadata")? else { return None };
    if !name.namespace.is_empty() {
        metadata.insert("namespace".to_owned(), (*name.namespace).into());
    }
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    if annotations.get(LAST_APPLIED).is_some() {
        return None;
    }
    // As Go encodes it.
    let text = Value::Object(object).to_string();
    let text = text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    Some((LAST_APPLIED, text + "\n"))
}

/// Adds an annotation.
pub(crate) fn annotate(object: &mut Object, key: &str, value: &str) {
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if let Value::Object(metadata) = metadata {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Value::Object(annotations) = annotations {
            annotations.insert(key.to_owned(), value.into());
        }
    }
}

/// An object as it is served.
pub(crate) fn object_of(entry: &Entry) -> Result<Object, Status> {
    into_object(serde_json::from_slice(entry.object()).unwrap_or_default())
}

/// A body in JSON or YAML, which `kubectl` sends as YAML too.
fn parse(body: &[u8]) -> Result<Object, Status> {
    let unreadable = |why: String| Status::bad_request(format!("the body cannot be read: {why}"));
    if body.first() == Some(&b'{') {
        return values::read(body).map_err(|error| unreadable(error.to_string()));
    }
    if body.starts_with(PROTOBUF_MAGIC) {
        return Err(Status::unsupported_media_type());
    }
    let text = std::str::from_utf8(body).map_err(|error| unreadable(error.to_string()))?;
    let tree = yaml::read(text).map_err(|error| unreadable(error.message))?;
    let tree = tree.ok_or_else(|| unreadable("it is empty".to_owned()))?;
    if !fits(&tree, tree.root(), &mut MAX_EXPANDED.clone()) {
        return Err(unreadable("it is too large with its aliases expanded".to_owned()));
    }
    let json = tree.to_json(tree.root());
    into_object(values::read(json.as_bytes()).map_err(|error| unreadable(error.to_string()))?)
}

/// Whether a tree has no more text than that, with its aliases expanded: a few bytes of YAML can
/// name a long text a hundred thousand times.
fn fits(tree: &Tree<'_>, node: NodeId, room: &mut usize) -> bool {
    /// What a value takes beside its text.
    const BESIDES: usize = 4;
    let takes = tree.scalar(node).map_or(0, str::len) + BESIDES;
    let Some(left) = room.checked_sub(takes) else { return false };
    *room = left;
    tree.elements(node).iter().all(|element| fits(tree, *element, room))
        && tree.entries(node).all(|(key, value)| fits(tree, key, room) && fits(tree, value, room))
}

fn into_object(value: Value) -> Result<Object, Status> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Status::bad_request("the body is not an object")),
    }
}

#[cfg(test)]
mod tests;
