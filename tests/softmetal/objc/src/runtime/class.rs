//! Classes: a name, a superclass, a method table, and counts of live objects.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Once, RwLock};

use super::encode::Implementation;
use super::selector::Sel;
use crate::gates;

/// What messages to the runtime need to know about the objects of a class.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Objects made by this crate.
    Object,
    /// The class of a class.
    Meta,
    /// Blocks on the stack, copied when retained.
    StackBlock,
    /// Blocks in static memory, never counted.
    GlobalBlock,
    /// Blocks on the heap.
    HeapBlock,
}

/// One method: its selector, code, encoding and the first macOS version that has it.
pub(crate) struct Method {
    pub(crate) sel: Sel,
    pub(crate) code: *const c_void,
    pub(crate) types: CString,
    since: Option<gates::Version>,
}

// SAFETY: `code` is the address of a function; nothing else is shared mutably.
unsafe impl Send for Method {}
// SAFETY: as above.
unsafe impl Sync for Method {}

/// A class object. The first word is its metaclass, as in every Objective-C object.
#[repr(C)]
pub(crate) struct Class {
    isa: AtomicPtr<Class>,
    name: &'static CStr,
    superclass: Option<&'static Class>,
    kind: Kind,
    methods: RwLock<BTreeMap<Sel, &'static Method>>,
    live: AtomicUsize,
    made: AtomicUsize,
}

static REGISTERED: RwLock<Vec<&'static Class>> = RwLock::new(Vec::new());

/// Fills the method tables on the first use of any class.
pub(crate) fn ensure_installed() {
    static ONCE: Once = Once::new();
    if !ONCE.is_completed() {
        ONCE.call_once(crate::classes::install);
    }
}

/// All classes, in the order in which they were installed.
pub(crate) fn registered() -> Vec<&'static Class> {
    ensure_installed();
    REGISTERED.read().unwrap().clone()
}

/// The class of this name.
pub(crate) fn lookup(name: &CStr) -> Option<&'static Class> {
    registered().into_iter().find(|class| class.name == name)
}

impl Class {
    pub(crate) const fn new(name: &'static CStr, superclass: Option<&'static Class>) -> Class {
        Class::with_kind(name, superclass, Kind::Object)
    }

    pub(crate) const fn with_kind(
        name: &'static CStr,
        superclass: Option<&'static Class>,
        kind: Kind,
    ) -> Class {
        Class {
            isa: AtomicPtr::new(std::ptr::null_mut()),
            name,
            superclass,
            kind,
            methods: RwLock::new(BTreeMap::new()),
            live: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
        }
    }

    /// Makes the metaclass and lists the class. Superclasses come first.
    pub(crate) fn register(&'static self) {
        if !self.isa.load(Ordering::Acquire).is_null() {
            return;
        }
        let above = self.superclass.map(Class::metaclass);
        let meta = Box::leak(Box::new(Class::with_kind(self.name, above, Kind::Meta)));
        self.isa.store(meta, Ordering::Release);
        REGISTERED.write().unwrap().push(self);
    }

    /// The class of this class object.
    pub(crate) fn metaclass(&'static self) -> &'static Class {
        if self.kind == Kind::Meta {
            return self;
        }
        if self.isa.load(Ordering::Acquire).is_null() {
            ensure_installed();
        }
        // SAFETY: `register` stored a leaked class; it is registered by now, or null is caught here.
        unsafe { self.isa.load(Ordering::Acquire).as_ref() }.unwrap_or_else(|| {
            super::fatal(&format!("class {} was used before it was registered", self.name()))
        })
    }

    /// Adds an instance method.
    pub(crate) fn add<F: Implementation>(&'static self, name: &str, code: F) {
        let sel = Sel::register(&CString::new(name).expect("selector names hold no NUL"));
        let method = Method {
            sel,
            code: code.address(),
            types: CString::new(F::types()).expect("encodings hold no NUL"),
            since: gates::since(self.name(), name),
        };
        let before = self.methods.write().unwrap().insert(sel, Box::leak(Box::new(method)));
        assert!(before.is_none(), "{} {name} is defined twice", self.name());
    }

    /// Adds a class method.
    pub(crate) fn add_to_class<F: Implementation>(&'static self, name: &str, code: F) {
        self.metaclass().add(name, code);
    }

    /// The method that answers `sel`, here or in a superclass. Class methods of the root class are also
    /// its instance methods' twins, as the root metaclass inherits from the root class.
    pub(crate) fn find(&'static self, sel: Sel) -> Option<&'static Method> {
        let mut class = Some(self);
        while let Some(here) = class {
            if let Some(method) = here.methods.read().unwrap().get(&sel) {
                let present =
                    method.since.is_none_or(|first| crate::control().os_version() >= first);
                return present.then_some(*method);
            }
            class = here.superclass;
        }
        if self.kind == Kind::Meta {
            return crate::foundation::object::NS_OBJECT.find(sel);
        }
        None
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or("<not UTF-8>")
    }

    pub(crate) fn name_ptr(&self) -> *const c_char {
        self.name.as_ptr()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn superclass(&self) -> Option<&'static Class> {
        self.superclass
    }

    /// Whether this is `other` or inherits from it.
    pub(crate) fn is_kind_of(&'static self, other: &Class) -> bool {
        std::iter::successors(Some(self), |class| class.superclass)
            .any(|class| std::ptr::eq(class, other))
    }

    pub(crate) fn count_made(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_freed(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Objects alive now, and made since the process began.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.live.load(Ordering::Relaxed), self.made.load(Ordering::Relaxed))
    }
}

/// Declares a class that objc2 refers to by name, and its Rust static.
macro_rules! class {
    ($vis:vis $ident:ident, $name:literal $(, $superclass:path)?) => {
        #[unsafe(export_name = concat!("._OBJC_CLASS_", $name))]
        $vis static $ident: $crate::runtime::Class = $crate::runtime::Class::new(
            match std::ffi::CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("class names hold no NUL"),
            },
            class!(@superclass $($superclass)?),
        );
    };
    (@superclass) => { Some(&$crate::foundation::object::NS_OBJECT) };
    (@superclass $superclass:path) => { Some(&$superclass) };
}
pub(crate) use class;

/// Defines methods: `- "selector:" (this, argument: Type) -> Type { body }`, `+` for class methods. The
/// expansion is a function `install` that registers the class and adds them.
macro_rules! methods {
    ($name:ident for $class:expr; $($kind:tt $sel:literal ($this:ident $(, $arg:ident: $ty:ty)* $(,)?)
        $(-> $ret:ty)? $body:block)*) => {
        pub(crate) fn $name() {
            $class.register();
            $( methods!(@one $kind $class, $sel, ($this $(, $arg: $ty)*), ($($ret)?), $body); )*
        }
    };
    (@one - $class:expr, $sel:literal, ($this:ident $(, $arg:ident: $ty:ty)*), ($($ret:ty)?), $body:block) => {{
        #[allow(clippy::too_many_arguments)]
        extern "C-unwind" fn code($this: $crate::runtime::Id, _: $crate::runtime::Sel $(, $arg: $ty)*) $(-> $ret)? {
            let _ = $this;
            $body
        }
        $class.add(
            $sel,
            code as extern "C-unwind" fn($crate::runtime::Id, $crate::runtime::Sel $(, $ty)*) $(-> $ret)?,
        );
    }};
    (@one + $class:expr, $sel:literal, ($this:ident $(, $arg:ident: $ty:ty)*), ($($ret:ty)?), $body:block) => {{
        #[allow(clippy::too_many_arguments)]
        extern "C-unwind" fn code(
            $this: &'static $crate::runtime::Class,
            _: $crate::runtime::Sel $(, $arg: $ty)*
        ) $(-> $ret)? {
            let _ = $this;
            $body
        }
        $class.add_to_class(
            $sel,
            code as extern "C-unwind" fn(
                &'static $crate::runtime::Class, $crate::runtime::Sel $(, $ty)*
            ) $(-> $ret)?,
        );
    }};
}
pub(crate) use methods;
