//! Kernel signatures: which buffer, threadgroup memory or position each parameter is.

use super::error;
use crate::token::{Token, closing, code, split_commas, without_attributes};

/// MSL's position attributes that a kernel parameter can have.
const POSITIONS: [&str; 16] = [
    "thread_position_in_grid",
    "threadgroup_position_in_grid",
    "thread_position_in_threadgroup",
    "threads_per_threadgroup",
    "threads_per_grid",
    "threadgroups_per_grid",
    "dispatch_threads_per_threadgroup",
    "thread_index_in_threadgroup",
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "threads_per_simdgroup",
    "dispatch_simdgroups_per_threadgroup",
    "quadgroup_index_in_threadgroup",
    "thread_index_in_quadgroup",
    "quadgroups_per_threadgroup",
];

/// Where a parameter's value comes from. Indices are MSL expressions.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// `[[buffer(index)]]`; `constant`: in the constant address space.
    Buffer { index: String, constant: bool },
    /// `[[threadgroup(index)]]`
    Threadgroup { index: String },
    /// One of [`POSITIONS`].
    Position(String),
}

/// A kernel's parameter.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) source: Source,
    /// The function constant that says whether the argument exists.
    pub(super) exists: Option<String>,
}

/// A kernel function, or a template of kernels.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) name: String,
    /// With its namespaces, from `::`.
    pub(super) qualified: String,
    pub(super) parameters: Vec<Parameter>,
    /// The names of the template's parameters; empty for a plain kernel.
    pub(super) template: Vec<String>,
    pub(super) max_threads: Option<String>,
}

impl Kernel {
    /// The kernel's name inside of its own body: `f`, or `f<T, N>`.
    pub(super) fn self_name(&self) -> String {
        if self.template.is_empty() {
            self.name.clone()
        } else {
            format!("{}<{}>", self.name, self.template.join(", "))
        }
    }
}

/// What the host can ask for by name.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) host_name: String,
    /// The C++ name, such as `::f<half>`.
    pub(super) function: String,
    /// The key of its kernel.
    pub(super) kernel: String,
}

/// A kernel's head, taken apart.
pub(super) struct Signature {
    /// Everything before the parameter list, without attributes and the word `kernel`.
    pub(super) before: Vec<Token>,
    /// The parameters without attributes.
    pub(super) plain_parameters: Vec<Vec<Token>>,
    pub(super) kernel: Kernel,
    pub(super) host_name: Option<String>,
}

/// Takes the head of a kernel definition apart.
pub(super) fn signature(head: &[Token]) -> Result<Signature, String> {
    let line = head.iter().find(|t| t.is("kernel")).map_or(0, |t| t.line);
    let Some(open) = parameter_list(head) else {
        return error(line, "a kernel without a parameter list");
    };
    let close = closing(head, open);
    let (mut before, attributes) = without_attributes(&head[..open]);
    before.retain(|token| !token.is("kernel"));
    let name = match code(&before).last() {
        Some(token) => token.text.clone(),
        None => return error(line, "a kernel without a name"),
    };
    if !code(&before).iter().any(|token| token.is("void")) {
        return error(line, format!("kernel {name} must return void"));
    }
    let mut parameters = Vec::new();
    let mut plain_parameters = Vec::new();
    for part in split_commas(&head[open + 1..close.min(head.len())]) {
        let (plain, attributes) = without_attributes(&part);
        parameters.push(parameter(&plain, &attributes, &name, line)?);
        plain_parameters.push(plain);
    }
    let kernel = Kernel {
        qualified: name.clone(),
        template: template_parameters(&before, line)?,
        max_threads: attributes
            .iter()
            .find_map(|a| argument_of(a, "max_total_threads_per_threadgroup")),
        name,
        parameters,
    };
    Ok(Signature { before, plain_parameters, kernel, host_name: host_name(&attributes) })
}

/// The name in `host_name("...")`.
pub(super) fn host_name(attributes: &[String]) -> Option<String> {
    let literal = attributes.iter().find_map(|attribute| argument_of(attribute, "host_name"))?;
    // Neighbouring literals are one, as in C.
    Some(literal.split('"').skip(1).step_by(2).collect())
}

/// The text in the parentheses of `name(...)`.
fn argument_of(attribute: &str, name: &str) -> Option<String> {
    let rest = attribute.strip_prefix(name)?.trim_start();
    Some(rest.strip_prefix('(')?.strip_suffix(')')?.trim().to_owned())
}

/// The `(` of the parameter list: the first after a name, outside of attributes and template brackets.
fn parameter_list(head: &[Token]) -> Option<usize> {
    let (mut attribute, mut angle) = (0, 0i32);
    let mut previous: Option<&Token> = None;
    let mut seen = false;
    for (at, token) in head.iter().enumerate() {
        seen |= token.is("kernel");
        match token.text.as_str() {
            "[[" => attribute += 1,
            "]]" => attribute -= 1,
            "<" => angle += 1,
            ">" => angle -= 1,
            ">>" => angle -= 2,
            "(" if attribute == 0 && angle <= 0 && seen => {
                let skip = ["__attribute__", "alignas", "decltype"];
                if previous.is_some_and(|p| !skip.contains(&p.text.as_str())) {
                    return Some(at);
                }
            }
            _ => {}
        }
        if token.is_code() {
            previous = Some(token);
        }
    }
    None
}

fn template_parameters(before: &[Token], line: u32) -> Result<Vec<String>, String> {
    let Some(at) = before.iter().position(|token| token.is("template")) else {
        return Ok(Vec::new());
    };
    let Some(open) = (at..before.len()).find(|i| before[*i].is("<")) else {
        return error(line, "a template without parameters");
    };
    let close = closing(before, open);
    let mut names = Vec::new();
    for part in split_commas(&before[open + 1..close]) {
        let declared = part.split(|token| token.is("=")).next().unwrap_or(&[]);
        match code(declared).last() {
            Some(name) if code(declared).len() > 1 => names.push(name.text.clone()),
            _ => return error(line, "a kernel template's parameters need names"),
        }
    }
    Ok(names)
}

fn parameter(
    plain: &[Token],
    attributes: &[String],
    kernel: &str,
    line: u32,
) -> Result<Parameter, String> {
    let words = code(plain);
    let line = words.first().map_or(line, |token| token.line);
    let name = words.last().map_or(String::new(), |token| token.text.clone());
    let constant = words.iter().any(|token| token.is("constant"));
    let mut source = None;
    let mut exists = None;
    for attribute in attributes {
        if let Some(index) = argument_of(attribute, "buffer") {
            source = Some(Source::Buffer { index, constant });
        } else if let Some(index) = argument_of(attribute, "threadgroup") {
            source = Some(Source::Threadgroup { index });
        } else if let Some(condition) = argument_of(attribute, "function_constant") {
            exists = Some(condition);
        } else if POSITIONS.contains(&attribute.as_str()) {
            source = Some(Source::Position(attribute.clone()));
        } else if attribute == "grid_size" {
            source = Some(Source::Position("threads_per_grid".to_owned()));
        } else {
            return error(
                line,
                format!(
                    "parameter {name} of kernel {kernel}: the emulator does not know [[{attribute}]]"
                ),
            );
        }
    }
    match source {
        Some(source) => Ok(Parameter { name, source, exists }),
        None => error(
            line,
            format!("parameter {name} of kernel {kernel} has no attribute such as [[buffer(0)]]"),
        ),
    }
}
