//! Pieces to a tree of nodes. Called by [`super`]; it knows no value.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::functions;
use super::lexer::{Kind, Piece, Token};

/// How deep blocks and parentheses may be nested: more is a mistake, and each takes stack.
const DEPTH_MAX: usize = 100;

/// A part of what is printed.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Text.
    Text(String),
    /// A value.
    Print(Pipeline),
    /// `if`, `with`, `range` with its `else`.
    Block(Block, Pipeline, Vec<Node>, Vec<Node>),
    /// `break`.
    Break,
    /// `continue`.
    Continue,
}

/// Which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Once, if it holds.
    If,
    /// Once, if it holds, with the value as dot.
    With,
    /// For each element.
    Range,
}

/// Commands of which each gets the value of the one before as its last argument.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Variables that take the value: none, one, or for `range` two.
    pub names: Vec<String>,
    /// Whether these are new ones (`:=`).
    pub declares: bool,
    /// At least one.
    pub commands: Vec<Vec<Operand>>,
}

impl Pipeline {
    /// The name of the member that it is, if it is no more than that.
    pub fn last_field(&self) -> Option<&str> {
        match self.commands.as_slice() {
            [command] => match command.as_slice() {
                [operand] => operand.fields.last().map(String::as_str),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A value in a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Operand {
    /// Where it begins.
    pub base: Base,
    /// Fields that are followed from there.
    pub fields: Vec<String>,
}

/// Where a value begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    /// `.`
    Dot,
    /// `$name`; empty for `$`.
    Variable(String),
    /// As written.
    Literal(Value),
    /// A function, which takes the operands behind it.
    Function(String),
    /// In parentheses.
    Nested(Pipeline),
}

/// What ended a list of nodes.
#[derive(Debug, PartialEq)]
enum Ending {
    Text,
    End,
    Else,
    /// `else if` and `else with`, with what is behind them.
    ElseBlock(Block, Vec<Token>),
}

/// Reads a template.
///
/// # Errors
/// In Go's words where it has some.
pub fn parse(pieces: &[Piece]) -> Result<Vec<Node>> {
    let mut parser = Parser {
        pieces,
        depth: 0,
        ranges: 0,
    };
    match parser.list()? {
        (nodes, Ending::Text) => Ok(nodes),
        (_, Ending::End) => bail!("unexpected {{{{end}}}}"),
        _ => bail!("unexpected {{{{else}}}}"),
    }
}

struct Parser<'a> {
    pieces: &'a [Piece],
    depth: usize,
    /// How many `range` blocks are open.
    ranges: usize,
}

impl Parser<'_> {
    fn list(&mut self) -> Result<(Vec<Node>, Ending)> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            bail!("nested deeper than {DEPTH_MAX} blocks");
        }
        let mut nodes = Vec::new();
        let ending = loop {
            let Some((piece, rest)) = self.pieces.split_first() else {
                break Ending::Text;
            };
            self.pieces = rest;
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.clone()));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let (keyword, behind) = match tokens.split_first() {
                Some((
                    Token {
                        kind: Kind::Word(word),
                        ..
                    },
                    behind,
                )) => (word.as_str(), behind),
                Some(_) => ("", tokens.as_slice()),
                None => bail!("missing value for command"),
            };
            match keyword {
                "if" => nodes.push(self.block(Block::If, behind)?),
                "with" => nodes.push(self.block(Block::With, behind)?),
                "range" => nodes.push(self.block(Block::Range, behind)?),
                "end" => break Ending::End,
                "else" => break ending_else(behind)?,
                "break" | "continue" if self.ranges == 0 => {
                    bail!("{{{{{keyword}}}}} outside {{{{range}}}}")
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => bail!("{{{{{keyword}}}}} is not supported"),
                _ => nodes.push(Node::Print(pipeline(tokens, Block::If)?)),
            }
        };
        self.depth -= 1;
        Ok((nodes, ending))
    }

    fn block(&mut self, block: Block, head: &[Token]) -> Result<Node> {
        let pipeline = pipeline(head, block)?;
        self.ranges += usize::from(block == Block::Range);
        let (nodes, ending) = self.list()?;
        self.ranges -= usize::from(block == Block::Range);
        let otherwise = match ending {
            Ending::End => Vec::new(),
            Ending::Else => match self.list()? {
                (nodes, Ending::End) => nodes,
                (_, Ending::Text) => bail!("unexpected EOF"),
                _ => bail!("expected end; found {{{{else}}}}"),
            },
            // One `end` closes both.
            Ending::ElseBlock(block, head) => vec![self.block(block, &head)?],
            Ending::Text => bail!("unexpected EOF"),
        };
        Ok(Node::Block(block, pipeline, nodes, otherwise))
    }
}

fn ending_else(behind: &[Token]) -> Result<Ending> {
    let block = match behind.first().map(|token| &token.kind) {
        None => return Ok(Ending::Else),
        Some(Kind::Word(word)) if word == "if" => Block::If,
        Some(Kind::Word(word)) if word == "with" => Block::With,
        _ => bail!("unexpected text behind {{{{else"),
    };
    Ok(Ending::ElseBlock(block, behind[1..].to_vec()))
}

/// Tokens of a pipeline, all of them.
fn pipeline(tokens: &[Token], block: Block) -> Result<Pipeline> {
    let (pipeline, rest) = pipeline_until(tokens, block, 0)?;
    match rest {
        [] => Ok(pipeline),
        _ => bail!("unexpected right paren"),
    }
}

/// A pipeline up to a closing parenthesis, and what is behind it, the parenthesis first.
fn pipeline_until(tokens: &[Token], block: Block, depth: usize) -> Result<(Pipeline, &[Token])> {
    if depth > DEPTH_MAX {
        bail!("nested deeper than {DEPTH_MAX} parentheses");
    }
    let (names, declares, mut rest) = declaration(tokens, block);
    let mut commands = Vec::new();
    loop {
        let (command, behind) = command(rest, depth)?;
        if command.is_empty() {
            bail!("missing value for command");
        }
        commands.push(command);
        match behind.split_first() {
            Some((
                Token {
                    kind: Kind::Pipe, ..
                },
                behind,
            )) => rest = behind,
            _ => {
                rest = behind;
                break;
            }
        }
    }
    // `a | "text"` gives a value to what takes none.
    for command in commands.iter().skip(1) {
        if !matches!(command[0].base, Base::Function(_)) {
            bail!("non executable command in pipeline stage");
        }
    }
    Ok((
        Pipeline {
            names,
            declares,
            commands,
        },
        rest,
    ))
}

/// `$x :=`, `$x =`, and for a range `$i, $x :=`.
fn declaration(tokens: &[Token], block: Block) -> (Vec<String>, bool, &[Token]) {
    let kinds: Vec<&Kind> = tokens.iter().take(4).map(|token| &token.kind).collect();
    match kinds.as_slice() {
        [
            Kind::Variable(a),
            Kind::Comma,
            Kind::Variable(b),
            Kind::Declare,
        ] if block == Block::Range => (vec![a.clone(), b.clone()], true, &tokens[4..]),
        [Kind::Variable(a), Kind::Declare, ..] => (vec![a.clone()], true, &tokens[2..]),
        [Kind::Variable(a), Kind::Assign, ..] => (vec![a.clone()], false, &tokens[2..]),
        _ => (Vec::new(), false, tokens),
    }
}

/// Operands up to a pipe, a closing parenthesis or the end.
fn command(tokens: &[Token], depth: usize) -> Result<(Vec<Operand>, &[Token])> {
    let mut operands = Vec::new();
    let mut rest = tokens;
    while let Some((token, behind)) = rest.split_first() {
        let mut fields = Vec::new();
        let mut behind = behind;
        let base = match &token.kind {
            Kind::Pipe | Kind::Close => break,
            Kind::Dot => Base::Dot,
            Kind::Field(name) => {
                fields.push(name.clone());
                Base::Dot
            }
            Kind::Variable(name) => Base::Variable(name.clone()),
            Kind::Word(word) => match word.as_str() {
                "true" => Base::Literal(Value::Bool(true)),
                "false" => Base::Literal(Value::Bool(false)),
                "nil" => Base::Literal(Value::Null),
                name if functions::NAMES.contains(&name) => Base::Function(word.clone()),
                name => bail!("function \"{name}\" not defined"),
            },
            Kind::Text(text) => Base::Literal(text.clone().into()),
            Kind::Integer(number) => Base::Literal((*number).into()),
            Kind::Float(number) => Base::Literal((*number).into()),
            Kind::Open => {
                let (pipeline, after) = pipeline_until(behind, Block::If, depth + 1)?;
                let (_, after) = after.split_first().context("unclosed left paren")?;
                behind = after;
                Base::Nested(pipeline)
            }
            Kind::Declare | Kind::Assign | Kind::Comma => bail!("unexpected {:?}", token.kind),
        };
        while let Some((
            Token {
                kind: Kind::Field(name),
                glued: true,
            },
            after,
        )) = behind.split_first()
        {
            fields.push(name.clone());
            behind = after;
        }
        operands.push(Operand { base, fields });
        rest = behind;
    }
    Ok((operands, rest))
}
