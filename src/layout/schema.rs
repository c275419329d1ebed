//! The schema: which tensors a checkpoint holds, in a tree of groups, and what Keras calls the groups.

use std::collections::BTreeMap;

use crate::error::{Error, Result, Status};
use crate::memory;
use crate::tensor::{Dtype, MAX_PATH, MAX_RANK, TensorSpec, shape_text};

/// A node of the tree, by its place in [`Schema::nodes`].
pub type NodeId = usize;

/// A group or a tensor.
#[derive(Clone, Debug)]
pub enum Node {
    /// A group: its children, sorted by name as bytes, and Keras' `name` attribute.
    Group {
        /// Children by name.
        children: BTreeMap<Box<str>, NodeId>,
        /// The attribute `name`, if it has one.
        name: Option<Box<str>>,
    },
    /// A tensor, by its place in [`Schema::tensors`].
    Tensor(usize),
}

/// The tensors of a model and the groups that they stand in. Every path in it is valid and unique.
#[derive(Debug)]
pub struct Schema {
    nodes: Vec<Node>,
    tensors: Vec<TensorSpec>,
    path_bytes: u64,
}

/// The group at the root that is ours.
pub const OWN_GROUP: &str = "libckpt";

/// What the paths of the trainer's own bytes begin with.
pub const DATA_PREFIX: &str = "libckpt/data/";

/// The most bytes of a key of the trainer's.
pub const MAX_KEY: usize = 1024;

/// Bytes of a single component: an HDF5 local heap and link message hold more, a reader's buffer might not.
const MAX_COMPONENT: usize = 16 * 1024;

/// The most bytes of the name of a group, an attribute whose header messages have at most 64 KiB.
pub const MAX_NAME: usize = 60_000;

impl Default for Schema {
    fn default() -> Schema {
        Schema::new()
    }
}

impl Schema {
    /// No tensors, an empty root group.
    pub fn new() -> Schema {
        let root = Node::Group { children: BTreeMap::new(), name: None };
        Schema { nodes: vec![root], tensors: Vec::new(), path_bytes: 0 }
    }

    /// The same once more.
    pub fn copied(&self) -> Result<Schema> {
        let nodes = memory::collect(self.nodes.iter().cloned())?;
        Ok(Schema { nodes, tensors: self.copied_tensors()?, path_bytes: self.path_bytes })
    }

    fn copied_tensors(&self) -> Result<Vec<TensorSpec>> {
        memory::collect(self.tensors.iter().cloned())
    }

    /// The root group, where the tree begins.
    pub const ROOT: NodeId = 0;

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// All tensors, in the order in which they were added.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Bytes of all paths together, those of the groups too.
    pub fn path_bytes(&self) -> u64 {
        self.path_bytes
    }

    /// The place of the tensor with this path.
    pub fn find(&self, path: &str) -> Option<usize> {
        let mut at = Schema::ROOT;
        for part in path.split('/') {
            let Node::Group { children, .. } = &self.nodes[at] else { return None };
            at = *children.get(part)?;
        }
        match self.nodes[at] {
            Node::Tensor(i) => Some(i),
            Node::Group { .. } => None,
        }
    }

    /// Adds a tensor and the groups above it; returns its place. Nothing has changed after an error.
    pub fn add(&mut self, path: &str, dtype: Dtype, shape: &[u64]) -> Result<usize> {
        refuse_own(path)?;
        self.add_anywhere(path, dtype, shape)
    }

    /// Adds bytes of the trainer's own, whose path is [`data_path`].
    pub fn add_data(&mut self, path: &str, bytes: u64) -> Result<usize> {
        self.add_anywhere(path, Dtype::U8, &[bytes])
    }

    /// As [`Schema::add`], in the group that is ours, too.
    pub(super) fn add_anywhere(&mut self, path: &str, dtype: Dtype, shape: &[u64]) -> Result<usize> {
        let parts = components(path)?;
        if shape.len() > MAX_RANK {
            return Err(bad(format!(
                "tensor '{path}' has rank {}: at most {MAX_RANK} is possible",
                shape.len()
            )));
        }
        let spec = TensorSpec { path: path.to_owned(), dtype, shape: shape.to_vec() };
        if spec.checked_nbytes().is_none() {
            return Err(bad(format!(
                "tensor '{path}' of shape {} is larger than 2^63 bytes",
                shape_text(shape)
            )));
        }
        let (last, groups) = match parts.split_last() {
            Some(split) => split,
            None => return Err(bad("the path of a tensor is empty".to_owned())),
        };
        self.check_groups(path, groups)?;
        if let Some(id) = self.lookup(&parts) {
            return Err(bad(match self.nodes[id] {
                Node::Tensor(_) => format!("tensor '{path}' was added before: each path once"),
                Node::Group { .. } => format!("'{path}' is a group already: it cannot be a tensor too"),
            }));
        }
        memory::reserve(&mut self.tensors, 1)?;
        memory::reserve(&mut self.nodes, parts.len())?;
        let parent = self.make_groups(groups);
        let index = self.tensors.len();
        self.tensors.push(spec);
        self.insert(parent, last, Node::Tensor(index), path.len());
        Ok(index)
    }

    /// Gives `group`/vars the attribute `name`, and makes the group where it is not there. `""` is the root.
    pub fn set_name(&mut self, group: &str, name: &str) -> Result<()> {
        refuse_own(group)?;
        let mut parts = if group.is_empty() { Vec::new() } else { components(group)? };
        parts.push("vars");
        if name.contains('\0') {
            return Err(bad(format!("the name of group '{group}' contains a NUL")));
        }
        if name.len() > MAX_NAME {
            return Err(bad(format!(
                "the name of group '{group}' has {} bytes: at most {MAX_NAME}",
                name.len()
            )));
        }
        let path = parts.join("/");
        check_length(&path)?;
        self.check_groups(&path, &parts)?;
        memory::reserve(&mut self.nodes, parts.len())?;
        let id = self.make_groups(&parts);
        if let Node::Group { name: slot, .. } = &mut self.nodes[id] {
            *slot = Some(name.into());
        }
        Ok(())
    }

    /// The same tensors at other places of the tree, which are given in the order of the tensors; without names.
    pub(super) fn relocated(&self, places: &[String]) -> Result<Schema> {
        let mut moved = Schema::new();
        for (i, place) in places.iter().enumerate() {
            let parts = components(place)?;
            let Some((last, groups)) = parts.split_last() else { continue };
            moved.check_groups(place, groups)?;
            if moved.lookup(&parts).is_some() {
                return Err(bad(format!("the file has no place for '{place}': something else stands there")));
            }
            memory::reserve(&mut moved.nodes, parts.len())?;
            let parent = moved.make_groups(groups);
            moved.insert(parent, last, Node::Tensor(i), place.len());
        }
        moved.tensors = self.copied_tensors()?;
        Ok(moved)
    }

    /// The group with this path, which is made where it is not there.
    pub(super) fn group(&mut self, path: &str) -> Result<NodeId> {
        let parts = components(path)?;
        self.check_groups(path, &parts)?;
        memory::reserve(&mut self.nodes, parts.len())?;
        Ok(self.make_groups(&parts))
    }

    /// Every group whose `vars` have a name, and the name.
    pub(super) fn names(&self) -> Result<BTreeMap<String, &str>> {
        let mut found = BTreeMap::new();
        let mut pending = vec![(String::new(), Schema::ROOT)];
        while let Some((path, id)) = pending.pop() {
            let Node::Group { children, .. } = &self.nodes[id] else { continue };
            for (part, &child) in children {
                let Node::Group { name, .. } = &self.nodes[child] else { continue };
                if let ("vars", Some(name)) = (&**part, name) {
                    found.insert(path.clone(), &**name);
                }
                let joined = if path.is_empty() { part.to_string() } else { format!("{path}/{part}") };
                memory::push(&mut pending, (joined, child))?;
            }
        }
        Ok(found)
    }

    fn lookup(&self, parts: &[&str]) -> Option<NodeId> {
        let mut at = Schema::ROOT;
        for part in parts {
            let Node::Group { children, .. } = &self.nodes[at] else { return None };
            at = *children.get(*part)?;
        }
        Some(at)
    }

    /// Refuses a path that leads through a tensor.
    fn check_groups(&self, path: &str, groups: &[&str]) -> Result<()> {
        let mut at = Schema::ROOT;
        for (i, part) in groups.iter().enumerate() {
            let Node::Group { children, .. } = &self.nodes[at] else { break };
            match children.get(*part) {
                None => return Ok(()),
                Some(&id) => at = id,
            }
            if let Node::Tensor(_) = self.nodes[at] {
                let tensor = groups[..=i].join("/");
                return Err(bad(format!(
                    "'{path}' needs '{tensor}' as a group, but that is a tensor already"
                )));
            }
        }
        Ok(())
    }

    /// The group at the end of these, made where they are not there. There is room for the nodes.
    fn make_groups(&mut self, groups: &[&str]) -> NodeId {
        let mut at = Schema::ROOT;
        let mut len = 0;
        for (i, part) in groups.iter().enumerate() {
            len += usize::from(i > 0) + part.len();
            let Node::Group { children, .. } = &self.nodes[at] else { return at };
            at = match children.get(*part) {
                Some(&id) => id,
                None => self.insert(at, part, Node::Group { children: BTreeMap::new(), name: None }, len),
            };
        }
        at
    }

    /// Adds a node whose path has `len` bytes. There is room for it.
    fn insert(&mut self, parent: NodeId, part: &str, node: Node, len: usize) -> NodeId {
        self.path_bytes += len as u64;
        let id = self.nodes.len();
        self.nodes.push(node);
        if let Node::Group { children, .. } = &mut self.nodes[parent] {
            children.insert(part.into(), id);
        }
        id
    }
}

/// The components of a path, each checked.
fn components(path: &str) -> Result<Vec<&str>> {
    check_length(path)?;
    let parts = memory::collect(path.split('/'))?;
    for part in &parts {
        let problem = match *part {
            "" => "an empty component",
            "." => "the component '.'",
            ".." => "the component '..'",
            p if p.contains('\0') => "a NUL",
            p if p.len() > MAX_COMPONENT => "a component of more than 16384 bytes",
            _ => continue,
        };
        return Err(bad(format!(
            "path '{path}' has {problem}: expected components joined by '/', as in 'layers/dense/vars/0'"
        )));
    }
    Ok(parts)
}

/// Whether a path leads into the group that is ours.
pub fn is_own(path: &str) -> bool {
    path.strip_prefix(OWN_GROUP).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn refuse_own(path: &str) -> Result<()> {
    match is_own(path) {
        false => Ok(()),
        true => Err(bad(format!("path '{path}': the group '{OWN_GROUP}' at the root is the library's own"))),
    }
}

/// The path of the trainer's bytes under this key. What a component of a path cannot hold is written as `%` and two
/// hexadecimal digits.
pub fn data_path(key: &str) -> Result<String> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(bad(format!("the key has {} bytes: expected 1 to {MAX_KEY}", key.len())));
    }
    let mut path = DATA_PREFIX.to_owned();
    for (i, c) in key.char_indices() {
        match c {
            '/' | '%' | '\0' => path.push_str(&format!("%{:02x}", u32::from(c))),
            // So that none is '.' or '..'.
            '.' if i == 0 => path.push_str("%2e"),
            _ => path.push(c),
        }
    }
    Ok(path)
}

/// The key of [`data_path`]; none where the path is not that of any.
pub fn data_key(path: &str) -> Option<String> {
    let mut rest = path.strip_prefix(DATA_PREFIX)?;
    let mut key = String::new();
    while let Some(at) = rest.find('%') {
        key.push_str(rest.get(..at)?);
        let code = u8::from_str_radix(rest.get(at + 1..at + 3)?, 16).ok()?;
        key.push(char::from(code));
        rest = rest.get(at + 3..)?;
    }
    key.push_str(rest);
    (data_path(&key).ok()? == path).then_some(key)
}

fn check_length(path: &str) -> Result<()> {
    if path.len() > MAX_PATH {
        let start: String = path.chars().take(40).collect();
        return Err(bad(format!(
            "path '{start}...' has {} bytes: at most {MAX_PATH} are possible",
            path.len()
        )));
    }
    Ok(())
}

fn bad(message: String) -> Error {
    Error::new(Status::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_bad_paths_and_leaves_the_schema_as_it_was() {
        let mut s = Schema::new();
        s.add("a/b", Dtype::F32, &[2]).unwrap();
        for path in
            ["", "/a", "a/", "a//b", "a/./b", "a/../b", "a\0b", "libckpt", "libckpt/x", "a/b", "a", "a/b/c"]
        {
            let e = s.add(path, Dtype::F32, &[2]).unwrap_err();
            assert_eq!(e.status(), Status::InvalidArgument, "{path:?}");
        }
        let long =
            |len: usize| format!("{}/{}", vec!["0123456"; len / 8 - 1].join("/"), "x".repeat(len % 8 + 8));
        let e = s.add(&long(MAX_PATH + 1), Dtype::F32, &[2]).unwrap_err();
        assert!(e.message().contains("65537 bytes: at most 65536"), "{e}");
        let e = s.set_name(&long(MAX_PATH - 4), "x").unwrap_err();
        assert!(e.message().contains("65537 bytes: at most 65536"), "{e}");
        assert!(s.set_name("a/b", "x").is_err());
        assert_eq!(s.path_bytes(), 4);
        assert_eq!(s.tensors().len(), 1);
        assert_eq!(s.find("a/b"), Some(0));
        assert_eq!(s.find("a"), None);
        s.add("x/libckpt", Dtype::F32, &[2]).unwrap();
    }

    #[test]
    fn keys_are_paths_and_back() {
        let mut s = Schema::new();
        for key in ["rng", "a/b", "..", ".", "100%", "%2f", "nul\0", "straße", " "] {
            let path = data_path(key).unwrap();
            assert_eq!(data_key(&path).as_deref(), Some(key), "{path}");
            s.add_data(&path, 3).unwrap();
        }
        assert!(s.add_data(&data_path("rng").unwrap(), 1).is_err(), "twice");
        assert!(data_path("").is_err() && data_path(&"k".repeat(MAX_KEY + 1)).is_err());
        for path in [
            "rng",
            "libckpt/data",
            "libckpt/data/",
            "libckpt/data/a/b",
            "libckpt/data/%2",
            "libckpt/data/%7a",
        ] {
            assert_eq!(data_key(path), None, "{path}");
        }
    }

    #[test]
    fn names_make_groups_in_any_order() {
        let mut s = Schema::new();
        s.set_name("layers/dropout", "dropout").unwrap();
        s.set_name("", "model").unwrap();
        s.add("layers/dense/vars/0", Dtype::F32, &[2, 0]).unwrap();
        s.set_name("layers/dense", "dense").unwrap();
        assert!(s.lookup(&["layers", "dropout", "vars"]).is_some());
        assert!(s.lookup(&["vars"]).is_some());
    }

    #[test]
    fn refuses_sizes_that_overflow() {
        let mut s = Schema::new();
        assert!(s.add("a", Dtype::F32, &[1 << 61]).is_err());
        assert!(s.add("a", Dtype::F32, &[1 << 62, 0]).is_ok());
        assert!(s.add("b", Dtype::F32, &[1; 33]).is_err());
        assert!(s.add("b", Dtype::F32, &[1; 32]).is_ok());
    }
}
