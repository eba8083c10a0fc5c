//! Evaluation of rules, with a budget: every step costs, and a rule that spends more than it may is stopped.

use super::super::regexp::GoRegex;
use super::library;
use super::value::Val;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators as op};
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

/// Why an evaluation has no value.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// An error of the rule: a missing key, an overflow.
    Error(String),
    /// The budget is spent.
    Budget,
}

impl Fault {
    pub(super) fn new<'a>(text: impl Into<String>) -> Result<Val<'a>, Self> {
        Err(Self::Error(text.into()))
    }

    pub(super) fn overload<'a>() -> Result<Val<'a>, Self> {
        Err(Self::Error("no such overload".into()))
    }
}

/// One evaluation.
pub(super) struct Evaluator<'a> {
    scope: Vec<(&'a str, Val<'a>)>,
    regexes: &'a HashMap<String, GoRegex>,
    left: u64,
    limit: u64,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(this: Val<'a>, old: Option<Val<'a>>, regexes: &'a HashMap<String, GoRegex>, limit: u64) -> Self {
        let mut scope = vec![("self", this)];
        if let Some(old) = old {
            scope.push(("oldSelf", old));
        }
        Self {
            scope,
            regexes,
            left: limit,
            limit,
        }
    }

    /// What has been spent.
    pub(super) fn spent(&self) -> u64 {
        self.limit - self.left
    }

    pub(super) fn charge(&mut self, cost: u64) -> Result<(), Fault> {
        if cost > self.left {
            self.left = 0;
            return Err(Fault::Budget);
        }
        self.left -= cost;
        Ok(())
    }

    /// A compiled pattern; literals of the rule were compiled with it.
    pub(super) fn regex(&self, pattern: &str) -> Result<Cow<'a, GoRegex>, Fault> {
        match self.regexes.get(pattern) {
            Some(regex) => Ok(Cow::Borrowed(regex)),
            None => GoRegex::new(pattern).map(Cow::Owned).map_err(Fault::Error),
        }
    }

    pub(super) fn eval(&mut self, expr: &'a IdedExpr) -> Result<Val<'a>, Fault> {
        self.charge(1)?;
        match &expr.expr {
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(b) => Val::Bool(*b.inner()),
                LiteralValue::Bytes(b) => Val::Bytes(Rc::new(b.inner().to_vec())),
                LiteralValue::Double(d) => Val::Double(*d.inner()),
                LiteralValue::Int(i) => Val::Int(*i.inner()),
                LiteralValue::Null => Val::Null,
                LiteralValue::String(s) => Val::Str(Cow::Borrowed(s.inner())),
                LiteralValue::UInt(u) => Val::Uint(*u.inner()),
            }),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                for (i, element) in list.elements.iter().enumerate() {
                    let value = self.eval(element)?;
                    if list.optional_indices.contains(&i) {
                        if let Val::Opt(Some(inner)) = value {
                            items.push(*inner);
                        }
                    } else {
                        items.push(value);
                    }
                }
                Ok(Val::list(items))
            }
            Expr::Map(map) => {
                let mut entries: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Fault::new("unsupported map entry");
                    };
                    let key = self.eval(&entry.key)?;
                    let value = self.eval(&entry.value)?;
                    if entries.iter().any(|(k, _)| k.equal(&key)) {
                        return Fault::new("Failed with repeated key");
                    }
                    if entry.optional {
                        if let Val::Opt(Some(inner)) = value {
                            entries.push((key, *inner));
                        }
                    } else {
                        entries.push((key, value));
                    }
                }
                Ok(Val::Map(Rc::new(entries)))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) | Expr::Unspecified => Fault::new("unsupported expression"),
        }
    }

    fn ident(&mut self, name: &str) -> Result<Val<'a>, Fault> {
        if let Some((_, value)) = self.scope.iter().rev().find(|(n, _)| *n == name) {
            return Ok(value.clone());
        }
        match library::type_value(name) {
            Some(typ) => Ok(Val::Type(typ)),
            None => Fault::new(format!("no such attribute(s): {name}")),
        }
    }

    fn select(&mut self, select: &'a SelectExpr) -> Result<Val<'a>, Fault> {
        // A qualified type name, such as google.protobuf.Duration.
        if let Some(path) = type_path(select)
            && !self.scope.iter().any(|(n, _)| path.split('.').next() == Some(*n))
            && let Some(typ) = library::type_value(&path)
        {
            return Ok(Val::Type(typ));
        }
        let operand = self.eval(&select.operand)?;
        if let Val::Opt(inner) = &operand {
            let found = inner.as_ref().and_then(|v| field(v, &select.field));
            return Ok(if select.test {
                Val::Bool(found.is_some())
            } else {
                Val::Opt(found.map(Box::new))
            });
        }
        let found = field(&operand, &select.field);
        if select.test {
            return match operand.type_name() {
                "map" => Ok(Val::Bool(found.is_some())),
                _ => Fault::overload(),
            };
        }
        match found {
            Some(value) => Ok(value),
            None if operand.type_name() == "map" => Fault::new(format!("no such key: {}", select.field)),
            None => Fault::overload(),
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Result<Val<'a>, Fault> {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (op::LOGICAL_AND, args) => return self.logic(args, false),
            (op::LOGICAL_OR, args) => return self.logic(args, true),
            (op::CONDITIONAL, [cond, then, other]) => {
                return match self.eval(cond)? {
                    Val::Bool(true) => self.eval(then),
                    Val::Bool(false) => self.eval(other),
                    _ => Fault::overload(),
                };
            }
            (op::NOT_STRICTLY_FALSE, [arg]) => {
                return match self.eval(arg) {
                    Ok(Val::Bool(b)) => Ok(Val::Bool(b)),
                    Err(Fault::Budget) => Err(Fault::Budget),
                    _ => Ok(Val::Bool(true)),
                };
            }
            (op::OPT_SELECT, [operand, name]) => {
                let operand = self.eval(operand)?;
                let Expr::Literal(LiteralValue::String(name)) = &name.expr else {
                    return Fault::overload();
                };
                let inner = match operand {
                    Val::Opt(None) => return Ok(Val::Opt(None)),
                    Val::Opt(Some(inner)) => *inner,
                    other => other,
                };
                return Ok(Val::Opt(field(&inner, name.inner()).map(Box::new)));
            }
            (op::OPT_INDEX, [operand, index]) => {
                let operand = self.eval(operand)?;
                let index = self.eval(index)?;
                let inner = match operand {
                    Val::Opt(None) => return Ok(Val::Opt(None)),
                    Val::Opt(Some(inner)) => *inner,
                    other => other,
                };
                return Ok(Val::Opt(inner.get(&index).map(Box::new)));
            }
            ("optMap" | "optFlatMap", [var, body]) if call.target.is_some() => {
                let Some(target) = &call.target else { return Fault::overload() };
                let Expr::Ident(var) = &var.expr else { return Fault::overload() };
                let Val::Opt(inner) = self.eval(target)? else {
                    return Fault::overload();
                };
                let Some(inner) = inner else { return Ok(Val::Opt(None)) };
                self.scope.push((var, *inner));
                let result = self.eval(body);
                self.scope.pop();
                return match (name, result?) {
                    ("optFlatMap", flat @ Val::Opt(_)) => Ok(flat),
                    (_, value) => Ok(Val::Opt(Some(Box::new(value)))),
                };
            }
            _ => {}
        }
        // A namespace such as `ip.isCanonical`.
        if let Some(target) = &call.target
            && let Expr::Ident(space) = &target.expr
            && !self.scope.iter().any(|(n, _)| n == space)
        {
            let args = self.args(&call.args)?;
            return library::namespaced(self, space, name, &args);
        }
        let mut args = Vec::with_capacity(call.args.len() + 1);
        if let Some(target) = &call.target {
            args.push(self.eval(target)?);
        }
        args.extend(self.args(&call.args)?);
        library::call(self, name, call.target.is_some(), &args)
    }

    fn args(&mut self, args: &'a [IdedExpr]) -> Result<Vec<Val<'a>>, Fault> {
        args.iter().map(|a| self.eval(a)).collect()
    }

    /// `&&` and `||`: one side may fail when the other decides.
    fn logic(&mut self, args: &'a [IdedExpr], decides: bool) -> Result<Val<'a>, Fault> {
        let mut fault = None;
        for arg in args {
            match self.eval(arg) {
                Ok(Val::Bool(b)) if b == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => fault = fault.or(Some(Fault::Error("no such overload".into()))),
                Err(Fault::Budget) => return Err(Fault::Budget),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => Ok(Val::Bool(!decides)),
        }
    }

    fn comprehension(&mut self, c: &'a ComprehensionExpr) -> Result<Val<'a>, Fault> {
        let range = self.eval(&c.iter_range)?;
        let is_map = range.type_name() == "map";
        let Some(items) = range.range() else { return Fault::overload() };
        self.charge(items.len() as u64)?;
        let base = self.scope.len();
        let accu = self.eval(&c.accu_init)?;
        self.scope.push((&c.accu_var, accu));
        let result = self.run_loop(c, items, is_map, base);
        let result = match result {
            Ok(()) => {
                self.scope.truncate(base + 1);
                self.eval(&c.result)
            }
            Err(fault) => Err(fault),
        };
        self.scope.truncate(base);
        result
    }

    fn run_loop(&mut self, c: &'a ComprehensionExpr, items: Vec<(Val<'a>, Val<'a>)>, is_map: bool, base: usize) -> Result<(), Fault> {
        // An error inside all() or exists() is forgotten when a later entry decides.
        let mut pending: Option<Fault> = None;
        for (key, value) in items {
            self.scope.truncate(base + 1);
            match &c.iter_var2 {
                Some(second) => {
                    self.scope.push((&c.iter_var, key));
                    self.scope.push((second, value));
                }
                None => self.scope.push((&c.iter_var, if is_map { key } else { value })),
            }
            match self.eval(&c.loop_cond)? {
                Val::Bool(true) => {}
                _ => break,
            }
            let step = match self.append(&c.loop_step, base)? {
                Some(()) => continue,
                None => self.eval(&c.loop_step),
            };
            match step {
                Ok(value) => {
                    let decided = matches!((&value, &c.loop_step.expr), (Val::Bool(b), Expr::Call(call))
                        if (call.func_name == op::LOGICAL_OR) == *b && matches!(call.func_name.as_str(), op::LOGICAL_OR | op::LOGICAL_AND));
                    self.scope[base].1 = value;
                    if decided {
                        pending = None;
                        break;
                    }
                }
                Err(Fault::Budget) => return Err(Fault::Budget),
                Err(fault) => {
                    let tolerant = matches!(&c.loop_step.expr, Expr::Call(call) if matches!(call.func_name.as_str(), op::LOGICAL_OR | op::LOGICAL_AND));
                    if !tolerant {
                        return Err(fault);
                    }
                    pending = pending.or(Some(fault));
                }
            }
        }
        match pending {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// `accu + [x]`, the step of `map` and `filter`, appends in place instead of copying the list each time.
    fn append(&mut self, step: &'a IdedExpr, base: usize) -> Result<Option<()>, Fault> {
        let Expr::Call(call) = &step.expr else { return Ok(None) };
        match (call.func_name.as_str(), call.args.as_slice()) {
            (op::CONDITIONAL, [cond, then, other]) if is_accu(other, self.scope[base].0) && appends(then, self.scope[base].0) => {
                match self.eval(cond)? {
                    Val::Bool(true) => self.append(then, base),
                    Val::Bool(false) => Ok(Some(())),
                    _ => Err(Fault::Error("no such overload".into())),
                }
            }
            (op::ADD, [accu, list]) if is_accu(accu, self.scope[base].0) => {
                let Expr::List(list) = &list.expr else { return Ok(None) };
                let [element] = list.elements.as_slice() else { return Ok(None) };
                let value = self.eval(element)?;
                match &mut self.scope[base].1 {
                    Val::List(items) => {
                        Rc::make_mut(items).push(value);
                        Ok(Some(()))
                    }
                    _ => Err(Fault::Error("no such overload".into())),
                }
            }
            _ => Ok(None),
        }
    }
}

fn is_accu(expr: &IdedExpr, name: &str) -> bool {
    matches!(&expr.expr, Expr::Ident(n) if n == name)
}

fn appends(expr: &IdedExpr, name: &str) -> bool {
    matches!(&expr.expr, Expr::Call(call) if call.func_name == op::ADD && call.args.first().is_some_and(|a| is_accu(a, name)))
}

fn type_path(select: &SelectExpr) -> Option<String> {
    if select.test {
        return None;
    }
    match &select.operand.expr {
        Expr::Ident(name) if matches!(name.as_str(), "google" | "net" | "kubernetes") => Some(format!("{name}.{}", select.field)),
        Expr::Select(inner) => type_path(inner).map(|p| format!("{p}.{}", select.field)),
        _ => None,
    }
}

/// A field by the name rules use.
fn field<'a>(value: &Val<'a>, name: &str) -> Option<Val<'a>> {
    match value {
        // Keys of maps are written as they are; properties of objects are escaped.
        Val::Json(_, Some(node)) if node.additional.is_none() => {
            if name.contains("__") {
                value.field(&super::unescape(name)?)
            } else {
                value.field(name)
            }
        }
        _ => value.field(name),
    }
}
