//! Nodes and a value to text. Called by [`super`]; it knows no function, it is handed what calls them.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::functions::Call;
use super::parser::{Base, Block, Node, Operand, Pipeline};
use super::print::{action, holds, is_map, nothing, sorted};

/// Fills the nodes from `value`; `call` calls the functions.
///
/// # Errors
/// A name that is not there, or a value that a function can't take.
pub fn render(nodes: &[Node], value: &Value, call: Call) -> Result<String> {
    let mut scope = Scope {
        variables: vec![(String::new(), value.clone())],
        out: String::new(),
        is_missing: false,
        call,
    };
    scope.list(nodes, value)?;
    Ok(scope.out)
}

/// How a list of nodes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Scope {
    /// The newest last; the first is `$`.
    variables: Vec<(String, Value)>,
    out: String,
    /// Whether a map was asked for a key that it does not have, since the last action began.
    is_missing: bool,
    call: Call,
}

impl Scope {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::On
                }
                Node::Print(pipeline) => {
                    self.is_missing = false;
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.names.is_empty() {
                        let is_nothing = value.is_null() && !self.is_missing;
                        match pipeline.last_field().filter(|_| is_nothing) {
                            Some(name) => self.out.push_str(nothing(name)),
                            None => self.out.push_str(&action(&value)),
                        }
                    }
                    Flow::On
                }
                Node::Block(block, pipeline, nodes, otherwise) => {
                    let outer = self.variables.len();
                    let flow = self.block(*block, pipeline, nodes, otherwise, dot)?;
                    self.variables.truncate(outer);
                    flow
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn block(
        &mut self,
        block: Block,
        pipeline: &Pipeline,
        nodes: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow> {
        if block == Block::Range {
            return self.range(pipeline, nodes, otherwise, dot);
        }
        let value = self.pipeline(pipeline, dot)?;
        match (holds(&value), block) {
            (false, _) => self.list(otherwise, dot),
            (true, Block::With) => self.list(nodes, &value),
            (true, _) => self.list(nodes, dot),
        }
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        nodes: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow> {
        let value = self.commands(pipeline, dot)?;
        let elements: Vec<(Value, Value)> = match &value {
            Value::Null => Vec::new(),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .map(|(at, element)| (at.into(), element.clone()))
                .collect(),
            Value::Object(_) => sorted(&value)
                .into_iter()
                .map(|(key, element)| (key.clone().into(), element.clone()))
                .collect(),
            other => bail!("range can't iterate over {}", action(other)),
        };
        if elements.is_empty() {
            return self.list(otherwise, dot);
        }
        let outer = self.variables.len();
        for (key, element) in elements {
            match pipeline.names.as_slice() {
                [] => {}
                [name] => self.variables.push((name.clone(), element.clone())),
                [first, second, ..] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), element.clone()));
                }
            }
            let flow = self.list(nodes, &element)?;
            self.variables.truncate(outer);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    /// The value, after its variables took it.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.names {
            if pipeline.declares {
                self.variables.push((name.clone(), value.clone()));
            } else {
                *self.variable(name)? = value.clone();
            }
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, piped, dot)?);
        }
        piped.context("missing value for command")
    }

    fn command(
        &mut self,
        operands: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value> {
        let Some((first, rest)) = operands.split_first() else {
            bail!("missing value for command");
        };
        let Base::Function(name) = &first.base else {
            let value = self.operand(first, dot)?;
            return match (rest, piped) {
                ([], None) => Ok(value),
                // `.Label "key"`: lists have it as a function of the row.
                ([key], None) if value.is_object() => {
                    (self.call)("index", &[value, self.operand(key, dot)?])
                }
                _ => bail!("can't give argument to non-function"),
            };
        };
        // These two do not look at what they don't need.
        if let "and" | "or" = name.as_str() {
            let mut last = None;
            for operand in rest {
                let value = self.operand(operand, dot)?;
                if holds(&value) == (name == "or") {
                    return Ok(value);
                }
                last = Some(value);
            }
            return piped.or(last).with_context(|| {
                format!("wrong number of args for {name}: want at least 1 got 0")
            });
        }
        let mut args = Vec::new();
        for operand in rest {
            args.push(self.operand(operand, dot)?);
        }
        args.extend(piped);
        (self.call)(name, &args).with_context(|| format!("error calling {name}"))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value> {
        let mut value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => self.variable(name)?.clone(),
            Base::Literal(value) => value.clone(),
            Base::Function(name) => (self.call)(name, &[])?,
            Base::Nested(pipeline) => {
                let outer = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                self.variables.truncate(outer);
                value
            }
        };
        let owners = std::iter::once("").chain(operand.fields.iter().map(String::as_str));
        for (owner, name) in owners.zip(&operand.fields) {
            value = match field(&value, name, is_map(owner))? {
                Some(value) => value,
                // As in Go, where what is further behind a key that is not there is not there either.
                None => {
                    self.is_missing = true;
                    return Ok(Value::Null);
                }
            };
        }
        Ok(value)
    }

    fn variable(&mut self, name: &str) -> Result<&mut Value> {
        self.variables
            .iter_mut()
            .rev()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value)
            .with_context(|| format!("undefined variable \"${name}\""))
    }
}

/// Members of objects begin with a capital, as Go's fields do: one that is missing is a mistake. Any other
/// name, and whatever is asked of a map, is a key (a label), which may be missing.
fn field(value: &Value, name: &str, of_map: bool) -> Result<Option<Value>> {
    match value {
        Value::Object(map) => match map.get(name) {
            Some(value) => Ok(Some(value.clone())),
            None if of_map || !name.starts_with(char::is_uppercase) => Ok(None),
            None => bail!("map has no entry for key \"{name}\""),
        },
        // What has no labels, say: a map that is not there.
        Value::Null if of_map => Ok(None),
        Value::Null => bail!("nil data; no entry for key \"{name}\""),
        other => bail!("can't evaluate field {name} in {}", action(other)),
    }
}
