//! The pre-pass: preprocessed MSL in, C++ out.
//!
//! It works on tokens and knows no types: kernels become plain functions, and an entry for each says
//! only of what kind its parameters are; templates of the shim find out the rest.

mod body;
mod declarations;
mod entries;
mod kernel;
mod literals;
mod rules;
mod structs;

use std::collections::{BTreeMap, BTreeSet};

use crate::token::{Token, tokens};
use kernel::{Instance, Kernel};

/// What the output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// C++ against the shim, to be run.
    Run,
    /// C++ for OpenCL, to be checked for the rules of address spaces.
    Check,
}

/// A constant that is set when a function is made.
struct FunctionConstant {
    name: String,
    qualified: String,
    index: String,
}

/// State of one translation.
pub(crate) struct Prepass {
    target: Target,
    tokens: Vec<Token>,
    out: String,
    namespaces: Vec<String>,
    kernels: BTreeMap<String, Kernel>,
    instances: Vec<Instance>,
    constants: Vec<FunctionConstant>,
    /// Names of function constants and of constants derived from them.
    constant_names: BTreeSet<String>,
    derived: Vec<String>,
    /// Names asked for by `is_function_constant_defined`.
    optional: BTreeSet<String>,
    /// For each name of the outermost level, the names that its definition mentions.
    mentions: BTreeMap<String, BTreeSet<String>>,
    structs: Vec<structs::Struct>,
    variables: u32,
}

/// Translates preprocessed MSL. Errors read `program_source:LINE: error: ...`.
pub(crate) fn translate(preprocessed: &str, target: Target) -> Result<String, String> {
    let tokens = tokens(preprocessed);
    rules::check(&tokens)?;
    let tokens = match target {
        Target::Run => tokens,
        Target::Check => without_constexpr_space(tokens),
    };
    let mut prepass = Prepass {
        target,
        tokens,
        out: String::new(),
        namespaces: Vec::new(),
        kernels: BTreeMap::new(),
        instances: Vec::new(),
        constants: Vec::new(),
        constant_names: BTreeSet::new(),
        derived: Vec::new(),
        optional: BTreeSet::new(),
        mentions: BTreeMap::new(),
        structs: Vec::new(),
        variables: 0,
    };
    prepass.declarations()?;
    Ok(prepass.finish())
}

/// `constexpr constant` without the address space: such constants are values, and in C++ for OpenCL they
/// cannot lie where `constant` is.
fn without_constexpr_space(tokens: Vec<Token>) -> Vec<Token> {
    let code: Vec<usize> = (0..tokens.len()).filter(|at| tokens[*at].is_code()).collect();
    let pair = |first: &str, second: &str, at: &[usize]| {
        tokens[at[0]].is(first) && tokens[at[1]].is(second)
    };
    let dropped: BTreeSet<usize> = code
        .windows(2)
        .filter_map(|at| match at {
            _ if pair("constexpr", "constant", at) => Some(at[1]),
            _ if pair("constant", "constexpr", at) => Some(at[0]),
            _ => None,
        })
        .collect();
    tokens
        .into_iter()
        .enumerate()
        .filter(|(at, _)| !dropped.contains(at))
        .map(|(_, token)| token)
        .collect()
}

/// An error at a line of the .metal source, worded as compilers do.
fn error<T>(line: u32, message: impl std::fmt::Display) -> Result<T, String> {
    Err(format!("program_source:{line}: error: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str) -> String {
        translate(source, Target::Run).unwrap()
    }

    #[test]
    fn a_kernel_becomes_a_function_and_an_entry() {
        let cpp = run(
            "kernel void f(device float* x [[buffer(3)]], uint i [[thread_position_in_grid]]) { x[i] = 1.0; }",
        );
        assert!(cpp.contains("void f(device float* x , uint i ) { x[i] = 1.0f; }"), "{cpp}");
        assert!(cpp.contains("memory_argument<metal::argument<0, F0>>(c->buffers[3])"), "{cpp}");
        assert!(
            cpp.contains("position_argument<metal::argument<1, F0>>(c->thread_position_in_grid)"),
            "{cpp}"
        );
    }

    #[test]
    fn errors_carry_the_line() {
        let message = |source| translate(source, Target::Run).unwrap_err();
        let source = "\n\nkernel void f(device float* x) {}";
        assert_eq!(
            message(source),
            "program_source:3: error: parameter x of kernel f has no attribute such as [[buffer(0)]]"
        );
        let source = "void g() {\n threadgroup float x[4];\n}";
        assert!(
            message(source).starts_with("program_source:2: error: threadgroup variable x"),
            "{}",
            message(source)
        );
        let source = "kernel void f(texture2d<float> t [[texture(0)]]) {}";
        assert!(message(source).contains("texture(0)"), "{}", message(source));
    }

    #[test]
    fn macro_made_instances_have_entries() {
        let cpp = run("template <typename T> kernel void f(device T* x [[buffer(0)]]) {}\n\
                       template [[host_name(\"f_\" \"half\")]] kernel void f<half>(device half*);");
        assert!(cpp.contains("\"f_half\"") && cpp.contains("decltype(::f<half>)"), "{cpp}");
    }

    #[test]
    fn constants_reach_the_kernels_that_mention_them() {
        let cpp = run(
            "constant bool a [[function_constant(0)]];\nconstant bool b [[function_constant(1)]];\n\
                       constant bool c = is_function_constant_defined(a) ? a : false;\n\
                       inline int g() { return c; }\n\
                       kernel void f(device int* x [[buffer(0)]]) { x[0] = g(); }",
        );
        assert!(cpp.contains("static const unsigned C0[] = {0};"), "{cpp}");
        assert!(cpp.contains("describe_constant(\"a\", 0, ::a, ::a_is_defined, true)"), "{cpp}");
        assert!(cpp.contains("describe_constant(\"b\", 1, ::b, ::b_is_defined, false)"), "{cpp}");
    }
}
