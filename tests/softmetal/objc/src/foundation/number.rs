//! NSNumber: one integer or float.

use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(NS_VALUE, "NSValue");
class!(pub(crate) NS_NUMBER, "NSNumber", NS_VALUE);

/// The value of a number object.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    pub(crate) fn integer(self) -> i128 {
        match self {
            Number::Integer(value) => value,
            Number::Float(value) => value as i128,
        }
    }

    fn float(self) -> f64 {
        match self {
            Number::Integer(value) => value as f64,
            Number::Float(value) => value,
        }
    }
}

/// A new number object holding an integer.
pub(crate) fn make(value: i128) -> Ref {
    Ref::new(&NS_NUMBER, Number::Integer(value))
}

/// The integer in a number object.
pub(crate) fn read(id: Id) -> i128 {
    id.value::<Number>().integer()
}

macro_rules! numbers {
    ($($ty:ty, $variant:ident, $wide:ty, $init:literal, $make:literal, $get:literal, $read:ident;)*) => {
        methods! { install_number for NS_NUMBER;
            $(
                - $init (this, value: $ty) -> Id { this.init(Number::$variant(<$wide>::from(value))) }
                + $make (_class, value: $ty) -> Id {
                    Ref::new(&NS_NUMBER, Number::$variant(<$wide>::from(value))).autorelease()
                }
                - $get (this) -> $ty { this.value::<Number>().$read() as $ty }
            )*
            - "isEqualToNumber:" (this, other: Id) -> u8 {
                u8::from(this.value::<Number>().float() == other.value::<Number>().float())
            }
            - "isEqual:" (this, other: Id) -> u8 {
                u8::from(other.try_value::<Number>().is_some_and(|n| n.float() == this.value::<Number>().float()))
            }
            - "hash" (this) -> usize { this.value::<Number>().float().to_bits() as usize }
            - "stringValue" (this) -> Id { text(this) }
            - "description" (this) -> Id { text(this) }
        }
    };
}

numbers! {
    u8, Integer, i128, "initWithBool:", "numberWithBool:", "boolValue", integer;
    i8, Integer, i128, "initWithChar:", "numberWithChar:", "charValue", integer;
    i16, Integer, i128, "initWithShort:", "numberWithShort:", "shortValue", integer;
    u16, Integer, i128, "initWithUnsignedShort:", "numberWithUnsignedShort:", "unsignedShortValue", integer;
    i32, Integer, i128, "initWithInt:", "numberWithInt:", "intValue", integer;
    u32, Integer, i128, "initWithUnsignedInt:", "numberWithUnsignedInt:", "unsignedIntValue", integer;
    i64, Integer, i128, "initWithLong:", "numberWithLong:", "longValue", integer;
    u64, Integer, i128, "initWithUnsignedLong:", "numberWithUnsignedLong:", "unsignedLongValue", integer;
    f32, Float, f64, "initWithFloat:", "numberWithFloat:", "floatValue", float;
    f64, Float, f64, "initWithDouble:", "numberWithDouble:", "doubleValue", float;
}

methods! { install_wide for NS_NUMBER;
    - "initWithUnsignedChar:" (this, value: u8) -> Id { this.init(Number::Integer(i128::from(value))) }
    + "numberWithUnsignedChar:" (_class, value: u8) -> Id { make(i128::from(value)).autorelease() }
    - "unsignedCharValue" (this) -> u8 { read(this) as u8 }
    - "initWithLongLong:" (this, value: i64) -> Id { this.init(Number::Integer(i128::from(value))) }
    + "numberWithLongLong:" (_class, value: i64) -> Id { make(i128::from(value)).autorelease() }
    - "longLongValue" (this) -> i64 { read(this) as i64 }
    - "initWithUnsignedLongLong:" (this, value: u64) -> Id { this.init(Number::Integer(i128::from(value))) }
    + "numberWithUnsignedLongLong:" (_class, value: u64) -> Id { make(i128::from(value)).autorelease() }
    - "unsignedLongLongValue" (this) -> u64 { read(this) as u64 }
    - "initWithInteger:" (this, value: isize) -> Id { this.init(Number::Integer(value as i128)) }
    + "numberWithInteger:" (_class, value: isize) -> Id { make(value as i128).autorelease() }
    - "integerValue" (this) -> isize { read(this) as isize }
    - "initWithUnsignedInteger:" (this, value: usize) -> Id { this.init(Number::Integer(value as i128)) }
    + "numberWithUnsignedInteger:" (_class, value: usize) -> Id { make(value as i128).autorelease() }
    - "unsignedIntegerValue" (this) -> usize { read(this) as usize }
}
methods! { install_value for NS_VALUE; }

fn text(this: Id) -> Id {
    let text = match *this.value::<Number>() {
        Number::Integer(value) => value.to_string(),
        Number::Float(value) => value.to_string(),
    };
    super::string::make(&text).autorelease()
}

pub(crate) fn install() {
    install_value();
    install_number();
    install_wide();
}
