//! Layouts, fill values and shared types as old releases wrote them, which no current one does.

use super::*;

/// Big-endian, unsigned, of two bytes.
const BIG16: [u8; 12] = [0x10, 1, 0, 0, 2, 0, 0, 0, 0, 0, 16, 0];

/// A layout message of version 1 or 2.
fn old_layout(version: u8, class: u8, sizes: &[u32], address: Option<u64>, data: &[u8]) -> Vec<u8> {
    let mut out = vec![version, sizes.len() as u8, class, 0, 0, 0, 0, 0];
    out.extend(address.iter().flat_map(|a| a.to_le_bytes()));
    out.extend(sizes.iter().flat_map(|s| s.to_le_bytes()));
    out.extend(data);
    out
}

#[test]
fn reads_old_layouts() {
    for version in [1, 2] {
        // The superblock's magic, as two numbers.
        let contiguous = old_layout(version, 1, &[2, 2], Some(0), &[]);
        assert_eq!(decoded(with_datasets(&[dataset(&[2], &BIG16, &contiguous)])).unwrap(), b"H\x89FD");
        let compact = old_layout(version, 0, &[2, 2], None, b"\x04\0\0\0\x01\x02\x03\x04");
        assert_eq!(decoded(with_datasets(&[dataset(&[2], &BIG16, &compact)])).unwrap(), [2, 1, 4, 3]);
        let far = old_layout(version, 1, &[2, 2], Some(1 << 40), &[]);
        assert!(refusal(with_datasets(&[dataset(&[2], &BIG16, &far)])).contains("beyond the end"));
        let short = old_layout(version, 0, &[2, 2], None, b"\x04\0\0\0\x01\x02");
        assert!(refusal(with_datasets(&[dataset(&[2], &BIG16, &short)])).contains("cut off"));
        let unwritten = old_layout(version, 2, &[8, 1], Some(u64::MAX), &[]);
        assert_eq!(decoded(with_datasets(&[dataset(&[8], &INT8, &unwritten)])).unwrap(), [0; 8]);
    }
    for layout in [&[0, 0][..], &[9, 0], &[3, 7], &[1, 1, 9, 0, 0, 0, 0, 0]] {
        let layout = [layout, &[0; 64]].concat();
        assert!(refusal(with_datasets(&[dataset(&[8], &INT8, &layout)])).contains("unknown"));
    }
}

#[test]
fn fills_what_was_never_written() {
    let value = b"\x02\0\0\0\x12\x34";
    let fills = [
        (message(kind::OLD_FILL, value), [0x34, 0x12]),
        (message(kind::FILL, &[&[1, 2, 2, 1][..], value].concat()), [0x34, 0x12]),
        (message(kind::FILL, &[&[2, 2, 2, 1][..], value].concat()), [0x34, 0x12]),
        (message(kind::FILL, &[2, 2, 2, 0]), [0, 0]),
        (message(kind::FILL, &[1, 2, 2, 1, 0, 0, 0, 0]), [0, 0]),
        (message(kind::FILL, &[1, 2, 2, 1, 0xff, 0xff, 0xff, 0xff]), [0, 0]),
        (message(kind::FILL, &[&[3, 0x2a][..], value].concat()), [0x34, 0x12]),
        (message(kind::FILL, &[3, 0x0a]), [0, 0]),
        (message(kind::FILL, &[3, 0x1a]), [0, 0]),
    ];
    for (fill, element) in fills {
        let unwritten = dataset_with(&[3], None, &BIG16, &contiguous(u64::MAX, 6), &[fill]);
        assert_eq!(decoded(with_datasets(&[unwritten])).unwrap(), element.repeat(3));
    }
    for (fill, says) in [
        (message(kind::FILL, &[3, 0x20, 3, 0, 0, 0, 1, 2, 3]), "has 3 bytes"),
        (message(kind::FILL, &[3, 0x20, 2, 0, 0, 0, 1]), "cut off"),
        (message(kind::FILL, &[4, 0]), "unknown version"),
    ] {
        let unwritten = dataset_with(&[3], None, &BIG16, &contiguous(u64::MAX, 6), &[fill]);
        assert!(undecoded(with_datasets(&[unwritten])).contains(says));
    }
    let bomb = dataset(&[1 << 40], &INT8, &contiguous(u64::MAX, 1 << 40));
    assert!(refusal(with_datasets(&[bomb])).contains("claims more"));
}

/// A dataset whose type is shared in this way.
fn of_shared(body: &[u8]) -> Vec<u8> {
    let mut out = dataset(&[2], body, &contiguous(0, 4));
    // The flag of the second message, behind that of the dataspace.
    out[16 + 8 + 16 + 4] = 2;
    out
}

#[test]
fn follows_committed_types() {
    let committed = header(&[message(kind::DATATYPE, &BIG16)]);
    let body = |version: u8, address: u64| match version {
        1 => [&[1, 0, 0, 0, 0, 0, 0, 0][..], &words(&[0, address])].concat(),
        2 => [&[2, 0][..], &words(&[address])].concat(),
        _ => [&[3, 2][..], &words(&[address])].concat(),
    };
    for version in [1, 2, 3] {
        let place = |at: u64| with_datasets(&[of_shared(&body(version, at)), committed.clone()]);
        let image = place(0);
        let at = image.0.len() as u64 - committed.len().next_multiple_of(8) as u64;
        assert_eq!(decoded(place(at)).unwrap(), b"H\x89FD", "{version}");
        // The type of a dataset whose own type is shared: in circles.
        let itself = ROOT + header(&[compact(), link("d0", 0), link("d1", 0)]).len() as u64;
        assert!(refusal(place(itself.next_multiple_of(8))).contains("does not stand where"));
        assert!(refusal(place(1 << 50)).contains("beyond its end"));
    }
    let error = with_datasets(&[of_shared(&[3, 1, 0, 0, 0, 0, 0, 0, 0, 0])]).read().unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(refusal(with_datasets(&[of_shared(&body(3, 0)[..2])])).contains("cut off"));
    assert!(refusal(with_datasets(&[of_shared(&[9; 10])])).contains("unknown version"));
}

#[test]
fn converts_booleans_of_any_size() {
    let boolean = |size: u8, order: u8, values: &[u8]| {
        let mut out = vec![0x38, 2, 0, 0, size, 0, 0, 0];
        out.extend([0x10, order, 0, 0, size, 0, 0, 0, 0, 0, size * 8, 0]);
        out.extend(b"FALSE\0TRUE\0");
        out.extend(values);
        out
    };
    let compact = |bytes: &[u8]| [&[3, 0, bytes.len() as u8, 0][..], bytes].concat();
    let data = compact(&[0, 1, 0, 0, 0, 1]);
    let image = |datatype: &[u8], data: &[u8]| with_datasets(&[dataset(&[3], datatype, data)]);
    assert_eq!(decoded(image(&boolean(2, 1, &[0, 0, 0, 1]), &data)).unwrap(), [1, 0, 1]);
    assert!(undecoded(image(&boolean(2, 0, &[0, 0, 1, 0]), &data)).contains("values is 256"));
    assert_eq!(decoded(image(&boolean(1, 1, &[0, 1]), &compact(&[1, 0, 1]))).unwrap(), [1, 0, 1]);
    // Not booleans, so no tensors.
    for other in [boolean(2, 0, &[0, 0, 2, 0]), boolean(2, 0, &[0, 0, 0, 1])] {
        assert!(image(&other, &data).read().unwrap().tensors.is_empty());
    }
}
