//! `x-kubernetes-validations`: rules in CEL.
//!
//! Parsing is the `cel` crate's; types are checked ([`check`]) and rules run ([`eval`]) here, because a rule must never
//! hang the server: each call has a cost limit and each write a budget, as in the real server, and values are read in
//! place from the object, without building CEL values of it.

mod check;
mod eval;
mod kubernetes;
mod library;
mod quantity;
mod value;

use super::error::FieldError;
use super::gofmt;
use super::regexp::GoRegex;
use super::structural::{Additional, ListType, Node, SchemaError, SchemaPath};
use super::validate::{ListCorrelation, Path};
use ::cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo};
use ::cel::parser::Parser;
use check::{Checker, Ty};
use eval::{Evaluator, Fault};
use serde_json::Value;
use std::collections::HashMap;
use value::Val;

/// What one rule may cost, in evaluation steps.
const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all rules of one write may cost together.
const WRITE_BUDGET: u64 = 10_000_000;
/// Longer rules are refused; the parser's time grows with them.
const MAX_SOURCE: usize = 50_000;
/// Longest text a message expression may make.
const MAX_MESSAGE: usize = 5 * 1024;

/// One rule as written, and its compiled form once the schema has been checked.
#[derive(Debug)]
pub(crate) struct Rule {
    raw: Value,
    source: String,
    message: String,
    message_expression: String,
    reason: Option<String>,
    field_path: String,
    optional_old: Option<bool>,
    compiled: Option<Compiled>,
}

/// A rule ready to run.
struct Compiled {
    program: Program,
    message: Option<Program>,
    uses_old: bool,
    /// Normalised `fieldPath`.
    field_path: String,
}

struct Program {
    expr: IdedExpr,
    regexes: HashMap<String, GoRegex>,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("uses_old", &self.uses_old).finish_non_exhaustive()
    }
}

impl Rule {
    /// Reads a rule; nothing is checked yet.
    pub(crate) fn parse(raw: &Value) -> Self {
        let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
        Self {
            source: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: raw.get("reason").and_then(Value::as_str).map(str::to_string),
            field_path: text("fieldPath"),
            optional_old: raw.get("optionalOldSelf").and_then(Value::as_bool),
            raw: raw.clone(),
            compiled: None,
        }
    }

    /// The rule as the server prints it in an error.
    fn shown(&self) -> String {
        let text = |name: &str| gofmt::json_string(self.raw.get(name).and_then(Value::as_str).unwrap_or_default());
        let reason = self.reason.as_ref().map_or("null".into(), |r| gofmt::json_string(r));
        let old = self.optional_old.map_or("null".into(), |b| b.to_string());
        format!(
            "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{reason},\"FieldPath\":{},\"OptionalOldSelf\":{old}}}",
            text("rule"),
            text("message"),
            text("messageExpression"),
            text("fieldPath")
        )
    }

    fn name(&self) -> &str {
        if self.message.is_empty() {
            self.source.trim()
        } else {
            self.message.trim()
        }
    }
}

/// The property name behind a CEL identifier; `None` when no property is escaped so.
pub(super) fn unescape(name: &str) -> Option<String> {
    const KEYWORDS: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    if !name.contains("__") {
        // A keyword is only reachable by its escaped name.
        return (!KEYWORDS.contains(&name)).then(|| name.to_string());
    }
    if let Some(inner) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && KEYWORDS.contains(&inner)
    {
        return Some(inner.to_string());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 2..];
        let end = tail.find("__")?;
        out.push_str(match &tail[..end] {
            "underscores" => "__",
            "dot" => ".",
            "dash" => "-",
            "slash" => "/",
            _ => return None,
        });
        rest = &tail[end + 2..];
    }
    out.push_str(rest);
    Some(out)
}

/// Compiles every rule of a schema; what does not compile is appended to `errors`.
pub(crate) fn compile_rules(root: &mut Node, errors: &mut Vec<SchemaError>) {
    compile_node(root, true, &SchemaPath::Root, None, errors);
}

fn compile_node(node: &mut Node, root: bool, path: &SchemaPath<'_>, uncorrelatable: Option<&str>, errors: &mut Vec<SchemaError>) {
    let properties = path.child("properties");
    let mut names: Vec<String> = node.properties.keys().cloned().collect();
    names.sort();
    for name in names {
        if let Some(child) = node.properties.get_mut(&name) {
            compile_node(child, child.embedded_resource, &properties.key(&name), uncorrelatable, errors);
        }
    }
    let here = path.to_string();
    let below = uncorrelatable.or_else(|| (node.list_type != ListType::Map).then_some(here.as_str()));
    if let Some(items) = &mut node.items {
        let embedded = items.embedded_resource;
        compile_node(items, embedded, &path.child("items"), below, errors);
    }
    if let Some(Additional::Schema(child)) = &mut node.additional {
        let embedded = child.embedded_resource;
        compile_node(child, embedded, &path.child("additionalProperties"), uncorrelatable, errors);
    }
    if node.rules.is_empty() {
        return;
    }
    let rules_path = path.child("x-kubernetes-validations");
    if Ty::of(node, root || node.embedded_resource).is_none() {
        errors.push(FieldError::internal(
            rules_path.to_string(),
            "internal error: failed to retrieve type information for x-kubernetes-validations",
        ));
        return;
    }
    let mut rules = std::mem::take(&mut node.rules);
    for (i, rule) in rules.iter_mut().enumerate() {
        let at = rules_path.index(i);
        let before = errors.len();
        static_checks(rule, node, &at, errors);
        if errors.len() > before {
            continue;
        }
        let Some(this) = Ty::of(node, root || node.embedded_resource) else {
            continue;
        };
        match compile(rule, this) {
            Ok(compiled) => {
                if compiled.uses_old {
                    if let Some(within) = uncorrelatable {
                        errors.push(FieldError::invalid_str(
                            at.child("rule").to_string(),
                            &rule.source,
                            &format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"),
                        ));
                    }
                } else if let Some(old) = rule.optional_old {
                    errors.push(FieldError::invalid(
                        at.child("optionalOldSelf").to_string(),
                        &Value::Bool(old),
                        "may not be set if oldSelf is not used in rule",
                    ));
                }
                rule.compiled = Some(compiled);
            }
            Err((field, detail)) => errors.push(FieldError {
                field: at.child(field).to_string(),
                reason: super::CauseReason::Invalid,
                message: format!("Invalid value: {}: {detail}", rule.shown()),
            }),
        }
    }
    node.rules = rules;
}

fn static_checks(rule: &Rule, node: &Node, at: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    let trimmed = rule.source.trim();
    let message = rule.message.trim();
    if trimmed.is_empty() {
        errors.push(FieldError::required(at.child("rule").to_string(), "rule is not specified"));
    } else if !rule.message.is_empty() && message.is_empty() {
        errors.push(FieldError::invalid_str(
            at.child("message").to_string(),
            &rule.message,
            "must be non-empty if specified",
        ));
    } else if message.contains('\n') {
        errors.push(FieldError::invalid_str(
            at.child("message").to_string(),
            &rule.message,
            "must not contain line breaks",
        ));
    } else if trimmed.contains('\n') && message.is_empty() {
        errors.push(FieldError::required(
            at.child("message").to_string(),
            "message must be specified if rule contains line breaks",
        ));
    }
    if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
        errors.push(FieldError::required(
            at.child("messageExpression").to_string(),
            "messageExpression must be non-empty if specified",
        ));
    }
    if let Some(reason) = &rule.reason {
        const REASONS: [&str; 4] = [
            "FieldValueDuplicate",
            "FieldValueForbidden",
            "FieldValueInvalid",
            "FieldValueRequired",
        ];
        if !REASONS.contains(&reason.as_str()) {
            errors.push(FieldError::not_supported(
                at.child("reason").to_string(),
                &Value::String(reason.clone()),
                &REASONS,
            ));
        }
    }
    if !rule.field_path.is_empty() {
        let field = at.child("fieldPath").to_string();
        if rule.field_path.trim().is_empty() {
            errors.push(FieldError::invalid_str(field, &rule.field_path, "must be non-empty if specified"));
        } else if rule.field_path.contains('\n') {
            errors.push(FieldError::invalid_str(field, &rule.field_path, "must not contain line breaks"));
        } else if field_path(&rule.field_path, node).is_none() {
            errors.push(FieldError::invalid_str(field, &rule.field_path, "must be a valid path"));
        }
    }
    for (field, source) in [("rule", &rule.source), ("messageExpression", &rule.message_expression)] {
        if source.len() > MAX_SOURCE {
            errors.push(FieldError::too_long(
                at.child(field).to_string(),
                i64::try_from(MAX_SOURCE).unwrap_or(i64::MAX),
            ));
        }
    }
}

/// Normalises `.a.b` or `.a['b']` to a field path, if the schema has it.
fn field_path(path: &str, node: &Node) -> Option<String> {
    let mut out = String::new();
    let mut node = node;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, tail) = if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            (tail[..end].to_string(), &tail[end..])
        } else {
            let inner = rest.strip_prefix("['")?;
            let end = inner.find("']")?;
            (inner[..end].replace("\\'", "'").replace("\\\\", "\\"), &inner[end + 2..])
        };
        if name.is_empty() {
            return None;
        }
        if let Some(child) = node.properties.get(&name) {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&name);
            node = child;
        } else if node.properties.is_empty()
            && let Some(Additional::Schema(child)) = &node.additional
        {
            out.push_str(&format!("[{name}]"));
            node = child;
        } else {
            return None;
        }
        rest = tail;
    }
    Some(out)
}

fn compile(rule: &Rule, this: Ty<'_>) -> Result<Compiled, (&'static str, String)> {
    let old = match rule.optional_old {
        Some(true) => Ty::Opt(std::rc::Rc::new(this.clone())),
        _ => this.clone(),
    };
    let (program, typ, uses_old) = compile_source(&rule.source, this.clone(), old.clone()).map_err(|e| ("rule", e))?;
    if !matches!(typ, Ty::Bool | Ty::Dyn) {
        return Err(("rule", "cel expression must evaluate to a bool".into()));
    }
    let message = if rule.message_expression.trim().is_empty() {
        None
    } else {
        let (program, typ, message_uses_old) =
            compile_source(&rule.message_expression, this, old).map_err(|e| ("messageExpression", format!("messageExpression {e}")))?;
        if !matches!(typ, Ty::Str | Ty::Dyn) {
            return Err(("messageExpression", "messageExpression must evaluate to a string".into()));
        }
        if message_uses_old && !uses_old {
            return Err((
                "messageExpression",
                "messageExpression uses oldSelf, which the rule does not use".into(),
            ));
        }
        Some(program)
    };
    Ok(Compiled {
        program,
        message,
        uses_old,
        field_path: rule.field_path.clone(),
    })
}

fn compile_source<'a>(source: &str, this: Ty<'a>, old: Ty<'a>) -> Result<(Program, Ty<'a>, bool), String> {
    let parser = Parser::new().enable_optional_syntax(true).enable_ident_escape_syntax(true);
    let (expr, info) = match parser.parse_with_source_info(source) {
        Ok(parsed) => parsed,
        Err(errors) => {
            let list: Vec<String> = errors
                .errors
                .iter()
                .map(|e| {
                    let text = e.msg.strip_prefix("Syntax error: ").unwrap_or(&e.msg);
                    pointed(source, e.pos.0, e.pos.1, &format!("Syntax error: {text}"))
                })
                .collect();
            return Err(format!("compilation failed: {}", list.join("\n")));
        }
    };
    let mut checker = Checker::new(this, old);
    let typ = checker.check(&expr);
    if !checker.complaints.is_empty() {
        let list: Vec<String> = checker
            .complaints
            .iter()
            .map(|c| {
                let (line, column) = position(&info, c.id, source);
                pointed(source, line, column, &c.text)
            })
            .collect();
        return Err(format!("compilation failed: {}", list.join("\n")));
    }
    let mut regexes = HashMap::new();
    patterns(&expr, &mut regexes).map_err(|bad| match bad {
        BadPattern::Literal(id) => {
            let (line, column) = position(&info, id, source);
            format!("compilation failed: {}", pointed(source, line, column, "invalid matches argument"))
        }
        BadPattern::Program(why) => format!("program instantiation failed: error parsing regexp: {why}"),
    })?;
    let uses_old = checker.uses_old;
    Ok((Program { expr, regexes }, typ, uses_old))
}

fn position(info: &SourceInfo, id: u64, source: &str) -> (isize, isize) {
    let offset = info
        .offset_for(id)
        .map_or(0, |(start, _)| start as usize)
        .min(source.chars().count());
    let before: String = source.chars().take(offset).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (isize::try_from(line).unwrap_or(1), isize::try_from(column).unwrap_or(1))
}

/// An error with the source line and a caret under the column.
fn pointed(source: &str, line: isize, column: isize, text: &str) -> String {
    let at = usize::try_from(line - 1).unwrap_or(0);
    let snippet = source.lines().nth(at).unwrap_or_default();
    let dots = ".".repeat(usize::try_from(column - 1).unwrap_or(0).min(snippet.len()));
    format!("ERROR: <input>:{line}:{column}: {text}\n | {snippet}\n | {dots}^")
}

/// A pattern that does not compile. The real server finds those of `matches` when it checks a rule, all others when it builds its program.
enum BadPattern {
    Literal(u64),
    Program(String),
}

/// Compiles the patterns that are written as literals.
fn patterns(expr: &IdedExpr, out: &mut HashMap<String, GoRegex>) -> Result<(), BadPattern> {
    match &expr.expr {
        Expr::Call(call) => {
            if matches!(call.func_name.as_str(), "matches" | "find" | "findAll") {
                let at = usize::from(call.target.is_none());
                if let Some(arg) = call.args.get(at)
                    && let Expr::Literal(LiteralValue::String(pattern)) = &arg.expr
                {
                    let pattern = pattern.inner().to_string();
                    let regex = GoRegex::new(&pattern).map_err(|why| match call.func_name.as_str() {
                        "matches" => BadPattern::Literal(arg.id),
                        _ => BadPattern::Program(why),
                    })?;
                    out.insert(pattern, regex);
                }
            }
            if let Some(target) = &call.target {
                patterns(target, out)?;
            }
            call.args.iter().try_for_each(|a| patterns(a, out))
        }
        Expr::Select(select) => patterns(&select.operand, out),
        Expr::List(list) => list.elements.iter().try_for_each(|e| patterns(e, out)),
        Expr::Map(map) => map.entries.iter().try_for_each(|e| match &e.expr {
            EntryExpr::MapEntry(e) => patterns(&e.key, out).and_then(|()| patterns(&e.value, out)),
            EntryExpr::StructField(_) => Ok(()),
        }),
        Expr::Comprehension(c) => [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
            .into_iter()
            .try_for_each(|e| patterns(e, out)),
        _ => Ok(()),
    }
}

struct Run<'e> {
    budget: u64,
    errors: &'e mut Vec<FieldError>,
    stopped: bool,
}

/// Runs every rule of a schema on an object.
pub(crate) fn validate_rules(root: &Node, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let mut run = Run {
        budget: WRITE_BUDGET,
        errors,
        stopped: false,
    };
    run.visit(root, new, old, Ratchet { here: old, parent: None }, Path::Root);
}

/// Runs the rules of one node on a value of its own, as if it had been that value before.
pub(crate) fn validate_rules_at(node: &Node, value: &Value, errors: &mut Vec<FieldError>) {
    let mut run = Run {
        budget: WRITE_BUDGET,
        errors,
        stopped: false,
    };
    run.visit(node, value, Some(value), Ratchet { here: None, parent: None }, Path::Root);
}

/// The old value to compare with, for forgiving errors in what did not change.
#[derive(Clone, Copy)]
struct Ratchet<'v> {
    here: Option<&'v Value>,
    parent: Option<(&'v Value, &'v Value)>,
}

impl<'v> Ratchet<'v> {
    fn forgives(&self, value: &Value) -> bool {
        match (self.here, self.parent) {
            (Some(old), _) => gofmt::same(old, value),
            (None, Some((old, new))) => gofmt::same(old, new),
            (None, None) => false,
        }
    }

    fn down(&self, value: &'v Value, old: Option<&'v Value>) -> Self {
        match self.here {
            Some(here) => Self {
                here: old,
                parent: Some((here, value)),
            },
            None => *self,
        }
    }
}

impl Run<'_> {
    fn visit<'v>(&mut self, node: &'v Node, value: &'v Value, old: Option<&'v Value>, ratchet: Ratchet<'v>, path: Path<'_>) {
        if self.stopped || !node.has_rules || value.is_null() {
            return;
        }
        self.rules(node, value, old.filter(|o| !o.is_null()), ratchet, path);
        match value {
            Value::Array(items) => {
                if let Some(schema) = node.items.as_deref().filter(|s| s.has_rules) {
                    let before = ListCorrelation::with(node, old);
                    for (i, item) in items.iter().enumerate() {
                        let old_item = before.get(item);
                        self.visit(schema, item, old_item, ratchet.down(value, old_item), Path::Index(&path, i));
                    }
                }
            }
            Value::Object(map) => {
                let before = old.and_then(Value::as_object);
                for (key, child) in map {
                    let (schema, named) = match (node.properties.get(key), &node.additional) {
                        (Some(schema), _) => (schema, true),
                        (None, Some(Additional::Schema(schema))) => (&**schema, false),
                        _ => continue,
                    };
                    if !schema.has_rules {
                        continue;
                    }
                    let old_child = before.and_then(|o| o.get(key));
                    let below = if named { Path::Child(&path, key) } else { Path::Key(&path, key) };
                    self.visit(schema, child, old_child, ratchet.down(value, old_child), below);
                }
            }
            _ => {}
        }
    }

    fn rules(&mut self, node: &Node, value: &Value, old: Option<&Value>, ratchet: Ratchet<'_>, path: Path<'_>) {
        for rule in &node.rules {
            let Some(compiled) = &rule.compiled else { continue };
            let optional = rule.optional_old == Some(true);
            if compiled.uses_old && old.is_none() && !optional {
                continue;
            }
            if self.budget == 0 {
                return self.stop(
                    path,
                    node,
                    "validation failed due to running out of cost budget, no further validation rules will be run",
                );
            }
            let old_value = || {
                let old = old.map(|o| Val::of(o, Some(node)));
                if optional { Some(Val::Opt(old.map(Box::new))) } else { old }
            };
            let limit = PER_CALL_LIMIT.min(self.budget);
            let mut evaluator = Evaluator::new(Val::of(value, Some(node)), old_value(), &compiled.program.regexes, limit);
            let result = evaluator.eval(&compiled.program.expr);
            self.budget -= evaluator.spent().min(self.budget);
            match result {
                Ok(Val::Bool(true)) => continue,
                Ok(_) => {}
                Err(Fault::Budget) => {
                    let detail = format!(
                        "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        rule.name()
                    );
                    return self.stop(path, node, &detail);
                }
                Err(Fault::Error(error)) => {
                    let detail = if error.starts_with("no such overload") {
                        format!(
                            "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                            rule.name()
                        )
                    } else {
                        format!("{error} evaluating rule: {}", rule.name())
                    };
                    self.errors.push(typed_error(path.field(), node, &detail));
                    continue;
                }
            }
            if !compiled.uses_old && ratchet.forgives(value) {
                continue;
            }
            let detail = match compiled.message.as_ref().and_then(|m| self.message(m, node, value, old_value())) {
                Some(text) => text,
                None if rule.message.is_empty() => format!("failed rule: {}", rule.name()),
                None => rule.message.trim().to_string(),
            };
            self.errors.push(failure(rule, compiled, node, value, &detail, path));
        }
    }

    fn message<'v>(&mut self, program: &'v Program, node: &'v Node, value: &'v Value, old: Option<Val<'v>>) -> Option<String> {
        let mut evaluator = Evaluator::new(Val::of(value, Some(node)), old, &program.regexes, PER_CALL_LIMIT.min(self.budget));
        let result = evaluator.eval(&program.expr);
        self.budget -= evaluator.spent().min(self.budget);
        match result {
            Ok(Val::Str(text)) => {
                let text = text.trim();
                (!text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')).then(|| text.to_string())
            }
            _ => None,
        }
    }

    fn stop(&mut self, path: Path<'_>, node: &Node, detail: &str) {
        self.errors.push(typed_error(path.field(), node, detail));
        self.budget = 0;
        self.stopped = true;
    }
}

fn typed_error(field: String, node: &Node, detail: &str) -> FieldError {
    FieldError::invalid_str(field, node.typ.as_str(), detail)
}

fn failure(rule: &Rule, compiled: &Compiled, node: &Node, value: &Value, detail: &str, path: Path<'_>) -> FieldError {
    let mut field = path.field();
    if let Some(below) = field_path(&compiled.field_path, node).filter(|p| !p.is_empty()) {
        field = match (field.as_str(), below.starts_with('[')) {
            ("<nil>", _) => below,
            (_, true) => format!("{field}{below}"),
            _ => format!("{field}.{below}"),
        };
    }
    let large = matches!(value, Value::Object(_) | Value::Array(_));
    match rule.reason.as_deref() {
        Some("FieldValueForbidden") => FieldError::forbidden(field, detail),
        Some("FieldValueRequired") => FieldError::required(field, detail),
        Some("FieldValueDuplicate") if large => FieldError::duplicate_omitted(field),
        Some("FieldValueDuplicate") => FieldError::duplicate(field, value),
        _ if large => FieldError::invalid_omitted(field, detail),
        _ => FieldError::invalid(field, value, detail),
    }
}

#[cfg(test)]
mod tests;
