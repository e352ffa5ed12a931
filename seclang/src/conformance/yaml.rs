//! YAML as a tree of text: the tests' scalars are text whatever they look like (`version: 1.1`, `data: 0`).

use std::path::Path;

use yaml_rust2::Event;
use yaml_rust2::parser::{MarkedEventReceiver, Parser};
use yaml_rust2::scanner::Marker;

#[derive(Debug, Clone)]
pub enum Node {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(map) => map.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn list(&self) -> &[Node] {
        match self {
            Node::List(list) => list,
            _ => &[],
        }
    }
}

/// Reads the first document of a file.
pub fn read(path: &Path) -> Result<Node, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut builder = Builder { stack: Vec::new(), root: None };
    Parser::new_from_str(&text).load(&mut builder, false).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(builder.root.unwrap_or(Node::Null))
}

enum Open {
    List(Vec<Node>),
    Map(Vec<(String, Node)>, Option<String>),
}

struct Builder {
    stack: Vec<Open>,
    root: Option<Node>,
}

impl Builder {
    fn add(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => {
                self.root.get_or_insert(node);
            }
            Some(Open::List(list)) => list.push(node),
            Some(Open::Map(map, key)) => match key.take() {
                Some(key) => map.push((key, node)),
                None => *key = Some(node.text().unwrap_or_default().to_owned()),
            },
        }
    }
}

impl MarkedEventReceiver for Builder {
    fn on_event(&mut self, event: Event, _: Marker) {
        use yaml_rust2::scanner::TScalarStyle;
        match event {
            Event::Scalar(text, style, ..) => {
                let null = style == TScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null");
                self.add(if null && !self.expects_key() { Node::Null } else { Node::Text(text) });
            }
            Event::SequenceStart(..) => self.stack.push(Open::List(Vec::new())),
            Event::MappingStart(..) => self.stack.push(Open::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(list)) => self.add(Node::List(list)),
                Some(Open::Map(map, _)) => self.add(Node::Map(map)),
                None => {}
            },
            _ => {}
        }
    }
}

impl Builder {
    fn expects_key(&self) -> bool {
        matches!(self.stack.last(), Some(Open::Map(_, None)))
    }
}
