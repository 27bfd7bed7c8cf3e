//! The binary form of arrays, taken apart. Never interprets elements.

use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;

/// The elements of an array in binary form, all dimensions in a row; `None` in the list is NULL. `None` when the bytes are not such an array.
pub fn elements(array: TypeOid, bytes: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut rest = bytes;
    let dimensions = usize::try_from(int(&mut rest)?).ok().filter(|n| *n <= 6)?;
    let _has_nulls = int(&mut rest)?;
    let element = int(&mut rest)? as u32;
    if oid::array_element(array)? != TypeOid(element) {
        return None;
    }
    let mut count = usize::from(dimensions > 0);
    for _ in 0..dimensions {
        count = count.checked_mul(usize::try_from(int(&mut rest)?).ok()?)?;
        let _lower_bound = int(&mut rest)?;
    }
    // Each element takes four bytes at least, so a false count cannot make us reserve much.
    if count > rest.len() / 4 {
        return None;
    }
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        elements.push(match int(&mut rest)? {
            -1 => None,
            length => {
                let (element, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                Some(element)
            }
        });
    }
    rest.is_empty().then_some(elements)
}

fn int(rest: &mut &[u8]) -> Option<i32> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(i32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(count: i32, elements: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [1, 0, 23, count, 1] {
            bytes.extend_from_slice(&i32::to_be_bytes(number));
        }
        bytes.extend_from_slice(elements);
        bytes
    }

    #[test]
    fn elements_and_nulls_come_out_in_order() {
        let bytes = array(2, &[0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255, 255]);
        let found = elements(TypeOid(1007), &bytes).unwrap();
        assert_eq!(found, [Some(&[0, 0, 0, 7][..]), None]);
        let empty = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23];
        assert_eq!(elements(TypeOid(1007), &empty), Some(vec![]));
    }

    #[test]
    fn damaged_arrays_are_refused() {
        assert_eq!(elements(TypeOid(1007), &array(i32::MAX, &[])), None);
        assert_eq!(elements(TypeOid(1007), &array(1, &[0, 0, 0, 9, 1])), None);
        assert_eq!(elements(TypeOid(1016), &array(0, &[])), None);
    }
}
