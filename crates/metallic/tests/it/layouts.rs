//! Views against plain index arithmetic, and the bounds of tensors.

use metallic::Error;
use metallic::tensor::{DType, Layout, Shape, Tensor};
use metallic_testkit::null_device::{NullOptions, null_context};
use proptest::prelude::*;

/// One view operation with raw numbers, made fit for the shape it meets.
#[derive(Clone, Debug)]
enum Step {
    Narrow { axis: usize, start: usize, len: usize },
    Permute { swaps: [usize; 2] },
    Broadcast { axis: usize, to: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..4, 0usize..6, 0usize..6).prop_map(|(axis, start, len)| Step::Narrow {
            axis,
            start,
            len
        }),
        [0usize..4, 0usize..4].prop_map(|swaps| Step::Permute { swaps }),
        (0usize..4, 1usize..4).prop_map(|(axis, to)| Step::Broadcast { axis, to }),
    ]
}

/// The plain truth: a shape, and the element each index stands for.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    dims: Vec<usize>,
    elements: Vec<usize>,
}

impl Plain {
    fn dense(dims: &[usize]) -> Self {
        Self { dims: dims.to_vec(), elements: (0..dims.iter().product()).collect() }
    }

    /// The same values under `dims`, each taken from the index that `from` names.
    fn gather(&self, dims: Vec<usize>, from: impl Fn(&[usize]) -> Vec<usize>) -> Self {
        let elements = indices(&dims)
            .into_iter()
            .map(|index| {
                let flat =
                    from(&index).iter().zip(&self.dims).fold(0, |flat, (i, dim)| flat * dim + i);
                self.elements[flat]
            })
            .collect();
        Self { dims, elements }
    }
}

fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    dims.iter().fold(vec![vec![]], |all, &dim| {
        all.iter()
            .flat_map(|index| (0..dim).map(move |i| [index.as_slice(), &[i]].concat()))
            .collect()
    })
}

/// The element of each index by the layout's own numbers.
fn reached(layout: &Layout) -> Plain {
    let dims = layout.shape().dims().to_vec();
    let place = |index: Vec<usize>| {
        index.iter().zip(layout.strides()).fold(layout.offset(), |at, (i, stride)| at + i * stride)
    };
    Plain { elements: indices(&dims).into_iter().map(place).collect(), dims }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn views_reach_the_elements_they_name(
        dims in prop::collection::vec(1usize..5, 1..=4),
        steps in prop::collection::vec(step(), 0..6),
    ) {
        let total: usize = dims.iter().product();
        let mut layout = Layout::contiguous(Shape::new(&dims));
        let mut plain = Plain::dense(&dims);
        for step in steps {
            let rank = plain.dims.len();
            match step {
                Step::Narrow { axis, start, len } => {
                    let Some(&dim) = plain.dims.get(axis) else {
                        prop_assert!(layout.narrow(axis, start, len).is_none());
                        continue;
                    };
                    let Some(cut) = layout.narrow(axis, start, len) else {
                        prop_assert!(start + len > dim, "refused within bounds");
                        continue;
                    };
                    prop_assert!(start + len <= dim, "accepted out of bounds");
                    layout = cut;
                    let mut dims = plain.dims.clone();
                    dims[axis] = len;
                    plain = plain.gather(dims, |index| {
                        let mut from = index.to_vec();
                        from[axis] += start;
                        from
                    });
                }
                Step::Permute { swaps: [a, b] } => {
                    let (a, b) = (a % rank, b % rank);
                    let mut axes: Vec<_> = (0..rank).collect();
                    axes.swap(a, b);
                    layout = layout.permute(&axes).unwrap();
                    let mut dims = plain.dims.clone();
                    dims.swap(a, b);
                    plain = plain.gather(dims, |index| {
                        let mut from = index.to_vec();
                        from.swap(a, b);
                        from
                    });
                }
                Step::Broadcast { axis, to } => {
                    let axis = axis % rank;
                    let mut dims = plain.dims.clone();
                    let single = dims[axis] == 1;
                    let fits = single || dims[axis] == to;
                    dims[axis] = to;
                    let wide = layout.broadcast(Shape::new(&dims));
                    prop_assert_eq!(wide.is_some(), fits);
                    let Some(wide) = wide else { continue };
                    layout = wide;
                    plain = plain.gather(dims, |index| {
                        let mut from = index.to_vec();
                        if single {
                            from[axis] = 0;
                        }
                        from
                    });
                }
            }
        }
        prop_assert_eq!(&reached(&layout), &plain);
        let distinct: std::collections::HashSet<_> = plain.elements.iter().collect();
        let shared = distinct.len() < plain.elements.len();
        prop_assert_eq!(layout.is_injective(), !shared);
        if let Some(last) = plain.elements.iter().max() {
            prop_assert_eq!(layout.end(), Some(last + 1));
            prop_assert!(last < &total);
        }
        let in_order = plain.elements.windows(2).all(|pair| pair[1] == pair[0] + 1);
        prop_assert_eq!(layout.is_contiguous(), in_order || plain.elements.is_empty());
        // What is dense can be seen as a row; nothing else can.
        let row = layout.reshape(Shape::new(&[plain.elements.len()]));
        prop_assert_eq!(row.is_some(), layout.is_contiguous());
        if let Some(row) = row {
            prop_assert_eq!(reached(&row).elements, plain.elements);
        }
    }
}

#[test]
fn tensors_stay_inside_their_buffers() {
    let ctx = null_context(NullOptions::default());
    let tensor = ctx.zeros(DType::F16, [4, 8]).unwrap();
    let view = |layout| Tensor::new(tensor.buffer().clone(), DType::F16, layout);
    let strided = |dims: &[usize], strides: &[usize], offset| {
        Layout::strided(Shape::new(dims), strides, offset).unwrap()
    };
    assert!(view(strided(&[4, 8], &[8, 1], 0)).is_ok());
    assert!(view(strided(&[3, 8], &[8, 1], 8)).is_ok());
    for outside in [
        strided(&[4, 8], &[8, 1], 1),
        strided(&[5, 8], &[8, 1], 0),
        strided(&[2, 8], &[usize::MAX, 1], 0),
        strided(&[1], &[1], 32),
    ] {
        let error = view(outside).unwrap_err();
        assert!(error.to_string().contains("does not fit a buffer of 64 bytes"), "{error}");
    }
    assert!(Layout::strided(Shape::new(&[2, 2]), &[1], 0).is_none(), "ranks differ");
}

#[test]
fn views_never_split_a_block() {
    let ctx = null_context(NullOptions::default());
    let blocks = ctx.zeros(DType::Q8_0, [2, 4, 64]).unwrap();
    assert!(blocks.narrow(2, 32, 32).is_ok());
    assert!(blocks.permute(&[1, 0, 2]).is_ok());
    for wrong in [blocks.narrow(2, 1, 32), blocks.narrow(2, 0, 31), blocks.permute(&[0, 2, 1])] {
        assert!(matches!(wrong, Err(Error::Layout { .. })));
    }
    let odd = Layout::strided(Shape::new(&[2, 32]), &[33, 1], 0).unwrap();
    assert!(Tensor::new(blocks.buffer().clone(), DType::Q8_0, odd).is_err(), "rows off by one");
    assert!(ctx.zeros(DType::Q8_0, [2, 31]).is_err());
}
