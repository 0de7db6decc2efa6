//! Strings, numbers, collections, errors.

use objc2::AnyThread;
use objc2_foundation::{
    NSArray, NSData, NSDictionary, NSError, NSNumber, NSOperatingSystemVersion, NSProcessInfo,
    NSString, NSURL,
};

#[test]
fn strings() {
    let text = NSString::from_str("Metal ✓");
    assert_eq!(text.to_string(), "Metal ✓");
    assert_eq!((text.len(), text.len_utf16()), (9, 7));
    assert_eq!(text, NSString::from_str("Metal ✓"));
    assert_eq!(NSString::from_str("").to_string(), "");
}

#[test]
fn numbers() {
    assert_eq!(NSNumber::new_isize(-1).as_isize(), -1);
    assert_eq!(NSNumber::new_u64(u64::MAX).as_u64(), u64::MAX);
    assert_eq!(NSNumber::new_f64(0.5).as_f64(), 0.5);
    assert!(NSNumber::new_bool(true).as_bool());
    assert_eq!(NSNumber::numberWithInteger(9).as_usize(), 9);
}

#[test]
fn arrays_keep_order() {
    let array = NSArray::from_retained_slice(&(0..40).map(NSNumber::new_isize).collect::<Vec<_>>());
    assert_eq!(array.len(), 40);
    assert!(array.iter().map(|n| n.as_isize()).eq(0..40));
    assert_eq!(array.objectAtIndex(3).as_isize(), 3);
}

#[test]
fn dictionaries_find_by_text_and_have_no_order() {
    let keys = [NSString::from_str("a"), NSString::from_str("b")];
    let values = [NSNumber::new_isize(1), NSNumber::new_isize(2)];
    let map = NSDictionary::from_retained_objects(&[&*keys[0], &*keys[1]], &values);
    assert_eq!(map.objectForKey(&NSString::from_str("b")).unwrap().as_isize(), 2);
    assert!(map.objectForKey(&NSString::from_str("c")).is_none());
    let order: Vec<String> = map.allKeys().iter().map(|key| key.to_string()).collect();
    assert_eq!(order, ["b", "a"]);
}

#[test]
fn data_and_errors() {
    let data = NSData::with_bytes(&[1, 2, 3]);
    assert_eq!(data.to_vec(), [1, 2, 3]);
    let domain = NSString::from_str("D");
    let error =
        unsafe { NSError::initWithDomain_code_userInfo(NSError::alloc(), &domain, 4, None) };
    assert_eq!(error.code(), 4);
    assert!(error.localizedDescription().to_string().contains("D error 4"));
}

#[test]
fn urls_and_the_system() {
    let url = NSURL::fileURLWithPath(&NSString::from_str("/tmp/x"));
    assert_eq!(url.path().unwrap().to_string(), "/tmp/x");
    let info = NSProcessInfo::processInfo();
    let NSOperatingSystemVersion { majorVersion, minorVersion, .. } = info.operatingSystemVersion();
    assert_eq!((majorVersion, minorVersion), (15, 0));
    assert!(info.operatingSystemVersionString().to_string().contains("Build 24A"));
}
