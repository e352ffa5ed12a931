//! Policies united with a route's own keys, as trees: nodes keep their places, so where a value came from costs nothing.
//!
//! Tables merge key by key at every depth, the later value wins, an array or a one-line form replaces the whole value.
//! Only the keys in [`GROW`] accumulate; there the element `"none"` clears what came before.

use super::tree::{Entry, Node, Value};

/// The keys that accumulate: a policy adds to what another one demands.
pub const GROW: &[&str] = &["limit", "allow"];

/// Lays the steps of a later table over those of earlier ones.
pub fn merge(base: &mut Vec<Entry>, over: &[Entry]) {
    for e in over {
        let at = base.iter().position(|b| b.key == e.key);
        if GROW.contains(&e.key.as_str()) {
            let mut all = at.map_or(vec![], |i| list(base.remove(i).node));
            all.extend(list(e.node.clone()));
            if let Some(none) = all.iter().rposition(|n| n.text().is_some_and(|t| t.value == "none")) {
                all.drain(..=none);
            }
            if !all.is_empty() {
                let node = Node { span: e.node.span.clone(), value: Value::Array(all) };
                let at = at.unwrap_or(base.len());
                base.insert(at, Entry { key: e.key.clone(), at: e.at.clone(), node });
            }
        } else {
            lay(base, at, e);
        }
    }
}

fn lay(base: &mut Vec<Entry>, at: Option<usize>, over: &Entry) {
    let Some(at) = at else { return base.push(over.clone()) };
    match (&mut base[at].node.value, &over.node.value) {
        (Value::Table(b), Value::Table(o)) => {
            for e in o {
                let at = b.iter().position(|x| x.key == e.key);
                lay(b, at, e);
            }
        }
        _ => base[at] = over.clone(),
    }
}

fn list(node: Node) -> Vec<Node> {
    match node.value {
        Value::Array(a) => a,
        Value::Broken => vec![],
        _ => vec![node],
    }
}
