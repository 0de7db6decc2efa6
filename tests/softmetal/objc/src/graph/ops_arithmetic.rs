//! Elementwise ops and reductions.

use super::ir::{Binary, Op, Reduction, Unary};
use super::tensor::{GRAPH, answer};
use crate::foundation::array;
use crate::runtime::Id;
use crate::runtime::abort::abort;
use crate::runtime::class::methods;

macro_rules! arithmetic {
    (unary: $($unary:literal $u:ident,)* binary: $($binary:literal $b:ident,)*
     reductions: $($along:literal $all:literal $r:ident,)*) => {
        methods! { install_methods for GRAPH;
            $( - $unary (this, tensor: Id, _name: Id) -> Id { answer(this, Op::Unary(Unary::$u), &[tensor]) } )*
            $( - $binary (this, a: Id, b: Id, _name: Id) -> Id { answer(this, Op::Binary(Binary::$b), &[a, b]) } )*
            $(
                - $along (this, tensor: Id, axis: isize, _name: Id) -> Id {
                    let axes = Some(vec![axis as i64]);
                    answer(this, Op::Reduce { kind: Reduction::$r, axes }, &[tensor])
                }
                - $all (this, tensor: Id, axes: Id, _name: Id) -> Id {
                    answer(this, Op::Reduce { kind: Reduction::$r, axes: array::read_shape(axes) }, &[tensor])
                }
            )*
        }
    };
}

arithmetic! {
    unary:
        "identityWithTensor:name:" Identity,
        "sigmoidWithTensor:name:" Sigmoid,
        "squareWithTensor:name:" Square,
        "squareRootWithTensor:name:" SquareRoot,
        "reciprocalSquareRootWithTensor:name:" ReciprocalSquareRoot,
        "reverseSquareRootWithTensor:name:" ReciprocalSquareRoot,
        "reciprocalWithTensor:name:" Reciprocal,
        "negativeWithTensor:name:" Negative,
        "absoluteWithTensor:name:" Absolute,
        "exponentWithTensor:name:" Exponent,
        "logarithmWithTensor:name:" Logarithm,
        "tanhWithTensor:name:" Tanh,
        "sinWithTensor:name:" Sin,
        "cosWithTensor:name:" Cos,
        "erfWithTensor:name:" Erf,
        "reLUWithTensor:name:" Relu,
        "floorWithTensor:name:" Floor,
        "roundWithTensor:name:" Round,
        "isNaNWithTensor:name:" IsNan,
        "isInfiniteWithTensor:name:" IsInfinite,
        "isFiniteWithTensor:name:" IsFinite,
        "notWithTensor:name:" Not,
    binary:
        "additionWithPrimaryTensor:secondaryTensor:name:" Add,
        "subtractionWithPrimaryTensor:secondaryTensor:name:" Subtract,
        "multiplicationWithPrimaryTensor:secondaryTensor:name:" Multiply,
        "divisionWithPrimaryTensor:secondaryTensor:name:" Divide,
        "maximumWithPrimaryTensor:secondaryTensor:name:" Maximum,
        "minimumWithPrimaryTensor:secondaryTensor:name:" Minimum,
        "powerWithPrimaryTensor:secondaryTensor:name:" Power,
        "floorModuloWithPrimaryTensor:secondaryTensor:name:" Modulo,
        "equalWithPrimaryTensor:secondaryTensor:name:" Equal,
        "notEqualWithPrimaryTensor:secondaryTensor:name:" NotEqual,
        "lessThanWithPrimaryTensor:secondaryTensor:name:" Less,
        "lessThanOrEqualToWithPrimaryTensor:secondaryTensor:name:" LessOrEqual,
        "greaterThanWithPrimaryTensor:secondaryTensor:name:" Greater,
        "greaterThanOrEqualToWithPrimaryTensor:secondaryTensor:name:" GreaterOrEqual,
        "logicalANDWithPrimaryTensor:secondaryTensor:name:" And,
        "logicalORWithPrimaryTensor:secondaryTensor:name:" Or,
    reductions:
        "reductionSumWithTensor:axis:name:" "reductionSumWithTensor:axes:name:" Sum,
        "reductionMaximumWithTensor:axis:name:" "reductionMaximumWithTensor:axes:name:" Maximum,
        "reductionMinimumWithTensor:axis:name:" "reductionMinimumWithTensor:axes:name:" Minimum,
        "reductionProductWithTensor:axis:name:" "reductionProductWithTensor:axes:name:" Product,
}

methods! { install_more for GRAPH;
    - "meanOfTensor:axes:name:" (this, tensor: Id, axes: Id, _name: Id) -> Id {
        let axes = array::read_shape(axes).unwrap_or_else(|| abort!("meanOfTensor:axes:name:: the axes must not be nil"));
        answer(this, Op::Reduce { kind: Reduction::Mean, axes: Some(axes) }, &[tensor])
    }
    - "selectWithPredicateTensor:truePredicateTensor:falsePredicateTensor:name:" (
        this, predicate: Id, yes: Id, no: Id, _name: Id,
    ) -> Id {
        answer(this, Op::Select, &[predicate, yes, no])
    }
    - "clampWithTensor:minValueTensor:maxValueTensor:name:" (this, tensor: Id, least: Id, most: Id, name: Id) -> Id {
        let _ = name;
        let raised = answer(this, Op::Binary(Binary::Maximum), &[tensor, least]);
        answer(this, Op::Binary(Binary::Minimum), &[raised, most])
    }
}

pub(super) fn install() {
    install_methods();
    install_more();
}
