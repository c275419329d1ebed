use super::global_heap::MIN_COLLECTION;
use super::*;

fn image(schema: &Schema) -> Image {
    lay_out(schema, 64).unwrap()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn data_is_aligned_and_ends_the_file() {
    let mut schema = Schema::new();
    schema.add("a", Dtype::U8, &[3]).unwrap();
    schema.add("b", Dtype::U8, &[LARGE - 1]).unwrap();
    schema.add("c", Dtype::U8, &[0]).unwrap();
    schema.add("d", Dtype::U8, &[LARGE]).unwrap();
    schema.add("e", Dtype::F64, &[]).unwrap();
    let image = image(&schema);
    let mut end = image.metadata.len() as u64;
    for (i, (run, (len, unit))) in
        image.data.iter().zip([(3, 64), (LARGE - 1, 64), (0, 0), (LARGE, 4096), (8, 64)]).enumerate()
    {
        let Some((begin, found)) = *run else {
            assert_eq!(i, 2);
            continue;
        };
        assert_eq!((begin, found), (end.next_multiple_of(unit), len));
        end = begin + len;
    }
    assert_eq!(image.end, end);
    assert_eq!(u64_at(&image.metadata, 40), end);
}

#[test]
fn without_data_the_file_is_its_metadata() {
    let mut schema = Schema::new();
    assert_eq!(image(&schema).end, image(&schema).metadata.len() as u64);
    schema.add("nothing", Dtype::F32, &[0, 7]).unwrap();
    let image = image(&schema);
    assert_eq!((image.end, &image.data[..]), (image.metadata.len() as u64, &[None][..]));
}

#[test]
fn more_than_a_file_can_hold_is_refused() {
    let mut schema = Schema::new();
    for name in ["a", "b", "c"] {
        schema.add(name, Dtype::U8, &[1 << 61]).unwrap();
    }
    let Err(e) = lay_out(&schema, 64) else { panic!("accepted") };
    assert_eq!(e.status(), Status::InvalidArgument);
}

#[test]
fn metadata_is_small() {
    let mut schema = Schema::new();
    for i in 0..1000 {
        let group = format!("layers/dense_{i}");
        schema.set_name(&group, &format!("dense_{i}")).unwrap();
        for k in 0..3 {
            schema.add(&format!("{group}/vars/{k}"), Dtype::F32, &[4, 4]).unwrap();
        }
    }
    // h5py 3.16 takes 2.9 KB a layer of this kind.
    let per_layer = image(&schema).metadata.len() / 1000;
    assert!(per_layer < 800, "{per_layer} bytes a layer");
}

#[test]
fn objects_tile_the_collections_of_the_heap() {
    for len in (0..40).chain(4000..4120).chain([60_000]) {
        let mut heap = GlobalHeap::default();
        let mut places = Vec::new();
        let value = vec![b'x'; len];
        for _ in 0..70 {
            places.push(heap.insert(&value).unwrap());
        }
        let bytes = heap.finish();
        let mut found = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            assert_eq!(&bytes[start..start + 8], b"GCOL\x01\0\0\0");
            let end = start + u64_at(&bytes, start + 8) as usize;
            assert!(end - start >= MIN_COLLECTION && end <= bytes.len());
            let mut at = start + 16;
            while at + 16 <= end {
                let index = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                let size = u64_at(&bytes, at + 8) as usize;
                if index == 0 {
                    assert_eq!(at + size, end);
                    at = end;
                } else {
                    assert_eq!(&bytes[at + 16..at + 16 + size], &value);
                    found.push((start as u64, index));
                    at += 16 + size.next_multiple_of(8);
                }
            }
            assert!(end - at < 16);
            start = end;
        }
        assert!(found.into_iter().eq(places.iter().map(|p| (p.offset, p.index))), "{len}");
    }
}
