//! The end of the output: one entry per kernel, and the module's table.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::kernel::{Instance, Kernel, Source};
use super::{Prepass, Target};

impl Prepass {
    /// The whole C++ text.
    pub(super) fn finish(self) -> String {
        let mut tail = String::new();
        let written = match self.target {
            Target::Run => self.run_tail(&mut tail),
            Target::Check => self.check_tail(&mut tail),
        };
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        format!("#include \"msl.h\"\n{}\n# 1 \"entries\"\n{tail}", self.out)
    }

    /// Templates are checked where they are instantiated.
    fn check_tail(&self, tail: &mut String) -> std::fmt::Result {
        for instance in &self.instances {
            if !self.kernels[&instance.kernel].template.is_empty() {
                let function = instance.function.trim_start_matches("::");
                writeln!(tail, "template decltype({function}) {function};")?;
            }
        }
        Ok(())
    }

    fn run_tail(&self, tail: &mut String) -> std::fmt::Result {
        writeln!(
            tail,
            "#undef kernel\n#undef device\n#undef threadgroup\n#undef thread\n#undef constant\nnamespace softmetal_entries {{"
        )?;
        for (number, instance) in self.instances.iter().enumerate() {
            self.entry(tail, number, instance, &self.kernels[&instance.kernel])?;
        }
        writeln!(tail, "static msl_kernel kernels[] = {{")?;
        for (number, instance) in self.instances.iter().enumerate() {
            let kernel = &self.kernels[&instance.kernel];
            let max_threads = kernel.max_threads.as_deref().unwrap_or("MSL_MAX_THREADS");
            writeln!(
                tail,
                "{{{:?}, &E{number}, (const void*)(F{number}*)&{}, P{number}, {}, {max_threads}, C{number}, {}, 0}},",
                instance.host_name,
                instance.function,
                memory_parameters(kernel).count(),
                self.reached_constants(kernel).len(),
            )?;
        }
        writeln!(tail, "{{}}}};")?;
        for (number, found) in self.structs.iter().enumerate() {
            writeln!(tail, "static const msl_field S{number}[] = {{")?;
            for field in &found.fields {
                let owner = &found.qualified;
                writeln!(
                    tail,
                    "{{\"{field}\", __builtin_offsetof({owner}, {field}), sizeof({owner}::{field})}},"
                )?;
            }
            writeln!(tail, "{{}}}};")?;
        }
        writeln!(tail, "static const msl_layout layouts[] = {{")?;
        for (number, found) in self.structs.iter().enumerate() {
            let owner = &found.qualified;
            writeln!(
                tail,
                "{{\"{}\", sizeof({owner}), alignof({owner}), S{number}, {}}},",
                found.name,
                found.fields.len()
            )?;
        }
        writeln!(tail, "{{}}}};\nstatic void derive() {{")?;
        for function in &self.derived {
            writeln!(tail, "{function}();")?;
        }
        writeln!(
            tail,
            "}}\n}}\nextern \"C\" __attribute__((visibility(\"default\"))) msl_module* softmetal_module() {{"
        )?;
        writeln!(tail, "static const msl_function_constant constants[] = {{")?;
        for constant in &self.constants {
            let (name, qualified) = (&constant.name, &constant.qualified);
            let optional = self.optional.contains(name);
            writeln!(
                tail,
                "metal::describe_constant(\"{name}\", {}, {qualified}, {qualified}_is_defined, {optional}),",
                constant.index
            )?;
        }
        writeln!(tail, "{{}}}};")?;
        writeln!(
            tail,
            "using namespace softmetal_entries;\nstatic msl_module module = {{MSL_ABI, {}, {}, {}, kernels, constants, layouts, metal::all_variables(), &derive}};\nreturn &module;\n}}",
            self.instances.len(),
            self.constants.len(),
            self.structs.len(),
        )
    }

    fn entry(
        &self,
        tail: &mut String,
        number: usize,
        instance: &Instance,
        kernel: &Kernel,
    ) -> std::fmt::Result {
        let function = &instance.function;
        let arguments: Vec<String> = kernel
            .parameters
            .iter()
            .enumerate()
            .map(|(at, parameter)| {
                let argument = format!("metal::argument<{at}, F{number}>");
                match &parameter.source {
                    Source::Buffer { index, .. } => {
                        format!("metal::memory_argument<{argument}>(c->buffers[{index}])")
                    }
                    Source::Threadgroup { index } => format!(
                        "metal::memory_argument<{argument}>(c->threadgroup_arguments[{index}])"
                    ),
                    Source::Position(name) => {
                        format!("metal::position_argument<{argument}>(c->{name})")
                    }
                }
            })
            .collect();
        writeln!(tail, "using F{number} = decltype({function});")?;
        writeln!(
            tail,
            "static void E{number}(const msl_context* c) {{ {function}({}); }}",
            arguments.join(", ")
        )?;
        for (at, _, exists) in memory_parameters(kernel)
            .filter_map(|(at, source, exists)| exists.map(|e| (at, source, e)))
        {
            writeln!(tail, "static bool X{number}_{at}() {{ return {exists}; }}")?;
        }
        writeln!(tail, "static const msl_parameter P{number}[] = {{")?;
        for (at, source, exists) in memory_parameters(kernel) {
            let (kind, index) = match source {
                Source::Buffer { index, constant: true } => ("MSL_IN_CONSTANT", index),
                Source::Buffer { index, constant: false } => ("MSL_IN_DEVICE", index),
                Source::Threadgroup { index } | Source::Position(index) => {
                    ("MSL_IN_THREADGROUP", index)
                }
            };
            let exists = exists.map_or("nullptr".to_owned(), |_| format!("&X{number}_{at}"));
            let name = &kernel.parameters[at].name;
            writeln!(
                tail,
                "metal::describe<metal::argument<{at}, F{number}>>(\"{name}\", {kind}, {index}, {exists}),"
            )?;
        }
        writeln!(tail, "{{}}}};")?;
        let reached: Vec<String> =
            self.reached_constants(kernel).iter().map(usize::to_string).collect();
        let reached = if reached.is_empty() { "0".to_owned() } else { reached.join(", ") };
        writeln!(tail, "static const unsigned C{number}[] = {{{reached}}};")
    }

    /// The indices (in `constants`) of the function constants that the kernel's code can reach by name.
    fn reached_constants(&self, kernel: &Kernel) -> Vec<usize> {
        let mut seen: BTreeSet<&str> = BTreeSet::from([kernel.name.as_str()]);
        let mut open = vec![kernel.name.as_str()];
        while let Some(name) = open.pop() {
            for word in self.mentions.get(name).into_iter().flatten() {
                if seen.insert(word) {
                    open.push(word);
                }
            }
        }
        (0..self.constants.len())
            .filter(|i| seen.contains(self.constants[*i].name.as_str()))
            .collect()
    }
}

/// The parameters in memory: (position in the signature, source, the condition of its existence).
fn memory_parameters(kernel: &Kernel) -> impl Iterator<Item = (usize, &Source, Option<&String>)> {
    kernel
        .parameters
        .iter()
        .enumerate()
        .filter(|(_, p)| !matches!(p.source, Source::Position(_)))
        .map(|(at, p)| (at, &p.source, p.exists.as_ref()))
}
