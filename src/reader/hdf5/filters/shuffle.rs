//! shuffle: the first bytes of all elements, then the second, and so on.

/// Puts the bytes of `src` into `dst`, of the same length, as they were before.
pub(super) fn undo(element: usize, src: &[u8], dst: &mut [u8]) {
    match element {
        2 => planes::<2>(src, dst),
        4 => planes::<4>(src, dst),
        8 => planes::<8>(src, dst),
        _ => {
            let count = src.len() / element;
            for (i, plane) in src.chunks_exact(count.max(1)).take(element.min(src.len())).enumerate() {
                for (to, from) in dst.iter_mut().skip(i).step_by(element).zip(plane) {
                    *to = *from;
                }
            }
            copy_rest(count * element, src, dst);
        }
    }
}

/// The same for elements of `N` bytes, in a form that is compiled to something fast.
fn planes<const N: usize>(src: &[u8], dst: &mut [u8]) {
    let count = src.len() / N;
    let mut planes = [&[][..]; N];
    for (plane, bytes) in planes.iter_mut().zip(src.chunks_exact(count.max(1))) {
        *plane = bytes;
    }
    for (i, to) in dst.chunks_exact_mut(N).enumerate() {
        for (to, plane) in to.iter_mut().zip(&planes) {
            *to = plane.get(i).copied().unwrap_or(0);
        }
    }
    copy_rest(count * N, src, dst);
}

/// What does not fill an element stays at the end.
fn copy_rest(from: usize, src: &[u8], dst: &mut [u8]) {
    if let (Some(src), Some(dst)) = (src.get(from..), dst.get_mut(from..)) {
        dst.copy_from_slice(src);
    }
}
