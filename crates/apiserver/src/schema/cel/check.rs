//! Static types of rules: an expression that names a field the schema does not have, or calls a function with
//! arguments it does not take, is refused with the definition and not at every write.
//!
//! `dyn` (int-or-string fields) is checked when the rule runs. Where this checker knows less than the real one (some
//! generic functions), it lets the expression pass.

use super::super::structural::{JsonType, Node};
use super::value::additional;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators as op};
use std::rc::Rc;

/// The type of an expression.
#[derive(Clone)]
pub(super) enum Ty<'a> {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Str,
    Bytes,
    Duration,
    Timestamp,
    List(Rc<Ty<'a>>),
    Map(Rc<Ty<'a>>, Rc<Ty<'a>>),
    /// An object of the schema; `true` when it has `apiVersion`, `kind` and `metadata`.
    Obj(&'a Node, bool),
    /// `metadata` of such an object.
    Meta,
    Opt(Rc<Ty<'a>>),
    /// `kubernetes.Quantity`, `net.IP` and the like.
    Named(&'static str),
    Type,
}

/// A complaint and the expression it is about.
pub(super) struct Complaint {
    pub id: u64,
    pub text: String,
}

impl<'a> Ty<'a> {
    /// The type of a schema node; `None` when rules cannot see such values.
    pub(super) fn of(node: &'a Node, root: bool) -> Option<Self> {
        if node.int_or_string {
            return Some(Self::Dyn);
        }
        if root {
            return Some(Self::Obj(node, true));
        }
        Some(match node.typ {
            JsonType::Any | JsonType::Unknown => return None,
            JsonType::Array => Self::List(Rc::new(Self::of(node.items.as_deref()?, false)?)),
            JsonType::Object => match additional(node) {
                Some(values) => Self::Map(Rc::new(Self::Str), Rc::new(Self::of(values, values.embedded_resource)?)),
                None => Self::Obj(node, node.embedded_resource),
            },
            JsonType::String => match node.validation.format.as_deref() {
                Some("byte") => Self::Bytes,
                Some("duration") => Self::Duration,
                Some("date" | "date-time") => Self::Timestamp,
                _ => Self::Str,
            },
            JsonType::Integer => Self::Int,
            JsonType::Number => Self::Double,
            JsonType::Boolean => Self::Bool,
        })
    }

    fn list(of: Self) -> Self {
        Self::List(Rc::new(of))
    }

    fn opt(of: Self) -> Self {
        Self::Opt(Rc::new(of))
    }

    fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    /// The name an error prints.
    fn name(&self) -> String {
        match self {
            Self::Dyn => "dyn".into(),
            Self::Null => "null".into(),
            Self::Bool => "bool".into(),
            Self::Int => "int".into(),
            Self::Uint => "uint".into(),
            Self::Double => "double".into(),
            Self::Str => "string".into(),
            Self::Bytes => "bytes".into(),
            Self::Duration => "google.protobuf.Duration".into(),
            Self::Timestamp => "google.protobuf.Timestamp".into(),
            Self::List(t) => format!("list({})", t.name()),
            Self::Map(k, v) => format!("map({}, {})", k.name(), v.name()),
            Self::Obj(..) | Self::Meta => "object".into(),
            Self::Opt(t) => format!("optional_type({})", t.name()),
            Self::Named(name) => (*name).into(),
            Self::Type => "type".into(),
        }
    }

    /// Whether values of the two types can be compared and mixed.
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            // Absent optional objects and wrappers compare with null.
            (Self::Null, _) | (_, Self::Null) => true,
            (Self::List(a), Self::List(b)) | (Self::Opt(a), Self::Opt(b)) => a.fits(b),
            (Self::Map(k, v), Self::Map(l, w)) => k.fits(l) && v.fits(w),
            (Self::Obj(a, _), Self::Obj(b, _)) => std::ptr::eq(*a, *b),
            (Self::Obj(..) | Self::Meta, Self::Map(..)) | (Self::Map(..), Self::Obj(..) | Self::Meta) => true,
            (Self::Named(a), Self::Named(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    fn is_numeric(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }
}

/// Checks one expression.
pub(super) struct Checker<'a> {
    scope: Vec<(String, Ty<'a>)>,
    /// Whether `oldSelf` was mentioned.
    pub uses_old: bool,
    pub complaints: Vec<Complaint>,
}

const TYPE_NAMES: [&str; 10] = [
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
];

impl<'a> Checker<'a> {
    pub(super) fn new(this: Ty<'a>, old: Ty<'a>) -> Self {
        Self {
            scope: vec![("self".into(), this), ("oldSelf".into(), old)],
            uses_old: false,
            complaints: Vec::new(),
        }
    }

    fn complain(&mut self, id: u64, text: String) -> Ty<'a> {
        self.complaints.push(Complaint { id, text });
        Ty::Dyn
    }

    pub(super) fn check(&mut self, expr: &IdedExpr) -> Ty<'a> {
        match &expr.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Ty::Bool,
                LiteralValue::Bytes(_) => Ty::Bytes,
                LiteralValue::Double(_) => Ty::Double,
                LiteralValue::Int(_) => Ty::Int,
                LiteralValue::Null => Ty::Null,
                LiteralValue::String(_) => Ty::Str,
                LiteralValue::UInt(_) => Ty::Uint,
            },
            Expr::Ident(name) => self.ident(expr.id, name),
            Expr::Select(select) => self.select(expr.id, select),
            Expr::Call(call) => self.call(expr.id, call),
            Expr::List(list) => {
                let types: Vec<Ty<'a>> = list.elements.iter().map(|e| self.check(e)).collect();
                Ty::list(self.join(&types))
            }
            Expr::Map(map) => {
                let mut keys = Vec::new();
                let mut values = Vec::new();
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        keys.push(self.check(&entry.key));
                        values.push(self.check(&entry.value));
                    }
                }
                Ty::Map(Rc::new(self.join(&keys)), Rc::new(self.join(&values)))
            }
            Expr::Struct(made) => {
                let name = made.type_name.clone();
                self.complain(expr.id, format!("undeclared reference to '{name}' (in container '')"))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Unspecified => Ty::Dyn,
        }
    }

    fn join(&self, types: &[Ty<'a>]) -> Ty<'a> {
        match types.split_first() {
            Some((first, rest)) if rest.iter().all(|t| first.fits(t)) => first.clone(),
            _ => Ty::Dyn,
        }
    }

    fn ident(&mut self, id: u64, name: &str) -> Ty<'a> {
        if name == "oldSelf" {
            self.uses_old = true;
        }
        if let Some((_, typ)) = self.scope.iter().rev().find(|(n, _)| n == name) {
            return typ.clone();
        }
        if TYPE_NAMES.contains(&name) {
            return Ty::Type;
        }
        self.complain(id, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn select(&mut self, id: u64, select: &SelectExpr) -> Ty<'a> {
        if let Some(path) = qualified(&select.operand)
            && !self.scope.iter().any(|(n, _)| *n == path.split('.').next().unwrap_or_default())
        {
            let full = format!("{path}.{}", select.field);
            if matches!(
                full.as_str(),
                "google.protobuf.Timestamp" | "google.protobuf.Duration" | "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.URL"
            ) {
                return Ty::Type;
            }
            if path == "google" {
                return Ty::Dyn;
            }
        }
        let operand = self.check(&select.operand);
        let found = self.field(id, &operand, &select.field);
        if select.test { Ty::Bool } else { found }
    }

    fn field(&mut self, id: u64, operand: &Ty<'a>, field: &str) -> Ty<'a> {
        match operand {
            Ty::Dyn => Ty::Dyn,
            Ty::Map(_, value) => value.as_ref().clone(),
            Ty::Opt(inner) => Ty::opt(match inner.as_ref() {
                Ty::Opt(twice) => twice.as_ref().clone(),
                other => {
                    let other = other.clone();
                    self.field(id, &other, field)
                }
            }),
            Ty::Meta => match field {
                "name" | "generateName" => Ty::Str,
                _ => self.complain(id, format!("undefined field '{field}'")),
            },
            Ty::Obj(node, meta) => {
                if *meta {
                    match field {
                        "apiVersion" | "kind" => return Ty::Str,
                        "metadata" => return Ty::Meta,
                        _ => {}
                    }
                }
                let name = super::unescape(field);
                let child = name.as_deref().and_then(|n| node.properties.get(n));
                match child.and_then(|c| Ty::of(c, c.embedded_resource)) {
                    Some(typ) => typ,
                    None => self.complain(id, format!("undefined field '{field}'")),
                }
            }
            other => {
                let name = other.name();
                self.complain(id, format!("type '{name}' does not support field selection"))
            }
        }
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> Ty<'a> {
        let range = self.check(&c.iter_range);
        let (first, second) = match &range {
            Ty::List(item) => (item.as_ref().clone(), None),
            Ty::Map(key, value) => (key.as_ref().clone(), Some(value.as_ref().clone())),
            Ty::Dyn => (Ty::Dyn, None),
            Ty::Obj(..) => (Ty::Str, None),
            other => {
                let name = other.name();
                self.complain(
                    c.iter_range.id,
                    format!("expression of type '{name}' cannot be range of a comprehension (must be list, map, or dynamic)"),
                );
                (Ty::Dyn, None)
            }
        };
        let accu = match self.check(&c.accu_init) {
            Ty::List(_) => Ty::list(Ty::Dyn),
            other => other,
        };
        let depth = self.scope.len();
        self.scope.push((c.accu_var.clone(), accu));
        self.scope.push((c.iter_var.clone(), first));
        if let Some(name) = &c.iter_var2 {
            self.scope.push((name.clone(), second.unwrap_or(Ty::Dyn)));
        }
        self.check(&c.loop_cond);
        let step = self.check(&c.loop_step);
        self.scope.truncate(depth);
        // The result sees what the steps made of the accumulator.
        let accu = match (&step, &c.accu_init.expr) {
            (Ty::List(_), Expr::List(_)) => self.step_items(c, &range).unwrap_or(step),
            _ => step,
        };
        self.scope.push((c.accu_var.clone(), accu));
        let result = self.check(&c.result);
        self.scope.truncate(depth);
        result
    }

    /// The list type that `map` and `filter` build.
    fn step_items(&mut self, c: &ComprehensionExpr, range: &Ty<'a>) -> Option<Ty<'a>> {
        let element = appended(&c.loop_step)?;
        let item = match range {
            Ty::List(item) => item.as_ref().clone(),
            Ty::Map(key, _) => key.as_ref().clone(),
            _ => Ty::Dyn,
        };
        let (depth, complaints) = (self.scope.len(), self.complaints.len());
        self.scope.push((c.accu_var.clone(), Ty::list(Ty::Dyn)));
        self.scope.push((c.iter_var.clone(), item));
        let typ = self.check(element);
        self.scope.truncate(depth);
        // The step was checked once already; its complaints are known.
        self.complaints.truncate(complaints);
        Some(Ty::list(typ))
    }

    fn no_overload(&mut self, id: u64, call: &CallExpr, target: Option<&Ty<'a>>, args: &[Ty<'a>]) -> Ty<'a> {
        let list: Vec<String> = args.iter().map(Ty::name).collect();
        let applied = match target {
            Some(target) => format!("{}.({})", target.name(), list.join(", ")),
            None => format!("({})", list.join(", ")),
        };
        let name = &call.func_name;
        self.complain(id, format!("found no matching overload for '{name}' applied to '{applied}'"))
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Ty<'a> {
        if let Some(typ) = self.special(id, call) {
            return typ;
        }
        // `ip.isCanonical(x)`, `math.greatest(..)`: a namespace, not a value.
        if let Some(target) = &call.target
            && let Expr::Ident(space) = &target.expr
            && !self.scope.iter().any(|(n, _)| n == space)
        {
            let args: Vec<Ty<'a>> = call.args.iter().map(|a| self.check(a)).collect();
            return match namespaced(space, &call.func_name, &args) {
                Some(typ) => typ,
                None if matches!(
                    space.as_str(),
                    "ip" | "optional" | "format" | "sets" | "math" | "base64" | "strings"
                ) =>
                {
                    self.no_overload(id, call, None, &args)
                }
                None => self.complain(target.id, format!("undeclared reference to '{space}' (in container '')")),
            };
        }
        let target = call.target.as_ref().map(|t| self.check(t));
        let args: Vec<Ty<'a>> = call.args.iter().map(|a| self.check(a)).collect();
        let result = match &target {
            Some(target) => member(&call.func_name, target, &args),
            None => operator(&call.func_name, &args).or_else(|| global(&call.func_name, &args)),
        };
        match result {
            Some(typ) => typ,
            None if is_known(&call.func_name) => self.no_overload(id, call, target.as_ref(), &args),
            None => {
                let name = &call.func_name;
                self.complain(id, format!("undeclared reference to '{name}' (in container '')"))
            }
        }
    }

    /// Calls whose arguments are no plain values.
    fn special(&mut self, id: u64, call: &CallExpr) -> Option<Ty<'a>> {
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            ("optMap" | "optFlatMap", Some(target), [var, body]) => {
                let Expr::Ident(name) = &var.expr else { return None };
                let inner = match self.check(target) {
                    Ty::Opt(inner) => inner.as_ref().clone(),
                    Ty::Dyn => Ty::Dyn,
                    other => {
                        let args = [Ty::Dyn, Ty::Dyn];
                        return Some(self.no_overload(id, call, Some(&other), &args));
                    }
                };
                self.scope.push((name.clone(), inner));
                let typ = self.check(body);
                self.scope.pop();
                Some(match (call.func_name.as_str(), typ) {
                    ("optFlatMap", flat @ Ty::Opt(_)) => flat,
                    (_, typ) => Ty::opt(typ),
                })
            }
            ("_?._", None, [operand, field]) => {
                let operand = self.check(operand);
                let Expr::Literal(LiteralValue::String(name)) = &field.expr else {
                    return None;
                };
                Some(match self.field(id, &operand, name.inner()) {
                    already @ Ty::Opt(_) => already,
                    typ => Ty::opt(typ),
                })
            }
            ("_[?_]", None, [operand, index]) => {
                let operand = self.check(operand);
                self.check(index);
                let inner = match &operand {
                    Ty::Opt(inner) => inner.as_ref().clone(),
                    other => other.clone(),
                };
                Some(Ty::opt(match inner {
                    Ty::List(item) => item.as_ref().clone(),
                    Ty::Map(_, value) => value.as_ref().clone(),
                    _ => Ty::Dyn,
                }))
            }
            _ => None,
        }
    }
}

/// `accu + [element]`, or that under a condition.
fn appended(step: &IdedExpr) -> Option<&IdedExpr> {
    let Expr::Call(call) = &step.expr else { return None };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (op::ADD, [_, list]) => match &list.expr {
            Expr::List(list) if list.elements.len() == 1 => list.elements.first(),
            _ => None,
        },
        (op::CONDITIONAL, [_, then, _]) => appended(then),
        _ => None,
    }
}

fn qualified(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => qualified(&select.operand).map(|p| format!("{p}.{}", select.field)),
        _ => None,
    }
}

fn operator<'a>(name: &str, args: &[Ty<'a>]) -> Option<Ty<'a>> {
    use Ty::{Bool, Double, Duration, Dyn, Int, Str, Timestamp, Uint};
    Some(match (name, args) {
        (op::LOGICAL_AND | op::LOGICAL_OR, args) if args.iter().all(|a| matches!(a, Bool | Dyn)) => Bool,
        (op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, [Bool | Dyn]) => Bool,
        (op::CONDITIONAL, [Bool | Dyn, a, b]) if a.fits(b) => {
            if a.is_dyn() || matches!(a, Ty::Null) {
                b.clone()
            } else {
                a.clone()
            }
        }
        (op::EQUALS | op::NOT_EQUALS, [a, b]) if a.fits(b) => Bool,
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
            let ordered = |t: &Ty<'_>| matches!(t, Bool | Str | Ty::Bytes | Duration | Timestamp | Dyn) || t.is_numeric();
            if !(ordered(a) && ordered(b) && (a.fits(b) || (a.is_numeric() && b.is_numeric()))) {
                return None;
            }
            Bool
        }
        (op::ADD, [a, b]) => match (a, b) {
            (Dyn, _) | (_, Dyn) => Dyn,
            (Int, Int) => Int,
            (Uint, Uint) => Uint,
            (Double, Double) => Double,
            (Str, Str) => Str,
            (Ty::Bytes, Ty::Bytes) => Ty::Bytes,
            (Duration, Duration) => Duration,
            (Timestamp, Duration) | (Duration, Timestamp) => Timestamp,
            (Ty::List(x), Ty::List(y)) if x.fits(y) => {
                if x.is_dyn() {
                    b.clone()
                } else {
                    a.clone()
                }
            }
            _ => return None,
        },
        (op::SUBSTRACT, [a, b]) => match (a, b) {
            (Dyn, _) | (_, Dyn) => Dyn,
            (Int, Int) => Int,
            (Uint, Uint) => Uint,
            (Double, Double) => Double,
            (Duration, Duration) | (Timestamp, Timestamp) => Duration,
            (Timestamp, Duration) => Timestamp,
            _ => return None,
        },
        (op::MULTIPLY | op::DIVIDE, [a, b]) => match (a, b) {
            (Dyn, _) | (_, Dyn) => Dyn,
            (Int, Int) => Int,
            (Uint, Uint) => Uint,
            (Double, Double) => Double,
            _ => return None,
        },
        (op::MODULO, [a, b]) => match (a, b) {
            (Dyn, _) | (_, Dyn) => Dyn,
            (Int, Int) => Int,
            (Uint, Uint) => Uint,
            _ => return None,
        },
        (op::NEGATE, [a @ (Int | Double | Dyn)]) => a.clone(),
        (op::IN, [item, list]) => match list {
            Dyn => Bool,
            Ty::List(t) if t.fits(item) => Bool,
            Ty::Map(k, _) if k.fits(item) => Bool,
            _ => return None,
        },
        (op::INDEX, [list, index]) => match (list, index) {
            (Dyn, _) => Dyn,
            (Ty::List(item), Int | Dyn) => item.as_ref().clone(),
            (Ty::Map(key, value), index) if key.fits(index) => value.as_ref().clone(),
            (Ty::Opt(inner), index) => Ty::opt(operator(op::INDEX, &[inner.as_ref().clone(), index.clone()])?),
            _ => return None,
        },
        _ => return None,
    })
}

fn global<'a>(name: &str, args: &[Ty<'a>]) -> Option<Ty<'a>> {
    use Ty::{Bool, Bytes, Double, Duration, Dyn, Int, Str, Timestamp, Uint};
    Some(match (name, args) {
        ("size", [Str | Bytes | Ty::List(_) | Ty::Map(..) | Dyn]) => Int,
        ("type", [_]) => Ty::Type,
        ("dyn", [_]) => Dyn,
        ("int", [Int | Uint | Double | Str | Timestamp | Dyn]) => Int,
        ("uint", [Int | Uint | Double | Str | Dyn]) => Uint,
        ("double", [Int | Uint | Double | Str | Dyn]) => Double,
        ("string", [Bool | Int | Uint | Double | Str | Bytes | Timestamp | Duration | Dyn | Ty::Named("net.IP" | "net.CIDR")]) => Str,
        ("bytes", [Str | Bytes | Dyn]) => Bytes,
        ("bool", [Bool | Str | Dyn]) => Bool,
        ("duration", [Str | Duration | Int | Dyn]) => Duration,
        ("timestamp", [Str | Timestamp | Int | Dyn]) => Timestamp,
        ("matches", [Str | Dyn, Str | Dyn]) => Bool,
        ("quantity", [Str | Dyn]) => Ty::Named("kubernetes.Quantity"),
        ("isQuantity" | "isURL" | "isIP" | "isCIDR" | "isSemver", [Str | Dyn]) => Bool,
        ("isSemver", [Str | Dyn, Bool | Dyn]) => Bool,
        ("url", [Str | Dyn]) => Ty::Named("kubernetes.URL"),
        ("ip", [Str | Dyn]) => Ty::Named("net.IP"),
        ("cidr", [Str | Dyn]) => Ty::Named("net.CIDR"),
        ("semver", [Str | Dyn]) | ("semver", [Str | Dyn, Bool | Dyn]) => Ty::Named("kubernetes.Semver"),
        _ => return None,
    })
}

fn namespaced<'a>(space: &str, name: &str, args: &[Ty<'a>]) -> Option<Ty<'a>> {
    Some(match (space, name, args) {
        ("ip", "isCanonical", [Ty::Str | Ty::Dyn]) => Ty::Bool,
        ("optional", "of" | "ofNonZeroValue", [t]) => Ty::opt(t.clone()),
        ("optional", "none", []) => Ty::opt(Ty::Dyn),
        ("sets", "contains" | "equivalent" | "intersects", [Ty::List(_) | Ty::Dyn, Ty::List(_) | Ty::Dyn]) => Ty::Bool,
        ("strings", "quote", [Ty::Str | Ty::Dyn]) => Ty::Str,
        ("format", "named", [Ty::Str | Ty::Dyn]) => Ty::opt(Ty::Named("kubernetes.NamedFormat")),
        ("format", name, []) if super::kubernetes::format_name(name).is_some() => Ty::Named("kubernetes.NamedFormat"),
        _ => return None,
    })
}

fn member<'a>(name: &str, target: &Ty<'a>, args: &[Ty<'a>]) -> Option<Ty<'a>> {
    use Ty::{Bool, Double, Dyn, Int, Str};
    if target.is_dyn() {
        return is_known(name).then_some(Dyn);
    }
    Some(match (name, target, args) {
        ("size", Str | Ty::Bytes | Ty::List(_) | Ty::Map(..), []) => Int,
        ("contains" | "startsWith" | "endsWith" | "matches", Str, [Str | Dyn]) => Bool,
        ("lowerAscii" | "upperAscii" | "trim" | "reverse", Str, []) => Str,
        ("charAt", Str, [Int | Dyn]) => Str,
        ("indexOf" | "lastIndexOf", Str, [Str | Dyn] | [Str | Dyn, Int | Dyn]) => Int,
        ("replace", Str, [Str | Dyn, Str | Dyn] | [Str | Dyn, Str | Dyn, Int | Dyn]) => Str,
        ("split", Str, [Str | Dyn] | [Str | Dyn, Int | Dyn]) => Ty::list(Str),
        ("substring", Str, [Int | Dyn] | [Int | Dyn, Int | Dyn]) => Str,
        ("find", Str, [Str | Dyn]) => Str,
        ("findAll", Str, [Str | Dyn] | [Str | Dyn, Int | Dyn]) => Ty::list(Str),
        ("format", Str, [Ty::List(_) | Dyn]) => Str,
        ("join", Ty::List(t), [] | [Str | Dyn]) if t.fits(&Str) => Str,
        ("isSorted", Ty::List(_), []) => Bool,
        ("sum" | "min" | "max", Ty::List(t), []) => t.as_ref().clone(),
        ("indexOf" | "lastIndexOf", Ty::List(t), [item]) if t.fits(item) => Int,
        ("includes", Ty::List(_), [_]) => Bool,
        ("slice", Ty::List(_), [Int | Dyn, Int | Dyn]) | ("distinct" | "sort" | "reverse", Ty::List(_), []) => target.clone(),
        ("flatten", Ty::List(_), [] | [Int | Dyn]) => Ty::list(Dyn),
        ("hasValue", Ty::Opt(_), []) => Bool,
        ("value", Ty::Opt(t), []) => t.as_ref().clone(),
        ("orValue", Ty::Opt(t), [other]) if t.fits(other) => {
            if t.is_dyn() {
                other.clone()
            } else {
                t.as_ref().clone()
            }
        }
        ("or", Ty::Opt(_), [other @ (Ty::Opt(_) | Dyn)]) => {
            if matches!(target, Ty::Opt(t) if t.is_dyn()) {
                other.clone()
            } else {
                target.clone()
            }
        }
        ("getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth" | "getDate" | "getDayOfWeek", Ty::Timestamp, [] | [Str | Dyn]) => {
            Int
        }
        ("getHours" | "getMinutes" | "getSeconds" | "getMilliseconds", Ty::Timestamp, [] | [Str | Dyn]) => Int,
        ("getHours" | "getMinutes" | "getSeconds" | "getMilliseconds", Ty::Duration, []) => Int,
        ("isGreaterThan" | "isLessThan", Ty::Named(a @ ("kubernetes.Quantity" | "kubernetes.Semver")), [Ty::Named(b)]) if a == b => Bool,
        ("compareTo", Ty::Named(a @ ("kubernetes.Quantity" | "kubernetes.Semver")), [Ty::Named(b)]) if a == b => Int,
        ("isGreaterThan" | "isLessThan", Ty::Named("kubernetes.Quantity" | "kubernetes.Semver"), [Dyn]) => Bool,
        ("compareTo", Ty::Named("kubernetes.Quantity" | "kubernetes.Semver"), [Dyn]) => Int,
        ("sign" | "asInteger", Ty::Named("kubernetes.Quantity"), []) => Int,
        ("isInteger", Ty::Named("kubernetes.Quantity"), []) => Bool,
        ("asApproximateFloat", Ty::Named("kubernetes.Quantity"), []) => Double,
        ("add" | "sub", Ty::Named("kubernetes.Quantity"), [Ty::Named("kubernetes.Quantity") | Int | Dyn]) => target.clone(),
        ("major" | "minor" | "patch", Ty::Named("kubernetes.Semver"), []) => Int,
        ("getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath", Ty::Named("kubernetes.URL"), []) => Str,
        ("getQuery", Ty::Named("kubernetes.URL"), []) => Ty::Map(Rc::new(Str), Rc::new(Ty::list(Str))),
        ("family", Ty::Named("net.IP"), []) | ("prefixLength", Ty::Named("net.CIDR"), []) => Int,
        ("isUnspecified" | "isLoopback" | "isLinkLocalMulticast" | "isLinkLocalUnicast" | "isGlobalUnicast", Ty::Named("net.IP"), []) => {
            Bool
        }
        ("containsIP", Ty::Named("net.CIDR"), [Str | Dyn | Ty::Named("net.IP")]) => Bool,
        ("containsCIDR", Ty::Named("net.CIDR"), [Str | Dyn | Ty::Named("net.CIDR")]) => Bool,
        ("ip", Ty::Named("net.CIDR"), []) => Ty::Named("net.IP"),
        ("masked", Ty::Named("net.CIDR"), []) => target.clone(),
        ("validate", Ty::Named("kubernetes.NamedFormat"), [Str | Dyn]) => Ty::opt(Ty::list(Str)),
        _ => return None,
    })
}

/// Whether any function has this name.
fn is_known(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "size",
        "type",
        "dyn",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "bool",
        "duration",
        "timestamp",
        "matches",
        "quantity",
        "isQuantity",
        "isURL",
        "isIP",
        "isCIDR",
        "isSemver",
        "url",
        "ip",
        "cidr",
        "semver",
        "contains",
        "startsWith",
        "endsWith",
        "lowerAscii",
        "upperAscii",
        "trim",
        "reverse",
        "charAt",
        "indexOf",
        "lastIndexOf",
        "replace",
        "split",
        "substring",
        "find",
        "findAll",
        "format",
        "join",
        "isSorted",
        "sum",
        "min",
        "max",
        "includes",
        "slice",
        "distinct",
        "sort",
        "flatten",
        "hasValue",
        "value",
        "orValue",
        "or",
        "getFullYear",
        "getMonth",
        "getDayOfYear",
        "getDayOfMonth",
        "getDate",
        "getDayOfWeek",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
        "isGreaterThan",
        "isLessThan",
        "compareTo",
        "sign",
        "asInteger",
        "isInteger",
        "asApproximateFloat",
        "add",
        "sub",
        "major",
        "minor",
        "patch",
        "getScheme",
        "getHost",
        "getHostname",
        "getPort",
        "getEscapedPath",
        "getQuery",
        "family",
        "prefixLength",
        "isUnspecified",
        "isLoopback",
        "isLinkLocalMulticast",
        "isLinkLocalUnicast",
        "isGlobalUnicast",
        "containsIP",
        "containsCIDR",
        "masked",
        "validate",
        "optMap",
        "optFlatMap",
    ];
    NAMES.contains(&name) || name.contains('_') || name.starts_with('@')
}
