//! A compiled MSL source and its functions.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::compile;
use crate::constants::Constant;
use crate::function::{Function, Specialisation, bindings};
use crate::module::{Module, name};
use crate::options::{CompileOptions, Sanitizer};

/// A struct's layout as the kernel sees it, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `sizeof`
    pub size: usize,
    /// `alignof`
    pub align: usize,
    /// The data members in order.
    pub fields: Vec<Field>,
}

/// A data member, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// `offsetof`
    pub offset: usize,
    /// `sizeof`
    pub size: usize,
}

/// Function constants as bytes, by index; the key of a specialised module.
type Values = Vec<(u32, [u8; 8])>;

/// The instrumented twin of a library, and the program that runs it.
pub(crate) struct Sanitized {
    pub(crate) sanitizer: Sanitizer,
    pub(crate) path: PathBuf,
    pub(crate) runner: PathBuf,
}

/// A compiled MSL source. Specialisations of its kernels are kept as long as it lives.
pub struct Library {
    options: CompileOptions,
    path: PathBuf,
    sanitized: Option<Arc<Sanitized>>,
    base: Module,
    specialised: Mutex<HashMap<Values, Arc<Module>>>,
}

impl Sanitized {
    fn compile(
        source: &str,
        options: &CompileOptions,
        sanitizer: Sanitizer,
    ) -> Result<Self, String> {
        let path = compile::library(source, options, Some(sanitizer))?;
        Ok(Self { sanitizer, path, runner: compile::runner(&options.cache_dir, sanitizer)? })
    }
}

impl Library {
    /// Compiles flattened MSL source (it includes Metal's own headers only).
    ///
    /// # Errors
    /// The compiler's messages with lines of the source: what `newLibraryWithSource` would report.
    pub fn compile(source: &str, options: &CompileOptions) -> Result<Arc<Self>, String> {
        let path = compile::library(source, options, None)?;
        let sanitized =
            options.sanitizer.map(|sanitizer| Sanitized::compile(source, options, sanitizer));
        let mut base = Module::load(&path, &options.cache_dir)?;
        base.set_constants(&[]);
        for kernel in base.kernels() {
            bindings(&base, kernel)?;
        }
        Ok(Arc::new(Self {
            options: options.clone(),
            path,
            sanitized: sanitized.transpose()?.map(Arc::new),
            base,
            specialised: Mutex::default(),
        }))
    }

    /// The names by which the host can ask for kernels.
    pub fn function_names(&self) -> Vec<String> {
        self.base.kernels().iter().map(|kernel| name(kernel.name)).collect()
    }

    /// A kernel, specialised with function constants. Those it does not reach are ignored, as Metal does.
    ///
    /// # Errors
    /// No such kernel; a constant of another type; a constant that the kernel reaches, that
    /// `is_function_constant_defined` never asks for, and that is missing.
    pub fn function(
        self: &Arc<Self>,
        function: &str,
        constants: &[Constant],
    ) -> Result<Function, String> {
        let Some(at) = self.base.kernels().iter().position(|kernel| name(kernel.name) == function)
        else {
            return Err(format!("no function {function} in the library"));
        };
        let kernel = &self.base.kernels()[at];
        let mut values = Values::new();
        for reached in self.base.reached(kernel) {
            let declared = &self.base.constants()[*reached as usize];
            let label = || {
                format!(
                    "function {function}: constant {} (index {})",
                    name(declared.name),
                    declared.index
                )
            };
            match constants.iter().find(|constant| constant.index == declared.index) {
                Some(given) if given.value.type_number() != declared.kind => {
                    return Err(format!(
                        "{} is given as {:?}, which is not its type",
                        label(),
                        given.value
                    ));
                }
                Some(given) => values.push((declared.index, given.value.bytes())),
                None if declared.optional => {}
                None => return Err(format!("{} has no value", label())),
            }
        }
        values.sort_unstable();
        values.dedup();
        let module = self.specialised(values.clone())?;
        let specialisation = Specialisation { name: function.to_owned(), at, module, values };
        Function::new(specialisation, self.sanitized.clone(), self.options.clone())
    }

    fn specialised(&self, values: Values) -> Result<Arc<Module>, String> {
        let mut known = self.specialised.lock().map_err(|error| error.to_string())?;
        if let Some(module) = known.get(&values) {
            return Ok(module.clone());
        }
        let mut module = Module::load(&self.path, &self.options.cache_dir)?;
        module.set_constants(&values);
        let module = Arc::new(module);
        known.insert(values, module.clone());
        Ok(module)
    }

    /// The layout of a struct that the source defines at its outermost level, by its name.
    pub fn struct_layout(&self, struct_name: &str) -> Option<Layout> {
        let found = self.base.layouts().iter().find(|layout| name(layout.name) == struct_name)?;
        let fields = self.base.fields(found).iter().map(|field| Field {
            name: name(field.name),
            offset: field.offset as usize,
            size: field.size as usize,
        });
        Some(Layout {
            size: found.size as usize,
            align: found.alignment as usize,
            fields: fields.collect(),
        })
    }
}
